"""The halving search alone, against batches with bad items anywhere."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwriter.writer._bisection import halving_search


def searched(size: int, bad: set[int]) -> tuple[list[int], list[int], int]:
    """The items accepted, the items found bad, and the number of tries, of a batch refused as a whole."""
    accepted: list[int] = []
    found: list[int] = []
    tries = 0
    search = halving_search(range(size))
    answer: bool | None = None
    with contextlib.suppress(StopIteration):
        while True:
            step = search.send(answer)
            if step.is_bad:
                found += step.items
                continue
            tries += 1
            answer = bad.isdisjoint(step.items)
            accepted += step.items if answer else []
    return accepted, found, tries


@given(
    st.integers(1, 130).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1), min_size=1)))
)
def test_each_good_item_is_accepted_once_and_each_bad_one_found_once(batch: tuple[int, set[int]]) -> None:
    size, bad = batch
    accepted, found, tries = searched(size, bad)
    assert sorted(accepted) == sorted(set(range(size)) - bad)
    assert sorted(found) == sorted(bad)
    # whatever is bad: as many tries as items, and then a probe and a try of the rest for each
    assert tries <= 3 * size


@pytest.mark.parametrize("size", [2, 3, 10, 100, 128])
def test_one_bad_item_costs_the_logarithm_of_the_batch_and_one_try_for_the_rest(size: int) -> None:
    for place in range(size):
        assert searched(size, {place})[2] <= math.ceil(math.log2(size)) + 1
