r"""The entries of the audit trail as values and as bytes: what is under the hash of an entry, and how.

    genesis = SHA-256("ledger-replay audit genesis 1\0", ledger_id)
    hash    = SHA-256("ledger-replay audit entry 1\0", number, at, by, action, run, account_id, details, previous)

Every field stands with a mark whether there is one, and with its length before it, so two different entries never
give the same bytes, and no field can lend bytes to its neighbour. Text is UTF-8, exactly as it is stored; a number is
decimal text; `details` is canonical JSON (keys sorted, no blanks). `previous` is the hash of the entry before, of the
first one the genesis: an entry of one ledger fits into no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, LargeBinary, Select, Text, case, cast, func, select

from ledger.recovery_tables import AUDIT, AUDIT_HEAD

__all__ = [
    "COLUMNS",
    "HEAD_ID",
    "Entry",
    "Head",
    "HeadRow",
    "Raw",
    "Recorded",
    "encoded",
    "fetched",
    "genesis",
    "head_row",
    "raw_rows",
]

_GENESIS = b"ledger-replay audit genesis 1\0"
_ENTRY = b"ledger-replay audit entry 1\0"

_LENGTH_BYTES = 8

#: The one row of the head.
HEAD_ID = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recorded: what was done, by whom (a person, or what acted by itself), when (with a zone).

    `details` is what JSON can hold. `run` and `account_id` say what it is about, where it is about one.
    """

    action: str
    by: str
    at: datetime
    run: str | None = None
    account_id: str | None = None
    details: Mapping[str, Any] = {}


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it stands in the trail; `previous` and `hash` in hex."""

    number: int
    at: datetime
    by: str
    action: str
    run: str | None
    account_id: str | None
    details: dict[str, Any]
    previous: str
    hash: str


class Head(NamedTuple):
    """Number and hash (hex) of an entry, which vouch for it and every one before it; of none 0 and the genesis."""

    number: int
    hash: str


class HeadRow(NamedTuple):
    """The row of the head: whether there is one, and what it says, None where the ledger never writes such."""

    is_there: bool
    head: Head | None


class Raw(NamedTuple):
    """A row of the trail as the database has it: text and hashes as bytes, anything of another type as no bytes."""

    number: Any
    at: Any
    by: Any
    action: Any
    run: Any
    account_id: Any
    details: Any
    previous: Any
    hash: Any

    @property
    def misplaced(self) -> str | None:
        """The first column whose value is not of its type, None where all are."""
        for name, value in zip(self._fields, self, strict=True):
            is_right = type(value) is int if name == "number" else type(value) is bytes
            if not is_right and not (value is None and name in _NULLABLE):
                return name
        return None

    def digest(self, *, number: int | None = None, previous: bytes | None = None) -> bytes:
        """Return the hash that the row must have, or would have under another number or behind another entry."""
        number_, previous_ = self.number if number is None else number, self.previous if previous is None else previous
        return hashlib.sha256(encoded(self._replace(number=number_, previous=previous_))).digest()


COLUMNS = Raw._fields
_NULLABLE = ("run", "account_id")


def genesis(ledger_id: str) -> bytes:
    """Return what stands for the entry before the first one of a ledger."""
    return hashlib.sha256(_GENESIS + _field(ledger_id.encode())).digest()


def encoded(row: Raw) -> bytes:
    """Return the bytes that are under the hash of a row, whose columns are all of their types."""
    number = str(row.number).encode()
    return _ENTRY + b"".join([_field(number), *(_field(value) for value in row[1:-1])])


def _field(value: bytes | None) -> bytes:
    return b"\0" if value is None else b"\1" + len(value).to_bytes(_LENGTH_BYTES) + value


def raw_rows(connection: Connection) -> Select[Any]:
    """Return the query of the columns of `Raw`, for `fetched`."""
    return select(*(_raw(connection, AUDIT.c[name]) for name in COLUMNS))


def fetched(connection: Connection, statement: Select[Any]) -> list[Raw]:
    """Return the rows of a query that began as `raw_rows`."""
    # The driver's own rows: what SQLAlchemy makes of values would not survive one of another type.
    cursor = connection.execute(statement, execution_options={"ledger_binary": True}).cursor
    return [Raw(*row) for row in cursor.fetchall()]


def head_row(connection: Connection, *, for_update: bool = False) -> HeadRow:
    """Return what the row of the head says; `for_update` keeps it from others for the rest of the transaction."""
    statement = select(AUDIT_HEAD.c.number, AUDIT_HEAD.c.hash).where(AUDIT_HEAD.c.id == HEAD_ID)
    if for_update:
        statement = statement.with_for_update()
    row = connection.execute(statement, execution_options={"ledger_binary": True}).cursor.fetchone()
    if row is None:
        return HeadRow(is_there=False, head=None)
    number, digest = row
    is_right = type(number) is int and number >= 0 and type(digest) is bytes
    return HeadRow(is_there=True, head=Head(number, digest.hex()) if is_right else None)


def _raw(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column as its bytes where it is text: decoding would take one damaged text for another."""
    if not isinstance(column.type, Text):
        return column
    if connection.dialect.name == "postgresql":
        return func.convert_to(column, "UTF8")
    type_ = func.typeof(column)
    # Of a value that is no text only the type is told: a str, which stands for what is wrong.
    return case((type_ == "text", cast(column, LargeBinary)), (column.is_not(None), type_))
