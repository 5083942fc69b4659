"""Two ordered streams of rows, cut at the same keys: what of both is known to be whole is compared at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import polars as pl

from replay.comparison.foreign_rows import LIVE_SCHEMA
from replay.comparison.replayed import REPLAYED_SCHEMA
from replay.differences import FOREIGN_FIELDS, differs

__all__ = ["Cut", "Merge", "Side", "paired"]


class Side:
    """Rows of one side that were read and not compared yet."""

    def __init__(self, batches: Iterator[pl.DataFrame], schema: pl.Schema) -> None:
        self._batches = batches
        self._parts: list[pl.DataFrame] = []
        self._height = 0
        self._empty = schema.to_frame()
        self.is_done = False

    def fill(self, rows: int) -> None:
        """Read until there are so many rows, or no more to read."""
        while self._height < rows and not self.is_done:
            part = next(self._batches, None)
            if part is None:
                self.is_done = True
            elif part.height:
                self._parts.append(part)
                self._height += part.height

    def bound(self, rows: int) -> str | None:
        """Return the key of the row after so many, or of the last that is read; null where all rows are before it."""
        if self._height > rows:
            return str(self._held()["account_id"][rows])
        return None if self.is_done else str(self._held()["account_id"][-1])

    def take(self, before: str | None) -> pl.DataFrame:
        """Return the rows before a key, or all, and keep the rest."""
        held = self._held()
        count = held.height if before is None else int(held["account_id"].search_sorted(before, side="left"))
        rest = held.slice(count)
        self._parts, self._height = [rest], rest.height
        return held.head(count)

    def _held(self) -> pl.DataFrame:
        if len(self._parts) != 1:
            self._parts = [pl.concat([self._empty, *self._parts])]
        return self._parts[0]


class Cut(NamedTuple):
    """All rows of both sides up to a key, null where there is nothing after it."""

    live: pl.DataFrame
    replayed: pl.DataFrame
    until: str | None


class Merge:
    """Two streams in the order of code points of their ids."""

    def __init__(self, live: Iterator[pl.DataFrame], replayed: Iterator[pl.DataFrame]) -> None:
        self.live = Side(live, LIVE_SCHEMA)
        self.replayed = Side(replayed, REPLAYED_SCHEMA)

    def cut(self, rows: int) -> Cut:
        """Return the next rows of both sides, about so many of the longer one."""
        wanted = max(rows, 1)
        while True:
            self._fill(wanted)
            bounds = (self.live.bound(wanted), self.replayed.bound(wanted))
            before = min((bound for bound in bounds if bound is not None), default=None)
            live, replayed = self.live.take(before), self.replayed.take(before)
            if before is None:
                return Cut(live, replayed, None)
            if live.height or replayed.height:
                last = [str(taken["account_id"][-1]) for taken in (live, replayed) if taken.height]
                return Cut(live, replayed, max(last))
            # So many rows of one account: its last one is not known yet.
            wanted *= 2

    def _fill(self, rows: int) -> None:
        """Read both sides at once: while a server is waited for, the other side is read.

        Nothing is under way any more when this returns, so both connections are free for other questions. The live
        side has the thread: the store's SQLite wants to be read in the thread that opened it.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="live") as worker:
            filled = worker.submit(self.live.fill, rows)
            self.replayed.fill(rows)
            filled.result()


def paired(live: pl.DataFrame, replayed: pl.DataFrame) -> pl.DataFrame:
    """Return one row an account of either side: live columns, replayed ones with `replayed_` before, and `is_other`.

    `live` has one row an account. `is_other` says that one side has no row, or that a column that is compared differs.
    """
    named = replayed.rename(lambda name: f"replayed_{name}")
    if live["account_id"].equals(replayed["account_id"]):
        # Nearly always: nothing has to be found.
        both = pl.concat([live, named.drop("replayed_account_id")], how="horizontal")
    else:
        both = live.join(
            named, left_on="account_id", right_on="replayed_account_id", how="full", coalesce=True
        ).with_columns(pl.col("is_unread").fill_null(False))
    is_one_sided = pl.col("balance").is_null() | pl.col("replayed_balance").is_null()
    return both.with_columns(
        is_other=is_one_sided | pl.any_horizontal(differs(field, FOREIGN_FIELDS) for field in FOREIGN_FIELDS)
    )
