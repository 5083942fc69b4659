"""A profile of the input's columns, kept batch by batch, for a dry run."""

from __future__ import annotations

import polars as pl

from ledger.importing.batches import LINE
from ledger.importing.result import ColumnProfile

__all__ = ["Profiler"]

DISTINCT_EXACT_MAX = 10_000
VALUES_MAX = 50
EXAMPLES = 3
_TEXT_MAX = 80


class Profiler:
    """Counts over the columns of every batch; does nothing unless `wanted`."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._columns: dict[str, _Column] = {}

    def add(self, rows: pl.DataFrame) -> None:
        """Count a batch."""
        if self._wanted:
            for column in rows.get_columns():
                if column.name != LINE:
                    self._columns.setdefault(column.name, _Column()).add(column)

    def profile(self) -> list[ColumnProfile]:
        """Return the profile of every column, in the order of the input."""
        return [column.profile(name) for name, column in self._columns.items()]


class _Column:
    """Counts of one column; values are counted one by one until there are too many of them."""

    def __init__(self) -> None:
        self.rows = self.empty = self.distinct = 0
        self.min: str | None = None
        self.max: str | None = None
        self.counts: dict[str, int] | None = {}
        self.examples: dict[str, None] = {}

    def add(self, column: pl.Series) -> None:
        texts = column.replace("", None).drop_nulls()
        self.rows += len(column)
        self.empty += len(column) - len(texts)
        if texts.is_empty():
            return
        low, high = texts.min(), texts.max()
        self.min = str(low) if self.min is None else min(self.min, str(low))
        self.max = str(high) if self.max is None else max(self.max, str(high))
        if len(self.examples) < EXAMPLES:
            self.examples |= dict.fromkeys(texts.head(EXAMPLES).to_list())
        if self.counts is None:
            # Past the exact range the largest batch's estimate is a lower bound, and said to be approximate.
            self.distinct = max(self.distinct, int(texts.to_frame("t").select(pl.col("t").approx_n_unique()).item()))
            return
        for value, count in texts.value_counts().iter_rows():
            self.counts[value] = self.counts.get(value, 0) + count
        self.distinct = len(self.counts)
        if self.distinct > DISTINCT_EXACT_MAX:
            self.counts = None

    def profile(self, name: str) -> ColumnProfile:
        values = None
        if self.counts is not None and len(self.counts) <= VALUES_MAX:
            values = dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))
        return ColumnProfile(
            column=name,
            rows=self.rows,
            empty=self.empty,
            distinct=self.distinct,
            min=None if self.min is None else self.min[:_TEXT_MAX],
            max=None if self.max is None else self.max[:_TEXT_MAX],
            examples=[text[:_TEXT_MAX] for text in list(self.examples)[:EXAMPLES]],
            values=values,
        )
