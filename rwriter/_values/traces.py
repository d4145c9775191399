"""Names a request in a line of the log, together with the trace it belongs to."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def named(request_id: uuid.UUID, traceparent: Any) -> str:
    """Return the id, and the trace's id if ``traceparent`` is the W3C's header: anything else is no log line's."""
    found = _TRACEPARENT.match(traceparent) if isinstance(traceparent, str) else None
    return str(request_id) if found is None else f"{request_id} (trace {found[1]})"
