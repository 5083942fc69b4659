"""The append lock, the fence that may stand behind it, and the lease of who recovers. One row keeps lease and fence.

Whoever appends takes the append lock first and looks for the fence under it, in the same transaction. The fence is
raised under that lock too: whoever had begun before has committed by then, and whoever comes after sees it.

One operator at a time has the lease of recovery and renews it while at work. An expired lease can be taken; a fence
never falls by itself, so that while one stands only its own run can have the lease. Nothing here commits: all of it is
part of the caller's transaction.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, or_, select, text, update

from ledger.recovery_tables import RECOVERY
from ledger.tables import EVENTS
from schemas import format_time
from schemas.errors import LedgerFenced, PositionMoved, RefusedError

__all__ = [
    "Fence",
    "check_held",
    "lift",
    "lock_appends",
    "raise_fence",
    "refuse_fenced",
    "refuse_taken",
    "release",
    "renew",
    "state",
    "take",
]

#: The one row.
ROW = 1

#: Who appends while the ledger is fenced: a connection with this option is let through for the run that it names.
RUN_OPTION = "ledger_run"

_COLUMNS = (RECOVERY.c.run, RECOVERY.c.holder, RECOVERY.c.held_until, RECOVERY.c.fenced_at, RECOVERY.c.fenced_by)

#: The write takes SQLite's one write lock before the transaction reads anything: a read first would make it fail at
#: once with SQLITE_BUSY_SNAPSHOT when another writer was there. It finds a row, and so changes one, only where the
#: append is refused.
_LOCK_SQLITE = (
    f"UPDATE {RECOVERY.name} SET fenced_at = fenced_at WHERE fenced_at IS NOT NULL AND run IS NOT ? "
    "RETURNING run, fenced_at, fenced_by"
)

_LOCK_POSTGRESQL = f"SET LOCAL lock_timeout = '60s'; LOCK TABLE {EVENTS.name} IN EXCLUSIVE MODE"

_FENCED_POSTGRESQL = (
    f"SELECT run, fenced_at, fenced_by FROM {RECOVERY.name} WHERE fenced_at IS NOT NULL AND run IS DISTINCT FROM %s"
)


class Fence(NamedTuple):
    """The state of recovery: the run, who applies it until when (None where nobody does), and since when it fences.

    Times are ISO 8601 text in UTC. `fenced_at` is None while writers are let through.
    """

    run: str
    holder: str | None
    held_until: str | None
    fenced_at: str | None
    fenced_by: str | None

    @property
    def is_up(self) -> bool:
        """Whether writers are fenced."""
        return self.fenced_at is not None


def lock_appends(connection: Connection) -> None:
    """Take the append lock for the rest of the transaction.

    LedgerFenced while only a recovery run may append, unless the connection is that run's.
    """
    run = connection.get_execution_options().get(RUN_OPTION, "")
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql(_LOCK_SQLITE, (run,)).first()
    else:
        _lock_table(connection)
        found = connection.exec_driver_sql(_FENCED_POSTGRESQL, (run,)).first()
    if found is not None:
        raise _fenced(*found)


def refuse_fenced(connection: Connection) -> None:
    """Raise LedgerFenced as `lock_appends` does, for what appends nothing but changes what a recovery corrects.

    Nothing is locked: a fence that is raised a moment later finds the change made.
    """
    found = state(connection)
    if found is not None and found.is_up and found.run != connection.get_execution_options().get(RUN_OPTION):
        raise _fenced(found.run, str(found.fenced_at), str(found.fenced_by))


def take(connection: Connection, run: str, holder: str, *, now: datetime, lease: timedelta) -> Fence:
    """Take or renew the lease of recovery for a run; `holder` is a token of one process.

    RefusedError names who has it, or whose fence stands.
    """
    _begin(connection)
    is_free = or_(RECOVERY.c.holder.is_(None), RECOVERY.c.holder == holder, RECOVERY.c.held_until < format_time(now))
    is_mine = or_(RECOVERY.c.run.is_(None), RECOVERY.c.run == run, RECOVERY.c.fenced_at.is_(None))
    statement = update(RECOVERY).where(RECOVERY.c.id == ROW, is_free, is_mine)
    values = {"run": run, "holder": holder, "held_until": format_time(now + lease)}
    if connection.execute(statement.values(values)).rowcount != 1:
        raise _refused(_found(connection), now)
    return _found(connection)


def refuse_taken(connection: Connection, run: str, *, now: datetime) -> None:
    """Raise RefusedError as `take` would for a process that comes new, so that nobody is asked in vain."""
    found = state(connection)
    if found is None:
        return
    is_held = found.holder is not None and str(found.held_until) >= format_time(now)
    if is_held or (found.is_up and found.run != run):
        raise _refused(found, now)


def renew(connection: Connection, run: str, holder: str, *, now: datetime, lease: timedelta) -> Fence:
    """Renew the lease; PositionMoved if it is not this holder's any more, whose work must end there."""
    statement = update(RECOVERY).where(*_held(run, holder)).values(held_until=format_time(now + lease))
    if connection.execute(statement).rowcount != 1:
        raise _lost(run, state(connection))
    return _found(connection)


def check_held(connection: Connection, run: str, holder: str) -> None:
    """Raise PositionMoved as `renew` does, for who can write nothing now, and whom nobody can overtake meanwhile."""
    found = state(connection)
    if found is None or (found.run, found.holder) != (run, holder):
        raise _lost(run, found)


def release(connection: Connection, run: str, holder: str) -> None:
    """Give the lease back, so that nobody need wait until it has passed; nothing where it is not held.

    A fence stays as it is.
    """
    connection.execute(update(RECOVERY).where(*_held(run, holder)).values(holder=None, held_until=None))
    _forget(connection)


def raise_fence(connection: Connection, run: str, by: str, now: datetime) -> bool:
    """Let nobody append from the end of this transaction on but the run, which has the lease.

    Takes the append lock, so that whatever had begun before is whole. Returns False where this run's fence was up
    already. RefusedError if the run does not have the lease.
    """
    _lock(connection)
    found = state(connection)
    if found is None or found.run != run:
        raise RefusedError(
            "the run does not have the lease of recovery", where=f"run {run!r}", next_step="see `recover status`"
        )
    if found.is_up:
        return False
    values = {"fenced_at": format_time(now), "fenced_by": by}
    connection.execute(update(RECOVERY).where(RECOVERY.c.id == ROW).values(values))
    return True


def lift(connection: Connection, run: str) -> bool:
    """Let everybody append again; returns False where no fence of this run stood."""
    up = update(RECOVERY).where(RECOVERY.c.run == run, RECOVERY.c.fenced_at.is_not(None))
    is_lifted = connection.execute(up.values(fenced_at=None, fenced_by=None)).rowcount == 1
    _forget(connection)
    return is_lifted


def state(connection: Connection) -> Fence | None:
    """Return who has the lease and whether a fence stands; None where there is neither."""
    row = connection.execute(select(*_COLUMNS).where(RECOVERY.c.run.is_not(None))).one_or_none()
    return None if row is None else Fence(*row)


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(update(RECOVERY).where(text("0")).values(run=None))
    else:
        _lock_table(connection)


def _lock_table(connection: Connection) -> None:
    # Both at once, which the driver takes only without values: every append pays for each way to the server.
    connection.exec_driver_sql(_LOCK_POSTGRESQL, execution_options={"no_parameters": True})


def _fenced(run: str, at: str, by: str) -> LedgerFenced:
    return LedgerFenced(
        f"the ledger is fenced since {at} by {by}: a recovery is under way",
        where=f"run {run!r}",
        next_step="wait for its end; if its process is gone, `recover resume` or `recover abort` ends it",
    )


def _begin(connection: Connection) -> None:
    # Another process may make the row at the same time.
    connection.execute(text(f"INSERT INTO {RECOVERY.name} (id) VALUES ({ROW}) ON CONFLICT DO NOTHING"))


def _held(run: str, holder: str) -> tuple[ColumnElement[bool], ...]:
    return RECOVERY.c.id == ROW, RECOVERY.c.run == run, RECOVERY.c.holder == holder


def _forget(connection: Connection) -> None:
    """Name no run where it has neither the lease nor a fence."""
    is_idle = and_(RECOVERY.c.holder.is_(None), RECOVERY.c.fenced_at.is_(None))
    connection.execute(update(RECOVERY).where(is_idle).values(run=None))


def _found(connection: Connection) -> Fence:
    return Fence(*connection.execute(select(*_COLUMNS).where(RECOVERY.c.id == ROW)).one())


def _lost(run: str, found: Fence | None) -> PositionMoved:
    return PositionMoved(
        "the lease of the recovery is lost",
        where=f"run {run!r}",
        next_step="nobody has it now: `recover resume` goes on"
        if found is None or found.holder is None
        else f"{found.holder} goes on with run {found.run!r}; see `recover status`",
    )


def _refused(found: Fence, now: datetime) -> RefusedError:
    if found.holder is not None and str(found.held_until) >= format_time(now):
        return RefusedError(
            f"somebody else recovers this ledger: {found.holder} has the lease until {found.held_until}",
            where=f"run {found.run!r}",
            next_step="see `recover status`; a lease that is not renewed can be taken after that time",
        )
    return RefusedError(
        f"another run has not ended, and its fence stands since {found.fenced_at}",
        where=f"run {found.run!r}",
        next_step="end that one first, with `recover resume` or `recover abort`",
    )
