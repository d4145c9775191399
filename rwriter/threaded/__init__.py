"""The writer and the store for code without an event loop, on a loop and a thread of their own."""

from rwriter.threaded._store import SyncRequestStore
from rwriter.threaded._writer import ThreadedWriter

__all__ = ("SyncRequestStore", "ThreadedWriter")
