"""A NATS server for this folder's tests, and a stream for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from rwriter import JetStreamStore, new_request_id
from tests.support.brokers import Broker, broker_in
from tests.support.sizes import MIB

MAX_PAYLOAD = 64 * 1024


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Yield a server that stays; its ``max_payload`` is small, so that batches have to be split."""
    with broker_in(tmp_path_factory.mktemp("nats"), f"max_payload: {MAX_PAYLOAD}") as running:
        yield running


@pytest.fixture
def stream() -> str:
    """Name a stream for this test alone."""
    return f"requests-{new_request_id().hex}"


@pytest.fixture
async def store(broker: Broker, stream: str) -> AsyncIterator[JetStreamStore]:
    """Yield the store under test, with its stream made."""
    async with JetStreamStore(broker.url, stream=stream) as made:
        await made.create_stream(max_bytes=64 * MIB)
        yield made
