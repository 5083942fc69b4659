"""The reconciliation, a step at a time: follow the ledger, read the orders, say up to when that is, judge what changed.

The four share nothing but the database. Each is one transaction that says what it did, so any number of instances may
step at any time, and each may be killed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from consumers.reconciliation.judging import Judge, Judged
from consumers.reconciliation.ledger_side import follower, parked_accounts
from consumers.reconciliation.read_until import LOOK_SECONDS, Reading, ReadUntil
from consumers.shadow import Following, Step
from ledger import orders, withheld_orders
from ledger.store import Store
from schemas.errors import RefusedError

__all__ = ["OrdersFollowing", "Reconciling", "Standing"]


class OrdersFollowing(Protocol):
    """What reads orders from a topic for ever (`consumers.orders_topic`)."""

    def step(self) -> object:
        """Take in at most one batch in one transaction, and return what that was (`events`, `lag_events`)."""

    def close(self) -> None:
        """Let go of connections; what was read stays where it is."""


class Standing(NamedTuple):
    """Where a reconciliation stands.

    `ledger` and `orders` are the last steps of the two sides, None where there was none; `orders_until` and
    `ledger_until` up to when they were read; `touched` are the orders that wait to be judged, `withheld` those of which
    nothing can be said, `parked_accounts` the accounts for which some of them are.
    """

    ledger: Step | None
    orders: object | None
    orders_until: datetime | None
    ledger_until: datetime | None
    touched: int
    withheld: int
    parked_accounts: int

    @property
    def until(self) -> datetime | None:
        """Up to when both sides were read."""
        return orders.ReadUntil(self.orders_until, self.ledger_until).both_at


class Reconciling:
    """Follows the ledger by `following`, a shadow with its transactions of orders beside it, and judges by `judge`.

    `orders_topic` reads the orders, None where they come from files; `readings` are the sides whose ends are looked at
    every `look_seconds`. What a judgement came to is told to `told`.
    """

    def __init__(
        self,
        store: Store,
        following: Following,
        judge: Judge,
        *,
        orders_topic: OrdersFollowing | None = None,
        readings: tuple[Reading, ...],
        told: Callable[[Judged], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self.following = following
        self._judge = judge
        self.orders_topic = orders_topic
        self._read_until = [ReadUntil(store, each, now=now, look_seconds=look_seconds) for each in readings]
        self._told = told
        self._ledger_step: Step | None = None
        self._orders_step: object | None = None

    def step(self) -> bool:
        """Do each thing once, and say whether there was something to do.

        RefusedError where a side cannot go on; what does not answer raises its own error, and the next step goes on.
        """
        self._refuse_other_source()
        self._ledger_step = self.following.step()
        did = self._ledger_step.events > 0
        if self.orders_topic is not None:
            self._orders_step = self.orders_topic.step()
            did = bool(getattr(self._orders_step, "events", 0)) or did
        for each in self._read_until:
            each.step()
        judged = self._judge.step()
        if judged.orders or judged.changes:
            self._told(judged)
        return did or judged.orders > 0

    def _refuse_other_source(self) -> None:
        """RefusedError where orders come from a topic by now, which this one does not read."""
        if self.orders_topic is not None:
            return
        with self._store.snapshot() as connection:
            found = orders.source(connection)
        if found is not None and found.kind == "topic":
            raise RefusedError(
                f"the orders of this ledger come from the topic {found.topic!r} by now, and came from files",
                next_step="start it again",
            )

    def standing(self) -> Standing:
        """Return where it stands now."""
        with self._store.snapshot() as connection:
            until, shadow = orders.read_until(connection), follower(connection)
            return Standing(
                self._ledger_step,
                self._orders_step,
                until.orders_at,
                until.ledger_at,
                orders.touched_count(connection),
                len(withheld_orders.known(connection)),
                0 if shadow is None else len(parked_accounts(connection, shadow)),
            )

    def close(self) -> None:
        """Let go of both sides; all that was done stays."""
        with ExitStack() as stack:
            stack.callback(self.following.close)
            if self.orders_topic is not None:
                stack.callback(self.orders_topic.close)
