"""Routes for the probes of whatever runs the gateway: is the process alive, and is it ready for calls."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from fastapi import APIRouter, Response

from rwriter import RequestsWriter


def probes(writer: RequestsWriter) -> APIRouter:
    """Make ``/livez`` and ``/readyz``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/livez")
    async def live() -> Response:
        # of the database nothing is said here: a restart does not bring it back
        return Response("alive", media_type="text/plain")

    @router.get("/readyz")
    async def ready() -> Response:
        health = writer.health
        status = HTTPStatus.SERVICE_UNAVAILABLE if health.state == "failed" else HTTPStatus.OK
        return Response(msgspec.json.encode(health), status, media_type="application/json")

    return router
