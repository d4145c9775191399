"""API keys: digested whatever they look like, with a pepper where there is one."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from typing import Any

import pytest

from rwriter import use_key_pepper

MAKE = """
import logging
logging.basicConfig(level="WARNING", format="LOG %(message)s")
import datetime, rwriter
{before}
now = datetime.datetime.now(datetime.UTC)
for key in {keys!r}:
    print("KEY", rwriter.CompletedRequest(
        request_id=rwriter.new_request_id(), status_code=200, request_body="", response_body="", model="m",
        endpoint="/v1/responses", api_key=key, created_by="t", started_at=now, completed_at=now).api_key)
"""
PEPPER = "pepper of a test é"
ID = hashlib.sha256(PEPPER.encode()).hexdigest()[:8]


def fresh(*keys: str, before: str = "", pepper: str | None = None) -> tuple[list[str], list[str]]:
    """Make records in a process of its own; return their digests and what was logged."""
    environment = {name: value for name, value in os.environ.items() if name != "RWRITER_KEY_PEPPER"}
    if pepper is not None:
        environment["RWRITER_KEY_PEPPER"] = pepper
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", MAKE.format(before=before, keys=list(keys))],
        capture_output=True, encoding="utf-8", env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digests = [line.removeprefix("KEY ") for line in done.stdout.splitlines()]
    return digests, [line for line in done.stderr.splitlines() if line.startswith("LOG")]


def keyed(key: str) -> str:
    return f"hmac:{ID}:{hmac.new(PEPPER.encode(), key.encode(), 'sha256').hexdigest()[:32]}"


@pytest.mark.parametrize("how", ["call", "environment", "call before environment"])
def test_a_pepper_keys_every_digest(how: str) -> None:
    before = f"rwriter.use_key_pepper({PEPPER!r})" if "call" in how else ""
    pepper = {"call": None, "environment": PEPPER}.get(how, "another")
    looks_keyed = keyed("first")
    digests, logged = fresh("first", looks_keyed, "", before=before, pepper=pepper)
    assert digests == [keyed("first"), keyed(looks_keyed), ""]
    assert logged == []


@pytest.mark.parametrize("pepper", [None, ""])
def test_a_missing_pepper_is_said_once(pepper: str | None) -> None:
    digests, logged = fresh("one", "two", pepper=pepper)
    assert digests == ["sha256:" + hashlib.sha256(key).hexdigest()[:32] for key in (b"one", b"two")]
    assert len(logged) == 1
    assert "RWRITER_KEY_PEPPER" in logged[0]
    assert fresh("", pepper=pepper) == ([""], [])


def test_a_pepper_is_never_printed() -> None:
    show = "pepper = rwriter._values.keys._keys.pepper; print(repr(pepper)); print(pretty_repr(pepper))"
    digests, _ = fresh(before=f"from rich.pretty import pretty_repr; rwriter.use_key_pepper({PEPPER!r}); {show}")
    assert len(digests) == 2
    assert all(ID in line and "pepper of" not in line for line in digests)


@pytest.mark.parametrize(("secret", "error"), [("", ValueError), (b"", ValueError), (None, TypeError), (7, TypeError)])
def test_a_pepper_must_be_a_secret(secret: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^secret must"):
        use_key_pepper(secret)
