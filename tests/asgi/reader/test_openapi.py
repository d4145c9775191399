from __future__ import annotations

from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from starlette.routing import Route

from rwriter import RequestStore
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from rwriter.asgi._reader.openapi import document
from rwriter.asgi._reader.query import DEFAULT_LIMIT, MAX_LIMIT, MAX_SEQUENCE, STATES_OF
from tests.asgi.reader.test_changes import begun
from tests.support.asgi_client import KEY, OWNER, owners
from tests.support.reading import chat_record, response_record

EXAMPLES: Final = 30
"""Of each operation."""


def test_the_document_names_every_route_and_no_other(store: RequestStore) -> None:
    routes = [route for route in responses_app(store, attribute=owners, prefix="/p").routes if isinstance(route, Route)]
    served = {
        (route.path.replace(":path", "").rstrip("/"), method.lower())
        for route in routes
        for method in route.methods or ()
    }
    described = {
        (path, method) for path, item in document("/p")["paths"].items() for method in item if method != "parameters"
    }
    assert {pair for pair in served if pair[1] != "head"} == described | {("/openapi.json", "get")}


def test_the_document_allows_the_parameters_that_the_routes_take() -> None:
    described = document("")
    (paths, parameters) = described["paths"], described["components"]["parameters"]
    limit = parameters["limit"]["schema"]
    assert (limit["default"], limit["maximum"]) == (DEFAULT_LIMIT, MAX_LIMIT)
    schemas = {
        parameter["name"]: parameter["schema"]
        for path in ("/responses", "/responses/{id}")
        for parameter in paths[path]["get"]["parameters"]
        if "$ref" not in parameter
    }
    assert schemas["status"]["enum"] == list(STATES_OF)
    assert schemas["starting_after"]["maximum"] == MAX_SEQUENCE


async def test_no_request_the_document_allows_or_forbids_makes_a_server_error(store: RequestStore) -> None:
    import anyio.to_thread

    finished = response_record(created_by=OWNER, custom_id="resp_upstream")
    await store.persist_completed([finished, chat_record({"content": "hi"}, created_by=OWNER, custom_id="chatcmpl-1")])
    await store.create_realtime(new := begun())
    known = [response_id(finished.request_id), response_id(new.request_id), "resp_upstream", "chatcmpl-1"]
    app = responses_app(store, attribute=owners, stream_timeout=0)
    await anyio.to_thread.run_sync(_probe, app, known)


def _probe(app: object, known: list[str]) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: set[int] = set()
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    for operation in sorted(operations, key=lambda operation: operation.method == "delete"):
        cases = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

        @given(st.one_of(cases), st.sampled_from([*known, None]))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        def probe(case: Case[Any], identity: str | None) -> None:
            # of made-up ids alone none would ever be found
            if identity is not None and "id" in case.path_parameters:
                case.path_parameters["id"] = identity
            response = case.call(headers={"authorization": f"Bearer {KEY}"})
            statuses.add(response.status_code)
            checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
            case.validate_response(response, checks=checks)

        probe()
    assert {200, 400, 404} <= statuses
