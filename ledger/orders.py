"""What the order system said, as the database keeps it: events, what cannot be read, and how far both sides are.

All functions work inside the caller's transaction. Whoever writes here takes the row of the reconciliation first
(`lock`), so writers are serial and what was read after that stands; who follows the ledger takes its shadow's row
before this one. Every order of which a fact was written is touched in the same transaction: it has to be judged again.

Which of several events of one version came first must not matter. The table keeps the one whose content sorts first;
the others are parked at their places, so their order is withheld. Of copies the earliest place is kept. A record that
cannot be read says nothing any more once a good event of its order and version is there, before or after it.

A row of a file that was rejected is parked too, without a place, until a later good row of its order comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, delete, func, insert, select, text, true, update

from ledger import bulk, parked_orders
from ledger.order_tables import (
    BREAKS,
    ORDER_EVENTS,
    ORDER_POSITIONS,
    ORDER_TRANSACTIONS,
    ORDERS_PARKED,
    ORDERS_TOUCHED,
    ORDERS_WITHHELD,
    RECONCILIATION,
)
from ledger.parked_orders import CONFLICT_SCHEMA, PARKED_SCHEMA, conflicts, parked
from schemas import ORDER_SCHEMA, PoisonOrder, format_time
from schemas.errors import PositionMoved, RefusedError

__all__ = [
    "CONFLICT_SCHEMA",
    "PARKED_SCHEMA",
    "Added",
    "ReadUntil",
    "Side",
    "Source",
    "add_events",
    "add_parked",
    "add_partitions",
    "advance",
    "conflicts",
    "events",
    "facts_count",
    "fill_accounts",
    "forget",
    "lock",
    "of_accounts",
    "other_source",
    "parked",
    "positions",
    "read_until",
    "replace_rejected",
    "set_read_until",
    "set_source",
    "source",
    "touch",
    "touch_all",
    "touched",
    "touched_count",
    "untouch",
]

Side = Literal["orders", "ledger"]


class Added(NamedTuple):
    """How many of some events were new, were there already, and contradict another one of their version."""

    new: int
    repeats: int
    conflicts: int


class Source(NamedTuple):
    """Where orders come from: `files` (a database table is one too), or the `topic` that the broker calls by an id."""

    kind: Literal["files", "topic"]
    topic: str | None = None
    topic_id: str | None = None


class ReadUntil(NamedTuple):
    """Up to which moments everything that was there has been read of each side; None before that was so once."""

    orders_at: datetime | None
    ledger_at: datetime | None

    @property
    def both_at(self) -> datetime | None:
        """The earlier of the two, None while either is none."""
        return None if self.orders_at is None or self.ledger_at is None else min(self.orders_at, self.ledger_at)


def lock(connection: Connection) -> None:
    """Let nobody else write facts of orders or breaks for the rest of a write transaction."""
    # SQLite has one writer, and a write transaction is that one from its beginning.
    statement = select(RECONCILIATION.c.id).where(RECONCILIATION.c.id == _ONLY)
    if connection.execute(statement.with_for_update()).first() is None:
        # Two processes that find no row both make it; one waits here for the other.
        connection.execute(text(f"INSERT INTO {RECONCILIATION.name} (id) VALUES ({_ONLY}) ON CONFLICT DO NOTHING"))
        connection.execute(statement.with_for_update())


def source(connection: Connection) -> Source | None:
    """Return where orders come from, None before the first came."""
    columns = (RECONCILIATION.c.source, RECONCILIATION.c.topic, RECONCILIATION.c.topic_id)
    row = connection.execute(select(*columns).where(RECONCILIATION.c.source.is_not(None))).one_or_none()
    return None if row is None else Source(*row)


def set_source(connection: Connection, wanted: Source) -> None:
    """Note where orders come from; the caller holds the lock. RefusedError if they come from elsewhere already."""
    found = source(connection)
    if found is None:
        connection.execute(
            update(RECONCILIATION).values(source=wanted.kind, topic=wanted.topic, topic_id=wanted.topic_id)
        )
    elif found != wanted:
        raise other_source(found, wanted)


def read_until(connection: Connection) -> ReadUntil:
    """Return up to which moments both sides were read."""
    row = connection.execute(select(*(RECONCILIATION.c[_UNTIL[side]] for side in ("orders", "ledger")))).one_or_none()
    return ReadUntil(None, None) if row is None else ReadUntil(*map(_moment, row))


def set_read_until(connection: Connection, side: Side, at: datetime, *, may_go_back: bool = False) -> None:
    """Note that all was read of a side that was there at a moment; the caller holds the lock.

    It never goes back, unless it may: a person who says a moment may correct it.
    """
    column, moment = RECONCILIATION.c[_UNTIL[side]], format_time(at)
    is_later = true() if may_go_back else column.is_(None) | (column < moment)
    connection.execute(update(RECONCILIATION).where(is_later).values({column: moment}))


def add_events(connection: Connection, events: pl.DataFrame) -> Added:
    """Add events (`ORDER_SCHEMA`) that are not there already and touch their orders; the caller holds the lock.

    RefusedError for an event without a place that contradicts another one of its version.
    """
    known = _events(connection, events["order_id"].unique().to_list())
    every = pl.concat([known, events.select(ORDER_SCHEMA.names())]).sort("partition", "position", nulls_last=False)
    copies = every.unique(_CONTENT, keep="first", maintain_order=True)
    kept = copies.sort(_CONTENT, nulls_last=True).unique(_KEY, keep="first", maintain_order=True)
    others = copies.join(kept, on=_CONTENT, how="anti", nulls_equal=True)
    _park_others(connection, others)
    changed = kept.join(known, on=ORDER_SCHEMA.names(), how="anti", nulls_equal=True)
    bulk.upsert_rows(connection, ORDER_EVENTS, _stored(changed))
    parked_orders.release(connection, changed)
    touch(connection, pl.concat([changed["order_id"], others["order_id"]]).unique().to_list())
    unknown = copies.join(known, on=_CONTENT, how="anti", nulls_equal=True)
    new = kept.join(known, on=_KEY, how="anti").height
    return Added(new, events.height - unknown.height, unknown.height - new)


def fill_accounts(connection: Connection, events: pl.DataFrame) -> None:
    """Put known events (`ORDER_SCHEMA`) in their places again, with an account that they were known without.

    The caller holds the lock; their orders are touched.
    """
    bulk.upsert_rows(connection, ORDER_EVENTS, _stored(events))
    touch(connection, events["order_id"].to_list())


def add_parked(connection: Connection, poison: Iterable[PoisonOrder]) -> None:
    """Keep records that are no event, unless one of their order and version is known; the caller holds the lock.

    The orders that they name are touched.
    """
    rows = pl.DataFrame([msgspec.structs.asdict(each) for each in poison], schema=PARKED_SCHEMA, orient="row")
    # A reason may quote what a record says, and not every database takes each text.
    cleaned = rows.with_columns(pl.col("reason").str.replace_all("\0", "\\0", literal=True))
    named = rows["order_id"].drop_nulls().unique().to_list()
    known = _events(connection, named)
    parked_orders.keep(connection, cleaned.join(known, on=_KEY, how="anti"))
    touch(connection, named)


def replace_rejected(connection: Connection, order_ids: Sequence[str], rejected: pl.DataFrame) -> None:
    """Forget which rows of files were rejected of some orders, and note which are now: `order_id`, `reason`.

    The caller holds the lock; orders of which that changed are touched.
    """
    touch(connection, parked_orders.replace_rejected(connection, order_ids, rejected))


def events(connection: Connection, order_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """Return events (`ORDER_SCHEMA`) of some orders or all, each (order_id, version) once, by these in order."""
    return _events(connection, order_ids).sort(_KEY)


def facts_count(connection: Connection) -> tuple[int, ...]:
    """Return how many facts of orders are known, by kind, those that cannot be read too: another one is other facts."""
    columns = (func.count(), func.count(ORDER_EVENTS.c.account_id))
    return *connection.execute(select(*columns).select_from(ORDER_EVENTS)).one(), *parked_orders.counts(connection)


def of_accounts(connection: Connection, account_ids: Sequence[str]) -> list[str]:
    """Return the orders of which an event names one of some accounts, in order."""
    statement = select(ORDER_EVENTS.c.order_id).distinct()
    schema = {"order_id": pl.String()}
    found = bulk.select_rows(connection, statement, schema, key=ORDER_EVENTS.c.account_id, keys=account_ids)
    return found["order_id"].unique().sort().to_list()


def positions(connection: Connection) -> dict[int, int]:
    """Return the next offset of each partition of the topic of orders, by partition in order."""
    columns = (ORDER_POSITIONS.c.partition, ORDER_POSITIONS.c.position)
    return {row.partition: row.position for row in connection.execute(select(*columns).order_by(columns[0]))}


def add_partitions(connection: Connection, partitions: Iterable[int]) -> None:
    """Let partitions be read from their beginning that are not yet; the caller holds the lock."""
    added = [{"partition": at, "position": 0} for at in sorted(set(partitions) - positions(connection).keys())]
    if added:
        connection.execute(insert(ORDER_POSITIONS), added)


def advance(connection: Connection, partition: int, *, after: int, until: int) -> None:
    """Move a partition's position; PositionMoved if it is not where this reader found it."""
    is_there = (ORDER_POSITIONS.c.partition == partition) & (ORDER_POSITIONS.c.position == after)
    if connection.execute(update(ORDER_POSITIONS).where(is_there).values(position=until)).rowcount != 1:
        raise PositionMoved(
            f"another process moved the topic of orders from offset {after:,}",
            where=f"partition {partition}",
            next_step="run again; nothing of this batch was written",
        )


def forget(connection: Connection) -> None:
    """Forget all that the order system said and where it said it, so that it can be read anew; all orders are touched.

    The caller holds the lock.
    """
    touch_all(connection)
    for table in (ORDER_EVENTS, ORDERS_PARKED, ORDER_POSITIONS):
        connection.execute(delete(table))
    names = ("source", "topic", "topic_id", _UNTIL["orders"])
    connection.execute(update(RECONCILIATION).values(dict.fromkeys(names)))


def touch(connection: Connection, order_ids: Sequence[str]) -> None:
    """Note that some orders have to be judged again."""
    for start in range(0, len(order_ids), bulk.KEYS_PER_QUERY):
        some = list(order_ids[start : start + bulk.KEYS_PER_QUERY])
        # In the order of the key: two that wait for each other's rows would never end.
        if connection.dialect.name == "postgresql":
            values: Any = sorted(some)
            rows = "SELECT unnest(CAST(:ids AS text[]))"
        else:
            values = msgspec.json.encode(some).decode()
            rows = "SELECT value FROM json_each(:ids) WHERE true"
        statement = f"INSERT INTO {ORDERS_TOUCHED.name} (order_id) {rows} ON CONFLICT DO NOTHING"
        connection.execute(text(statement), {"ids": values})


def touch_all(connection: Connection) -> None:
    """Note that every order of either side, and every order that a break is about, has to be judged again."""
    tables = (ORDER_EVENTS, ORDERS_PARKED, ORDER_TRANSACTIONS, ORDERS_WITHHELD, BREAKS)
    for table in tables:
        # Neither null nor empty, which it is for a transaction of which no order was told.
        rows = f"SELECT DISTINCT order_id FROM {table.name} WHERE order_id <> ''"
        statement = f"INSERT INTO {ORDERS_TOUCHED.name} (order_id) {rows} ON CONFLICT DO NOTHING"
        connection.execute(text(statement))


def touched(connection: Connection, limit: int, *, after: str = "", until: str | None = None) -> list[str]:
    """Return up to so many orders that have to be judged again, the first by id: after one, until another with it."""
    order_id = ORDERS_TOUCHED.c.order_id
    statement = select(order_id).where(order_id > after).order_by(order_id).limit(limit)
    if until is not None:
        statement = statement.where(order_id <= until)
    return list(connection.execute(statement).scalars())


def touched_count(connection: Connection) -> int:
    """Return how many orders have to be judged again."""
    found: int = connection.execute(select(func.count()).select_from(ORDERS_TOUCHED)).scalar_one()
    return found


def untouch(connection: Connection, order_ids: Sequence[str]) -> None:
    """Note that some orders were judged; the caller has held the lock since it read their facts."""
    for start in range(0, len(order_ids), bulk.KEYS_PER_QUERY):
        some = order_ids[start : start + bulk.KEYS_PER_QUERY]
        connection.execute(delete(ORDERS_TOUCHED).where(ORDERS_TOUCHED.c.order_id.in_(some)))


_ONLY = 1
_KEY = ["order_id", "version"]
_CONTENT = [name for name in ORDER_SCHEMA if name not in ("partition", "position")]
_UNTIL = {"orders": "orders_read_until_at", "ledger": "ledger_read_until_at"}
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"


def _events(connection: Connection, order_ids: Sequence[str] | None) -> pl.DataFrame:
    stored = {**ORDER_SCHEMA, "effective_at": pl.String()}
    statement = select(*(ORDER_EVENTS.c[name] for name in ORDER_SCHEMA))
    found = bulk.select_rows(connection, statement, stored, key=ORDER_EVENTS.c.order_id, keys=order_ids)
    moment = pl.col("effective_at").str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC", strict=False)
    read = found.with_columns(moment)
    if read["effective_at"].null_count():
        bad = found.filter(read["effective_at"].is_null()).row(0, named=True)
        raise bulk.misplaced(bad["order_id"], "effective_at", bad["effective_at"])
    return read


def _stored(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(pl.col("effective_at").dt.strftime(_TIME_FORMAT))


def _park_others(connection: Connection, others: pl.DataFrame) -> None:
    """Park what contradicts another event of its version, a content once, at its earliest place."""
    if others.is_empty():
        return
    if others["partition"].null_count():
        order_id, version = others.filter(pl.col("partition").is_null()).row(0)[:2]
        raise RefusedError(
            f"order {order_id!r} has another event of version {version}",
            next_step="import the rows again: they are then compared with what is known now",
        )
    content = pl.struct([name for name in _CONTENT if name not in _KEY]).struct.json_encode()
    parked_orders.keep_others(connection, _stored(others).with_columns(content=content))


def _moment(text_in_utc: str | None) -> datetime | None:
    return None if text_in_utc is None else datetime.fromisoformat(text_in_utc)


def other_source(found: Source, wanted: Source) -> RefusedError:
    """Return the error that says that orders come from one place and not from another."""
    words = {each: _words(each) for each in (found, wanted)}
    return RefusedError(
        f"the orders of this ledger come from {words[found]}, not from {words[wanted]}",
        next_step="one ledger has one source of orders: go on with that one, use another ledger, or have all of these "
        "forgotten with `import orders --from-topic NAME --restart`",
    )


def _words(source: Source) -> str:
    if source.kind == "files":
        return "files"
    return f"the topic {source.topic!r} with the id {source.topic_id}"
