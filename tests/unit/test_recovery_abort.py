"""A run given up, taken over, or gone on with late: nobody writes a live row that it has no right to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from live_tables import Live, accounts_table
from recoveries import NOW, account_entries, approved, contents, live_of, planned, truth, work_on
from samples import opened, recorded, store_rows
from sqlalchemy import BigInteger, Column, String, text

from ledger import Ledger, Store, audit, fence
from ledger.importing import FileSource, import_accounts
from ledger.recovery_runs import Runs
from replay.comparison.live_table import LiveTable
from replay.recovery.applying import abort, apply, resume
from replay.recovery.failpoints import set_failpoints
from replay.recovery.leaving import leave_live
from replay.recovery.plan import Plan, run_of
from replay.recovery.table_target import TableTarget
from replay.recovery.work import Surroundings, Work
from schemas.errors import HookFailed, PositionMoved, RefusedError, StoreError

LATER = NOW + timedelta(minutes=5)


class Scene:
    """A ledger of a few accounts with 100 points each, and a live table of them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.live = self.target = None  # type: ignore[assignment]

    def made(self, *accounts: str, table: Any = None, is_filled: bool = True) -> None:
        """Write the accounts, and the live rows that are right."""
        events = [event for name in accounts for event in (opened(name), recorded(name, 2, 100))]
        with self.store.appending() as connection:
            self.store.append_rows(connection, store_rows(events))
        self.live = Live(f"sqlite:///{self.folder}/live.db", table)
        if is_filled:
            self.live.put(truth(self.store))
        self.target = TableTarget(live_of(self.live))

    def sql(self, statement: str) -> list[Any]:
        """What somebody else does in the live database."""
        with self.live.writing() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def plan(self, **options: Any) -> Plan:
        """The plan of what is wrong now, approved."""
        return approved(self.store, planned(self.store, live_of(self.live)), **options)

    def work(self, plan: Plan, **options: Any) -> Work:
        """Work on it."""
        return work_on(self.store, plan, self.target, self.folder / "data", **options)

    def failed(self, plan: Plan, point: str, act: Callable[[Work], Any] = apply) -> None:
        """Begin, and fail at a point."""
        at(point, _boom)
        with pytest.raises(StoreError, match="no more"):
            act(self.work(plan))
        set_failpoints(None)

    def fence(self) -> fence.Fence | None:
        """The fence and the lease."""
        with self.store.snapshot() as connection:
            return fence.state(connection)


@pytest.fixture
def scene(store: Store, tmp_path: Path) -> Iterator[Scene]:
    """A scene that is closed in the end."""
    made = Scene(store, tmp_path)
    yield made
    set_failpoints(None)
    if made.live is not None:
        made.target.close()
        made.live.close()


def _boom() -> None:
    raise OSError("no more")


def at(point: str, happens: Callable[[], Any], *more: tuple[str, Callable[[], Any]]) -> None:
    """Let something happen the first time that a point is reached."""
    left = dict([(point, happens), *more])

    def look(name: str) -> None:
        if name in left:
            left.pop(name)()

    set_failpoints(look)


def test_a_row_that_cannot_be_made_is_left_and_the_others_go_on(scene):
    """An id that the table's key cannot have fails its own account; the rest of the batch is corrected."""
    scene.made("7", "abc", table=accounts_table(key=BigInteger()), is_filled=False)
    scene.sql("INSERT INTO accounts VALUES (7, 93, 0, 'active', NULL)")
    plan = scene.plan()
    done = apply(scene.work(plan))
    assert contents(scene.live) == [(7, 100, 0, "active", None)]
    assert (done.results["outcomes"]["corrected"], done.results["outcomes"]["failed"]) == (1, 1)
    (left,) = done.steps["correct"]["left"]
    assert (left["account_id"], "none" in left["reason"]) == ("abc", True)
    assert scene.fence() is None


@pytest.mark.parametrize("point", ["batch:noted", "unlock:written"])
def test_who_stalled_writes_nothing_after_somebody_else_gave_the_run_up(scene, point):
    """The lease is looked at once more with the rows locked, in the step that corrects and in the one that unlocks."""
    scene.made("a", "b")
    Ledger(scene.store, clock=lambda: NOW - timedelta(days=5)).lock("b", reason="x")
    scene.sql("UPDATE accounts SET balance = 93 WHERE account_id = 'a'")
    scene.sql("UPDATE accounts SET status = 'locked', locked_at = '2024-03-15T12:00:00Z' WHERE account_id = 'b'")
    before, plan = contents(scene.live), scene.plan()
    assert plan.unlock
    at(point, lambda: abort(scene.work(plan, holder="two", now=lambda: LATER), reason="stalled"))
    with pytest.raises(PositionMoved):
        apply(scene.work(plan))
    assert contents(scene.live) == before
    assert Runs(scene.store).get(run_of(plan)).status == "aborted"


def test_who_stalled_in_an_abort_puts_nothing_back_after_another_did(scene):
    """What somebody changes after the run was given up is not undone by the one that was slow."""
    scene.made("a")
    scene.sql("UPDATE accounts SET balance = 93")
    plan = scene.plan()
    scene.failed(plan, "verify:begun")

    def other() -> None:
        abort(scene.work(plan, holder="two", now=lambda: LATER), reason="first")
        scene.sql("UPDATE accounts SET balance = 100")

    at("batch:noted", other)
    with pytest.raises(PositionMoved):
        abort(scene.work(plan), reason="second")
    assert contents(scene.live) == [("a", 100, 0, "active", None)]


def test_imported_rows_in_one_file_with_the_ledger_are_guarded_too(store, tmp_path):
    """The live write has that file's write lock, so that the lease is only read: who lost it writes nothing."""
    with store.appending() as connection:
        store.append_rows(connection, store_rows([opened("a"), recorded("a", 2, 100)]))
    file = tmp_path / "accounts.csv"
    file.write_text("account_id,balance,frozen_amount,status,locked_at\na,93,0,active,\n")
    import_accounts(store, FileSource(file), now=NOW, rejects=tmp_path / "rejects.csv")
    table = LiveTable(url=store.url.render_as_string(False), table="imported_accounts", settle_seconds=0, looks_min=1)
    plan = approved(store, planned(store, table))
    with closing(TableTarget(table)) as target, closing(TableTarget(table)) as second:
        other = work_on(store, plan, second, tmp_path, holder="two", now=lambda: LATER)
        at("batch:noted", lambda: abort(other, reason="stalled"))
        try:
            with pytest.raises(PositionMoved):
                apply(work_on(store, plan, target, tmp_path))
        finally:
            set_failpoints(None)
        assert target.rows(["a"])["a"].values["balance"] == 93


def test_a_value_that_the_backup_does_not_have_is_not_replaced(scene):
    """A row that was another while the backup was written could not be put back as it was, so it is left."""
    scene.made("a", "b")
    scene.sql("UPDATE accounts SET balance = 93")
    plan = scene.plan()
    at(
        "backup:begun",
        lambda: scene.sql("UPDATE accounts SET balance = 50 WHERE account_id = 'a'"),
        ("backup:done", lambda: scene.sql("UPDATE accounts SET balance = 93 WHERE account_id = 'a'")),
    )
    done = apply(scene.work(plan))
    (left,) = done.steps["correct"]["left"]
    assert (left["account_id"], left["outcome"]) == ("a", "changed_since")
    assert "since the backup" in left["reason"]
    assert abort(scene.work(plan), reason="r").restored == 1
    assert contents(scene.live) == [(name, 93, 0, "active", None) for name in "ab"]


@pytest.mark.parametrize("point", ["verify:begun", "batch:written"])
@pytest.mark.parametrize("more", [{}, {"server_default": "none@x"}])
def test_a_row_that_was_made_and_filled_by_somebody_since_stays(scene, point, more):
    """Abort takes a row away that the run made only where all of it is as it was made; else it says so."""
    scene.made("a", "b", table=accounts_table(Column("email", String(50), **more)), is_filled=False)
    plan = scene.plan()
    scene.failed(plan, point)
    scene.sql("UPDATE accounts SET email = 'x@y' WHERE account_id = 'a'")
    given_up = abort(scene.work(plan), reason="r")
    assert ("a", 100, 0, "active", None, "x@y") in scene.sql("SELECT * FROM accounts")
    is_known = point == "verify:begun" or not more
    assert [name for name, _ in given_up.not_restored] == (["a"] if is_known else ["a", "b"])
    assert "filled" in given_up.not_restored[0][1]
    assert len(scene.sql("SELECT * FROM accounts")) == (1 if is_known else 2)


def test_a_row_that_was_made_and_unlocked_by_the_run_is_taken_away(scene):
    """What the run itself changed in a row that it made is no other person's change."""
    scene.made("a", table=accounts_table(Column("email", String(50), server_default="none@x")), is_filled=False)
    Ledger(scene.store, clock=lambda: NOW - timedelta(days=5)).lock("a", reason="x")
    plan = scene.plan()
    assert plan.unlock
    scene.failed(plan, "reconcile:begun")
    assert contents(scene.live) == [("a", 100, 0, "active", None)]
    assert abort(scene.work(plan), reason="r").restored == 1
    assert contents(scene.live) == []


@pytest.mark.parametrize(("point", "is_refused"), [("backup:begun", True), ("backup:done", False)])
def test_an_approval_must_hold_until_the_backup_is_made(scene, point, is_refused):
    """A run that had changed nothing yet needs an approval that still holds; one under way goes on without."""
    scene.made("a")
    scene.sql("UPDATE accounts SET balance = 93")
    plan = scene.plan(until=NOW + timedelta(hours=1))
    scene.failed(plan, point)
    late = NOW + timedelta(days=30)
    if is_refused:
        with pytest.raises(RefusedError, match="expired"):
            resume(scene.work(plan, now=lambda: late))
        assert contents(scene.live) == [("a", 93, 0, "active", None)]
        approved(scene.store, plan)
    assert resume(scene.work(plan, now=lambda: late)).status == "completed"


def test_once_an_abort_has_begun_only_abort_goes_on(scene):
    """Resumed, the run would tell of rows that were put back already; given up again it comes to its end."""
    scene.made(*(f"a{number}" for number in range(4)))
    scene.sql("UPDATE accounts SET balance = 93")
    plan = scene.plan()
    scene.failed(plan, "verify:begun")
    scene.failed(plan, "abort:done", lambda work: abort(work, reason="r"))
    with pytest.raises(RefusedError, match="abort") as refused:
        resume(scene.work(plan))
    assert "recover abort" in refused.value.next_step
    assert {row[1] for row in contents(scene.live)} == {93}
    assert scene.fence().is_up
    assert abort(scene.work(plan), reason="r").restored == 4
    assert scene.fence() is None


def test_a_run_whose_live_rows_are_gone_is_given_up_without_them(scene):
    """Neither the table, the plan's file nor the backup is needed; what may have been written is listed."""
    scene.made("a", "b", "c")
    scene.sql("UPDATE accounts SET balance = 93 WHERE account_id <> 'c'")
    plan = scene.plan()
    scene.failed(plan, "verify:begun")
    for path in (scene.folder / "data" / "recovery" / run_of(plan)).iterdir():
        path.unlink()
    scene.sql("DROP TABLE accounts")
    asked: list[str] = []
    options = scene.work(plan, holder="two").options
    found = leave_live(
        scene.store, run_of(plan), options=options, go_on=lambda: asked.append("on"), reason="the server burnt down"
    )
    assert [name for name, _ in found.not_restored] == ["a", "b"]
    assert asked == ["on"]
    assert scene.fence() is None
    recovery = Runs(scene.store).get(run_of(plan))
    assert (recovery.status, recovery.reason) == ("aborted", "the server burnt down")
    with scene.store.snapshot() as connection:
        told = audit.entries(connection, run=run_of(plan), actions=["row.not_restored"])
    assert [each.account_id for each in told] == ["a", "b"]
    Ledger(scene.store).credit("a", "after", 5)
    with pytest.raises(RefusedError):
        leave_live(scene.store, run_of(plan), options=options, reason="again")


def test_a_foreign_system_that_does_not_go_on_keeps_no_fence_up(scene):
    """Given up without the live rows, that the hook failed is a note: nothing may be in the way of that end."""
    scene.made("a")
    scene.sql("UPDATE accounts SET balance = 93")
    plan = scene.plan()
    scene.failed(plan, "batch:noted")

    def go_on() -> None:
        raise HookFailed("it is gone, too")

    with scene.store.writing() as connection:
        fence.take(connection, run_of(plan), "one", now=NOW, lease=timedelta(minutes=1))
    with pytest.raises(RefusedError, match="one has the lease"):
        leave_live(scene.store, run_of(plan), options=scene.work(plan, holder="two").options, reason="r")
    options = scene.work(plan, holder="two", now=lambda: LATER).options
    found = leave_live(scene.store, run_of(plan), options=options, go_on=go_on, reason="r")
    assert "it is gone, too" in found.notes[0]
    assert [name for name, _ in found.not_restored] == ["a"]
    assert scene.fence() is None


def test_a_plan_whose_content_does_not_fit_its_hash_is_refused(scene):
    """Changed in memory after it was approved, it is neither applied nor written."""
    scene.made("a")
    scene.sql("UPDATE accounts SET balance = 93")
    plan = scene.plan()
    (change,) = plan.changes
    edited = msgspec.structs.replace(plan, changes=[msgspec.structs.replace(change, to=999)])
    with pytest.raises(RefusedError, match="hash"):
        apply(scene.work(edited))
    assert contents(scene.live) == [("a", 93, 0, "active", None)]
    assert account_entries(scene.store, run_of(plan)) == []


def test_a_pause_that_takes_longer_than_the_lease(scene):
    """Who took the run over meanwhile keeps it; where nobody did, the lease is renewed before anything is read."""
    scene.made("a")
    scene.sql("UPDATE accounts SET balance = 93")
    plan, moment = scene.plan(), [NOW]

    def pause() -> None:
        moment[0] = LATER
        abort(scene.work(plan, holder="two", now=lambda: LATER), reason="slow")

    points: list[str] = []
    set_failpoints(points.append)
    with pytest.raises(PositionMoved):
        apply(scene.work(plan, now=lambda: moment[0], around=Surroundings(pause=pause)))
    assert "backup:begun" not in points
    held: list[str] = []

    def slow() -> None:
        moment[0] += timedelta(minutes=5)

    def look(name: str) -> None:
        if name == "backup:begun":
            held.append(str(scene.fence().held_until))

    scene.sql("UPDATE accounts SET balance = 92")
    set_failpoints(look)
    apply(scene.work(scene.plan(), now=lambda: moment[0], around=Surroundings(pause=slow)))
    assert held == [(moment[0] + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")]
