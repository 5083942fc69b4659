"""Pairs of a foreign live table and a shadow, made in any database, and what a round and looks at them come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from live_tables import Clock, Live, accounts_table
from shadows import to_head
from sqlalchemy import BigInteger, Column, String
from sqlalchemy.dialects import mysql

from consumers.shadow import StoreShadow
from ledger import Store
from replay.comparison.chunk import Chunk
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ShadowRows
from replay.differences import Drifted

__all__ = ["IDS", "ForeignPairs", "LiveInMariadb", "LiveInPostgres", "LiveInSqlite", "follow", "settled", "whole_round"]

#: Ids that collations order in many ways: case, accents, spaces at the end, and beyond 16 bits.
IDS = ["a", "B", "b", "Z", "z", "á", "a ", "a\t", "ab", "é", "ß", "\uffee", "\U0001f600", "10", "9", "_", "-"]
SECONDS_A_LOOK = 5.0
Round = tuple[list[Chunk], list[Drifted], set[str], dict[str, str]]


def whole_round(pair: ForeignPair, rows: int = 7) -> Round:
    """Compare everything once: the chunks, what differs, what is suspected, what is uncompared and why."""
    pair.begin(None)
    chunks = []
    while not chunks or chunks[-1].until is not None:
        chunks.append(pair.chunk(rows))
    drifted = [entry for chunk in chunks for entry in chunk.drifted]
    suspected = {each for chunk in chunks for each in chunk.suspected}
    return chunks, drifted, suspected, {each.account_id: each.reason for chunk in chunks for each in chunk.uncompared}


def settled(pair: ForeignPair, clock: Clock, seconds: float = 30.0) -> tuple[dict[str, Drifted], dict[str, str]]:
    """Look at suspects for some time: what has drifted, by account, and what is uncompared in the end."""
    drifted: dict[str, Drifted] = {}
    uncompared: dict[str, str] = {}
    for _ in range(int(seconds / SECONDS_A_LOOK)):
        clock.sleep(SECONDS_A_LOOK)
        found = pair.settle()
        drifted |= {entry.account_id: entry for entry in found.drifted}
        uncompared |= {each.account_id: each.reason for each in found.uncompared}
    return drifted, uncompared


def follow(store: Store) -> None:
    """Bring the shadow to the head."""
    with closing(StoreShadow(store)) as shadow:
        to_head(shadow)


class ForeignPairs:
    """What tests of pairs are given; `live_url` says in which database the live table is."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """A store of our own, empty."""
        with closing(Store.at(tmp_path / "own")) as store:
            yield store

    @pytest.fixture
    def made(self, live_url: str) -> Iterator[Callable[..., Live]]:
        """What makes live tables that are gone after the test."""
        lives: list[Live] = []

        def make(*columns: Column[Any], **options: Any) -> Live:
            lives.append(Live(live_url, accounts_table(*columns, **options)))
            return lives[-1]

        yield make
        for live in lives:
            live.table.drop(live.engine)
            live.close()

    @pytest.fixture
    def clock(self) -> Clock:
        """A clock that stands still by itself."""
        return Clock()

    @pytest.fixture
    def pair_of(self, store: Store, clock: Clock) -> Iterator[Callable[..., ForeignPair]]:
        """What makes the pair of a live table and a shadow of the store, which is brought to the head."""
        pairs: list[ForeignPair] = []

        def make(live: Live, **options: Any) -> ForeignPair:
            follow(store)
            foreign = ForeignTable(LiveTable(url=live.url, table=live.table.name, **options))
            pairs.append(ForeignPair(foreign, ShadowRows(store), rejects=self.rejects.append, clock=clock))
            return pairs[-1]

        self.rejects: list[pl.DataFrame] = []
        yield make
        for pair in pairs:
            pair.close()

    def let_write_beside_reading(self, live: Live) -> None:
        """Set the database so that others may write while a snapshot is open."""

    key: Any = String(300)
    unsigned: Any = BigInteger()


class LiveInSqlite:
    """The live table is in a file of SQLite."""

    key = String(300, collation="NOCASE")

    @pytest.fixture
    def live_url(self, tmp_path: Path) -> str:
        """Where the live table is."""
        return f"sqlite:///{tmp_path}/live database #%41.db"

    def let_write_beside_reading(self, live: Live) -> None:
        """Readers and the writer do not wait for each other with a WAL only."""
        with live.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")


@pytest.mark.postgres
class LiveInPostgres:
    """The live table is in PostgreSQL."""

    @pytest.fixture
    def live_url(self, postgres_url: str) -> str:
        """Where the live table is."""
        return postgres_url


@pytest.mark.mariadb
class LiveInMariadb:
    """The live table is in MariaDB."""

    key = String(300, collation="utf8mb4_general_ci")
    unsigned = mysql.BIGINT(unsigned=True)

    @pytest.fixture
    def live_url(self, mariadb_url: str) -> str:
        """Where the live table is."""
        return mariadb_url
