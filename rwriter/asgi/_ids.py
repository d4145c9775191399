"""Converts request ids to the ids that clients see, ``resp_<uuid>``, and back."""

from __future__ import annotations

import re
import uuid
from typing import Final

PREFIX: Final = "resp_"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def response_id(request_id: uuid.UUID) -> str:
    """Return the id that clients are given: ``resp_<uuid>``."""
    return f"{PREFIX}{request_id}"


def request_id_of(given: str) -> uuid.UUID | None:
    """Return the request id in ``resp_<uuid>``, or ``None`` for anything else."""
    digits = given.removeprefix(PREFIX)
    return uuid.UUID(digits) if digits != given and _UUID.fullmatch(digits) else None
