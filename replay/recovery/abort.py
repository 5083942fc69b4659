"""A run given up: the live rows that it changed get back what the backup has, where nobody changed them since.

Every column goes back as the database gave it, by compare-and-set: only where the row still is what the run made of
it. Events are never taken back; they are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from ledger import audit
from replay.recovery.backup import RawRow, check_backup, raw_row, read_backup
from replay.recovery.failpoints import failpoint
from replay.recovery.outcome import by_account, noted_accounts, outcomes
from replay.recovery.own_target import OwnReadModel
from replay.recovery.plan import Change
from replay.recovery.rows import Side, is_as_made, side
from replay.recovery.steps_events import record_healed
from replay.recovery.steps_own import promoted
from replay.recovery.steps_unlock import UNLOCKED
from replay.recovery.table_target import TableTarget, Write
from replay.recovery.table_values import RawValues
from replay.recovery.targets import ROW, LiveRow
from replay.recovery.work import At, Work

__all__ = ["Aborted", "put_back", "with_events"]

ACCOUNTS_AT_ONCE = 500
LISTED_MAX = 1_000
#: Entries of events that stay.
_EVENTS = ("event.healed", "transaction.settled", "account.adjusted", "account.unlocked")


_FILLED = "the run made its live row, and somebody has filled it since"


class Stays(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the run appended and that stays, as its entry in the audit trail says it."""

    action: str
    account_id: str
    details: dict[str, Any]


class Aborted(msgspec.Struct, frozen=True, kw_only=True):
    """What was put back.

    `restored` live rows are as before; `as_before` were announced and never changed; `not_restored` were changed by
    somebody else since, or did not take it, with the reason. `generation` is that of our own read model that is live
    again. `events` are counted by action, and `stay` lists them. `notes` are what is worth saying beside it.
    """

    restored: int = 0
    as_before: int = 0
    not_restored: list[tuple[str, str]] = []
    generation: int | None = None
    events: dict[str, int] = {}
    stay: list[Stays] = []
    notes: list[str] = []


def put_back(work: Work) -> Aborted:
    """Put back what the run changed in live, and list what it appended."""
    failpoint("abort:begun")
    record_healed(work)
    found = _own(work, work.target) if isinstance(work.target, OwnReadModel) else _table(work, work.target)
    with work.store.snapshot() as connection:
        found = with_events(found, connection, work.run)
    failpoint("abort:done")
    return found


def with_events(found: Aborted, connection: Connection, run: str) -> Aborted:
    """Return it with the events that the run appended, which stay."""
    entries = audit.entries(connection, run=run, actions=_EVENTS)
    counts = {action: sum(each.action == action for each in entries) for action in _EVENTS}
    stay = [
        Stays(action=each.action, account_id=str(each.account_id), details=each.details)
        for each in entries[:LISTED_MAX]
    ]
    return msgspec.structs.replace(found, events=counts, stay=stay)


def _own(work: Work, target: OwnReadModel) -> Aborted:
    before = work.state().steps.get("backup", {}).get("generation")
    with work.store.snapshot() as connection:
        announced = promoted(connection, work.run)
    if before is None or announced is None:
        return Aborted()
    with work.changing() as (_, connection):
        is_back = target.put_back(connection, live=announced, before=before)
        if is_back:
            generations = {"from": announced, "to": before}
            work.record(connection, [work.entry("row.restored", generation=before, **generations)])
    if is_back or target.generation() == before:
        return Aborted(generation=before)
    reason = f"generation {target.generation()} is live by now, and it is not this run's"
    return Aborted(not_restored=[("", reason)])


def _table(work: Work, target: TableTarget) -> Aborted:
    with work.store.snapshot() as connection:
        noted = noted_accounts(connection, work.run, "correct") | noted_accounts(connection, work.run, "unlock")
        again = noted_accounts(connection, work.run, "abort")
        done = {each.account_id for each in audit.entries(connection, run=work.run, actions=["row.restored"])}
        told = outcomes(connection, work.run)
    if not noted:
        return Aborted()
    backup = work.state().steps["backup"]
    check_backup(work.folder, backup["sha256"], backup["accounts"])
    made = {name: raw_row(each.details["row"]) for name, each in told.items() if "row" in each.details}
    before = _Before(work, target.raw_values, made)
    accounts = sorted(noted - done)
    as_before, not_restored = 0, list[tuple[str, str]]()
    for start in range(0, len(accounts), ACCOUNTS_AT_ONCE):
        some = accounts[start : start + ACCOUNTS_AT_ONCE]
        found = _put_back(work, target, before.of(some), again)
        as_before += sum(reason is None for reason in found.values())
        not_restored += [(account_id, reason) for account_id, reason in found.items() if reason]
        work.tell(At(step="abort", done=start + len(some), total=len(accounts)))
    with work.store.snapshot() as connection:
        restored = len(audit.entries(connection, run=work.run, actions=["row.restored"]))
    return Aborted(restored=restored, as_before=as_before, not_restored=not_restored)


def _put_back(work: Work, target: TableTarget, kept: Mapping[str, _Kept], again: set[str]) -> dict[str, str | None]:
    """Put some rows back; return an empty reason for each that is, None for one that was never changed."""
    rows = target.rows(list(kept))
    states = {account_id: each.state(rows.get(account_id)) for account_id, each in kept.items()}
    changed = [account_id for account_id, state in states.items() if state == "after"]
    with work.changing() as (_, connection):
        work.record(connection, [work.entry("correcting", step="abort", accounts=changed)])
    failpoint("batch:noted")
    found = {account_id: _reason(state, account_id in again) for account_id, state in states.items()}
    found |= _written(work, target, kept, changed) if changed else {}
    failpoint("batch:written")
    entries = [
        _entry(work, kept[account_id], rows.get(account_id), reason)
        for account_id, reason in found.items()
        if reason is not None
    ]
    with work.changing() as (_, connection):
        work.record(connection, entries)
    failpoint("batch:done")
    return found


def _written(
    work: Work, target: TableTarget, kept: Mapping[str, _Kept], changed: Sequence[str]
) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    tried: set[str] = set()

    def decide(rows: Mapping[str, LiveRow]) -> list[Write]:
        work.still()
        writes = []
        for account_id in changed:
            row = rows.get(account_id)
            state = kept[account_id].state(row)
            found[account_id] = _reason(state, account_id in tried)
            if state == "after":
                found[account_id] = ""
                writes.append(kept[account_id].write(row))
        tried.update(each.account_id for each in writes)
        return writes

    refused = target.change(changed, decide)
    return found | refused


def _reason(state: str, is_ours: bool) -> str | None:
    if state == "before":
        return "" if is_ours else None
    return "" if state == "after" else state


def _entry(work: Work, kept: _Kept, row: LiveRow | None, reason: str) -> audit.Entry:
    """Return the entry of one row; of one that is back, from what and to what, `row` being what it was before."""
    if reason:
        return work.entry("row.not_restored", kept.account_id, reason=reason)
    back = [{"field": each.field, "from": each.to, "to": each.from_} for each in kept.changes]
    is_locked = row is not None and row.values is not None and row.values["status"] == "locked"
    # Where an abort was killed before it could note that a row is back, it was unlocked, for all that is known.
    if kept.locked_at is not None and not (is_locked and kept.state(row) == "after"):
        back.append({"field": "status", "from": UNLOCKED["status"], "to": "locked"})
        back.append({"field": "locked_at", "from": UNLOCKED["locked_at"], "to": kept.locked_at})
    return work.entry("row.restored", kept.account_id, changes=back)


class _Before:
    """The rows of the backup, with what the run may have made of them."""

    def __init__(self, work: Work, raw_values: RawValues, made: Mapping[str, RawRow]) -> None:
        self._folder = work.folder
        self._raw_values = raw_values
        self._groups = by_account(work.plan)
        self._unlock = {each.account_id: each.locked_at for each in work.plan.unlock}
        self._made = made

    def of(self, account_ids: Iterable[str]) -> dict[str, _Kept]:
        """Return some accounts, in the order of the backup, which is that of the ids."""
        wanted = set(account_ids)
        found = {}
        for account_id, raw in read_backup(self._folder, wanted):
            changes = self._groups.get(account_id, [])
            locked_at, made = self._unlock.get(account_id), self._made.get(account_id)
            found[account_id] = _Kept(account_id, raw, changes, locked_at, self._raw_values, made)
        return found


class _Kept(NamedTuple):
    """One account: its row before (None where it had none), and the changes that the run may have made.

    `locked_at` is since when it was locked, None where the run does not unlock it.
    `made` is its row as the run made it, None where it did not, or was killed before it could note that.
    """

    account_id: str
    raw: RawRow | None
    changes: Sequence[Change]
    locked_at: str | None
    raw_values: RawValues
    made: RawRow | None

    def state(self, row: LiveRow | None) -> str:
        """Return `before`, or `after` where it is what the run made of it, else what somebody else did."""
        if row is None:
            if self.raw is None:
                return "before"
            return "after" if self._is_deleted else "its live row is gone"
        if self.raw is not None and all(row.raw[name] == self.raw[name] for name in self._columns):
            return "before"
        if not self._is_deleted and any(self._is(row, after) for after in self._afters):
            return "after" if self.raw is not None or self._is_as_made(row) else _FILLED
        return "its live row was changed since by somebody else"

    def write(self, row: LiveRow | None) -> Write:
        """Return what puts the row back."""
        if self.raw is None:
            return Write(self.account_id, row, None)
        columns = self.raw if row is None else {name: self.raw[name] for name in self._columns}
        return Write(self.account_id, row, columns)

    @property
    def is_unlocked(self) -> bool:
        """Whether the run may have unlocked it."""
        return self.locked_at is not None

    def _is_as_made(self, row: LiveRow) -> bool:
        made, values = self.made, self.raw_values
        if made is not None and self.is_unlocked:
            # These the run may have written after it, and they were compared by what they mean.
            made = {**made} | {name: row.raw[name] for name in map(values.column, UNLOCKED) if name in row.raw}
        return is_as_made(row, made, side(self.changes, "to"), values)

    @property
    def _is_deleted(self) -> bool:
        return any(each.field == ROW and each.to is None for each in self.changes)

    @property
    def _touched(self) -> dict[str, None]:
        fields = dict.fromkeys(each.field for each in self.changes if each.field != ROW)
        if self.is_unlocked:
            fields |= dict.fromkeys(name for name in UNLOCKED if self.raw_values.has(name))
        return fields

    @property
    def _columns(self) -> list[str]:
        """The columns that the run may have written, of a row that it took away all."""
        if self._is_deleted and self.raw is not None:
            return list(self.raw)
        return [self.raw_values.column(field) for field in self._touched]

    @property
    def _afters(self) -> list[Side]:
        """What the run may have made of the row: corrected, and perhaps unlocked after it."""
        corrected = side(self.changes, "to") or {}
        return [corrected, {**corrected, **UNLOCKED}] if self.is_unlocked else [corrected]

    def _is(self, row: LiveRow, after: Side) -> bool:
        """Whether a row has just what the run gave it, and is as before in what it did not touch."""
        if row.values is None or after is None:
            return False
        if any(name in row.values and row.values[name] != value for name, value in after.items()):
            return False
        untouched = [self.raw_values.column(field) for field in self._touched if field not in after]
        return self.raw is None or all(row.raw[name] == self.raw[name] for name in untouched)
