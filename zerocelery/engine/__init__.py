"""The engine: a durable task queue over ZeroMQ that knows nothing of Celery.

    producers (any process)                                 one node
    ┌──────────────────────┐                 ┌──────────────────────────────────────────────┐
    │ Producer             │  PUSH ───► PULL │ Collector ── Journal (SQLite, WAL) ── Publisher │
    │  inbox topic         │                 │     │  leases                          │        │
    │  SUB ◄───────────────┼─────────────────┼─────┼─────────────────────────── XPUB ┘        │
    └──────────────────────┘                 └─────┼────────────────────────────────────────┘
                                                   ▼ leases out, results back
                                            ┌───────────────────────────┐
                                            │ Workers (Pool)            │  each: fetch → strategy.run(task) → report
                                            └───────────────────────────┘

:mod:`wire`       what travels: frames ⇄ typed messages
:mod:`ledger`     the state of every task, in memory, pure
:mod:`groups`     tasks whose ends are counted, and the body that follows the last of them
:mod:`journal`    the ledger made durable
:mod:`collector`  takes tasks in, receipts, hands out by lease
:mod:`publisher`  sends receipts and results to inboxes, answers late askers
:mod:`node`       collector, publisher and journal in one loop at one address
:mod:`switchboard`  calls to stations by name, and streams: passed on, kept nowhere
:mod:`producer`   the client
:mod:`station`    a client that can be called, calls others, casts and listens
:mod:`worker`     fetches, runs the strategy, reports
:mod:`strategy`   the injected contract, and the given ones
:mod:`pool`       how many workers run, and in what
:mod:`callables`  functions that travel
"""
