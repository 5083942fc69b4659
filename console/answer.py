"""What a command answers: a verdict, named fields, at most one table, and words for people.

A command returns an `Answer` and prints nothing; `console.render` shows it in whatever form was asked for, and
the exit status follows from the verdict. So one result reads the same as text, CSV, JSON and Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["EXIT_STATUS", "Answer"]

#: The exit status that a verdict stands for. A verdict that is not here is a bug, and fails loudly.
EXIT_STATUS = {
    "OK": 0,
    "COMPLETE": 0,
    "EQUAL": 0,
    "CLEAN": 0,
    "DRIFT": 1,
    "FINDINGS": 1,
    "REJECTS": 3,
    "INCOMPLETE": 3,
    "INCOMPARABLE": 3,
    "REFUSED": 4,
    "FAILED": 5,
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One result.

    `fields` stand beside `verdict` in the JSON document, in this order (a frame as a list of rows, a time as
    text); `table` stands there too, under `table_name`, unless that is None because `fields` say it better. In words
    `shown` stands for the table, where a shorter one says it. `summary` is what people read before the table, `notes`
    what they read after it, a line each. `texts` are ready renderings by format name. `also` are further verdicts
    that hold.
    """

    verdict: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    table: pl.DataFrame | None = None
    table_name: str | None = None
    shown: pl.DataFrame | None = None
    summary: Sequence[str] = ()
    notes: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    also: Sequence[str] = ()

    @property
    def exit_status(self) -> int:
        """The highest status of the verdicts that hold."""
        return max(EXIT_STATUS[verdict] for verdict in (self.verdict, *self.also))
