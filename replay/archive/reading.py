"""Lazy scans over the data files of an archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import polars as pl

from replay.archive.causes import cause, damaged_files
from replay.archive.files import DataFile
from replay.archive.schema import ARCHIVE_SCHEMA, CODED
from replay.archive.table import Archive
from schemas.errors import IncompleteError

__all__ = ["account_ranges", "files_of", "need_whole", "reading", "scan", "slices", "uncoded"]

_CODED_SCHEMA = pl.Schema({**ARCHIVE_SCHEMA, **CODED})
_INT32_MAX, _INT64_MAX = 2**31 - 1, 2**63 - 1


def scan(archive: Archive, files: Sequence[DataFile], *, is_coded: bool = False) -> pl.LazyFrame:
    """Return the events of some data files (`ARCHIVE_SCHEMA`) as they lie; an empty frame where there is no file.

    With `is_coded` the columns of `CODED` stay codes, and amounts are Int32 where each of them fits, and all together
    fit into Int64: several times less to do for a fold that only compares and adds.
    """
    if not files:
        return ARCHIVE_SCHEMA.to_frame().lazy()
    location = archive.location
    events = pl.scan_parquet(
        [location.of(file.name) for file in files],
        schema=_CODED_SCHEMA if is_coded else ARCHIVE_SCHEMA,
        cast_options=pl.ScanCastOptions(categorical_to_string="allow"),
        glob=False,
        storage_options=location.reading_options,
        cache=False,
    )
    # Whoever adds up amounts of 32 bits in 64 may rely on it that all of them fit.
    amount_max = max(file.amount_max for file in files)
    is_small = amount_max <= _INT32_MAX and amount_max * sum(file.events for file in files) <= _INT64_MAX
    return events.with_columns(pl.col("amount").cast(pl.Int32)) if is_coded and is_small else events


def uncoded(events: pl.LazyFrame) -> pl.LazyFrame:
    """Return coded events with the types of `ARCHIVE_SCHEMA`."""
    return events.cast({name: ARCHIVE_SCHEMA[name] for name in (*CODED, "amount")})


def files_of(files: Sequence[DataFile], account_ids: Sequence[str]) -> list[DataFile]:
    """Return the files that may hold events of some accounts."""
    wanted = sorted(account_ids)
    return [file for file in files if any(file.first_account <= each <= file.last_account for each in wanted)]


def slices(
    archive: Archive, files: Sequence[DataFile], events_max: int, *, is_coded: bool = False
) -> Iterator[pl.LazyFrame]:
    """Yield the events of some files in slices of about so many, every account's together in one of them.

    `is_coded` is that of `scan`.
    """
    ordered = sorted(files, key=lambda file: file.first_account)
    if any(left.last_account >= right.first_account for left, right in pairwise(ordered)):
        for first, last in account_ranges(archive, files, events_max):
            some = [file for file in files if file.first_account <= last and first <= file.last_account]
            is_in = pl.col("account_id").is_between(pl.lit(first), pl.lit(last))
            yield scan(archive, some, is_coded=is_coded).filter(is_in)
        return
    group: list[DataFile] = []
    for file in ordered:
        if group and sum(each.events for each in group) + file.events > events_max:
            yield scan(archive, group, is_coded=is_coded)
            group = []
        group.append(file)
    yield scan(archive, group, is_coded=is_coded)


def account_ranges(archive: Archive, files: Sequence[DataFile], events_max: int) -> list[tuple[str, str]]:
    """Return the first and last accounts of ranges of about so many events, in order; no range cuts an account."""
    with reading(archive):
        counts = scan(archive, files).group_by("account_id").agg(pl.len()).collect().sort("account_id")
    # An account goes where its first event would, were all of them laid end to end.
    number = (counts["len"].cum_sum() - counts["len"]) // events_max
    ranges = counts.group_by(number.alias("number"), maintain_order=True).agg(
        pl.col("account_id").first().alias("first"), pl.col("account_id").last().alias("last")
    )
    return list(ranges.select("first", "last").iter_rows())


@contextmanager
def reading(archive: Archive) -> Iterator[None]:
    """Read data files that were found whole: IncompleteError where one was taken away since.

    ArchiveError where the place of the archive does not answer.
    """
    try:
        with archive.location.reached():
            yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise IncompleteError(
            f"a data file that was whole cannot be read any more: {cause(error)}",
            where=archive.location.url,
            next_step="run it again: the archive may have been compacted and vacuumed meanwhile",
        ) from error


def need_whole(archive: Archive, files: Sequence[DataFile], consequence: str) -> None:
    """IncompleteError, with the consequence, where one of some files is not what was written."""
    bad = archive.files.check(files)
    if bad:
        raise IncompleteError(
            f"{consequence}, since of the {len(files):,} files to be read {damaged_files(bad)}",
            where=archive.location.url,
            next_step="see `archive --check`; put them back from a copy, or move the archive away and make it again",
        )
