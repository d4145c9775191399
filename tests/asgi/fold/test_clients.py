"""A fold ends with what the official client would have built from the same bytes, but for named exceptions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import legal
from tests.support.clients import chat_of, message_of, response_of, told
from tests.support.folding import NAMES, body, folded, stream, whole
from tests.support.legal import Legal

Judge = Callable[..., dict[str, Any]]

JUDGES: dict[str, Judge] = {"chat": chat_of, "messages": message_of, "responses": response_of}

EXCEPTIONS = {
    "chat_azure": "keeps members of the first chunk alone that later chunks tell",
    "chat_lines": "raises on an event of several lines",
    "chat_reasoning": "raises on an entry without a number",
    "chat_reasoning_details": "repeats a role and a format that are in each chunk",
    "chat_tools_repeated": "repeats a role, a name and an id that are in each chunk",
    "chat_tools_same_number": "makes one call of two that share a number",
    "responses_empty_output": "raises where a final response leaves out what was streamed",
    "responses_tools": "raises on a stream that begins as queued",
}
"""Where the client loses something that arrived, or repeats it."""

JUDGED = [name for name in NAMES if name.partition("_")[0] in JUDGES]

# the clients' accumulators warn of values that a provider has and their types have not
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


def judged(name: str, *pieces: bytes) -> Any:
    return told(JUDGES[name.partition("_")[0]](*pieces))


@pytest.mark.parametrize("name", [name for name in JUDGED if name not in EXCEPTIONS])
def test_a_recorded_stream_is_what_the_official_client_makes_of_it(name: str) -> None:
    assert told(whole(name)) == judged(name, stream(name))


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_one(name: str) -> None:
    try:
        made = judged(name, stream(name))
    except Exception:  # noqa: BLE001 -- whatever the client raises, it loses the answer
        return
    assert made != told(whole(name))


FAMILIES = {
    "chat": (legal.chats(), chat_of),
    "messages": (legal.messages(), message_of),
    "responses": (legal.responses(), response_of),
}
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def split(data: bytes, choice: st.DataObject) -> list[bytes]:
    cuts = sorted(choice.draw(st.sets(st.integers(0, len(data)), max_size=20)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
@EXAMPLES
@given(choice=st.data())
def test_any_legal_stream_in_any_pieces_is_what_the_official_client_makes_of_it(
    family: str, choice: st.DataObject
) -> None:
    streams, judge = FAMILIES[family]
    made: Legal = choice.draw(streams)
    pieces = split(b"".join(made.events), choice)
    result = folded(*pieces)
    assert result.complete
    assert not result.truncated
    assert told(result.body) == told(judge(*pieces))


@pytest.mark.parametrize("family", FAMILIES)
@EXAMPLES
@given(choice=st.data())
def test_any_prefix_is_complete_from_the_event_on_that_ends_it(family: str, choice: st.DataObject) -> None:
    streams, _ = FAMILIES[family]
    made: Legal = choice.draw(streams)
    data = b"".join(made.events)
    at = choice.draw(st.integers(0, len(data)))
    result = folded(data[:at])
    ends = list(itertools.accumulate(map(len, made.events), initial=0))
    whole_events = sum(end <= at for end in ends) - 1
    assert result.error is None
    # an end marker that carries nothing needs no blank line
    assert result.complete == (made.complete[whole_events] or data[:at].endswith((b"[DONE]", b"[DONE]\n")))


@EXAMPLES
@given(made=legal.responses())
def test_a_response_without_its_last_event_has_every_item_that_was_done(made: Legal) -> None:
    last = response_of(*made.events)
    assert told(body(*made.events[:-1])["output"]) == told(last["output"])
