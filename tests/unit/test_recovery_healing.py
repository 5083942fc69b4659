"""What a copy of the stream would bring back, and what the plan says of these accounts as after that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from copies import ListCopy, everything, stream_of
from databases import OnPostgres, OnSqlite
from ledgers import change_event, lose_event, lose_head
from live_tables import Live, live_rows
from planned import NOW, START, by_field, left_of, plan_of, stocked
from samples import recorded

from ledger import Ledger, Store
from ledger.importing.healing import Records, Unread, heal
from replay import balances
from replay.recovery.healed import FilteredCopy
from replay.recovery.planning import Healing, Policy
from schemas import encode

ACCOUNTS = ["hole", "tail", "damaged", "whole", "gone"]


class Contract:
    """Plans with a copy to heal from."""

    @pytest.fixture
    def live(self, tmp_path: Path) -> Iterator[Live]:
        """The live table of another system."""
        live = Live(f"sqlite:///{tmp_path}/other.db")
        yield live
        live.close()

    def test_healed_accounts_are_planned_as_after_healing(self, store: Store, live: Live) -> None:
        """Lost events are listed with why, and live is compared with what the log says once they are back."""
        stocked(store, live, ACCOUNTS)
        truth = live_rows(store)
        copy = ListCopy(stream_of(store))
        lose_event(store, "hole", 2)
        lose_event(store, "tail", 3)
        lose_event(store, "gone")
        change_event(store, "damaged", 2, state=encode(recorded("damaged", 2, 5)))
        live.change("hole", balance=100)
        live.change("whole", balance=0)
        before = everything(store)
        plan = plan_of(store, live, policy=Policy(lowering="explained"), heal=Healing("file events.jsonl", copy))
        assert plan.heal_source == "file events.jsonl"
        assert {(each.account_id, each.version, each.why) for each in plan.heal} == {
            ("hole", 2, "hole"),
            ("tail", 3, "tail"),
            ("damaged", 2, "damaged"),
            *(("gone", version, "account") for version in (1, 2, 3)),
        }
        changes = by_field(plan)
        assert set(changes) == {("hole", "balance"), ("whole", "balance")}
        change = changes["hole", "balance"]
        assert (change.to, change.basis, change.cause, change.version) == (70, "log", "missed_event", 3)
        assert plan.left == []
        assert everything(store) == before
        assert heal(store, FilteredCopy(copy, [each.account_id for each in plan.heal])).verdict == "OK"
        assert live_rows(store) == truth

    def test_what_only_the_copy_has(self, store: Store, live: Live, tmp_path: Path) -> None:
        """Events that the store never had count as well: an account is compared as it will be with them."""
        stocked(store, live, ["a"])
        other = Store.at(tmp_path / "copy")
        try:
            copy = ListCopy(stream_of(store))
            heal(other, copy)
            ledger = Ledger(other, clock=lambda: START)
            ledger.credit("a", "later", 5)
            ledger.open("new")
            ledger.credit("new", "n1", 8)
            plan = plan_of(store, live, heal=Healing("topic t", ListCopy(stream_of(other))))
        finally:
            other.close()
        assert {(each.account_id, each.version, each.why) for each in plan.heal} == {
            ("a", 4, "new"),
            ("new", 1, "new"),
            ("new", 2, "new"),
        }
        changes = by_field(plan)
        assert (changes["a", "balance"].to, changes["a", "balance"].version) == (75, 3)
        assert (changes["new", "row"].cause, changes["new", "row"].version) == ("row_missing", None)


class TestSqlite(OnSqlite, Contract):
    pass


class TestPostgres(OnPostgres, Contract):
    pass


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """The live table of another system."""
    live = Live(f"sqlite:///{tmp_path}/other.db")
    yield live
    live.close()


def test_what_stays_parked(store: Store, live: Live) -> None:
    """What the copy has not, contradicts or cannot prove stays unknown, and is left with the reason."""
    stocked(store, live, ["lost", "other", "back"])
    copied = [[each for each in part if each and b'"lost"' not in each] for part in stream_of(store)]
    lose_event(store, "lost", 2)
    lose_event(store, "other", 2)
    lose_event(store, "back", 2)
    for part in copied:
        part[:] = [
            encode(recorded("other", 2, 99)) if b'"other"' in each and b'"version":2,' in each else each
            for each in part
        ]
    plan = plan_of(store, live, heal=Healing("file x", ListCopy(copied)))
    assert {each.account_id for each in plan.heal} == {"back"}
    assert {each.account_id: each.basis for each in plan.changes} == {"lost": "unknown", "other": "unknown"}
    reasons = [each.reason for each in left_of(plan, "other")]
    assert len(reasons) == 2
    assert "not the event that was appended" in " ".join(reasons)


def test_narrowed_to_some_accounts(store: Store, live: Live) -> None:
    """A plan of some accounts brings back events of these alone."""
    stocked(store, live, ACCOUNTS)
    copy = ListCopy(stream_of(store))
    lose_event(store, "hole", 2)
    lose_event(store, "tail", 3)
    plan = plan_of(store, live, accounts=["tail"], heal=Healing("file x", copy))
    assert [(each.account_id, each.version) for each in plan.heal] == [("tail", 3)]
    assert plan.changes == []


def test_stale_transactions_of_healed_accounts(store: Store, live: Live) -> None:
    """What is stale in an account that is healed is settled with the rest, and counts in what live gets."""
    ledger = stocked(store, None, ["a"])
    ledger.debit("a", "p", 20, status="pending")
    live.put(live_rows(store))
    copy = ListCopy(stream_of(store))
    lose_event(store, "a", 3)
    plan = plan_of(store, live, policy=Policy(settle="complete"), heal=Healing("file x", copy))
    assert [each.transaction_id for each in plan.settle] == ["p"]
    assert (by_field(plan)["a", "balance"].from_, by_field(plan)["a", "balance"].to) == (70, 50)
    heal(store, copy)
    ledger.complete("a", "p")
    assert balances(store, now=NOW).rows["balance"].to_list() == [50]


def test_a_lost_head(store: Store, live: Live) -> None:
    """A head that is lost comes back too, and nothing of the account is changed."""
    stocked(store, live, ["a", "b"])
    copy = ListCopy(stream_of(store))
    lose_head(store, "a")
    plan = plan_of(store, live, heal=Healing("file x", copy))
    assert [(each.account_id, each.version, each.why) for each in plan.heal] == [("a", 3, "head")]
    assert plan.changes == []
    assert plan.left == []


def test_what_the_copy_cannot_give(store: Store, live: Live) -> None:
    """What cannot be read of the copy is left, and said."""
    stocked(store, live, ["a"])
    unread = [Unread(2, 5, "corrupt", "a batch is damaged")]
    copy = ListCopy([*stream_of(store), [b"{}"]], unread=unread)
    lose_event(store, "a", 2)
    plan = plan_of(store, live, heal=Healing("topic t", copy))
    reasons = {(each.kind, each.account_id) for each in plan.left}
    assert ("unreadable", "") in reasons
    assert any("partition 2 from offset 5" in each.reason for each in plan.left)
    assert [each.why for each in plan.heal] == ["hole"]


def test_filtered_copy(store: Store) -> None:
    """A narrowed copy has all records of its accounts, where they are, and those that are of nobody."""
    stocked(store, None, ["a", "b"])
    copy = ListCopy([[*(each for part in stream_of(store) for each in part), None, b"no event"]], size=3)
    kept = [part for part in FilteredCopy(copy, ["b"]).records() if isinstance(part, Records)]
    values = [(offset, value) for part in kept for offset, value in zip(part.offsets, part.values, strict=True)]
    assert [value for _, value in values[-2:]] == [None, b"no event"]
    assert [offset for offset, _ in values[-2:]] == [6, 7]
    assert all(value is not None and b'"b"' in value for _, value in values[:-2])
    assert len(values) == 5
