"""Import of orders from rows: what the order system's own table says becomes events of orders.

Every row is checked first; then a bounded number of orders at a time is compared with what is known and written in one
transaction, which holds the lock of the reconciliation. What has gone in is known from then on, so an import that was
killed anywhere is finished by the same command.

An order whose last row is a reject is parked in that transaction until a later good row of it comes: what is known of
it is not what the order system says now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ledger import orders
from ledger.importing.batches import LINE
from ledger.importing.mapping import Mapping
from ledger.importing.order_rows import (
    OPTIONAL,
    ORDER_ROW_SCHEMA,
    REFUSED_SCHEMA,
    REQUIRED,
    DecidedOrders,
    check_orders,
    decide_orders,
)
from ledger.importing.reading import Reading
from ledger.importing.rejects import Rejects, as_rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.sources import Source
from ledger.store import Store

__all__ = ["ORDERS_PER_TRANSACTION", "distinct_orders", "import_orders"]

#: Orders that are written at once: others who write wait no longer than that.
ORDERS_PER_TRANSACTION = 50_000

_CONTENT = [name for name in ORDER_ROW_SCHEMA if name != LINE]


def import_orders(
    store: Store,
    source: Source,
    *,
    mapping: Mapping | None = None,
    now: datetime,
    dry_run: bool = False,
    rejects: Path,
    progress: Progress | None = None,
    orders_per_transaction: int = ORDERS_PER_TRANSACTION,
) -> Imported:
    """Import order rows; good rows become events of orders, bad ones go to the `rejects` file with line and reason.

    Rows of one order are followed in the order of the input. `now` is the moment of every change that the rows do not
    date, and up to which the order side then counts as read, also where that is earlier than it was before. With
    `dry_run` nothing is written and the result has a profile of the columns. Memory grows with the rows.

    Raises:
        UsageError: the input is unreadable or empty, or lacks a column that every order has.
        RefusedError: the orders of this ledger come from a topic.
    """
    _refuse_topic(store)
    total = _Total()
    with Rejects(rejects) as refused:
        read = _Read()
        reading = Reading(mapping or Mapping(), REQUIRED, OPTIONAL, refused, dry_run=dry_run)
        for _, checked in reading.checked(source, check_orders, progress):
            read.parts.append(checked.good)
            read.refused_parts.append(checked.refused)
        order_ids = read.order_ids
        for some in _portions(read, order_ids, orders_per_transaction):
            decided = _compared(store, some, now) if dry_run else _written(store, some, now)
            refused.add(decided.rejects)
            total.add(decided, len(some.order_ids))
            if progress is not None:
                progress(total.orders, len(order_ids))
        # An input of which every row was refused says nothing of any order, as of no moment.
        if not dry_run and (total.imported or total.unchanged or not refused.count):
            _close(store, now)
    return Imported(
        imported=total.imported,
        unchanged=total.unchanged,
        rejected=refused.count,
        rejects=refused.file,
        events=total.events,
        profile=reading.profile,
        ignored_columns=sorted(reading.ignored),
        naive_times=reading.naive_times,
    )


@dataclass
class _Total:
    """Counts so far."""

    imported: int = 0
    unchanged: int = 0
    events: int = 0
    orders: int = 0

    def add(self, decided: DecidedOrders, orders: int) -> None:
        self.orders += orders
        self.imported += decided.imported
        self.unchanged += decided.unchanged
        self.events += decided.events.height


@dataclass
class _Read:
    """The input as far as it was read: the good rows (`ORDER_ROW_SCHEMA`).

    `refused` (`REFUSED_SCHEMA`) are rejects whose order can be read.
    """

    parts: list[pl.DataFrame] = field(default_factory=lambda: [ORDER_ROW_SCHEMA.to_frame()])
    refused_parts: list[pl.DataFrame] = field(default_factory=lambda: [REFUSED_SCHEMA.to_frame()])

    @property
    def rows(self) -> pl.DataFrame:
        return pl.concat(self.parts)

    @property
    def refused(self) -> pl.DataFrame:
        return pl.concat(self.refused_parts)

    @property
    def order_ids(self) -> pl.Series:
        """Every order that a row is about, in the order of the input."""
        named = pl.concat([self.rows.select(LINE, "order_id"), self.refused.select(LINE, "order_id")])
        return named.sort(LINE)["order_id"].unique(maintain_order=True)


def distinct_orders(rows: pl.DataFrame) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    """Return the first row of every order, how many rows repeat it, and the rows that contradict it, as rejects."""
    first = rows.unique("order_id", keep="first", maintain_order=True)
    others = rows.join(first.select(LINE), on=LINE, how="anti")
    contrary = others.join(first, on=_CONTENT, how="anti", nulls_equal=True, maintain_order="left")
    reason = pl.format("conflicting duplicate: the file has order '{}' before, with other content", "order_id")
    return first, others.height - contrary.height, as_rejects(contrary, "order_id", reason)


def _refuse_topic(store: Store) -> None:
    with store.snapshot() as connection:
        found = orders.source(connection)
    if found is not None and found != _FILES:
        raise orders.other_source(found, _FILES)


class _Portion(NamedTuple):
    """Some orders with all their rows: the good ones (`ORDER_ROW_SCHEMA`) and those refused (`REFUSED_SCHEMA`)."""

    order_ids: list[str]
    rows: pl.DataFrame
    refused: pl.DataFrame

    def rejected(self, decided: DecidedOrders) -> pl.DataFrame:
        """Return `order_id` and `reason` of the orders whose last row is a reject."""
        refused = pl.concat([self.refused, decided.refused])
        good = self.rows.join(decided.refused, on=LINE, how="anti").select(LINE, "order_id", reason=None)
        last = pl.concat([refused, good.cast(REFUSED_SCHEMA)]).sort(LINE).unique("order_id", keep="last")
        bad = last.filter(pl.col("reason").is_not_null()).sort(LINE)
        return bad.select("order_id", reason=pl.format("line {}: {}", LINE, "reason"))


def _portions(read: _Read, order_ids: pl.Series, orders_max: int) -> Iterator[_Portion]:
    """Yield so many orders at a time."""
    portions = order_ids.to_frame("order_id").with_columns(portion=pl.int_range(pl.len()) // orders_max)
    rows, refused = (_by_portion(side, portions) for side in (read.rows, read.refused))
    for (number,), some in portions.partition_by("portion", as_dict=True, maintain_order=True).items():
        yield _Portion(
            some["order_id"].to_list(),
            rows.get((number,), ORDER_ROW_SCHEMA.to_frame()),
            refused.get((number,), REFUSED_SCHEMA.to_frame()),
        )


def _by_portion(side: pl.DataFrame, portions: pl.DataFrame) -> dict[tuple[object, ...], pl.DataFrame]:
    numbered = side.join(portions, on="order_id", how="left", maintain_order="left")
    return numbered.partition_by("portion", as_dict=True, include_key=False, maintain_order=True)


def _compared(store: Store, some: _Portion, now: datetime) -> DecidedOrders:
    with store.snapshot() as connection:
        return decide_orders(some.rows, orders.events(connection, some.order_ids), now)


def _written(store: Store, some: _Portion, now: datetime) -> DecidedOrders:
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_source(connection, _FILES)
        decided = decide_orders(some.rows, orders.events(connection, some.order_ids), now)
        orders.add_events(connection, decided.events)
        orders.fill_accounts(connection, decided.filled)
        orders.replace_rejected(connection, some.order_ids, some.rejected(decided))
    return decided


def _close(store: Store, now: datetime) -> None:
    """Note that all of the input was read."""
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_source(connection, _FILES)
        # Who said a wrong moment says the right one with the next import.
        orders.set_read_until(connection, "orders", now, may_go_back=True)


_FILES = orders.Source("files")
