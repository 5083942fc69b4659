"""Breaks as they stand: which there are, their history, how old they are, and how many points are at risk.

A break is one mismatch of an order with the ledger, by order and code. `ledger.breaks` says how its life goes. All
functions only read, inside the caller's transaction. Totals count an order once, with its largest: several codes may
be about the same points.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import polars as pl
from sqlalchemy import ColumnElement, Connection, Select, func, select

from ledger import bulk
from ledger.order_tables import BREAK_HISTORY, BREAKS, ORDERS_PARKED, ORDERS_TOUCHED, ORDERS_WITHHELD
from schemas import format_time

__all__ = [
    "AGES",
    "BREAK_SCHEMA",
    "BY_HAND",
    "HISTORY_SCHEMA",
    "NOT_RESOLVED",
    "STANDING",
    "Counted",
    "Resolution",
    "Risk",
    "Selection",
    "State",
    "by_account",
    "by_age",
    "by_code",
    "by_day",
    "changed_since_decided",
    "counts",
    "doubts",
    "histories",
    "history",
    "is_empty",
    "listed",
    "oldest_opened_at",
    "standing_since",
    "stored",
    "total",
    "waiting",
    "withheld",
]

State = Literal["pending", "open", "resolved", "reopened"]
Resolution = Literal["late", "manual", "accepted"]

#: Decisions of a person, which the machine never undoes.
BY_HAND: tuple[Resolution, ...] = ("manual", "accepted")
#: States in which a break stands, past its deadline and nobody has decided about it.
STANDING: tuple[State, ...] = ("open", "reopened")
#: All but those that are resolved.
NOT_RESOLVED: tuple[State, ...] = ("pending", *STANDING)

#: Ages of breaks that stand: the name, and what is younger than it.
AGES: tuple[tuple[str, timedelta], ...] = (
    ("under 1 hour", timedelta(hours=1)),
    ("under 1 day", timedelta(days=1)),
    ("under 7 days", timedelta(days=7)),
    ("under 30 days", timedelta(days=30)),
    ("older", timedelta.max),
)

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"
_MOMENT = pl.Datetime("us", "UTC")
_B = BREAKS.c

#: A break as it is told; `changed_at` is when the facts changed last after somebody had decided about it.
BREAK_SCHEMA = pl.Schema(
    {
        "id": pl.Int64(),
        "order_id": pl.String(),
        "code": pl.String(),
        "account_id": pl.String(),
        "state": pl.String(),
        "resolution": pl.String(),
        "is_found": pl.Boolean(),
        "points_at_risk": pl.Int64(),
        "order_points": pl.Int64(),
        "credit_points": pl.Int64(),
        "order_status": pl.String(),
        "credit_status": pl.String(),
        "transactions": pl.List(pl.String()),
        "evidence": pl.String(),
        "order_partition": pl.Int64(),
        "order_position": pl.Int64(),
        "ledger_partition": pl.Int64(),
        "ledger_position": pl.Int64(),
        "order_at": _MOMENT,
        "deadline_at": _MOMENT,
        "noticed_at": _MOMENT,
        "opened_at": _MOMENT,
        "resolved_at": _MOMENT,
        "changed_at": _MOMENT,
    }
)

#: The same as the table has it: times and lists as text.
STORED_SCHEMA = pl.Schema(
    {
        **BREAK_SCHEMA,
        **{name: pl.String() for name, dtype in BREAK_SCHEMA.items() if dtype == _MOMENT},
        "transactions": pl.String(),
        "is_found": pl.Int64(),
    }
)

#: One change of a break: when, by whom, from what to what, why, and what was at stake then.
HISTORY_SCHEMA = pl.Schema(
    {
        "break_id": pl.Int64(),
        "number": pl.Int64(),
        "at": _MOMENT,
        "by": pl.String(),
        "from_state": pl.String(),
        "to_state": pl.String(),
        "resolution": pl.String(),
        "why": pl.String(),
        "points_at_risk": pl.Int64(),
        "evidence": pl.String(),
    }
)


class Selection(NamedTuple):
    """Which breaks are meant, all where nothing is said; `start` and `end` are of `order_at`, both inclusive."""

    states: Sequence[State] | None = None
    resolution: Resolution | None = None
    start: datetime | None = None
    end: datetime | None = None
    code: str | None = None
    account_id: str | None = None
    order_id: str | None = None


class Risk(NamedTuple):
    """Points at risk under one key (a code, a day, an account, an age), each order counted once."""

    key: str | None
    breaks: int
    orders: int
    points_at_risk: int


class Counted(NamedTuple):
    """How many breaks are in a state under a code, and the points at risk that they name."""

    state: State
    code: str
    breaks: int
    points_at_risk: int


def listed(
    connection: Connection,
    selection: Selection = Selection(),
    *,
    ids: Sequence[int] | None = None,
    order_ids: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Return breaks (`BREAK_SCHEMA`) by id; with `ids` or `order_ids` only those of them."""
    found = stored(connection, selection, ids=ids, order_ids=order_ids)
    times = [name for name, dtype in BREAK_SCHEMA.items() if dtype == _MOMENT]
    return found.with_columns(
        pl.col(times).str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC"),
        pl.col("transactions").str.json_decode(BREAK_SCHEMA["transactions"]),
        pl.col("is_found") == 1,
    ).sort("id")


def stored(
    connection: Connection,
    selection: Selection = Selection(),
    *,
    ids: Sequence[int] | None = None,
    order_ids: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Return the same as the table has it (`STORED_SCHEMA`), in no order."""
    statement = select(*(_B[name] for name in STORED_SCHEMA)).where(*_conditions(selection))
    if ids is not None:
        return bulk.select_rows(connection, statement, STORED_SCHEMA, key=_B.id, keys=ids)
    return bulk.select_rows(connection, statement, STORED_SCHEMA, key=_B.order_id, keys=order_ids)


def history(connection: Connection, break_id: int) -> pl.DataFrame:
    """Return every change of a break (`HISTORY_SCHEMA`), oldest first."""
    return histories(connection, [break_id])


def histories(connection: Connection, break_ids: Sequence[int]) -> pl.DataFrame:
    """Return every change of some breaks (`HISTORY_SCHEMA`), by break, oldest first."""
    table = BREAK_HISTORY.c
    statement = select(*(table[name] for name in HISTORY_SCHEMA))
    schema = pl.Schema({**HISTORY_SCHEMA, "at": pl.String()})
    found = bulk.select_rows(connection, statement, schema, key=table.break_id, keys=break_ids)
    at = pl.col("at").str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC")
    return found.with_columns(at).sort("break_id", "number")


def counts(connection: Connection) -> list[Counted]:
    """Return how many breaks are not resolved, by state and code."""
    # No sum of int64 is past int64 in halves, whatever the database does about that.
    high, low = func.sum(_B.points_at_risk // 2**32), func.sum(_B.points_at_risk % 2**32)
    statement = select(_B.state, _B.code, func.count(), high, low).where(_B.state.in_(NOT_RESOLVED))
    found = connection.execute(statement.group_by(_B.state, _B.code).order_by(_B.state, _B.code))
    return [Counted(state, code, breaks, int(high) * 2**32 + int(low)) for state, code, breaks, high, low in found]


def oldest_opened_at(connection: Connection) -> str | None:
    """Return since when the break stands that has stood longest (ISO 8601), None where none does."""
    found: str | None = connection.execute(select(func.min(_B.opened_at)).where(_B.state.in_(STANDING))).scalar_one()
    return found


def standing_since(connection: Connection, moment: datetime) -> int:
    """Return how many breaks stand that have since a moment, or for longer."""
    is_older = _B.state.in_(STANDING) & (_B.opened_at <= format_time(moment))
    found: int = connection.execute(select(func.count()).where(is_older)).scalar_one()
    return found


def is_empty(connection: Connection, selection: Selection = Selection()) -> bool:
    """Say whether no break that is known still is among those that are meant."""
    return connection.execute(select(_B.id).where(*_conditions(selection)).limit(1)).first() is None


def changed_since_decided(connection: Connection, selection: Selection = Selection()) -> list[int]:
    """Return the ids of breaks that are found still, but say something else than when somebody resolved them."""
    is_changed = (_B.state == "resolved") & _B.resolution.in_(BY_HAND) & _B.changed_at.is_not(None)
    statement = select(_B.id).where(is_changed, _B.is_found == 1, *_conditions(selection)).order_by(_B.id)
    return list(connection.execute(statement).scalars())


def waiting(connection: Connection, order_id: str | None = None) -> int:
    """Return how many orders wait to be judged again, or whether one does (1)."""
    statement = select(func.count()).select_from(ORDERS_TOUCHED)
    if order_id is not None:
        statement = statement.where(ORDERS_TOUCHED.c.order_id == order_id)
    found: int = connection.execute(statement).scalar_one()
    return found


def withheld(connection: Connection) -> pl.DataFrame:
    """Return the orders that nothing can be said of: `order_id`, `reason`."""
    columns = (ORDERS_WITHHELD.c.order_id, ORDERS_WITHHELD.c.reason)
    statement: Select[Any] = select(*columns).order_by(columns[0])
    return bulk.select_rows(connection, statement, {"order_id": pl.String(), "reason": pl.String()})


def doubts(connection: Connection) -> tuple[int, int]:
    """Return how many orders are withheld, and how many records of the topic of orders cannot be read."""
    tables = (ORDERS_WITHHELD, ORDERS_PARKED)
    held, parked = (connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
    return held, parked


def total(breaks: pl.DataFrame) -> Risk:
    """Return how many points are at risk in all of some breaks (`BREAK_SCHEMA`); its key is null."""
    found = _risks(breaks.with_columns(pl.lit(None, pl.String()).alias("key")))
    return found[0] if found else Risk(None, 0, 0, 0)


def by_code(breaks: pl.DataFrame) -> list[Risk]:
    """Return the points at risk by code, in order; several codes may be about the same points."""
    return _risks(breaks.with_columns(pl.col("code").alias("key")))


def by_account(breaks: pl.DataFrame) -> list[Risk]:
    """Return the points at risk by account, most points first; the key is null where none is known."""
    found = _risks(breaks.with_columns(pl.col("account_id").alias("key")))
    return sorted(found, key=lambda each: (-each.points_at_risk, each.key or ""))


def by_day(breaks: pl.DataFrame, *, of: Literal["order_at", "opened_at"] = "order_at") -> list[Risk]:
    """Return the points at risk by day (UTC, `2026-01-31`), in order: of the order, or of its opening."""
    return _risks(breaks.drop_nulls(of).with_columns(pl.col(of).dt.strftime("%Y-%m-%d").alias("key")))


def by_age(breaks: pl.DataFrame, now: datetime) -> list[Risk]:
    """Return the points at risk of those that stand by how long they have, all of `AGES`, youngest first."""
    standing = breaks.filter(pl.col("state").is_in(STANDING))
    age = pl.lit(now, _MOMENT) - pl.col("opened_at")
    name = pl.lit(AGES[-1][0])
    for label, limit in reversed(AGES[:-1]):
        name = pl.when(age < limit).then(pl.lit(label)).otherwise(name)
    found = {each.key: each for each in _risks(standing.with_columns(name.alias("key")))}
    return [found.get(label, Risk(label, 0, 0, 0)) for label, _ in AGES]


def _risks(keyed: pl.DataFrame) -> list[Risk]:
    """Return the sums by `key`, in order: of each order under it the largest."""
    orders = keyed.group_by("key", "order_id").agg(pl.len().alias("breaks"), pl.col("points_at_risk").max())
    sums = orders.group_by("key").agg(pl.col("breaks").sum(), pl.len(), pl.col("points_at_risk").cast(pl.Int128).sum())
    return [Risk(*row) for row in sums.sort("key").rows()]


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if selection.states is not None:
        conditions.append(_B.state.in_(selection.states))
    if selection.start is not None:
        conditions.append(_B.order_at >= format_time(selection.start))
    if selection.end is not None:
        conditions.append(_B.order_at <= format_time(selection.end))
    wanted = {
        _B.resolution: selection.resolution,
        _B.code: selection.code,
        _B.account_id: selection.account_id,
        _B.order_id: selection.order_id,
    }
    conditions += [column == value for column, value in wanted.items() if value is not None]
    return conditions
