"""Whether the versions that were read of each account are there once each: by their number, the last one and their sum.

Data files are hashed and the table's log has a hash over all of them, so this is a second defence: it costs next to
nothing where accounts are counted anyway. `archive --check` looks at every version by itself.
"""

from __future__ import annotations

import polars as pl

from replay.archive.reading import scan
from replay.archive.table import Archive, Snapshot
from schemas.errors import IncompleteError

__all__ = ["IS_EACH_ONCE", "counted", "need_all_each_once", "need_each_once"]

_LAST = pl.col("version")

#: Of what `counted` gives.
IS_EACH_ONCE = (pl.col("events") == _LAST) & (pl.col("sum") == _LAST * (_LAST + 1) // 2)


def counted(events: pl.LazyFrame) -> pl.LazyFrame:
    """Return the last `version` of each account, how many `events` it has, and the `sum` of their versions."""
    count = pl.len().cast(pl.Int64).alias("events")
    return events.group_by("account_id").agg(_LAST.max(), count, _LAST.sum().alias("sum"))


def need_each_once(counts: pl.DataFrame, where: str) -> None:
    """IncompleteError where what was `counted` of an account is not each of its versions once."""
    wrong = counts.filter(~IS_EACH_ONCE).sort("account_id").select("account_id", "events", "version")
    if wrong.height:
        account_id, events, version = wrong.row(0)
        raise IncompleteError(
            f"the versions of accounts are not there once each: {account_id!r} has {events:,} events, the last of them "
            f"version {version:,}" + (f"; {wrong.height - 1:,} more accounts" if wrong.height > 1 else ""),
            where=where,
            next_step="see `archive --check`",
        )


def need_all_each_once(archive: Archive, snapshot: Snapshot) -> None:
    """As `need_each_once` for all of an archive, once for each version of its table: what was counted stays so."""
    if archive.added_up != snapshot.held.manifest:
        counts = counted(scan(archive, snapshot.files)).collect(engine="streaming")
        need_each_once(counts, archive.location.url)
        archive.added_up = snapshot.held.manifest
