"""The arguments that litellm passes to its loggers become records: without litellm, from what it was seen to pass."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from rwriter.integrations._litellm_event import completed, endpoint_of, is_async, owner_of

BEGAN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=1)
HASH = "ab" * 32


def passed(**changes: Any) -> dict[str, Any]:
    """``kwargs`` of a chat completion; ``changes`` are members of it."""
    kwargs: dict[str, Any] = {
        "call_type": "acompletion",
        "model": "deployed",
        "messages": [{"role": "user", "content": "hi"}],
        "input": [{"role": "user", "content": "hi"}],
        "optional_params": {"temperature": 0.5, "aws_secret_access_key": "hidden", "extra_body": {}},
        "litellm_params": {"api_key": "hidden", "metadata": {"user_api_key_user_id": "of the caller"}},
        "standard_logging_object": {
            "model_group": "fast",
            "model_parameters": {"temperature": 0.5, "top_p": None},
            "metadata": {"user_api_key_user_id": "alice", "user_api_key_team_id": "t", "user_api_key_hash": HASH},
        },
    }
    return kwargs | changes


def record(response: object, kwargs: dict[str, Any], **changes: Any) -> Any:
    endpoint = endpoint_of(kwargs)
    assert endpoint is not None
    times: dict[str, Any] = {"started": BEGAN, "ended": ENDED} | changes
    return completed(kwargs, response, **times, endpoint=endpoint, owner="alice")


@pytest.mark.parametrize(
    ("call_type", "endpoint"),
    [
        ("completion", "/v1/chat/completions"),
        ("acompletion", "/v1/chat/completions"),
        ("atext_completion", "/v1/completions"),
        ("aembedding", "/v1/embeddings"),
        ("responses", "/v1/responses"),
        ("anthropic_messages", "/v1/messages"),
        ("aanthropic_messages", "/v1/messages"),
        ("aimage_generation", None),
        ("amoderation", None),
        (None, None),
    ],
)
def test_the_path_is_that_of_the_api(call_type: str | None, endpoint: str | None) -> None:
    assert endpoint_of({"call_type": call_type}) == endpoint


def test_of_the_parameters_only_those_litellm_logs_are_kept() -> None:
    body = json.loads(record({"id": "x"}, passed()).request_body)
    assert body == {"model": "fast", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"user_api_key_user_id": "alice", "user_api_key_team_id": "t"}, "alice"),
        ({"user_api_key_user_id": None, "user_api_key_team_id": "t"}, "t"),
        ({"user_api_key_end_user_id": "whoever the client says"}, None),
    ],
)
def test_the_owner_is_the_key_s_user_or_team_and_never_whom_a_client_names(
    metadata: dict[str, Any], owner: str | None
) -> None:
    assert owner_of(passed(standard_logging_object={"metadata": metadata}, user="bob")) == owner


def test_without_litellm_s_own_summary_the_caller_s_metadata_count() -> None:
    kwargs = passed(standard_logging_object=None)
    assert owner_of(kwargs) == "of the caller"
    assert json.loads(record({}, kwargs).request_body)["model"] == "deployed"


def test_the_key_is_the_head_of_litellm_s_hash_and_nothing_else_is_taken_for_one() -> None:
    assert record({}, passed()).api_key == "sha256:" + HASH[:32]
    raw = {"metadata": {"user_api_key_hash": "sk-raw"}}
    assert record({}, passed(standard_logging_object=raw)).api_key == ""


@pytest.mark.parametrize(
    ("endpoint", "kwargs", "field", "prompt"),
    [
        ("embedding", {"input": ["a", "b"]}, "input", ["a", "b"]),
        ("responses", {"input": "say"}, "input", "say"),
        ("responses", {"input": None}, "input", [{"role": "user", "content": "hi"}]),
        ("text_completion", {}, "prompt", "hi"),
        ("text_completion", {"prompt": "refused"}, "prompt", "refused"),
        ("text_completion", {"messages": [{"content": "a"}, "b"]}, "prompt", ["a", "b"]),
        ("text_completion", {"messages": "redacted-by-litellm"}, "prompt", "redacted-by-litellm"),
    ],
)
def test_each_api_s_prompt_is_in_its_own_field(endpoint: str, kwargs: Any, field: str, prompt: object) -> None:
    body = json.loads(record({}, passed(call_type=endpoint, **kwargs)).request_body)
    assert body[field] == prompt
    assert "messages" not in body


MESSAGE = '{"id":"msg_1", "type":"message","content":[]}'


@pytest.mark.parametrize("original", [MESSAGE, None, "no JSON", '["a"]', '{"type":"error"}'])
def test_a_message_is_stored_as_the_client_got_it_where_litellm_kept_it(original: str | None) -> None:
    kwargs = passed(call_type="anthropic_messages", original_response=original)
    chat = {"id": "msg_1", "choices": []}
    assert record(chat, kwargs).response_body == (original if original == MESSAGE else '{"id":"msg_1","choices":[]}')


def test_a_redacted_message_is_not_restored() -> None:
    redacted = [{"role": "user", "content": "redacted-by-litellm"}]
    kwargs = passed(
        call_type="anthropic_messages",
        original_response=MESSAGE,
        messages=redacted,
        optional_params={"system": "private"},
    )
    made = record({"choices": ["redacted-by-litellm"]}, kwargs)
    assert made.response_body == '{"choices":["redacted-by-litellm"]}'
    assert "system" not in json.loads(made.request_body)


class Failure(Exception):
    def __init__(self, status_code: object, **fields: object) -> None:
        super().__init__("as text")
        self.status_code = status_code
        self.__dict__ |= fields


@pytest.mark.parametrize(
    ("status_code", "status"), [(429, 429), ("503", 503), (None, 500), (0, 500), (200, 500), ("x", 500), ([], 500)]
)
def test_a_failure_has_the_status_of_its_exception(status_code: object, status: int) -> None:
    assert record(None, passed(exception=Failure(status_code))).status_code == status


def test_a_refusal_of_the_proxy_has_its_status_and_kind() -> None:
    class Kind(enum.Enum):
        AUTH = "auth_error"

    made = record(None, passed(exception=Failure(None, code="401", type=Kind.AUTH)))
    assert made.status_code == 401
    assert json.loads(made.response_body)["error"]["type"] == "auth_error"


@pytest.mark.parametrize(
    ("call_type", "answer"),
    [("acompletion", True), ("completion", False), ("anthropic_messages", False), ("aimage_generation", False)],
)
def test_asynchronous_calls_are_known_by_their_names(call_type: str, answer: bool) -> None:
    assert is_async({"call_type": call_type}) is answer


def test_a_failure_s_body_is_an_error_object() -> None:
    made = record(None, passed(exception=Failure(400, message="no", type="bad", code=7)))
    assert json.loads(made.response_body) == {"error": {"message": "no", "type": "bad", "code": "7"}}
    plain = record(None, passed(exception=Failure(400)))
    assert json.loads(plain.response_body) == {"error": {"message": "as text", "type": "Failure", "code": None}}
    assert plain.custom_id is None


def test_an_answer_s_id_is_the_custom_id_and_what_json_cannot_say_is_named() -> None:
    class Answer:
        id = "resp_1"

        def model_dump(self, **_: object) -> dict[str, object]:
            return {"id": self.id, "handle": object()}

    made = record(Answer(), passed())
    assert (made.custom_id, made.response_body) == ("resp_1", '{"id":"resp_1","handle":"<object>"}')


@pytest.fixture
def east_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-09")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("east_of_greenwich")
def test_times_that_do_not_say_where_are_local_time() -> None:
    local = (BEGAN + timedelta(hours=9)).replace(tzinfo=None)
    assert record({}, passed(), started=local).started_at == BEGAN
    aware = BEGAN.astimezone(timezone(timedelta(hours=5)))
    assert record({}, passed(), started=aware).started_at == BEGAN


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name == "litellm":
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Absent())
import rwriter.integrations
try:
    import rwriter.integrations.litellm
except ImportError as exc:
    print(exc)
"""


def test_without_litellm_the_package_imports_and_the_logger_says_what_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], check=True, capture_output=True, text=True)
    assert done.stdout == "rwriter.integrations.litellm needs the package litellm: pip install litellm\n"
