"""The event store of one ledger: a database, its append lock, its hash chain and its heads.

Every append, by the library or in bulk, happens under the append lock and moves the heads of its accounts in
the same transaction, so position order is commit order and a lost tail or a lost account is seen by replay.
The chain is that of `schemas.chain`.
"""

from __future__ import annotations

import copy
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import psycopg
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Engine,
    Select,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.types import BigInteger, LargeBinary, Text

from ledger import bulk, order_tables  # noqa: F401 - its tables are made with the others.
from ledger.fence import RUN_OPTION, lock_appends
from ledger.tables import EVENTS, HEADS, IDENTITY, LIVE_VIEW, METADATA
from schemas import RAW_SCHEMA, format_time
from schemas.chain import GENESIS, chain, chains
from schemas.errors import ConfigurationError, StoreError, UsageError

__all__ = ["GENESIS", "AppendReady", "Store", "append_ready", "chain", "chains"]

BATCH_EVENTS = 50_000
ACCOUNTS_PER_QUERY = 500


class Store:
    """One ledger's database: SQLite or PostgreSQL by SQLAlchemy URL.

    Tables that are missing are made. Without `create`, only in what is a ledger already: UsageError where there is
    none, since a database of somebody else must not become one by a question. StoreError if it cannot be opened.
    """

    def __init__(self, url: str | URL, *, create: bool = True) -> None:
        self.url = _normalise(url)
        if not create:
            self._refuse_no_file()
        self.engine = _engine(self.url)
        with _named(self.url):
            # Looking first: making tables takes the write lock, which a reader must not wait for.
            tables = self._tables()
            if not create and IDENTITY.name not in tables:
                raise self._no_ledger()
            # A ledger that an earlier version made has only the tables of its time.
            if not tables >= {table.name for table in METADATA.sorted_tables}:
                with self._creating() as connection:
                    _create_tables(connection)
            with self.snapshot() as connection:
                self.ledger_id: str = connection.execute(select(IDENTITY.c.ledger_id)).scalar_one()

    @classmethod
    def at(cls, folder: Path | str, *, create: bool = True) -> Store:
        """Return the embedded default, the SQLite file `ledger.db` in a folder; both are made with `create`."""
        if create:
            Path(folder).mkdir(parents=True, exist_ok=True)
        return cls(URL.create("sqlite", database=str(Path(folder) / "ledger.db")), create=create)

    def for_run(self, run: str) -> Store:
        """Return this store for a recovery run, which the fence lets through where it is the run's own.

        It shares the connections: closing either closes both. One transaction is one store's, so whoever makes commands
        and runs within one transaction makes both of the same `for_run`.
        """
        own = copy.copy(self)
        own.engine = self.engine.execution_options(**{RUN_OPTION: run})
        return own

    def close(self) -> None:
        """Give the connections back to the database."""
        self.engine.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection whose every read sees one moment of the database."""
        options = {"isolation_level": "REPEATABLE READ"} if self.engine.name == "postgresql" else {}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a write transaction, committed at the end, rolled back on an error."""
        with self.engine.connect().execution_options(ledger_write=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def appending(self) -> Iterator[Connection]:
        """Yield a connection in a write transaction that holds the append lock: nobody else appends.

        LedgerFenced while a recovery lets nobody append but its own run (`for_run`).
        """
        with self.writing() as connection:
            lock_appends(connection)
            yield connection

    def _tables(self) -> set[str]:
        with self.snapshot() as connection:
            return set(inspect(connection).get_table_names())

    def _refuse_no_file(self) -> None:
        # SQLite would make an empty file just by looking.
        if self.url.get_backend_name() == "sqlite" and not Path(self.url.database or "").exists():
            raise self._no_ledger()

    def _no_ledger(self) -> UsageError:
        return UsageError(
            "there is no ledger",
            where=self.url.render_as_string(hide_password=True),
            next_step="check --data or --store, or import something first",
        )

    @contextmanager
    def _creating(self) -> Iterator[Connection]:
        """Yield a write transaction for making the tables, before there is a table to lock."""
        if self.is_sqlite:
            with self.engine.connect() as connection:
                # Kept by the file: readers and the one writer do not wait for each other.
                connection.connection.cursor().execute("PRAGMA journal_mode = WAL")
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                # Two processes that open a new ledger at once would both find no tables.
                connection.execute(text("SELECT pg_advisory_xact_lock(5417163210)"))
            yield connection

    def head(self, connection: Connection) -> int:
        """Return the position of the newest event, 0 where there is none."""
        return int(connection.execute(select(func.coalesce(func.max(EVENTS.c.id), 0))).scalar_one())

    def heads(self, connection: Connection, account_ids: Sequence[str] | None = None) -> pl.DataFrame:
        """Return all heads or those of some accounts: `account_id`, `version`, `chain` as in `RAW_SCHEMA`."""
        schema = {name: RAW_SCHEMA[name] for name in ("account_id", "version", "chain")}
        head = (HEADS.c.version.cast(BigInteger), HEADS.c.chain.cast(LargeBinary))
        statement = select(HEADS.c.account_id.cast(Text), *head)
        return bulk.select_rows(connection, statement, schema, key=HEADS.c.account_id, keys=account_ids)

    def read(
        self, connection: Connection, *, after: int = 0, until: int | None = None, batch_events: int = BATCH_EVENTS
    ) -> Iterator[pl.DataFrame]:
        """Yield events in position order as raw batches (`RAW_SCHEMA`), after (exclusive) until (inclusive)."""
        statement = _raw_select().order_by(EVENTS.c.id).limit(batch_events)
        if until is not None:
            statement = statement.where(EVENTS.c.id <= until)
        while True:
            batch = bulk.select_rows(connection, statement.where(EVENTS.c.id > after), RAW_SCHEMA)
            if batch.is_empty():
                return
            yield batch
            after = batch["position"][-1]

    @property
    def is_sqlite(self) -> bool:
        """Whether the store is an SQLite file, which other processes can read by its path."""
        return self.engine.name == "sqlite"

    def range_sql(self, *, after: int, until: int) -> str:
        """Return the query of `read` for one range of positions, complete, for a reader of its own."""
        statement = _raw_select().where(EVENTS.c.id > after, EVENTS.c.id <= until).order_by(EVENTS.c.id)
        return str(statement.compile(self.engine, compile_kwargs={"literal_binds": True}))

    def read_accounts(
        self, connection: Connection, account_ids: Sequence[str], *, after: int = 0, until: int | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the events of some accounts as raw batches, by the index on (account, version)."""
        for start in range(0, len(account_ids), ACCOUNTS_PER_QUERY):
            keys = account_ids[start : start + ACCOUNTS_PER_QUERY]
            statement = _raw_select().where(EVENTS.c.originator_id.in_(keys), EVENTS.c.id > after)
            statement = statement.order_by(EVENTS.c.id)
            if until is not None:
                statement = statement.where(EVENTS.c.id <= until)
            yield bulk.select_rows(connection, statement, RAW_SCHEMA)

    def read_keys(self, connection: Connection, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the events of some keys (`account_id`, `version`) as one raw frame in no order, by the index."""
        found = [RAW_SCHEMA.to_frame()]
        for some in keys.select("account_id", "version").iter_slices(bulk.KEYS_PER_QUERY):
            # All keys in one value: SQLAlchemy takes longer over thousands of values than the database over the rows.
            wanted = msgspec.json.encode(some.rows()).decode()
            found.append(bulk.select_rows(connection, self._select_keys.params(wanted=wanted), RAW_SCHEMA))
        return pl.concat(found)

    def read_positions(self, connection: Connection, positions: Sequence[int]) -> pl.DataFrame:
        """Return the events at some positions as one raw frame."""
        return bulk.select_rows(connection, _raw_select(), RAW_SCHEMA, key=EVENTS.c.id, keys=positions)

    @cached_property
    def _select_keys(self) -> Select[Any]:
        wanted = bindparam("wanted", type_=Text)
        if self.is_sqlite:
            key = func.json_each(wanted).table_valued("value").alias("wanted_keys").c.value
            found: tuple[ColumnElement[Any], ColumnElement[Any]] = (
                func.json_extract(key, "$[0]"),
                func.json_extract(key, "$[1]"),
            )
        else:
            pair = func.json_array_elements(cast(wanted, JSON)).table_valued(column("value", JSON)).c.value
            found = (pair[0].as_string(), cast(pair[1].as_string(), BigInteger))
        return _raw_select().where(EVENTS.c.originator_id == found[0], EVENTS.c.originator_version == found[1])

    def read_account(
        self, connection: Connection, account_id: str, *, after_version: int, until: int, events: int
    ) -> pl.DataFrame:
        """Return the next events of one account in version order, as far as they are not after position `until`."""
        of_account = (EVENTS.c.originator_id == account_id) & (EVENTS.c.originator_version > after_version)
        statement = _raw_select().where(of_account, EVENTS.c.id <= until).order_by(EVENTS.c.originator_version)
        return bulk.select_rows(connection, statement.limit(events), RAW_SCHEMA)

    def position_after(self, connection: Connection, after: int, events: int) -> int:
        """Return the position that some number of events after `after` reach, at most the head."""
        ids = select(EVENTS.c.id).where(EVENTS.c.id > after).order_by(EVENTS.c.id).limit(events).subquery()
        return int(connection.execute(select(func.coalesce(func.max(ids.c.id), after))).scalar_one())

    def first_versions(
        self, connection: Connection, *, after: int, account_ids: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return each account's smallest version after a position, of all or some: `account_id`, `version`."""
        version = func.min(EVENTS.c.originator_version.cast(BigInteger))
        account_id = EVENTS.c.originator_id
        statement = select(account_id.cast(Text), version).where(EVENTS.c.id > after).group_by(account_id)
        schema = {name: RAW_SCHEMA[name] for name in ("account_id", "version")}
        return bulk.select_rows(connection, statement, schema, key=account_id, keys=account_ids)

    def last_versions(self, connection: Connection, account_ids: Sequence[str], *, until: int) -> pl.DataFrame:
        """Return the largest version of some accounts at or before a position: `account_id`, `version`."""
        version = func.max(EVENTS.c.originator_version.cast(BigInteger))
        account_id = EVENTS.c.originator_id
        statement = select(account_id.cast(Text), version).where(EVENTS.c.id <= until).group_by(account_id)
        schema = {name: RAW_SCHEMA[name] for name in ("account_id", "version")}
        return bulk.select_rows(connection, statement, schema, key=account_id, keys=account_ids)

    def lost_ends(self, connection: Connection) -> pl.DataFrame:
        """Return the heads (as `heads`) whose event is not in the store: those accounts have lost their end."""
        is_there = (EVENTS.c.originator_id == HEADS.c.account_id) & (EVENTS.c.originator_version == HEADS.c.version)
        lost = ~select(EVENTS.c.id).where(is_there).exists()
        schema = {name: RAW_SCHEMA[name] for name in ("account_id", "version", "chain")}
        head = (HEADS.c.version.cast(BigInteger), HEADS.c.chain.cast(LargeBinary))
        statement = select(HEADS.c.account_id.cast(Text), *head).where(lost).order_by(HEADS.c.account_id)
        return bulk.select_rows(connection, statement, schema)

    def append_rows(self, connection: Connection, rows: pl.DataFrame | AppendReady) -> None:
        """Append events in bulk and move the heads; the caller holds the append lock.

        `rows`: `account_id`, `version`, `topic`, `state`, `chain`, each account's versions in order and going on
        from its head, each chain made with `chain`; or what `append_ready` made of them.
        """
        ready = append_ready(rows) if isinstance(rows, pl.DataFrame) else rows
        bulk.insert_rows(connection, EVENTS, ready.events)
        bulk.upsert_rows(connection, HEADS, ready.heads)


class AppendReady(NamedTuple):
    """Events ready to be appended: the rows as the database takes them, and the heads that they move."""

    events: bulk.Prepared
    heads: pl.DataFrame


def append_ready(rows: pl.DataFrame) -> AppendReady:
    """Return rows as `Store.append_rows` takes them, ready: the part of it that needs no database."""
    events = bulk.prepared(rows.rename({"account_id": "originator_id", "version": "originator_version"}))
    return AppendReady(events, rows.group_by("account_id", maintain_order=True).agg(pl.col("version", "chain").last()))


def _raw_select() -> Select[Any]:
    # A hand-made UPDATE can leave text in a BLOB or an INTEGER column of SQLite; the casts give what can be judged.
    state, chain_ = EVENTS.c.state.cast(LargeBinary), EVENTS.c.chain.cast(LargeBinary)
    key = (EVENTS.c.originator_id.cast(Text), EVENTS.c.originator_version.cast(BigInteger))
    return select(EVENTS.c.id, *key, state, chain_)


def _normalise(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"not a database URL: {url!r}", next_step="see --store in the README") from error
    name = parsed.get_backend_name()
    if name not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"the event store does not run on {name}", next_step="use a SQLite or PostgreSQL URL for --store"
        )
    if name == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("an in-memory SQLite database cannot be a ledger", next_step="name a file")
    return parsed.set(drivername="postgresql+psycopg") if name == "postgresql" else parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return _postgresql_engine(url)
    # The connection that was used last comes first: what another one writes makes its whole page cache worthless.
    engine = create_engine(url, connect_args={"timeout": 60}, pool_use_lifo=True)

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own transaction handling is off: the begin hook below decides.
        connection.isolation_level = None
        connection.text_factory = _lenient_text
        # 64 MiB: an import touches the index all over, and the default of 2 MiB would be written out again and again.
        connection.execute("PRAGMA cache_size = -65536")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        is_write = connection.get_execution_options().get("ledger_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    engine = create_engine(url)

    @event.listens_for(engine, "before_cursor_execute")
    def _ask_binary(
        _: Connection, cursor: psycopg.Cursor[Any], _statement: str, _values: Any, context: Any, _many: bool
    ) -> None:
        # As text a byte is two digits, which both sides take their time over.
        if context is not None and context.execution_options.get("ledger_binary"):
            cursor.format = psycopg.pq.Format.BINARY

    return engine


def _lenient_text(data: bytes) -> str:
    # Damaged text must reach the decoder, which names it as poison, not end the whole read.
    return data.decode(errors="replace")


def _create_tables(connection: Connection) -> None:
    METADATA.create_all(connection)
    if "live_accounts" not in inspect(connection).get_view_names():
        connection.execute(text(LIVE_VIEW))
    if connection.execute(select(IDENTITY.c.id)).first() is None:
        identity = {"id": 1, "ledger_id": uuid.uuid4().hex, "created_at": format_time(datetime.now(UTC))}
        connection.execute(insert(IDENTITY).values(identity))


@contextmanager
def _named(url: URL) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        where = url.render_as_string(hide_password=True)
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        raise StoreError(f"cannot open the store: {reason}", where=where, next_step="check --store") from error
