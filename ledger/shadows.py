"""The shadows: sets of read-model rows beside the live one, each following a source of its own, with its positions.

A shadow's rows are under its `number`, in a table like that of the read model, whose functions take it like that of a
generation. All functions work inside the caller's transaction. A position moves by compare-and-set in the transaction
that writes the rows, and writers of one shadow take its row first (`lock`), so what was read after that stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection, delete, func, insert, select, update

from ledger import bulk, order_transactions, read_model
from ledger.tables import PARKED, SHADOW_ACCOUNTS, SHADOW_POSITIONS, SHADOW_WAITING, SHADOWS
from schemas.errors import PositionMoved

__all__ = [
    "WAITING_SCHEMA",
    "Shadow",
    "add_partitions",
    "add_waiting",
    "advance",
    "create",
    "drop",
    "drop_waiting",
    "find",
    "gone",
    "lock",
    "positions",
    "waiting",
    "waiting_events",
]

#: An event of a topic that waits for one before it; `state` are its wire bytes.
WAITING_SCHEMA = pl.Schema(
    {
        "account_id": pl.String(),
        "version": pl.Int64(),
        "partition": pl.Int64(),
        "position": pl.Int64(),
        "state": pl.Binary(),
    }
)


class Shadow(NamedTuple):
    """One shadow: its rows are under `number`, which is below zero.

    `source` is `store` or `topic`, `source_id` the id of the ledger or what the broker calls the topic, `topic` that
    topic's name; `started_from` says in words what it began with.
    """

    name: str
    number: int
    source: str
    source_id: str
    topic: str | None
    started_from: str


def find(connection: Connection, name: str) -> Shadow | None:
    """Return the shadow of a name, None where there is none."""
    row = connection.execute(select(*_COLUMNS).where(SHADOWS.c.name == name)).one_or_none()
    return None if row is None else Shadow(*row)


def create(
    connection: Connection,
    *,
    name: str,
    source: str,
    source_id: str,
    topic: str | None,
    started_from: str,
    positions: Mapping[int, int],
    created_at: str,
    instead_of: Shadow | None = None,
) -> Shadow:
    """Make a shadow without rows, with a position for each partition of its source (a store's only one is 0).

    With `instead_of` that one is dropped first, and never has the same number: an instance that still follows it is
    not taken for one of the new. IntegrityError if there is another one of that name: `lock_creation` of the read
    model, then `find`, come first.
    """
    read_model.lock_creation(connection)
    number: int = connection.execute(select(func.coalesce(func.min(SHADOWS.c.number), 0) - 1)).scalar_one()
    if instead_of is not None:
        lock(connection, instead_of)
        drop(connection, instead_of)
    shadow = Shadow(name, number, source, source_id, topic, started_from)
    connection.execute(insert(SHADOWS).values(**shadow._asdict(), created_at=created_at))
    first = [{"name": name, "partition": at, "position": position} for at, position in sorted(positions.items())]
    connection.execute(insert(SHADOW_POSITIONS), first)
    if name == order_transactions.FOLLOWER:
        # Up to when a single look has read the ledger says nothing of this one, which has read nothing of it yet.
        order_transactions.drop(connection, number)
    return shadow


def drop(connection: Connection, shadow: Shadow) -> None:
    """Remove a shadow with its rows, its positions, what waits and what is kept beside them."""
    if shadow.name == order_transactions.FOLLOWER:
        order_transactions.drop(connection, shadow.number)
    for rows in (SHADOW_ACCOUNTS, PARKED):
        connection.execute(delete(rows).where(rows.c.generation == shadow.number))
    for table in (SHADOW_WAITING, SHADOW_POSITIONS, SHADOWS):
        connection.execute(delete(table).where(table.c.name == shadow.name))


def lock(connection: Connection, shadow: Shadow) -> None:
    """Let nobody else write this shadow for the rest of a write transaction; PositionMoved if it is there no more."""
    # SQLite has one writer, and a write transaction is that one from its beginning.
    statement = select(SHADOWS.c.name).where(SHADOWS.c.name == shadow.name, SHADOWS.c.number == shadow.number)
    # The number of one that was dropped may be another's by now; of the same source its rows are the same.
    statement = statement.where(SHADOWS.c.source == shadow.source, SHADOWS.c.source_id == shadow.source_id)
    if connection.execute(statement.with_for_update()).first() is None:
        raise gone(shadow)


def positions(connection: Connection, shadow: Shadow) -> dict[int, int]:
    """Return up to where a shadow has each partition of its source, by partition in order; empty if it is gone."""
    # A shadow that was begun anew has the name of the old one, and positions that say nothing of its rows.
    is_there = SHADOWS.c.number == shadow.number
    columns = (SHADOW_POSITIONS.c.partition, SHADOW_POSITIONS.c.position)
    statement = select(*columns).join(SHADOWS, SHADOWS.c.name == SHADOW_POSITIONS.c.name)
    found = connection.execute(statement.where(SHADOWS.c.name == shadow.name, is_there).order_by(columns[0]))
    return {row.partition: row.position for row in found}


def advance(connection: Connection, shadow: Shadow, partition: int, *, after: int, until: int) -> None:
    """Move a partition's position; PositionMoved if it is not where this writer found it, or the shadow is gone."""
    is_there = select(SHADOWS.c.name).where(SHADOWS.c.name == shadow.name, SHADOWS.c.number == shadow.number).exists()
    statement = (
        update(SHADOW_POSITIONS)
        .where(SHADOW_POSITIONS.c.name == shadow.name, SHADOW_POSITIONS.c.partition == partition)
        .where(SHADOW_POSITIONS.c.position == after, is_there)
        .values(position=until)
    )
    if connection.execute(statement).rowcount != 1:
        raise _moved(f"another process moved the shadow {shadow.name!r} from position {after:,}")


def add_partitions(connection: Connection, shadow: Shadow, partitions: Iterable[int]) -> None:
    """Let a shadow follow partitions that its topic has been given, from their beginning; the caller holds the lock."""
    known = positions(connection, shadow)
    added = [{"name": shadow.name, "partition": at, "position": 0} for at in sorted(set(partitions) - set(known))]
    if added:
        connection.execute(insert(SHADOW_POSITIONS), added)


def add_waiting(connection: Connection, shadow: Shadow, events: pl.DataFrame) -> None:
    """Keep events (`WAITING_SCHEMA`) until what is missing before them comes; IntegrityError if one is kept already."""
    named = events.select(pl.lit(shadow.name, pl.String()).alias("name"), *WAITING_SCHEMA.names())
    bulk.insert_rows(connection, SHADOW_WAITING, named)


def waiting(connection: Connection, shadow: Shadow, account_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """Return what waits (`WAITING_SCHEMA`), all of it or of some accounts, in no order."""
    statement = select(*(SHADOW_WAITING.c[name] for name in WAITING_SCHEMA))
    statement = statement.where(SHADOW_WAITING.c.name == shadow.name)
    key = SHADOW_WAITING.c.account_id
    return bulk.select_rows(connection, statement, WAITING_SCHEMA, key=key, keys=account_ids)


def waiting_events(connection: Connection, shadow: Shadow) -> int:
    """Return how many events wait, of all accounts."""
    statement = select(func.count()).where(SHADOW_WAITING.c.name == shadow.name)
    found: int = connection.execute(statement).scalar_one()
    return found


def drop_waiting(connection: Connection, shadow: Shadow, account_ids: Sequence[str]) -> None:
    """Forget what waits of some accounts."""
    for start in range(0, len(account_ids), bulk.KEYS_PER_QUERY):
        some = account_ids[start : start + bulk.KEYS_PER_QUERY]
        is_one = SHADOW_WAITING.c.account_id.in_(some)
        connection.execute(delete(SHADOW_WAITING).where(SHADOW_WAITING.c.name == shadow.name, is_one))


def gone(shadow: Shadow) -> PositionMoved:
    """Return the error that says that a shadow is there no more."""
    return _moved(f"another process dropped the shadow {shadow.name!r}, or began it anew")


_COLUMNS = tuple(SHADOWS.c[name] for name in Shadow._fields)


def _moved(what: str) -> PositionMoved:
    return PositionMoved(what, next_step="run again; nothing of this run was written")
