"""Rows of the read model as the database keeps them, and as frames take them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
from sqlalchemy import Connection, select

from ledger import bulk, read_model
from ledger.read_model import ROW_SCHEMA
from replay.comparison.own_rows import Stored, as_it_is
from replay.differences import Drifted, Value
from schemas import format_time

__all__ = ["is_strange", "sorted_out", "stored", "strange", "typed", "untyped"]

_COLUMNS = tuple(name for name in ROW_SCHEMA if name != "account_id")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
#: Rows that become columns at once.
ROWS_AT_ONCE = 50_000

_TIMES = frozenset({"locked_at", "last_effective_at"})


def typed(side: Stored) -> Stored:
    """Return a row with times as times; None for each value that is not of its column's type."""
    return tuple(_one_typed(name, value) for name, value in zip(_COLUMNS, side, strict=True))


def _one_typed(name: str, value: Any) -> Any:
    if name in _TIMES and isinstance(value, str):
        try:
            return datetime.strptime(value, _TIME_FORMAT).replace(tzinfo=UTC)
        except ValueError:
            return None
    return value if isinstance(value, _PYTHON_TYPES[name]) else None


_PYTHON_TYPES: dict[str, type] = {
    name: {pl.Int64(): int, pl.String(): str, pl.Binary(): bytes}.get(dtype, datetime)
    for name, dtype in ROW_SCHEMA.items()
}


def untyped(side: Stored) -> Stored:
    """Return a typed row as the database keeps it."""
    return tuple(format_time(value) if isinstance(value, datetime) else value for value in side)


def stored(rows: pl.DataFrame) -> dict[str, Stored]:
    """Return typed rows (`ROW_SCHEMA`) as the database keeps them, by account."""
    return {account_id: untyped(tuple(rest)) for account_id, *rest in rows.select(ROW_SCHEMA.names()).iter_rows()}


def is_strange(side: Stored) -> bool:
    """Return whether a row has a value that no writer of ours writes."""
    return untyped(typed(side)) != side


def strange(account_id: str, live: Stored | None, other: Stored | None, cause: str) -> list[Drifted]:
    """Return the differences of two rows of an account, one of which is strange."""
    nothing = (None,) * len(_COLUMNS)
    return [
        Drifted(
            account_id=account_id,
            field=name,
            live=_value(mine),
            replayed=_value(its),
            difference=mine - its if isinstance(mine, int) and isinstance(its, int) else None,
            cause=cause,
            first_event=None,
            evidence=f"a value that the ledger never writes: {name}",
        )
        for name, mine, its in zip(_COLUMNS, live or nothing, other or nothing, strict=True)
        if mine != its
    ]


def _value(value: Any) -> Value:
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, int) else str(value)


def sorted_out(connection: Connection, generation: int) -> tuple[pl.DataFrame, dict[str, Stored]]:
    """Return the rows of a generation that are not strange (`ROW_SCHEMA`), in no order, and those that are, by account.

    RefusedError where the name of an account is no text.
    """
    table = read_model.table_of(generation)
    statement = select(*(as_it_is(table.c[name]) for name in ROW_SCHEMA)).where(table.c.generation == generation)
    parts, others = [ROW_SCHEMA.to_frame()], {}
    for rows in connection.execute(statement).partitions(ROWS_AT_ONCE):
        plain = []
        for account_id, *values in rows:
            side = tuple(values)
            if not isinstance(account_id, str):
                raise bulk.misplaced(account_id, "account_id", account_id)
            if is_strange(side):
                others[account_id] = side
            else:
                plain.append((account_id, *typed(side)))
        parts.append(pl.DataFrame(plain, schema=ROW_SCHEMA, orient="row"))
    return pl.concat(parts), others
