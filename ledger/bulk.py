"""Many rows at once, as frames: executemany into SQLite, COPY into PostgreSQL, the driver's own rows out of both.

All functions work inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import psycopg
from sqlalchemy import ColumnElement, Connection, Select, Table, insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

__all__ = ["KEYS_PER_QUERY", "insert_rows", "select_rows", "upsert_rows"]

#: Keys bound in one query: well under the parameters that any of the drivers takes.
KEYS_PER_QUERY = 5_000

ROWS_PER_FETCH = 1_000


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
        statement = insert(table).values(dict.fromkeys(rows.columns))
        _executemany(connection, str(statement.compile(dialect=connection.dialect)), rows)


def upsert_rows(connection: Connection, table: Table, rows: pl.DataFrame) -> None:
    """Insert a frame, or replace the columns that it has where the primary key is there already."""
    if rows.is_empty():
        return
    keys = [column.name for column in table.primary_key]
    if connection.dialect.name == "postgresql":
        stage = f"stage_{table.name}"
        connection.exec_driver_sql(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table.name}) ON COMMIT DROP")
        connection.exec_driver_sql(f"TRUNCATE {stage}")
        _copy(connection, stage, rows)
        names = ", ".join(rows.columns)
        updates = ", ".join(f"{name} = excluded.{name}" for name in rows.columns if name not in keys)
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {stage} "
            f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}"
        )
    else:
        statement = sqlite.insert(table).values(dict.fromkeys(rows.columns))
        others = {name: statement.excluded[name] for name in rows.columns if name not in keys}
        upsert = statement.on_conflict_do_update(index_elements=keys, set_=others)
        _executemany(connection, str(upsert.compile(dialect=connection.dialect)), rows)


def _executemany(connection: Connection, sql: str, rows: pl.DataFrame) -> None:
    # The driver's executemany on a list of tuples, since building a dict a row doubles the time.
    connection.exec_driver_sql(sql, rows.rows())


def _copy(connection: Connection, table_name: str, rows: pl.DataFrame) -> None:
    statement = f"COPY {table_name} ({', '.join(rows.columns)}) FROM STDIN"
    try:
        with connection.connection.cursor().copy(statement) as copy:
            for row in rows.iter_rows():
                copy.write_row(row)
    except psycopg.Error as error:
        # SQLAlchemy does not see what its own driver is asked directly, so it is told of the error here.
        raise DBAPIError.instance(statement, None, error, psycopg.Error, dialect=connection.dialect) from error
