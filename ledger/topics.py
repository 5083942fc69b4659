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

__all__ = ["PARKED_SCHEMA", "KnownTopic", "advance", "claim", "forget", "known", "parked", "replace_parked", "vouch"]

#: An account that waits: `version` is its first event that is not on the topic.
PARKED_SCHEMA = pl.Schema({"account_id": pl.String(), "version": pl.Int64(), "reason": pl.String()})


class KnownTopic(NamedTuple):
    """One topic as this store left it.

    `position` is the store's position up to which it was published, 0 for never; `offsets` are, by partition, the
    next offset after what the relay delivered or a replay certified: the topic must never end before them. `own` are
    those before which only events of this store are, or what an operator accepted; None where nothing was ever
    published, and a replay has seen the topic: that certifies it as whole, and not as ours.
    """

    name: str
    topic_id: str
    partitions: int
    position: int
    offsets: dict[int, int]
    own: dict[int, int] | None

    def difference(self, topic_id: str, partitions: int) -> str | None:
        """Return in words why a topic is not this one, None where it is."""
        if topic_id != self.topic_id:
            return f"the topic was made again: its id is {topic_id}, known is {self.topic_id}"
        if partitions != self.partitions:
            return (
                f"the topic has {partitions} partitions, known are {self.partitions}: accounts have moved to "
                "other partitions"
            )
        return None


def known(connection: Connection, name: str) -> KnownTopic | None:
    """Return what is known of a topic, None where nothing is."""
    row = connection.execute(select(TOPICS).where(TOPICS.c.name == name)).one_or_none()
    if row is None:
        return None
    offsets = msgspec.json.decode(row.offsets, type=dict[int, int])
    own = None if row.own is None else msgspec.json.decode(row.own, type=dict[int, int])
    return KnownTopic(row.name, row.topic_id, row.partitions, row.position, offsets, own)


def vouch(connection: Connection, name: str, topic_id: str, partitions: int, offsets: Mapping[int, int]) -> None:
    """Note up to which offsets a topic holds what we know of, each only ever raised.

    RefusedError if another topic, or another number of partitions, is known under that name.
    """
    found = _found(connection, name, topic_id, partitions)
    _set(connection, found, offsets=_raised(found.offsets, offsets), own=found.own)


def claim(connection: Connection, name: str, topic_id: str, partitions: int, own: Mapping[int, int]) -> None:
    """Note that this store publishes to a topic, and before which offsets there are its own events only.

    This comes before the first event is sent: then a topic that has some of them is not a stranger's. Each offset is
    only ever raised; RefusedError as for `vouch`.
    """
    found = _found(connection, name, topic_id, partitions)
    _set(connection, found, offsets=found.offsets, own=_raised(found.own or {}, own))


def forget(connection: Connection, name: str) -> None:
    """Forget a topic: what is there now is taken as it is, and publishing begins again from position 0."""
    _lock(connection)
    connection.execute(delete(TOPIC_PARKED).where(TOPIC_PARKED.c.name == name))
    connection.execute(delete(TOPICS).where(TOPICS.c.name == name))


def advance(connection: Connection, name: str, *, after: int, until: int, offsets: Mapping[int, int]) -> None:
    """Move a topic's position and raise what is delivered; PositionMoved if it is not where this relay found it."""
    _lock(connection)
    found = known(connection, name)
    if found is None or found.position != after:
        raise PositionMoved(
            f"another relay moved the position from {after:,}",
            where=f"topic {name!r}",
            next_step="run again, one at a time; what this one sent meanwhile are repeats, which do no harm",
        )
    connection.execute(update(TOPICS).where(TOPICS.c.name == name).values(position=until))
    _set(connection, found, offsets=_raised(found.offsets, offsets), own=_raised(found.own or {}, offsets))


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


def _found(connection: Connection, name: str, topic_id: str, partitions: int) -> KnownTopic:
    """Return what is known of a topic, which from now on is something; RefusedError if that is another one."""
    _lock(connection)
    found = known(connection, name)
    if found is None:
        new = KnownTopic(name, topic_id, partitions, 0, {}, None)
        connection.execute(insert(TOPICS).values(**new._asdict() | {"offsets": _json({})}))
        return new
    difference = found.difference(topic_id, partitions)
    if difference is not None:
        raise RefusedError(
            difference, where=f"topic {name!r}", next_step="`publish --accept-topic` takes the topic as it is now"
        )
    return found


def _raised(known: Mapping[int, int], offsets: Mapping[int, int]) -> dict[int, int]:
    return {**known, **{at: max(offset, known.get(at, 0)) for at, offset in offsets.items()}}


def _set(connection: Connection, found: KnownTopic, *, offsets: dict[int, int], own: dict[int, int] | None) -> None:
    if (offsets, own) != (found.offsets, found.own):
        values = {"offsets": _json(offsets), "own": None if own is None else _json(own)}
        connection.execute(update(TOPICS).where(TOPICS.c.name == found.name).values(**values))


def _json(offsets: Mapping[int, int]) -> str:
    return msgspec.json.encode(dict(sorted(offsets.items()))).decode()


def _lock(connection: Connection) -> None:
    """Let nobody else change a topic for the rest of the transaction; on SQLite there is one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(5417163212)"))
