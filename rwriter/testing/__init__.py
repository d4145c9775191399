"""For a service's tests: the engine swap, a server of one's own, and a network that fails on demand."""

from __future__ import annotations

from rwriter.testing._engines import TestDbEngines
from rwriter.testing._postgres import THROWAWAY, PostgresServer
from rwriter.testing._proxy import TcpProxy
from rwriter.testing._rolled_back import rolled_back
from rwriter.testing._sinks import SINK_CHECKS, Kept, SinkCheck

__all__ = (
    "SINK_CHECKS",
    "THROWAWAY",
    "Kept",
    "PostgresServer",
    "SinkCheck",
    "TcpProxy",
    "TestDbEngines",
    "rolled_back",
)
