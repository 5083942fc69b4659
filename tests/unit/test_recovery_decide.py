"""Decisions on what the log alone cannot say: what they make of a plan, and those that are not to be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from planned import NOW, change, whole_plan

from replay.recovery.decide import decide
from replay.recovery.plan import Change, Plan, Target, read_plan, write_plan
from schemas.errors import RefusedError, UsageError

ROW = '{"balance":5,"frozen":0,"status":"active","locked_at":null}'


def waiting(account_id: str, cause: str = "foreign_write", **fields: Any) -> Change:
    """A change that waits for a person: live has 150 points, and the log says 100."""
    content = {"account_id": account_id, "basis": "unknown", "cause": cause, "from_": 150, "to": None, "log": 100}
    return change(**content | fields)


def plan(**fields: Any) -> Plan:
    """A plan with one account of every kind that waits, and one that does not."""
    changes = [
        change(account_id="log"),
        waiting("more"),
        waiting("more", field="frozen", from_=7, log=0),
        waiting("frozen", field="frozen", from_=7, log=0),
        waiting("parked", "log_damaged", from_=40, log=None),
        waiting("nowhere", "log_damaged", field="row", from_=None, log=None),
        waiting("extra", "row_extra", field="row", from_=ROW, log=None),
        waiting("below", from_=-5, log=-9),
    ]
    return whole_plan(**{"changes": changes} | fields)


def decided(made: Plan, **fields: Any) -> Plan:
    """The plan with a decision of Eve's."""
    return decide(made, **{"by": "eve", "reason": "we counted", "now": NOW, "action": "accept"} | fields)


def to_of(made: Plan, account_id: str) -> dict[str, Any]:
    """What live gets, by field."""
    return {each.field: each.to for each in made.changes if each.account_id == account_id}


def test_accept_takes_what_the_log_says(tmp_path: Path) -> None:
    """An accepted account whose log is whole gets the log's values, and the plan is another one by its hash."""
    before = plan()
    after = decided(before, account_ids=["more"])
    assert to_of(after, "more") == {"balance": 100, "frozen": 0}
    said = next(each for each in after.changes if each.account_id == "more").decision
    assert said is not None
    assert (said.action, said.by, said.reason, said.balance) == ("accept", "eve", "we counted", None)
    assert after.hash != before.hash
    assert {each.account_id for each in after.undecided()} == {"frozen", "parked", "nowhere", "extra", "below"}
    write_plan(after, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == after


def test_accept_of_what_nobody_vouches_for_leaves_live_alone() -> None:
    """An accepted account that the log cannot vouch for stays in live as it is, whether it has a row or none."""
    after = decided(plan(), account_ids=["parked", "nowhere"])
    assert (to_of(after, "parked"), to_of(after, "nowhere")) == ({"balance": 40}, {"row": None})


def test_accept_of_an_extra_row_takes_it_away() -> None:
    """Of a row that the log never heard of, accepted is what the log says: there is no such row."""
    assert to_of(decided(plan(), account_ids=["extra"]), "extra") == {"row": None}


def test_adjust_is_to_what_live_has() -> None:
    """An adjusted account has the balance that live has now, and what else differs is the log's."""
    after = decided(plan(), account_ids=["more"], action="adjust")
    assert to_of(after, "more") == {"balance": 150, "frozen": 0}
    assert {each.decision.balance for each in after.changes if each.decision} == {150}


def test_adjust_to_a_balance() -> None:
    """Given a balance, it is that one: of an account with a row, and of one without."""
    assert to_of(decided(plan(), account_ids=["more"], action="adjust", balance=120), "more")["balance"] == 120
    assert to_of(decided(plan(), account_ids=["parked"], action="adjust", balance=0), "parked") == {"balance": 0}
    row = to_of(decided(plan(), account_ids=["nowhere"], action="adjust", balance=9), "nowhere")["row"]
    assert msgspec.json.decode(row) == {"balance": 9, "frozen": 0, "status": "active", "locked_at": None}


def test_all_of_a_class_and_all() -> None:
    """A decision on a class, or on all, is on what is undecided; what was decided before stays."""
    first = decided(plan(), account_ids=["more"], action="adjust")
    of_class = decided(first, cause="foreign_write")
    assert {each.account_id for each in of_class.undecided()} == {"parked", "nowhere", "extra"}
    assert to_of(of_class, "more")["balance"] == 150
    assert not decided(first).undecided()


def test_the_last_word_counts() -> None:
    """An account that is named may be decided again, and goes by what was said last."""
    first = decided(plan(), account_ids=["more"], action="adjust")
    assert to_of(decided(first, account_ids=["more"], by="bob"), "more") == {"balance": 100, "frozen": 0}


@pytest.mark.parametrize(
    ("account_id", "fields", "words"),
    [
        ("log", {}, "the log explains it"),
        ("log", {"action": "adjust"}, "the log explains it"),
        ("frozen", {"action": "adjust"}, "a transaction changes nothing else"),
        ("extra", {"action": "adjust"}, "the log has no such account"),
        ("below", {"action": "adjust"}, "-5 is no balance"),
        ("more", {"action": "adjust", "balance": -1}, "-1 is no balance"),
        ("more", {"action": "adjust", "balance": 2**63}, "is no balance"),
        ("more", {"action": "adjust", "balance": 100}, "the log says 100 already"),
        ("below", {"action": "adjust", "balance": 2**63 - 1}, "no one transaction"),
    ],
)
def test_what_is_not_to_be_decided(account_id: str, fields: dict[str, Any], words: str) -> None:
    """A decision that makes no sense is REFUSED with the account and what to do instead."""
    with pytest.raises(RefusedError, match=words) as raised:
        decided(plan(), account_ids=[account_id], **fields)
    assert account_id in str(raised.value)
    assert raised.value.next_step


def test_one_that_cannot_be_decided_leaves_all_undecided() -> None:
    """A decision on several accounts is on all of them or on none."""
    with pytest.raises(RefusedError, match="account 'frozen'"):
        decided(plan(), cause="foreign_write", action="adjust")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"account_ids": ["none"]}, "nothing of account 'none'"),
        ({"cause": "missed_event"}, "nothing undecided of class 'missed_event'"),
        ({"account_ids": ["parked"], "cause": "row_extra"}, "not of class 'row_extra'"),
        ({"account_ids": ["more"], "balance": 3}, "a balance is for adjusting one account"),
        ({"account_ids": ["more", "parked"], "action": "adjust", "balance": 3}, "a balance is for adjusting"),
        ({"account_ids": ["nowhere"], "action": "adjust"}, "live has no balance"),
        ({"account_ids": ["more"], "reason": " "}, "who makes it, and why"),
        ({"account_ids": ["more"], "by": ""}, "who makes it, and why"),
    ],
)
def test_bad_arguments(fields: dict[str, Any], words: str) -> None:
    """What a decision cannot be made of is bad usage, and says so."""
    with pytest.raises(UsageError, match=words):
        decided(plan(), **fields)


@pytest.mark.parametrize("action", ["adjust", "accept"])
def test_our_own_read_model_has_only_what_the_log_says(action: str) -> None:
    """Of a parked account of our own read model nothing can be decided, since no rebuild with it goes live."""
    own = plan(target=Target(kind="read_model", table="ledger_accounts", database="sqlite:///x"))
    with pytest.raises(RefusedError, match="our own read model") as raised:
        decided(own, account_ids=["parked"], action=action)
    assert "heal" in raised.value.next_step
    with pytest.raises(RefusedError, match="account 'parked'"):
        decided(own, cause="log_damaged", action=action)
    assert to_of(decided(own, account_ids=["more"]), "more") == {"balance": 100, "frozen": 0}
