"""The edges of a gateway: ``CaptureMiddleware`` records every model call, ``responses_app`` reads them back.

``RecordedApp`` is both around an app, with the writer and the engines that they need.

``pip install 'rwriter[asgi]'``. The middleware is plain ASGI and imports no web framework; ``responses_app`` needs
Starlette and is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwriter._values.extras import refuse_missing
from rwriter.asgi._attribution import Attribute, api_key_of, attribute_from_state
from rwriter.asgi._capture.middleware import CaptureMiddleware, CaptureStats
from rwriter.asgi._capture.paths import PATHS
from rwriter.asgi._recorded import CaptureOptions, RecordedApp

if TYPE_CHECKING:
    from rwriter.asgi._reader.app import responses_app

__all__ = (
    "PATHS",
    "Attribute",
    "CaptureMiddleware",
    "CaptureOptions",
    "CaptureStats",
    "RecordedApp",
    "api_key_of",
    "attribute_from_state",
    "responses_app",
)


def __getattr__(name: str) -> Any:
    if name != "responses_app":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        from rwriter.asgi._reader.app import responses_app  # noqa: PLC0415 -- a service may want the middleware alone
    except ModuleNotFoundError as exc:
        refuse_missing(exc, "responses_app", "asgi")
    return responses_app
