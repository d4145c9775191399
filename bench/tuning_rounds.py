"""Variants of one idea beside what the library does: a turn of each in every round, and ratios within the round."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from bench import report, turns
from bench.axes import Setting
from bench.database import SCHEMA, Database
from bench.peers import Peer
from bench.traffic import Bodies, Traffic

MEASURES: Final = ("rate", "cpu_us", "server_us", "wal_bytes")
"""Of these ratios are told; what else a variant measures stands for itself."""

Extra = Mapping[str, float]
After = Callable[[], Awaitable[Extra]]
Turn = Mapping[str, float]
"""Measures by name."""


async def nothing() -> Extra:
    """No more than every turn is measured by."""
    return {}


@dataclasses.dataclass(frozen=True)
class Way:
    """A variant, opened. ``after``: what else there is to tell when a turn is over and its rows are still there."""

    peer: Peer
    after: After = nothing


Open = Callable[[Database, Setting], AbstractAsyncContextManager[Way]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """``ddl``: statements that make the tables what the variant wants, once, in a schema of their own."""

    open: Open
    setting: Setting = dataclasses.field(default_factory=Setting)
    ddl: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Variants by label, the first one what the others are ratios to. ``share``: of the records of a full turn."""

    title: str
    variants: Mapping[str, Variant]
    share: float = 1.0
    # a server without lz4 can be asked for it, and refuses
    needs_lz4: bool = False


@dataclasses.dataclass(frozen=True)
class _Case:
    label: str
    way: Way
    turn: turns.Case


async def measure(comparison: Comparison, url: str, *, rounds: int, count: int) -> list[Mapping[str, Turn]]:
    """Each variant's turn by label, ``rounds`` times, in another order each time."""
    async with contextlib.AsyncExitStack() as stack:
        cases = await _opened(comparison, url, stack, int(count * comparison.share))
        for case in cases:
            await _turn(case, case.turn.bodies[: max(20, int(len(case.turn.bodies) * turns.WARM_UP))])
        return [
            {case.label: await _turn(case, case.turn.bodies) for case in turns.rotated(cases, number)}
            for number in range(rounds)
        ]


def as_json(title: str, labels: Sequence[str], rounds: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    """``variants`` by label: the rounds of each measure, and in ``ratios`` those to the first label's."""
    return {"title": title, "variants": {label: _figures(label, labels[0], rounds) for label in labels}}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Two lines for each variant: the ratios with their spread, and the medians they are made of."""
    text = [f"\n{found['title']}"]
    for label, figures in found["variants"].items():
        ratios = "  ".join(f"{name} {_spread(figure)}" for name, figure in figures["ratios"].items())
        medians = "  ".join(f"{name} {figure['median']:,.4g}" for name, figure in figures["measures"].items())
        text += [f"  {label:<34} {ratios or '(what the others are compared with)'}", f"  {'':<34} {medians}"]
    return text


async def _turn(case: _Case, bodies: Sequence[Bodies]) -> Turn:
    figure = await turns.turn(case.turn, bodies)
    told = {name: getattr(figure, name) for name in MEASURES if getattr(figure, name) is not None}
    a_transaction = figure.stored.rows / figure.stored.transactions
    return told | {"records_a_transaction": a_transaction, **await case.way.after()}


async def _opened(comparison: Comparison, url: str, stack: contextlib.AsyncExitStack, count: int) -> list[_Case]:
    made: dict[tuple[str, ...], Database] = {}
    bodies: dict[tuple[int, int], Sequence[Bodies]] = {}
    cases = []
    for label, variant in comparison.variants.items():
        setting, ddl = variant.setting, tuple(variant.ddl)
        if ddl not in made:
            made[ddl] = await stack.enter_async_context(_tables(url, f"{SCHEMA}_{len(made)}", ddl))
        size = (setting.request_bytes, setting.response_bytes)
        if size not in bodies:
            bodies[size] = Traffic().bodies(count, request_bytes=size[0], response_bytes=size[1])
        way = await stack.enter_async_context(variant.open(made[ddl], setting))
        cases.append(_Case(label, way, turns.Case(("", label), way.peer, made[ddl], setting, bodies[size])))
    return cases


@contextlib.asynccontextmanager
async def _tables(url: str, schema: str, ddl: Sequence[str]) -> AsyncIterator[Database]:
    database = Database(url, schema)
    async with database.tables():
        async with database.control() as connection:
            for statement in ddl:
                await connection.exec_driver_sql(statement)
        yield database


def _figures(label: str, first: str, rounds: Sequence[Mapping[str, Turn]]) -> dict[str, Any]:
    names = list(rounds[0][label])
    ratios = [name for name in names if name in MEASURES or name.endswith("_us")] if label != first else []
    return {
        "measures": {name: report.summary([one[label][name] for one in rounds]) for name in names},
        "ratios": {
            name: report.summary([one[label][name] / one[first][name] for one in rounds])
            for name in ratios
            if all(one[first].get(name) for one in rounds)
        },
    }


def _spread(figure: Mapping[str, Any]) -> str:
    return f"{figure['median']:.2f} [{figure['min']:.2f} .. {figure['max']:.2f}]"
