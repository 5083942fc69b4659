"""The steps that append: lost events come back, stale transactions are settled, and what a person decided is booked.

Each can be done again: what is there already is not appended twice. An event and its entry in the audit trail are one
transaction, but for what comes back, whose entries say what is there afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
from sqlalchemy import BigInteger, ColumnElement, Connection, Text, select

from ledger import audit
from ledger.importing.healing import heal as heal_from
from ledger.tables import EVENTS
from replay.recovery.failpoints import failpoint
from replay.recovery.healed import FilteredCopy
from replay.recovery.judging import adjustment_of
from replay.recovery.outcome import by_account, is_gap
from replay.recovery.plan import Decision, Heal, Settlement
from replay.recovery.rows import state_of
from replay.recovery.table_target import TableTarget
from replay.recovery.targets import LiveRow
from replay.recovery.work import At, Work
from replay.steps import steps
from replay.store_source import StoreSource
from schemas.columns import RAW_SCHEMA
from schemas.errors import CommandRefused, IncompleteError, LedgerFenced, PointsOverflow, RefusedError

__all__ = ["CODE", "Healed", "Settled", "heal", "record_healed", "settle"]

#: The business code of what a person decided.
CODE = "recovery.adjustment"
#: Transactions that are appended at once, with their entries in the audit trail.
TRANSACTIONS_AT_ONCE = 100
_KEYS = {name: RAW_SCHEMA[name] for name in ("account_id", "version")}


class Healed(msgspec.Struct, frozen=True, kw_only=True):
    """What came back of the events that the plan named, and which did not."""

    planned: int
    healed: int
    missing: list[Heal]
    source: str | None


class Settled(msgspec.Struct, kw_only=True):
    """Transactions that were settled and accounts that were adjusted, and those that were refused, with the reason."""

    settled: int = 0
    adjusted: int = 0
    refused: list[tuple[str, str, str]] = []


def heal(work: Work) -> None:
    """Bring back the events that the plan names, and no others."""
    failpoint("heal:begun")
    plan, entries, missing = work.plan, list[audit.Entry](), list[Heal]()
    if plan.heal:
        if work.around.healing is None:
            raise RefusedError(
                "the plan heals events, and there is nothing to heal from",
                where=f"run {work.run!r}",
                next_step=f"name the copy: {plan.heal_source}",
            )
        heal_from(work.store, FilteredCopy.of_plan(work.around.healing().copy, plan.heal), skip_conflicts=True)
        failpoint("heal:written")
        entries, missing = _back(work)
    results = Healed(planned=len(plan.heal), healed=len(entries), missing=missing, source=plan.heal_source)
    work.done("heal", results, entries)
    failpoint("heal:done")


def record_healed(work: Work) -> None:
    """Record what came back in a run that ended before its entries were written; nothing where they are."""
    done = work.state().steps
    if work.plan.heal and "backup" in done and "heal" not in done:
        with work.store.snapshot() as connection:
            known = {
                (each.account_id, each.details["version"])
                for each in audit.entries(connection, run=work.run, actions=["event.healed"])
            }
        entries = [each for each in _back(work)[0] if (each.account_id, each.details["version"]) not in known]
        with work.changing() as (_, connection):
            work.record(connection, entries)


def _back(work: Work) -> tuple[list[audit.Entry], list[Heal]]:
    """Return the entries of what the plan names and is there, and what is not."""
    plan, entries, missing = work.plan, list[audit.Entry](), list[Heal]()
    there = _there(work, plan.heal)
    for each in sorted(plan.heal, key=lambda each: (each.account_id, each.version)):
        if (each.account_id, each.version) in there:
            details = {"version": each.version, "why": each.why, "source": plan.heal_source}
            entries.append(work.entry("event.healed", each.account_id, **details))
        else:
            missing.append(each)
    return entries, missing


def _there(work: Work, wanted: Sequence[Heal]) -> set[tuple[str, int]]:
    """Return the events of the plan that are there: stored where none was, or whole with all before them."""
    were_gone = [(each.account_id, each.version) for each in wanted if each.why not in ("damaged", "head")]
    with StoreSource.snapshot(work.store) as source:
        found = steps(source, sorted({each.account_id for each in wanted}), until=source.head())
        keys = pl.DataFrame(were_gone, schema=_KEYS, orient="row")
        stored = work.store.read_keys(source.connection, keys)
    return {*found.frame.select(*_KEYS).iter_rows(), *stored.select(*_KEYS).iter_rows()}


def settle(work: Work) -> None:
    """Settle the stale transactions of the plan, then append what persons decided."""
    failpoint("settle:begun")
    results = Settled()
    known = _recorded(work)
    own = _Own(work)
    settlements = [each for each in work.plan.settle if (each.account_id, each.transaction_id) not in known]
    for some in _portions(settlements):
        with work.changing() as (_, connection):
            moved = own.moved(connection, some)
            work.record(connection, [_settled(work, own, each, moved) for each in some])
        work.tell(At(step="settle", done=len(some), total=len(settlements), of="transactions"))
    for account_id, decision in _adjustments(work):
        if (account_id, adjustment_of(work.run, account_id)) not in known:
            with work.changing() as (_, connection):
                reason = own.not_as_planned(connection, account_id)
                work.record(connection, [_adjusted(work, account_id, decision, reason)])
    for entry in _recorded(work).values():
        if entry.action == "transaction.not_settled":
            results.refused.append((str(entry.account_id), entry.details["transaction_id"], entry.details["reason"]))
        elif entry.action == "account.adjusted":
            results.adjusted += 1
        else:
            results.settled += 1
    work.done("settle", results)
    failpoint("settle:done")


def _recorded(work: Work) -> dict[tuple[str, str], audit.Recorded]:
    """Return what the run has settled, adjusted or could not, by account and transaction."""
    actions = ("transaction.settled", "transaction.not_settled", "account.adjusted")
    with work.store.snapshot() as connection:
        found = audit.entries(connection, run=work.run, actions=actions)
    return {(str(each.account_id), each.details["transaction_id"]): each for each in found}


def _portions(settlements: Sequence[Settlement]) -> Iterator[Sequence[Settlement]]:
    for start in range(0, len(settlements), TRANSACTIONS_AT_ONCE):
        yield settlements[start : start + TRANSACTIONS_AT_ONCE]


class _Own:
    """The events of a run itself, so that any other that came after the plan is seen."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._groups = by_account(work.plan)
        self._events = {(each.account_id, each.version) for each in work.plan.heal}
        for (account_id, _), entry in _recorded(work).items():
            if "version" in entry.details:
                self.add(account_id, entry.details["version"])

    def add(self, account_id: str, version: int) -> None:
        """Take an event that the run has appended."""
        self._events.add((account_id, version))

    def moved(self, connection: Connection, settlements: Sequence[Settlement]) -> dict[str, int]:
        """Return the accounts of settlements that have an event after the plan's position, and which."""
        names = {each.account_id for each in settlements}
        return self._others(connection, EVENTS.c.originator_id.in_(names) & (EVENTS.c.id > self._work.plan.position))

    def not_as_planned(self, connection: Connection, account_id: str) -> str:
        """Return why an account that a person decided on is not what that person saw, "" where it is."""
        changes = self._groups[account_id]
        is_later = EVENTS.c.originator_version > (changes[0].version or 0)
        others = self._others(connection, (EVENTS.c.originator_id == account_id) & is_later)
        if others:
            return _moved_on(others[account_id])
        state, reason = state_of(changes, self._live_row(account_id))
        return reason if state == "other" else ""

    def _others(self, connection: Connection, which: ColumnElement[bool]) -> dict[str, int]:
        columns = (EVENTS.c.originator_id.cast(Text), EVENTS.c.originator_version.cast(BigInteger))
        found: dict[str, int] = {}
        for account_id, version in connection.execute(select(*columns).where(which).order_by(EVENTS.c.id)):
            if (account_id, version) not in self._events:
                found.setdefault(account_id, version)
        return found

    def _live_row(self, account_id: str) -> LiveRow | None:
        target = self._work.target
        if isinstance(target, TableTarget):
            return target.rows([account_id]).get(account_id)
        generation = target.generation()
        values = None if generation is None else target.values(generation, [account_id]).get(account_id)
        return None if values is None else LiveRow(account_id, values, values)


def _moved_on(version: int) -> str:
    return f"the account went on in the log after the plan was made: event {version:,}"


def _settled(work: Work, own: _Own, each: Settlement, moved: Mapping[str, int]) -> audit.Entry:
    details: dict[str, Any] = {
        "transaction_id": each.transaction_id,
        "to": "completed" if each.action == "complete" else "cancelled",
        "type": each.type,
        "amount": each.amount,
        "business_code": each.business_code,
    }
    if each.account_id in moved:
        reason = _moved_on(moved[each.account_id])
        return work.entry("transaction.not_settled", each.account_id, **details, reason=reason)
    command = work.ledger.complete if each.action == "complete" else work.ledger.cancel
    try:
        transaction = work.ledger.account(each.account_id).transactions.get(each.transaction_id)
        if transaction is None or transaction.status != "pending":
            reason = f"it is {'gone' if transaction is None else transaction.status} by now"
            return work.entry("transaction.not_settled", each.account_id, **details, reason=reason)
        version = command(each.account_id, each.transaction_id)
    except LedgerFenced:
        raise
    except (CommandRefused, IncompleteError, PointsOverflow) as error:
        return work.entry("transaction.not_settled", each.account_id, **details, reason=error.what)
    own.add(each.account_id, version)
    return work.entry("transaction.settled", each.account_id, **details, version=version)


def _adjustments(work: Work) -> Iterator[tuple[str, Decision]]:
    """Yield the accounts that a person decided the points of and that the log can vouch for."""
    for account_id, changes in by_account(work.plan).items():
        decision = next((each.decision for each in changes if each.decision is not None), None)
        if decision is not None and decision.action == "adjust" and not is_gap(changes):
            yield account_id, decision


def _adjusted(work: Work, account_id: str, decision: Decision, reason: str) -> audit.Entry:
    transaction_id = adjustment_of(work.run, account_id)
    details: dict[str, Any] = {
        "transaction_id": transaction_id,
        "to": decision.balance,
        "decided_by": decision.by,
        "reason": decision.reason,
    }
    if reason:
        return work.entry("transaction.not_settled", account_id, **(details | {"reason": reason}))
    try:
        account = work.ledger.account(account_id)
        before, version = account.balance, account.version
        points = (decision.balance or 0) - before
        if points:
            command = work.overriding.credit if points > 0 else work.overriding.debit
            metadata = {"reason": decision.reason, "decided_by": decision.by, "run": work.run}
            version = command(account_id, transaction_id, abs(points), business_code=CODE, metadata=metadata)
    except LedgerFenced:
        raise
    except (CommandRefused, IncompleteError, PointsOverflow) as error:
        return work.entry("transaction.not_settled", account_id, **(details | {"reason": error.what}))
    return work.entry("account.adjusted", account_id, **details, before=before, points=points, version=version)
