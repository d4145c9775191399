"""For a service's tests: the engine swap, a server of one's own, and a network that fails on demand."""

from __future__ import annotations

from rwriter.testing._engines import TestDbEngines
from rwriter.testing._postgres import THROWAWAY, PostgresServer
from rwriter.testing._proxy import TcpProxy

__all__ = ("THROWAWAY", "PostgresServer", "TcpProxy", "TestDbEngines")
