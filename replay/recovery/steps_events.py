"""The steps that append: lost events come back, stale transactions are settled, and what a person decided is booked.

Each can be done again: what is there already is not appended twice. An event and its entry in the audit trail are one
transaction, but for what comes back, whose entries say what is there afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ledger import audit
from ledger.importing.healing import heal as heal_from
from replay.recovery.failpoints import failpoint
from replay.recovery.healed import FilteredCopy
from replay.recovery.judging import adjustment_of
from replay.recovery.outcome import by_account, is_gap
from replay.recovery.plan import Decision, Heal, Settlement
from replay.recovery.work import At, Work
from replay.steps import steps
from replay.store_source import StoreSource
from schemas.errors import CommandRefused, IncompleteError, LedgerFenced, PointsOverflow, RefusedError

__all__ = ["CODE", "Healed", "Settled", "heal", "settle"]

#: The business code of what a person decided.
CODE = "recovery.adjustment"
#: Transactions that are appended at once, with their entries in the audit trail.
TRANSACTIONS_AT_ONCE = 100


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
        account_ids = sorted({each.account_id for each in plan.heal})
        heal_from(work.store, FilteredCopy(work.around.healing().copy, account_ids), skip_conflicts=True)
        there = _there(work, account_ids)
        for each in sorted(plan.heal, key=lambda each: (each.account_id, each.version)):
            if (each.account_id, each.version) in there:
                details = {"version": each.version, "why": each.why, "source": plan.heal_source}
                entries.append(work.entry("event.healed", each.account_id, **details))
            else:
                missing.append(each)
    results = Healed(planned=len(plan.heal), healed=len(entries), missing=missing, source=plan.heal_source)
    work.done("heal", results, entries)
    failpoint("heal:done")


def _there(work: Work, account_ids: Sequence[str]) -> set[tuple[str, int]]:
    """Return the events of some accounts that are there and whole, with all before them."""
    with StoreSource.snapshot(work.store) as source:
        found = steps(source, account_ids, until=source.head())
    return set(found.frame.select("account_id", "version").iter_rows())


def settle(work: Work) -> None:
    """Settle the stale transactions of the plan, then append what persons decided."""
    failpoint("settle:begun")
    results = Settled()
    known = _recorded(work)
    settlements = [each for each in work.plan.settle if (each.account_id, each.transaction_id) not in known]
    for some in _portions(settlements):
        with work.changing() as (_, connection):
            work.record(connection, [_settled(work, each) for each in some])
        work.tell(At(step="settle", done=len(some), total=len(settlements), of="transactions"))
    for account_id, decision in _adjustments(work):
        if (account_id, adjustment_of(work.run, account_id)) not in known:
            with work.changing() as (_, connection):
                work.record(connection, [_adjusted(work, account_id, decision)])
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


def _settled(work: Work, each: Settlement) -> audit.Entry:
    details: dict[str, Any] = {
        "transaction_id": each.transaction_id,
        "to": "completed" if each.action == "complete" else "cancelled",
        "type": each.type,
        "amount": each.amount,
        "business_code": each.business_code,
    }
    command = work.ledger.complete if each.action == "complete" else work.ledger.cancel
    try:
        version = command(each.account_id, each.transaction_id)
    except LedgerFenced:
        raise
    except (CommandRefused, IncompleteError, PointsOverflow) as error:
        return work.entry("transaction.not_settled", each.account_id, **details, reason=error.what)
    return work.entry("transaction.settled", each.account_id, **details, version=version)


def _adjustments(work: Work) -> Iterator[tuple[str, Decision]]:
    """Yield the accounts that a person decided the points of and that the log can vouch for."""
    for account_id, changes in by_account(work.plan).items():
        decision = next((each.decision for each in changes if each.decision is not None), None)
        if decision is not None and decision.action == "adjust" and not is_gap(changes):
            yield account_id, decision


def _adjusted(work: Work, account_id: str, decision: Decision) -> audit.Entry:
    transaction_id = adjustment_of(work.run, account_id)
    details: dict[str, Any] = {
        "transaction_id": transaction_id,
        "to": decision.balance,
        "decided_by": decision.by,
        "reason": decision.reason,
    }
    try:
        before = work.ledger.account(account_id).balance
        points = (decision.balance or 0) - before
        if points:
            command = work.ledger.credit if points > 0 else work.ledger.debit
            metadata = {"reason": decision.reason, "decided_by": decision.by, "run": work.run}
            command(account_id, transaction_id, abs(points), business_code=CODE, metadata=metadata)
    except LedgerFenced:
        raise
    except (CommandRefused, IncompleteError, PointsOverflow) as error:
        return work.entry("transaction.not_settled", account_id, **(details | {"reason": error.what}))
    return work.entry("account.adjusted", account_id, **details, before=before, points=points)
