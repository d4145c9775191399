"""The writer's answer to each error of NATS: its class and code decide, its text never."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from nats import errors
from nats.js.errors import APIError, NoStreamResponseError

from rwriter import RwriterError, SinkMisconfigured, SinkRefusedRecord, SinkUnavailable
from rwriter.stream._refusals import classified


def told(code: int, err_code: int) -> Exception:
    answer: dict[str, Any] = {"code": code, "err_code": err_code, "description": "message size exceeds maximum allowed"}
    try:
        APIError.from_error(answer)
    except APIError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.TimeoutError(), SinkUnavailable),
        (errors.ConnectionClosedError(), SinkUnavailable),
        (errors.NoServersError(), SinkUnavailable),
        (ConnectionRefusedError(), SinkUnavailable),
        (TimeoutError(), SinkUnavailable),
        (NoStreamResponseError(), SinkUnavailable),
        (told(503, 10077), SinkUnavailable),
        (told(500, 10049), SinkUnavailable),
        (told(400, 10054), SinkRefusedRecord),
        (errors.MaxPayloadError(), SinkRefusedRecord),
        (told(400, 10060), SinkMisconfigured),
        (told(404, 10059), SinkMisconfigured),
        (errors.AuthorizationError(), SinkMisconfigured),
        (ssl.SSLCertVerificationError(), SinkMisconfigured),
    ],
    ids=repr,
)
def test_an_error_is_told_by_its_class_and_code(error: Exception, kind: type[RwriterError]) -> None:
    with pytest.raises(kind), classified():
        raise error
