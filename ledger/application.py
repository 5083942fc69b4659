"""The ledger: commands on accounts, decided by `Account`, kept by the store, idempotent by transaction id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast, get_args

import msgspec
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.persistence import InfrastructureFactory, IntegrityError, Mapper, PersistenceError
from eventsourcing.utils import Environment, EnvType
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ledger.account import Account, Content, Limits, Moments
from ledger.fence import lock_appends
from ledger.recorder import EventMapper, LedgerFactory, LedgerRecorder
from ledger.store import Store
from schemas import AMOUNT_MAX, Event, Status, TransactionType
from schemas.errors import StoreError, UnknownAccount, UsageError
from schemas.events import ID_LENGTH_MAX

__all__ = ["Ledger"]

STATUSES = get_args(Status)
ATTEMPTS_BEFORE_LOCKING = 3

#: Related transaction, business code, order and metadata, as the caller gives them.
Extras = tuple[str | None, str | None, str | None, dict[str, Any] | None]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger(Application[str]):
    """Commands on the accounts of one store; each returns the account's version after it.

    A command repeated with the same transaction id and content appends nothing and answers as it did the first
    time; with other content it is refused (ConflictingTransaction). Every refusal is a `CommandRefused` that
    names account and transaction. A transaction id is looked for in its own account only: the same id in two
    accounts is found by replay. `effective_at` is aware; None is the moment of `clock`. `allow_locked` is for what a
    person has decided of an account whatever its lock, as in a recovery.

    Raises: UsageError for a value that no event can hold, PointsOverflow for a sum past int64, IncompleteError
    or PoisonEventError for an account whose stored events are not whole, StoreError for the database.
    """

    name = "stored"

    def __init__(
        self,
        store: Store,
        *,
        allow_overdraft: bool = False,
        allow_over_freeze: bool = False,
        allow_locked: bool = False,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.store = store
        self.limits = Limits(allow_overdraft, allow_over_freeze, allow_locked)
        self.clock = clock
        super().__init__()

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Return an empty environment: a store must not change its format with a variable of the shell."""
        return Environment(name, dict(env or {}))

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """Return the factory of this ledger's store."""
        return LedgerFactory(env, self.store)

    def construct_mapper(self) -> Mapper[str]:
        """Return the mapper whose stored state is the wire bytes."""
        return EventMapper()

    def account(self, account_id: str) -> Account:
        """Return the account as its stored events have it; UnknownAccount where there are none."""
        with self._translated(account_id):
            return self._load(account_id)

    def open(self, account_id: str, *, effective_at: datetime | None = None, reason: str | None = None) -> int:
        """Open an account; AccountExists if it has any event."""
        return self._execute(account_id, effective_at, lambda account, at: account.open(at, reason), is_new=True)

    def credit(
        self,
        account_id: str,
        transaction_id: str,
        amount: int,
        *,
        status: str = "completed",
        related_transaction_id: str | None = None,
        business_code: str | None = None,
        order_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        effective_at: datetime | None = None,
    ) -> int:
        """Record a credit of `amount` points, completed or (by `status`) pending or frozen."""
        extras = (related_transaction_id, business_code, order_id, metadata)
        content = _content(account_id, "credit", amount, status, extras)
        return self._new(account_id, transaction_id, content, effective_at)

    def debit(
        self,
        account_id: str,
        transaction_id: str,
        amount: int,
        *,
        status: str = "completed",
        related_transaction_id: str | None = None,
        business_code: str | None = None,
        order_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        effective_at: datetime | None = None,
    ) -> int:
        """Record a debit of `amount` points; InsufficientPoints where it takes more than is available."""
        extras = (related_transaction_id, business_code, order_id, metadata)
        content = _content(account_id, "debit", amount, status, extras)
        return self._new(account_id, transaction_id, content, effective_at)

    def freeze(
        self,
        account_id: str,
        transaction_id: str,
        amount: int | None = None,
        *,
        related_transaction_id: str | None = None,
        business_code: str | None = None,
        order_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        effective_at: datetime | None = None,
    ) -> int:
        """Hold points: a new debit that is frozen, or a pending transaction of this id, which needs no amount."""
        _check_id("transaction", transaction_id, account_id)
        extras = (related_transaction_id, business_code, order_id, metadata)
        # Without an amount it can only be a known transaction, whose own amount stands.
        asked = _content(account_id, "debit", 1 if amount is None else amount, "frozen", extras)
        return self._execute(
            account_id,
            effective_at,
            lambda account, at: account.freeze(transaction_id, amount, asked, at, self.limits),
        )

    def complete(self, account_id: str, transaction_id: str, *, effective_at: datetime | None = None) -> int:
        """Complete a pending or frozen transaction."""
        return self._change(account_id, transaction_id, "completed", effective_at)

    def cancel(self, account_id: str, transaction_id: str, *, effective_at: datetime | None = None) -> int:
        """Cancel a pending or frozen transaction."""
        return self._change(account_id, transaction_id, "cancelled", effective_at)

    def fail(self, account_id: str, transaction_id: str, *, effective_at: datetime | None = None) -> int:
        """Fail a pending transaction."""
        return self._change(account_id, transaction_id, "failed", effective_at)

    def reverse(
        self,
        account_id: str,
        transaction_id: str,
        reversal_id: str,
        *,
        business_code: str | None = None,
        order_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        effective_at: datetime | None = None,
    ) -> int:
        """Undo a completed transaction, whole and once, with a new one of the opposite type that refers to it.

        It keeps the order of what it undoes where none is given, but not its business code, which says why
        points were given or taken.
        """
        _check_id("transaction", transaction_id, account_id)
        _check_id("transaction", reversal_id, account_id)
        _check_text(account_id, business_code=business_code, order_id=order_id)
        extras = {
            "business_code": business_code,
            "order_id": order_id,
            "metadata": _plain(metadata, account_id),
        }
        return self._execute(
            account_id,
            effective_at,
            lambda account, at: account.reverse(transaction_id, reversal_id, extras, at, self.limits),
        )

    def lock(self, account_id: str, *, reason: str | None = None, effective_at: datetime | None = None) -> int:
        """Lock an account: it takes no new transaction, but what is pending or frozen may be settled."""
        return self._execute(account_id, effective_at, lambda account, at: account.lock(at, reason))

    def unlock(self, account_id: str, *, reason: str | None = None, effective_at: datetime | None = None) -> int:
        """Unlock an account."""
        return self._execute(account_id, effective_at, lambda account, at: account.unlock(at, reason))

    # The library's own close() takes no account; ours still closes the application when called so.
    def close(  # type: ignore[override]
        self, account_id: str | None = None, *, reason: str | None = None, effective_at: datetime | None = None
    ) -> int:
        """Close an account whose every sum is zero; it takes nothing any more."""
        if account_id is None:
            super().close()
            return 0
        return self._execute(account_id, effective_at, lambda account, at: account.close(at, reason))

    def record(self, events: Sequence[Event]) -> list[int]:
        """Append ready events of any accounts in one transaction and return their positions.

        The rules are not asked: it is for events that were decided elsewhere. StoreError, and nothing appended,
        where one is not next in its account.
        """
        with self._translated(None):
            return [recording.notification.id for recording in self.save(*cast("Any", events))]

    @contextmanager
    def together(self) -> Iterator[Connection]:
        """Yield the connection of a write transaction under the append lock: commands within it all count, or none.

        What is read in it stays so until its end, and what is written on the connection belongs to it.
        """
        with (
            self._translated(None),
            cast("LedgerRecorder", self.recorder).transaction(commit=True) as session,
        ):
            connection = session.connection()
            lock_appends(connection)
            yield connection

    def _new(self, account_id: str, transaction_id: str, content: Content, effective_at: datetime | None) -> int:
        _check_id("transaction", transaction_id, account_id)
        return self._execute(
            account_id, effective_at, lambda account, at: account.record(transaction_id, content, at, self.limits)
        )

    def _change(self, account_id: str, transaction_id: str, to_status: Status, effective_at: datetime | None) -> int:
        _check_id("transaction", transaction_id, account_id)
        return self._execute(
            account_id, effective_at, lambda account, at: account.change(transaction_id, to_status, at, self.limits)
        )

    def _execute(
        self,
        account_id: str,
        effective_at: datetime | None,
        decide: Callable[[Account, Moments], int],
        *,
        is_new: bool = False,
    ) -> int:
        """Decide on what the account is now and append; where another writer was first, decide again.

        After a few attempts that others beat, it is decided under the append lock, where nobody can.
        """
        _check_id("account", account_id, account_id)
        moments = Moments(_aware(effective_at, account_id), _aware(self.clock(), account_id) or _utc_now())
        with self._translated(account_id):
            for _ in range(ATTEMPTS_BEFORE_LOCKING):
                try:
                    return self._attempt(account_id, moments, decide, is_new=is_new)
                except IntegrityError:
                    continue
            with cast("LedgerRecorder", self.recorder).transaction(commit=True) as session:
                lock_appends(session.connection())
                return self._attempt(account_id, moments, decide, is_new=is_new)

    def _attempt(
        self, account_id: str, moments: Moments, decide: Callable[[Account, Moments], int], *, is_new: bool
    ) -> int:
        try:
            account = self._load(account_id)
        except AggregateNotFoundError:
            if not is_new:
                raise
            account = Account.start(account_id, moments.effective_at or moments.recorded_at)
        version = decide(account, moments)
        if account.pending_events:
            self.save(account)
        return version

    def _load(self, account_id: str) -> Account:
        project = cast("Any", Account.project)
        return cast("Account", self.repository.get(account_id, projector_func=project))

    @contextmanager
    def _translated(self, account_id: str | None) -> Iterator[None]:
        """Turn what the libraries raise into this project's errors."""
        where = "" if account_id is None else f"account {account_id!r}"
        try:
            yield
        except AggregateNotFoundError as error:
            raise UnknownAccount("no such account", where=where, next_step="open it first") from error
        except (PersistenceError, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(
                f"the store did not take it: {reason}", where=where, next_step="check the database, then try again"
            ) from error


def _content(
    account_id: str,
    type: TransactionType,
    amount: int,
    status: str,
    extras: Extras,
) -> Content:
    related_transaction_id, business_code, order_id, metadata = extras
    where = f"account {account_id!r}"
    # A bool is an int to Python, but no amount of points.
    if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= AMOUNT_MAX:
        raise UsageError(f"not an amount: {amount!r}", where=where, next_step="give a whole number from 1 to 2^63-1")
    if status not in STATUSES:
        raise UsageError(f"not a status: {status!r}", where=where, next_step=f"use one of {', '.join(STATUSES)}")
    _check_text(
        account_id, related_transaction_id=related_transaction_id, business_code=business_code, order_id=order_id
    )
    return Content(
        type=type,
        amount=amount,
        status=cast("Status", status),
        related_transaction_id=related_transaction_id,
        business_code=business_code,
        order_id=order_id,
        metadata=_plain(metadata, account_id),
    )


def _plain(metadata: dict[str, Any] | None, account_id: str) -> dict[str, Any] | None:
    """Return metadata as it will be read back, so that a repeated command compares equal."""
    if metadata is None:
        return None
    try:
        return msgspec.json.decode(msgspec.json.encode(metadata), type=dict[str, Any])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(
            f"metadata is not a JSON object: {error}", where=f"account {account_id!r}", next_step="use plain values"
        ) from error


def _check_id(what: str, value: str, account_id: str) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= ID_LENGTH_MAX or "\0" in value or not _is_text(value):
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
        where = f"account {account_id!r}" if what == "transaction" else ""
        raise UsageError(
            f"not an id of {'an account' if what == 'account' else 'a transaction'}: {shown}",
            where=where,
            next_step=f"use 1 to {ID_LENGTH_MAX} characters without NUL",
        )


def _check_text(account_id: str, **values: str | None) -> None:
    for name, value in values.items():
        if value is not None and not (isinstance(value, str) and _is_text(value)):
            raise UsageError(
                f"{name} is not text: {value!r}",
                where=f"account {account_id!r}",
                next_step="give text, or leave it out",
            )


def _is_text(value: str) -> bool:
    """Say whether the text can be written in UTF-8, which a lone surrogate cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _aware(moment: datetime | None, account_id: str) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise UsageError(
            f"not a moment with a time zone: {moment!r}",
            where=f"account {account_id!r}",
            next_step="give an aware datetime, for example datetime.now(UTC)",
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise UsageError(
            f"not a moment in UTC: {moment!r}",
            where=f"account {account_id!r}",
            next_step="give a moment of the years 1 to 9999",
        ) from error
