"""The account column of another system's table: as text, in the order of code points, and as a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Enum, LargeBinary, String, Text
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects import mysql
from sqlalchemy.types import CHAR, Integer

__all__ = ["MYSQL", "is_one_of", "is_text", "is_whole", "ordered", "told"]

MYSQL = ("mysql", "mariadb")
_TEXT = mysql.CHAR(charset="utf8mb4")


def told(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return an account id as text."""
    if is_text(column):
        return column
    return sql_cast(column, _TEXT if dialect in MYSQL else Text())


def ordered(column: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return an account id as what orders by code point, and is equal only to itself."""
    if dialect in MYSQL:
        # A binary collation would take trailing spaces for nothing; bytes of UTF-8 are in the order of code points.
        return sql_cast(sql_cast(column, _TEXT), LargeBinary)
    collation = {"postgresql": "C", "sqlite": "BINARY"}.get(dialect)
    text = told(column, dialect)
    return text if collation is None else text.collate(collation)


def is_one_of(column: ColumnElement[Any], wanted: Sequence[str], dialect: str) -> ColumnElement[bool]:
    """Return the condition that an account is one of some, by its index where that is possible.

    A collation of the column's own may let others through as well.
    """
    # By the column itself where that is possible: only so the database can use its index.
    if isinstance(column.type, Integer):
        return column.in_([int(key) for key in wanted if is_whole(key)])
    return (column if is_text(column) else told(column, dialect)).in_(wanted)


def is_whole(key: str) -> bool:
    """Whether a key is how an integer of 64 bits is told; no other key is in a column of these."""
    return key.isascii() and key.removeprefix("-").isdigit() and str(int(key)) == key and abs(int(key)) < 2**63


def is_text(column: ColumnElement[Any]) -> bool:
    """Whether a column is of texts that are compared as they are."""
    return isinstance(column.type, String) and not isinstance(column.type, CHAR | Enum)
