"""The check of an archive: every byte of its data files, and that every account's versions are there once each.

A replay checks the files that it reads, and adds up their events. This reads all of them, and looks at every version.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from replay.archive.full_replay import damage
from replay.archive.reading import reading, slices
from replay.archive.state import State
from replay.archive.table import Archive, Snapshot
from replay.certificate import COMPLETE, INCOMPLETE, Damaged
from replay.engine import Progress
from schemas.errors import UsageError

__all__ = ["Checked", "Miscounted", "check"]

#: Events whose versions are looked at together: this bounds memory.
SLICE_EVENTS = 4_000_000


class Miscounted(NamedTuple):
    """An account whose versions do not run from 1 without hole or repeat."""

    account_id: str
    events: int
    versions: int
    first_version: int
    last_version: int


class Checked(NamedTuple):
    """What a check found: `files` belong to the archive, `damaged` are those of them that are not what was written.

    `events` counts the rows of the other files; `miscounted` are accounts in them whose versions are not whole. An
    account that a damaged file may have events of is never among these. COMPLETE also means that no account is parked
    and no partition unread, and that the last run came to its end. `snapshot` is the archive that all this is about.
    """

    verdict: str
    files: int
    events: int
    damaged: list[Damaged]
    miscounted: list[Miscounted]
    snapshot: Snapshot

    @property
    def state(self) -> State:
        """What the archive should have."""
        return self.snapshot.held


def check(archive: Archive, *, progress: Progress | None = None) -> Checked:
    """Hash every data file and look at every account's versions.

    This is so too after a run that did not come to its end, since none can go on from files that are damaged.
    UsageError where there is no archive; IncompleteError where its log was damaged.
    """
    snapshot = archive.snapshot()
    if snapshot is None or snapshot.state is None:
        raise UsageError(
            "there is no archive", where=archive.location.url, next_step="make it with `ledger-replay archive`"
        )
    archive.files.forget()
    bad = archive.files.check(snapshot.files)
    damaged = [damage(file, bad[file.name]) for file in snapshot.files if file.name in bad]
    events, miscounted = _versions(archive, snapshot, damaged, progress)
    state = snapshot.held
    is_counted = bool(damaged) or events == state.events
    is_held_back = bool(state.parked or state.poison or state.unread)
    is_whole = state.concluded and is_counted and not (damaged or miscounted or is_held_back)
    return Checked(COMPLETE if is_whole else INCOMPLETE, len(snapshot.files), events, damaged, miscounted, snapshot)


def _versions(
    archive: Archive, snapshot: Snapshot, damaged: list[Damaged], progress: Progress | None
) -> tuple[int, list[Miscounted]]:
    """Return how many events there are, and the accounts whose versions are not 1, 2, 3 and so on, each once."""
    lost = {each.file for each in damaged}
    whole = [file for file in snapshot.files if file.name not in lost]
    in_all = sum(file.events for file in whole)
    version = pl.col("version")
    done = 0
    found: list[Miscounted] = []
    for events in slices(archive, whole, SLICE_EVENTS):
        asked = events.group_by("account_id").agg(
            pl.len().alias("events"),
            version.n_unique().alias("versions"),
            version.min().alias("first"),
            version.max().alias("last"),
        )
        with reading(archive):
            counts = asked.collect(engine="streaming")
        done += int(counts["events"].sum())
        is_whole = (
            (pl.col("events") == pl.col("last")) & (pl.col("versions") == pl.col("last")) & (pl.col("first") == 1)
        )
        wrong = counts.filter(~is_whole).sort("account_id")
        rows = (Miscounted(*row) for row in wrong.iter_rows())
        found += (row for row in rows if not any(each.may_have(row.account_id) for each in damaged))
        if progress is not None:
            progress(done, in_all)
    return done, found
