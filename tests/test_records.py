"""Every row of the records' input table: what the constructors refuse, repair, cut and hide."""

from __future__ import annotations

import copy
import enum
import hashlib
import math
import pickle
import re
import sys
import time
import uuid
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any, Final

import msgspec
import pytest
import uuid_utils
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from rwriter import CompletedRequest, NewRequest, new_request_id
from rwriter._values.keys import KeyDigest
from rwriter.records import decode_record, encode_record, succeeded
from tests.support.records import new_request, record
from tests.support.sizes import MIB

Record = CompletedRequest | NewRequest

RAW_KEY: Final = "sk-live-MARKER-KEY"
BODY: Final = "MARKER-BODY"
DIGEST: Final = "sha256:" + hashlib.sha256(RAW_KEY.encode()).hexdigest()[:32]
TEXTS: Final = {
    CompletedRequest: ("response_body", "request_body", "model", "endpoint", "api_key", "created_by", "custom_id"),
    NewRequest: ("body", "model", "endpoint", "method", "path", "api_key", "created_by"),
}
BODIES: Final = [(CompletedRequest, "request_body"), (CompletedRequest, "response_body"), (NewRequest, "body")]
TOKENS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
OPTIONAL: Final = {"custom_id", *TOKENS, "first_token_at", "metadata"}
EVERY_TEXT: Final = [(kind, field) for kind, fields in TEXTS.items() for field in fields]

# each of the ways a text is looked at: ASCII only, text without surrogates, and anything at all
any_text = (
    st.text("\0 ab", max_size=20)
    | st.text("\0\u3000é😀", max_size=20)
    | st.text(st.sampled_from("\0\ud800\udbff\udc00\udfff\ud83d\ude00 a…") | st.characters(), max_size=40)
)
long_text = st.builds(lambda text, times: text * times, any_text, st.sampled_from([1, 1, 20, 300]))
no_deadline = settings(deadline=None, database=None)


def new(**changes: Any) -> NewRequest:
    """Return a request that has just begun, with the body and the key that the tests look for."""
    return new_request(**({"model": "gpt-test", "body": BODY, "api_key": RAW_KEY} | changes))


def secret(**changes: Any) -> CompletedRequest:
    """A completed request whose bodies and key can be searched for."""
    return record(**({"api_key": RAW_KEY, "request_body": BODY, "response_body": BODY} | changes))


MAKE: Final[dict[type[Record], Callable[..., Record]]] = {CompletedRequest: secret, NewRequest: new}
both_kinds = pytest.mark.parametrize("make", [secret, new])


def mended(text: str) -> str:
    """Repair ``text`` by other means than the library's, character by character."""
    pairs = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
    joined = pairs.sub(lambda m: chr(0x10000 + ((ord(m[1]) - 0xD800) << 10) + ord(m[2]) - 0xDC00), text)
    return re.sub("[\0\ud800-\udfff]", "\ufffd", joined)


def fields_of(made: Record) -> dict[str, Any]:
    """All fields by name."""
    return msgspec.structs.asdict(made)


@no_deadline
@given(long_text, st.sampled_from(EVERY_TEXT))
@example("\ud83d\ude00" * 512, (CompletedRequest, "model"))
def test_any_text_in_any_field_gives_a_storable_record_or_an_error_that_names_the_field(
    text: str, where: tuple[type[Record], str]
) -> None:
    kind, field = where
    try:
        made = MAKE[kind](**{field: text})
    except ValueError as exc:
        assert field in {"created_by", "custom_id"}
        assert str(exc).startswith(f"{field} must")  # noqa: PT017 -- most examples raise nothing
        return
    for value in fields_of(made).values():
        if isinstance(value, str):
            assert type(value) in {str, KeyDigest}
            assert "\0" not in value.encode().decode()


@no_deadline
@given(any_text)
@pytest.mark.parametrize(("kind", "field"), [pair for pair in EVERY_TEXT if pair[1] not in {"api_key", "created_by"}])
def test_a_text_is_kept_but_for_nul_and_lone_surrogates(kind: type[Record], field: str, text: str) -> None:
    assert fields_of(MAKE[kind](**{field: text}))[field] == mended(text)


@no_deadline
@given(long_text, long_text, st.sampled_from(list(TEXTS)))
def test_a_record_rebuilt_from_itself_is_the_same(text: str, name: str, kind: type[Record]) -> None:
    bodies = dict.fromkeys([field for field in TEXTS[kind] if field not in {"created_by", "custom_id"}], text)
    made = MAKE[kind](**bodies | {"created_by": (name.strip() or "x")[:512]})
    if isinstance(made, CompletedRequest):
        assert decode_record(encode_record(made)) == made
    for again in (kind(**fields_of(made)), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301
        assert again == made


def test_a_body_in_order_is_kept_without_a_copy() -> None:
    body = "naïve 😀 \ufffd \x01 …"
    assert secret(response_body=body).response_body is body


@pytest.mark.parametrize(("kind", "field"), EVERY_TEXT)
@pytest.mark.parametrize("value", [None, b"bytes", 7, ["list"]], ids=repr)
def test_a_text_of_another_type_is_a_type_error_naming_the_field(kind: type[Record], field: str, value: object) -> None:
    if field == "custom_id" and value is None:
        assert secret(custom_id=None).custom_id is None
        return
    with pytest.raises(TypeError, match=rf"^{field} must be a str, not {type(value).__name__}$"):
        MAKE[kind](**{field: value})


@both_kinds
@pytest.mark.parametrize("value", ["01890a5d-ac96-774b-bcce-b302099a8057", b"0123456789abcdef", 5, None], ids=repr)
def test_a_request_id_that_is_no_uuid_is_a_type_error(make: Callable[..., Record], value: object) -> None:
    with pytest.raises(TypeError, match=r"^request_id must be a uuid.UUID"):
        make(request_id=value)


@both_kinds
def test_a_request_id_may_be_of_any_version_and_of_uuid_utils(make: Callable[..., Record]) -> None:
    for given_id in (uuid.uuid4(), uuid.UUID(int=0), uuid.uuid1()):
        assert make(request_id=given_id).request_id is given_id
    theirs = uuid_utils.uuid7()
    ours = make(request_id=theirs).request_id
    assert type(ours) is uuid.UUID
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("status", [100, 200, 299, 599, 999, HTTPStatus.NOT_FOUND])
def test_a_status_code_in_range_is_kept_as_a_plain_int(status: int) -> None:
    assert type(secret(status_code=status).status_code) is int
    assert secret(status_code=status).status_code == int(status)


@pytest.mark.parametrize("status", [99, 0, -1, 1000, 2**70])
def test_a_status_code_out_of_range_is_a_value_error(status: int) -> None:
    with pytest.raises(ValueError, match=rf"^status_code must be in 100\.\.999, not {status}$"):
        secret(status_code=status)


@pytest.mark.parametrize("status", [True, "200", 200.0, None], ids=repr)
def test_a_status_code_of_another_type_is_a_type_error(status: object) -> None:
    with pytest.raises(TypeError, match=f"^status_code must be an int, not {type(status).__name__}$"):
        secret(status_code=status)


@both_kinds
@pytest.mark.parametrize("blank", ["", " ", "\t\r\n", "\u3000\u2003\x1f\x85\xa0"], ids=ascii)
def test_a_blank_created_by_is_refused(make: Callable[..., Record], blank: str) -> None:
    with pytest.raises(ValueError, match=r"^created_by must"):
        make(created_by=blank)


@both_kinds
def test_created_by_is_stored_stripped_and_counts_its_characters_after_that(make: Callable[..., Record]) -> None:
    assert make(created_by="\u3000 team a\n").created_by == "team a"
    assert make(created_by=" " + "😀" * 512 + " ").created_by == "😀" * 512
    with pytest.raises(ValueError, match=r"^created_by must be at most 512 characters, not 513$"):
        make(created_by="x" * 513)


def test_a_custom_id_longer_than_an_index_can_hold_is_refused() -> None:
    assert secret(custom_id="😀" * 512).custom_id == "😀" * 512
    with pytest.raises(ValueError, match=r"^custom_id must be at most 512 characters, not 513$"):
        secret(custom_id="x" * 513)


@both_kinds
@pytest.mark.parametrize("field", ["model", "endpoint"])
def test_long_names_are_cut_to_511_characters_and_an_ellipsis(make: Callable[..., Record], field: str) -> None:
    assert getattr(make(**{field: "é" * 512}), field) == "é" * 512
    assert getattr(make(**{field: "é" * 513}), field) == "é" * 511 + "…"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "field"), BODIES)
def test_a_body_over_256_mib_of_utf_8_is_refused(kind: type[Record], field: str) -> None:
    limit = 256 * MIB
    most = "é" * (limit // 2)
    assert fields_of(MAKE[kind](**{field: most}))[field] is most
    with pytest.raises(ValueError, match=rf"^{field} must be at most 268,435,456 bytes of UTF-8, not 268,435,457$"):
        MAKE[kind](**{field: most + "x"})


class Name(enum.StrEnum):
    """A type that services keep model names in."""

    MODEL = "gpt-test"


@pytest.mark.parametrize(("kind", "field"), EVERY_TEXT)
def test_a_str_subclass_is_stored_as_its_plain_text(kind: type[Record], field: str) -> None:
    text = fields_of(MAKE[kind](**{field: Name.MODEL}))[field]
    assert type(text) is (KeyDigest if field == "api_key" else str)
    if field != "api_key":
        assert text == "gpt-test"


@both_kinds
def test_the_api_key_is_replaced_by_its_digest(make: Callable[..., Record]) -> None:
    assert make(api_key=RAW_KEY).api_key == DIGEST
    assert make(api_key="").api_key == ""


@pytest.mark.parametrize("like", [DIGEST, DIGEST.upper(), DIGEST + "\n", "hmac:01234567:" + DIGEST[7:]])
def test_a_key_that_looks_like_a_digest_is_digested(like: str) -> None:
    assert secret(api_key=like).api_key == "sha256:" + hashlib.sha256(like.encode()).hexdigest()[:32]


def test_a_digest_of_the_library_stays_what_it_is() -> None:
    made = secret()
    assert secret(api_key=made.api_key).api_key == DIGEST
    assert msgspec.structs.replace(made, model="another").api_key == DIGEST
    assert decode_record(encode_record(made)) == made
    assert copy.copy(made).api_key == copy.deepcopy(made).api_key == pickle.loads(pickle.dumps(made)).api_key == DIGEST  # noqa: S301 -- its own
    # no longer known for one, once it has been a text
    assert secret(api_key=str.__str__(made.api_key)).api_key == secret(api_key=f"{made.api_key}").api_key != DIGEST


class Key(str):
    """A key that can be watched."""

    __slots__ = ("__weakref__",)


@both_kinds
def test_the_raw_key_does_not_outlive_the_constructor(make: Callable[..., Record]) -> None:
    key = str(uuid.uuid4())
    held = sys.getrefcount(key)
    kept = make(api_key=key)
    assert sys.getrefcount(key) == held

    watched = Key(RAW_KEY)
    gone = weakref.ref(watched)
    kept_too = make(api_key=watched)
    del watched
    assert gone() is None
    assert RAW_KEY not in str(fields_of(kept_too)) + str(fields_of(kept))
    assert RAW_KEY.encode() not in pickle.dumps(kept_too)


@both_kinds
def test_no_way_to_print_a_record_shows_a_body_or_a_key(make: Callable[..., Record]) -> None:
    made = make()
    shown = [repr(made), str(made), f"{made}", f"{made!r:>9}", pretty_repr(made), pretty_repr([made]), repr({1: made})]
    for text in shown:
        assert str(made.request_id) in text
        for hidden in (BODY, RAW_KEY, made.api_key):
            assert hidden not in text


@both_kinds
def test_no_error_message_shows_a_body_or_a_key(make: Callable[..., Record]) -> None:
    wrong: list[dict[str, Any]] = [{field: object()} for field in fields_of(make())]
    wrong += [{"created_by": " "}, {"request_id": RAW_KEY}, {"surplus": RAW_KEY}, {"api_key": RAW_KEY.encode()}]
    wrong += [{"created_by": BODY * 100}, {"model": BODY.encode()}]
    for changes in wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            make(**changes)
        assert "MARKER" not in str(caught.value) + repr(caught.value)


@both_kinds
def test_a_record_cannot_be_changed_or_extended(make: Callable[..., Record]) -> None:
    made = make()
    assert not hasattr(made, "__dict__")
    for field in ("model", "surplus"):
        with pytest.raises(AttributeError):
            setattr(made, field, "other")
        with pytest.raises(AttributeError):
            delattr(made, field)
    assert made.model == "gpt-test"
    assert hash(made) == hash(copy.copy(made))


@both_kinds
def test_fields_are_given_by_name_and_all_of_them(make: Callable[..., Record]) -> None:
    kind: Any = type(make())
    values = fields_of(make())
    with pytest.raises(TypeError):
        kind(*values.values())
    for field in set(values) - OPTIONAL:
        with pytest.raises(TypeError, match=field):
            kind(**{name: value for name, value in values.items() if name != field})


def test_new_ids_are_version_7_and_in_the_order_of_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_request_id() for _ in range(1_000)]
    after = time.time_ns() // 1_000_000
    assert {(type(one), one.version, one.variant) for one in ids} == {(uuid.UUID, 7, uuid.RFC_4122)}
    assert len(set(ids)) == len(ids)
    stamps = [one.int >> 80 for one in ids]
    assert stamps == sorted(stamps)
    assert before <= stamps[0] <= stamps[-1] <= after + 1


def test_the_bytes_charged_for_a_record_are_those_its_texts_hold() -> None:
    small, large = secret(response_body=""), secret(response_body="é" * 10_000)
    assert large.text_bytes - small.text_bytes == sys.getsizeof("é" * 10_000) - sys.getsizeof("")
    assert secret(request_body="😀" * 1_000).text_bytes >= sys.getsizeof("😀" * 1_000)


@pytest.mark.parametrize(("status", "good"), [(100, False), (199, False), (200, True), (299, True), (300, False)])
def test_a_status_from_200_to_299_is_a_success(status: int, *, good: bool) -> None:
    assert succeeded(status) is good


def test_the_beginning_of_a_record_says_what_its_end_will() -> None:
    done = secret()
    begun = NewRequest.before(done)
    assert (begun.request_id, begun.body, begun.model) == (done.request_id, done.request_body, done.model)
    assert (begun.method, begun.path, begun.endpoint) == ("POST", done.endpoint, "")
    assert (begun.api_key, begun.created_by) == (done.api_key, done.created_by)


@pytest.mark.parametrize("field", TOKENS)
def test_tokens_are_numbers_a_column_holds(field: str) -> None:
    assert getattr(secret(), field) is None
    for count in (0, 2**31 - 1, HTTPStatus.OK):
        kept = getattr(secret(**{field: count}), field)
        assert kept == count
        assert type(kept) is int
    for count in (-1, 2**31):
        with pytest.raises(ValueError, match=rf"^{field} must be in 0\.\.2147483647, not {count}$"):
            secret(**{field: count})
    for wrong in (True, 1.0, "1"):
        with pytest.raises(TypeError, match=f"^{field} must be an int, not {type(wrong).__name__}$"):
            secret(**{field: wrong})


def test_the_first_token_came_between_start_and_end() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    second = timedelta(seconds=1)
    times = {"started_at": began, "completed_at": began + 4 * second}
    for at, kept in ((-1, 0), (0, 0), (2, 2), (4, 4), (9, 4)):
        assert secret(**times, first_token_at=began + at * second).first_token_at == began + kept * second
    elsewhere = (began + second).astimezone(timezone(timedelta(hours=5)))
    assert secret(**times, first_token_at=elsewhere).first_token_at == began + second
    with pytest.raises(ValueError, match=r"^first_token_at must be timezone-aware"):
        secret(**times, first_token_at=datetime(2026, 1, 1))  # noqa: DTZ001 -- the fault
    with pytest.raises(TypeError, match=r"^first_token_at must be a datetime, not float$"):
        secret(**times, first_token_at=1.0)


def test_metadata_is_a_copy_of_names_and_scalars() -> None:
    plain = {"n": 2**63 - 1, "x": 0.5, "ok": True, "none": None}
    given_facts: dict[str, Any] = {"trace": "a\0b\ud800", "e": Name.MODEL, **plain}
    made = secret(metadata=given_facts)
    kept = {"trace": "a\ufffdb\ufffd", "e": "gpt-test", **plain}
    given_facts["later"] = 1
    assert made.metadata == kept
    assert decode_record(encode_record(made)) == made
    assert secret(metadata={}).metadata == {}


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"a": {"b": 1}}, TypeError, r"metadata\['a'\] must be a str, int, float, bool or None, not dict"),
        ({"a": [1]}, TypeError, r"metadata\['a'\] must be .* not list"),
        ({1: "a"}, TypeError, "metadata's name must be a str, not int"),
        ("text", TypeError, "metadata must be a mapping, not str"),
        ({"a": math.nan}, ValueError, r"metadata\['a'\] must be finite, not nan"),
        ({"a": 2**63}, ValueError, r"metadata\['a'\] must be in "),
        ({"a": "x" * 16_377}, ValueError, "metadata must be at most 16384 bytes as JSON, not 16385"),
    ],
)
def test_metadata_of_another_form_is_refused(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        secret(metadata=value)


def test_metadata_counts_as_memory() -> None:
    assert secret(metadata={"a": "x" * 10_000}).text_bytes - secret().text_bytes > 10_000
