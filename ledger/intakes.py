"""How far each topic was read that transactions are imported from.

All functions work inside the caller's transaction: offsets move in the transaction that appends what was read, by
compare-and-set, so every record becomes events once, whenever the reader is killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ledger.tables import INTAKES
from schemas.errors import PositionMoved

__all__ = ["Intake", "forget", "known", "move"]


class Intake(NamedTuple):
    """A topic that is read: which one, by which codec, and the next offset by partition."""

    name: str
    topic_id: str
    codec: str
    offsets: dict[int, int]


def known(connection: Connection, name: str) -> Intake | None:
    """Return how far a topic was read, None where it never was."""
    row = connection.execute(select(INTAKES).where(INTAKES.c.name == name)).one_or_none()
    if row is None:
        return None
    return Intake(row.name, row.topic_id, row.codec, msgspec.json.decode(row.offsets, type=dict[int, int]))


def move(connection: Connection, before: Intake | None, after: Intake) -> None:
    """Move a topic from where this reader found it, None for nowhere; PositionMoved if it is not there any more."""
    if before is None:
        values = {"name": after.name, "topic_id": after.topic_id, "codec": after.codec}
        try:
            connection.execute(insert(INTAKES).values(**values, offsets=_json(after.offsets)))
        except IntegrityError as error:
            raise _moved(after.name) from error
        return
    is_there = (
        (INTAKES.c.name == before.name)
        & (INTAKES.c.topic_id == before.topic_id)
        & (INTAKES.c.codec == before.codec)
        & (INTAKES.c.offsets == _json(before.offsets))
    )
    if connection.execute(update(INTAKES).where(is_there).values(offsets=_json(after.offsets))).rowcount != 1:
        raise _moved(after.name)


def forget(connection: Connection, name: str) -> None:
    """Forget a topic, so that it is read from its first offset again."""
    connection.execute(delete(INTAKES).where(INTAKES.c.name == name))


def _json(offsets: Mapping[int, int]) -> str:
    return msgspec.json.encode(dict(sorted(offsets.items()))).decode()


def _moved(name: str) -> PositionMoved:
    return PositionMoved(
        "another import has read on from here",
        where=f"topic {name!r}",
        next_step="run one at a time; nothing of this one's last batch was written",
    )
