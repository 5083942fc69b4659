"""Live tables of another system: made in any database, kept as such a system would, and damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ledgers import append
from samples import opened, recorded
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    NullPool,
    String,
    Table,
    create_engine,
    delete,
    insert,
    update,
)

from ledger import Store
from replay import balances

__all__ = ["COLUMNS", "NOW", "Clock", "Live", "accounts_table", "damaged", "live_rows"]

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)

COLUMNS = ("account_id", "balance", "frozen_amount", "status", "locked_at")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let some pass."""
        self.now += seconds


def accounts_table(*more: Column[Any], key: Any = None, name: str = "accounts", is_keyed: bool = True) -> Table:
    """A table of account rows with our names; `key` is the type of the account id, `more` are further columns."""
    return Table(
        name,
        MetaData(),
        Column("account_id", key or String(300), primary_key=is_keyed, autoincrement=False),
        Column("balance", BigInteger()),
        Column("frozen_amount", BigInteger()),
        Column("status", String(40)),
        Column("locked_at", String(40)),
        *more,
    )


class Live:
    """The live table of another system, with the connection that the system itself has; `is_made`: it is there."""

    def __init__(self, url: str, table: Table | None = None, *, is_made: bool = False) -> None:
        self.url = url
        self.table = accounts_table() if table is None else table
        self.engine: Engine = create_engine(url, poolclass=NullPool)
        if not is_made:
            self.table.create(self.engine)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a transaction of the other system."""
        with self.engine.begin() as connection:
            yield connection

    def put(self, rows: Iterable[Sequence[Any]], columns: Sequence[str] = COLUMNS) -> None:
        """Insert rows."""
        many = [dict(zip(columns, row, strict=True)) for row in rows]
        with self.writing() as connection:
            for start in range(0, len(many), 1_000):
                connection.execute(insert(self.table), many[start : start + 1_000])

    def change(self, account_id: Any, **values: Any) -> None:
        """Change columns of one row."""
        with self.writing() as connection:
            connection.execute(update(self.table).where(self.table.c.account_id == account_id).values(values))

    def remove(self, account_id: Any) -> None:
        """Delete one row."""
        with self.writing() as connection:
            connection.execute(delete(self.table).where(self.table.c.account_id == account_id))

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def live_rows(store: Store) -> list[tuple[Any, ...]]:
    """The rows that a live table has which is right."""
    rows = balances(store, now=NOW).rows.select("account_id", "balance", "frozen", "status", "locked_at")
    return [
        (*row[:4], None if row[4] is None else row[4].strftime("%Y-%m-%dT%H:%M:%S.%fZ")) for row in rows.iter_rows()
    ]


def damaged(store: Store, live: Live) -> tuple[Live, dict[str, tuple[str, str]]]:
    """Write a history of many accounts and a live table with one damage of each class."""
    for number in range(40):
        stream = [opened(f"a{number:02}")]
        stream += [recorded(f"a{number:02}", version, 100 * version + number) for version in range(2, 8)]
        append(store, *stream)
    live.put(live_rows(store))
    live.change("a01", balance=live.table.c.balance - (100 * 7 + 1))
    live.change("a02", balance=live.table.c.balance - (100 * 4 + 2))
    live.change("a03", balance=live.table.c.balance + (100 * 3 + 3))
    live.change("a04", balance=live.table.c.balance + 1)
    live.change("a05", frozen_amount=9)
    live.remove("a06")
    live.put([("a06x", 5, 0, "active", None)])
    return live, {
        "a01": ("missed_event", "balance"),
        "a02": ("missed_event", "balance"),
        "a03": ("applied_twice", "balance"),
        "a04": ("foreign_write", "balance"),
        "a05": ("foreign_write", "frozen"),
        "a06": ("row_missing", "row"),
        "a06x": ("row_extra", "row"),
    }
