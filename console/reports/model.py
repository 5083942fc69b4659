"""What a report says, whatever it is about: a headline, figures, and sections of words, charts, tables and entries.

A renderer knows nothing of what a report is about, and a report nothing of how it is shown. Values are as they came,
of ids that others chose too: each renderer escapes what it has to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

__all__ = ["Bars", "Columns", "Entry", "Figure", "Report", "Section"]


class Figure(NamedTuple):
    """A number that matters, and what it counts."""

    label: str
    value: int


class Columns(NamedTuple):
    """A chart of stacked columns: a column a label, a part a series (its name, and a number >= 0 a column)."""

    title: str
    description: str
    labels: Sequence[str]
    series: Sequence[tuple[str, Sequence[int]]]


class Bars(NamedTuple):
    """A chart of bars, one a row: its label, and a number >= 0 of what `unit` says."""

    title: str
    description: str
    rows: Sequence[tuple[str, int]]
    unit: str


class Entry(NamedTuple):
    """One thing that has more to say than a row of a table: facts are named values, `log` is what happened to it."""

    title: str
    marks: Sequence[str]
    words: str
    facts: Sequence[tuple[str, str]]
    log: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a report; the numbers of its chart stand in its table too, and `rest` says what it leaves out."""

    title: str
    words: Sequence[str] = ()
    chart: Columns | Bars | None = None
    table: pl.DataFrame | None = None
    entries: Sequence[Entry] = ()
    rest: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report; `facts` say what it is of, `notes` what it does not vouch for.

    `document` has everything, nothing left out, as JSON: a frame stands for its rows.
    """

    title: str
    verdict: str
    headline: str
    made_at: datetime
    facts: Sequence[tuple[str, str]]
    figures: Sequence[Figure]
    notes: Sequence[str]
    sections: Sequence[Section]
    document: Mapping[str, Any]
