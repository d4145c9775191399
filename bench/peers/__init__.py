"""The ways to store the same finished requests, each opened once: its connections and statements are warm."""

from __future__ import annotations

from typing import Final

from bench.peers import drivers, engines
from bench.peers.common import Open

WRITER: Final = "writer"
LIMIT: Final = "COPY"
THREE: Final = "three statements"
THREE_OWN: Final = "three statements, own schema"
INSERTMANY: Final = "insertmanyvalues"
EXECUTEMANY: Final = "executemany"
PER_REQUEST: Final = "per request, 1"

OPEN: Final[dict[str, Open]] = {
    WRITER: engines.writer,
    LIMIT: drivers.copy,
    THREE: drivers.three_statements,
    THREE_OWN: drivers.three_statements,
    INSERTMANY: engines.upsert_many(values=True),
    EXECUTEMANY: engines.upsert_many(values=False),
    "per request, 20": engines.session_each(20, 0.2),
    PER_REQUEST: engines.session_each(1, 0.1),
}
