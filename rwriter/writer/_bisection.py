"""The search for the bad items of a batch that was refused as a whole. Pure: it names the probes and takes answers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Step(NamedTuple, Generic[T]):
    """One step of a search: try ``items`` together, or, where ``is_bad``, take the one item as found."""

    items: list[T]
    is_bad: bool


def halving_search(suspects: Sequence[T]) -> Generator[Step[T], bool | None, None]:
    """Yield the steps that find the bad items among ``suspects``, which were refused together.

    Send True after a try that was accepted, False after one that was refused. The search is a halving one whose probes
    accept the good items. When one half goes in, the other must hold a bad item; the items that a failed probe leaves
    untested are tried as a whole once that item is found. So one bad item among n costs log2(n) probes and one try for
    the rest. Where bad items are dense, the probes go item by item.
    """
    left = list(suspects)
    good = bad = tries = 0
    while left:
        untested: list[T] = []
        while len(left) > 1:
            # past as many tries as there are items, halving has not paid
            size = 1 if good < bad or tries >= len(suspects) else len(left) // 2
            probe, others = left[:size], left[size:]
            tries += 1
            if (yield Step(probe, is_bad=False)):
                good += size
                left = others
            else:
                left, untested = probe, others + untested
        yield Step(left, is_bad=True)
        bad += 1
        left = []
        tries += 1
        if untested and not (yield Step(untested, is_bad=False)):
            left = untested
