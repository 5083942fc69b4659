"""What a pair of a foreign live table keeps to as it goes on: in later rounds, and where the database says no."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import polars as pl
import pytest
from foreign_pairs import ForeignPairs, LiveInMariadb, LiveInPostgres, LiveInSqlite, follow, settled, whole_round
from ledgers import append
from live_tables import Clock, Live, live_rows
from samples import account_stream
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from ledger import Store
from replay.comparison import replayed
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable, Mark
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ShadowRows
from schemas.errors import StoreError, UsageError

SETTLE = {"settle_seconds": 10.0, "unsettled_seconds": 300.0}


class GoingOnContract(ForeignPairs):
    """What holds on every database."""

    def test_its_name_says_which_table_it_is(self, made: Any, pair_of: Any) -> None:
        """Two live tables have findings of their own, and no name has a password in it."""
        live = made()
        pair = pair_of(live)
        assert pair.name.startswith(f"live {make_url(live.url).render_as_string(hide_password=True)}")
        assert pair.name.endswith(f", {live.table.name}")

    def test_what_became_the_same_settles_anew(self, store: Store, made: Any, pair_of: Any, clock: Clock) -> None:
        """A suspect that a chunk sees equal is forgotten: when it lags again later, its time begins then."""
        append(store, *account_stream("a", 4), *account_stream("b", 4))
        live = made()
        live.put(live_rows(store))
        pair = pair_of(live, **SETTLE)
        live.change("a", balance=10)
        assert whole_round(pair)[2] == {"a"}
        pair.settle()
        live.change("a", balance=30)
        assert whole_round(pair)[2] == set()
        assert list(pair.settling.suspects) == []
        clock.sleep(2 * SETTLE["unsettled_seconds"])
        live.change("a", balance=20)
        assert whole_round(pair)[2] == {"a"}
        assert pair.settle().uncompared == []

    def test_only_its_own_chunk_clears_a_suspect(self, store: Store, made: Any, pair_of: Any) -> None:
        """A chunk says nothing of the suspects before and behind it."""
        append(store, *(event for name in "abc" for event in account_stream(name, 2)))
        live = made()
        live.put([(name, 11, 0, "active", None) for name in "abc"])
        pair = pair_of(live)
        whole_round(pair)
        pair.begin("a")
        assert pair.chunk(1).until == "b"
        assert set(pair.settling.suspects) == {"a", "b", "c"}

    @pytest.mark.parametrize("rows", [1, 2, 100])
    def test_rows_of_no_account_count_once_a_round(self, store: Store, made: Any, pair_of: Any, rows: int) -> None:
        """Each row that cannot be read is in the count of one chunk, however often the table is opened for them."""
        names = [f"a{number}" for number in range(6)]
        append(store, *(event for name in names for event in account_stream(name, 2)))
        live = made(is_keyed=False)
        live.put(live_rows(store))
        live.put([(None, 7, 0, "active", None), (None, 7, 0, "active", None), (None, 8, 0, "active", None)])
        live.change("a3", status="asleep")
        pair = pair_of(live)
        for _ in range(2):
            self.rejects.clear()
            chunks, *_, uncompared = whole_round(pair, rows)
            assert sum(chunk.rejected for chunk in chunks) == 4
            assert pl.concat(self.rejects).height == 4
            assert set(uncompared) == {"a3"}

    def test_a_chunk_that_nobody_noted_hides_no_reject(self, store: Store, made: Any, pair_of: Any) -> None:
        """A round that goes on behind a key says again what cannot be read, even where a void chunk had said so."""
        append(store, *(event for name in "abc" for event in account_stream(name, 2)))
        live = made(is_keyed=False)
        live.put([*live_rows(store), (None, 7, 0, "active", None)])
        pair = pair_of(live)
        for _ in range(2):
            pair.begin("a")
            rejected, until = 0, "a"
            while until is not None:
                chunk = pair.chunk(1)
                rejected, until = rejected + chunk.rejected, chunk.until
            assert rejected == 1

    def test_a_pair_goes_on_after_its_snapshot_broke(self, store: Store, made: Any, pair_of: Any) -> None:
        """Whatever the driver says when a snapshot is left, both sides are let go of, and the next chunk goes on."""
        append(store, *(event for number in range(50) for event in account_stream(f"a{number:02}", 2)))
        live = made()
        live.put(live_rows(store))
        self.let_write_beside_reading(live)
        pair = pair_of(live)
        pair.begin(None)
        compared = pair.chunk(10).compared
        pair._round.live._connection.connection.driver_connection.close()
        pair.close()
        assert pair._round is None
        until: str | None = ""
        while until is not None:
            chunk = pair.chunk(10)
            compared, until = compared + chunk.compared, chunk.until
        assert compared == 50

    @pytest.mark.parametrize("query", ["SELECT nothing FROM accounts", "SELECT 1 FROM nowhere", "SELEKT 1"])
    def test_a_wrong_query_is_the_operators_to_mend(self, made: Any, pair_of: Any, query: str) -> None:
        """A database that does not understand is no outage, which would be waited for without end."""
        pair = pair_of(made(), mark=Mark(of="position", query=query))
        with pytest.raises(UsageError, match="the database says"):
            pair.begin(None)

    @pytest.mark.parametrize(
        ("away", "back"),
        [
            (
                "ALTER TABLE accounts RENAME COLUMN frozen_amount TO held",
                "ALTER TABLE accounts RENAME COLUMN held TO frozen_amount",
            ),
            ("ALTER TABLE accounts RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO accounts"),
        ],
    )
    def test_what_went_away_after_it_was_read_is_waited_for(
        self, made: Any, pair_of: Any, clock: Clock, away: str, back: str
    ) -> None:
        """A table that is altered or renamed between two rounds or looks is an outage until it is as it was."""
        live = made()
        live.put([("a", 1, 0, "active", None)])
        pair = pair_of(live)
        whole_round(pair)
        with live.engine.begin() as connection:
            connection.exec_driver_sql(away)
        clock.sleep(1_000)
        try:
            for ask in (pair.settle, lambda: whole_round(pair), lambda: whole_round(pair)):
                with pytest.raises(StoreError, match=r"accounts.*check \[live\]|frozen_amount"):
                    ask()
                # As the loop does, which lets the table be looked at anew.
                pair.close()
        finally:
            pair.close()
            with live.engine.begin() as connection:
                connection.exec_driver_sql(back)
        assert whole_round(pair)[2] == {"a"}

    def test_what_is_away_while_one_answer_is_made_is_the_operators_to_mend(self, store: Store, made: Any) -> None:
        """Somebody who compares once is told what is wrong, and nothing is waited for."""
        live = made()
        now = replayed.ReplayedNow(store, pl.DataFrame(schema=replayed.REPLAYED_SCHEMA), {}, position=0)
        with closing(ForeignPair(ForeignTable(LiveTable(url=live.url, table="accounts")), now)) as pair:
            whole_round(pair)
            with live.engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE accounts RENAME COLUMN frozen_amount TO held")
            with pytest.raises(UsageError, match="frozen_amount"):
                whole_round(pair)

    def test_accounts_are_replayed_alone_once(
        self, store: Store, made: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As long as both rows stay, further looks replay nothing: of a topic each replay is a pass over all of it."""
        for number in range(12):
            append(store, *account_stream(f"a{number:02}", 4))
        live = made()
        live.put(live_rows(store))
        live.remove("a03")
        live.change("a04", balance=20)
        follow(store)
        calls: list[list[str]] = []
        steps = replayed.steps
        monkeypatch.setattr(replayed, "steps", lambda *args, **more: (calls.append(args[1]), steps(*args, **more))[1])
        # Nothing says how far live is, and then the partition of the log that the accounts are in is known.
        partition: list[int | None] = [None]
        rows = ShadowRows(store, log_partition=lambda _: partition[0])
        foreign = ForeignTable(LiveTable(url=live.url, table="accounts", **SETTLE))
        with closing(ForeignPair(foreign, rows, clock=clock)) as pair:
            assert whole_round(pair)[2] == {"a03", "a04"}
            found, uncompared = settled(pair, clock, 400)
            assert (found, set(uncompared)) == ({}, {"a03", "a04"})
            assert len(calls) == 1
            partition[0] = 0
            found, _ = settled(pair, clock, 20)
        assert {name: each.cause for name, each in found.items()} == {"a03": "row_missing", "a04": "missed_event"}
        # Those that show how far live is, and those that differ once more, to tell why.
        assert len(calls) == 3

    def test_a_look_that_takes_long_is_not_taken_often(
        self, store: Store, made: Any, pair_of: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a look that took a minute the next is minutes later, so that the shadow goes on following."""
        append(store, *account_stream("a", 3))
        live = made()
        live.put([("a", 10, 0, "active", None)])
        pair = pair_of(live, **SETTLE)
        whole_round(pair)
        looked: list[float] = []
        look = pair._looks.look
        monkeypatch.setattr(
            pair._looks, "look", lambda *args, **more: (looked.append(clock()), clock.sleep(60), look(*args, **more))[2]
        )
        for _ in range(600):
            pair.settle()
            clock.sleep(1)
        assert len(looked) == 3


class TestGoingOnInSqlite(LiveInSqlite, GoingOnContract):
    """In SQLite."""

    def test_a_locked_file_is_waited_for(self, made: Any, pair_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that another process keeps to itself is an outage, a file that is broken is none."""
        live = made()
        pair = pair_of(live)
        whole_round(pair)
        monkeypatch.setattr("replay.comparison.foreign.SQLITE_SECONDS_MAX", 0.0)
        with live.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match="locked"):
                pair.begin(None)
            connection.exec_driver_sql("ROLLBACK")
        pair.begin(None)
        pair.close()

    def test_a_broken_file_is_the_operators_to_mend(self, made: Any, pair_of: Any, tmp_path: Any) -> None:
        """A file that is no database says so, and waiting does not help."""
        pair = pair_of(made())
        broken = tmp_path / "broken.db"
        broken.write_bytes(b"no database at all, and long enough to be read as one" * 100)
        table = LiveTable(url=f"sqlite:///{broken}", table="accounts")
        with closing(ForeignTable(table)) as foreign, pytest.raises(UsageError, match="not a database"):
            foreign.open()
        pair.close()


class TestGoingOnInPostgres(LiveInPostgres, GoingOnContract):
    """In PostgreSQL."""

    def test_who_may_not_read_is_told_so(self, made: Any) -> None:
        """A user without rights is the operator's to mend."""
        live: Live = made()
        with live.engine.begin() as connection:
            connection.execute(text("CREATE ROLE reader LOGIN"))
        try:
            refused(make_url(live.url).set(username="reader", password=None).render_as_string(hide_password=False))
        finally:
            with live.engine.begin() as connection:
                connection.execute(text("DROP ROLE reader"))

    @pytest.mark.parametrize("wrong", [{"database": "nowhere"}, {"username": "nobody"}])
    def test_who_is_not_let_in_is_told_so(self, made: Any, wrong: dict[str, str]) -> None:
        """An unknown database or user is the operator's to mend, and waited for by nobody."""
        live: Live = made()
        refused(make_url(live.url).set(**wrong).render_as_string(hide_password=False))


class TestGoingOnInMariadb(LiveInMariadb, GoingOnContract):
    """In MariaDB."""

    def test_who_may_not_read_is_told_so(self, made: Any, mariadb_server: Any) -> None:
        """A user without rights, one that is not there and a database that is not there are no outages."""
        live: Live = made()
        server = create_engine(mariadb_server, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text("CREATE USER IF NOT EXISTS reader@'%'"))
        server.dispose()
        url = make_url(live.url)
        for wrong in (
            url.set(username="reader"),
            url.set(username="nobody-at-all"),
            url.set(database="no_such_database"),
        ):
            refused(wrong.render_as_string(hide_password=False))


def refused(url: str) -> None:
    """Open a table that may not be read."""
    foreign = ForeignTable(LiveTable(url=url, table="accounts"))
    with closing(foreign), pytest.raises(UsageError):
        for _ in foreign.open().batches():
            pass
