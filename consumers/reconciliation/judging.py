"""The judge: takes the orders that were touched, judges both sides of each, and brings the breaks up to date.

A batch is one transaction that has taken the lock of orders first, so what is judged is what both sides say at one
moment, of several judges each takes other orders, and one that is killed leaves its orders touched. Nothing is judged
before both sides were read to their ends once: half of a side would give mismatches that are none.

An account that the follower parks, or frees again, changes what can be said of its orders although no fact came. The
judge sees that by itself: it knows who was parked when it judged last.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from consumers.reconciliation.ledger_side import follower, parked_accounts
from ledger import breaks, order_transactions, orders, withheld_orders
from ledger.breaks import Changes
from ledger.shadows import Shadow
from ledger.store import Store
from projections.orders import ORDERS
from projections.reconciliation import LINKED_SCHEMA, Rules, judged, withheld

__all__ = ["Judge", "Judged"]

#: Orders judged in one transaction, which nobody else can write facts of meanwhile.
ORDERS_MAX = 5_000


class Judged(NamedTuple):
    """What a step came to: how many orders were judged, how many of these are withheld, and what changed of breaks."""

    orders: int
    withheld: int
    changes: tuple[Changes, ...]


_NOTHING = Judged(0, 0, ())


class Judge:
    """Judges by `rules` what was touched, up to `orders_max` orders a step; `at` is called before and after a commit.

    Of several instances each may step at any time.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules = Rules(),
        *,
        orders_max: int = ORDERS_MAX,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._orders_max = orders_max
        self._now = now
        self._at = at
        # None before the first step: who was parked when these orders were judged last is not known then.
        self._parked: frozenset[str] | None = None
        self._swept_until: datetime | None = None

    def step(self) -> Judged:
        """Judge a batch of what was touched, and open what waits, if there is any of that to do."""
        with self._store.snapshot() as connection:
            if not self._is_due(connection):
                return _NOTHING
        with self._store.writing() as connection:
            orders.lock(connection)
            until = orders.read_until(connection).both_at
            shadow = follower(connection)
            if until is None or shadow is None:
                return _NOTHING
            # Asked after `until`: what was parked before that moment is parked here.
            parked = parked_accounts(connection, shadow)
            self._touch_parked(connection, shadow, parked)
            found = self._judged(connection, shadow, parked, until)
            self._at("judged")
        self._at("judgement committed")
        self._parked = parked
        if found.orders < self._orders_max:
            self._swept_until = until
        return found

    def _is_due(self, connection: Connection) -> bool:
        until, shadow = orders.read_until(connection).both_at, follower(connection)
        if until is None or shadow is None:
            return False
        is_later = self._swept_until is None or until > self._swept_until
        return is_later or bool(orders.touched(connection, 1)) or parked_accounts(connection, shadow) != self._parked

    def _touch_parked(self, connection: Connection, shadow: Shadow, parked: frozenset[str]) -> None:
        """Touch the orders that can or cannot be judged any more, now that these accounts are parked."""
        if parked == self._parked:
            return
        if self._parked is None:
            orders.touch(connection, withheld_orders.known(connection))
        before = self._parked or frozenset()
        changed = sorted(parked ^ before)
        orders.touch(connection, orders.of_accounts(connection, changed))
        orders.touch(connection, order_transactions.of_accounts(connection, shadow.number, changed))
        if bool(parked) != bool(before):
            orders.touch(connection, order_transactions.without_account(connection, shadow.number))

    def _judged(self, connection: Connection, shadow: Shadow, parked: frozenset[str], until: datetime) -> Judged:
        now = self._now()
        order_ids = orders.touched(connection, self._orders_max)
        changes: list[Changes] = []
        held = 0
        if order_ids:
            states = ORDERS.fold(orders.events(connection, order_ids).lazy()).collect()
            linked = order_transactions.linked(connection, shadow.number, order_ids).select(LINKED_SCHEMA.names())
            unsaid = withheld(
                states.lazy(),
                linked.lazy(),
                conflicts=orders.conflicts(connection, order_ids).lazy(),
                parked_accounts=pl.Series(sorted(parked), dtype=pl.String()),
            ).collect()
            sound, of_sound = (side.join(unsaid, on="order_id", how="anti").lazy() for side in (states, linked))
            found = judged(sound, of_sound, self._rules).collect()
            said = pl.Series(order_ids, dtype=pl.String())
            said = said.filter(~said.is_in(unsaid["order_id"].to_list()))
            changes.append(breaks.apply(connection, found, said, until=until, now=now))
            breaks.withhold(connection, unsaid["order_id"].to_list())
            withheld_orders.replace(connection, order_ids, unsaid)
            orders.untouch(connection, order_ids)
            held = unsaid.height
        # What is still touched may have righted itself, so nothing of it opens before it was judged.
        if len(order_ids) < self._orders_max:
            changes.append(breaks.sweep(connection, until=until, now=now))
        return Judged(len(order_ids), held, tuple(each for each in changes if _says_something(each)))


def _says_something(changes: Changes) -> bool:
    frames = (changes.opened, changes.reopened, changes.resolved, changes.changed)
    return bool(changes.pending or changes.gone or any(frame.height for frame in frames))
