"""Rows of another database: a table or a query, by SQLAlchemy URL, read in one snapshot and never written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Engine, Select, TextClause, create_engine, literal_column, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.sql.expression import table as named_table

from ledger.importing.batches import LINE, Batch, bad_rows
from ledger.importing.sources import BATCH_ROWS, as_text, column_name
from schemas.errors import UsageError

__all__ = ["TableSource", "text_batch"]

#: Where one statement after the other would not see the same moment, the connection is asked for it.
_SNAPSHOT = {"postgresql": "REPEATABLE READ", "mysql": "REPEATABLE READ", "mariadb": "REPEATABLE READ"}


class TableSource:
    """A table (`schema.name` or `name`) or a query of any database that SQLAlchemy speaks to.

    `line` is the row's number.

    Raises:
        UsageError: not exactly one of `table` and `query`, an unusable URL, or a database that says no.
    """

    has_header = True

    def __init__(self, url: str | URL, *, table: str | None = None, query: str | None = None) -> None:
        if (table is None) == (query is None):
            raise UsageError("a database source needs a table or a query, and only one of them")
        try:
            self.url = make_url(url)
        except ArgumentError as error:
            raise UsageError("not a database URL", next_step="write it as SQLAlchemy does") from error
        self.table, self.query = table, query
        self.where = f"{self.url.render_as_string(hide_password=True)}, {table or 'query'}"

    def batches(self, *, delimiter: str = ",") -> Iterator[Batch]:
        """Yield the rows in the order in which the database gives them; the first batch may be empty."""
        del delimiter
        engine = self._engine()
        try:
            yield from self._rows(engine)
        except SQLAlchemyError as error:
            reason = (str(getattr(error, "orig", None) or error).splitlines() or ["no reason given"])[0]
            raise UsageError(f"the database says: {reason}", where=self.where, next_step="check the table") from error
        finally:
            engine.dispose()

    def _engine(self) -> Engine:
        is_sqlite = self.url.get_backend_name() == "sqlite"
        if is_sqlite and not Path(self.url.database or "").is_file():
            # SQLite would make an empty database of that name.
            raise UsageError("there is no such SQLite file", where=self.where)
        try:
            return create_engine(self.url)
        except (ImportError, NoSuchModuleError) as error:
            raise UsageError(
                f"no driver for {self.url.drivername}: {error}", where=self.where, next_step="install its package"
            ) from error

    def _statement(self) -> Select[Any] | TextClause:
        if self.query is not None:
            return text(self.query)
        schema, _, name = str(self.table).rpartition(".")
        return select(literal_column("*")).select_from(named_table(name, schema=schema or None))

    def _rows(self, engine: Engine) -> Iterator[Batch]:
        options: dict[str, Any] = {"stream_results": True, "yield_per": BATCH_ROWS}
        if engine.name in _SNAPSHOT:
            options["isolation_level"] = _SNAPSHOT[engine.name]
        with engine.connect().execution_options(**options) as connection:
            result = connection.execute(self._statement())
            names = [column_name(name) for name in list(result.keys())]
            yield text_batch(names, [], 0)
            before = 0
            for rows in result.partitions(BATCH_ROWS):
                yield text_batch(names, rows, before)
                before += len(rows)
            # Nothing was written; what a query of the user's may have done is taken back.
            connection.rollback()


def text_batch(names: list[str], rows: Sequence[Any], before: int) -> Batch:
    """Return rows as their driver gives them as a batch of texts; `before` is how many rows were before them."""
    values = list(zip(*rows, strict=True)) or [()] * len(names)
    lines = pl.Series(LINE, range(before + 1, before + len(rows) + 1), dtype=pl.Int64)
    columns = [
        pl.Series(name, [_text(value) for value in column], dtype=pl.String)
        for name, column in zip(names, values, strict=True)
    ]
    return Batch(pl.DataFrame([lines, *columns]), bad_rows([]))


def _text(value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    if isinstance(value, datetime | time) or hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, Decimal):
        # An integer column of some databases is a decimal without places to its driver.
        return format(value, "f")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return as_text(value)
