"""zerocelery beside stock Celery, dramatiq and the standard library's process pool.

``python -m benchmarks`` runs everything and prints the tables; README.md says what is measured and how.

    cli           what to run, from the command line
    environments  the interpreters: the running one for zerocelery, a virtual environment of their own for the peers
    contestants   one class each: start, stop, which process plays which part
    measures      one function each: what is done and what is read off
    campaign      all of it, interleaved, with deadlines; gives records
    report        records to tables, targets beside the figures
    scripts/      what runs under the contestants' own interpreters
"""
