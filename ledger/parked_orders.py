"""What is parked of orders: records that are no event, or not the one of their version, and rejected rows of files.

All functions work inside the caller's transaction; whoever writes holds `ledger.orders.lock`, and touches the orders.
An order of which something is parked is withheld. A row of a file has no place in a topic.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from sqlalchemy import Connection, delete, func, select, tuple_

from ledger import bulk
from ledger.order_tables import ORDERS_PARKED

__all__ = [
    "CONFLICT_SCHEMA",
    "PARKED_SCHEMA",
    "conflicts",
    "counts",
    "keep",
    "keep_others",
    "parked",
    "release",
    "replace_rejected",
]

#: A record that is no event of an order, or not the one of its version: where it is and why. A row of a file that was
#: rejected has no partition and no position.
PARKED_SCHEMA = pl.Schema(
    {
        "partition": pl.Int64(),
        "position": pl.Int64(),
        "order_id": pl.String(),
        "version": pl.Int64(),
        "reason": pl.String(),
    }
)

#: An order of which nothing can be said, for what is parked of it.
CONFLICT_SCHEMA = pl.Schema({"order_id": pl.String(), "reason": pl.String()})


def parked(connection: Connection, order_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """Return records that are no event, or not the one of their version (`PARKED_SCHEMA`), by their places in order.

    Rows of files that were rejected come first.
    """
    has_place = pl.col("partition") != _OF_FILES
    return _kept(connection, order_ids).with_columns(
        pl.when(has_place).then(name).alias(name) for name in ("partition", "position")
    )


def conflicts(connection: Connection, order_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the orders of which something is parked, some or all, and why (`CONFLICT_SCHEMA`): the first reason."""
    found = parked(connection, order_ids).filter(pl.col("order_id").is_not_null())
    of_topic = pl.format("partition {}, offset {}: {}", "partition", "position", "reason")
    of_files = pl.format("a row of it was rejected: {}", "reason")
    why = pl.when(pl.col("partition").is_null()).then(of_files).otherwise(of_topic)
    return found.select("order_id", reason=why).unique("order_id", keep="first", maintain_order=True)


def counts(connection: Connection) -> tuple[int, int]:
    """Return how much is parked, and a number that is higher when another row of a file was rejected."""
    return connection.execute(select(func.count()).select_from(ORDERS_PARKED)).scalar_one(), _last_row(connection)


def keep(connection: Connection, rows: pl.DataFrame) -> None:
    """Keep records (`PARKED_SCHEMA`) at their places."""
    bulk.upsert_rows(connection, ORDERS_PARKED, rows)


def keep_others(connection: Connection, others: pl.DataFrame) -> None:
    """Keep records that contradict the event of their version, a `content` once, at its earliest place."""
    told = others.with_columns(reason=pl.format(_TOLD, "version", "content")).select(PARKED_SCHEMA.names())
    found = _kept(connection, others["order_id"].unique().to_list())
    same = found.join(told, on=["order_id", "version", "reason"], how="semi")
    first = (
        pl.concat([same, told]).sort("partition", "position").unique(["order_id", "version", "reason"], keep="first")
    )
    _forget(connection, same.join(first, on=["partition", "position"], how="anti"))
    bulk.upsert_rows(connection, ORDERS_PARKED, first)


def release(connection: Connection, events: pl.DataFrame) -> None:
    """Forget records that cannot be read, but name the order and version of one of some events.

    What they should have said is known then.
    """
    found = _kept(connection, events["order_id"].unique().to_list())
    unreadable = found.filter(~pl.col("reason").str.contains(_CONTRADICTS))
    _forget(connection, unreadable.join(events, on=["order_id", "version"], how="semi"))


def replace_rejected(connection: Connection, order_ids: Sequence[str], rejected: pl.DataFrame) -> list[str]:
    """Forget which rows of files were rejected of some orders, and note which are now: `order_id`, `reason`.

    Returns the orders of which that changed.
    """
    both = ["order_id", "reason"]
    known = _kept(connection, order_ids).filter(pl.col("partition") == _OF_FILES)
    gone = known.join(rejected, on=both, how="anti")
    added = rejected.select(both).join(known, on=both, how="anti", maintain_order="left")
    # A row has no place of its own, so these are numbered as they come, and never as one that goes now.
    start = _last_row(connection) + 1
    _forget(connection, gone)
    number = pl.int_range(start, start + added.height, dtype=pl.Int64)
    bulk.insert_rows(
        connection, ORDERS_PARKED, added.with_columns(partition=pl.lit(_OF_FILES, pl.Int64()), position=number)
    )
    return pl.concat([gone["order_id"], added["order_id"]]).unique().to_list()


#: The partition under which rejected rows of files are kept: no topic has it.
_OF_FILES = -1
#: What is parked since it contradicts an event is told by this; nothing that cannot be read has such a reason.
_TOLD = "version {} is told in more than one way; this one: {}"
_CONTRADICTS = r"^version \d+ is told in more than one way; this one: "


def _kept(connection: Connection, order_ids: Sequence[str] | None) -> pl.DataFrame:
    statement = select(*(ORDERS_PARKED.c[name] for name in PARKED_SCHEMA))
    found = bulk.select_rows(connection, statement, PARKED_SCHEMA, key=ORDERS_PARKED.c.order_id, keys=order_ids)
    return found.sort("partition", "position")


def _last_row(connection: Connection) -> int:
    last = select(func.max(ORDERS_PARKED.c.position)).where(ORDERS_PARKED.c.partition == _OF_FILES)
    return connection.execute(last).scalar_one() or 0


def _forget(connection: Connection, rows: pl.DataFrame) -> None:
    for some in rows.select("partition", "position").iter_slices(bulk.KEYS_PER_QUERY):
        is_one = tuple_(ORDERS_PARKED.c.partition, ORDERS_PARKED.c.position).in_(some.rows())
        connection.execute(delete(ORDERS_PARKED).where(is_one))
