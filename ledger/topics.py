"""What the store knows of the topics that its events go to: which topic, how far, and which accounts wait.

All functions work inside the caller's transaction. The position of a topic moves by compare-and-set, so that of
two relays that publish the same events one goes on and the other is told. Whoever changes anything here takes the
topic's row first, so what was read after that stands until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, delete, insert, select, text, update

from ledger import bulk
from ledger.tables import TOPIC_PARKED, TOPICS
from schemas.errors import PositionMoved, RefusedError

__all__ = ["PARKED_SCHEMA", "KnownTopic", "advance", "forget", "known", "parked", "replace_parked", "vouch"]

#: An account that waits: `version` is its first event that is not on the topic.
PARKED_SCHEMA = pl.Schema({"account_id": pl.String(), "version": pl.Int64(), "reason": pl.String()})


class KnownTopic(NamedTuple):
    """One topic as this store left it.

    `position` is the store's position up to which it was published, 0 for never; `offsets` are, by partition, the
    next offset after what the relay delivered or a replay certified: the topic must never end before them.
    """

    name: str
    topic_id: str
    partitions: int
    position: int
    offsets: dict[int, int]


def known(connection: Connection, name: str) -> KnownTopic | None:
    """Return what is known of a topic, None where nothing is."""
    row = connection.execute(select(TOPICS).where(TOPICS.c.name == name)).one_or_none()
    if row is None:
        return None
    offsets = msgspec.json.decode(row.offsets, type=dict[int, int])
    return KnownTopic(row.name, row.topic_id, row.partitions, row.position, offsets)


def vouch(connection: Connection, name: str, topic_id: str, partitions: int, offsets: Mapping[int, int]) -> None:
    """Note up to which offsets a topic holds what we know of, each only ever raised.

    RefusedError if another topic, or another number of partitions, is known under that name.
    """
    _lock(connection)
    found = known(connection, name)
    if found is None:
        values = {"name": name, "topic_id": topic_id, "partitions": partitions, "position": 0}
        connection.execute(insert(TOPICS).values(**values, offsets=_json(offsets)))
        return
    if (found.topic_id, found.partitions) != (topic_id, partitions):
        raise RefusedError(
            f"the topic has id {topic_id} and {partitions} partitions, known are id {found.topic_id} and "
            f"{found.partitions} partitions",
            where=f"topic {name!r}",
            next_step="`publish --accept-topic` takes the topic as it is now",
        )
    _set_offsets(connection, found, offsets)


def forget(connection: Connection, name: str) -> None:
    """Forget a topic: what is there now is taken as it is, and publishing begins again from position 0."""
    _lock(connection)
    connection.execute(delete(TOPIC_PARKED).where(TOPIC_PARKED.c.name == name))
    connection.execute(delete(TOPICS).where(TOPICS.c.name == name))


def advance(connection: Connection, name: str, *, after: int, until: int, offsets: Mapping[int, int]) -> None:
    """Move a topic's position and raise its offsets; PositionMoved if it is not where this relay found it."""
    _lock(connection)
    found = known(connection, name)
    if found is None or found.position != after:
        raise PositionMoved(
            f"another relay moved the position from {after:,}",
            where=f"topic {name!r}",
            next_step="run again, one at a time; what this one sent meanwhile are repeats, which do no harm",
        )
    connection.execute(update(TOPICS).where(TOPICS.c.name == name).values(position=until))
    _set_offsets(connection, found, offsets)


def parked(connection: Connection, name: str) -> pl.DataFrame:
    """Return the accounts whose later events wait (`PARKED_SCHEMA`), in order."""
    statement = select(*(TOPIC_PARKED.c[column] for column in PARKED_SCHEMA)).where(TOPIC_PARKED.c.name == name)
    return bulk.select_rows(connection, statement.order_by(TOPIC_PARKED.c.account_id), PARKED_SCHEMA)


def replace_parked(connection: Connection, name: str, account_ids: Sequence[str], found: pl.DataFrame) -> None:
    """Forget what waits among some accounts of a topic, and note what waits there now (`PARKED_SCHEMA`)."""
    for start in range(0, len(account_ids), bulk.KEYS_PER_QUERY):
        some = account_ids[start : start + bulk.KEYS_PER_QUERY]
        connection.execute(delete(TOPIC_PARKED).where(TOPIC_PARKED.c.name == name, TOPIC_PARKED.c.account_id.in_(some)))
    noted = found.select(pl.lit(name, pl.String()).alias("name"), *PARKED_SCHEMA.names())
    bulk.insert_rows(connection, TOPIC_PARKED, noted)


def _set_offsets(connection: Connection, found: KnownTopic, offsets: Mapping[int, int]) -> None:
    raised = found.offsets | {at: max(offset, found.offsets.get(at, 0)) for at, offset in offsets.items()}
    if raised != found.offsets:
        connection.execute(update(TOPICS).where(TOPICS.c.name == found.name).values(offsets=_json(raised)))


def _json(offsets: Mapping[int, int]) -> str:
    return msgspec.json.encode(dict(sorted(offsets.items()))).decode()


def _lock(connection: Connection) -> None:
    """Let nobody else change a topic for the rest of the transaction; on SQLite there is one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(5417163212)"))
