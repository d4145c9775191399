"""What a row says of a call beside its bodies: id, model, usage, metadata, read out of requests and answers."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from rwriter._values.guarded import Guarded
from rwriter._values.texts import repair
from rwriter.asgi._capture.facts._skim import skim
from rwriter.asgi._json import LARGE, UNREADABLE, decode, loads
from rwriter.asgi._usage import tokens_in
from rwriter.records import METADATA_LIMIT, NAME_LIMIT

_END: Final = 64 * 1024
_MOST_INTEGER: Final = 2**63 - 1
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[\w.-]{0,64}")
# at most eight further headers of a part, so that nothing is looked at again and again
_FORM_MODEL: Final = re.compile(
    rb'name="?model"?[ \t;]*\r\n(?:[^\r\n]+\r\n){0,8}\r\n([^\r\n]{1,512})\r\n', re.IGNORECASE
)


class Asked(Guarded, frozen=True):
    """Members of a request."""

    model: Any = None
    background: Any = None
    stream: Any = None
    store: Any = None
    metadata: Any = None


_NAMES: Final = {
    "usage_metadata": "usageMetadata",
    "response_id": "responseId",
    "bedrock": "amazon-bedrock-invocationMetrics",
}


class Said(Guarded, frozen=True, rename=_NAMES):
    """Members of an answer."""

    id: Any = None
    response_id: Any = None
    model: Any = None
    usage: Any = None
    usage_metadata: Any = None
    x_groq: Any = None
    choices: msgspec.Raw = msgspec.Raw(b"")
    error: Any = None
    status: Any = None
    object: Any = None
    type: Any = None
    bedrock: Any = None
    prompt_eval_count: Any = None
    eval_count: Any = None


class _Choice(Guarded, frozen=True):
    usage: Any = None


T = TypeVar("T", Asked, Said)


def read(text: str, fields: type[T]) -> T:
    """Return the members of the object in ``text`` that ``fields`` names.

    What a strict parser refuses (a byte order mark, NaN) is read from both ends. Never raises.
    """
    try:
        if len(text) <= LARGE:
            return msgspec.json.decode(text, type=fields)
        return _small_ones(msgspec.json.decode(text, type=_WRITTEN[fields]), fields)
    except UNREADABLE:
        pass
    names = dict(zip(fields.__struct_encode_fields__, fields.__struct_fields__, strict=True))
    names.pop("choices", None)
    head, tail = (end.encode("utf-8", "replace") for end in (text[:_END], text[-_END:]))
    return fields(**{names[name]: value for name, value in skim(head, tail, names).items()})


def _small_ones(written: Any, fields: type[T]) -> T:
    """Return the members of ``written`` that are not large: a fact of a row never is."""
    found = ((name, getattr(written, name)) for name in fields.__struct_fields__)
    facts = {name: raw for name, raw in found if 0 < memoryview(raw).nbytes <= LARGE or name == "choices"}
    return fields(**{name: raw if name == "choices" else decode(bytes(raw)) for name, raw in facts.items()})


def _written(fields: type[Guarded]) -> Any:
    """Return ``fields`` with each member as it is written."""
    names = dict(zip(fields.__struct_fields__, fields.__struct_encode_fields__, strict=True))
    members = [(name, msgspec.Raw, msgspec.Raw(b"")) for name in names]
    return msgspec.defstruct(f"{fields.__name__}Written", members, rename=names)


_WRITTEN: Final[dict[Any, Any]] = {fields: _written(fields) for fields in (Asked, Said)}


def name_in(*values: Any) -> str | None:
    """Return the first of ``values`` that is a text, not empty."""
    return next((value for value in values if isinstance(value, str) and value), None)


def id_in(said: Said) -> str | None:
    """Return the id of an answer, if a row can have it."""
    found = name_in(said.id, said.response_id)
    return found if found is not None and len(found) <= NAME_LIMIT else None


def model_in_form(*ends: bytes) -> str | None:
    """Return the field ``model`` of a multipart form."""
    found = next(filter(None, map(_FORM_MODEL.search, ends)), None)
    return None if found is None else found[1].decode("utf-8", "replace").strip() or None


def metadata_of(asked: Asked, traceparent: str | None) -> dict[str, Any] | None:
    """Return the scalars of a request's ``metadata``, as many as fit, and the trace it belongs to."""
    kept: dict[str, Any] = {}
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        kept["traceparent"] = traceparent
    room = METADATA_LIMIT - 128
    for name, value in asked.metadata.items() if isinstance(asked.metadata, dict) else ():
        size = len(msgspec.json.encode((name, value)))
        if _is_scalar(value) and repair(name) not in kept and size <= room:
            kept[repair(name)] = value
            room -= size
    return kept or None


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) <= _MOST_INTEGER
    return value is None or isinstance(value, (str, float))


def _choices(text: bytes) -> Any:
    """Return the choices of an answer; of large ones their usage alone."""
    if len(text) <= LARGE:
        return loads(text)
    try:
        return [{"usage": choice.usage} for choice in msgspec.json.decode(text, type=list[_Choice])]
    except UNREADABLE:
        return None


def tokens_of(said: Said) -> dict[str, int]:
    """Return the token counts of an answer, by the names of the record's fields; those that are told."""
    members = {
        "usage": said.usage,
        "usageMetadata": said.usage_metadata,
        "x_groq": said.x_groq,
        _NAMES["bedrock"]: said.bedrock,
        "prompt_eval_count": said.prompt_eval_count,
        "eval_count": said.eval_count,
    }
    if not said.usage and b'"usage"' in bytes(said.choices):
        members["choices"] = _choices(bytes(said.choices))
    return tokens_in(members)
