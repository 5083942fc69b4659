"""An exact comparison across two databases, against reading both tables once with their plain drivers.

`python -m benchmarks.comparing_foreign [accounts] [runs]`: the shadow's rows in PostgreSQL or SQLite, live in SQLite,
PostgreSQL or MariaDB. `compared` and `read` are what `make bench` runs, each in a process of its own.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import psycopg
from sqlalchemy import BigInteger, Column, MetaData, String, Table, create_engine, insert
from sqlalchemy.engine import make_url

from ledger import Store, bulk, read_model, shadows
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ShadowRows
from tests.mariadb_server import MariadbUnavailableError, resolve_programs
from tests.mariadb_server import running as mariadb
from tests.postgres_server import running as postgres

ACCOUNTS = 1_000_000
CHUNK_ROWS = 50_000
FETCH_ROWS = 10_000
COLUMNS = "account_id, balance, frozen_amount, status, locked_at"
OURS = "account_id, balance, frozen, status, locked_at, status_version, version"
#: In the order of code points on every database, as the comparison asks for it.
LIVE_SQL = {
    "sqlite": f"SELECT {COLUMNS} FROM accounts ORDER BY account_id",
    "postgresql": f'SELECT {COLUMNS} FROM accounts ORDER BY account_id COLLATE "C"',
    "mysql": f"SELECT {COLUMNS} FROM accounts ORDER BY CAST(CAST(account_id AS CHAR CHARACTER SET utf8mb4) AS BINARY)",
}
OWN_SQL = f"SELECT {OURS} FROM ledger_shadow_accounts WHERE generation = -1 ORDER BY account_id"


def make(store_url: str, live_url: str, accounts: int) -> None:
    """Write the same accounts as the rows of a shadow and as a live table; one in a hundred was locked once."""
    names = pl.Series("account_id", [f"account-{number:09}" for number in range(accounts)])
    moment = pl.lit("2024-03-01T12:00:00.000000Z").str.to_datetime("%Y-%m-%dT%H:%M:%S%.6fZ", time_zone="UTC")
    is_locked = pl.int_range(pl.len()) % 100 == 0
    rows = names.to_frame().with_columns(
        balance=pl.int_range(pl.len()) * 7,
        frozen=pl.int_range(pl.len()) % 5,
        pending_credit=pl.lit(0, pl.Int64),
        pending_debit=pl.lit(0, pl.Int64),
        status=pl.when(is_locked).then(pl.lit("locked")).otherwise(pl.lit("active")),
        locked_at=pl.when(is_locked).then(moment),
        status_version=pl.when(is_locked).then(pl.lit(2, pl.Int64)),
        closed_version=pl.lit(None, pl.Int64),
        version=pl.lit(20, pl.Int64),
        chain=pl.lit(b"c" * 32),
        last_effective_at=moment,
    )
    with closing(Store(store_url)) as store, store.writing() as connection:
        made = {"source": "store", "source_id": store.ledger_id, "topic": None, "started_from": "zero"}
        shadow = shadows.create(connection, name="shadow", positions={0: 0}, created_at="2024", **made)
        read_model.write_rows(connection, shadow.number, rows)
    table = Table(
        "accounts",
        MetaData(),
        Column("account_id", String(80), primary_key=True),
        Column("balance", BigInteger, nullable=False),
        Column("frozen_amount", BigInteger, nullable=False),
        Column("status", String(10), nullable=False),
        Column("locked_at", String(40)),
    )
    live = rows.select("account_id", "balance", frozen_amount="frozen", status="status", locked_at="locked_at")
    live = live.with_columns(pl.col("locked_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    engine = create_engine(live_url)
    with engine.begin() as connection:
        table.create(connection)
        if engine.name == "mysql":
            for some in live.iter_slices(10_000):
                connection.execute(insert(table), some.to_dicts())
        else:
            bulk.insert_rows(connection, table, live)
    if engine.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def compared(store_url: str, live_url: str, accounts: int) -> float:
    """Return the seconds of a whole round over tables that are equal."""
    foreign = ForeignTable(LiveTable(url=live_url, table="accounts"))
    with closing(Store(store_url)) as store, ExitStack() as stack:
        pair = stack.enter_context(closing(ForeignPair(foreign, ShadowRows(store))))
        before = time.perf_counter()
        pair.begin(None)
        count, until = 0, ""
        while until is not None:
            chunk = pair.chunk(CHUNK_ROWS)
            assert not chunk.drifted
            assert not chunk.suspected
            count, until = count + chunk.compared, chunk.until
        seconds = time.perf_counter() - before
    assert count == accounts
    return seconds


def read(store_url: str, live_url: str, accounts: int) -> float:
    """Return the seconds in which both tables are read once, the same columns in the same order."""
    before = time.perf_counter()
    for url, query in ((live_url, LIVE_SQL[make_url(live_url).get_backend_name()]), (store_url, OWN_SQL)):
        with _cursor(url) as cursor:
            cursor.execute(query)
            count = 0
            while rows := cursor.fetchmany(FETCH_ROWS):
                count += len(rows)
        assert count == accounts
    return time.perf_counter() - before


@contextmanager
def _cursor(url: str) -> Iterator[Any]:
    """Yield the driver's own cursor, one that does not hold all rows at once."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database))) as connection:
            yield connection.cursor()
    elif parsed.get_backend_name() == "postgresql":
        host = str(parsed.query.get("host") or parsed.host)
        options = {"host": host, "user": parsed.username, "dbname": parsed.database, "port": parsed.port}
        with psycopg.connect(**{name: value for name, value in options.items() if value is not None}) as connection:
            yield connection.cursor(name="bare")
    else:
        import pymysql

        place = {"host": parsed.host, "port": parsed.port, "user": parsed.username, "database": parsed.database}
        with closing(pymysql.connect(**place, cursorclass=pymysql.cursors.SSCursor)) as connection:
            yield connection.cursor()


def main() -> None:
    """Measure every pair of databases that can be had here, and print the ratios."""
    accounts = int(sys.argv[1]) if len(sys.argv) > 1 else ACCOUNTS
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-compare-"))
        server = stack.enter_context(postgres())
        urls = {"sqlite": f"sqlite:///{folder}/live.db", "postgresql": database(server, "live")}
        stores = {"postgresql": database(server, "own"), "sqlite": f"sqlite:///{folder}/own.db"}
        pairs = [("postgresql", "sqlite"), ("sqlite", "postgresql")]
        try:
            maria = stack.enter_context(mariadb(resolve_programs()))
            urls["mysql"] = database(maria, "live_rows")
            pairs.append(("sqlite", "mysql"))
        except MariadbUnavailableError as unavailable:
            print(unavailable)
        for own, live in pairs:
            for path in Path(folder).glob("*.db*"):
                path.unlink()
            make(stores[own], urls[live], accounts)
            found = [
                (read(stores[own], urls[live], accounts), compared(stores[own], urls[live], accounts))
                for _ in range(runs)
            ]
            bare, ours = (median(times) for times in zip(*found, strict=True))
            print(f"shadow in {own}, live in {live}: read {bare:.2f} s, compared {ours:.2f} s: {ours / bare:.2f}x")


def database(server: Any, name: str) -> str:
    """Make a database on a server and return its URL."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return str(server.set(database=name).render_as_string(hide_password=False))


if __name__ == "__main__":
    main()
