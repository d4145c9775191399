"""Which paths are model calls, and what is stored of a path."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

_OPENAI: Final = frozenset({"/responses", "/responses/compact", "/chat/completions", "/completions", "/embeddings"})
_ANTHROPIC: Final = frozenset({"/messages"})


class PATHS:
    """Named sets of endings of paths, to be joined: ``paths=PATHS.default | PATHS.gemini``.

    ``openai`` and ``anthropic`` together are the ``default``; beside them ``images``, ``audio``, ``moderations``,
    ``rerank``, ``gemini``, ``ollama`` and ``bedrock``.
    """

    openai: Final = _OPENAI
    anthropic: Final = _ANTHROPIC
    default: Final = _OPENAI | _ANTHROPIC
    images: Final = frozenset({"/images/generations", "/images/edits", "/images/variations"})
    audio: Final = frozenset({"/audio/speech", "/audio/transcriptions", "/audio/translations"})
    moderations: Final = frozenset({"/moderations"})
    rerank: Final = frozenset({"/rerank"})
    gemini: Final = frozenset(
        {":generateContent", ":streamGenerateContent", ":embedContent", ":batchEmbedContents", ":predict"}
    )
    ollama: Final = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"})
    bedrock: Final = frozenset({"/invoke", "/invoke-with-response-stream", "/converse", "/converse-stream"})


_COLLECTIONS: Final = frozenset({
    "threads", "conversations", "rooms", "channels", "chats", "sessions", "tickets", "users", "groups", "forms",
    "surveys", "assistants", "batches", "mailboxes", "topics", "posts", "issues", "teams",
})  # fmt: skip
"""Names of collections whose members have messages or responses that no model gave."""
_MEMBER: Final = re.compile(
    r"/v\d\w*/(?!projects/|deployments/|models?/)[a-z_]+s/[^/]+/(?:messages|responses|completions)$"
)
"""``/v1/things/{id}/messages`` of any things."""
_MODEL: Final = re.compile(r"/(?:deployments|models?)/([^/]+?)(?::[A-Za-z]\w*)?(?:/|$)")

_KEY_PARAMETER: Final = re.compile(
    r"(?i)((?:^|[/;?&])[\w.-]*(?:key|token|secret|password|signature|sig|authorization|code)=)[^/;?&]+"
)
_KEY_SEGMENT: Final = re.compile(
    r"(?<=/)(?:(?:sk|pk|rk|gsk|xai|hf|key|api|r8|nvapi|pplx)[-_][\w.~-]{12,}|AIza[\w-]{20,}|eyJ[\w.=-]{20,})(?=[/;?&]|$)"
)
HIDDEN: Final = "***"
_SHORTEST: Final = 8
"""Characters of the shortest key that is looked for in a path."""


class Tracked:
    """Tells whether a path is that of a model call, by how it ends."""

    def __init__(self, endings: Collection[str]) -> None:
        if isinstance(endings, str):
            msg = f"paths must be a list of endings, not the one string {endings!r}"
            raise TypeError(msg)
        self._endings: Final = tuple(ending.rstrip("/") for ending in endings)

    def __contains__(self, path: str) -> bool:
        stripped = path.rstrip("/")
        return stripped.endswith(self._endings) and not _belongs_to_a_collection(stripped)


def _belongs_to_a_collection(path: str) -> bool:
    """Return True for ``/v1/threads/{id}/messages`` and its like: one word behind the member of a collection."""
    before = path.rpartition("/")[0].rpartition("/")[0]
    return before.rpartition("/")[2].lower() in _COLLECTIONS or bool(_MEMBER.search(path))


def stored_path(path: str, credentials: Iterable[str] = ()) -> str:
    """Return ``path`` as it is stored: without a slash at its end, and without a key that stands in it."""
    stored = path.rstrip("/") or "/"
    if "=" in stored:
        stored = _KEY_PARAMETER.sub(rf"\1{HIDDEN}", stored)
    for credential in credentials:
        if len(credential) >= _SHORTEST and credential in stored:
            stored = stored.replace(credential, HIDDEN)
    return _KEY_SEGMENT.sub(HIDDEN, stored)


def model_in(path: str) -> str | None:
    """Return the model that a path names: an Azure deployment, a Gemini or Bedrock model."""
    found = _MODEL.search(path)
    return None if found is None else found[1]
