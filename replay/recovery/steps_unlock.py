"""The step that unlocks accounts which have been locked for too long, none before it was found equal to the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from ledger import audit
from replay.locks import unlock as unlock_in_log
from replay.recovery.failpoints import failpoint
from replay.recovery.outcome import UNLOCKING, last_tries
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


class Unlocked(msgspec.Struct, frozen=True, kw_only=True):
    """How many accounts were unlocked, and with the reason which were not, and which unlocked ones are not in live."""

    unlocked: int
    not_unlocked: list[tuple[str, str]]
    not_in_live: list[tuple[str, str]]


def unlock(work: Work) -> None:
    """Unlock the accounts of the plan in the log, then in live."""
    failpoint("unlock:begun")
    with work.store.snapshot() as connection:
        tried = _tried(connection, work.run)
    ours = {name for name, _ in tried["account.unlocked"]}
    # One that is unlocked in the log already differs from it just by that, if by nothing else.
    wrong = unequal(work.state().steps["verify"]) - ours
    done = {name for name, _ in tried["row.unlocked"]} if isinstance(work.target, TableTarget) else ours
    todo = [each for each in sorted(work.plan.unlock, key=lambda each: each.account_id) if each.account_id not in done]
    for start in range(0, len(todo), ACCOUNTS_AT_ONCE):
        some = todo[start : start + ACCOUNTS_AT_ONCE]
        _unlock(work, some, wrong, ours)
        work.tell(At(step="unlock", done=start + len(some), total=len(todo)))
    if todo and isinstance(work.target, OwnReadModel):
        work.target.follow(work.store)
    with work.store.snapshot() as connection:
        tried = _tried(connection, work.run)
    results = Unlocked(
        unlocked=len(tried["account.unlocked"]),
        not_unlocked=tried["account.not_unlocked"],
        not_in_live=tried["row.not_unlocked"],
    )
    work.done("unlock", results)
    failpoint("unlock:done")


def _tried(connection: Connection, run: str) -> dict[str, list[tuple[str, str]]]:
    """Return what became of the locks so far, by the action of the last entry: accounts, each with the reason."""
    found: dict[str, list[tuple[str, str]]] = {action: [] for action in UNLOCKING}
    for each in last_tries(audit.entries(connection, run=run, actions=UNLOCKING)):
        found[each.action].append((str(each.account_id), str(each.details.get("reason", ""))))
    return found


def _unlock(work: Work, some: Sequence[Unlock], wrong: set[str], ours: set[str]) -> None:
    """Announce accounts, unlock them in the log, then in live, and record what became of each.

    `ours` are those that this run has unlocked in the log before.
    """
    names = [each.account_id for each in some if each.account_id not in wrong]
    with work.changing() as (_, connection):
        work.record(connection, [work.entry("correcting", step="unlock", accounts=names)])
    target = work.target if isinstance(work.target, TableTarget) else None
    rows = {} if target is None else target.rows(names)
    unlocked = []
    for each in some:
        refused = "it is not equal to the log"
        if each.account_id not in wrong:
            refused = _unlocked_in_log(work, each, rows.get(each.account_id), is_ours=each.account_id in ours)
        if not refused:
            unlocked.append(each)
        elif each.account_id in ours:
            # Its event is there and stays so: what it lacks is its live row.
            _record(work, [_live_entry(work, each.account_id, refused)])
        else:
            details = {"locked_at": each.locked_at, "reason": refused}
            _record(work, [work.entry("account.not_unlocked", each.account_id, **details)])
    failpoint("unlock:written")
    if target is not None:
        refusals = _in_live(work, target, unlocked, rows)
        _record(work, [_live_entry(work, each.account_id, refusals.get(each.account_id)) for each in unlocked])


def _record(work: Work, entries: Sequence[audit.Entry]) -> None:
    with work.changing() as (_, connection):
        work.record(connection, entries)


def _live_entry(work: Work, account_id: str, refusal: str | None) -> audit.Entry:
    if refusal is not None:
        return work.entry("row.not_unlocked", account_id, reason=f"unlocked in the log, and not in live: {refusal}")
    return work.entry("row.unlocked", account_id)


def _moved(work: Work, each: Unlock, row: LiveRow | None, *, is_ours: bool) -> str:
    """Return how a live row is not as it was when it was found equal, but for what this run made of it before."""
    if row is None or row.values is None:
        return "it has no live row that can be read"
    values, account = row.values, work.ledger.account(each.account_id)
    since, status = values.get("locked_at"), values["status"]
    if (values["balance"], values["frozen"]) != (account.balance, account.frozen):
        return "its live row was changed meanwhile: it has other points than the log"
    if status == "locked":
        return "" if since in (None, each.locked_at) else f"its live row was locked again at {since}"
    return "" if is_ours and status == "active" else f"its live row is {status}"


def _unlocked_in_log(work: Work, each: Unlock, row: LiveRow | None, *, is_ours: bool) -> str:
    """Unlock one account, and return why not; one that this run unlocked before stays so."""

    def beside(connection: Connection) -> None:
        work.renew(connection)
        details = {"locked_at": each.locked_at, "reason": each.reason}
        work.record(connection, [work.entry("account.unlocked", each.account_id, **details)])

    try:
        moved = _moved(work, each, row, is_ours=is_ours) if isinstance(work.target, TableTarget) else ""
        if moved:
            return moved
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


def _in_live(
    work: Work, target: TableTarget, unlocked: Sequence[Unlock], seen: Mapping[str, LiveRow]
) -> dict[str, str]:
    """Give the live rows of unlocked accounts, which are as they were `seen`, their status; return the others, why."""
    told: dict[str, str] = {}

    def decide(rows: Mapping[str, LiveRow]) -> list[Write]:
        work.still()
        told.clear()
        writes = []
        for each in unlocked:
            row = rows.get(each.account_id)
            if row is not None and row.values is not None and row.values["status"] == "active":
                # It was written already: by this run, or with the event where the row is the imported one.
                continue
            if row is None or row.raw != seen[each.account_id].raw:
                told[each.account_id] = "its live row was changed meanwhile"
            else:
                writes.append(Write(each.account_id, row, target.raw_values.of(UNLOCKED), UNLOCKED))
        return writes

    refused = target.change([each.account_id for each in unlocked], decide) if unlocked else {}
    return told | refused
