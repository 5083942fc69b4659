"""Many rows at once, as frames: executemany into SQLite, COPY into PostgreSQL, the driver's own rows out of both.

All functions work inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import polars as pl
import psycopg
from sqlalchemy import ARRAY, ColumnElement, Connection, Select, Table, Text, any_, bindparam, func, select
from sqlalchemy.exc import DBAPIError

from schemas.errors import RefusedError

__all__ = ["KEYS_PER_QUERY", "Prepared", "insert_rows", "misplaced", "prepared", "select_rows", "upsert_rows"]

#: Keys bound in one query: well under the parameters that any of the drivers takes.
KEYS_PER_QUERY = 5_000

ROWS_PER_FETCH = 1_000

#: Rows of one INSERT on SQLite, where it takes that many values; an old one takes only 999.
ROWS_PER_STATEMENT = 400 if sqlite3.sqlite_version_info >= (3, 32) else 50


def select_rows(
    connection: Connection,
    statement: Select[Any],
    schema: Mapping[str, pl.DataType],
    *,
    key: ColumnElement[Any] | None = None,
    keys: Sequence[str] | Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return what a query gives as a frame of a schema, column by column in the query's order.

    RefusedError names the row where SQLite has a value of another type, which somebody wrote by hand.

    With `key` and `keys` only the rows whose key is one of them, asked for in parts.
    """
    if key is None or keys is None:
        return _frame(connection, statement, schema)
    narrowed = statement.where(_is_wanted(connection, key))
    parts = [
        _frame(connection, narrowed, schema, {"wanted": _wanted(connection, keys[start : start + KEYS_PER_QUERY])})
        for start in range(0, len(keys), KEYS_PER_QUERY)
    ]
    return pl.concat([pl.DataFrame(schema=schema), *parts])


def _is_wanted(connection: Connection, key: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that a key is one of those in one parameter.

    SQLAlchemy takes longer over thousands of parameters than the database over the rows.
    """
    if connection.dialect.name == "postgresql":
        return key == any_(bindparam("wanted", type_=ARRAY(key.type)))
    values = func.json_each(bindparam("wanted", type_=Text())).table_valued("value").alias("wanted_keys")
    return key.in_(select(values.c.value))


def _wanted(connection: Connection, keys: Sequence[str] | Sequence[int]) -> Any:
    return list(keys) if connection.dialect.name == "postgresql" else msgspec.json.encode(keys).decode()


def _frame(
    connection: Connection,
    statement: Select[Any],
    schema: Mapping[str, pl.DataType],
    parameters: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    # The driver's rows, without a Row object each, and in slices that become columns while they are still in
    # the processor's cache and before the garbage collector has walked them: together three times the speed.
    cursor = connection.execute(statement, parameters, execution_options={"ledger_binary": True}).cursor
    parts = [pl.DataFrame(schema=schema)]
    while found := cursor.fetchmany(ROWS_PER_FETCH):
        columns = zip(schema.items(), zip(*found, strict=True), strict=True)
        try:
            parts.append(pl.DataFrame([pl.Series(name, values, dtype) for (name, dtype), values in columns]))
        except TypeError as error:
            raise _first_misplaced(found, schema) from error
    return pl.concat(parts)


def _first_misplaced(found: Sequence[Sequence[Any]], schema: Mapping[str, pl.DataType]) -> RefusedError:
    for row in found:
        for (name, dtype), value in zip(schema.items(), row, strict=True):
            try:
                pl.Series(name, [value], dtype)
            except TypeError:
                return misplaced(row[0], name, value)
    return RefusedError("a column has values of several types", next_step="check the rows of this table")


def misplaced(key: object, column: str, value: object) -> RefusedError:
    """Return what to say of a value that is not of its column's type."""
    return RefusedError(
        f"column {column!r} has a value that the ledger never writes: {value!r}",
        where=f"the row of {key!r}",
        next_step="somebody wrote it by hand: `drift --own` names every such row of the read model, and "
        "`rebuild --promote` makes the rows anew",
    )


class Prepared(NamedTuple):
    """A frame as the drivers take it: `many` are the values of `ROWS_PER_STATEMENT` rows each, `rest` one row each."""

    frame: pl.DataFrame
    many: list[tuple[Any, ...]]
    rest: list[tuple[Any, ...]]


def prepared(rows: pl.DataFrame) -> Prepared:
    """Return a frame ready to be inserted, so that another thread than the one that inserts can do this part."""
    tuples = rows.rows()
    whole = len(tuples) - len(tuples) % ROWS_PER_STATEMENT
    starts = range(0, whole, ROWS_PER_STATEMENT)
    many = [tuple(chain.from_iterable(tuples[start : start + ROWS_PER_STATEMENT])) for start in starts]
    return Prepared(rows, many, tuples[whole:])


def insert_rows(connection: Connection, table: Table, rows: pl.DataFrame | Prepared) -> None:
    """Insert a frame whose columns are named as the table's; IntegrityError if a key is there already."""
    frame = rows if isinstance(rows, pl.DataFrame) else rows.frame
    if frame.is_empty():
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, table.name, frame)
    else:
        _executemany(connection, f"{_into(table, frame)} VALUES ", "", rows)


def upsert_rows(connection: Connection, table: Table, rows: pl.DataFrame | Prepared) -> None:
    """Insert a frame, or replace the columns that it has where the primary key is there already."""
    frame = rows if isinstance(rows, pl.DataFrame) else rows.frame
    if frame.is_empty():
        return
    if connection.dialect.name == "postgresql":
        stage = f"stage_{table.name}"
        connection.exec_driver_sql(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table.name}) ON COMMIT DROP")
        connection.exec_driver_sql(f"TRUNCATE {stage}")
        _copy(connection, stage, frame)
        names = ", ".join(frame.columns)
        connection.exec_driver_sql(f"{_into(table, frame)} SELECT {names} FROM {stage}{_conflict(table, frame)}")
    else:
        _executemany(connection, f"{_into(table, frame)} VALUES ", _conflict(table, frame), rows)


def _into(table: Table, rows: pl.DataFrame) -> str:
    return f"INSERT INTO {table.name} ({', '.join(rows.columns)})"


def _conflict(table: Table, rows: pl.DataFrame) -> str:
    keys = [column.name for column in table.primary_key]
    updates = ", ".join(f"{name} = excluded.{name}" for name in rows.columns if name not in keys)
    return f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}"


def _executemany(connection: Connection, head: str, tail: str, rows: pl.DataFrame | Prepared) -> None:
    """Run an INSERT on SQLite, many rows a statement.

    The driver lets go of the interpreter at each statement, and while other threads work it waits to get it back.
    """
    ready = prepared(rows) if isinstance(rows, pl.DataFrame) else rows
    values = f"({', '.join('?' * ready.frame.width)})"
    if ready.many:
        connection.exec_driver_sql(head + ", ".join([values] * ROWS_PER_STATEMENT) + tail, ready.many)
    if ready.rest:
        connection.exec_driver_sql(head + values + tail, ready.rest)


def _copy(connection: Connection, table_name: str, rows: pl.DataFrame) -> None:
    statement = f"COPY {table_name} ({', '.join(rows.columns)}) FROM STDIN"
    try:
        with connection.connection.cursor().copy(statement) as copy:
            for row in rows.iter_rows():
                copy.write_row(row)
    except psycopg.Error as error:
        # SQLAlchemy does not see what its own driver is asked directly, so it is told of the error here.
        raise DBAPIError.instance(statement, None, error, psycopg.Error, dialect=connection.dialect) from error
