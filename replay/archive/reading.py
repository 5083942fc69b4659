"""Lazy scans over the data files of an archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import polars as pl

from replay.archive.files import DataFile
from replay.archive.schema import ARCHIVE_SCHEMA
from replay.archive.table import Archive

__all__ = ["account_ranges", "files_of", "scan", "slices"]


def scan(archive: Archive, files: Sequence[DataFile]) -> pl.LazyFrame:
    """Return the events of some data files (`ARCHIVE_SCHEMA`) as they lie; an empty frame where there is no file."""
    if not files:
        return ARCHIVE_SCHEMA.to_frame().lazy()
    location = archive.location
    paths = [location.of(file.name) for file in files]
    return pl.scan_parquet(
        paths, schema=ARCHIVE_SCHEMA, glob=False, storage_options=dict(location.options) or None, cache=False
    )


def files_of(files: Sequence[DataFile], account_ids: Sequence[str]) -> list[DataFile]:
    """Return the files that may hold events of some accounts."""
    wanted = sorted(account_ids)
    return [file for file in files if any(file.first_account <= each <= file.last_account for each in wanted)]


def slices(archive: Archive, files: Sequence[DataFile], events_max: int) -> Iterator[pl.LazyFrame]:
    """Yield the events of some files in slices of about so many, every account's together in one of them."""
    ordered = sorted(files, key=lambda file: file.first_account)
    if any(left.last_account >= right.first_account for left, right in pairwise(ordered)):
        for first, last in account_ranges(archive, files, events_max):
            some = [file for file in files if file.first_account <= last and first <= file.last_account]
            yield scan(archive, some).filter(pl.col("account_id").is_between(pl.lit(first), pl.lit(last)))
        return
    group: list[DataFile] = []
    for file in ordered:
        if group and sum(each.events for each in group) + file.events > events_max:
            yield scan(archive, group)
            group = []
        group.append(file)
    yield scan(archive, group)


def account_ranges(archive: Archive, files: Sequence[DataFile], events_max: int) -> list[tuple[str, str]]:
    """Return the first and last accounts of ranges of about so many events, in order; no range cuts an account."""
    counts = scan(archive, files).group_by("account_id").agg(pl.len()).collect().sort("account_id")
    # An account goes where its first event would, were all of them laid end to end.
    number = (counts["len"].cum_sum() - counts["len"]) // events_max
    ranges = counts.group_by(number.alias("number"), maintain_order=True).agg(
        pl.col("account_id").first().alias("first"), pl.col("account_id").last().alias("last")
    )
    return list(ranges.select("first", "last").iter_rows())
