"""Many rows at once into one table: executemany on SQLite, COPY on PostgreSQL.

Other databases get SQLAlchemy's own executemany. All functions work inside the caller's transaction.
"""

from __future__ import annotations

import polars as pl
from sqlalchemy import Connection, Table, insert
from sqlalchemy.dialects import sqlite

__all__ = ["insert_rows", "upsert_rows"]


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
    cursor = connection.connection.cursor()
    with cursor.copy(f"COPY {table_name} ({', '.join(rows.columns)}) FROM STDIN") as copy:
        for row in rows.iter_rows():
            copy.write_row(row)
