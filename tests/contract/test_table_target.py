"""Live tables are written by compare-and-set, a batch at a time, in every database that they may be in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from foreign_pairs import IDS, LiveInMariadb, LiveInPostgres, LiveInSqlite
from live_tables import Live, accounts_table
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, MetaData, Numeric, String, Table, select

from replay.comparison.live_table import LiveTable
from replay.recovery.table_target import TableTarget, Write
from replay.recovery.targets import LiveRow
from schemas.errors import LedgerReplayError, UsageError

LOCKED = "2024-03-01T12:00:00.000000Z"
#: The same in Berlin.
LOCAL = datetime.fromisoformat("2024-03-01T13:00:00")


def _values(**columns: Any) -> dict[str, Any]:
    return {"balance": 5, "frozen": 0, "status": "active", "locked_at": None} | columns


class TableTargets:
    """What a table does that is written; `live_url` says in which database it is."""

    key: Any = String(300)

    @pytest.fixture
    def made(self, live_url: str) -> Iterator[Callable[..., tuple[Live, TableTarget]]]:
        """What makes a table of the other system and a target on it."""
        lives: list[tuple[Live, TableTarget]] = []

        def make(table: Table | None = None, **options: Any) -> tuple[Live, TableTarget]:
            live = Live(live_url, accounts_table() if table is None else table)
            target = TableTarget(LiveTable(url=live_url, table=str(live.table.name), **options))
            lives.append((live, target))
            return live, target

        yield make
        for live, target in lives:
            target.close()
            live.table.drop(live.engine)
            live.close()

    def _all(self, live: Live) -> dict[Any, tuple[Any, ...]]:
        with live.engine.connect() as connection:
            return {row[0]: tuple(row)[1:] for row in connection.execute(select(live.table))}

    def _give(self, target: TableTarget, values: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
        """Give accounts these values, whatever they have."""

        def decide(rows: Mapping[str, LiveRow]) -> list[Write]:
            return [
                Write(name, rows.get(name), None if value is None else target.raw_values.of(value), value)
                for name, value in values.items()
            ]

        return target.change(list(values), decide)

    def test_rows_are_changed_made_and_taken_away(self, made):
        """A batch with one of each leaves just that, and rows of other accounts as they are."""
        live, target = made()
        live.put([("a", 1, 0, "active", None), ("b", 2, 0, "locked", LOCKED), ("c", 3, 0, "active", None)])
        wanted = {"a": {"balance": 10}, "b": None, "d": _values(status="locked", locked_at=LOCKED)}
        assert self._give(target, wanted) == {}
        assert self._all(live) == {
            "a": (10, 0, "active", None),
            "c": (3, 0, "active", None),
            "d": (5, 0, "locked", LOCKED),
        }

    def test_accounts_are_told_apart_whatever_the_collation(self, made):
        """Of ids that a collation may take for the same, only the one that was meant is written."""
        live, target = made(accounts_table(key=self.key, is_keyed=False))
        live.put([(name, 1, 0, "active", None) for name in IDS])
        assert self._give(target, {"a": {"balance": 7}, "é": {"balance": 8}}) == {}
        assert {name: row[0] for name, row in self._all(live).items() if row[0] != 1} == {"a": 7, "é": 8}

    def test_a_row_with_other_values_than_were_read_is_not_written(self, made):
        """What was read is compared once more as it is written, so a row that is other by then stays."""
        live, target = made()
        live.put([("a", 1, 0, "active", None), ("b", 1, 0, "active", None)])
        stale = target.rows(["a"])["a"]
        live.change("a", balance=99)
        refused = target.change(["a"], lambda _: [Write("a", stale, {"balance": 5}, {"balance": 5})])
        assert list(refused) == ["a"]
        assert self._all(live)["a"][0] == 99

    def test_a_row_that_the_table_refuses_leaves_the_others(self, made):
        """One that breaks a rule of the table is named with the reason; the rest of the batch is written."""
        table = Table(
            "accounts",
            MetaData(),
            Column("account_id", String(40), primary_key=True),
            Column("balance", BigInteger()),
            Column("frozen_amount", BigInteger()),
            Column("status", String(40)),
            CheckConstraint("balance < 1000", name="not_rich"),
        )
        live, target = made(table)
        live.put([(name, 1, 0, "active") for name in "abc"], [column.name for column in table.columns])
        refused = self._give(target, {"a": {"balance": 5}, "b": {"balance": 5000}, "c": {"balance": 6}})
        assert list(refused) == ["b"]
        assert "does not take it" in refused["b"]
        assert {name: row[0] for name, row in self._all(live).items()} == {"a": 5, "b": 1, "c": 6}

    def test_values_go_the_way_back_through_the_mapping(self, made):
        """Columns by their names, points as decimals, their words for a status, and times of their zone and type."""
        table = Table(
            "konten",
            MetaData(),
            Column("nummer", BigInteger(), primary_key=True, autoincrement=False),
            Column("punkte", Numeric(20, 2)),
            Column("gesperrt", Numeric(20, 2)),
            Column("zustand", String(10)),
            Column("seit", DateTime()),
        )
        theirs = {"account_id": "nummer", "balance": "punkte", "frozen_amount": "gesperrt", "status": "zustand"}
        live, target = made(
            table,
            columns={**theirs, "locked_at": "seit"},
            statuses={"offen": "active", "zu": "locked", "done": "completed"},
            amount_scale=2,
            timezone="Europe/Berlin",
        )
        live.put([(17, Decimal("1.50"), 0, "zu", LOCAL)], [each.name for each in table.columns])
        assert target.rows(["17"])["17"].values == _values(balance=150, status="locked", locked_at=LOCKED)
        wanted = {"17": _values(balance=-1234), "18": _values(status="locked", locked_at=LOCKED)}
        assert self._give(target, wanted) == {}
        assert self._all(live) == {
            17: (Decimal("-12.34"), 0, "offen", None),
            18: (Decimal("0.05"), 0, "zu", LOCAL),
        }

    def test_an_account_with_two_rows_or_an_unreadable_one_has_no_values(self, made):
        """Which of two rows counts nobody can know, and neither is one written that means nothing; both say why."""
        live, target = made(accounts_table(is_keyed=False))
        live.put([("a", 1, 0, "active", None), ("a", 1, 0, "active", None), ("b", 1, 0, "gone", None)])
        rows = target.rows(["a", "b", "c"])
        assert [rows[name].values for name in "ab"] == [None, None]
        assert "more than one row" in rows["a"].problem
        assert "gone" in rows["b"].problem
        assert "c" not in rows

    def test_what_the_table_does_not_keep_is_taken_back(self, made):
        """A column that makes another value of what it is given leaves its row as it was, and the others written."""
        table = accounts_table()
        live, target = made(table)
        live.put([("a", 1, 0, "active", None), ("b", 1, 0, "active", None)])
        with live.writing() as connection:
            for statement in self.forgetting:
                connection.exec_driver_sql(statement)
        refused = self._give(target, {"a": {"balance": 5}, "b": {"balance": 666}})
        assert list(refused) == ["b"]
        assert "something else in balance" in refused["b"]
        assert {name: row[0] for name, row in self._all(live).items()} == {"a": 5, "b": 1}

    #: A trigger that makes 667 of 666.
    forgetting: tuple[str, ...] = (
        "CREATE TRIGGER forget BEFORE UPDATE ON accounts FOR EACH ROW SET NEW.balance = "
        "IF(NEW.balance = 666, 667, NEW.balance)",
    )


class OnServers(TableTargets):
    """What a table does that is on a server besides."""

    def test_a_connection_that_is_cut_is_made_again(self, made):
        """What the database ended in the middle of a batch was rolled back there, and is done once more."""
        live, target = made()
        live.put([("a", 1, 0, "active", None)])
        looks: list[int] = []

        def decide(rows: Mapping[str, LiveRow]) -> list[Write]:
            looks.append(len(rows))
            if len(looks) == 1:
                with live.engine.connect() as other:
                    for (number,) in other.exec_driver_sql(self.ended[0]).all():
                        other.exec_driver_sql(self.ended[1].format(number))
            return [Write("a", rows["a"], {"balance": 5}, {"balance": 5})]

        assert target.change(["a"], decide) == {}
        assert looks == [1, 1]
        assert self._all(live)["a"][0] == 5

    #: What names the connections of this database but the one that asks, and what ends one.
    ended: tuple[str, str]


class TestSqlite(LiveInSqlite, TableTargets):
    """Tables in SQLite."""

    forgetting = (
        "CREATE TRIGGER forget AFTER UPDATE ON accounts WHEN NEW.balance = 666 "
        "BEGIN UPDATE accounts SET balance = 667 WHERE account_id = NEW.account_id; END",
    )

    def test_a_file_that_may_not_be_written_is_an_error(self, made):
        """What the database says no to, whatever the row, ends the batch."""
        live, target = made()
        live.put([("a", 1, 0, "active", None)])
        target.rows(["a"])
        with live.engine.connect() as other:
            other.exec_driver_sql("DROP TABLE accounts")
            other.exec_driver_sql(
                "CREATE VIEW accounts AS SELECT 'a' AS account_id, 1 AS balance, 0 AS frozen_amount,"
                " 'active' AS status, NULL AS locked_at"
            )
            with pytest.raises(LedgerReplayError):
                self._give(target, {"a": {"balance": 5}})
            other.exec_driver_sql("DROP VIEW accounts")
        live.table.create(live.engine)

    def test_text_that_is_none_is_kept_apart(self, made):
        """A column with bytes that are no text does not end the read, and its row can be corrected in the others."""
        live, target = made(accounts_table(Column("note", String(10))))
        with live.writing() as connection:
            connection.exec_driver_sql("INSERT INTO accounts VALUES ('a', 1, 0, 'active', NULL, CAST(x'ff41' AS TEXT))")
        assert self._give(target, {"a": {"balance": 5}}) == {}
        with live.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT balance, hex(note) FROM accounts").one() == (5, "FF41")


class TestPostgres(LiveInPostgres, OnServers):
    """Tables in PostgreSQL."""

    ended = (
        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()",
        "SELECT pg_terminate_backend({})",
    )

    forgetting = (
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.balance = 666 THEN NEW.balance = 667; END IF; RETURN NEW; END'",
        "CREATE TRIGGER forget BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION forget()",
    )

    def test_types_of_its_own_are_written(self, made):
        """An id that is a UUID, a status that is an enumeration, and a time with a zone."""
        live, target = made()
        with live.writing() as connection:
            connection.exec_driver_sql("DROP TABLE accounts")
            connection.exec_driver_sql("CREATE TYPE state AS ENUM ('active', 'locked')")
            connection.exec_driver_sql(
                "CREATE TABLE accounts (account_id uuid PRIMARY KEY, balance integer NOT NULL, frozen_amount numeric, "
                "status state, locked_at timestamptz)"
            )
            name = "11111111-2222-3333-4444-555555555555"
            connection.exec_driver_sql(f"INSERT INTO accounts VALUES ('{name}', 1, 0, 'active', NULL)")
        other = name.replace("1", "9")
        wanted = {name: _values(status="locked", locked_at=LOCKED), other: _values(frozen=3)}
        assert self._give(target, wanted) == {}
        rows = target.rows([name, other])
        assert {key: row.values for key, row in rows.items()} == wanted
        assert self._give(target, {name: {"status": "active", "locked_at": None}, other: None}) == {}
        assert [row.values for row in target.rows([name, other]).values()] == [_values()]


class TestMariadb(LiveInMariadb, OnServers):
    """Tables in MariaDB."""

    ended = (
        "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()",
        "KILL {}",
    )


def test_an_id_that_the_column_cannot_have_is_refused(tmp_path):
    """A row of an account whose id is no integer cannot be made where ids are integers."""
    live = Live(f"sqlite:///{tmp_path}/live.db", accounts_table(key=BigInteger()))
    with closing(live), closing(TableTarget(LiveTable(url=live.url, table="accounts"))) as target:
        with pytest.raises(UsageError):
            target.raw_values.key("a1")
        assert target.raw_values.key("17") == 17
