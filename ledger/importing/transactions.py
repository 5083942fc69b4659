"""Import of transactions: legacy rows become events in the tables that the event store uses.

Pass 1 reads, checks and stages the rows on disk, by account. One pass over the store finds what the ledger already
knows about them. Pass 2 takes a bounded group of accounts at a time: it decides what each row means and appends its
events in one transaction under the append lock. An account's rows go in whole or not at all, and a row that has gone
in is known from then on, so an import that was killed anywhere is finished by the same command.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ledger.ahead import mapped_ahead
from ledger.importing.decide import Decided, decide
from ledger.importing.known import OWNER_SCHEMA, PAIR_SCHEMA, Known, id_hash, owners_among
from ledger.importing.mapping import Mapping
from ledger.importing.reading import Reading
from ledger.importing.rejects import Rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.rows import OPTIONAL, REQUIRED, check_transactions
from ledger.importing.sources import Source
from ledger.importing.staging import Group, Spill, folder_for_staging
from ledger.importing.wire import numbered, stored_rows
from ledger.store import AppendReady, Store, append_ready

__all__ = ["import_transactions"]


def import_transactions(
    store: Store,
    source: Source,
    *,
    mapping: Mapping | None = None,
    now: datetime,
    dry_run: bool = False,
    rejects: Path | Rejects,
    progress: Progress | None = None,
) -> Imported:
    """Import transaction rows; good rows go in, bad ones go to the `rejects` file with line and reason.

    `now` is the moment of everything that the rows do not date. With `dry_run` nothing is appended and the result
    has a profile of the columns. `progress` is called while reading (total None) and while appending.

    Raises:
        UsageError: the input is unreadable or empty, or lacks a column that every transaction has.
    """
    rejects_file = rejects if isinstance(rejects, Rejects) else Rejects(rejects)
    with folder_for_staging() as folder, rejects_file as refused:
        staged = _Staged(Spill(folder, "rows"))
        reading = Reading(mapping or Mapping(), REQUIRED, OPTIONAL, refused, dry_run=dry_run)
        for _, checked in reading.checked(source, check_transactions, progress):
            staged.add(checked.good)
        known = Known(folder, staged.pairs(), staged.accounts)
        with store.snapshot() as connection:
            known.read(store, connection)
        total = _Total(staged.spill.rows)
        work = _Work(staged, known, _owners_in_file(staged, known.broken), now, dry_run)
        # Closed here whatever happens: its thread must not outlive an import that is refused.
        with closing(mapped_ahead(work.prepare, staged.spill.groups())) as prepared:
            for group, ready in prepared:
                done = ready if dry_run else _append(store, work, group, ready)
                refused.add(done.decided.rejects)
                total.add(done.decided, done.new.height)
                if progress is not None:
                    progress(total.done, total.rows)
    return Imported(
        imported=total.imported,
        unchanged=total.unchanged,
        rejected=refused.count,
        rejects=refused.file,
        events=total.events,
        profile=reading.profile,
        ignored_columns=sorted(reading.ignored),
        naive_times=reading.naive_times,
    )


@dataclass
class _Total:
    """Counts over the groups so far."""

    rows: int
    done: int = 0
    imported: int = 0
    unchanged: int = 0
    events: int = 0

    def add(self, decided: Decided, event_count: int) -> None:
        self.imported += decided.events.height
        self.unchanged += decided.unchanged
        self.done += decided.events.height + decided.unchanged + decided.rejects.height
        self.events += event_count


@dataclass
class _Staged:
    """What pass 1 leaves: the rows on disk, and in memory 16 bytes a row and the account ids."""

    spill: Spill
    keys: list[pl.DataFrame] = field(default_factory=list)
    accounts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"account_id": pl.String()}))

    def add(self, good: pl.DataFrame) -> None:
        self.spill.add(good)
        self.keys.append(good.select(transaction_hash=id_hash("transaction_id"), account_hash=id_hash("account_id")))
        self.accounts = pl.concat([self.accounts, good.select("account_id")]).unique()

    def pairs(self) -> pl.DataFrame:
        return pl.concat([pl.DataFrame(schema=PAIR_SCHEMA), *self.keys])


def _owners_in_file(staged: _Staged, broken: pl.DataFrame) -> pl.DataFrame:
    """Return `transaction_id`, `owner` for the transactions that the file has in several accounts: the first row's."""
    pairs = staged.pairs().unique()
    spread = pairs.filter(pl.col("transaction_hash").is_duplicated())["transaction_hash"].unique()
    if spread.is_empty():
        return pl.DataFrame(schema=OWNER_SCHEMA)
    rows = staged.spill.scan().filter(id_hash("transaction_id").is_in(spread.implode())).collect()
    return owners_among(rows, broken)


class _Ready(NamedTuple):
    """A group's rows decided, the events to append, and what of the ledger was known then."""

    decided: Decided
    new: pl.DataFrame
    rows: AppendReady | None
    epoch: int


@dataclass(frozen=True)
class _Work:
    """What is needed to turn a group of rows into events; done ahead, while the group before is appended."""

    staged: _Staged
    known: Known
    owners: pl.DataFrame
    now: datetime
    dry_run: bool

    def prepare(self, group: Group) -> _Ready:
        """Decide the rows of a group against what is known and encode the new events."""
        epoch = self.known.epoch
        rows = self.staged.spill.read(group)
        if rows is None:
            raise AssertionError("a group has rows")
        # What the ledger says about a transaction's account is stronger than what the file says first.
        owners = pl.concat([self.known.owners, self.owners])
        owners = owners.unique("transaction_id", keep="first", maintain_order=True)
        decided = decide(
            rows,
            self.known.events(group),
            owners=owners,
            broken=self.known.broken,
            openings=self.known.openings,
            now=self.now,
        )
        if self.dry_run:
            return _Ready(decided, numbered(decided.events, self.known.heads), None, epoch)
        new = stored_rows(decided.events, self.known.heads)
        return _Ready(decided, new, append_ready(new), epoch)


def _append(store: Store, work: _Work, group: Group, ready: _Ready) -> _Ready:
    """Append a group in one transaction, prepared anew if others have appended since it was."""
    with store.appending() as connection:
        work.known.catch_up(store, connection)
        if ready.epoch != work.known.epoch:
            ready = work.prepare(group)
        if ready.rows is not None and ready.new.height:
            store.append_rows(connection, ready.rows)
            work.known.appended(store, connection)
    return ready
