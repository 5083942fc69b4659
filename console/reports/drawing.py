"""Where the parts of a chart are, in percent of it: a page draws it at any width, and its text keeps its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from console.reports.model import Bars, Columns
from console.words import count

__all__ = ["Bar", "Drawn", "Label", "Part", "drawn_bars", "drawn_columns", "rounded_up", "short"]

#: First digits of the number at the top of a scale, all of which have a half.
_STEPS = (2, 4, 6, 8, 10)

#: Room for so many columns there always is, so that a single one is no wall.
COLUMNS_MIN = 12

_UNITS = ("", "k", "M", "G", "T", "P", "E")


class Part(NamedTuple):
    """A part of a column: of which series (from 0), where, and what it stands for."""

    series: int
    x: float
    y: float
    width: float
    height: float
    words: str


class Label(NamedTuple):
    """Words below a column, and which side of them is at `x`: start, middle or end."""

    words: str
    x: float
    anchor: str


class Drawn(NamedTuple):
    """Stacked columns: their parts, the labels of some, and the numbers at the top and the middle of the scale."""

    parts: Sequence[Part]
    labels: Sequence[Label]
    top: str
    middle: str


class Bar(NamedTuple):
    """One bar: its label, how long it is, and its number with its unit."""

    label: str
    width: float
    words: str


def drawn_columns(chart: Columns) -> Drawn:
    """Return where the parts of stacked columns are, from the ground up in the order of the series."""
    sums = [sum(values) for values in zip(*(values for _, values in chart.series), strict=True)]
    top = rounded_up(max(sums, default=0))
    step = 100 / max(len(chart.labels), COLUMNS_MIN)
    parts = []
    for column, label in enumerate(chart.labels):
        below = 0
        for number, (name, values) in enumerate(chart.series):
            value = values[column]
            below += value
            if value:
                words = f"{label}, {name}: {value:,}"
                y, height = 100 - 100 * below / top, 100 * value / top
                parts.append(Part(number, step * (column + 0.1), y, step * 0.8, height, words))
    return Drawn(parts, _labels(chart.labels, step), short(top), short(top // 2))


def drawn_bars(chart: Bars) -> list[Bar]:
    """Return how long each bar is: the longest has the whole width."""
    longest = max((value for _, value in chart.rows), default=0) or 1
    return [Bar(label, 100 * value / longest, count(value, chart.unit)) for label, value in chart.rows]


def rounded_up(value: int) -> int:
    """Return the number at the top of a scale that a value (>= 0) fits under: one digit, then zeros."""
    power: int = 10 ** (len(str(value)) - 1)
    return next(step * power for step in _STEPS if step * power >= value)


def short(value: int) -> str:
    """Return a number (>= 0) of few digits that are not zero in few characters: `800`, `20k`, `4M`."""
    thousands = min((len(str(value)) - 1) // 3, len(_UNITS) - 1)
    return f"{value // 1_000**thousands:,}{_UNITS[thousands]}"


def _labels(labels: Sequence[str], step: float) -> list[Label]:
    """Return the first, the middle and the last label, which fit at any width."""
    middle = (len(labels) - 1) // 2
    if len(labels) < 8:
        # Too few to be far enough apart.
        ends = labels[:1] if len(labels) == 1 else [labels[0], labels[-1]]
        return [Label(" to ".join(ends), 0, "start")]
    return [
        Label(labels[0], 0, "start"),
        Label(labels[middle], step * (middle + 0.5), "middle"),
        Label(labels[-1], step * len(labels), "end"),
    ]
