"""Stale pending transactions: what becomes of each, decided by the account in memory, and what that comes to.

Nothing is written here. What the planned events are worth is their fold, merged with the state that they follow, as
a replay will have it once they are appended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, cast

import polars as pl

from ledger import Ledger
from ledger.account import Account, Limits, Moments, Transaction
from ledger.read_model import ROW_SCHEMA
from projections import BALANCES
from replay.recovery.basis import Policy
from replay.recovery.leftovers import stale_left
from replay.recovery.plan import Left, Settlement
from schemas import Event, format_time
from schemas.columns import event_rows
from schemas.errors import LedgerReplayError, RefusedError

__all__ = ["Settled", "rows_after", "settled"]

_STATUS_OF: Mapping[str, Literal["completed", "cancelled"]] = {"complete": "completed", "cancel": "cancelled"}
_Wanted = tuple[Transaction, Literal["complete", "cancel"]]
_FOLDED = ("account_id", "amount", "type", "from_status", "to_status", "version", "effective_at")


#: What the fold knows of a row before its events are written.
_TOLD = ("balance", "frozen", "pending_credit", "pending_debit", "version")


class Settled(NamedTuple):
    """Settlements in the order in which they are to be made, the events that they would be, and what is left."""

    settle: list[Settlement]
    events: list[Event]
    left: list[Left]


def settled(
    ledger: Ledger,
    stale: Mapping[str, Sequence[str]],
    versions: Mapping[str, int],
    *,
    policy: Policy,
    now: datetime,
    unlowered: Collection[str] = (),
) -> Settled:
    """Decide the stale pending transactions of accounts, as the policy says and the account lets them.

    `versions` are those that the accounts had when they were judged: one that went on since is left. Of accounts that
    are `unlowered` no debit is completed.
    """
    found = Settled([], [], [])
    for account_id, transaction_ids in sorted(stale.items()):
        try:
            account = ledger.account(account_id)
            if account.version != versions.get(account_id):
                raise RefusedError("the account moved on while it was planned")
        except LedgerReplayError as error:
            found.left.extend(stale_left(account_id, each, error.what) for each in transaction_ids)
            continue
        wanted = _wanted(account, transaction_ids, found.left, policy, is_lowered=account_id not in unlowered)
        _settle(account, ledger.limits, wanted, found, now)
    return found


def _wanted(
    account: Account, transaction_ids: Sequence[str], left: list[Left], policy: Policy, *, is_lowered: bool
) -> list[_Wanted]:
    wanted: list[_Wanted] = []
    for transaction in (account.transactions[each] for each in transaction_ids):
        code = transaction.content.business_code
        action = policy.settle_codes.get(code or "", policy.settle)
        if action is None:
            said = "no policy says what becomes of it" if code is None else f"no policy for business code {code!r}"
            left.append(stale_left(account.id, transaction.transaction_id, said))
        elif action == "complete" and transaction.type == "debit" and not is_lowered:
            said = "live differs from the log, and to complete it would lower live: plan again once they are equal"
            left.append(stale_left(account.id, transaction.transaction_id, said))
        else:
            wanted.append((transaction, action))
    return wanted


def _settle(account: Account, limits: Limits, wanted: Sequence[_Wanted], found: Settled, now: datetime) -> None:
    # What gives points goes first, so that what takes them is refused only where they are not there.
    for transaction, action in sorted(wanted, key=lambda each: each[0].type == "debit" and each[1] == "complete"):
        version = account.version
        try:
            account.change(transaction.transaction_id, _STATUS_OF[action], Moments(now, now), limits)
        except LedgerReplayError as error:
            found.left.append(stale_left(account.id, transaction.transaction_id, error.what))
            continue
        if account.version == version:
            said = f"it was {_STATUS_OF[action]} before, and a later event made it pending again"
            found.left.append(stale_left(account.id, transaction.transaction_id, said))
        else:
            found.settle.append(_settlement(account.id, transaction, action))
    found.events.extend(cast("list[Event]", account.collect_events()))


def _settlement(account_id: str, transaction: Transaction, action: Literal["complete", "cancel"]) -> Settlement:
    return Settlement(
        account_id=account_id,
        transaction_id=transaction.transaction_id,
        action=action,
        type=transaction.type,
        amount=transaction.amount,
        business_code=transaction.content.business_code,
        created_at=format_time(transaction.created_at),
    )


def rows_after(rows: pl.DataFrame, events: Iterable[Event]) -> pl.DataFrame:
    """Return rows (`ROW_SCHEMA`) with transaction events of their accounts folded in, in the order of the rows.

    `chain` and `last_effective_at` of an account with events are null: they depend on when the events are written.
    """
    batch = event_rows(list(events)).select(_FOLDED)
    if batch.is_empty():
        return rows
    moved = rows.join(batch.select("account_id").unique(), on="account_id", how="semi")
    before = moved.lazy().select(pl.col(name).cast(dtype) for name, dtype in BALANCES.schema.items())
    after = BALANCES.merge(before, BALANCES.fold(batch.lazy())).collect()
    told = [pl.col(name).cast(ROW_SCHEMA[name], strict=True) for name in _TOLD]
    merged = moved.drop(*_TOLD, "chain", "last_effective_at").join(after.select("account_id", *told), on="account_id")
    unknown = {name: pl.lit(None, ROW_SCHEMA[name]) for name in ("chain", "last_effective_at")}
    whole = pl.concat(
        [
            rows.join(moved, on="account_id", how="anti"),
            merged.with_columns(**unknown).select(ROW_SCHEMA.names()),
        ]
    )
    return rows.select("account_id").join(whole, on="account_id", how="left", maintain_order="left")
