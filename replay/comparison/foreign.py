"""A live table of another database: read and never written, one consistent snapshot at a time, in order of code points.

Whatever the collation of the account column, rows come ordered by the code points of the ids, as the ledger's own
tables are ordered; the order is checked as they come, so a database that orders in another way is an error and never a
wrong merge.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    NullPool,
    Table,
    create_engine,
    inspect,
    or_,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, NoSuchTableError

from ledger.importing import accounts
from ledger.importing.sources import require_columns
from replay.comparison.foreign_errors import named
from replay.comparison.foreign_keys import MYSQL, is_one_of, ordered, told
from replay.comparison.foreign_rows import LIVE_SCHEMA, LiveRows, RowReader, without_repeats
from replay.comparison.live_table import LiveTable
from replay.comparison.streaming import streamed
from schemas.errors import ConfigurationError, StoreError, UsageError

__all__ = ["ForeignSnapshot", "ForeignTable"]

#: Rows that become columns at once, while they are still in the processor's cache.
ROWS_PER_FETCH = 2_000
KEYS_PER_QUERY = 1_000
CONNECTIONS_KEPT = 3
#: How long a file that another process writes is waited for.
SQLITE_SECONDS_MAX = 60.0


class ForeignTable:
    """The live table of another system; `close` it in the end.

    `was_read` is set by whoever read it and can wait: a table that is gone since, or has other columns or rights, may
    be one that is being changed, and is a StoreError from then on.

    Raises:
        UsageError: from any call: an unusable URL, no such table, a column that is missing, whatever else the
            database will say again until somebody mends it.
        StoreError: from any call: the database does not answer now.
    """

    def __init__(self, live: LiveTable) -> None:
        live.check()
        try:
            url = make_url(live.url)
        except ArgumentError as error:
            raise ConfigurationError(
                "[live] url is no database URL", next_step="write it as SQLAlchemy does"
            ) from error
        self.live = live
        self.mapping = live.mapping()
        self.where = f"{url.render_as_string(hide_password=True)}, {live.table}"
        self._engine = _engine(url, self.where)
        self._table: Table | None = None
        self.was_read = False

    def open(self) -> ForeignSnapshot:
        """Begin a snapshot; the caller closes it."""
        with named(self.where, was_read=self.was_read):
            connection = _snapshot(self._engine)
            try:
                if self._table is None:
                    self._table = self._described(connection)
                return ForeignSnapshot(self, connection, self._table)
            except BaseException as error:
                connection.close()
                if self.was_read and isinstance(error, UsageError):
                    raise StoreError(error.what, where=error.where, next_step=error.next_step) from error
                raise

    def described(self) -> Table:
        """Return the table with its columns as they are there."""
        with closing(self.open()) as snapshot:
            return snapshot.table

    def close(self) -> None:
        """Give the connections back that are kept between snapshots; the next snapshot makes new ones.

        It looks anew which columns there are, since they may be what has changed.
        """
        self._table = None
        self._engine.dispose()

    @property
    def blocks_writers(self) -> bool:
        """Whether an open snapshot keeps others from writing, so that it must be short: SQLite without a WAL."""
        if self._engine.name != "sqlite":
            return False
        with named(self.where, was_read=self.was_read), self._engine.connect() as connection:
            return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar()).lower() != "wal"

    def _described(self, connection: Connection) -> Table:
        """Return the table with its columns as they are there."""
        schema, _, name = self.live.table.rpartition(".")
        try:
            found = inspect(connection).get_columns(name, schema=schema or None)
        except NoSuchTableError as error:
            raise UsageError("there is no such table", where=self.where, next_step="check [live] table") from error
        names = [column["name"] for column in found]
        next_step = "map its name under [live.columns]"
        require_columns(names, accounts.REQUIRED, accounts.OPTIONAL, self.mapping, self.where, next_step=next_step)
        mark = self.live.mark
        if mark is not None and mark.column is not None and mark.column not in names:
            raise UsageError(f"column {mark.column!r} of [live.mark] is missing", where=self.where)
        columns = [Column(each["name"], each["type"], nullable=each.get("nullable", True)) for each in found]
        return Table(name, MetaData(), *columns, schema=schema or None)


class ForeignSnapshot:
    """One moment of the table, whose columns `table` has as they are there.

    `mark` is what the query of a table mark gave in it, null without one; `has_locked_at` says whether rows have that.
    """

    def __init__(self, foreign: ForeignTable, connection: Connection, table: Table) -> None:
        self.where = foreign.where
        self._foreign = foreign
        self._connection = connection
        self.table = table
        self._thread_id = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar() if self._is_mysql else None
        self._driver: Any = connection.connection.driver_connection
        self._stream: Generator[Sequence[Any], None, None] | None = None
        mapping, mark = foreign.mapping, foreign.live.mark
        name_of = mapping.source_name
        self._key = table.c[name_of("account_id")]
        told_key = told(self._key, connection.dialect.name)
        columns = [told_key, *(table.c[name_of(name)] for name in accounts.REQUIRED[1:])]
        names = [name_of(name) for name in accounts.REQUIRED]
        self.has_locked_at = name_of("locked_at") in table.c
        if self.has_locked_at:
            names.append(name_of("locked_at"))
            columns.append(table.c[names[-1]])
        has_mark = mark is not None and mark.column is not None
        if mark is not None and mark.column is not None:
            names.append("mark of the row")
            columns.append(table.c[mark.column])
        self._columns = [column.label(f"c{place}") for place, column in enumerate(columns)]
        self._reader = RowReader(mapping, names, has_locked_at=self.has_locked_at, has_mark=has_mark)
        self.mark = None if mark is None or mark.query is None else self._mark(mark.query)
        if connection.dialect.name == "sqlite":
            # Text that is no UTF-8 is for the checks to name, and one such must not end the whole read.
            connection.connection.driver_connection.text_factory = bytes  # type: ignore[union-attr]

    def batches(self, after: str | None = None) -> Iterator[LiveRows]:
        """Yield all rows after a key, in order; one read at a time, and nothing else of the snapshot meanwhile."""
        by_code_point = ordered(self._key, self._connection.dialect.name)
        statement = select(*self._columns).order_by(by_code_point)
        if after is not None:
            beyond = by_code_point > (after.encode() if self._is_mysql else after)
            # Rows of no account are rejects of every round, also of one that goes on.
            statement = statement.where(or_(beyond, self._key.is_(None)) if self._key.nullable else beyond)
        last = after
        with named(self.where, was_read=self._foreign.was_read):
            self._stream = streamed(self._connection, statement, ROWS_PER_FETCH)
            for read in self._reader.read(self._stream):
                last = self._check_order(read.rows["account_id"], last)
                yield read
            self._stream = None

    def of_accounts(self, account_ids: Sequence[str]) -> LiveRows:
        """Return the rows of some accounts, one an account, in order."""
        parts, rejects = [pl.DataFrame(schema=LIVE_SCHEMA)], []
        with named(self.where, was_read=self._foreign.was_read):
            for start in range(0, len(account_ids), KEYS_PER_QUERY):
                wanted = account_ids[start : start + KEYS_PER_QUERY]
                statement = select(*self._columns).where(is_one_of(self._key, wanted, self._connection.dialect.name))
                for read in self._reader.read(streamed(self._connection, statement, ROWS_PER_FETCH)):
                    # Its own collation may take more rows for these.
                    parts.append(read.rows.filter(pl.col("account_id").is_in(wanted)))
                    rejects.append(read.rejects)
        single = without_repeats(pl.concat(parts).sort("account_id"))
        return LiveRows(single.rows, pl.concat([single.rejects, *rejects]))

    def close(self) -> None:
        """End the snapshot, whether the database answers or not; nothing was written."""
        try:
            if self._stream is not None:
                if self._is_mysql:
                    self._interrupt()
                self._stream.close()
            self._connection.close()
        except Exception:  # noqa: BLE001 - the driver's, the library's or the system's: it does not answer any more.
            unread = getattr(self._driver, "_result", None) if self._is_mysql else None
            if unread is not None:
                # When it is collected, PyMySQL would wait for the rest of what was asked, on a connection that is gone.
                unread.unbuffered_active = False
            self._connection.invalidate()
            self._connection.close()

    def _interrupt(self) -> None:
        """End a query that is not read to its end: the driver would first read all that is left."""
        with self._connection.engine.connect() as other:
            other.exec_driver_sql(f"KILL QUERY {self._thread_id}")
        # What is under way already, and then that it was interrupted.
        with suppress(DBAPIError):
            for _ in self._stream or ():
                pass

    @property
    def _is_mysql(self) -> bool:
        return self._connection.dialect.name in MYSQL

    def _check_order(self, ids: pl.Series, last: str | None) -> str | None:
        if ids.is_empty():
            return last
        first = ids[0]
        if (last is not None and first < last) or not ids.is_sorted():
            raise UsageError(
                "the database does not give accounts in order of code points",
                where=self.where,
                next_step="give the account column a binary collation, and tell us of this database",
            )
        return str(ids[-1])

    def _mark(self, query: str) -> str | None:
        row = self._connection.execute(text(query)).first()
        return None if row is None or row[0] is None else str(row[0])


def _engine(url: URL, where: str) -> Engine:
    try:
        if url.get_backend_name() != "sqlite":
            # A round has one, and a look another beside it; a new one each time would take longer than a look.
            return create_engine(url, pool_size=CONNECTIONS_KEPT, pool_pre_ping=True)
        path = Path(url.database or "")
        if not path.is_file():
            # SQLite would make an empty database of that name.
            raise UsageError("there is no such SQLite file", where=where)
        place = f"file:{quote(str(path.absolute()))}?mode=ro"
        return create_engine("sqlite://", creator=lambda: _read_only_file(place), poolclass=NullPool)
    except (ImportError, NoSuchModuleError) as error:
        raise UsageError(
            f"no driver for {url.drivername}: {error}", where=where, next_step="install its package"
        ) from error


def _read_only_file(place: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        place, uri=True, timeout=SQLITE_SECONDS_MAX, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def _snapshot(engine: Engine) -> Connection:
    """Return a connection that is in a transaction which sees one moment, that of this call, and cannot write."""
    connection = engine.connect()
    try:
        if engine.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # The moment is that of the first statement.
            connection.exec_driver_sql("SELECT 1").fetchall()
        elif engine.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
            # The moment is that of the first read.
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        elif engine.name in MYSQL:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        # Of other databases nothing is known; one statement sees one moment in most, and everything is rolled back.
    except BaseException:
        connection.close()
        raise
    return connection
