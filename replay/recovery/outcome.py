"""What became of each account of a plan, as the audit trail has it, and what that adds up to.

The audit trail is the one memory of a run: a run that was killed counts from it, and so comes to the same totals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from ledger import audit
from replay.differences import Value
from replay.recovery.plan import Change, Plan
from replay.recovery.targets import ROW, values_of_text

__all__ = [
    "ACTIONS",
    "DONE",
    "OUTCOMES",
    "UNLOCKING",
    "Outcome",
    "Points",
    "Totals",
    "by_account",
    "final_entries",
    "is_gap",
    "is_waiting",
    "last_tries",
    "noted_accounts",
    "outcomes",
    "planned_accounts",
    "told",
    "totals",
]

#: In the order in which they are told; the first ones are those that leave nothing to do.
OUTCOMES = (
    "corrected",
    "already",
    "accepted",
    "waiting",
    "changed_since",
    "moved_since",
    "other_than_log",
    "failed",
    "restored",
)
DONE = frozenset(OUTCOMES[:3])
#: An account whose row was put back has an entry of that, and none of this outcome.
ACTIONS = tuple(f"account.{outcome}" for outcome in OUTCOMES[:-1])
RESTORED = "row.restored"
#: What becomes of a lock that is to be undone: in the log, then in a live row.
UNLOCKING = ("account.unlocked", "account.not_unlocked", "row.unlocked", "row.not_unlocked")
#: Accounts that are listed in results; the audit trail has all.
LISTED_MAX = 1_000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one account; `reason` where it is not done."""

    account_id: str
    outcome: str
    reason: str = ""


class Points(msgspec.Struct, kw_only=True):
    """Points of the accounts that were corrected: what their live rows had, have now, got more and got less."""

    before: int = 0
    after: int = 0
    added: int = 0
    taken: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts with changes: counted by outcome, what is left for a person, and the points that were corrected.

    `accounts` are those of the plan, also where the run has not come to them yet. `success_rate` is the share of them
    that leaves nothing to do, 1 where the plan changes nothing.
    """

    accounts: int
    outcomes: dict[str, int]
    success_rate: float
    balance: Points
    frozen: Points
    left: list[Outcome]


def by_account(plan: Plan) -> dict[str, list[Change]]:
    """Return the changes of each account, in the order of the ids, which is the order in which they are made."""
    found: dict[str, list[Change]] = {}
    for change in sorted(plan.changes, key=lambda each: each.account_id):
        found.setdefault(change.account_id, []).append(change)
    return found


def is_waiting(changes: Sequence[Change]) -> bool:
    """Whether an account waits for a person."""
    return any(each.basis == "unknown" and each.decision is None for each in changes)


def is_gap(changes: Sequence[Change]) -> bool:
    """Whether the log cannot vouch for an account, so that only a person could say what it has."""
    return any(each.cause == "log_damaged" for each in changes)


def told(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return changes as an entry of the audit trail has them."""
    return [
        {
            "field": each.field,
            "from": each.from_,
            "to": each.to,
            "basis": each.basis,
            "class": each.cause,
            **({} if each.decision is None else {"decision": each.decision.action, "decided_by": each.decision.by}),
        }
        for each in changes
    ]


def outcomes(connection: Connection, run: str) -> dict[str, audit.Recorded]:
    """Return the entry of each account that a run is done with."""
    found = audit.entries(connection, run=run, actions=ACTIONS)
    return {str(each.account_id): each for each in found}


def final_entries(entries: Iterable[audit.Recorded]) -> dict[str, audit.Recorded]:
    """Return the entry of each account that a run is done with, of all its entries.

    Where its row was put back since, the action is `account.restored`; a whole generation takes all rows with it.
    """
    listed = list(entries)
    back = {each.account_id for each in listed if each.action == RESTORED}
    found = {}
    for each in listed:
        if each.action in ACTIONS:
            is_back = each.account_id in back or (None in back and each.action == "account.corrected")
            final = msgspec.structs.replace(each, action="account.restored") if is_back else each
            found[str(each.account_id)] = final
    return found


def planned_accounts(entries: Iterable[audit.Recorded]) -> int | None:
    """Return how many accounts the plan of a run changes, as it said when it began; None where it never did."""
    said = [each.details.get("accounts") for each in entries if each.action in ("run.started", "run.resumed")]
    return next((number for number in reversed(said) if isinstance(number, int)), None)


def noted_accounts(connection: Connection, run: str, step: str) -> set[str]:
    """Return the accounts whose live rows a run may have written in a step, since it said that it would."""
    found = audit.entries(connection, run=run, actions=["correcting"])
    return {name for each in found if each.details.get("step") == step for name in each.details["accounts"]}


def last_tries(entries: Iterable[audit.Recorded]) -> list[audit.Recorded]:
    """Return entries without those of locks that were tried again: the last word on each, account or row, counts."""
    listed = list(entries)
    last = {(each.account_id, each.action.partition(".")[0]): each.number for each in listed if _is_of_lock(each)}
    numbers = set(last.values())
    return [each for each in listed if not _is_of_lock(each) or each.number in numbers]


def _is_of_lock(entry: audit.Recorded) -> bool:
    return entry.action in UNLOCKING


def totals(found: Iterable[audit.Recorded], planned: int | None = None) -> Totals:
    """Return what the entries of accounts add up to, of so many that the plan changes; null is those alone."""
    counts = dict.fromkeys(OUTCOMES, 0)
    sums = {"balance": Points(), "frozen": Points()}
    left: list[Outcome] = []
    for entry in found:
        outcome = entry.action.removeprefix("account.")
        counts[outcome] += 1
        if outcome == "corrected":
            _add(sums, entry.details["changes"])
        if outcome not in DONE and len(left) < LISTED_MAX:
            left.append(
                Outcome(account_id=str(entry.account_id), outcome=outcome, reason=str(entry.details.get("reason", "")))
            )
    count = max(sum(counts.values()), planned or 0)
    done = sum(counts[outcome] for outcome in DONE)
    return Totals(
        accounts=count,
        outcomes=counts,
        success_rate=done / count if count else 1.0,
        balance=sums["balance"],
        frozen=sums["frozen"],
        left=left,
    )


def _add(sums: Mapping[str, Points], changes: Iterable[Mapping[str, Any]]) -> None:
    for change in changes:
        for field, points in sums.items():
            if change["field"] not in (field, ROW):
                continue
            before, after = _points(change["from"], field), _points(change["to"], field)
            points.before += before
            points.after += after
            points.added += max(after - before, 0)
            points.taken += max(before - after, 0)


def _points(value: Value, field: str) -> int:
    if isinstance(value, str):
        value = values_of_text(value)[field]
    return int(value or 0)
