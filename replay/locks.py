"""Stuck locks: accounts that have been locked for more than a day, what keeps them locked, and unlocking them.

Without a pending transaction such an account is unlocked, as an event. With one that has been pending for more than an
hour a person has to look; until then it waits. An account is locked where the log says so, and where the log has never
said anything of its status, where its live row does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import polars as pl
from sqlalchemy import Connection, update

from ledger import Ledger, audit, read_model
from ledger.store import Store
from ledger.tables import IMPORTED_ACCOUNTS
from projections import ACCOUNT_STATUS, TRANSACTIONS
from replay.certificate import Certificate
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.gate import Parked
from replay.store_source import StoreSource
from schemas import format_time
from schemas.errors import LedgerReplayError, RefusedError

__all__ = [
    "LIVE_REASON",
    "PENDING_TOO_LONG",
    "REASON",
    "STUCK_AFTER",
    "Fixed",
    "Lock",
    "Locks",
    "fix_locks",
    "locks_of",
    "stuck_locks",
    "unlock",
]

#: Both strictly: what is just as old is not yet stuck.
STUCK_AFTER = timedelta(days=1)
PENDING_TOO_LONG = timedelta(hours=1)

#: Why an account is unlocked.
REASON = "recovered by itself: locked for more than a day, and nothing is pending"

#: Why an account is locked whose lock only its live row knew.
LIVE_REASON = "its live row said that it was locked since then, and the log did not know it"

Action = Literal["unlocked", "waiting", "manual_intervention_required", "failed"]


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """An account that has been locked for more than a day, and what is to be done.

    `action` is what becomes of it; `pending_transactions` are those that stand in the way: of `waiting` all that are
    pending, of `manual_intervention_required` those that have been pending for too long. `in_log` is false where only
    the live row says that it is locked. `words` say why.
    """

    account_id: str
    locked_at: datetime
    locked_seconds: int
    action: Action
    pending_transactions: list[str] = []
    in_log: bool = True
    words: str = ""


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a stuck lock.

    `success` is true where the account was unlocked, false where a person has to look, null where it waits. `words`
    say why, or why it could not be done.
    """

    lock: Lock
    action: Action
    success: bool | None
    words: str


@dataclass(frozen=True)
class Locks:
    """The stuck locks in account order, the accounts whose live row is locked without a time, and what was replayed."""

    found: list[Lock]
    without_time: list[str]
    certificate: Certificate


def stuck_locks(
    store: Store,
    *,
    now: datetime,
    live: pl.DataFrame | Literal["imported"] | None = "imported",
    progress: Progress | None = None,
) -> Locks:
    """Return every account that at `now` has been locked for more than a day.

    `live` are the rows of a live table (`account_id`, `status`, `locked_at`), the imported ones, or None for the log's
    locks alone.
    """
    with StoreSource.snapshot(store) as source, replayed(source, progress=progress) as replay:
        return locks_of(source, replay, now=now, live=live)


def locks_of(
    source: StoreSource, replay: Replay, *, now: datetime, live: pl.DataFrame | Literal["imported"] | None = "imported"
) -> Locks:
    """Return the stuck locks as of a replay of everything in the source's snapshot; otherwise as `stuck_locks`."""
    rows = read_model.imported(source.connection) if isinstance(live, str) else live
    locked = _locked(source, replay, rows)
    without_time = locked.filter(pl.col("locked_at").is_null())["account_id"].sort().to_list()
    stuck = locked.filter(pl.lit(now.astimezone(UTC)) - pl.col("locked_at") > STUCK_AFTER).sort("account_id")
    parked = {each.account_id: each for each in replay.certificate.parked}
    seen = set(replay.gate.last["account_id"])
    pending = _pending(source, [each for each in stuck["account_id"] if each not in parked], replay)
    found = []
    for row in stuck.iter_rows(named=True):
        account_id = row["account_id"]
        obstacle = _obstacle(row, parked.get(account_id), is_known=account_id in seen)
        found.append(_lock(row, pending.get(account_id, []), obstacle, now))
    return Locks(found, without_time, replay.certificate)


def fix_locks(ledger: Ledger, found: Sequence[Lock], *, by: str, reason: str = REASON) -> list[Fixed]:
    """Unlock what may be unlocked, each account by itself, and return what became of every lock.

    Each unlock is in the audit trail, `by` whom, in the transaction of its event; so are in the end the accounts that
    need a person. What fails with one account is told beside what was done with the others.
    """
    ledger_id, done = ledger.store.ledger_id, []
    for lock in found:
        if lock.action != "unlocked":
            success = None if lock.action == "waiting" else False
            done.append(Fixed(lock=lock, action=lock.action, success=success, words=lock.words))
            continue
        entry = _entry("account.unlocked", lock, by, ledger.clock(), reason=reason)

        def beside(connection: Connection, entry: audit.Entry = entry) -> None:
            audit.append(connection, ledger_id, [entry])

        try:
            unlock(ledger, lock.account_id, locked_at=lock.locked_at, reason=reason, beside=beside)
        except LedgerReplayError as error:
            done.append(Fixed(lock=lock, action="failed", success=False, words=str(error)))
        else:
            done.append(Fixed(lock=lock, action="unlocked", success=True, words=lock.words))
    left = [
        _entry(
            "account.not_unlocked",
            each.lock,
            by,
            ledger.clock(),
            reason=each.words,
            pending_transactions=each.lock.pending_transactions,
        )
        for each in done
        if each.success is False
    ]
    if left:
        with ledger.store.writing() as connection:
            audit.append(connection, ledger_id, left)
    return done


def _entry(action: str, lock: Lock, by: str, at: datetime, **details: Any) -> audit.Entry:
    since = {"locked_at": format_time(lock.locked_at), "locked_seconds": lock.locked_seconds}
    return audit.Entry(action=action, by=by, at=at, account_id=lock.account_id, details=since | details)


def unlock(
    ledger: Ledger,
    account_id: str,
    *,
    locked_at: datetime,
    reason: str,
    is_imported: bool = True,
    beside: Callable[[Connection], None] | None = None,
) -> bool:
    """Unlock an account as an event, and say whether that was still to do: of an active one nothing is appended.

    Where the log has never said anything of its status, that it was locked at `locked_at` is appended first. With
    `is_imported` its live row is the imported one, which becomes active where it is still locked since then. `beside`
    is called with the connection, to write what belongs to it. All of that happens in one transaction, and everything
    is asked once more in it.

    Raises:
        RefusedError: it has moved on: it was locked again, has a pending transaction by now, or only its imported row
            was locked, and is not any more; or the ledger says no.
        IncompleteError: its stream is not whole.
    """
    with ledger.together() as connection:
        account = ledger.account(account_id)
        is_told = account.status_version > 0
        if is_told and account.status == "active":
            return False
        if is_told and account.locked_at not in (None, locked_at):
            raise _moved_on(account_id, f"it was locked again at {format_time(account.locked_at)}")
        if any(each.status == "pending" for each in account.transactions.values()):
            raise _moved_on(account_id, "it has a pending transaction by now")
        if not is_told:
            ledger.lock(account_id, effective_at=locked_at, reason=LIVE_REASON)
        ledger.unlock(account_id, reason=reason)
        if is_imported and not _activate(connection, account_id, locked_at) and not is_told:
            raise _moved_on(account_id, "its imported row says something else by now")
        if beside is not None:
            beside(connection)
    return True


def _moved_on(account_id: str, what: str) -> RefusedError:
    return RefusedError(
        f"the account has moved on: {what}", where=f"account {account_id!r}", next_step="check the locks again"
    )


def _activate(connection: Connection, account_id: str, locked_at: datetime) -> bool:
    """Say of the imported row what the log says now; one that says something else is for `drift` to name."""
    is_it = (IMPORTED_ACCOUNTS.c.account_id == account_id) & (IMPORTED_ACCOUNTS.c.status == "locked")
    since = IMPORTED_ACCOUNTS.c.locked_at
    is_same = since.is_(None) | (since == format_time(locked_at))
    statement = update(IMPORTED_ACCOUNTS).where(is_it & is_same).values(status="active", locked_at=None)
    return connection.execute(statement).rowcount == 1


def _locked(source: StoreSource, replay: Replay, live: pl.DataFrame | None) -> pl.DataFrame:
    """Return the locked accounts: `account_id`, `locked_at`, `closed_version`, `in_log`.

    Of a parked account the log may have lost a lock or an unlock, so there either side is enough.
    """
    is_parked = pl.col("account_id").is_in(replay.parked_ids)
    told = replay.states.value(ACCOUNT_STATUS).filter(~is_parked)
    of_log = (
        pl.concat([told, _status_of_parked(source, replay)])
        .filter(pl.col("status") == "locked")
        .select("account_id", "locked_at", "closed_version", in_log=pl.lit(value=True))
    )
    if live is None:
        return of_log
    known = pl.concat([told.select("account_id"), of_log.select("account_id")])
    of_live = (
        live.filter(pl.col("status") == "locked")
        .join(known, on="account_id", how="anti")
        .select("account_id", "locked_at", closed_version=pl.lit(None, dtype=pl.Int64()), in_log=pl.lit(value=False))
    )
    return pl.concat([of_log, of_live])


def _status_of_parked(source: StoreSource, replay: Replay) -> pl.DataFrame:
    """Return the status of parked accounts as the last of their events says that can be read, behind a gap or not."""
    batches = source.of_accounts(replay.parked_ids).read(after=0, until=replay.certificate.store_position, details=())
    parts = [ACCOUNT_STATUS.fold(batch.events.lazy()) for batch in batches]
    return ACCOUNT_STATUS.merge(ACCOUNT_STATUS.empty().lazy(), pl.concat(parts)).collect() if parts else _NO_STATUS


_NO_STATUS = ACCOUNT_STATUS.empty()


def _pending(source: StoreSource, account_ids: Sequence[str], replay: Replay) -> dict[str, list[tuple[str, datetime]]]:
    """Return the pending transactions of some accounts, the oldest first, each with the moment of its creation."""
    found: dict[str, list[tuple[str, datetime]]] = {}
    if not account_ids:
        return found
    until = replay.certificate.store_position
    with replayed(source.of_accounts(account_ids), [TRANSACTIONS], until=until) as alone:
        for bucket in alone.states.buckets(TRANSACTIONS):
            rows = bucket.filter(pl.col("status") == "pending").sort("created_at", "created_version")
            for account_id, name, created_at in rows.select("account_id", "transaction_id", "created_at").iter_rows():
                found.setdefault(account_id, []).append((name, created_at))
    return found


def _obstacle(row: dict[str, Any], parked: Parked | None, *, is_known: bool) -> str | None:
    """Say why nothing can be known or done of a locked account, None where something can."""
    if parked is not None:
        details = f": {parked.details}" if parked.details else ""
        return f"its stream is not whole ({parked.reason} at version {parked.version}{details})"
    if not is_known:
        return "the log has no event of this account"
    if row["closed_version"] is not None:
        return f"it was closed (version {row['closed_version']}) and locked again after that"
    return None


def _lock(row: dict[str, Any], pending: list[tuple[str, datetime]], obstacle: str | None, now: datetime) -> Lock:
    locked_at: datetime = row["locked_at"]
    too_long = [name for name, created_at in pending if now - created_at > PENDING_TOO_LONG]
    action: Action
    if obstacle is not None:
        action, names, words = "failed", [], obstacle
    elif too_long:
        action, names = "manual_intervention_required", too_long
        words = "transactions have been pending for more than an hour"
    elif pending:
        action, names = "waiting", [name for name, _ in pending]
        words = "transactions are pending, for no more than an hour"
    else:
        action, names, words = "unlocked", [], "nothing is pending"
    return Lock(
        account_id=row["account_id"],
        locked_at=locked_at.astimezone(UTC),
        locked_seconds=int((now - locked_at).total_seconds()),
        action=action,
        pending_transactions=names,
        in_log=row["in_log"],
        words=words,
    )
