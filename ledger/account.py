"""The account: what one account's events say, and which commands it takes. Plain Python, no I/O.

It is written apart from the columnar projections on purpose: each is the oracle of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from eventsourcing.domain import BaseAggregate

from ledger.rules import LEGAL_TRANSITIONS, delta, is_legal
from schemas import (
    AccountClosed,
    AccountLocked,
    AccountOpened,
    AccountUnlocked,
    Event,
    Status,
    TransactionEvent,
    TransactionRecorded,
    TransactionStatusChanged,
    TransactionType,
    event_id,
)
from schemas import errors as refusals

__all__ = ["Account", "Content", "Limits", "Moments", "Transaction"]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
OPPOSITE: dict[TransactionType, TransactionType] = {"credit": "debit", "debit": "credit"}
STATUS_AFTER: dict[type[Event], str] = {AccountLocked: "locked", AccountUnlocked: "active", AccountClosed: "closed"}


class Limits(NamedTuple):
    """What a ledger is configured to allow beyond its rules."""

    allow_overdraft: bool = False
    allow_over_freeze: bool = False
    allow_locked: bool = False


class Moments(NamedTuple):
    """When a command happened, None where the caller leaves it to the clock, and when it is recorded; UTC."""

    effective_at: datetime | None
    recorded_at: datetime


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction is recorded with; two commands of one id and equal content are one command."""

    type: TransactionType
    amount: int
    status: Status
    related_transaction_id: str | None = None
    business_code: str | None = None
    order_id: str | None = None
    metadata: dict[str, Any] | None = None


class Transaction(msgspec.Struct, kw_only=True):
    """A transaction as its account's events have it: what it was recorded with, and where it is now.

    `reached` maps each status that it has gone through to the version of the event that took it there.
    """

    transaction_id: str
    content: Content
    status: Status
    created_at: datetime
    updated_at: datetime
    reached: dict[str, int]

    @property
    def type(self) -> TransactionType:
        """Credit or debit."""
        return self.content.type

    @property
    def amount(self) -> int:
        """Points, above zero."""
        return self.content.amount

    @property
    def related_transaction_id(self) -> str | None:
        """The transaction that this one reverses or refers to."""
        return self.content.related_transaction_id


class Account(BaseAggregate[str]):
    """One account: `balance`, `frozen`, `pending_credit`, `pending_debit`, `status`, `locked_at`, `transactions`.

    Sums are Python integers, so no sum wraps. `last_effective_at` is the latest moment of any event. Commands
    append to `pending_events` and return the version of the event that did what was asked, now or before; a
    refused command leaves the account as it was. Only this account's transactions are known here: an id that
    another account uses too is found by replay (`duplicate_transaction`), not refused.
    """

    if TYPE_CHECKING:
        # The library would make a dataclass, with an __init__ of its own, of a class that is annotated at run time.
        balance: int
        frozen: int
        pending_credit: int
        pending_debit: int
        status: str
        locked_at: datetime | None
        status_version: int
        last_effective_at: datetime
        transactions: dict[str, Transaction]

    @classmethod
    def start(cls, account_id: str, moment: datetime) -> Account:
        """Return an account without events."""
        account = cls.__new__(cls)
        account.__base_init__(account_id, 0, moment)
        account.balance = account.frozen = account.pending_credit = account.pending_debit = 0
        account.status = "active"
        account.locked_at = None
        account.status_version = 0
        account.last_effective_at = moment
        account.transactions = {}
        return account

    @classmethod
    def project(cls, account: Account | None, events: Iterable[Event]) -> Account | None:
        """Return the account after the events, None where there were none; each applies its delta, legal or not."""
        for event in events:
            if account is None:
                account = cls.start(event.account_id, event.effective_at)
            account.apply(event)
        return account

    @property
    def available(self) -> int:
        """Points that a debit may take: balance less frozen."""
        return self.balance - self.frozen

    def apply(self, event: Event) -> None:
        """Take one event into the state, from what it says itself."""
        self.version = event.version
        self.modified_on = event.recorded_at
        self.last_effective_at = max(self.last_effective_at, event.effective_at)
        if isinstance(event, TransactionEvent):
            change = delta(event.type, event.amount, event.from_status, event.to_status)
            self.balance += change.balance
            self.frozen += change.frozen
            self.pending_credit += change.pending_credit
            self.pending_debit += change.pending_debit
            self._apply_transaction(event)
        elif type(event) in STATUS_AFTER:
            self.status = STATUS_AFTER[type(event)]
            self.status_version = event.version
            self.locked_at = event.effective_at if self.status == "locked" else None

    def _apply_transaction(self, event: TransactionEvent) -> None:
        known = self.transactions.get(event.transaction_id)
        if known is None:
            self.transactions[event.transaction_id] = Transaction(
                transaction_id=event.transaction_id,
                content=_content(event),
                status=event.to_status,
                created_at=event.effective_at,
                updated_at=event.effective_at,
                reached={event.to_status: event.version},
            )
        else:
            known.status = event.to_status
            known.updated_at = max(known.updated_at, event.effective_at)
            known.reached.setdefault(event.to_status, event.version)

    def open(self, moments: Moments, reason: str | None) -> int:
        """Open the account; AccountExists if it has any event."""
        if self.version:
            raise refusals.AccountExists(
                "the account is open already", where=self._where(), next_step="use it, or choose another id"
            )
        return self._append(AccountOpened(**self._key(moments), reason=reason))

    def record(self, transaction_id: str, content: Content, moments: Moments, limits: Limits) -> int:
        """Record a new transaction in its first status."""
        known = self.transactions.get(transaction_id)
        if known is not None:
            return self._repeat(known, content, moments)
        self._check_takes_new(transaction_id, limits)
        self._check_change(transaction_id, content, None, content.status, limits)
        fields = {**msgspec.structs.asdict(content), **self._key(moments)}
        status = fields.pop("status")
        return self._append(
            TransactionRecorded(**fields, transaction_id=transaction_id, from_status=None, to_status=status)
        )

    def change(self, transaction_id: str, to_status: Status, moments: Moments, limits: Limits) -> int:
        """Take a known transaction to another status; a locked account settles, but freezes nothing more."""
        known = self._known(transaction_id)
        if to_status in known.reached:
            return known.reached[to_status]
        if to_status == "frozen":
            self._check_takes_new(transaction_id, limits)
        self._check_not_closed(transaction_id)
        self._check_change(transaction_id, known.content, known.status, to_status, limits)
        fields = {**msgspec.structs.asdict(known.content), **self._key(self._not_before(known, moments))}
        fields.pop("status")
        return self._append(
            TransactionStatusChanged(
                **fields, transaction_id=transaction_id, from_status=known.status, to_status=to_status
            )
        )

    def freeze(self, transaction_id: str, amount: int | None, asked: Content, moments: Moments, limits: Limits) -> int:
        """Hold points: a new transaction, or a pending one of this id. `asked` has what a new one is recorded with.

        Of a known one, what is given must be what it was recorded with.
        """
        known = self.transactions.get(transaction_id)
        if known is None and amount is None:
            raise self._unknown(transaction_id, "give an amount for a new hold")
        if known is None:
            return self.record(transaction_id, asked, moments, limits)
        if known.content.status == "frozen":
            content = asked if amount is not None else msgspec.structs.replace(asked, amount=known.amount)
            return self._repeat(known, content, moments)
        for name in ("related_transaction_id", "business_code", "order_id", "metadata"):
            if getattr(asked, name) not in (None, getattr(known.content, name)):
                raise self._conflict(transaction_id, f"it has another {name}")
        if amount not in (None, known.amount):
            raise self._conflict(transaction_id, f"it is of {known.amount} points, not {amount}")
        return self.change(transaction_id, "frozen", moments, limits)

    def reverse(
        self, transaction_id: str, reversal_id: str, extras: dict[str, Any], moments: Moments, limits: Limits
    ) -> int:
        """Record a completed transaction that undoes a completed one; each is undone once at most.

        The reversal belongs to the order of what it undoes, unless `extras` says another.
        """
        known = self._known(transaction_id)
        order_id = extras.get("order_id") or known.content.order_id
        content = Content(
            type=OPPOSITE[known.type],
            amount=known.amount,
            status="completed",
            related_transaction_id=transaction_id,
            **{**extras, "order_id": order_id},
        )
        if reversal_id not in self.transactions:
            self._check_reversible(known)
        return self.record(reversal_id, content, moments, limits)

    def lock(self, moments: Moments, reason: str | None) -> int:
        """Refuse new transactions from here on; nothing happens where the account is locked already."""
        self._check_open()
        if self.status == "locked":
            return self.status_version
        return self._append(AccountLocked(**self._key(moments), reason=reason))

    def unlock(self, moments: Moments, reason: str | None) -> int:
        """Take new transactions again; nothing happens where the account is active already."""
        self._check_open()
        if self.status == "active":
            return self.status_version or self.version
        return self._append(AccountUnlocked(**self._key(moments), reason=reason))

    def close(self, moments: Moments, reason: str | None) -> int:
        """End the account; AccountNotEmpty unless every sum is zero. Nothing happens where it is closed already."""
        if self.status == "closed":
            return self.status_version
        held = {
            name: getattr(self, name)
            for name in ("balance", "frozen", "pending_credit", "pending_debit")
            if getattr(self, name)
        }
        if held:
            sums = ", ".join(f"{name} {points}" for name, points in held.items())
            raise refusals.AccountNotEmpty(
                f"the account still has {sums}", where=self._where(), next_step="settle it, then close it"
            )
        return self._append(AccountClosed(**self._key(moments), reason=reason))

    def _append(self, event: Event) -> int:
        if isinstance(event, TransactionEvent):
            self._check_sums(event)
        self.apply(event)
        self.pending_events.append(event)  # type: ignore[arg-type]
        return event.version

    def _key(self, moments: Moments) -> dict[str, Any]:
        version = self.version + 1
        return {
            "event_id": event_id(self.id, version),
            "account_id": self.id,
            "version": version,
            "effective_at": moments.effective_at or moments.recorded_at,
            "recorded_at": moments.recorded_at,
        }

    def _repeat(self, known: Transaction, content: Content, moments: Moments) -> int:
        """Return the version that recorded a known transaction; ConflictingTransaction if it was another."""
        for name in content.__struct_fields__:
            here, there = getattr(known.content, name), getattr(content, name)
            if here != there:
                raise self._conflict(known.transaction_id, f"its {name} is {here!r}, not {there!r}")
        if moments.effective_at not in (None, known.created_at):
            raise self._conflict(known.transaction_id, f"it was effective at {known.created_at.isoformat()}")
        return known.reached[content.status]

    def _not_before(self, known: Transaction, moments: Moments) -> Moments:
        """Return the moments with time not going back within a transaction."""
        if moments.effective_at is None:
            return moments._replace(effective_at=max(moments.recorded_at, known.updated_at))
        if moments.effective_at < known.updated_at:
            raise refusals.UsageError(
                f"time goes back: the transaction last changed at {known.updated_at.isoformat()}",
                where=self._where(known.transaction_id),
                next_step="give a moment that is not before it",
            )
        return moments

    def _known(self, transaction_id: str) -> Transaction:
        known = self.transactions.get(transaction_id)
        if known is None:
            raise self._unknown(transaction_id, "record it first, or check the id")
        return known

    def _check_open(self) -> None:
        self._check_not_closed(None)

    def _check_not_closed(self, transaction_id: str | None) -> None:
        if self.status == "closed":
            raise refusals.AccountClosed(
                "the account is closed", where=self._where(transaction_id), next_step="use another account"
            )

    def _check_takes_new(self, transaction_id: str, limits: Limits) -> None:
        self._check_not_closed(transaction_id)
        if self.status == "locked" and not limits.allow_locked:
            raise refusals.AccountLocked(
                "the account is locked", where=self._where(transaction_id), next_step="unlock it, then try again"
            )

    def _check_change(
        self, transaction_id: str, content: Content, from_status: str | None, to_status: str, limits: Limits
    ) -> None:
        where = self._where(transaction_id)
        if not is_legal(from_status, to_status):
            raise refusals.IllegalTransition(
                f"a transaction cannot go from {from_status or 'nothing'} to {to_status}",
                where=where,
                next_step=_next_step(from_status),
            )
        # What is frozen is out of `available` already, so completing a hold takes nothing more from it.
        takes = content.type == "debit" and to_status == "completed" and from_status != "frozen"
        if takes and not limits.allow_overdraft:
            self._check_available(content.amount, where)
        if to_status == "frozen" and not limits.allow_over_freeze:
            self._check_available(content.amount, where)

    def _check_available(self, amount: int, where: str) -> None:
        if amount > self.available:
            raise refusals.InsufficientPoints(
                f"{amount} points asked for, {self.available} available (balance {self.balance}, frozen {self.frozen})",
                where=where,
                next_step="credit the account first, or take less",
            )

    def _check_reversible(self, known: Transaction) -> None:
        if known.status != "completed":
            raise refusals.IllegalTransition(
                f"only a completed transaction is reversed, and this one is {known.status}",
                where=self._where(known.transaction_id),
                next_step=_next_step(known.status),
            )
        for other in self.transactions.values():
            is_of_it = other.related_transaction_id == known.transaction_id and other.status == "completed"
            if is_of_it and other.type == OPPOSITE[known.type] and other.amount == known.amount:
                raise self._conflict(known.transaction_id, f"it is reversed already, by {other.transaction_id!r}")

    def _check_sums(self, event: TransactionEvent) -> None:
        change = delta(event.type, event.amount, event.from_status, event.to_status)
        sums = {name: getattr(self, name) + getattr(change, name) for name in change._fields}
        sums["available"] = sums["balance"] - sums["frozen"]
        for name, points in sums.items():
            if not INT64_MIN <= points <= INT64_MAX:
                raise refusals.PointsOverflow(
                    f"{name} would be {points}, past a 64-bit integer",
                    where=self._where(event.transaction_id),
                    next_step="split the account",
                )

    def _conflict(self, transaction_id: str, what: str) -> refusals.ConflictingTransaction:
        return refusals.ConflictingTransaction(
            f"the transaction is known, and {what}",
            where=self._where(transaction_id),
            next_step="use another id for another transaction",
        )

    def _unknown(self, transaction_id: str, next_step: str) -> refusals.UnknownTransaction:
        return refusals.UnknownTransaction(
            "the account has no such transaction", where=self._where(transaction_id), next_step=next_step
        )

    def _where(self, transaction_id: str | None = None) -> str:
        account = f"account {self.id!r}"
        return account if transaction_id is None else f"{account}, transaction {transaction_id!r}"


def _next_step(from_status: str | None) -> str:
    """Say what may be done with a transaction instead."""
    if from_status == "completed":
        return "undo a completed transaction with a reversal"
    legal = sorted(to_status for before, to_status in LEGAL_TRANSITIONS if before == from_status)
    return f"take it to {' or '.join(legal)}" if legal else "record a new transaction, since this one is settled"


def _content(event: TransactionEvent) -> Content:
    return Content(
        type=event.type,
        amount=event.amount,
        status=event.to_status,
        related_transaction_id=event.related_transaction_id,
        business_code=event.business_code,
        order_id=event.order_id,
        metadata=event.metadata,
    )
