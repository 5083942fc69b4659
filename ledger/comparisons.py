"""What is compared for ever: who does it now, how far its round is, and when each chunk was compared last.

All functions work inside the caller's transaction. One process at a time has a comparison: it takes a lease, renews it
with every chunk, and the cursor moves only for the one who has it. Times are ISO 8601 text in UTC, so that their order
is that of their bytes.

`ledger_compared` has one row a chunk, under its last key, for the accounts behind the key of the row before it. A new
chunk takes the rows within it away, so that the rows go on covering every key once, whatever the chunks' sizes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, text, true, update

from ledger.tables import COMPARED, COMPARISONS, DRIFT_FINDINGS, INCIDENTS
from schemas import format_time
from schemas.errors import PositionMoved

__all__ = ["Comparison", "compared", "find", "forget", "listed", "oldest", "release", "renewed", "take"]

#: The key of the chunk without an end: no account id is empty.
_NO_END = ""


class Comparison(NamedTuple):
    """The state of one comparison; `round` counts from 1, `after_key` is None at the beginning of a round."""

    name: str
    holder: str | None
    held_until: str | None
    round: int
    after_key: str | None
    started_at: str
    whole_at: str | None


def find(connection: Connection, name: str) -> Comparison | None:
    """Return a comparison, None where it never began."""
    row = connection.execute(select(COMPARISONS).where(COMPARISONS.c.name == name)).one_or_none()
    return None if row is None else Comparison(*row)


def listed(connection: Connection) -> list[Comparison]:
    """Return every comparison that ever began, by name."""
    return [Comparison(*row) for row in connection.execute(select(COMPARISONS).order_by(COMPARISONS.c.name))]


def take(connection: Connection, name: str, holder: str, *, now: datetime, lease: timedelta) -> Comparison | None:
    """Take or renew the lease of a comparison, which begins here if it never did; None while somebody else has it."""
    if find(connection, name) is None:
        _begin(connection, name, now)
    is_free = or_(
        COMPARISONS.c.holder.is_(None), COMPARISONS.c.holder == holder, COMPARISONS.c.held_until < format_time(now)
    )
    statement = update(COMPARISONS).where(COMPARISONS.c.name == name, is_free)
    taken = connection.execute(statement.values(holder=holder, held_until=format_time(now + lease)))
    return find(connection, name) if taken.rowcount == 1 else None


def compared(
    connection: Connection, found: Comparison, until: str | None, *, now: datetime, lease: timedelta
) -> Comparison:
    """Note that the chunk behind a comparison's cursor was compared until a key, None for the end, and renew the lease.

    PositionMoved if the lease is somebody else's by now, or the cursor is not where `found` has it.
    """
    at = format_time(now)
    is_whole = until is None
    next_ = found._replace(
        held_until=format_time(now + lease),
        round=found.round + is_whole,
        after_key=until,
        started_at=at if is_whole else found.started_at,
        whole_at=at if is_whole else found.whole_at,
    )
    _move(connection, found, next_)
    _cover(connection, found, until, at)
    return next_


def renewed(connection: Connection, found: Comparison, *, now: datetime, lease: timedelta) -> Comparison:
    """Renew the lease of a comparison whose cursor stays where it is; PositionMoved as of `compared`."""
    next_ = found._replace(held_until=format_time(now + lease))
    _move(connection, found, next_)
    return next_


def release(connection: Connection, name: str, holder: str) -> None:
    """Give the lease back, so that another process need not wait until it has passed; nothing if it is not held."""
    mine = (COMPARISONS.c.name == name, COMPARISONS.c.holder == holder)
    connection.execute(update(COMPARISONS).where(*mine).values(holder=None, held_until=None))


def forget(connection: Connection, name: str) -> None:
    """Remove a comparison with what it found, and the incidents that nobody was told of with it."""
    for column in (COMPARED.c.comparison, DRIFT_FINDINGS.c.comparison, INCIDENTS.c.comparison, COMPARISONS.c.name):
        connection.execute(delete(column.table).where(column == name))


def oldest(connection: Connection, name: str) -> str | None:
    """Return since when some account was not compared; None where the comparison never began.

    Before the first round is whole that is when it began.
    """
    found = find(connection, name)
    if found is None:
        return None
    if found.whole_at is None:
        return found.started_at
    first = select(func.min(COMPARED.c.compared_at)).where(COMPARED.c.comparison == name)
    return connection.execute(first).scalar() or found.whole_at


def _move(connection: Connection, found: Comparison, next_: Comparison) -> None:
    after = COMPARISONS.c.after_key
    is_there = after.is_(None) if found.after_key is None else after == found.after_key
    mine = (COMPARISONS.c.name == found.name, COMPARISONS.c.holder == found.holder, COMPARISONS.c.round == found.round)
    if connection.execute(update(COMPARISONS).where(*mine, is_there).values(next_._asdict())).rowcount != 1:
        raise PositionMoved(
            f"another process goes on with the comparison {found.name!r}", next_step="nothing of this look was noted"
        )


def _begin(connection: Connection, name: str, now: datetime) -> None:
    # Another process may begin it at the same time.
    statement = (
        f"INSERT INTO {COMPARISONS.name} (name, round, started_at) VALUES (:name, 1, :at) ON CONFLICT DO NOTHING"
    )
    connection.execute(text(statement), {"name": name, "at": format_time(now)})


def _cover(connection: Connection, found: Comparison, until: str | None, at: str) -> None:
    key = COMPARED.c.until_key
    is_after = true() if found.after_key is None else key > found.after_key
    # The empty key is the end, though it sorts first.
    is_within = or_(is_after, key == _NO_END) if until is None else and_(is_after, key <= until, key != _NO_END)
    connection.execute(delete(COMPARED).where(COMPARED.c.comparison == found.name, is_within))
    values = {"comparison": found.name, "until_key": until or _NO_END, "round": found.round, "compared_at": at}
    connection.execute(insert(COMPARED).values(values))
