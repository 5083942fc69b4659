"""Stale pending transactions in a plan: by policy, decided by the account, and worth what a replay says afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledgers import append
from live_tables import Live, live_rows
from planned import NOW, START, by_field, left_of, plan_of, stocked
from samples import opened, recorded

from ledger import Ledger, Store
from replay import balances, rebuild
from replay.recovery.basis import SETTLED
from replay.recovery.plan import Plan
from replay.recovery.planning import Policy
from schemas import TransactionStatusChanged, event_id

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """The live table of another system."""
    live = Live(f"sqlite:///{tmp_path}/other.db")
    yield live
    live.close()


def carried_out(store: Store, plan: Plan, at: datetime = LATER) -> None:
    """Append the settlements of a plan, in its order, as the step of a recovery does."""
    ledger = Ledger(store, clock=lambda: at)
    for each in plan.settle:
        command = ledger.complete if each.action == "complete" else ledger.cancel
        command(each.account_id, each.transaction_id)


def corrected(live: Live, plan: Plan) -> None:
    """Write what the plan says into live."""
    columns = {"balance": "balance", "frozen": "frozen_amount", "status": "status", "locked_at": "locked_at"}
    for each in plan.changes:
        live.change(each.account_id, **{columns[each.field]: each.to})


def pendings(store: Store, live: Live | None) -> None:
    """Write an account of every kind that has something pending."""
    ledger = stocked(store, None, ["gift", "order", "none", "poor", "both", "held"])
    ledger.credit("gift", "g1", 5, status="pending", business_code="gift")
    ledger.debit("order", "o1", 9, status="pending", business_code="order.payment")
    ledger.credit("none", "n1", 5, status="pending")
    ledger.debit("poor", "p1", 500, status="pending", business_code="order.payment")
    ledger.debit("both", "b1", 90, status="pending", business_code="order.payment")
    ledger.credit("both", "b2", 40, status="pending", business_code="order.payment")
    ledger.debit("held", "h1", 7, status="pending", business_code="order.payment")
    ledger.freeze("held", "h1")
    if live is not None:
        live.put(live_rows(store))


CODES: dict[str, Any] = {"lowering": "explained", "settle_codes": {"gift": "cancel", "order.payment": "complete"}}


def test_by_business_code(store: Store, live: Live) -> None:
    """A business code has its policy, what has none is left, and what the account refuses is left with the reason."""
    pendings(store, live)
    plan = plan_of(store, live, policy=Policy(**CODES))
    made = {each.transaction_id: (each.account_id, each.action, each.type, each.amount) for each in plan.settle}
    assert made == {
        "g1": ("gift", "cancel", "credit", 5),
        "o1": ("order", "complete", "debit", 9),
        "b1": ("both", "complete", "debit", 90),
        "b2": ("both", "complete", "credit", 40),
    }
    assert [each.transaction_id for each in plan.settle if each.account_id == "both"] == ["b2", "b1"]
    assert {each.business_code for each in plan.settle} == {"gift", "order.payment"}
    assert left_of(plan, "none")[0].reason == "No policy says what becomes of it."
    assert (left_of(plan, "none")[0].kind, left_of(plan, "none")[0].transactions) == ("stale_pending", ["n1"])
    assert "500 points asked for, 70 available" in left_of(plan, "poor")[0].reason


def test_by_default(store: Store, live: Live) -> None:
    """What no business code decides goes by the default."""
    pendings(store, live)
    plan = plan_of(store, live, policy=Policy(settle="cancel", settle_codes={"gift": "complete"}))
    assert {(each.transaction_id, each.action) for each in plan.settle} == {
        ("g1", "complete"),
        *((each, "cancel") for each in ("o1", "n1", "p1", "b1", "b2")),
    }


def test_without_a_policy(store: Store, live: Live) -> None:
    """Without any policy nothing is settled, and everything stale is left for a person."""
    pendings(store, live)
    plan = plan_of(store, live)
    assert plan.settle == []
    assert {each.transactions[0] for each in plan.left} == {"g1", "o1", "n1", "p1", "b1", "b2"}


def test_what_is_planned_is_what_a_replay_says(store: Store, live: Live) -> None:
    """Once events and corrections are made, live is what a replay says, also of accounts that differed before."""
    pendings(store, live)
    live.change("order", balance=3)
    live.change("both", balance=100)
    plan = plan_of(store, live, policy=Policy(**CODES))
    changes = by_field(plan)
    assert (changes["both", "balance"].to, changes["both", "balance"].cause) == (20, "missed_event")
    assert (changes["order", "balance"].from_, changes["order", "balance"].to) == (3, 61)
    assert not [each for each in plan.changes if each.account_id == "gift"]
    carried_out(store, plan)
    corrected(live, plan)
    after = plan_of(store, live, policy=Policy(**CODES), now=LATER)
    assert (after.changes, after.settle) == ([], [])


def test_an_equal_account_changes_by_its_settlement(store: Store, live: Live) -> None:
    """An account that is equal now is changed by the event that the plan appends, and says so."""
    pendings(store, live)
    change = by_field(plan_of(store, live, policy=Policy(**CODES)))["order", "balance"]
    assert (change.from_, change.to, change.basis, change.cause) == (70, 61, "log", SETTLED)
    assert change.reason == "By this plan transaction 'o1' is completed."


def test_an_account_that_waits_is_not_settled(store: Store, live: Live) -> None:
    """Nothing is settled of an account that waits for a person, nor is live lowered where it differs."""
    pendings(store, live)
    live.change("order", balance=75)
    plan = plan_of(store, live, policy=Policy(**CODES))
    assert "waits for a person" in left_of(plan, "order")[0].reason
    assert by_field(plan)["order", "balance"].log == 70
    live.change("both", balance=10)
    careful = plan_of(store, live, policy=Policy(settle_codes=CODES["settle_codes"]))
    assert {each.transaction_id for each in careful.settle} == {"g1", "b2"}
    assert by_field(careful)["both", "balance"].to == 110
    assert "to complete it would lower live" in left_of(careful, "both")[0].reason


def test_the_policy_settles_what_is_equal_by_default(store: Store, live: Live) -> None:
    """A debit that the policy completes lowers an account whose live row is right: that was said beforehand."""
    pendings(store, live)
    plan = plan_of(store, live, policy=Policy(settle_codes=CODES["settle_codes"]))
    assert {each.transaction_id for each in plan.settle} == {"g1", "o1", "b1", "b2"}
    assert (by_field(plan)["order", "balance"].to, by_field(plan)["order", "balance"].basis) == (61, "log")


def test_an_account_that_went_on(store: Store) -> None:
    """An account that has moved past the position of our own read model is left, and settled by the next plan."""
    pendings(store, None)
    rebuild(store, promote=True)
    Ledger(store, clock=lambda: START).credit("order", "later", 1)
    plan = plan_of(store, None, policy=Policy(**CODES))
    assert "moved on while it was planned" in left_of(plan, "order")[0].reason
    assert {each.account_id for each in plan.settle} == {"gift", "both"}


def test_own_read_model_after_settling(store: Store) -> None:
    """What is planned of our own read model is what a replay says after the events, but for what only they can say."""
    pendings(store, None)
    rebuild(store, promote=True)
    plan = plan_of(store, None, policy=Policy(**CODES))
    planned = {(each.account_id, each.field): each.to for each in plan.changes}
    assert planned["both", "version"] == 7
    carried_out(store, plan)
    rows = {row["account_id"]: row for row in balances(store, now=LATER).rows.to_dicts()}
    assert planned == {(name, field): rows[name][field] for name, field in planned}
    assert {name for name, _ in planned} == {"gift", "order", "both"}


def test_made_pending_again(store: Store, live: Live) -> None:
    """A transaction that was completed before, and that a later event made pending again, is left."""
    first = recorded("a", 2)
    back = TransactionStatusChanged(
        event_id=event_id("a", 3),
        account_id="a",
        version=3,
        effective_at=first.effective_at,
        recorded_at=first.recorded_at,
        transaction_id=first.transaction_id,
        type="credit",
        amount=10,
        from_status="completed",
        to_status="pending",
    )
    append(store, opened("a"), first, back)
    live.put(live_rows(store))
    plan = plan_of(store, live, policy=Policy(settle="complete"))
    assert plan.settle == []
    assert "made it pending again" in left_of(plan, "a")[0].reason
