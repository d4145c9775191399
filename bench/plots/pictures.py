"""Draw a run: the same JSON gives the same bytes, as the SVG files hold no date and no random ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.peers import LIMIT, THREE, WRITER
from bench.plots.page import within_rounds

_COLOURS: Final = {WRITER: "#0072b2", LIMIT: "#999999", THREE: "#d55e00"}
"""Okabe and Ito's, which colour-blind readers can tell apart; markers and hatches say the same once more."""
_OTHERS: Final = "#e6b450"
_MARKERS: Final = {WRITER: "o", LIMIT: "s", THREE: "^"}
_STYLE: Final[Any] = {  # matplotlib's own type spells out every key there is
    "svg.hashsalt": "rwriter",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_HALF: Final = 0.5

Peers = Mapping[str, Mapping[str, Any]]
"""Figures by peer, of one point."""


def draw(found: Mapping[str, Any], folder: Path, *, prefix: str = "") -> dict[str, str]:
    """Draw what there are figures for; returns by name where each picture is, seen from ``folder``'s parent."""
    makers = {
        "peers": lambda: _bars(found["peers"]["points"]["default"], "ratio", "of COPY's records a second"),
        "cpu": lambda: _bars(found["peers"]["points"]["default"], "cpu_us", "client CPU, µs a record (log)"),
        "batch": lambda: _lines(found["batch"], "records in a batch"),
        "bodies": lambda: _lines(found["bodies"], "request + response"),
        "flushes": lambda: _lines(found["flushes"], "flushes in flight", over=("1", LIMIT)),
        "paths": lambda: _groups(found["paths"], "ratio", "of three statements' records/s"),
        "rows": lambda: _groups(found["rows"], "rate", "of COPY's on empty tables, v7", over=("v7, empty", LIMIT)),
        "wal": lambda: _groups(found["rows"], "wal_bytes", "WAL, bytes a record"),
    }
    needs = {"cpu": "peers", "wal": "rows"}
    drawn = {name: f"{folder.name}/{prefix}{name}.svg" for name in makers if needs.get(name, name) in found}
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, place in drawn.items():
            makers[name]().savefig(folder.parent / place, metadata={"Date": None, "Creator": None})
    return drawn


def _bars(peers: Peers, measure: str, label: str) -> Figure:
    figure, plot = _empty(6.4, 0.5 + 0.26 * len(peers))
    names = sorted(peers, key=lambda name: peers[name]["ratio"]["median"])
    medians = [peers[name][measure]["median"] for name in names]
    colours = [_colour(name) for name in names]
    if measure == "cpu_us":
        # points: on a logarithmic scale the length of a bar says nothing
        plot.set_xscale("log")
        plot.scatter(medians, names, color=colours, s=36, zorder=3)
    else:
        plot.barh(names, medians, color=colours, height=0.7)
    plot.errorbar(medians, names, xerr=_spread(peers, names, measure), fmt="none", ecolor="#444444", elinewidth=0.8)
    for name, median in zip(names, medians, strict=True):
        end = peers[name][measure]["max"]
        plot.annotate(_number(median), (end, name), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    plot.margins(x=0.12)
    plot.set_xlabel(label)
    plot.grid(axis="x", color="#dddddd", linewidth=0.6)
    return figure


def _lines(axis: Mapping[str, Any], label: str, over: tuple[str, str] | None = None) -> Figure:
    figure, plot = _empty(4.8, 2.5)
    labels = list(axis["points"])
    for name in next(iter(axis["points"].values())):
        at = [_ratio(axis, (point, name), over) for point in labels]
        colour = _colour(name)
        plot.plot(
            labels, [one[0] for one in at], marker=_MARKERS.get(name, "d"), markersize=4.5, color=colour, label=name
        )
        plot.fill_between(labels, [one[1] for one in at], [one[2] for one in at], color=colour, alpha=0.15, linewidth=0)
    plot.set_ylim(bottom=0)
    plot.set_xlabel(label)
    plot.set_ylabel("of COPY's records/s" if over is None else f"of COPY's with {over[0]}")
    plot.grid(axis="y", color="#dddddd", linewidth=0.6)
    plot.legend(fontsize=8, loc="lower right")
    return figure


def _groups(axis: Mapping[str, Any], measure: str, label: str, over: tuple[str, str] | None = None) -> Figure:
    figure, plot = _empty(4.8, 2.5)
    labels = list(axis["points"])
    peers = list(next(iter(axis["points"].values())))
    width = 0.8 / len(peers)
    for number, name in enumerate(peers):
        values = [_ratio(axis, (point, name), over, measure) for point in labels]
        left = [index + (number - (len(peers) - 1) / 2) * width for index in range(len(labels))]
        spread = [[one[0] - one[1] for one in values], [one[2] - one[0] for one in values]]
        hatch = "" if name == WRITER else "///"
        heights = [one[0] for one in values]
        plot.bar(left, heights, width * 0.92, color=_colour(name), hatch=hatch, edgecolor="white", label=name)
        plot.errorbar(left, heights, yerr=spread, fmt="none", ecolor="#444444", elinewidth=0.8)
    plot.set_xticks(range(len(labels)), [one.replace(", ", "\n") for one in labels])
    plot.set_ylabel(label)
    plot.margins(y=0.25)
    plot.grid(axis="y", color="#dddddd", linewidth=0.6)
    plot.legend(fontsize=8, loc="upper left", ncols=len(peers))
    return figure


def _empty(width: float, height: float) -> tuple[Figure, Axes]:
    # a Figure of its own, not pyplot's: no display is asked for
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.add_subplot()


def _ratio(
    axis: Mapping[str, Any], at: tuple[str, str], over: tuple[str, str] | None, measure: str = "ratio"
) -> tuple[float, float, float]:
    """Return median, least and most of a measure, or of the rate over another point's in the same round."""
    if over is None:
        one = axis["points"][at[0]][at[1]][measure]
        return one["median"], one["min"], one["max"]
    return within_rounds(axis, at, over)


def _spread(peers: Peers, names: Sequence[str], measure: str) -> list[list[float]]:
    found = [peers[name][measure] for name in names]
    return [[one["median"] - one["min"] for one in found], [one["max"] - one["median"] for one in found]]


def _colour(name: str) -> str:
    return _COLOURS.get(name, _OTHERS)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1 + _HALF else f"{value:,.0f}"
