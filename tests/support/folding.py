"""Recorded-format streams, each with the object that the same answer is without streaming, and ways to feed them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from rwriter.asgi._fold.stream import Folded, StreamFold
from tests.support.sizes import MIB

CORPUS = Path(__file__).parents[1] / "asgi" / "fold" / "corpus"
NAMES = sorted(path.stem for path in CORPUS.glob("*.sse"))
ENDINGS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}
LIMIT = MIB


def stream(name: str, ending: bytes = b"\n") -> bytes:
    return (CORPUS / f"{name}.sse").read_bytes().replace(b"\n", ending)


def whole(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((CORPUS / f"{name}.json").read_text(encoding="utf-8"))
    return body


def fold(pieces: Iterable[bytes], max_bytes: int = LIMIT) -> StreamFold:
    made = StreamFold(max_bytes=max_bytes)
    for piece in pieces:
        made.feed(piece)
    return made


def folded(*pieces: bytes, max_bytes: int = LIMIT) -> Folded:
    return fold(pieces, max_bytes).result()


def body(*pieces: bytes, max_bytes: int = LIMIT) -> dict[str, Any]:
    made = folded(*pieces, max_bytes=max_bytes).body
    assert made is not None
    return made


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def event(data: Any, name: str = "") -> bytes:
    """One event; ``data`` as JSON unless it is bytes."""
    text = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + text + b"\n\n"


def named(data: dict[str, Any]) -> bytes:
    return event(data, data["type"])


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})


def content(made: dict[str, Any]) -> Any:
    return made["choices"][0]["message"]["content"]


def events_of(name: str) -> list[dict[str, Any]]:
    """The objects in a corpus stream whose events are one line each."""
    lines = stream(name).split(b"\n")
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
