"""Incidents: times during which something was wrong, and whom it was told; rows of `ledger_incidents`.

One of a comparison begins with the first certain difference and is over when a whole round found none; one of the
reconciliation lasts while breaks stay open for too long. The rows are also the queue of the alerts: what is untold is
due, whatever was killed meanwhile. All functions work inside the caller's write transaction, and change nothing that
another process changed first.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, Update, func, insert, or_, select, update

from ledger import findings
from ledger.tables import INCIDENTS

__all__ = [
    "Alert",
    "Incident",
    "Kind",
    "begun",
    "claim",
    "current",
    "due",
    "healed",
    "is_unheard",
    "listed",
    "note_told",
    "told_last",
    "try_again",
    "untold",
]

Kind = Literal["drift", "healed"]

_I = INCIDENTS.c


class Incident(NamedTuple):
    """One row of the table; moments are ISO 8601 text in UTC."""

    id: int
    comparison: str
    opened_at: str
    healed_at: str | None
    drifted: int
    opened_told_at: str | None
    healed_told_at: str | None
    attempts: int
    next_attempt_at: str | None
    error: str | None


class Alert(NamedTuple):
    """What is to be told of an incident; `earlier` were over before anybody was told of them."""

    kind: Kind
    incident: Incident
    earlier: list[Incident]


def begun(connection: Connection, comparison: str, drifted: int, *, now: str) -> Incident | None:
    """Note how much is wrong (accounts, or breaks), and return the incident that began with it, None where none did."""
    findings.lock(connection)
    if drifted == 0:
        return None
    is_open = (_I.comparison == comparison) & _I.healed_at.is_(None)
    if connection.execute(select(_I.id).where(is_open)).first() is not None:
        connection.execute(update(INCIDENTS).where(is_open, _I.drifted < drifted).values(drifted=drifted))
        return None
    values = {"comparison": comparison, "opened_at": now, "drifted": drifted, "attempts": 0}
    number = connection.execute(insert(INCIDENTS).values(values).returning(_I.id)).scalar_one()
    return _incident(connection.execute(select(INCIDENTS).where(_I.id == number)).one())


def healed(connection: Connection, comparison: str, *, now: str) -> Incident | None:
    """End the incident of a comparison whose whole round found no drift; None where none is open, or drift still is."""
    findings.lock(connection)
    if findings.counts(connection, comparison).drifted:
        return None
    found = current(connection, comparison)
    if found is None:
        return None
    connection.execute(_update(found.id).values(healed_at=now))
    return found._replace(healed_at=now)


def current(connection: Connection, comparison: str) -> Incident | None:
    """Return the incident of a comparison that is not over, None where none is open."""
    row = connection.execute(select(INCIDENTS).where(_I.comparison == comparison, _I.healed_at.is_(None))).one_or_none()
    return None if row is None else _incident(row)


def listed(connection: Connection, comparison: str | None = None) -> list[Incident]:
    """Return the incidents of one comparison or of all, oldest first."""
    statement = select(INCIDENTS).order_by(_I.id)
    if comparison is not None:
        statement = statement.where(_I.comparison == comparison)
    return [_incident(row) for row in connection.execute(statement)]


def is_unheard(connection: Connection, comparison: str) -> bool:
    """Say whether something is to be told that nobody has tried to tell yet."""
    alert = due(connection, comparison)
    return alert is not None and alert.incident.attempts == 0


def due(connection: Connection, comparison: str) -> Alert | None:
    """Return what is to be told next, None where nothing is: of the newest incident only.

    Whoever could not be told of an earlier one in time is told of it together with this one.
    """
    untold_ = select(INCIDENTS).where(
        _I.comparison == comparison, or_(_I.opened_told_at.is_(None), _I.healed_told_at.is_(None))
    )
    rows = [_incident(row) for row in connection.execute(untold_.order_by(_I.id))]
    if not rows:
        return None
    newest, earlier = rows[-1], rows[:-1]
    if newest.opened_told_at is None:
        return Alert("drift", newest, earlier)
    return Alert("healed", newest, earlier) if newest.healed_at is not None else None


def told_last(connection: Connection, comparison: str) -> str | None:
    """Return when anybody was told of an incident last, None where never."""
    latest = select(func.max(_I.opened_told_at), func.max(_I.healed_told_at)).where(_I.comparison == comparison)
    return max(filter(None, connection.execute(latest).one()), default=None)


def claim(connection: Connection, incident: Incident, *, until: str) -> bool:
    """Take the next attempt to tell of an incident; False where another process took it.

    Where this one dies before it notes what came of it, another attempt is due at `until`.
    """
    statement = _update(incident.id).where(_I.attempts == incident.attempts)
    done = connection.execute(statement.values(attempts=incident.attempts + 1, next_attempt_at=until))
    return done.rowcount == 1


def note_told(connection: Connection, alert: Alert, *, now: str) -> None:
    """Note that an alert was taken, and with it those of the earlier incidents."""
    moment = {"opened_told_at": now} if alert.kind == "drift" else {"healed_told_at": now}
    fresh = {"attempts": 0, "next_attempt_at": None, "error": None}
    connection.execute(_update(alert.incident.id).values(moment | fresh))
    for each in alert.earlier:
        told = {"opened_told_at": each.opened_told_at or now, "healed_told_at": each.healed_told_at or now}
        connection.execute(_update(each.id).values(told | fresh))


def untold(connection: Connection, incident: Incident, error: str, *, again_at: str | None) -> None:
    """Note why an attempt failed, and when the next is due; None where trying again does not help."""
    connection.execute(_update(incident.id).values(error=error, next_attempt_at=again_at))


def try_again(connection: Connection, comparison: str) -> None:
    """Let alerts that were given up be tried once more: whoever starts anew may have mended what was wrong."""
    given_up = (_I.comparison == comparison) & _I.error.is_not(None) & _I.next_attempt_at.is_(None)
    connection.execute(update(INCIDENTS).where(given_up).values(error=None))


def _update(number: int) -> Update:
    return update(INCIDENTS).where(_I.id == number)


def _incident(row: Row[Any]) -> Incident:
    return Incident(**row._mapping)  # noqa: SLF001 - the public name of a row as a mapping.
