"""The step that corrects: batches of accounts, each judged by the log, announced, written at once, and recorded.

A batch is announced in the audit trail before its transaction in the live database, and each account is recorded after
it. Where a run was killed between the two, a row that has the new value and was announced is one that this run wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec

from ledger import audit
from replay.recovery.backup import RawRow, plain_row, read_backup
from replay.recovery.batches import Pace
from replay.recovery.failpoints import failpoint
from replay.recovery.judging import Judged, judge
from replay.recovery.outcome import by_account, is_waiting, noted_accounts, outcomes, told, totals
from replay.recovery.plan import Change
from replay.recovery.rows import is_as_made, side, state_of, write_of
from replay.recovery.table_target import TableTarget, Write
from replay.recovery.targets import LiveRow
from replay.recovery.work import At, Work
from schemas.errors import RefusedError, UsageError

__all__ = ["Corrected", "correct_table", "recorded_totals"]


class Corrected(msgspec.Struct, frozen=True, kw_only=True):
    """How this process corrected: its batches, and the seconds that they and the rests between took."""

    batches: int
    seconds: float


def correct_table(work: Work, target: TableTarget) -> None:
    """Correct the rows of a table, batch by batch, from where the audit trail ends."""
    failpoint("correct:begun")
    groups = by_account(work.plan)
    with work.store.snapshot() as connection:
        done = outcomes(connection, work.run)
        noted = noted_accounts(connection, work.run, "correct")
    waiting = [account_id for account_id in groups if account_id not in done]
    written = {account_id for account_id in waiting if not is_waiting(groups[account_id])}
    with closing(read_backup(work.folder, written)) as backup:
        corrected = _correct_all(work, waiting, len(done), _Batches(work, target, groups, noted, backup))
    finish(work, corrected)


def _correct_all(work: Work, waiting: Sequence[str], done: int, made: _Batches) -> Corrected:
    pace = Pace(batch=work.options.batch, throttle=work.options.throttle)
    total = done + len(waiting)
    began, batches, place = work.options.clock(), 0, 0
    while place < len(waiting):
        started = work.options.clock()
        some = waiting[place : place + pace.size]
        place += len(some)
        made.correct(some, done + place, total)
        batches += 1
        now = work.options.clock()
        left = (now - began) / place * (len(waiting) - place)
        work.tell(At(step="correct", done=done + place, total=total, seconds_left=left))
        rest = pace.took(now - started, len(some))
        if place < len(waiting):
            work.rest(rest)
    return Corrected(batches=batches, seconds=work.options.clock() - began)


def finish(work: Work, corrected: Corrected) -> None:
    """Note that all accounts are done."""
    work.done("correct", {**recorded_totals(work), **msgspec.to_builtins(corrected)})
    failpoint("correct:done")


def recorded_totals(work: Work) -> dict[str, Any]:
    """Return what the entries of all accounts add up to."""
    with work.store.snapshot() as connection:
        found = outcomes(connection, work.run)
    plain: dict[str, Any] = msgspec.to_builtins(totals(found.values()))
    return plain


class _Batches:
    """Corrects one batch after the other; `backup` has the rows of what may be written, in the same order."""

    def __init__(
        self,
        work: Work,
        target: TableTarget,
        groups: Mapping[str, Sequence[Change]],
        noted: set[str],
        backup: Iterator[tuple[str, RawRow | None]],
    ) -> None:
        self._work, self._target, self._groups = work, target, groups
        # Rows of these may have been written by this run before.
        self._noted = noted
        self._backup = backup
        self._kept: dict[str, RawRow | None] = {}
        # Rows that are there since this run, as they were made.
        self._made: dict[str, LiveRow] = {}

    def correct(self, account_ids: Sequence[str], done: int, total: int) -> None:
        """Correct some accounts, and record what became of each of them."""
        work, groups = self._work, self._groups
        written = [account_id for account_id in account_ids if not is_waiting(groups[account_id])]
        self._kept, self._made = dict(islice(self._backup, len(written))), {}
        found = judge(work, {account_id: groups[account_id] for account_id in account_ids})
        ready = [account_id for account_id in account_ids if account_id not in found]
        # What is not as planned need not be announced, and is not locked.
        rows = self._target.rows(ready)
        for account_id in ready:
            state, reason = state_of(groups[account_id], rows.get(account_id))
            if state == "other":
                found[account_id] = Judged("changed_since", reason)
            elif state == "to" and account_id not in self._noted:
                found[account_id] = Judged("already", "")
        ready = [account_id for account_id in ready if account_id not in found]
        if ready:
            with work.changing() as (_, connection):
                work.record(connection, [work.entry("correcting", step="correct", accounts=ready)])
            failpoint("batch:noted")
            found |= self._written(ready)
            failpoint("batch:written")
        entries = [self._entry(account_id, found[account_id]) for account_id in account_ids]
        with work.changing() as (recovery, connection):
            recovery.note_progress(done, total, work.now)
            work.record(connection, entries)
        failpoint("batch:done")

    def _written(self, ready: Sequence[str]) -> dict[str, Judged]:
        """Write rows in one transaction of the live database; each is looked at again in it."""
        found: dict[str, Judged] = {}
        tried: set[str] = set()

        def decide(rows: Mapping[str, LiveRow]) -> list[Write]:
            self._work.still()
            writes = []
            for account_id in ready:
                write = self._decided(account_id, rows.get(account_id), found, is_own=account_id in tried)
                if write is not None:
                    writes.append(write)
            tried.update(each.account_id for each in writes)
            return writes

        after: dict[str, LiveRow] = {}
        refused = self._target.change(ready, decide, read_back=after)
        self._made |= {name: row for name, row in after.items() if self._is_new(name)}
        return found | {account_id: Judged("failed", reason) for account_id, reason in refused.items()}

    def _decided(self, account_id: str, row: LiveRow | None, found: dict[str, Judged], *, is_own: bool) -> Write | None:
        changes = self._groups[account_id]
        wanted = side(changes, "to")
        state, reason = state_of(changes, row)
        if state == "other":
            found[account_id] = Judged("changed_since", reason)
        elif state == "to":
            is_ours = is_own or account_id in self._noted
            found[account_id] = Judged("corrected" if is_ours else "already", "")
            if is_ours and row is not None and is_as_made(row, None, wanted, self._target.raw_values):
                self._made |= {account_id: row} if self._is_new(account_id) else {}
        else:
            try:
                write = write_of(account_id, row, wanted, self._target.raw_values)
            except UsageError as error:
                found[account_id] = Judged("failed", str(error))
                return None
            if self._is_kept(write):
                found[account_id] = Judged("corrected", "")
                return write
            # What the backup does not have could not be put back.
            found[account_id] = Judged("changed_since", "its live row was changed since the backup")
        return None

    def _is_kept(self, write: Write) -> bool:
        """Whether the backup has what a write replaces."""
        kept = self._kept.get(write.account_id)
        if write.row is None or kept is None:
            return write.row is None and kept is None
        if write.columns is None:
            return write.row.raw == kept
        return all(name in kept and write.row.raw[name] == kept[name] for name in write.columns)

    def _is_new(self, account_id: str) -> bool:
        return side(self._groups[account_id], "from") is None

    def _entry(self, account_id: str, judged: Judged) -> audit.Entry:
        details: dict[str, Any] = {"changes": told(self._groups[account_id])}
        if judged.reason:
            details["reason"] = judged.reason
        if judged.outcome == "corrected" and account_id in self._made:
            details |= _as_made(self._made[account_id])
        return self._work.entry(f"account.{judged.outcome}", account_id, **details)


def _as_made(row: LiveRow) -> dict[str, Any]:
    """Return a row that was made, for the audit trail: abort takes it away only where it still is like that."""
    try:
        return {"row": plain_row(row.raw)}
    except RefusedError:
        # A value that no backup can keep: abort leaves such a row, and says so.
        return {}
