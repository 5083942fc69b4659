"""The step that undoes stuck locks: none that was set since, none of a row that moved on, and each until it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ledgers import append
from live_tables import Live
from recoveries import NOW, approved, contents, live_of, planned, truth, work_on
from samples import opened, recorded

from console.reports.recovery import numbers_of
from ledger import Ledger, Store, audit
from replay.recovery.applying import Applied, apply, resume
from replay.recovery.decide import decide
from replay.recovery.failpoints import set_failpoints
from replay.recovery.plan import Plan
from replay.recovery.table_target import TableTarget
from schemas import format_time

LOCKED_AT = NOW - timedelta(days=5)
LATER = format_time(NOW - timedelta(minutes=1))


class Locked:
    """A ledger of one account with 100 points that has been locked for five days, and a live table that is right."""

    def __init__(self, store: Store, live: Live, data: Path) -> None:
        self.store, self.live, self.data = store, live, data
        append(store, opened("a"), recorded("a", 2, 100))
        Ledger(store, clock=lambda: LOCKED_AT).lock("a")
        live.put(truth(store))
        self.target = TableTarget(live_of(live))

    def plan(self) -> Plan:
        """What is planned of it now."""
        return planned(self.store, live_of(self.live))

    def run(self, what: Callable[..., Applied], plan: Plan) -> Applied:
        """Apply or resume a plan."""
        return what(work_on(self.store, plan, self.target, self.data))

    def status(self) -> str:
        """What the log says of it."""
        return Ledger(self.store).account("a").status

    def entries(self, run: str) -> list[audit.Recorded]:
        """What the trail says of a run."""
        with self.store.snapshot() as connection:
            return audit.entries(connection, run=run)


@pytest.fixture
def locked(store: Store, tmp_path: Path) -> Iterator[Locked]:
    """An account that is stuck."""
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        made = Locked(store, live, tmp_path / "data")
        yield made
        made.target.close()


@pytest.fixture
def at() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Let something happen at a named point of a run."""

    def put(point: str, happen: Callable[[], None]) -> None:
        set_failpoints(lambda name: happen() if name == point else None)

    yield put
    set_failpoints(None)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"locked_at": LATER}, "locked again"),
        ({"balance": 7}, "other points"),
        ({"frozen_amount": 7}, "other points"),
        ({"status": "closed", "locked_at": None}, "closed"),
        ({"status": "active", "locked_at": None}, "active"),
        ({"status": "odd"}, "cannot be read|can be read"),
    ],
)
def test_a_row_that_moved_on_stays_locked(locked: Locked, at: Any, columns: dict[str, Any], words: str) -> None:
    """What was changed after it was found equal is unlocked neither in the log nor in live, and the trail says why."""
    at("unlock:begun", lambda: locked.live.change("a", **columns))
    done = locked.run(apply, approved(locked.store, locked.plan()))
    assert locked.status() == "locked"
    expected = {"balance": 100, "frozen_amount": 0, "status": "locked", "locked_at": format_time(LOCKED_AT)} | columns
    assert contents(locked.live) == [("a", *expected.values())]
    assert done.steps["unlock"]["unlocked"] == 0
    ((account_id, reason),) = done.steps["unlock"]["not_unlocked"]
    assert account_id == "a"
    assert any(each in reason for each in words.split("|"))


def test_a_row_that_was_locked_again_since_the_plan_stays_locked(locked: Locked) -> None:
    """A lock that was set after the plan is another one, so neither log nor live is unlocked."""
    plan = approved(locked.store, locked.plan())
    locked.live.change("a", locked_at=LATER)
    locked.run(apply, plan)
    assert (locked.status(), contents(locked.live)) == ("locked", [("a", 100, 0, "locked", LATER)])


def test_a_row_that_moved_on_after_the_event_is_left(locked: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where live changes between the event and its row, the row stays as it is, and a person has to look."""
    from replay.recovery import steps_unlock

    unlock_in_log = steps_unlock.unlock_in_log

    def unlocked(*given: Any, **options: Any) -> bool:
        is_new = unlock_in_log(*given, **options)
        locked.live.change("a", locked_at=LATER)
        return is_new

    monkeypatch.setattr(steps_unlock, "unlock_in_log", unlocked)
    done = locked.run(apply, approved(locked.store, locked.plan()))
    assert contents(locked.live) == [("a", 100, 0, "locked", LATER)]
    assert (done.status, done.steps["unlock"]["unlocked"]) == ("manual_intervention_required", 1)
    ((account_id, reason),) = done.steps["unlock"]["not_in_live"]
    assert account_id == "a"
    assert "changed meanwhile" in reason


def test_what_was_not_unlocked_is_tried_again(locked: Locked) -> None:
    """A run that went on because a person mended the row unlocks it, and counts the account once."""
    locked.live.change("a", balance=93)
    plan = approved(locked.store, locked.plan())
    locked.live.change("a", balance=94)
    first = locked.run(apply, plan)
    assert (first.status, locked.status()) == ("manual_intervention_required", "locked")
    locked.live.change("a", balance=100)
    second = locked.run(resume, plan)
    assert second.steps["unlock"] == {"unlocked": 1, "not_unlocked": [], "not_in_live": []}
    assert contents(locked.live) == truth(locked.store) == [("a", 100, 0, "active", None)]
    numbers = numbers_of(locked.entries(second.run))
    assert (numbers["unlocked"], numbers["not_unlocked"]) == (1, 0)
    version = Ledger(locked.store).account("a").version
    assert locked.run(resume, plan).steps["unlock"] == {"unlocked": 1, "not_unlocked": [], "not_in_live": []}
    assert Ledger(locked.store).account("a").version == version


@pytest.mark.parametrize("balance", [113, 60])
def test_a_locked_account_is_adjusted_and_then_unlocked(locked: Locked, balance: int) -> None:
    """What a person decided is booked whatever the lock, so that the account is equal and the lock can be undone."""
    locked.live.change("a", balance=113)
    plan = decide(
        locked.plan(), account_ids=["a"], action="adjust", balance=balance, by="ann", reason="counted", now=NOW
    )
    done = locked.run(apply, approved(locked.store, plan))
    assert (done.status, done.results["adjusted"], done.results["unlocked"]) == ("completed", 1, 1)
    assert contents(locked.live) == truth(locked.store) == [("a", balance, 0, "active", None)]
