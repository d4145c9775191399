"""The ledger's secret: where it comes from, and that nothing shows it."""

from __future__ import annotations

import hmac

import pytest

from rwriter._chain.secret import PLAIN, VARIABLE, _secret, current_key, keyed
from rwriter._values.keys import pepper_for_now
from rwriter.ledger import use_ledger_secret


def test_a_secret_given_goes_before_the_environments_and_that_before_the_pepper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environments = current_key()
    use_ledger_secret(b"given")
    assert current_key().id == keyed(b"given").id != environments.id
    _secret.given = None
    monkeypatch.delenv(VARIABLE)
    with pepper_for_now("pepper"):
        peppers = current_key()
    assert peppers.id == keyed(b"pepper").id
    # what it signs is no digest of a key, though the secret is the same
    assert peppers.sign(b"sk-test") != hmac.digest(b"pepper", b"sk-test", "sha256")


def test_without_any_secret_it_is_plain_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("rwriter._chain.secret._secret.told", False)
    monkeypatch.setattr("rwriter._chain.secret.pepper_secret", lambda: None)
    assert [current_key().id, current_key().id] == [PLAIN, PLAIN]
    assert caplog.text.count(VARIABLE) == 1


def test_its_digests_are_those_of_hmac() -> None:
    key = hmac.digest(b"secret", b"rwriter ledger 1", "sha256")
    for content in (b"", b"a" * 63, b"b" * 1_000):
        assert keyed(b"secret").sign(content) == hmac.digest(key, content, "sha256")


def test_nothing_shows_it() -> None:
    assert "secret" not in repr(keyed(b"secret"))


@pytest.mark.parametrize(("secret", "error"), [("", ValueError), (b"", ValueError), (7, TypeError)])
def test_what_is_no_secret_is_refused(secret: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="secret"):
        use_ledger_secret(secret)  # type: ignore[arg-type]
