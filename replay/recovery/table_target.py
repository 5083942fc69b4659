"""A live table that is written: read as the comparison reads it, and changed by compare-and-set, a batch at a time.

A batch is one transaction of that database. Its rows are read again in it, and locked where the database has such
locks; then each is written only where the columns still hold what was read, and read back before the commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import polars as pl
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    NullPool,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    select,
    type_coerce,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.types import NullType

from ledger.importing import accounts
from replay.comparison.foreign import ForeignTable
from replay.comparison.foreign_errors import named
from replay.comparison.foreign_keys import MYSQL, is_one_of, ordered, told
from replay.comparison.foreign_rows import RowReader
from replay.comparison.live_table import LiveTable
from replay.recovery.table_values import RawValues, Undecoded, is_comparable
from replay.recovery.targets import LiveRow, Values
from schemas import format_time
from schemas.errors import StoreError, UsageError

__all__ = ["TableBatch", "TableTarget", "Write"]

KEYS_PER_QUERY = 1_000
SQLITE_SECONDS_MAX = 60.0
ATTEMPTS_MAX = 3
#: What a trigger raises by itself, and a check of MySQL and MariaDB: of one row, and not of the database.
_RAISED = {"P0001", 1644, 3819, 4025}


class _RowRefusedError(Exception):
    """The table does not take what one row would get; the message says why."""


class _RowError(Exception):
    """A row was refused, and the transaction with it."""


class _UnkeptError(Exception):
    """Rows do not read back as they were written: the reasons by account."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__()
        self.reasons = reasons


class Write(NamedTuple):
    """What becomes of one row, which is as it was read in the same transaction.

    `columns` are the table's own, by their names there; null takes the row away, and without a `row` one is made.
    `values` are what the row must mean after it, null where its columns must just be kept as they are given.
    """

    account_id: str
    row: LiveRow | None
    columns: Mapping[str, Any] | None
    values: Values | None = None


class TableTarget:
    """A table whose rows are corrected; `close` it in the end.

    Raises:
        UsageError: from any call: an unusable URL, no such table, a column that is missing, no right to write.
        StoreError: from any call: the database does not answer now.
    """

    def __init__(self, live: LiveTable) -> None:
        self.live = live
        self._foreign = ForeignTable(live)
        self.where = self._foreign.where
        self._engine = _engine(live.url)
        self._described: _Described | None = None

    @property
    def dialect(self) -> str:
        """The name of the database's dialect."""
        return self._engine.name

    @property
    def raw_values(self) -> RawValues:
        """What makes values of the table's columns."""
        return self._description().raw_values

    def rows(self, account_ids: Sequence[str]) -> dict[str, LiveRow]:
        """Return the rows of some accounts, all columns of them, by account; nothing is locked or written."""
        with self._transaction(is_write=False) as batch:
            return batch.read(account_ids)

    def change(
        self,
        account_ids: Sequence[str],
        decide: Callable[[Mapping[str, LiveRow]], Sequence[Write]],
        *,
        read_back: dict[str, LiveRow] | None = None,
    ) -> dict[str, str]:
        """Change rows in one transaction, and return the accounts whose rows did not take it, and why.

        `decide` is given the rows of the accounts, which are locked, and says what becomes of them; it may be asked
        more than once. What does not read back as it was written is taken back. `read_back` is filled with the rows
        as they were after it.
        """
        after = {} if read_back is None else read_back
        unkept: dict[str, str] = {}
        is_careful, failures = False, 0
        while True:
            try:
                return self._changed(account_ids, decide, unkept, after, is_careful=is_careful)
            except _UnkeptError as error:
                unkept |= error.reasons
            except _RowError:
                is_careful = True
            except StoreError:
                # Two transactions that wait for each other, a connection that was cut: all of it is simply done again.
                failures += 1
                if failures == ATTEMPTS_MAX:
                    raise

    def _changed(
        self,
        account_ids: Sequence[str],
        decide: Callable[[Mapping[str, LiveRow]], Sequence[Write]],
        unkept: Mapping[str, str],
        after: dict[str, LiveRow],
        *,
        is_careful: bool,
    ) -> dict[str, str]:
        with self._transaction(is_write=True) as batch:
            writes = [each for each in decide(batch.read(account_ids)) if each.account_id not in unkept]
            refused = batch.write(writes, is_careful=is_careful)
            done = [each for each in writes if each.account_id not in refused]
            found = batch.read([each.account_id for each in done])
            wrong = {each.account_id: reason for each in done if (reason := _unkept(each, found.get(each.account_id)))}
            if wrong:
                raise _UnkeptError(wrong)
            after |= found
        return {**refused, **unkept}

    def close(self) -> None:
        """Give the connections back."""
        self._foreign.close()
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, is_write: bool) -> Iterator[TableBatch]:
        described = self._description()
        options = {"live_write": is_write}
        with (
            named(self.where),
            self._engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield TableBatch(described, connection, is_write=is_write)

    def _description(self) -> _Described:
        if self._described is None:
            self._described = _Described(self._foreign.described(), self._foreign, self.dialect)
        return self._described


class _Described:
    """A table as it is there, but for the types of its columns: SQLAlchemy would make other values by them.

    Values go to the driver and come from it as they are; only the `key` has its type, for conditions on it.
    """

    def __init__(self, table: Table, foreign: ForeignTable, dialect: str) -> None:
        self.plain = Table(
            table.name, MetaData(), *(Column(each.name, NullType()) for each in table.columns), schema=table.schema
        )
        self.dialect = dialect
        name_of = foreign.mapping.source_name
        self.key_name = name_of("account_id")
        self.key = type_coerce(self.plain.c[self.key_name], table.c[self.key_name].type)
        self.names = [name_of(name) for name in accounts.REQUIRED]
        self.has_lock_times = name_of("locked_at") in table.c
        if self.has_lock_times:
            self.names.append(name_of("locked_at"))
        types = {column.name: column.type for column in table.columns}
        self.raw_values = RawValues(foreign.mapping, types, dialect)
        self.reader = RowReader(foreign.mapping, self.names, has_locked_at=self.has_lock_times, has_mark=False)


class TableBatch:
    """One transaction on the table."""

    def __init__(self, described: _Described, connection: Connection, *, is_write: bool) -> None:
        self._described = described
        self._connection = connection
        self._is_write = is_write

    def read(self, account_ids: Sequence[str]) -> dict[str, LiveRow]:
        """Return the rows of some accounts, by account; in a write they are locked until its end."""
        found: dict[str, LiveRow] = {}
        for start in range(0, len(account_ids), KEYS_PER_QUERY):
            found |= self._read(account_ids[start : start + KEYS_PER_QUERY])
        return found

    def write(self, writes: Sequence[Write], *, is_careful: bool) -> dict[str, str]:
        """Write rows that were read in this transaction; return the accounts whose rows did not take it, and why.

        Those are as they were. PostgreSQL takes nothing more in a transaction that had an error, so there it is begun
        again, each row `is_careful`ly by itself; that would be slow for all.
        """
        refused: dict[str, str] = {}
        is_by_itself = self._described.dialect == "postgresql"
        for each in writes:
            try:
                with self._connection.begin_nested() if is_by_itself and is_careful else nullcontext():
                    self._write(each)
            except _RowRefusedError as error:
                refused[each.account_id] = str(error)
            except DBAPIError as error:
                if not _is_of_row(error):
                    raise
                if is_by_itself and not is_careful:
                    raise _RowError from error
                refused[each.account_id] = f"the table does not take it: {str(error.orig).splitlines()[0]}"
        return refused

    def _read(self, account_ids: Sequence[str]) -> dict[str, LiveRow]:
        described = self._described
        account_id = told(described.key, described.dialect).label("told")
        statement = select(account_id, *described.plain.columns)
        statement = statement.where(is_one_of(described.key, account_ids, described.dialect))
        if self._is_write and described.dialect != "sqlite":
            statement = statement.with_for_update()
        result = self._connection.execute(statement)
        names = [column.name for column in described.plain.columns]
        wanted = set(account_ids)
        # Its own collation may take more rows for these.
        rows = [row for row in result if _text(row[0]) in wanted]
        return _live_rows(described, names, rows)

    def _write(self, each: Write) -> None:
        described = self._described
        plain = described.plain
        if each.row is None:
            try:
                key = described.raw_values.key(each.account_id)
            except UsageError as error:
                raise _RowRefusedError(error.what) from error
            columns = {described.key_name: key} | dict(each.columns or {})
            self._connection.execute(insert(plain).values(_bound(columns)))
            return
        if each.columns is None:
            names: Sequence[str] = list(each.row.raw)
            condition = self._is_still(each.account_id, each.row, names)
            count = self._connection.execute(delete(plain).where(condition)).rowcount
        else:
            condition = self._is_still(each.account_id, each.row, list(each.columns))
            count = self._connection.execute(update(plain).where(condition).values(_bound(each.columns))).rowcount
        if count != 1:
            raise _RowRefusedError(f"{count} rows hold what was read, not one")

    def _is_still(self, account_id: str, row: LiveRow, names: Sequence[str]) -> ColumnElement[bool]:
        """The row's key as it was read, which an index finds, the account itself, and the columns as they were."""
        described = self._described
        exact = ordered(described.key, described.dialect)
        conditions = [exact == (account_id.encode() if described.dialect in MYSQL else account_id)]
        for name in {described.key_name: None, **dict.fromkeys(names)}:
            value = row.raw[name]
            if is_comparable(value, described.dialect):
                column = described.plain.c[name]
                conditions.append(column.is_(None) if value is None else column == _bind(value))
        return and_(*conditions)


def _live_rows(described: _Described, names: Sequence[str], rows: Sequence[Any]) -> dict[str, LiveRow]:
    """Return rows by account, through the very checks of the comparison."""
    if not rows:
        return {}
    places = {name: place for place, name in enumerate(names, start=1)}
    read = [[row[0], *(row[places[name]] for name in described.names[1:])] for row in rows]
    parts = list(described.reader.read([read]))
    typed = {each["line"]: each for part in parts for each in part.rows.iter_rows(named=True)}
    reasons = pl.concat([part.rejects for part in parts]).select("line", "reason")
    problems = dict(reasons.iter_rows())
    found: dict[str, LiveRow] = {}
    for line, row in enumerate(rows, start=1):
        account_id = str(_text(row[0]))
        raw = dict(zip(names, row[1:], strict=True))
        live = _live_row(account_id, raw, typed.get(line), problems.get(line), has_times=described.has_lock_times)
        if account_id in found:
            live = LiveRow(account_id, raw, None, "the table has more than one row of this account")
        found[account_id] = live
    return found


def _live_row(
    account_id: str, raw: dict[str, Any], typed: Mapping[str, Any] | None, problem: str | None, *, has_times: bool
) -> LiveRow:
    if typed is None or typed["is_unread"]:
        return LiveRow(account_id, raw, None, problem or "its values cannot be read")
    locked_at = typed["locked_at"]
    values = {name: typed[name] for name in ("balance", "frozen", "status")}
    if has_times:
        values["locked_at"] = None if locked_at is None else format_time(locked_at)
    return LiveRow(account_id, raw, values)


def _unkept(each: Write, found: LiveRow | None) -> str:
    if each.columns is None:
        return "" if found is None else "its row is still there"
    if found is None:
        return "its row is not there"
    if each.values is None:
        wrong = [name for name, value in each.columns.items() if found.raw[name] != value]
    elif found.values is None:
        return f"the table keeps what cannot be read: {found.problem}"
    else:
        wrong = [name for name, value in each.values.items() if name in found.values and found.values[name] != value]
    return f"the table keeps something else in {', '.join(wrong)} than it is given" if wrong else ""


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _bind(value: Any) -> ColumnElement[Any]:
    return bindparam(None, value, type_=NullType(), unique=True)


def _bound(columns: Mapping[str, Any]) -> dict[str, ColumnElement[Any]]:
    if any(isinstance(value, Undecoded) for value in columns.values()):
        raise _RowRefusedError("a column held text that is no UTF-8, which cannot be written again")
    return {name: _bind(value) for name, value in columns.items()}


def _is_of_row(error: DBAPIError) -> bool:
    """Whether an error is of the values of one row, and not of the database."""
    if error.connection_invalidated:
        return False
    codes = {getattr(error.orig, "sqlstate", None), *getattr(error.orig, "args", ())[:1]}
    return isinstance(error, IntegrityError | DataError) or not codes.isdisjoint(_RAISED)


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_size=2, pool_pre_ping=True)
    place = f"file:{quote(str(Path(parsed.database or '').absolute()))}?mode=rw"
    engine = create_engine("sqlite://", creator=lambda: _file(place), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        is_write = connection.get_execution_options().get("live_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _file(place: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        place, uri=True, timeout=SQLITE_SECONDS_MAX, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = _lenient_text
    return connection


def _lenient_text(data: bytes) -> str | Undecoded:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Undecoded(data)
