"""Rows on disk between the two passes of an import, so that memory does not grow with the file.

Rows are kept by fine bucket of their account: a bucket holds every row of its accounts, in the order in which they
came, and as many neighbouring buckets are read at once as make a group of bounded size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import polars as pl

__all__ = ["BUCKETS", "Group", "Spill", "bucket_of"]

BUCKETS = 1024
GROUP_ROWS_MAX = 50_000
ROW_GROUP_ROWS = 4096


class Group(NamedTuple):
    """Neighbouring buckets, both ends inclusive, and how many rows they hold."""

    first: int
    last: int
    rows: int


def bucket_of(account_id: str = "account_id") -> pl.Expr:
    """The bucket of an account: the same in every part of one import."""
    return (pl.col(account_id).hash(0) % BUCKETS).cast(pl.Int16)


class Spill:
    """A folder of Parquet files, each one batch of rows in bucket order."""

    def __init__(self, folder: Path | str, name: str) -> None:
        self._folder = Path(folder)
        self._name = name
        # Each file with the places where its buckets begin, and its end.
        self._files: list[tuple[Path, list[int]]] = []
        self._sizes = [0] * BUCKETS
        self.rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Keep a batch; it has `account_id` and any other columns, the same in every batch."""
        if rows.is_empty():
            return
        buckets = rows.select(bucket_of()).to_series()
        sizes = [0] * BUCKETS
        for bucket, count in buckets.value_counts().iter_rows():
            sizes[bucket] = count
            self._sizes[bucket] += count
        self.rows += rows.height
        path = self._folder / f"{self._name}-{len(self._files):06}.parquet"
        # Groups are read by place, so no statistics are wanted, and small row groups let a reader skip the others.
        order = buckets.to_frame("bucket").select(pl.arg_sort_by("bucket", maintain_order=True)).to_series()
        placed = rows.select(pl.all().gather(order))
        placed.write_parquet(path, compression="lz4", row_group_size=ROW_GROUP_ROWS, statistics=False)
        self._files.append((path, list(accumulate(sizes, initial=0))))

    def groups(self) -> Iterator[Group]:
        """Yield all buckets in order as groups of bounded size; one bucket past the bound is a group of its own."""
        first, rows = 0, 0
        for bucket, size in enumerate(self._sizes):
            if rows and rows + size > GROUP_ROWS_MAX:
                yield Group(first, bucket - 1, rows)
                first, rows = bucket, 0
            rows += size
        if rows:
            yield Group(first, BUCKETS - 1, rows)

    def read(self, group: Group) -> pl.DataFrame | None:
        """Return a group's rows, each account's in the order in which they were added, None where there are none."""
        parts = []
        for path, starts in self._files:
            start, end = starts[group.first], starts[group.last + 1]
            if end > start:
                parts.append(pl.scan_parquet(path).slice(start, end - start))
        return pl.concat(pl.collect_all(parts)) if parts else None

    def scan(self) -> pl.LazyFrame:
        """Return everything, lazily; at least one batch must have been added."""
        return pl.scan_parquet([path for path, _ in self._files])


def folder_for_staging() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder that goes when the import ends."""
    return tempfile.TemporaryDirectory(prefix="ledger-import-")
