"""Loads the OpenAPI document of the reader routes, ``openapi.json``: it says what the code cannot."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from rwriter.asgi import _json


def document(prefix: str) -> dict[str, Any]:
    """Return the document of the routes under ``prefix``, which the paths in the file are without."""
    text = files("rwriter.asgi._reader").joinpath("openapi.json").read_bytes()
    loaded: dict[str, Any] = _json.decode(text)
    return loaded | {"paths": {prefix + path: item for path, item in loaded["paths"].items()}}
