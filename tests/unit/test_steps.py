"""Accounts replayed alone: what each step has, where it stops, and which rows can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from ledgers import NOW, account_rows, change_event, lose_event, positions, write_history
from memory_source import MemorySource
from msgspec.structs import replace
from samples import START, account_stream, opened, recorded

from consumers import project
from ledger import Ledger, Store
from ledger.read_model import ROW_SCHEMA
from replay import StoreSource
from replay.steps import STEPS_SCHEMA, Steps, steps
from schemas import AMOUNT_MAX, AccountClosed, AccountLocked, AccountUnlocked, event_id


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with four accounts of eight events each and a lock."""
    store = Store.at(tmp_path)
    write_history(store)
    yield store
    store.close()


def steps_in(store: Store, *account_ids: str) -> Steps:
    """The steps of some accounts at the head."""
    with StoreSource.snapshot(store) as source:
        return steps(source, account_ids, until=source.head())


def of_account(cls, version):
    """A status event of account `a`."""
    moment = START.replace(hour=version)
    key = {"event_id": event_id("a", version), "account_id": "a", "version": version}
    return cls(**key, effective_at=moment, recorded_at=moment)


def test_steps_are_of_the_accounts_that_were_asked_for(store):
    """One row an event in order, of these accounts alone, and an account that nobody knows has none."""
    found = steps_in(store, "acc-3", "nobody", "acc-1")
    assert found.frame.schema == STEPS_SCHEMA
    asked = [("acc-1", version) for version in range(1, 10)] + [("acc-3", version) for version in range(1, 9)]
    assert found.frame.select("account_id", "version").rows() == asked
    assert found.parked == {}
    assert found.frame.filter(account_id="acc-3")["position"].to_list() == list(positions(store, "acc-3").values())


def test_a_step_has_its_event_its_worth_and_what_it_leaves(store):
    """The worth is what this event alone changes, and what it leaves is the sum of all up to it."""
    found = steps_in(store, "acc-2").frame.row(by_predicate=pl.col("version") == 7, named=True)
    said = {name: found[name] for name in ("event", "event_id", "transaction_id", "type", "amount", "to_status")}
    assert said == {
        "event": "transaction.status_changed",
        "event_id": "acc-2:7",
        "transaction_id": "acc-2-f1",
        "type": "debit",
        "amount": 7,
        "to_status": "completed",
    }
    assert (found["balance"], found["frozen"], found["pending_credit"], found["pending_debit"]) == (-7, -7, 0, 0)
    assert (found["after_balance"], found["after_frozen"], found["after_pending_credit"]) == (973, 21, 302)


def test_the_status_is_that_of_the_last_status_event():
    """Before the first the account is active, a lock time goes with its lock, and the first closing stays."""
    events = [
        opened("a"),
        of_account(AccountLocked, 2),
        recorded("a", 3),
        of_account(AccountUnlocked, 4),
        of_account(AccountClosed, 5),
        of_account(AccountClosed, 6),
    ]
    frame = steps(MemorySource(events), ["a"], until=6).frame
    after = ("after_status", "after_locked_at", "after_status_version", "after_closed_version")
    locked_at = events[1].effective_at
    assert frame.select(after).rows() == [
        ("active", None, None, None),
        ("locked", locked_at, 2, None),
        ("locked", locked_at, 2, None),
        ("active", None, 4, None),
        ("closed", None, 5, 5),
        ("closed", None, 6, 5),
    ]
    told = ("told_status", "told_locked_at", "told_closed_version")
    assert frame.select(told).rows() == [
        (None, None, None),
        ("locked", locked_at, None),
        (None, None, None),
        ("active", None, None),
        ("closed", None, 5),
        ("closed", None, 6),
    ]


def test_rows_are_those_of_the_read_model(store):
    """At the head the last steps are the rows that the projector wrote, column by column."""
    Ledger(store, clock=lambda: NOW).unlock("acc-1")
    project(store)
    rows = steps_in(store, "acc-1", "acc-2", "acc-3", "acc-4").rows()
    assert rows.schema == ROW_SCHEMA
    assert rows.equals(account_rows(store))


def test_rows_can_be_asked_for_at_a_version_a_position_or_a_transaction(store):
    """Any filter on the steps gives the last step that it lets through."""
    found = steps_in(store, "acc-2", "acc-3")
    place = positions(store, "acc-2")[3]
    for at, expected in (
        (pl.col("version") <= 3, [("acc-2", 3, 980), ("acc-3", 3, 970)]),
        (pl.col("position") <= place, [("acc-2", 3, 980), ("acc-3", 2, 1000)]),
        (pl.col("transaction_id") == "acc-2-f1", [("acc-2", 7, 973)]),
        (pl.col("version") > 99, []),
    ):
        assert found.rows(at).select("account_id", "version", "balance").rows() == expected


def test_an_account_behind_a_hole_has_the_steps_before_it(store):
    """A lost event parks its account alone, and its steps end there."""
    lose_event(store, "acc-2", 5)
    found = steps_in(store, "acc-2", "acc-3")
    assert {name: (parked.reason, parked.version) for name, parked in found.parked.items()} == {
        "acc-2": ("version_gap", 5)
    }
    assert found.frame.group_by("account_id", maintain_order=True).len().rows() == [("acc-2", 4), ("acc-3", 8)]


def test_damage_of_every_kind_parks_the_account(store):
    """Changed bytes, a lost end and a lost whole are named, and an account that is not asked for is not."""
    change_event(store, "acc-1", 3, state=b"{}")
    lose_event(store, "acc-2", 8)
    lose_event(store, "acc-3")
    lose_event(store, "acc-4", 2)
    found = steps_in(store, "acc-1", "acc-2", "acc-3")
    assert {name: parked.reason for name, parked in found.parked.items()} == {
        "acc-1": "poison_event",
        "acc-2": "head_mismatch",
        "acc-3": "head_mismatch",
    }
    assert found.frame["account_id"].unique().sort().to_list() == ["acc-1", "acc-2"]


def test_the_chain_is_made_where_the_source_has_none():
    """Events of a source without chains have the chain that their bytes make."""
    events = [*account_stream("a", 4), *account_stream("b", 3)]
    bare = steps(MemorySource(events, batch_events=2, is_chained=False), ["a", "b"], until=7)
    chained = steps(MemorySource(events), ["a", "b"], until=7)
    assert bare.frame["after_chain"].null_count() == 0
    assert bare.frame.equals(chained.frame)


def test_a_sum_past_int64_is_parked_at_the_end_and_has_no_row_on_the_way():
    """Where the sum comes back the account is whole, and only what was past int64 has no row."""
    events = [opened("a"), recorded("a", 2, AMOUNT_MAX), recorded("a", 3, 1), recorded("a", 4, 5, type="debit")]
    found = steps(MemorySource(events), ["a"], until=4)
    assert found.parked == {}
    assert found.rows()["balance"].to_list() == [AMOUNT_MAX - 4]
    assert found.rows(pl.col("version") <= 3).is_empty()
    assert steps(MemorySource(events[:3]), ["a"], until=3).parked["a"].reason == "overflow"


def test_an_event_id_is_the_one_that_the_event_says():
    """An event with an id of its own keeps it."""
    events = [replace(event, event_id=f"own-{event.version}") for event in account_stream("a", 3)]
    assert steps(MemorySource(events), ["a"], until=3).frame["event_id"].to_list() == ["own-1", "own-2", "own-3"]
