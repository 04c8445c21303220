"""What the engine raises.

EngineError
├── AddressError          the address can't be used: the message names the fix
│   └── NodeRunning       another process is the node at this address
├── NodeUnreachable       no node answered in time, or it stopped answering
├── QueueFull             the node refused the task: its queue is at its limit
├── PayloadTooLarge       the task is larger than the node takes
├── VersionMismatch       the other side speaks another wire version
├── JournalError          the journal can't be opened, or can't be trusted
└── CallableError         a shipped callable can't be packed, found or loaded
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything that the engine raises on purpose."""


class AddressError(EngineError):
    """The node's address can't be used as it is."""


class NodeRunning(AddressError):
    """Another process already is the node at this address."""


class NodeUnreachable(EngineError):
    """No node answered at the address within the time given."""


class QueueFull(EngineError):
    """The node refused a task because its queue holds as many as it may."""


class PayloadTooLarge(EngineError):
    """A task is larger than the node accepts."""


class VersionMismatch(EngineError):
    """The peer speaks another version of the wire format."""


class JournalError(EngineError):
    """The journal can't be opened or is damaged."""


class CallableError(EngineError):
    """A shipped callable can't be packed, found or loaded."""
