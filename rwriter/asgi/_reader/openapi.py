"""The OpenAPI document of the reader routes, by hand: there are few of them, and it says what the code cannot."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi._reader.query import DEFAULT_LIMIT, MAX_LIMIT, MAX_SEQUENCE, STATES_OF

_Schema = dict[str, Any]

_ID: Final[_Schema] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "`resp_<uuid>` as in the header `x-rwriter-id`, or the id in the answer.",
    "schema": {"type": "string", "minLength": 1},
}

_PROBLEMS: Final = {
    400: "A query parameter cannot be used, or the response cannot be cancelled.",
    401: "No API key, or an unknown one.",
    404: "A bad, an unknown or a foreign id; they cannot be told apart.",
    503: "The database is away; see Retry-After.",
}


def document(prefix: str) -> _Schema:
    """The document of the routes under ``prefix``."""
    one = f"{prefix}/responses/{{id}}"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Captured responses", "version": "1"},
        "security": [{"bearer": []}, {"x-api-key": []}, {"api-key": []}],
        "paths": {
            one: {"parameters": [_ID], "get": _retrieve(), "delete": _delete()},
            f"{one}/cancel": {"parameters": [_ID], "post": _operation("cancelResponse", _ref("Response"))},
            f"{one}/input_items": {"parameters": [_ID], "get": _input_items()},
            f"{prefix}/responses": {"get": _list()},
            f"{prefix}/chat/completions/{{id}}": {"parameters": [_ID], "get": _chat_completion()},
        },
        "components": {"schemas": _SCHEMAS, "securitySchemes": _SECURITY},
    }


def _retrieve() -> _Schema:
    operation = _operation(
        "getResponse",
        _ref("Response"),
        _query("stream", {"type": "boolean", "default": False}, "Server-sent events that rebuild the response."),
        _query(
            "starting_after",
            {"type": "integer", "minimum": 0, "maximum": MAX_SEQUENCE},
            "Only events with a higher sequence number.",
        ),
    )
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": _ref("Event")}
    return operation


def _delete() -> _Schema:
    return _operation("deleteResponse", _ref("Deleted"))


def _input_items() -> _Schema:
    order = {"type": "string", "enum": ["asc", "desc"], "default": "desc"}
    return _operation("listInputItems", _ref("List"), *_PAGING, _query("order", order, "As given, or the last first."))


def _list() -> _Schema:
    return _operation(
        "listResponses",
        _ref("List"),
        *_PAGING,
        _query("model", {"type": "array", "items": {"type": "string"}}, "Any of these models."),
        _query("status", {"type": "string", "enum": list(STATES_OF)}, "The status of the row."),
    )


def _chat_completion() -> _Schema:
    return _operation("getChatCompletion", {"type": "object"})


def _operation(name: str, answer: _Schema, *parameters: _Schema) -> _Schema:
    problems = {
        str(status): {"description": said, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, said in _PROBLEMS.items()
    }
    found = {"description": "Found.", "content": {"application/json": {"schema": answer}}}
    return {"operationId": name, "parameters": list(parameters), "responses": {"200": found} | problems}


def _query(name: str, schema: _Schema, description: str) -> _Schema:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PAGING: Final = (
    _query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "How many items at most.",
    ),
    _query("after", {"type": "string"}, "The id of the last item of the page before."),
)

_SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}

_STATUSES: Final = ["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]

_SCHEMAS: Final[dict[str, _Schema]] = {
    "Response": {
        "type": "object",
        "required": ["id", "object", "created_at", "status", "background", "model", "output"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "response"},
            "created_at": {"type": "number", "description": "Unix seconds."},
            "status": {"type": "string", "enum": _STATUSES},
            "background": {"type": "boolean"},
            "output": {"type": "array"},
            "error": {
                "type": ["object", "null"],
                "properties": {name: {"type": "string"} for name in ("code", "type", "message")},
            },
        },
    },
    "Event": {
        "type": "object",
        "description": "One of many. `data` is JSON with `type` and `sequence_number`.",
        "required": ["event", "data"],
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    },
    "Deleted": {
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {"id": {"type": "string"}, "object": {"const": "response"}, "deleted": {"const": True}},
    },
    "List": {
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"type": "object", "required": ["id"]}},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean"},
        },
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
}
