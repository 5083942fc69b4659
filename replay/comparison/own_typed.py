"""Rows of the read model as the database keeps them, and as frames take them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl

from ledger.read_model import ROW_SCHEMA
from replay.comparison.own_rows import Stored
from schemas import format_time

__all__ = ["stored", "typed", "untyped"]

_COLUMNS = tuple(name for name in ROW_SCHEMA if name != "account_id")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
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
