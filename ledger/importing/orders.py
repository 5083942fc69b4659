"""Import of orders from rows: what the order system's own table says becomes events of orders.

Every row is checked first; then a bounded number of orders at a time is compared with what is known and written in one
transaction, which holds the lock of the reconciliation. What has gone in is known from then on, so an import that was
killed anywhere is finished by the same command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl

from ledger import orders
from ledger.ahead import mapped_ahead, read_ahead
from ledger.importing.batches import LINE
from ledger.importing.mapping import Mapping
from ledger.importing.order_rows import (
    OPTIONAL,
    ORDER_ROW_SCHEMA,
    REQUIRED,
    DecidedOrders,
    check_orders,
    decide_orders,
)
from ledger.importing.profile import Profiler
from ledger.importing.rejects import Rejects, as_rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.sources import Source, require_columns
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

    The second row of an order is unchanged if it says the same, else a reject. `now` is the moment of every change that
    the rows do not date, and up to which the order side then counts as read. With `dry_run` nothing is written and the
    result has a profile of the columns. Memory grows with the orders.

    Raises:
        UsageError: the input is unreadable or empty, or lacks a column that every order has.
        RefusedError: the orders of this ledger come from a topic.
    """
    _refuse_topic(store)
    total = _Total()
    with Rejects(rejects) as refused:
        read = _read(source, mapping or Mapping(), refused, progress, wants_profile=dry_run)
        rows, total.unchanged, contrary = distinct_orders(read.rows)
        refused.add(contrary)
        for start in range(0, rows.height, orders_per_transaction):
            some = rows[start : start + orders_per_transaction]
            decided = _compared(store, some, now) if dry_run else _written(store, some, now)
            refused.add(decided.rejects)
            total.add(decided)
            if progress is not None:
                progress(start + some.height, rows.height)
        if not dry_run:
            _close(store, now)
    return Imported(
        imported=total.imported,
        unchanged=total.unchanged,
        rejected=refused.count,
        rejects=refused.file,
        events=total.events,
        profile=read.profiler.profile() if dry_run else None,
        ignored_columns=sorted(read.ignored),
        naive_times=read.naive_times,
    )


@dataclass
class _Total:
    """Counts so far."""

    imported: int = 0
    unchanged: int = 0
    events: int = 0

    def add(self, decided: DecidedOrders) -> None:
        self.imported += decided.imported
        self.unchanged += decided.unchanged
        self.events += decided.events.height


@dataclass
class _Read:
    """The input as far as it was read: the good rows (`ORDER_ROW_SCHEMA`), and what is said of the others."""

    profiler: Profiler
    parts: list[pl.DataFrame] = field(default_factory=lambda: [ORDER_ROW_SCHEMA.to_frame()])
    ignored: set[str] = field(default_factory=set)
    naive_times: int = 0

    @property
    def rows(self) -> pl.DataFrame:
        return pl.concat(self.parts)


def _read(
    source: Source, mapping: Mapping, refused: Rejects, progress: Progress | None, *, wants_profile: bool
) -> _Read:
    names = [mapping.source_name(column) for column in REQUIRED + OPTIONAL]
    read, done = _Read(Profiler(wanted=wants_profile)), 0
    batches = read_ahead(source.batches(delimiter=mapping.delimiter))
    for index, (batch, checked) in enumerate(mapped_ahead(lambda each: check_orders(each, mapping), batches)):
        if index == 0 and source.has_header:
            require_columns(batch.rows.columns, REQUIRED, OPTIONAL, mapping, source.where)
        read.ignored |= {name for name in batch.rows.columns if name not in names and name != LINE}
        refused.add(batch.bad)
        read.profiler.add(batch.rows)
        if batch.rows.height:
            refused.add(checked.rejects)
            read.parts.append(checked.good)
            read.naive_times += checked.naive_times
        done += batch.rows.height + batch.bad.height
        if progress is not None:
            progress(done, None)
    return read


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


def _compared(store: Store, rows: pl.DataFrame, now: datetime) -> DecidedOrders:
    with store.snapshot() as connection:
        return decide_orders(rows, orders.events(connection, rows["order_id"].to_list()), now)


def _written(store: Store, rows: pl.DataFrame, now: datetime) -> DecidedOrders:
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_source(connection, _FILES)
        decided = decide_orders(rows, orders.events(connection, rows["order_id"].to_list()), now)
        orders.add_events(connection, decided.events)
    return decided


def _close(store: Store, now: datetime) -> None:
    """Note that all of the input was read."""
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_source(connection, _FILES)
        orders.set_read_until(connection, "orders", now)


_FILES = orders.Source("files")
