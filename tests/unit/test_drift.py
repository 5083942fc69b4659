"""What drift compares of foreign rows, and how it names events."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from ledgers import NOW, append, lose_event
from msgspec.structs import replace
from samples import account_stream

from consumers.projector import project
from ledger import Ledger, Store
from replay import balances, drift
from schemas.errors import RefusedError

FOREIGN = ("account_id", "balance", "frozen", "status", "locked_at")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with two accounts whose events have ids of their own."""
    store = Store.at(tmp_path)
    for account_id in ("a", "b"):
        append(store, *(replace(e, event_id=f"own-{account_id}-{e.version}") for e in account_stream(account_id, 3)))
    yield store
    store.close()


def test_events_are_named_by_their_own_ids(store: Store) -> None:
    """A missed event, one applied twice, a row that stopped and a row that is missing name ids as the events do."""
    rows = balances(store, now=NOW).rows.select(FOREIGN)
    for live, expected in (
        (10, ("missed_event", "own-a-2")),
        (30, ("applied_twice", "own-a-2")),
        (None, ("row_missing", "own-a-1")),
    ):
        hurt = rows.filter((pl.col("account_id") != "a") | pl.lit(live is not None)).with_columns(
            balance=pl.when(pl.col("account_id") == "a").then(pl.lit(live, pl.Int64)).otherwise("balance")
        )
        (found,) = drift(store, live=hurt).accounts
        assert (found.cause, found.first_event) == expected


def test_a_row_that_stopped_names_the_next_event_by_its_own_id(store: Store) -> None:
    """Where live is two events behind, the first of them is named."""
    append(store, *(replace(e, event_id=f"own-c-{e.version}") for e in account_stream("c", 4)))
    rows = balances(store, now=NOW).rows.select(FOREIGN)
    hurt = rows.with_columns(balance=pl.when(pl.col("account_id") == "c").then(10).otherwise("balance"))
    (found,) = drift(store, live=hurt).accounts
    assert (found.cause, found.first_event) == ("missed_event", "own-c-3")


def test_a_foreign_row_without_a_lock_time_is_not_compared_in_it(store: Store) -> None:
    """A live table that knows no lock times is equal, and one that has another lock time is not."""
    Ledger(store, clock=lambda: NOW).lock("a")
    rows = balances(store, now=NOW).rows.select(FOREIGN)
    assert rows["locked_at"].to_list() == [NOW, None]
    assert drift(store, live=rows).verdict == "EQUAL"
    assert drift(store, live=rows.with_columns(locked_at=pl.lit(None, rows.schema["locked_at"]))).verdict == "EQUAL"
    later = rows.with_columns(pl.col("locked_at").dt.offset_by("1s"))
    assert [(each.account_id, each.field) for each in drift(store, live=later).accounts] == [("a", "locked_at")]


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 7, 100])
def test_however_few_rows_are_compared_at_once_all_are(tmp_path, monkeypatch, rows_at_once):
    """Every account of either side is compared once, those before, between and after the other side's among them."""
    monkeypatch.setattr(sys.modules["replay.drift"], "_COMPARED_ROWS", rows_at_once)
    store = Store.at(tmp_path / "many")
    append(store, *(event for name in "bcdefgh" for event in account_stream(name, 2)))
    rows = balances(store, now=NOW).rows.select(FOREIGN)
    assert drift(store, live=rows.sample(fraction=1, shuffle=True, seed=1)).verdict == "EQUAL"
    renamed = pl.col("account_id").replace({"b": "a", "e": "e2", "h": "z"})
    found = drift(store, live=rows.with_columns(renamed).filter(pl.col("account_id") != "f"))
    store.close()
    assert (found.compared, found.drifted) == (10, 7)
    assert [(each.account_id, each.cause) for each in found.accounts] == [
        ("a", "row_extra"),
        ("b", "row_missing"),
        ("e", "row_missing"),
        ("e2", "row_extra"),
        ("f", "row_missing"),
        ("h", "row_missing"),
        ("z", "row_extra"),
    ]


def test_a_lock_that_live_missed_is_named(store: Store) -> None:
    """A live row that is still active is one that missed the lock, where its table keeps lock times or not."""
    Ledger(store, clock=lambda: NOW).lock("a")
    rows = balances(store, now=NOW).rows.select(FOREIGN)
    active = rows.with_columns(status=pl.lit("active"), locked_at=pl.lit(None, rows.schema["locked_at"]))
    (found,) = drift(store, live=active).accounts
    assert (found.field, found.cause, found.first_event) == ("status", "missed_event", "a:4")


@pytest.mark.parametrize(("column", "value"), [("balance", "abc"), ("locked_at", "yesterday"), ("chain", 7)])
def test_a_value_that_no_column_takes_is_drift_of_its_row(store: Store, column: str, value: object) -> None:
    """A value of another type in the read model, which only a hand can write, is told, and hides no other row."""
    append(store, *account_stream("c", 3))
    project(store)
    _by_hand(store, "b", column, value)
    _by_hand(store, "c", "frozen", 4)
    found = drift(store, live="read_model")
    assert (found.verdict, found.compared, found.drifted) == ("DRIFT", 3, 2)
    assert [(each.account_id, each.field, each.live, each.cause) for each in found.accounts] == [
        ("b", column, value, "foreign_write"),
        ("c", "frozen", 4, "foreign_write"),
    ]


def test_a_row_of_such_a_value_may_be_extra_or_parked(store: Store) -> None:
    """Where the log has no such account all of the row is drift; where its log is damaged, nothing is said of it."""
    project(store)
    _by_hand(store, "b", "balance", "abc")
    _by_hand(store, "b", "account_id", "z")
    lose_event(store, "a", 2)
    _by_hand(store, "a", "balance", "abc")
    found = drift(store, live="read_model")
    assert (found.verdict, found.compared, found.uncompared) == ("INCOMPARABLE", 2, ["a"])
    assert {each.account_id for each in found.accounts} == {"b", "z"}
    assert ("z", "balance", "abc", None) in {(e.account_id, e.field, e.live, e.replayed) for e in found.accounts}


def test_an_account_of_another_type_is_refused(store: Store) -> None:
    """Whose row it is nobody can say, so the row is named as it is."""
    project(store)
    _by_hand(store, "b", "account_id", b"b")
    with pytest.raises(RefusedError, match="the row of b'b'"):
        drift(store, live="read_model")


def _by_hand(store: Store, account_id: str, column: str, value: object) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE ledger_accounts SET {column} = ? WHERE account_id = ?", (value, account_id))
