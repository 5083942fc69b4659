"""Rows on disk between the two passes of an import, so that memory does not grow with the file.

Rows are kept by fine bucket of their account: a bucket holds every row of its accounts, in the order in which they
came, and as many neighbouring buckets are read at once as make a group of bounded size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

__all__ = ["BUCKETS", "Group", "Spill", "bucket_of"]

BUCKETS = 1024
GROUP_ROWS_MAX = 200_000
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
        self._files: list[Path] = []
        self._sizes = [0] * BUCKETS
        self.rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Keep a batch; it has `account_id` and any other columns, the same in every batch."""
        if rows.is_empty():
            return
        placed = rows.with_columns(bucket=bucket_of()).sort("bucket", maintain_order=True)
        for bucket, count in placed.group_by("bucket").len().iter_rows():
            self._sizes[bucket] += count
        self.rows += rows.height
        path = self._folder / f"{self._name}-{len(self._files):06}.parquet"
        # Small row groups, so that a reader of a few buckets skips the others by their statistics.
        placed.write_parquet(path, compression="lz4", row_group_size=ROW_GROUP_ROWS)
        self._files.append(path)

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
        """Return the rows of a group in the order in which they were added, None where there are none."""
        if not sum(self._sizes[group.first : group.last + 1]):
            return None
        inside = pl.col("bucket").is_between(group.first, group.last)
        return pl.scan_parquet(self._files).filter(inside).drop("bucket").collect()

    def scan(self) -> pl.LazyFrame:
        """Return everything, lazily; at least one batch must have been added."""
        return pl.scan_parquet(self._files).drop("bucket")


def folder_for_staging() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder that goes when the import ends."""
    return tempfile.TemporaryDirectory(prefix="ledger-import-")
