"""Compaction: the events of an archive sorted by account over all its files, so that a history is a few row groups.

Accounts are divided into ranges of about as many events as one file holds; each range is read from all files, sorted
by `(account_id, version)` and written as a file. One commit then puts the new files in the place of the old ones:
until that, and after a kill at any moment, the archive is what it was. The old files stay until they are vacuumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from replay.archive.files import DataFile, Written
from replay.archive.reading import need_whole, reading, slices
from replay.archive.state import State
from replay.archive.table import Archive, Snapshot
from schemas.errors import IncompleteError, PositionMoved

__all__ = ["FILE_EVENTS", "compact"]

#: Events of one sorted file; an account that has more is a file of its own.
FILE_EVENTS = 1_000_000

#: How often the commit is tried while others append.
ATTEMPTS = 5

#: Called with events done and events in all.
Progress = Callable[[int, int | None], None]


def compact(archive: Archive, *, file_events: int = FILE_EVENTS, progress: Progress | None = None) -> Snapshot | None:
    """Sort the files that overlap others; None where there is no archive.

    IncompleteError where a file is damaged; PositionMoved where another process replaced the files first.
    """
    base = archive.snapshot()
    if base is None or base.state is None:
        return base
    old = _overlapping(base.files, file_events)
    if not old:
        return base
    need_whole(archive, old, "the archive is left as it is")
    new: list[Written] = []
    done, events = 0, sum(file.events for file in old)
    for written in _sorted(archive, old, file_events):
        new.append(written)
        done += written.file.events
        if progress is not None:
            progress(done, events)
    if done != events:
        raise IncompleteError(
            f"the files to be sorted have {done:,} events, the table's log says {events:,}: they are left as they are",
            where=archive.location.url,
            next_step="see `archive --check`",
        )
    return _replaced(archive, base, base.state, old, new)


def _overlapping(files: Sequence[DataFile], file_events: int) -> list[DataFile]:
    """Return the files that are to be sorted anew: those that share accounts with others, and neighbours too small."""
    found: list[DataFile] = []
    group: list[DataFile] = []
    last = ""
    for file in sorted(files, key=lambda each: (each.first_account, each.last_account)):
        is_small = group and sum(each.events for each in group) + file.events <= file_events
        if group and file.first_account > last and not is_small:
            found += group if len(group) > 1 else []
            group = []
        group.append(file)
        last = max(last, file.last_account)
    return found + (group if len(group) > 1 else [])


def _sorted(archive: Archive, files: Sequence[DataFile], file_events: int) -> Iterator[Written]:
    for events in slices(archive, files, file_events):
        with reading(archive):
            rows = events.collect().sort("account_id", "version")
        # Only the chain at an account's last event is of use.
        is_last = pl.col("account_id").ne_missing(pl.col("account_id").shift(-1))
        yield archive.files.put(rows.with_columns(chain=pl.when(is_last).then("chain")))


def _replaced(
    archive: Archive, base: Snapshot, state: State, old: Sequence[DataFile], new: Sequence[Written]
) -> Snapshot:
    """Commit the new files for the old ones; what others appended meanwhile stays."""
    # A file that comes out as it was has the name that it had: it stays, and is neither removed nor added.
    same = {each.name for each in old} & {each.file.name for each in new}
    old = [each for each in old if each.name not in same]
    new = [each for each in new if each.file.name not in same]
    if not old:
        return base
    for attempt in range(ATTEMPTS):
        _need_there(archive, new)
        try:
            return archive.commit(base, state, added=new, removed=old)
        except PositionMoved:
            found = archive.snapshot()
            if (
                attempt == ATTEMPTS - 1
                or found is None
                or found.state is None
                or not {each.name for each in old} <= {each.name for each in found.files}
            ):
                raise
            base, state = found, found.state
    raise AssertionError("the last attempt returns or raises")


def _need_there(archive: Archive, new: Sequence[Written]) -> None:
    """PositionMoved unless the files that are to be committed are there still: each is written whole or not at all."""
    there = archive.files.sizes()
    gone = [each.file.name for each in new if there.get(each.file.name) != each.file.bytes]
    if gone:
        raise PositionMoved(
            f"another process deleted {len(gone):,} files of this compaction before they were committed",
            where=archive.location.of(gone[0]),
            next_step="the archive is as it was: run it again",
        )
