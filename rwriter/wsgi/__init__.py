"""The edges of a gateway for WSGI: Flask, Django and the like. ``pip install 'rwriter[asgi]'``.

``CaptureMiddleware`` records every model call through a ``ThreadedWriter``, with the fold of ``rwriter.asgi``: the same
answer leaves the same row. ``RecordedApp`` is an app with the middleware, the reader's routes and a writer of its own.
"""

from __future__ import annotations

from rwriter.wsgi._capture import Attribute, CaptureMiddleware
from rwriter.wsgi._recorded import CaptureOptions, RecordedApp

__all__ = ("Attribute", "CaptureMiddleware", "CaptureOptions", "RecordedApp")
