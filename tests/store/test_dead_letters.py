"""Dead letters are listed, shown, stored again when the cause is mended, and purged by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from rwriter import InvalidCursor, RequestStore
from rwriter.schema import dead_letters
from rwriter.store import DeadLetters, cursor_after
from rwriter.testing import TestDbEngines
from tests.support.fates import ids, stored
from tests.support.records import STARTED, record


@pytest.mark.both_schemas(
    "DeadLetters.listing", "DeadLetters.get", "DeadLetters.show", "DeadLetters.replay", "DeadLetters.purge"
)
async def test_a_letter_is_listed_and_shown_and_gone_once_its_record_is_stored_or_it_is_purged(
    engines: TestDbEngines, store: RequestStore
) -> None:
    dead, buried = DeadLetters(engines), [record(), record()]
    for each in buried:
        await store.bury(each, sqlstate="23514", error="no")
    letters = await dead.listing()
    assert [letter.request_id for letter in letters] == [each.request_id for each in buried]
    assert await dead.show(letters[0].id) == buried[0]
    assert await dead.get(letters[1].id) == letters[1]
    assert await dead.replay(letters[0].id) == (1, 0)
    assert await stored(engines) == ids(buried[:1])
    assert [letter.request_id for letter in await dead.listing()] == [buried[1].request_id]
    assert await dead.purge(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await dead.purge(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert await dead.listing() == []
    assert await dead.get(letters[1].id) is None


async def test_a_listing_goes_on_after_the_last_letter_of_the_page_before(
    engines: TestDbEngines, store: RequestStore
) -> None:
    dead, buried = DeadLetters(engines), [record() for _ in range(5)]
    for each in buried:
        await store.bury(each, sqlstate="23514", error="no")
    async with engines.write.begin() as connection:
        # some of the same instant: the ids decide
        of_one_instant = dead_letters.c.request_id.in_([each.request_id for each in buried[:3]])
        await connection.execute(update(dead_letters).where(of_one_instant).values(created_at=STARTED))
    found, cursor = [], None
    while page := await dead.listing(2, cursor=cursor, consistent=False):
        found += page
        cursor = cursor_after(page[-1])
    assert found == await dead.listing()
    assert sorted(letter.request_id for letter in found) == sorted(each.request_id for each in buried)
    with pytest.raises(InvalidCursor):
        await dead.listing(cursor="?")
