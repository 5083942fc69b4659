"""Values as another system's table keeps them: the way back through its mapping, by the types of its columns."""

from __future__ import annotations

from collections.abc import Mapping as Columns
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.types import DateTime, Float, Integer, Numeric, String, TypeEngine

from ledger.importing import Mapping
from ledger.importing.mapping import ACCOUNT_STATUSES
from replay.comparison.foreign_keys import is_whole
from replay.differences import Value
from schemas.errors import UsageError

__all__ = ["COLUMNS", "RawValues", "Undecoded", "is_comparable"]

#: Field of a change to the column of ours that the mapping names.
COLUMNS = {"balance": "balance", "frozen": "frozen_amount", "status": "status", "locked_at": "locked_at"}

_EXACT = (bool, int, str, bytes, Decimal, datetime, date, time, timedelta, UUID)


class Undecoded(bytes):
    """Text of SQLite that is no UTF-8: it can be kept, but not be written again as what it was."""


class RawValues:
    """Makes what is written into a table's columns; `types` are these columns' types, by name."""

    def __init__(self, mapping: Mapping, types: Columns[str, TypeEngine[Any]], dialect: str) -> None:
        self._mapping = mapping
        self._types = types
        self._dialect = dialect
        theirs = {ours: word for word, ours in reversed(mapping.statuses.items()) if ours in ACCOUNT_STATUSES}
        self._statuses = {status: theirs.get(status, status) for status in ACCOUNT_STATUSES}

    def column(self, field: str) -> str:
        """Return the name that the table has for the column of a field."""
        return self._mapping.source_name(COLUMNS[field])

    @property
    def key_column(self) -> str:
        """The name that the table has for the column of the account id."""
        return self._mapping.source_name("account_id")

    def has(self, field: str) -> bool:
        """Whether the table has a column for a field; only that of `locked_at` may be missing."""
        return self.column(field) in self._types

    def key(self, account_id: str) -> Any:
        """Return an account id as its column keeps it; UsageError where it cannot be one there."""
        name = self.key_column
        if not isinstance(self._types[name], Integer):
            return account_id
        if not is_whole(account_id):
            raise UsageError(f"column {name!r} has integers, and {account_id!r} is none")
        return int(account_id)

    def of(self, values: Columns[str, Value]) -> dict[str, Any]:
        """Return columns by their names in the table; a field that the table has no column for is left out."""
        return {self.column(field): self._raw(field, value) for field, value in values.items() if self.has(field)}

    def _raw(self, field: str, value: Value) -> Any:
        kind = self._types[self.column(field)]
        if field == "status":
            return self._statuses.get(str(value), value)
        if field == "locked_at":
            return None if value is None else self._time(datetime.fromisoformat(str(value)), kind)
        return self._points(int(value or 0), kind)

    def _points(self, points: int, kind: TypeEngine[Any]) -> Any:
        scale = self._mapping.amount_scale
        number = Decimal(points).scaleb(-scale) if scale else Decimal(points)
        if isinstance(kind, String) or (scale and self._dialect == "sqlite"):
            # SQLite makes a number of a text where its column is of numbers, as exactly as it can.
            return format(number, "f")
        if scale and not isinstance(kind, Integer):
            return float(number) if isinstance(kind, Float) else number
        return number if isinstance(kind, Numeric) and self._dialect != "sqlite" else _integer(number)

    def _time(self, moment: datetime, kind: TypeEngine[Any]) -> Any:
        if isinstance(kind, String):
            return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        local = moment.astimezone(self._mapping.zone).replace(tzinfo=None)
        if self._dialect == "sqlite":
            return local.isoformat(" ", timespec="microseconds")
        has_zone = isinstance(kind, DateTime) and kind.timezone
        return moment.astimezone(UTC) if has_zone else local


def is_comparable(value: Any, dialect: str) -> bool:
    """Whether a value that was read is found again by comparing with it: floats are only where they are kept whole."""
    if isinstance(value, Undecoded):
        return False
    return value is None or isinstance(value, _EXACT) or (isinstance(value, float) and dialect == "sqlite")


def _integer(number: Decimal) -> int:
    if number != int(number):
        raise UsageError(f"a column of integers cannot keep {number}", next_step="check amount_scale of the mapping")
    return int(number)
