"""The judge: takes the orders that were touched, judges both sides of each, and brings the breaks up to date.

A batch is one transaction that has taken the lock of orders first, so what is judged is what both sides say at one
moment, of several judges each takes other orders, and one that is killed leaves its orders touched. Nothing is judged
before both sides were read to their ends once: half of a side would give mismatches that are none.

An account that the follower parks, or frees again, changes what can be said of its orders although no fact came, and so
do other rules. The judge sees that by itself: how orders were judged last, by itself or by any other judge, is in the
database (`ledger.judged_orders`). What is open when the rules change stays open for as long as it is found.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from consumers.reconciliation.ledger_side import follower, parked_accounts
from ledger import breaks, judged_orders, order_transactions, orders, withheld_orders
from ledger.breaks import Changes
from ledger.orders import ReadUntil
from ledger.shadows import Shadow
from ledger.store import Store
from projections.orders import ORDERS
from projections.reconciliation import LINKED_SCHEMA, Rules, judged, withheld

__all__ = ["Judge", "Judged"]

#: Orders judged in one transaction, which nobody else can write facts of meanwhile.
ORDERS_MAX = 5_000


class Judged(NamedTuple):
    """What a step came to: how many orders were judged, how many of these are withheld, and what changed of breaks.

    `is_anew` says that all orders are judged again from now on, since they were judged by other rules before.
    """

    orders: int
    withheld: int
    changes: tuple[Changes, ...]
    is_anew: bool = False


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
        self._said_rules = {name: float(value) for name, value in rules._asdict().items()}
        self._has_begun = False
        self._swept_until: ReadUntil | None = None
        # The last order of the last batch: whoever is touched all the time lets the others have their turn.
        self._after = ""

    def step(self) -> Judged:
        """Judge a batch of what was touched, and open what waits, if there is any of that to do."""
        with self._store.snapshot() as connection:
            if not self._is_due(connection):
                return _NOTHING
        with self._store.writing() as connection:
            orders.lock(connection)
            read = orders.read_until(connection)
            shadow = follower(connection)
            if shadow is None or not _has_said(connection, read):
                return _NOTHING
            # Asked after `until`: what was parked before that moment is parked here.
            parked = parked_accounts(connection, shadow)
            is_anew = self._touch_changed(connection, shadow, parked)
            found = self._judged(connection, shadow, parked, read)._replace(is_anew=is_anew)
            self._at("judged")
        self._at("judgement committed")
        self._has_begun, self._swept_until = True, read
        return found

    def _is_due(self, connection: Connection) -> bool:
        read, shadow = orders.read_until(connection), follower(connection)
        if shadow is None or not _has_said(connection, read):
            return False
        if self._swept_until != read or orders.touched(connection, 1):
            return True
        before = judged_orders.last(connection)
        return before is None or before.parked_accounts != parked_accounts(connection, shadow)

    def _touch_changed(self, connection: Connection, shadow: Shadow, parked: frozenset[str]) -> bool:
        """Touch the orders that are judged otherwise than last; return whether all are, since the rules are others."""
        last = judged_orders.last(connection)
        if last is None:
            # A single look may have withheld them.
            orders.touch(connection, withheld_orders.known(connection))
        # Only at the beginning: two judges of different rules would take turns for ever.
        is_anew = last is not None and not self._has_begun and last.rules != self._said_rules
        if is_anew:
            orders.touch_all(connection)
        before = frozenset() if last is None else last.parked_accounts
        changed = sorted(parked ^ before)
        orders.touch(connection, orders.of_accounts(connection, changed))
        orders.touch(connection, order_transactions.of_accounts(connection, shadow.number, changed))
        if bool(parked) != bool(before):
            orders.touch(connection, order_transactions.without_account(connection, shadow.number))
        if last is None or is_anew or changed:
            judged_orders.note(connection, judged_orders.Last(self._said_rules, parked))
        return is_anew

    def _batch(self, connection: Connection) -> list[str]:
        """Return the touched orders of this step: those after the last batch, and then from the first again."""
        found = orders.touched(connection, self._orders_max, after=self._after)
        if len(found) < self._orders_max:
            found += orders.touched(connection, self._orders_max - len(found), until=self._after)
        self._after = found[-1] if found else ""
        return found

    def _judged(self, connection: Connection, shadow: Shadow, parked: frozenset[str], read: ReadUntil) -> Judged:
        now, until = self._now(), read.both_at
        # Files say nothing between two imports, so waiting for the next one would be waiting for ever: what an import
        # says is as of that moment, and only the ledger has to be read until these facts were judged.
        source = orders.source(connection)
        is_of_files = source is not None and source.kind == "files"
        judged_at, noticed_until = (read.orders_at, read.ledger_at) if is_of_files else (now, None)
        order_ids = self._batch(connection)
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
            changes.append(
                breaks.apply(
                    connection,
                    found,
                    said,
                    until=until,
                    now=now,
                    grace_seconds=self._rules.grace_seconds,
                    judged_at=judged_at,
                    noticed_until=noticed_until,
                )
            )
            breaks.withhold(connection, unsaid["order_id"].to_list())
            withheld_orders.replace(connection, order_ids, unsaid)
            orders.untouch(connection, order_ids)
            held = unsaid.height
        # Whatever is still touched is left out: it may have righted itself.
        changes.append(breaks.sweep(connection, until=until, now=now, noticed_until=noticed_until))
        return Judged(len(order_ids), held, tuple(each for each in changes if _says_something(each)))


def _has_said(connection: Connection, read: ReadUntil) -> bool:
    """Whether both sides have said something: nothing opens before they were read, but files may have only rejects."""
    source = orders.source(connection)
    is_of_files = source is not None and source.kind == "files"
    return read.ledger_at is not None and (is_of_files or read.orders_at is not None)


def _says_something(changes: Changes) -> bool:
    frames = (changes.opened, changes.reopened, changes.resolved, changes.changed)
    return bool(changes.pending or changes.gone or any(frame.height for frame in frames))
