"""The same on S3: moved, read, erased; and the server's own words where it says no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter import ArchiveUnusable, RequestFilter, RequestStore
from rwriter.archive import ArchiveStore, archive_partitions
from tests.support.archiving import CUTS, OWNERS, Aged, archived_details, details
from tests.support.buckets import BUCKET, ENVIRONMENT, bucket_in


@pytest.fixture
def bucket(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of an archive in a bucket of its own server, the credentials in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with bucket_in(tmp_path_factory.mktemp("s3")) as address:
        yield f"s3://{BUCKET}/a/b?scheme=http&endpoint_override={address}"


async def test_an_archive_on_s3_is_moved_read_and_erased_as_one_in_a_folder(
    engine: AsyncEngine, store: RequestStore, aged: Aged, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await details(store, aged.old)
    asked = RequestFilter(created_by=OWNERS[1], created_before=aged.second_week[-1].started_at)
    page = await store.list_requests(asked)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(ArchiveUnusable, match=r"cannot be used.*AWS Error"):
            await archive_partitions(engine, aged.now, bucket, cuts=CUTS)

    fates = await archive_partitions(engine, aged.now, bucket, cuts=CUTS)

    assert [fate.state for fate in fates] == ["archived", "archived"]
    with ArchiveStore(bucket) as archive:
        assert await archived_details(archive, aged.old) == before
        assert await archive.list_requests(asked) == page
        receipt = await archive.erase(OWNERS[1])
        assert (receipt.requests, receipt.partitions) == (12, 2)
        left = {key: value for key, value in before.items() if value is not None and value.created_by != OWNERS[1]}
        assert {key: await archive.get_request(key) for key in left} == left
        assert (await archive.list_requests(asked)).total_count == 0
        assert await archive.remove_strays() == 0
