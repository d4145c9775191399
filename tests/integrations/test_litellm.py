"""litellm's calls as rows. Its pins do not suit the other tests' packages: run in a virtual environment of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import RowMapping

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its prices are fetched from the network otherwise
litellm: Any = pytest.importorskip("litellm", reason="litellm is not installed: it needs an environment of its own")

from rwriter import NewRequest, RequestsWriter, new_request_id  # noqa: E402 -- after the skip
from rwriter.integrations.litellm import RwriterLogger  # noqa: E402
from rwriter.schema import request_templates, requests  # noqa: E402
from rwriter.testing import TestDbEngines  # noqa: E402
from rwriter.threaded import ThreadedWriter  # noqa: E402
from tests.integrations.upstream import serving  # noqa: E402
from tests.support.driving import eventually  # noqa: E402
from tests.support.faults import table_locked  # noqa: E402
from tests.support.rows import rows  # noqa: E402

# what litellm, aiohttp and pydantic warn of in their own code
pytestmark = [pytest.mark.filterwarnings("ignore")]

SECRET = "sk-provider-secret"  # noqa: S105 -- what must not be found
VIRTUAL_KEY = "sk-virtual"
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
PROXY = {
    "user_api_key_user_id": "alice",
    "user_api_key_team_id": "team-a",
    "user_api_key_hash": hashlib.sha256(VIRTUAL_KEY.encode()).hexdigest(),
}
CALL: dict[str, Any] = {"model": "gpt-4o-mini", "messages": ASKED, "api_key": SECRET, "metadata": PROXY}


@pytest.fixture
def upstream() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(autouse=True)
def no_loggers() -> Iterator[None]:
    yield
    litellm.callbacks.clear()
    litellm.logging_callback_manager._reset_all_callbacks()
    litellm.turn_off_message_logging = False


@asynccontextmanager
async def logging_to(engines: TestDbEngines, **options: Any) -> AsyncIterator[RwriterLogger]:
    async with RequestsWriter(engines, check_schema=False) as writer:
        logger = RwriterLogger(writer, **options)
        litellm.callbacks.append(logger)
        yield logger


async def the_row(engines: TestDbEngines) -> tuple[RowMapping, RowMapping]:
    """The only request and its template."""

    async def there() -> bool:
        return bool(await rows(engines.write, requests))

    await eventually(there)
    (request,) = await rows(engines.write, requests)
    (template,) = await rows(engines.write, request_templates)
    return request, template


async def test_a_call_is_a_row_with_both_bodies_its_owner_and_its_times(rwriter_engines: TestDbEngines) -> None:
    async with logging_to(rwriter_engines) as logger:
        before = datetime.now(UTC)
        answer = await litellm.acompletion(**CALL, temperature=0.5, mock_response="hello there")
        request, template = await the_row(rwriter_engines)
    assert (request["state"], request["response_status"], request["created_by"]) == ("completed", 200, "alice")
    assert (template["path"], request["model"]) == ("/v1/chat/completions", "gpt-4o-mini")
    asked = json.loads(template["body"])
    assert (asked["model"], asked["messages"], asked["temperature"]) == ("gpt-4o-mini", ASKED, 0.5)
    answered = json.loads(request["response_body"])
    assert answered["choices"][0]["message"]["content"] == "hello there"
    assert request["custom_id"] == answered["id"] == answer.id
    assert before <= request["started_at"] <= request["completed_at"] <= datetime.now(UTC)
    assert logger.stats.recorded == 1


async def test_no_key_is_stored_but_the_fingerprint_of_the_virtual_one(rwriter_engines: TestDbEngines) -> None:
    async with logging_to(rwriter_engines):
        await litellm.acompletion(**CALL, mock_response="hello", extra_headers={"x-secret": SECRET})
        request, template = await the_row(rwriter_engines)
    assert SECRET not in str(dict(request)) + str(dict(template))
    # the fingerprint a client's own key has elsewhere in this library
    same = NewRequest(
        request_id=new_request_id(),
        body="",
        model="m",
        endpoint="/",
        method="POST",
        path="/",
        api_key=VIRTUAL_KEY,
        created_by="alice",
    )
    assert template["api_key"] == same.api_key


async def test_a_stream_is_one_row_with_the_whole_answer(rwriter_engines: TestDbEngines) -> None:
    async with logging_to(rwriter_engines) as logger:
        stream = await litellm.acompletion(**CALL, stream=True, mock_response="hello there, how are you")
        async for _ in stream:
            pass
        request, template = await the_row(rwriter_engines)
    assert json.loads(template["body"])["stream"] is True
    assert json.loads(request["response_body"])["choices"][0]["message"]["content"] == "hello there, how are you"
    assert logger.stats.recorded == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_call_is_a_failed_row_with_its_status(
    rwriter_engines: TestDbEngines, upstream: str, stream: bool
) -> None:
    async with logging_to(rwriter_engines):
        with pytest.raises(litellm.BadRequestError):
            await litellm.acompletion(**CALL | {"model": "openai/bad"}, api_base=f"{upstream}/v1", stream=stream)
        request, _ = await the_row(rwriter_engines)
    assert (request["state"], request["response_status"]) == ("failed", 400)
    error = json.loads(request["response_body"])["error"]
    assert "no such model" in error["message"]
    assert error["code"] == "bad_value"


async def test_each_api_has_its_path_its_prompt_and_its_answer(rwriter_engines: TestDbEngines, upstream: str) -> None:
    openai: dict[str, Any] = {"model": "openai/m", "api_base": f"{upstream}/v1", "api_key": SECRET}
    async with logging_to(rwriter_engines) as logger:
        await litellm.aembedding(**openai, input=["one", "two"])
        await litellm.atext_completion(**openai | {"model": "text-completion-openai/m"}, prompt="say")
        await litellm.aresponses(**openai, input="say", instructions="be kind")
        await litellm.anthropic_messages(
            model="anthropic/m", messages=ASKED, system="be kind", max_tokens=5, api_base=upstream, api_key=SECRET
        )
        await eventually(lambda: logger.stats.recorded == 4)
    found = {row["path"]: json.loads(row["body"]) for row in await rows(rwriter_engines.write, request_templates)}
    answers = {
        json.loads(row["response_body"])["object" if row["custom_id"] != "msg_1" else "type"]: row["custom_id"]
        for row in await rows(rwriter_engines.write, requests)
    }
    assert found["/v1/embeddings"]["input"] == ["one", "two"]
    assert found["/v1/completions"]["prompt"] == "say"
    assert found["/v1/responses"]["input"] in ("say", [{"role": "user", "content": "say"}])
    assert found["/v1/responses"]["instructions"] == "be kind"
    assert found["/v1/messages"] == {
        "model": "m",
        "messages": ASKED,
        "system": "be kind",
        "max_tokens": 5,
        "stream": False,
    }
    assert set(answers) == {"list", "text_completion", "response", "message"}


async def test_behind_a_router_the_model_is_the_name_the_client_asked_for(rwriter_engines: TestDbEngines) -> None:
    deployment = {"model": "openai/deployed", "api_key": SECRET, "mock_response": "hello"}
    router = litellm.Router(model_list=[{"model_name": "fast", "litellm_params": deployment}])
    async with logging_to(rwriter_engines):
        await router.acompletion(model="fast", messages=ASKED, metadata=PROXY)
        request, template = await the_row(rwriter_engines)
    assert (request["model"], json.loads(template["body"])["model"], request["created_by"]) == ("fast", "fast", "alice")


async def test_synchronous_calls_of_other_threads_reach_the_writer(rwriter_engines: TestDbEngines) -> None:
    async with logging_to(rwriter_engines) as logger:
        await asyncio.to_thread(litellm.completion, **CALL, mock_response="hello")
        with pytest.raises(litellm.RateLimitError):
            await asyncio.to_thread(litellm.completion, **CALL, mock_response="litellm.RateLimitError", num_retries=0)
        await eventually(lambda: logger.stats.recorded == 2)
    assert {row["response_status"] for row in await rows(rwriter_engines.write, requests)} == {200, 429}


async def test_a_call_that_is_told_of_twice_is_recorded_once(rwriter_engines: TestDbEngines) -> None:
    kwargs = {"call_type": "acompletion", "model": "m", "messages": ASKED, "exception": ValueError("refused")}
    async with logging_to(rwriter_engines) as logger:
        await logger.async_log_failure_event(kwargs, None, datetime.now(UTC), datetime.now(UTC))
        logger.log_failure_event(kwargs, None, datetime.now(UTC), datetime.now(UTC))
    assert len(await rows(rwriter_engines.write, requests)) == logger.stats.recorded == 1


async def test_a_synchronous_call_on_the_writer_s_own_loop_does_not_wait_for_itself(
    rwriter_engines: TestDbEngines,
) -> None:
    async with logging_to(rwriter_engines) as logger:
        with pytest.raises(litellm.RateLimitError):
            litellm.completion(**CALL, mock_response="litellm.RateLimitError", num_retries=0)
        await eventually(lambda: logger.stats.recorded == 1)


async def test_calls_on_another_loop_reach_the_writer(rwriter_engines: TestDbEngines) -> None:
    async def elsewhere() -> None:
        await litellm.acompletion(**CALL, mock_response="hello")
        await eventually(lambda: logger.stats.recorded == 1)

    async with logging_to(rwriter_engines) as logger:
        await asyncio.to_thread(asyncio.run, elsewhere())
    assert len(await rows(rwriter_engines.write, requests)) == 1


async def test_a_threaded_writer_serves_calls_of_both_kinds(
    rwriter_database: str, rwriter_engines: TestDbEngines
) -> None:
    writer = await asyncio.to_thread(ThreadedWriter(rwriter_database).open)
    try:
        logger = RwriterLogger(writer)
        litellm.callbacks.append(logger)
        await litellm.acompletion(**CALL, mock_response="hello")
        await asyncio.to_thread(litellm.completion, **CALL, mock_response="hello")
        await eventually(lambda: logger.stats.recorded == 2)
    finally:
        await asyncio.to_thread(writer.close)
    assert len(await rows(rwriter_engines.write, requests)) == 2


async def test_a_logger_that_cannot_record_breaks_no_call_counts_and_says_so(
    rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    async with logging_to(rwriter_engines) as logger:
        pass
    for _ in range(3):
        answer = await litellm.acompletion(**CALL, mock_response="hello")
        assert answer.choices[0].message.content == "hello"
    with pytest.raises(litellm.RateLimitError):
        await litellm.acompletion(**CALL, mock_response="litellm.RateLimitError", num_retries=0)
    await asyncio.to_thread(litellm.completion, **CALL, mock_response="hello")
    await eventually(lambda: logger.stats.lost == 5)
    said = [entry.getMessage() for entry in caplog.records if entry.name == "rwriter"]
    told = "the writer is closed: the record was not accepted"
    assert said == [f"litellm: a call was not recorded, {told}; {number} of them so far" for number in (1, 2, 4)]


def test_a_writer_whose_loop_is_gone_loses_records_and_breaks_no_call(rwriter_engines: TestDbEngines) -> None:
    async def open_and_go() -> RwriterLogger:
        async with logging_to(rwriter_engines) as logger:
            return logger

    logger = asyncio.run(open_and_go())

    async def call() -> None:
        await litellm.acompletion(**CALL, mock_response="hello")
        await eventually(lambda: logger.stats.lost == 1)

    asyncio.run(call())
    litellm.completion(**CALL, mock_response="hello")

    async def both_lost() -> None:
        await eventually(lambda: logger.stats.lost == 2)

    asyncio.run(both_lost())


async def test_a_full_buffer_loses_a_record_after_the_timeout_and_no_call(rwriter_engines: TestDbEngines) -> None:
    async with RequestsWriter(rwriter_engines, check_schema=False, channel_capacity=1) as writer:
        logger = RwriterLogger(writer, timeout=0.05)
        litellm.callbacks.append(logger)
        async with table_locked(rwriter_engines):
            for _ in range(2):
                await litellm.acompletion(**CALL, mock_response="hello")
            await eventually(lambda: logger.stats.lost == 1)
    assert (logger.stats.recorded, writer.stats.persisted) == (1, 1)


async def test_whose_call_it_is_can_be_said_otherwise(rwriter_engines: TestDbEngines) -> None:
    owners: list[str | None] = ["carol", None]
    async with logging_to(rwriter_engines, attribute=lambda _: owners.pop(0), default_owner=None) as logger:
        await litellm.acompletion(**CALL, mock_response="hello")
        await eventually(lambda: logger.stats.recorded == 1)
        await litellm.acompletion(**CALL, mock_response="hello")
        await eventually(lambda: logger.stats.ignored == 1)
    assert [row["created_by"] for row in await rows(rwriter_engines.write, requests)] == ["carol"]


async def test_an_attribution_that_raises_loses_the_record_and_not_the_call(rwriter_engines: TestDbEngines) -> None:
    def attribute(kwargs: Any) -> str:
        raise ZeroDivisionError

    async with logging_to(rwriter_engines, attribute=attribute) as logger:
        await litellm.acompletion(**CALL, mock_response="hello")
        await eventually(lambda: logger.stats.lost == 1)


async def test_bodies_that_litellm_is_told_not_to_log_are_not_stored(
    rwriter_engines: TestDbEngines, upstream: str
) -> None:
    litellm.turn_off_message_logging = True
    async with logging_to(rwriter_engines) as logger:
        await litellm.acompletion(**CALL | {"messages": [{"role": "user", "content": "private"}]}, mock_response="hush")
        message: dict[str, Any] = {"messages": [{"role": "user", "content": "private"}], "system": "private"}
        await litellm.anthropic_messages(
            model="anthropic/m", **message, max_tokens=5, api_base=upstream, api_key=SECRET
        )
        await eventually(lambda: logger.stats.recorded == 2)
    stored = str(await rows(rwriter_engines.write, requests)) + str(
        await rows(rwriter_engines.write, request_templates)
    )
    assert stored.count("private") == stored.count("hush") == stored.count("hello there") == 0


async def test_kinds_of_calls_without_a_row_s_shape_are_ignored(rwriter_engines: TestDbEngines) -> None:
    async with logging_to(rwriter_engines) as logger:
        await litellm.aimage_generation(prompt="a cat", model="dall-e-3", mock_response="http://127.0.0.1/cat.png")
        await eventually(lambda: logger.stats.ignored == 1)


def test_a_logger_is_made_where_the_writer_s_loop_runs(rwriter_engines: TestDbEngines) -> None:
    writer = RequestsWriter(rwriter_engines)
    with pytest.raises(RuntimeError, match="ThreadedWriter"):
        RwriterLogger(writer)
    with pytest.raises(ValueError, match="timeout"):
        RwriterLogger(writer, timeout=0)
