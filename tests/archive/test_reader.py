"""The reader routes with an archive: one order, each request once, and nobody else's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from rwriter import RequestStore
from rwriter.archive import ArchiveStore
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from rwriter.asgi._types import Scope
from rwriter.partitions import ensure
from rwriter.testing import TestDbEngines
from tests.support.archiving import OWNERS, Moved
from tests.support.records import record
from tests.support.serving import plain_client


def owner_of(api_key: str, scope: Scope) -> str:
    return api_key


async def test_what_is_archived_is_found_listed_once_and_kept_from_others(
    rwriter_engines: TestDbEngines, moved: Moved, archive: ArchiveStore
) -> None:
    store, mine = RequestStore(rwriter_engines), [each for each in moved.aged.old if each.created_by == OWNERS[1]]
    now = moved.aged.now
    fresh = [record(created_by=OWNERS[1], started_at=now, completed_at=now) for _ in range(3)]
    await ensure(store.engine, since=now - timedelta(weeks=2))
    # what is just being archived is in both, and so is one of long ago that came late
    await store.persist_completed([*fresh, mine[-1], mine[2]])
    app = responses_app(store, archive=archive, attribute=owner_of)
    async with plain_client(app) as client:

        async def get(path: str, owner: str = OWNERS[1], method: str = "GET") -> tuple[int, Any]:
            answer = await client.request(method, path, headers={"authorization": f"Bearer {owner}"})
            return answer.status_code, answer.json()

        old = f"/v1/responses/{response_id(mine[0].request_id)}"
        status, found = await get(old)
        assert (status, found["id"]) == (200, response_id(mine[0].request_id))
        assert (await get(f"/v1/responses/{mine[1].custom_id}"))[0] == 200
        assert (await get(old, OWNERS[0]))[0] == (await get(old, "tenant-x"))[0] == 404
        status, refused = await get(old, method="DELETE")
        assert (status, refused["error"]["code"]) == (409, "archived")
        assert (await get(f"/v1/responses/{response_id(fresh[0].request_id)}", method="DELETE"))[0] == 200

        listed: list[str] = []
        after = ""
        while True:
            _, page = await get(f"/v1/responses?limit=4{after}")
            listed += [row["id"] for row in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={listed[-1]}"
    expected = sorted([*fresh[1:], *mine], key=lambda each: (each.started_at, each.request_id), reverse=True)
    assert listed == [response_id(each.request_id) for each in expected]


async def test_an_archive_that_cannot_be_read_is_503_and_no_404(
    rwriter_engines: TestDbEngines, moved: Moved, archive: ArchiveStore, folder: Path
) -> None:
    for index in folder.rglob("index-*.parquet"):
        index.unlink()
    app = responses_app(RequestStore(rwriter_engines), archive=archive, attribute=owner_of)
    async with plain_client(app) as client:
        path = f"/v1/responses/{response_id(moved.aged.old[0].request_id)}"
        answer = await client.get(path, headers={"authorization": f"Bearer {OWNERS[0]}"})
    assert answer.status_code == 503
