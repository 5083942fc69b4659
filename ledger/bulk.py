"""Many rows at once, as frames: executemany into SQLite, COPY into PostgreSQL, the driver's own rows out of both.

All functions work inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import polars as pl
import psycopg
from sqlalchemy import ColumnElement, Connection, Select, Table
from sqlalchemy.exc import DBAPIError

__all__ = ["KEYS_PER_QUERY", "insert_rows", "select_rows", "upsert_rows"]

#: Keys bound in one query: well under the parameters that any of the drivers takes.
KEYS_PER_QUERY = 5_000

ROWS_PER_FETCH = 1_000

#: Rows of one INSERT on SQLite; with the widest table, fewer values than any SQLite takes.
ROWS_PER_STATEMENT = 50


def select_rows(
    connection: Connection,
    statement: Select[Any],
    schema: Mapping[str, pl.DataType],
    *,
    key: ColumnElement[Any] | None = None,
    keys: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Return what a query gives as a frame of a schema, column by column in the query's order.

    With `key` and `keys` only the rows whose key is one of them, asked for in parts.
    """
    if key is None or keys is None:
        return _frame(connection, statement, schema)
    parts = [
        _frame(connection, statement.where(key.in_(keys[start : start + KEYS_PER_QUERY])), schema)
        for start in range(0, len(keys), KEYS_PER_QUERY)
    ]
    return pl.concat([pl.DataFrame(schema=schema), *parts])


def _frame(connection: Connection, statement: Select[Any], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    # The driver's rows, without a Row object each, and in slices that become columns while they are still in
    # the processor's cache and before the garbage collector has walked them: together three times the speed.
    cursor = connection.execute(statement).cursor
    parts = [pl.DataFrame(schema=schema)]
    while found := cursor.fetchmany(ROWS_PER_FETCH):
        columns = zip(schema.items(), zip(*found, strict=True), strict=True)
        parts.append(pl.DataFrame([pl.Series(name, values, dtype) for (name, dtype), values in columns]))
    return pl.concat(parts)


def insert_rows(connection: Connection, table: Table, rows: pl.DataFrame) -> None:
    """Insert a frame whose columns are named as the table's; IntegrityError if a key is there already."""
    if rows.is_empty():
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, table.name, rows)
    else:
        _executemany(connection, f"{_into(table, rows)} VALUES ", "", rows)


def upsert_rows(connection: Connection, table: Table, rows: pl.DataFrame) -> None:
    """Insert a frame, or replace the columns that it has where the primary key is there already."""
    if rows.is_empty():
        return
    if connection.dialect.name == "postgresql":
        stage = f"stage_{table.name}"
        connection.exec_driver_sql(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table.name}) ON COMMIT DROP")
        connection.exec_driver_sql(f"TRUNCATE {stage}")
        _copy(connection, stage, rows)
        names = ", ".join(rows.columns)
        connection.exec_driver_sql(f"{_into(table, rows)} SELECT {names} FROM {stage}{_conflict(table, rows)}")
    else:
        _executemany(connection, f"{_into(table, rows)} VALUES ", _conflict(table, rows), rows)


def _into(table: Table, rows: pl.DataFrame) -> str:
    return f"INSERT INTO {table.name} ({', '.join(rows.columns)})"


def _conflict(table: Table, rows: pl.DataFrame) -> str:
    keys = [column.name for column in table.primary_key]
    updates = ", ".join(f"{name} = excluded.{name}" for name in rows.columns if name not in keys)
    return f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}"


def _executemany(connection: Connection, head: str, tail: str, rows: pl.DataFrame) -> None:
    """Run an INSERT on SQLite, many rows a statement.

    The driver lets go of the interpreter at each statement, and while other threads work it waits to get it back.
    """
    values = f"({', '.join('?' * rows.width)})"
    tuples = rows.rows()
    whole = len(tuples) - len(tuples) % ROWS_PER_STATEMENT
    if whole:
        starts = range(0, whole, ROWS_PER_STATEMENT)
        flat = [tuple(chain.from_iterable(tuples[start : start + ROWS_PER_STATEMENT])) for start in starts]
        connection.exec_driver_sql(head + ", ".join([values] * ROWS_PER_STATEMENT) + tail, flat)
    if tuples[whole:]:
        connection.exec_driver_sql(head + values + tail, tuples[whole:])


def _copy(connection: Connection, table_name: str, rows: pl.DataFrame) -> None:
    statement = f"COPY {table_name} ({', '.join(rows.columns)}) FROM STDIN"
    try:
        with connection.connection.cursor().copy(statement) as copy:
            for row in rows.iter_rows():
                copy.write_row(row)
    except psycopg.Error as error:
        # SQLAlchemy does not see what its own driver is asked directly, so it is told of the error here.
        raise DBAPIError.instance(statement, None, error, psycopg.Error, dialect=connection.dialect) from error
