"""Decisions of a person on what the log alone cannot say: accept what it says, or adjust the balance.

A decision is about an account with all of its changes. What it makes of them is in the plan, which is sealed anew: an
approval of the plan before it is none of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from replay.recovery.plan import Change, Decision, Plan, sealed
from replay.recovery.targets import ROW, row_text
from schemas import AMOUNT_MAX, format_time
from schemas.errors import RefusedError, UsageError

__all__ = ["decide"]


def decide(
    plan: Plan,
    *,
    account_ids: Sequence[str] | None = None,
    cause: str | None = None,
    action: Literal["accept", "adjust"],
    balance: int | None = None,
    by: str,
    reason: str,
    now: datetime,
) -> Plan:
    """Return the plan with a decision on some accounts, sealed anew; all of them get it, or none does.

    Without `account_ids` it is on all that are not decided yet, of one class (`cause`) or of any. Accounts that are
    named may have been decided before: the last word counts. `balance` is what an account is adjusted to (default: what
    live has now), of one account only.

    Raises:
        UsageError: the plan has nothing to decide of an account, nobody or no reason is named, or a balance is given
            where it says nothing.
        RefusedError: the decision is not one to be made: see `next_step`.
    """
    if not by.strip() or not reason.strip():
        raise UsageError("a decision says who makes it, and why", next_step="give a name and a reason")
    by_account: dict[str, list[Change]] = {}
    for change in plan.changes:
        by_account.setdefault(change.account_id, []).append(change)
    wanted = _wanted(by_account, account_ids, cause)
    if balance is not None and (action == "accept" or len(wanted) > 1):
        raise UsageError("a balance is for adjusting one account", next_step="leave it away, or name one account")
    made: dict[str, list[Change]] = {}
    for account_id in wanted:
        changes = by_account[account_id]
        _check_vouched(plan, changes[0])
        said = Decision(action=action, by=by, at=format_time(now), reason=reason)
        if action == "adjust":
            said = msgspec.structs.replace(said, balance=_adjusted(changes, balance))
        made[account_id] = [_decided(change, said) for change in changes]
    changes = [each for account_id, before in by_account.items() for each in made.get(account_id, before)]
    return sealed(msgspec.structs.replace(plan, changes=changes))


def _wanted(by_account: Mapping[str, list[Change]], account_ids: Sequence[str] | None, cause: str | None) -> list[str]:
    if account_ids is None:
        found = [
            account_id
            for account_id, (first, *_) in by_account.items()
            if first.basis == "unknown" and first.decision is None and cause in (None, first.cause)
        ]
        if not found:
            raise UsageError(
                "the plan has nothing undecided" + ("" if cause is None else f" of class {cause!r}"),
                next_step="look at its changes whose basis is unknown",
            )
        return found
    for account_id in account_ids:
        if account_id not in by_account:
            raise UsageError(f"the plan changes nothing of account {account_id!r}", next_step="check the id")
        if by_account[account_id][0].basis == "log":
            raise _refused(account_id, "the log explains it, so there is nothing to decide", "leave it out")
        if cause is not None and by_account[account_id][0].cause != cause:
            raise UsageError(f"account {account_id!r} is not of class {cause!r}", next_step="name one of the two")
    return list(dict.fromkeys(account_ids))


def _check_vouched(plan: Plan, change: Change) -> None:
    """Refuse any decision on an account of our own read model that the log cannot vouch for."""
    if plan.target.kind == "read_model" and change.cause == "log_damaged":
        said = "our own read model has only what the log says, and the log cannot vouch for this account"
        next_step = "bring its events back from a copy: `recover plan` with a source to heal from"
        raise _refused(change.account_id, said, next_step)


def _adjusted(changes: Sequence[Change], balance: int | None) -> int:
    """Return the balance that an account is adjusted to, if it may be."""
    first = changes[0]
    account_id, is_whole = first.account_id, first.cause != "log_damaged"
    own = next((each for each in changes if each.field == "balance"), None)
    if first.cause == "row_extra":
        said = "the log has no such account, so no transaction can be appended"
        raise _refused(account_id, said, "accept it, and its row is taken away; or import the account first")
    if is_whole and own is None:
        said = "its balance agrees with the log, and a transaction changes nothing else"
        raise _refused(account_id, said, "accept what the log says")
    if balance is None and (own is None or not isinstance(own.from_, int)):
        raise UsageError(f"live has no balance of account {account_id!r}", next_step="give the balance")
    wanted = balance if balance is not None else own.from_  # type: ignore[union-attr]  # It was looked at just now.
    if not isinstance(wanted, int) or not 0 <= wanted <= AMOUNT_MAX:
        raise _refused(account_id, f"{wanted} is no balance to adjust to", "give points from 0 to 2^63-1")
    if is_whole and own is not None and isinstance(own.log, int):
        if wanted == own.log:
            raise _refused(account_id, f"the log says {wanted:,} already", "accept what the log says")
        if abs(wanted - own.log) > AMOUNT_MAX:
            raise _refused(account_id, "no one transaction is of so many points", "give a smaller balance")
    return wanted


def _decided(change: Change, decision: Decision) -> Change:
    return msgspec.structs.replace(change, decision=decision, to=_to(change, decision))


def _to(change: Change, decision: Decision) -> int | str | None:
    """Return what live gets: what the log says, but for the balance that is adjusted, or what nobody can vouch for."""
    if decision.balance is not None and change.field == "balance":
        return decision.balance
    if decision.balance is not None and change.field == ROW:
        return row_text({"balance": decision.balance, "frozen": 0, "status": "active", "locked_at": None})
    return change.from_ if change.cause == "log_damaged" else change.log


def _refused(account_id: str, what: str, next_step: str) -> RefusedError:
    return RefusedError(f"this cannot be decided so: {what}", where=f"account {account_id!r}", next_step=next_step)
