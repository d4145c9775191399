"""Dead letters are listed, shown, stored again when the cause is mended, and purged by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rwriter import RequestStore
from rwriter.store import DeadLetters
from rwriter.testing import TestDbEngines
from tests.support.fates import ids, stored
from tests.support.records import record


@pytest.mark.both_schemas("DeadLetters.listing", "DeadLetters.show", "DeadLetters.replay", "DeadLetters.purge")
async def test_a_letter_is_listed_and_shown_and_gone_once_its_record_is_stored_or_it_is_purged(
    engines: TestDbEngines, store: RequestStore
) -> None:
    dead, buried = DeadLetters(engines), [record(), record()]
    for each in buried:
        await store.bury(each, sqlstate="23514", error="no")
    letters = await dead.listing()
    assert [letter.request_id for letter in letters] == [each.request_id for each in buried]
    assert await dead.show(letters[0].id) == buried[0]
    assert await dead.replay(letters[0].id) == (1, 0)
    assert await stored(engines) == ids(buried[:1])
    assert [letter.request_id for letter in await dead.listing()] == [buried[1].request_id]
    assert await dead.purge(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await dead.purge(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert await dead.listing() == []
