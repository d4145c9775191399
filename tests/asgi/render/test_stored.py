from __future__ import annotations

import bisect
import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwriter.asgi import _json
from rwriter.asgi._render.events import closing_events, frame, opening_events
from rwriter.asgi._render.input import InputItems
from rwriter.asgi._render.response import chat_completion, response_object
from rwriter.store import detail_of
from tests.support.reading import chat_record, rendered, response_body, response_record, row, strict
from tests.support.records import record


def test_a_stored_response_comes_back_whole_under_the_id_it_was_asked_by() -> None:
    finished = response_record()
    assert rendered(finished, "resp_upstream") == response_body(
        background=False, error=None, incomplete_details=None, id="resp_upstream"
    )
    assert rendered(finished)["id"] == f"resp_{finished.request_id}"
    strict(rendered(finished))


def test_an_incomplete_response_stays_incomplete() -> None:
    body = response_body(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    response = rendered(response_record(body))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_that_its_upstream_has_not_finished_is_not_shown_as_completed(status: str) -> None:
    assert rendered(response_record(response_body(status=status)))["status"] == status
    assert rendered(response_record(response_body(status=status), status_code=499))["status"] == "failed"


def test_a_response_that_failed_by_itself_keeps_its_own_error() -> None:
    error = {"code": "server_error", "message": "the model is gone"}
    response = rendered(response_record(response_body(status="failed", error=error, output=[])))
    assert (response["status"], response["error"]) == ("failed", error)


@pytest.mark.parametrize("background", [True, False])
def test_background_is_what_the_client_asked_for_and_not_what_the_upstream_says(background: bool) -> None:
    request = json.dumps({"input": "hello", "background": background})
    finished = response_record(response_body(background=not background), request_body=request)
    assert rendered(finished)["background"] is background


def test_where_the_request_was_not_kept_the_object_says_whether_it_ran_in_the_background() -> None:
    assert rendered(response_record(response_body(background=True), request_body=""))["background"] is True
    assert rendered(response_record(request_body=""))["background"] is False
    assert response_object(row(body=""))["background"] is True


@pytest.mark.parametrize(
    ("state", "status"),
    [("pending", "queued"), ("claimed", "queued"), ("processing", "in_progress"), ("canceled", "cancelled")],
)
def test_a_row_without_an_answer_says_how_far_it_is(state: str, status: str) -> None:
    body = '{"input":"hello","background":true,"instructions":"be brief","temperature":0.5}'
    response = strict(response_object(row(status=state, body=body)))
    assert (response.status, response.output, response.usage, response.error) == (status, [], None, None)
    assert (response.background, response.instructions, response.temperature) == (True, "be brief", 0.5)
    assert response.completed_at is None


def test_a_cancelled_response_is_cancelled_and_no_failure() -> None:
    body = json.dumps({"error": {"type": "cancelled", "code": "cancelled", "message": "by its owner"}})
    response = strict(rendered(response_record(body, status_code=499)))
    assert (response.status, response.error) == ("cancelled", None)
    partial = response_body(status="in_progress", error={"type": "cancelled"})
    response = strict(rendered(response_record(partial, status_code=499)))
    assert (response.status, response.error, response.output_text) == ("cancelled", None, "hi there")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "insufficient_credits"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (418, "server_error"),
        (429, "rate_limit_error"),
        (499, "client_disconnected"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_type_of_an_error_is_that_of_its_status(status: int, kind: str) -> None:
    body = json.dumps({"error": {"type": "its own", "message": "sorry"}})
    response = rendered(response_record(body, status_code=status))
    assert response["status"] == "failed"
    assert response["error"] == {"code": "its own", "type": kind, "message": "sorry"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error":{"message":"too many"}}', "too many"),
        ('{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', "busy"),
        ('{"error":"plain words"}', "plain words"),
        ('{"message":"at the top"}', "at the top"),
        ("<h1>Bad gateway</h1>", "<h1>Bad gateway</h1>"),
        ('{"detail":"unknown"}', '{"detail":"unknown"}'),
        ("", "the request failed with status 429"),
        ('{"rwriter":{"envelope":"base64","size":2,"data":"/w=="}}', "the request failed with status 429"),
    ],
)
def test_the_message_of_an_error_is_that_of_the_body_or_the_body(body: str, message: str) -> None:
    response = rendered(response_record(body, status_code=429))
    assert response["error"]["message"] == message
    assert response["output"] == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"error": {"code": 429, "message": "upstream said no"}}, ("rate_limit_exceeded", "upstream said no")),
        ({"choices": None, "error": {"code": "busy", "message": "try later"}}, ("busy", "try later")),
        ({"choices": [{"index": 0}, {"error": {"code": "cut", "message": "lost it"}}]}, ("cut", "lost it")),
        ([{"error": {"code": 429, "message": "quota", "status": "EXHAUSTED"}}], ("EXHAUSTED", "quota")),
        ({"error": "the runner has died"}, ("rate_limit_exceeded", "the runner has died")),
        ({"object": "response", "status": "failed", "error": {"code": "x", "message": "y"}}, ("x", "y")),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, ("overloaded_error", "busy")),
    ],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/messages"])
def test_an_error_told_in_the_body_is_shown_wherever_it_stands(body: Any, error: tuple[str, str], path: str) -> None:
    shown = rendered(response_record(json.dumps(body), endpoint=path, status_code=429))["error"]
    assert shown == {"code": error[0], "type": "rate_limit_error", "message": error[1]}


def test_what_was_said_before_an_error_is_shown_beside_it() -> None:
    choice = {
        "message": {"content": "so far"},
        "error": {"message": "cut", "code": "server_error"},
        "finish_reason": "error",
    }
    response = strict(rendered(chat_record({}, response_body=json.dumps({"choices": [choice]}), status_code=502)))
    assert (response.status, response.output_text) == ("failed", "so far")


def test_an_answer_over_the_limit_shows_what_was_kept_of_it() -> None:
    kept = {"envelope": "truncated", "size": 9, "head": "{"}
    for kind in ("response", "chat.completion", "message"):
        body = {"id": "x", "object": kind, "status": "completed", "usage": {"prompt_tokens": 2}, "rwriter": kept}
        response = rendered(response_record(json.dumps(body)))
        assert (response["status"], response["output"], response["rwriter"]) == ("completed", [], kept)
        assert response["usage"] is not None


def test_a_plain_failure_is_one_the_official_client_knows() -> None:
    for status, code in ((429, "rate_limit_exceeded"), (500, "server_error")):
        response = strict(rendered(response_record("no JSON", status_code=status)))
        assert response.error is not None
        assert response.error.code == code


def test_a_row_whose_process_died_says_so() -> None:
    abandoned = row(status="failed", response_status=504, error='{"type":"Abandoned","details":{}}')
    error = response_object(abandoned)["error"]
    assert (error["code"], error["type"]) == ("Abandoned", "server_error")
    assert "process" in error["message"]


@pytest.mark.parametrize(
    "body", ["", "no JSON", "[]", "1e999", '{"rwriter":{"envelope":"truncated","size":9,"head":"{"}}', "null"]
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/messages", ""])
def test_a_body_that_is_no_answer_is_a_completed_response_without_output(path: str, body: str) -> None:
    response = strict(rendered(record(endpoint=path, response_body=body, request_body=body)))
    assert (response.status, response.output) == ("completed", [])


def test_what_cannot_be_read_as_an_answer_is_given_as_it_was() -> None:
    envelope = {"rwriter": {"envelope": "truncated", "size": 9, "head": "{"}}
    assert rendered(response_record(json.dumps(envelope)))["rwriter"]["body"] == envelope
    assert rendered(response_record("plain text"))["rwriter"]["body"] == "plain text"
    assert "rwriter" not in rendered(response_record(""))


def test_half_an_emoji_or_a_number_out_of_range_does_not_lose_an_answer() -> None:
    body = json.dumps(response_body()).replace("hi there", "hi \\ud83d").replace('"kept": true', '"kept": NaN')
    response = rendered(response_record(body))
    assert response["output"][0]["content"][0]["text"] == "hi �"
    assert response["a_field_of_tomorrow"] == {"kept": None}
    assert json.loads(_json.dumps(response))["id"] == response["id"]


def test_a_chat_completion_is_given_whole_and_only_when_it_is_one() -> None:
    finished = chat_record({"content": "hi"})
    body = json.loads(finished.response_body)
    assert chat_completion(detail_of(finished), "chatcmpl-1") == body
    assert chat_completion(detail_of(finished), "resp_x") == body | {"id": "resp_x"}
    for other in (
        chat_record({"content": "hi"}, status_code=500),
        chat_record({"content": "hi"}, endpoint="/v1/responses"),
        chat_record({}, response_body=""),
        chat_record({}, response_body="{}"),
    ):
        assert chat_completion(detail_of(other), "chatcmpl-1") is None


_PATHS = st.sampled_from(["/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/x", ""])
_VOCABULARY: Final = """
    object type response chat.completion text_completion message choices content output error usage text tool_calls
    function id status input role summary prompt_tokens finish_reason logprobs annotations tool_use thinking tools
    background
"""
_WORDS = st.sampled_from(_VOCABULARY.split())
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _WORDS
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_WORDS | st.text(), inner))


@given(_PATHS, _VALUES, _VALUES, st.sampled_from([200, 200, 400, 499, 502]))
def test_whatever_was_stored_is_read_without_an_error(path: str, request: Any, answer: Any, status: int) -> None:
    stored = record(
        endpoint=path, request_body=json.dumps(request), response_body=json.dumps(answer), status_code=status
    )
    response = rendered(stored)
    assert json.loads(_json.dumps(response))["object"] == "response"
    for event in [*opening_events(response), *closing_events(response)]:
        assert frame(event).startswith(b"event: response.")
    page = InputItems(detail_of(stored)).page(limit=100, ascending=False, after=None)
    assert page is not None
    assert all(isinstance(item["id"], str) for item in page[0])


def _nested(levels: int, opening: str) -> str:
    return opening * levels + "1" + {"[": "]", '{"a":': "}"}[opening] * levels


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_body_nested_as_deep_as_can_be_read_can_be_sent(opening: str) -> None:
    deepest = bisect.bisect_left(range(60_000), 1, key=lambda levels: _json.loads(_nested(levels, opening)) is None)
    for levels in (*range(deepest - 20, deepest + 1), 60_000):
        deep = _nested(levels, opening)
        response = rendered(response_record(f'{{"object":"response","output":[],"deep":{deep}}}', request_body=deep))
        assert b'"object":"response"' in _json.dumps({"type": "response.completed", "response": response})
        assert all(frame(event) for event in closing_events(response))
