"""Findings, and balances as of a moment, worked out one event at a time in plain Python.

Findings are the scenario's own loop, and the further codes beside it.

Nothing here uses the projections or polars; what both say is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ledger.rules import LEGAL_TRANSITIONS
from schemas import (
    AccountClosed,
    AccountLocked,
    AccountOpened,
    AccountUnlocked,
    Event,
    TransactionEvent,
    TransactionRecorded,
)

#: (code, account_id, transaction_id, position, actual); actual is None where only the place is compared.
Found = tuple[str, str, str | None, int | None, Any]
Placed = tuple[int, Event]


class Final(NamedTuple):
    """A transaction as the scenario reads it from its table: one row with its last status."""

    transaction_id: str
    type: str
    status: str
    amount: int
    related_transaction_id: str | None
    created_at: datetime
    created_version: int
    created_position: int


def findings(events: list[Event], now: datetime) -> list[Found]:
    """Return what is wrong with a history; positions count its events from 1."""
    accounts: dict[str, list[Placed]] = defaultdict(list)
    for position, event in enumerate(events, start=1):
        accounts[event.account_id].append((position, event))
    finals = {account_id: finals_of(placed) for account_id, placed in accounts.items()}
    found: list[Found] = []
    for account_id, placed in accounts.items():
        found += _scenario(account_id, finals[account_id], now)
        found += _of_account(account_id, placed, now)
        for own in by_transaction(placed).values():
            found += _of_transaction(account_id, own, now)
    return found + list(_across(finals))


def by_transaction(placed: list[Placed]) -> dict[str, list[tuple[int, TransactionEvent]]]:
    """Return one account's transaction events by transaction id, in version order."""
    own: dict[str, list[tuple[int, TransactionEvent]]] = defaultdict(list)
    for position, event in placed:
        if isinstance(event, TransactionEvent):
            own[event.transaction_id].append((position, event))
    return own


def finals_of(placed: list[Placed]) -> list[Final]:
    """Return one account's transactions, oldest first."""
    finals = []
    for transaction_id, own in by_transaction(placed).items():
        recorded = [pair for pair in own if isinstance(pair[1], TransactionRecorded)]
        position, first = (recorded or own)[0]
        told = [event.related_transaction_id for _, event in own if event.related_transaction_id is not None]
        finals.append(
            Final(
                transaction_id,
                first.type,
                own[-1][1].to_status,
                first.amount,
                told[-1] if told else None,
                first.effective_at,
                first.version,
                position,
            )
        )
    return sorted(finals, key=lambda final: (final.created_at, final.created_version))


def _scenario(  # noqa: C901 it follows the loop of the scenario line by line
    account_id: str, transactions: list[Final], now: datetime
) -> Iterator[Found]:
    """The scenario's loop, line by line."""
    running_balance = 0
    for index, transaction in enumerate(transactions):
        if transaction.status == "completed":
            if transaction.type == "credit":
                running_balance += transaction.amount
            elif transaction.type == "debit":
                running_balance -= transaction.amount
            if running_balance < 0:
                yield "negative_balance", account_id, transaction.transaction_id, index, str(running_balance)
            if transaction.related_transaction_id is not None:
                related_exists = False
                for other in transactions:
                    if other.transaction_id == transaction.related_transaction_id:
                        related_exists = True
                        break
                if not related_exists:
                    yield (
                        "missing_related_transaction",
                        account_id,
                        transaction.transaction_id,
                        transaction.created_position,
                        None,
                    )
        if transaction.status == "pending" and transaction.created_at < now - timedelta(hours=24):
            yield (
                "stale_pending_transaction",
                account_id,
                transaction.transaction_id,
                transaction.created_position,
                None,
            )


def _of_transaction(account_id: str, own: list[tuple[int, TransactionEvent]], now: datetime) -> Iterator[Found]:
    def found(code: str, position: int | None, actual: str | None = None) -> Found:
        return code, account_id, own[0][1].transaction_id, position, actual

    recorded = [pair for pair in own if isinstance(pair[1], TransactionRecorded)]
    contents = {_content(event) for _, event in recorded}
    is_conflicting = len(contents) > 1 or len({(event.type, event.amount) for _, event in own}) > 1
    if is_conflicting or len(recorded) > 1:
        code = "conflicting_duplicate" if is_conflicting else "duplicate_transaction"
        position = recorded[-1][0] if len(recorded) > 1 else own[-1][0]
        yield found(code, position, f"recorded {len(recorded)} times")
    if not isinstance(own[0][1], TransactionRecorded):
        yield found("orphan_status_change", own[0][0])
    illegal = [(position, event) for (position, event), before in _pairs(own) if _is_illegal(event, before)]
    for position, event in illegal[:1]:
        yield found("illegal_transition", position, f"{event.from_status or 'none'} -> {event.to_status}")
        yield found("illegal changes", len(illegal))
    backward = [
        position for (position, event), before in _pairs(own) if before and event.effective_at < before.effective_at
    ]
    for position in backward[:1]:
        yield found("effective_at_regression", position)
    if any(event.effective_at > now for _, event in own):
        created = (recorded or own)[0]
        last = own[-1] if own[-1][1].effective_at > now else (None, None)
        yield found("future_timestamp", created[0] if created[1].effective_at > now else last[0])


def _pairs(
    own: list[tuple[int, TransactionEvent]],
) -> list[tuple[tuple[int, TransactionEvent], TransactionEvent | None]]:
    return list(zip(own, [None, *(event for _, event in own)], strict=False))


def _is_illegal(event: TransactionEvent, before: TransactionEvent | None) -> bool:
    if isinstance(event, TransactionRecorded) and event.from_status is None:
        return False
    is_broken = before is not None and event.from_status != before.to_status
    return is_broken or (event.from_status, event.to_status) not in LEGAL_TRANSITIONS


def _content(event: TransactionEvent) -> tuple[Any, ...]:
    return (
        event.type,
        event.amount,
        event.to_status,
        event.effective_at,
        event.related_transaction_id,
        event.business_code,
        event.order_id,
    )


def _of_account(account_id: str, placed: list[Placed], now: datetime) -> Iterator[Found]:
    balance = frozen = pending_credit = pending_debit = 0
    for _, event in placed:
        if isinstance(event, TransactionEvent):
            for status, sign in ((event.to_status, 1), (event.from_status, -1)):
                points = sign * event.amount
                balance += (points if event.type == "credit" else -points) if status == "completed" else 0
                frozen += points if status == "frozen" else 0
                pending_credit += points if status == "pending" and event.type == "credit" else 0
                pending_debit += points if status == "pending" and event.type == "debit" else 0
    if frozen > 0 and frozen > balance:
        yield "over_frozen", account_id, None, None, str(frozen)
    for points in (balance, frozen, balance - frozen, pending_credit, pending_debit):
        if not -(2**63) <= points < 2**63:
            yield "overflow", account_id, None, None, str(points)
    latest = max(event.effective_at for _, event in placed)
    moments = [event.effective_at for _, event in placed if isinstance(event, TransactionEvent)]
    if latest > now and latest > max(moments, default=now):
        yield "future_timestamp", account_id, None, None, None
    yield from _after_closing(account_id, placed)


def _after_closing(account_id: str, placed: list[Placed]) -> Iterator[Found]:
    closings = [event.version for _, event in placed if isinstance(event, AccountClosed)]
    after = [event for _, event in placed if closings and event.version > closings[0]]
    # Of account events after closing, an opening is seen where it is the last event of all.
    if any(
        not isinstance(event, TransactionEvent) and (not isinstance(event, AccountOpened) or event is placed[-1][1])
        for event in after
    ):
        yield "closed_account_activity", account_id, None, None, None
    created = {final.transaction_id: final for final in finals_of(placed)}
    for transaction_id, own in by_transaction(placed).items():
        if closings and own[-1][1].version > closings[0]:
            is_new = created[transaction_id].created_version > closings[0]
            position = created[transaction_id].created_position if is_new else own[-1][0]
            yield "closed_account_activity", account_id, transaction_id, position, None


def _across(finals: dict[str, list[Final]]) -> Iterator[Found]:
    holders: dict[str, set[str]] = defaultdict(set)
    for account_id, transactions in finals.items():
        for transaction in transactions:
            holders[transaction.transaction_id].add(account_id)
    for account_id, transactions in finals.items():
        for transaction in transactions:
            related, position = transaction.related_transaction_id, transaction.created_position
            if len(holders[transaction.transaction_id]) > 1:
                count = f"{len(holders[transaction.transaction_id])} accounts"
                yield "conflicting_duplicate", account_id, transaction.transaction_id, position, count
            if transaction.status == "completed" and related is not None and account_id not in holders[related]:
                for other in holders[related]:
                    yield "related_in_other_account", account_id, transaction.transaction_id, position, other


def balances_as_of(
    events: list[Event], effective: datetime | None, recorded: datetime | None
) -> dict[str, dict[str, Any]]:
    """Return the balances row of every account that has an event up to a moment of either clock, sums of any size.

    Events of an account are in version order, which is the order that its status follows.
    """
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        if effective is not None and event.effective_at > effective:
            continue
        if recorded is not None and event.recorded_at > recorded:
            continue
        if event.account_id not in rows:
            rows[event.account_id] = _new_row(event)
        row = rows[event.account_id]
        row["version"] = event.version
        row["last_effective_at"] = max(row["last_effective_at"], event.effective_at)
        if isinstance(event, TransactionEvent):
            _count(row, event, event.to_status, event.amount)
            _count(row, event, event.from_status, -event.amount)
        elif not isinstance(event, AccountOpened):
            named = {AccountLocked: "locked", AccountUnlocked: "active", AccountClosed: "closed"}
            row["status"] = named[type(event)]
    for row in rows.values():
        row["available"] = row["balance"] - row["frozen"]
    return rows


def _new_row(event: Event) -> dict[str, Any]:
    sums = dict.fromkeys(("balance", "frozen", "available", "pending_credit", "pending_debit"), 0)
    first = {"status": "active", "version": event.version, "last_effective_at": event.effective_at}
    return {"account_id": event.account_id, **sums, **first}


def _count(row: dict[str, Any], event: TransactionEvent, status: str | None, points: int) -> None:
    if status == "completed" and event.type == "credit":
        row["balance"] += points
    elif status == "completed":
        row["balance"] -= points
    elif status == "frozen":
        row["frozen"] += points
    elif status == "pending":
        row[f"pending_{event.type}"] += points
