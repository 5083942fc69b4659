"""The steps of a recovery that append: nothing of it when the account or its live row is not what was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from copies import ListCopy, stream_of
from ledgers import lose_event, lose_head, positions
from live_tables import Live, accounts_table
from recoveries import NOW, approved, contents, live_of, truth, work_on
from samples import opened, recorded, store_rows
from sqlalchemy import text

from ledger import Ledger, Store, audit
from ledger.importing.healing import Unread
from ledger.recovery_runs import Runs
from replay.recovery.abort import Aborted
from replay.recovery.applying import Applied, abort, apply, resume
from replay.recovery.decide import decide
from replay.recovery.failpoints import set_failpoints
from replay.recovery.healed import Healing
from replay.recovery.plan import Plan, run_of
from replay.recovery.planning import Policy, make_plan
from replay.recovery.table_target import TableTarget
from replay.recovery.work import Surroundings
from schemas import Event
from schemas.errors import RefusedError, StoreError

NEEDS_PERSON = "manual_intervention_required"


class Scene:
    """A ledger of a few events, and a live table that has what they come to."""

    def __init__(self, store: Store, live: Live, data: Path) -> None:
        self.store, self.live, self.data = store, live, data
        self.target = TableTarget(live_of(live))

    def ledger(self, ago: timedelta = timedelta()) -> Ledger:
        """Commands given some time before the plan is made."""
        return Ledger(self.store, clock=lambda: NOW - ago)

    def begin(self, *events: Event) -> None:
        """Append events, and make live equal."""
        with self.store.appending() as connection:
            self.store.append_rows(connection, store_rows(events))
        self.put()

    def put(self) -> None:
        """Make live equal to the log."""
        with self.live.writing() as connection:
            connection.execute(self.live.table.delete())
        self.live.put(truth(self.store))

    def row(self, account_id: str) -> tuple[Any, ...]:
        """The live row of an account, without its name."""
        return next(row[1:] for row in contents(self.live) if row[0] == account_id)

    def plan(self, settle: Literal["complete", "cancel"] | None = "cancel", **options: Any) -> Plan:
        """A plan, not yet approved."""
        return make_plan(self.store, self.target.live, policy=Policy(settle=settle), now=NOW, by="p", **options)

    def approved(self, plan: Plan) -> Plan:
        """The plan, approved."""
        return approved(self.store, plan)

    def adjusting(self, plan: Plan, account_id: str) -> Plan:
        """The plan with a decision that an account keeps what live has."""
        changed = decide(plan, account_ids=[account_id], action="adjust", by="ann", reason="counted", now=NOW)
        return self.approved(changed)

    def apply(self, plan: Plan, **options: Any) -> Applied:
        """Apply it."""
        return apply(work_on(self.store, plan, self.target, self.data, **options))

    def resume(self, plan: Plan, **options: Any) -> Applied:
        """Go on with it."""
        return resume(work_on(self.store, plan, self.target, self.data, **options))

    def abort(self, plan: Plan) -> Aborted:
        """Give it up."""
        return abort(work_on(self.store, plan, self.target, self.data), reason="later")

    def entries(self, plan: Plan, *actions: str) -> list[tuple[str | None, dict[str, Any]]]:
        """The entries of some actions: account and details."""
        with self.store.snapshot() as connection:
            found = audit.entries(connection, run=run_of(plan), actions=actions)
        return [(each.account_id, each.details) for each in found]


@pytest.fixture
def scene(store: Store, tmp_path: Path) -> Iterator[Scene]:
    """A ledger and a live table without rows."""
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        scene = Scene(store, live, tmp_path / "data")
        yield scene
        scene.target.close()


@contextmanager
def failing(point: str) -> Iterator[None]:
    """Let runs end at a point."""

    def look(name: str) -> None:
        if name == point:
            raise OSError("no more")

    set_failpoints(look)
    try:
        with pytest.raises(StoreError, match="no more"):
            yield
    finally:
        set_failpoints(None)


def _move_in_log(scene: Scene) -> None:
    scene.ledger().credit("a", "purchase", 500)
    scene.live.change("a", balance=613)


def _change_live(scene: Scene) -> None:
    scene.live.change("a", balance=100)
    scene.live.change("a", balance=77)


@pytest.mark.parametrize(("change", "log"), [(_move_in_log, 600), (_change_live, 100)])
def test_an_adjustment_is_not_booked_where_the_account_is_not_as_planned(
    scene: Scene, change: Callable[[Scene], None], log: int
) -> None:
    """An event or another live row since the plan: nothing is appended, live stays, and a person is told."""
    scene.begin(opened("a"), recorded("a", 2, 100))
    scene.live.change("a", balance=113)
    plan = scene.adjusting(scene.plan(), "a")
    change(scene)
    before = contents(scene.live)
    done = scene.apply(plan)
    assert scene.ledger().account("a").balance == log
    assert contents(scene.live) == before
    assert (done.status, done.results["adjusted"]) == (NEEDS_PERSON, 0)
    assert [name for name, _, _ in done.steps["settle"]["refused"]] == ["a"]
    assert scene.entries(plan, "account.adjusted") == []


def test_an_adjustment_follows_what_its_own_run_brought_back(scene: Scene, tmp_path: Path) -> None:
    """An event behind the planned version that the same run healed is not taken for another's."""
    scene.begin(opened("a"), recorded("a", 2, 100), recorded("a", 3, 7))
    scene.live.change("a", balance=2_000)
    copy = _longer(tmp_path)
    plan = scene.adjusting(scene.plan(heal=copy), "a")
    assert [(each.version, each.why) for each in plan.heal] == [(4, "new")]
    done = scene.apply(plan, around=Surroundings(healing=lambda: copy))
    assert (done.status, done.results["healed"], done.results["adjusted"]) == ("completed", 1, 1)
    assert scene.row("a")[0] == scene.ledger().account("a").balance == 2_000
    assert scene.entries(plan, "account.adjusted")[0][1]["points"] == 2_000 - 1_107


def _spend(scene: Scene) -> None:
    scene.ledger().debit("a", "shop", 50)


def _hold(scene: Scene) -> None:
    scene.ledger().freeze("a", "a-t3")


def _settle(scene: Scene) -> None:
    scene.ledger().complete("a", "a-t3")


@pytest.mark.parametrize("action", ["complete", "cancel"])
@pytest.mark.parametrize("change", [_spend, _hold, _settle])
def test_a_transaction_is_not_settled_where_its_account_went_on(
    scene: Scene, change: Callable[[Scene], None], action: Literal["complete", "cancel"]
) -> None:
    """Another event since the plan: nothing is appended, nobody claims it, and a person is told."""
    scene.begin(opened("a"), recorded("a", 2, 100), recorded("a", 3, 90, type="debit", to_status="pending"))
    plan = scene.approved(scene.plan(settle=action))
    assert plan.settle
    change(scene)
    scene.put()
    before = scene.ledger().account("a")
    done = scene.apply(plan)
    after = scene.ledger().account("a")
    assert (after.version, after.transactions["a-t3"].status) == (before.version, before.transactions["a-t3"].status)
    assert (done.status, done.results["settled"], done.results["verdict"]) == (NEEDS_PERSON, 0, "EQUAL")
    assert [(name, which) for name, which, _ in done.steps["settle"]["refused"]] == [("a", "a-t3")]
    assert "1 transaction or adjustment" in done.reason
    assert scene.entries(plan, "transaction.settled") == []


def test_more_than_one_transaction_of_an_account_is_settled(scene: Scene) -> None:
    """The first settlement is an event of the run's own, so it is no hindrance to the second."""
    pending = [recorded("a", version, 10, to_status="pending") for version in (3, 4)]
    scene.begin(opened("a"), recorded("a", 2, 100), *pending)
    done = scene.apply(scene.approved(scene.plan(settle="complete")))
    assert (done.status, done.results["settled"]) == ("completed", 2)
    assert scene.row("a")[0] == 120


def test_settlements_go_on_where_a_run_failed_between_them(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run settled before it failed is its own, so the rest of the account is settled after it."""
    monkeypatch.setattr("replay.recovery.steps_events.TRANSACTIONS_AT_ONCE", 1)
    pending = [recorded("a", version, 10, to_status="pending") for version in (3, 4)]
    scene.begin(opened("a"), recorded("a", 2, 100), *pending)
    plan = scene.approved(scene.plan())

    def told(at: Any) -> None:
        if at.step == "settle":
            raise OSError("no more")

    work = work_on(scene.store, plan, scene.target, scene.data)
    work.told = told
    with pytest.raises(StoreError, match="no more"):
        apply(work)
    assert len(scene.entries(plan, "transaction.settled")) == 1
    done = scene.resume(plan)
    assert (done.status, done.results["settled"]) == ("completed", 2)


def test_accounts_that_are_only_settled_or_healed_are_verified(scene: Scene) -> None:
    """They count among the accounts of the plan: where live differs after it, the run is not completed."""
    scene.begin(opened("a"), recorded("a", 2, 100), recorded("a", 3, 7, to_status="pending"), opened("b"))
    scene.ledger().credit("b", "b-1", 5)
    scene.ledger().credit("b", "b-2", 5)
    scene.put()
    copy = Healing("file x", ListCopy(stream_of(scene.store)))
    lose_event(scene.store, "b", 2)
    plan = scene.approved(scene.plan(heal=copy))
    assert plan.changes == []

    def change(name: str) -> None:
        if name == "verify:begun":
            scene.live.change("a", balance=1)
            scene.live.change("b", balance=2)

    set_failpoints(change)
    try:
        done = scene.apply(plan, around=Surroundings(healing=lambda: copy))
    finally:
        set_failpoints(None)
    assert done.steps["verify"]["drifted"] == ["a", "b"]
    assert (done.status, done.results["verdict"]) == (NEEDS_PERSON, "DRIFT")


def _holed(scene: Scene) -> Healing:
    """An account that has lost an event, and the copy that has it."""
    scene.begin(opened("a"), recorded("a", 2, 100), recorded("a", 3, 7))
    copy = Healing("file x", ListCopy(stream_of(scene.store)))
    lose_event(scene.store, "a", 2)
    return copy


def _longer(tmp_path: Path) -> Healing:
    """A copy of the same account that goes on."""
    with closing(Store.at(tmp_path / "longer")) as other:
        events = [opened("a"), recorded("a", 2, 100), recorded("a", 3, 7), recorded("a", 4, 1_000)]
        with other.appending() as connection:
            other.append_rows(connection, store_rows(events))
        return Healing("file x", ListCopy(stream_of(other)))


@pytest.mark.parametrize("has_lost_head", [False, True])
def test_nothing_comes_back_that_the_plan_does_not_name(scene: Scene, tmp_path: Path, has_lost_head: bool) -> None:
    """A copy that has more of an account by now gives what was planned of it, a head as well as an event."""
    copy = _holed(scene)
    if has_lost_head:
        heal_first = scene.approved(scene.plan(heal=copy))
        scene.apply(heal_first, around=Surroundings(healing=lambda: copy))
        lose_head(scene.store, "a")
    plan = scene.approved(scene.plan(heal=copy))
    assert [(each.version, each.why) for each in plan.heal] == ([(3, "head")] if has_lost_head else [(2, "hole")])
    done = scene.apply(plan, around=Surroundings(healing=lambda: _longer(tmp_path)))
    assert positions(scene.store, "a").keys() == {1, 2, 3}
    assert (done.status, done.results["healed"]) == ("completed", 1)
    assert [details["version"] for _, details in scene.entries(plan, "event.healed")] == [plan.heal[0].version]


def test_events_that_came_back_before_a_run_was_given_up_are_listed(scene: Scene) -> None:
    """Ended between the healing and its entries, abort records and lists what stays, and resume does no less."""
    copy = _holed(scene)
    around = Surroundings(healing=lambda: copy)
    plan = scene.approved(scene.plan(heal=copy))
    with failing("heal:written"):
        scene.apply(plan, around=around)
    assert scene.entries(plan, "event.healed") == []
    found = scene.abort(plan)
    assert scene.ledger().account("a").balance == 107
    assert found.events["event.healed"] == 1
    assert [(each.action, each.account_id, each.details["version"]) for each in found.stay] == [
        ("event.healed", "a", 2)
    ]
    assert [details["version"] for _, details in scene.entries(plan, "event.healed")] == [2]


def test_an_abort_before_anything_came_back_lists_nothing(scene: Scene) -> None:
    """What the plan names and nobody brought back is not said to stay."""
    copy = _holed(scene)
    plan = scene.approved(scene.plan(heal=copy))
    with failing("heal:begun"):
        scene.apply(plan, around=Surroundings(healing=lambda: copy))
    assert scene.abort(plan).stay == []
    assert scene.entries(plan, "event.healed") == []


def _locked(scene: Scene, names: Sequence[str] = ("a",)) -> None:
    """Accounts that have been locked for days, in log and live."""
    scene.begin(*(event for name in names for event in (opened(name), recorded(name, 2, 100))))
    for name in names:
        scene.ledger(timedelta(days=5)).lock(name, reason="suspected")
    scene.put()


def test_an_unlocking_that_was_given_up_is_listed(scene: Scene) -> None:
    """The event and its entry are one transaction, so an abort between log and live knows of it; live goes back."""
    _locked(scene)
    before = contents(scene.live)
    plan = scene.approved(scene.plan())
    with failing("unlock:written"):
        scene.apply(plan)
    assert scene.ledger().account("a").status == "active"
    assert [name for name, _ in scene.entries(plan, "account.unlocked")] == ["a"]
    found = scene.abort(plan)
    assert found.events["account.unlocked"] == 1
    assert [each.account_id for each in found.stay] == ["a"]
    assert contents(scene.live) == before


def test_an_unlocking_that_failed_between_log_and_live_is_resumed(scene: Scene) -> None:
    """Live follows, and the event is neither made nor told twice."""
    _locked(scene, ["a", "b"])
    plan = scene.approved(scene.plan())
    with failing("unlock:written"):
        scene.apply(plan)
    done = scene.resume(plan)
    assert (done.status, done.results["unlocked"]) == ("completed", 2)
    assert contents(scene.live) == truth(scene.store)
    assert [name for name, _ in scene.entries(plan, "account.unlocked")] == ["a", "b"]
    assert [name for name, _ in scene.entries(plan, "row.unlocked")] == ["a", "b"]


def test_an_account_that_live_does_not_unlock_needs_a_person_until_it_does(scene: Scene) -> None:
    """Unlocked in the log and refused by live, the run is not completed; a resume tries live again."""
    _locked(scene)
    plan = scene.approved(scene.plan())
    with scene.live.writing() as connection:
        connection.execute(text("create trigger held before update on accounts begin select raise(abort, 'no'); end"))
    done = scene.apply(plan)
    assert (done.status, done.results["unlocked"]) == (NEEDS_PERSON, 1)
    assert [name for name, _ in done.steps["unlock"]["not_in_live"]] == ["a"]
    assert "1 account was unlocked in the log and not in live" in done.reason
    with scene.live.writing() as connection:
        connection.execute(text("drop trigger held"))
    done = scene.resume(plan)
    assert (done.status, done.steps["unlock"]["not_in_live"]) == ("completed", [])
    assert contents(scene.live) == truth(scene.store)
    assert len(scene.entries(plan, "account.unlocked")) == 1


def test_an_account_that_was_not_equal_is_unlocked_by_a_resume_after_it_is(scene: Scene) -> None:
    """Not unlocked, it is a reason for a person; where live is mended the same run unlocks it."""
    _locked(scene)
    plan = scene.approved(scene.plan())
    scene.live.change("a", balance=3)
    done = scene.apply(plan)
    assert done.status == NEEDS_PERSON
    assert "1 account was not unlocked" in done.reason
    scene.live.change("a", balance=100)
    done = scene.resume(plan)
    assert (done.status, done.results["unlocked"], done.steps["unlock"]["not_unlocked"]) == ("completed", 1, [])
    assert scene.ledger().account("a").status == "active"


def test_an_event_that_did_not_come_back_needs_a_person(scene: Scene) -> None:
    """Live was equal all the time, and the run is not completed all the same: the log is not whole."""
    copy = _holed(scene)
    plan = scene.approved(scene.plan(heal=copy))
    done = scene.apply(plan, around=Surroundings(healing=lambda: Healing("file x", ListCopy([]))))
    assert (done.status, done.results["healed"]) == (NEEDS_PERSON, 0)
    assert "1 lost event did not come back" in done.reason


def test_rows_that_nobody_can_read_need_a_person(scene: Scene) -> None:
    """A plan that leaves an unreadable row does not end completed, though nothing else is wrong."""
    scene.begin(opened("a"), recorded("a", 2, 100), opened("b"))
    with scene.live.writing() as connection:
        connection.execute(text("update accounts set balance = 'abc' where account_id = 'a'"))
    plan = scene.approved(scene.plan())
    assert [each.kind for each in plan.left] == ["unreadable"]
    done = scene.apply(plan)
    assert (done.status, done.reason) == (NEEDS_PERSON, "1 live row could not be read or compared when it was planned")


def test_what_policy_leaves_is_named_and_ends_nothing(scene: Scene) -> None:
    """A stale transaction without a policy and a lock that waits for it are no reason to call for a person."""
    scene.begin(opened("a"), recorded("a", 2, 100), recorded("a", 3, 9, to_status="pending"))
    plan = scene.approved(scene.plan(settle=None))
    assert [each.kind for each in plan.left] == ["stale_pending"]
    assert scene.apply(plan).status == "completed"


def test_a_copy_that_begins_late_is_no_row_for_a_person(scene: Scene) -> None:
    """Of a copy whose oldest part was deleted all that was planned came back, so the run is completed."""
    scene.begin(opened("a"), recorded("a", 2, 100), recorded("a", 3, 7))
    copy = Healing("topic t", ListCopy(stream_of(scene.store), unread=[Unread(0, 5, "deleted", "retention")]))
    lose_event(scene.store, "a", 2)
    plan = scene.approved(scene.plan(heal=copy))
    assert [each.kind for each in plan.left] == ["unreadable"]
    assert scene.apply(plan, around=Surroundings(healing=lambda: copy)).status == "completed"


class _Part(msgspec.Struct):
    state: str
    words: str = "/data has 5 bytes free, 90 may be needed"
    next_step: str = "make room first"


class _System(msgspec.Struct):
    """A check of a system with little room on its disk."""

    disk: str
    severity: str = "minor"

    def part(self, name: str) -> _Part:
        """The part: all but the disk are fine."""
        return _Part(self.disk if name == "disk" else "ok")


def test_a_disk_without_room_for_the_backup_refuses(scene: Scene) -> None:
    """Nothing is fenced, backed up or changed; with room made the same run is resumed."""
    scene.begin(opened("a"), recorded("a", 2, 100))
    scene.live.change("a", balance=93)
    plan = scene.approved(scene.plan())
    with pytest.raises(RefusedError, match="5 bytes free"):
        scene.apply(plan, around=Surroundings(check=lambda: _System("degraded")))
    assert scene.row("a")[0] == 93
    assert scene.entries(plan, "fence.raised", "correcting") == []
    run = Runs(scene.store).get(run_of(plan))
    assert run is not None
    assert run.steps == {}
    done = scene.resume(plan, around=Surroundings(check=lambda: _System("unknown")))
    assert (done.status, scene.row("a")[0]) == ("completed", 100)


def test_duplicate_rows_need_a_person(store: Store, tmp_path: Path) -> None:
    """Two rows of one account cannot be compared, so a plan that leaves them does not end completed."""
    table = accounts_table(is_keyed=False)
    with closing(Live(f"sqlite:///{tmp_path}/live.db", table)) as live:
        scene = Scene(store, live, tmp_path / "data")
        scene.begin(opened("a"), recorded("a", 2, 100), opened("b"))
        live.put([("a", 92, 0, "active", None)])
        plan = scene.approved(scene.plan())
        assert plan.left
        assert plan.changes == []
        assert scene.apply(plan).status == NEEDS_PERSON
        scene.target.close()
