"""The SQL of a plan, run on real databases: it corrects what still is as planned, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from foreign_pairs import LiveInMariadb, LiveInPostgres, LiveInSqlite
from live_tables import Live, accounts_table, live_rows
from planned import NOW, change, plan_of, stocked, table_of, whole_plan
from sqlalchemy import BigInteger, Column, DateTime, MetaData, Numeric, String, Table, Text, create_engine, select
from sqlalchemy.engine import make_url

from ledger import Store
from ledger.importing import Mapping
from replay.comparison.foreign import ForeignTable
from replay.recovery.decide import decide
from replay.recovery.plan import Plan, Target
from replay.recovery.planning import Policy
from replay.recovery.sql import guarded_sql
from schemas.errors import UsageError

#: What lowers a row is in the SQL only where that is allowed.
EXPLAINED = Policy(lowering="explained")
EVIL = [
    "o'brien''s",
    "two\nlines",
    "\r\n-- dashes; DROP TABLE accounts; --",
    "100 % %s %(x)s",
    ":x :'y' $1 ?",
    "back\\slash\\'",
    "*/ DELETE FROM accounts; /*",
    'double"quote`tick',
    "ключ \u202e 🙂\u2028",
    "trailing ",
]


def sql_of(plan: Plan, live: Live, **fields: Any) -> str:
    """The SQL of a plan for a live table as its database describes it."""
    table = table_of(live, **fields)
    with closing(ForeignTable(table)) as foreign, closing(foreign.open()) as snapshot:
        return guarded_sql(plan, make_url(live.url).get_backend_name(), snapshot.table, foreign.mapping)


def run(live: Live, script: str, *, options: str = "") -> None:
    """Hand a whole script to the database, as its own client would."""
    engine = create_engine(live.url)
    raw = engine.raw_connection()
    try:
        if engine.name == "sqlite":
            raw.driver_connection.executescript(script)  # type: ignore[union-attr]
        elif engine.name == "postgresql":
            with psycopg.connect(live.url.replace("+psycopg", ""), autocommit=True, options=options) as connection:
                connection.execute(script)  # type: ignore[call-overload]
        else:
            cursor = raw.cursor()
            for statement in re.split(r";\n", script):
                # A line of remarks alone is no statement.
                text = "\n".join(line for line in statement.split("\n") if not line.startswith("--"))
                if text.strip():
                    cursor.execute(text)
    finally:
        raw.close()
        engine.dispose()


def rows_of(live: Live) -> dict[Any, tuple[Any, ...]]:
    """Every row, by account."""
    with live.writing() as connection:
        return {row[0]: tuple(row[1:]) for row in connection.execute(select(live.table))}


class Contract:
    """Scripts that are run on a database."""

    key: Any = String(300)

    @pytest.fixture
    def live(self, live_url: str) -> Iterator[Live]:
        """A live table with account ids in whatever order of theirs."""
        live = Live(live_url, accounts_table(key=self.key))
        yield live
        live.table.drop(live.engine)
        live.close()

    def test_evil_ids(self, store: Store, live: Live) -> None:
        """Whatever is in an id, the rows of the plan are corrected, and no other row is."""
        stocked(store, live, [*EVIL, "innocent"])
        truth = rows_of(live)
        for account_id in EVIL:
            live.change(account_id, balance=100, status="locked", locked_at="2024-03-02T00:00:00Z")
        plan = plan_of(store, live, policy=EXPLAINED)
        assert len(plan.changes) == len(EVIL)
        script = sql_of(plan, live)
        run(live, script)
        assert {name: row[0] for name, row in rows_of(live).items()} == {name: row[0] for name, row in truth.items()}
        assert plan_of(store, live, policy=EXPLAINED).changes == []

    def test_a_row_that_changed_is_left_alone(self, store: Store, live: Live) -> None:
        """A row that does not hold any more every value that the plan saw stays as it is now; twice is as once."""
        ledger = stocked(store, live, ["ok", "moved", "status", "gone", "came", "extra?"])
        for account_id in ("status", "ok"):
            ledger.lock(account_id)
        for account_id in ("ok", "moved", "status", "gone"):
            live.change(account_id, balance=100)
        live.remove("came")
        live.remove("extra?")
        plan = plan_of(store, live, policy=EXPLAINED)
        live.change("moved", balance=99)
        live.change("status", status="closed")
        live.remove("gone")
        live.put([("came", 5, 0, "active", None)])
        script = sql_of(plan, live)
        for _ in range(2):
            run(live, script)
            assert rows_of(live) == {
                "ok": (70, 0, "locked", "2024-03-01T12:00:00.000000Z"),
                "moved": (99, 0, "active", None),
                "status": (100, 0, "closed", None),
                "came": (5, 0, "active", None),
                "extra?": (70, 0, "active", None),
            }

    def test_decisions(self, store: Store, live: Live) -> None:
        """What waits for a person is a remark only; what was decided is done as it was decided."""
        stocked(store, live, ["wait", "accept", "adjust", "gone"])
        live.change("wait", balance=75)
        live.change("accept", balance=75, frozen_amount=2)
        live.change("adjust", balance=75, frozen_amount=2)
        live.put([("extra", 1, 0, "active", None), ("extra wait", 1, 0, "active", None)])
        plan = plan_of(store, live, policy=EXPLAINED)
        said: dict[str, Any] = {"by": "eve\n; x", "reason": "counted */ twice\n", "now": NOW}
        plan = decide(plan, account_ids=["accept", "extra"], action="accept", **said)
        plan = decide(plan, account_ids=["adjust"], action="adjust", **said)
        script = sql_of(plan, live)
        assert script.count("-- UNDECIDED") == 2
        run(live, script)
        assert rows_of(live) == {
            "wait": (75, 0, "active", None),
            "accept": (70, 0, "active", None),
            "adjust": (75, 0, "active", None),
            "gone": (70, 0, "active", None),
            "extra wait": (1, 0, "active", None),
        }

    def test_names_and_values_of_their_own(self, store: Store, live_url: str) -> None:
        """Names, words, scaled points, and times are those of the table, in what is asked and in what is written."""
        table = Table(
            "konten",
            MetaData(),
            Column("konto: nr", String(60), primary_key=True),
            Column("saldo %s", Numeric(20, 2)),
            Column("hold", Numeric(20, 2)),
            Column("zustand", String(20)),
            Column("seit", DateTime()),
            Column("note", Text(), nullable=True),
        )
        names = ("konto: nr", "saldo %s", "hold", "zustand", "seit")
        live = Live(live_url, table)
        try:
            ledger = stocked(store, None, ["a", "b", "c", "d"])
            for account_id in "ac":
                ledger.lock(account_id)
            right = [(row[0], row[1] / 100, row[2] / 100, row[3].upper(), None) for row in live_rows(store)]
            live.put(right, names)
            with live.writing() as connection:
                connection.execute(table.update().where(table.c["konto: nr"] == "a").values({"zustand": "frei"}))
                connection.execute(table.update().where(table.c["konto: nr"] == "b").values({"saldo %s": 1}))
                connection.execute(table.delete().where(table.c["konto: nr"] == "c"))
            fields: dict[str, Any] = {
                "columns": {
                    "account_id": "konto: nr",
                    "balance": "saldo %s",
                    "frozen_amount": "hold",
                    "status": "zustand",
                    "locked_at": "seit",
                },
                "statuses": {"ACTIVE": "active", "frei": "active", "LOCKED": "locked"},
                "amount_scale": 2,
                "timezone": "Europe/Berlin",
            }
            plan = make_plan_of(store, live, fields)
            run(live, sql_of(plan, live, **fields))
            found = {
                name: (float(row[0]), float(row[1]), row[2], str(row[3])[:16]) for name, row in rows_of(live).items()
            }
            assert found["a"] == (0.7, 0.0, "LOCKED", "2024-03-01 13:00")
            assert found["b"] == (0.7, 0.0, "ACTIVE", "None")
            assert found["c"] == (0.7, 0.0, "LOCKED", "2024-03-01 13:00")
            assert make_plan_of(store, live, fields).changes == []
        finally:
            live.table.drop(live.engine)
            live.close()

    def test_numbers_and_times_in_columns_of_texts(self, live_url: str) -> None:
        """Texts are compared by the number and the moment that they mean; what is no number is none, also not zero."""
        names = ("id", "bal", "fr", "st", "la")
        texts = [Column(name, String(60)) for name in names[1:]]
        live = Live(live_url, Table("t", MetaData(), Column("id", self.key, primary_key=True), *texts))
        ours = ("account_id", "balance", "frozen_amount", "status", "locked_at")
        fields: dict[str, Any] = {"columns": dict(zip(ours, names, strict=True)), "amount_scale": 2}
        points = {"a": ("123.4", 12340), "b": ("+123.400", 12340), "c": (" 5", 500), "d": ("-0.5", -50)}
        wrong = {"e": ("123.41", 12340), "f": ("much", 0), "g": ("12abc", 1200), "h": ("1-2", 100), "i": ("", 0)}
        times = {"t": "2024-02-28 12:00:00.120", "u": "2024-02-28T12:00:00.120Z", "v": "2024-02-28T12:00:00.120000Z"}
        try:
            live.put([(name, text, "0.00", "active", None) for name, (text, _) in (points | wrong).items()], names)
            live.put([(name, "1", "0", "locked", time) for name, time in times.items()], names)
            changes = [
                change(account_id=name, from_=value, to=70, log=70) for name, (_, value) in (points | wrong).items()
            ]
            since = "2024-02-28T12:00:00.120000Z"
            changes += [change(account_id=name, field="locked_at", from_=since, to=None, log=None) for name in times]
            run(live, sql_of(whole_plan(changes=changes), live, **fields))
            found = rows_of(live)
            assert {name: found[name][0] for name in points} == dict.fromkeys(points, "0.70")
            assert {name: found[name][0] for name in wrong} == {name: text for name, (text, _) in wrong.items()}
            assert {found[name][3] for name in times} == {None}
        finally:
            live.table.drop(live.engine)
            live.close()

    def test_integer_keys(self, store: Store, live_url: str) -> None:
        """Accounts that are numbers in the table are asked for as numbers."""
        live = Live(live_url, accounts_table(key=BigInteger()))
        try:
            ledger = stocked(store, live, ["7", "12"])
            ledger.open("seven")
            live.change(7, balance=0)
            live.remove(12)
            text = sql_of(plan_of(store, live, policy=EXPLAINED), live)
            assert "-- CANNOT BE WRITTEN: column 'account_id' has integers, and 'seven' is none" in text
            run(live, text)
            assert rows_of(live) == dict.fromkeys((7, 12), (70, 0, "active", None))
        finally:
            live.table.drop(live.engine)
            live.close()


def make_plan_of(store: Store, live: Live, fields: dict[str, Any]) -> Plan:
    """The plan for a table whose rows read in a way of their own."""
    return plan_of(store, table_of(live, **fields), policy=EXPLAINED)


class TestSqlite(LiveInSqlite, Contract):
    # Its collation takes one account for another, where only that is asked for.
    key = LiveInSqlite.key


class TestPostgres(LiveInPostgres, Contract):
    def test_strings_of_old_times(self, store: Store, live: Live) -> None:
        """Where the session takes backslashes in plain strings for escapes, ids mean the same."""
        stocked(store, live, EVIL)
        truth = rows_of(live)
        for account_id in EVIL:
            live.change(account_id, balance=100)
        # The server takes a whole script apart before it runs any of it, so a SET in it would come too late.
        run(live, sql_of(plan_of(store, live, policy=EXPLAINED), live), options="-c standard_conforming_strings=off")
        assert rows_of(live) == truth


class TestMariadb(LiveInMariadb, Contract):
    key = String(190)


TABLE = accounts_table()


def script(*changes: Any, dialect: str = "postgresql", **fields: Any) -> str:
    """The SQL of a plan of some changes."""
    return guarded_sql(whole_plan(changes=list(changes), **fields), dialect, TABLE, Mapping())


def test_a_remark_is_one_line() -> None:
    """No id and no reason ends a remark, whatever is in them."""
    evil = change(account_id="a\nb\r\u2028\x0b*/ /*", reason="why\n; DROP TABLE accounts;\x85 x")
    for dialect in ("sqlite", "postgresql", "mysql", "mariadb"):
        text = script(evil, dialect=dialect)
        remarks = [line for line in text.splitlines() if line.startswith("--")]
        assert not [line for line in remarks if "*/" in line or "/*" in line]
        assert [line for line in text.splitlines() if "DROP TABLE" in line and not line.startswith("-- ")] == []
        statements = [line for line in text.splitlines() if line and not line.startswith("--")]
        assert len([line for line in statements if line.startswith("UPDATE")]) == 1
        assert all(line.startswith(("SET", "BEGIN", "START", "UPDATE", "COMMIT")) for line in statements)


def test_what_is_said_at_the_top() -> None:
    """The head names plan, table and what the ledger has to do beside it."""
    text = script(change())
    plan = whole_plan(changes=[change()])
    assert plan.hash in text.splitlines()[0]
    assert "1 event to heal, 1 transaction to settle, 1 account to unlock" in text
    assert "UPDATE 1" in text
    assert ".changes on" in script(change(), dialect="sqlite")
    for dialect in ("mysql", "mariadb"):
        assert "1 row affected" in script(change(), dialect=dialect)
    assert text.count("BEGIN;") == text.count("COMMIT;") == 1
    assert "events to heal" not in script(change(), heal=[], settle=[], unlock=[])


def test_what_no_sql_is_written_for() -> None:
    """A dialect that is not known, and our own read model, are bad usage."""
    with pytest.raises(UsageError, match="no SQL is written for oracle"):
        script(change(), dialect="oracle")
    with pytest.raises(UsageError, match="made anew"):
        script(change(), target=Target(kind="read_model", table="x", database="y"))


def test_two_accounts_of_one_collation(store: Store, tmp_path: Path) -> None:
    """Where the collation takes two ids for one, only the row of the plan's own is written."""
    live = Live(f"sqlite:///{tmp_path}/other.db", accounts_table(key=String(40, collation="NOCASE"), is_keyed=False))
    try:
        stocked(store, live, ["A", "a"])
        live.change("a", balance=100)
        with live.writing() as connection:
            connection.exec_driver_sql("UPDATE accounts SET balance = 70 WHERE account_id = 'A' COLLATE BINARY")
        text = sql_of(plan_of(store, live, policy=EXPLAINED), live)
        with live.writing() as connection:
            connection.exec_driver_sql("UPDATE accounts SET balance = 100 WHERE account_id = 'A' COLLATE BINARY")
        run(live, text)
        assert {name: row[0] for name, row in rows_of(live).items()} == {"A": 100, "a": 70}
    finally:
        live.close()
