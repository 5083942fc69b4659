"""The step that unlocks accounts which have been locked for too long, none before it was found equal to the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from ledger import audit
from replay.locks import unlock as unlock_in_log
from replay.recovery.failpoints import failpoint
from replay.recovery.outcome import noted_accounts
from replay.recovery.own_target import OwnReadModel
from replay.recovery.plan import Unlock
from replay.recovery.steps_verify import unequal
from replay.recovery.table_target import TableTarget, Write
from replay.recovery.targets import LiveRow, Values
from replay.recovery.work import At, Work
from schemas.errors import IncompleteError, LedgerFenced, PositionMoved, RefusedError

__all__ = ["UNLOCKED", "Unlocked", "unlock"]

#: What a live row says of an account that is not locked.
UNLOCKED: Values = {"status": "active", "locked_at": None}
ACCOUNTS_AT_ONCE = 100
_ACTIONS = ("account.unlocked", "account.not_unlocked")


class Unlocked(msgspec.Struct, frozen=True, kw_only=True):
    """How many accounts were unlocked, and which were not, with the reason."""

    unlocked: int
    not_unlocked: list[tuple[str, str]]


def unlock(work: Work) -> None:
    """Unlock the accounts of the plan in the log, then in live."""
    failpoint("unlock:begun")
    wrong = unequal(work.state().steps["verify"])
    with work.store.snapshot() as connection:
        done = {each.account_id for each in audit.entries(connection, run=work.run, actions=_ACTIONS)}
        noted = noted_accounts(connection, work.run, "unlock")
    todo = [each for each in sorted(work.plan.unlock, key=lambda each: each.account_id) if each.account_id not in done]
    for start in range(0, len(todo), ACCOUNTS_AT_ONCE):
        some = todo[start : start + ACCOUNTS_AT_ONCE]
        _unlock(work, some, wrong, noted)
        work.tell(At(step="unlock", done=start + len(some), total=len(todo)))
    if todo and isinstance(work.target, OwnReadModel):
        work.target.follow(work.store)
    with work.store.snapshot() as connection:
        entries = audit.entries(connection, run=work.run, actions=_ACTIONS)
    left = [(str(each.account_id), str(each.details["reason"])) for each in entries if each.action == _ACTIONS[1]]
    work.done("unlock", Unlocked(unlocked=len(entries) - len(left), not_unlocked=left))
    failpoint("unlock:done")


def _unlock(work: Work, some: Sequence[Unlock], wrong: set[str], noted: set[str]) -> None:
    """Announce accounts, unlock them in the log, then in live, and record what became of each."""
    equal = [each for each in some if each.account_id not in wrong]
    reasons = {each.account_id: "it is not equal to the log" for each in some if each.account_id in wrong}
    with work.changing() as (_, connection):
        names = [each.account_id for each in equal]
        work.record(connection, [work.entry("correcting", step="unlock", accounts=names)])
    for each in equal:
        refused = _unlocked_in_log(work, each, is_ours=each.account_id in noted)
        if refused:
            reasons[each.account_id] = refused
    unlocked = [each for each in equal if each.account_id not in reasons]
    live = _in_live(work.target, unlocked) if isinstance(work.target, TableTarget) else {}
    entries = [_entry(work, each, reasons.get(each.account_id), live.get(each.account_id)) for each in some]
    with work.changing() as (_, connection):
        work.record(connection, entries)


def _unlocked_in_log(work: Work, each: Unlock, *, is_ours: bool) -> str:
    """Unlock one account, and return why not; one that this run unlocked before it was killed stays so."""

    def beside(connection: Connection) -> None:
        work.renew(connection)

    try:
        is_new = unlock_in_log(
            work.ledger,
            each.account_id,
            locked_at=datetime.fromisoformat(each.locked_at),
            reason=each.reason,
            is_imported=work.plan.target.kind == "imported",
            beside=beside,
        )
    except LedgerFenced:
        raise
    except (RefusedError, IncompleteError) as error:
        if isinstance(error, PositionMoved):
            raise
        return error.what
    return "" if is_new or is_ours else "it is not locked any more"


def _in_live(target: TableTarget, unlocked: Sequence[Unlock]) -> dict[str, str]:
    """Give the live rows of unlocked accounts their status; return those that did not take it, and why."""
    told: dict[str, str] = {}

    def decide(rows: Mapping[str, LiveRow]) -> list[Write]:
        told.clear()
        writes = []
        for each in unlocked:
            row = rows.get(each.account_id)
            if row is None or row.values is None:
                told[each.account_id] = "it has no live row that can be read"
            elif row.values["status"] == "locked":
                writes.append(Write(each.account_id, row, target.raw_values.of(UNLOCKED), UNLOCKED))
            elif row.values["status"] != "active":
                told[each.account_id] = f"its live row is {row.values['status']}"
        return writes

    refused = target.change([each.account_id for each in unlocked], decide) if unlocked else {}
    return told | refused


def _entry(work: Work, each: Unlock, reason: str | None, live: str | None) -> audit.Entry:
    if reason is not None:
        return work.entry("account.not_unlocked", each.account_id, locked_at=each.locked_at, reason=reason)
    details: dict[str, Any] = {"locked_at": each.locked_at, "reason": each.reason}
    return work.entry("account.unlocked", each.account_id, **details, **({} if live is None else {"live": live}))
