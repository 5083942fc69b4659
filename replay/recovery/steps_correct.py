"""The step that corrects: batches of accounts, each judged by the log, announced, written at once, and recorded.

A batch is announced in the audit trail before its transaction in the live database, and each account is recorded after
it. Where a run was killed between the two, a row that has the new value and was announced is one that this run wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ledger import audit
from replay.recovery.backup import read_backup
from replay.recovery.batches import Pace
from replay.recovery.failpoints import failpoint
from replay.recovery.judging import Judged, judge
from replay.recovery.outcome import by_account, noted_accounts, outcomes, told, totals
from replay.recovery.plan import Change
from replay.recovery.rows import side, state_of, write_of
from replay.recovery.table_target import TableTarget, Write
from replay.recovery.targets import LiveRow
from replay.recovery.work import At, Work
from schemas.errors import UsageError

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
    pace = Pace(batch=work.options.batch, throttle=work.options.throttle)
    made = _Batches(work, target, groups, noted)
    began, batches, place = work.options.clock(), 0, 0
    while place < len(waiting):
        started = work.options.clock()
        some = waiting[place : place + pace.size]
        place += len(some)
        made.correct(some, len(done) + place, len(groups))
        batches += 1
        now = work.options.clock()
        left = (now - began) / place * (len(waiting) - place)
        work.tell(At(step="correct", done=len(done) + place, total=len(groups), seconds_left=left))
        rest = pace.took(now - started, len(some))
        if place < len(waiting):
            work.rest(rest)
    finish(work, Corrected(batches=batches, seconds=work.options.clock() - began))


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
    """Corrects one batch after the other."""

    def __init__(
        self, work: Work, target: TableTarget, groups: Mapping[str, Sequence[Change]], noted: set[str]
    ) -> None:
        self._work, self._target, self._groups = work, target, groups
        # Rows of these may have been written by this run before.
        self._noted = noted
        gone = {account_id for account_id, changes in groups.items() if side(changes, "to") is None}
        self._to_delete = dict(read_backup(work.folder, gone)) if gone else {}

    def correct(self, account_ids: Sequence[str], done: int, total: int) -> None:
        """Correct some accounts, and record what became of each of them."""
        work, groups = self._work, self._groups
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
            writes = []
            for account_id in ready:
                write = self._decided(account_id, rows.get(account_id), found, is_own=account_id in tried)
                if write is not None:
                    writes.append(write)
            tried.update(each.account_id for each in writes)
            return writes

        refused = self._target.change(ready, decide)
        return found | {account_id: Judged("failed", reason) for account_id, reason in refused.items()}

    def _decided(self, account_id: str, row: LiveRow | None, found: dict[str, Judged], *, is_own: bool) -> Write | None:
        changes = self._groups[account_id]
        state, reason = state_of(changes, row)
        is_deleted = state == "from" and side(changes, "to") is None
        if is_deleted and row is not None and row.raw != self._to_delete.get(account_id):
            # What the backup does not have could not be put back.
            state, reason = "other", "its live row was changed since the backup"
        if state == "other":
            found[account_id] = Judged("changed_since", reason)
        elif state == "to":
            found[account_id] = Judged("corrected" if is_own or account_id in self._noted else "already", "")
        else:
            try:
                write = write_of(account_id, row, side(changes, "to"), self._target.raw_values)
            except UsageError as error:
                found[account_id] = Judged("failed", str(error))
            else:
                found[account_id] = Judged("corrected", "")
                return write
        return None

    def _entry(self, account_id: str, judged: Judged) -> audit.Entry:
        changes = told(self._groups[account_id])
        reason = {"reason": judged.reason} if judged.reason else {}
        return self._work.entry(f"account.{judged.outcome}", account_id, changes=changes, **reason)
