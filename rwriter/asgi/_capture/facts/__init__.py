"""What is read out of a body without parsing the whole: its members, the facts of a row, the error it tells."""

from rwriter.asgi._capture.facts._fields import (
    Asked,
    Said,
    id_in,
    metadata_of,
    model_in_form,
    name_in,
    read,
    tokens_of,
)
from rwriter.asgi._capture.facts._skim import skim
from rwriter.asgi._capture.facts._verdict import error_told

__all__ = [
    "Asked",
    "Said",
    "error_told",
    "id_in",
    "metadata_of",
    "model_in_form",
    "name_in",
    "read",
    "skim",
    "tokens_of",
]
