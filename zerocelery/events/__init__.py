"""What happens to tasks and workers, told to whoever listens.

A dispatcher sends events, a receiver takes them in, a :class:`~zerocelery.events.state.State` keeps what they tell of.
Both ends work on a kombu connection: what carries the events is that connection's business alone.
"""

from __future__ import annotations

from zerocelery.events.dispatcher import EventDispatcher
from zerocelery.events.event import Event, event_exchange, get_exchange, group_from
from zerocelery.events.receiver import EventReceiver

__all__ = ("Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from")
