"""What goes wrong around a recovery: plans that may not be applied, disks, databases, hooks, and a second operator."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from live_tables import Live
from recoveries import (
    NOW,
    account_entries,
    approved,
    audit_is_whole,
    contents,
    damage,
    history,
    live_of,
    planned,
    work_on,
)
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from ledger import Store, audit, fence
from ledger.recovery_runs import Runs
from replay.recovery import backup
from replay.recovery.applying import abort, apply, dry_run, plan_of, resume
from replay.recovery.failpoints import set_failpoints
from replay.recovery.plan import Plan, Target, run_of, sealed
from replay.recovery.table_target import TableTarget
from replay.recovery.work import Surroundings, Work
from schemas.errors import HookFailed, LedgerReplayError, RefusedError, StoreError, UsageError

ACCOUNTS = 100


class Made(NamedTuple):
    """A ledger with a damaged live table, and its plan."""

    store: Store
    live: Live
    target: TableTarget
    plan: Plan
    data: Path

    def work(self, **options: Any) -> Work:
        """Work on the plan."""
        return work_on(self.store, options.pop("plan", self.plan), self.target, self.data, **options)

    def status(self) -> tuple[str, str | None]:
        """The status of the run, and the reason of it."""
        found = Runs(self.store).get(run_of(self.plan))
        return ("none", None) if found is None else (found.status, found.reason)

    def fence(self) -> fence.Fence | None:
        """The fence and the lease."""
        with self.store.snapshot() as connection:
            return fence.state(connection)


@pytest.fixture
def made(store: Store, tmp_path: Path) -> Iterator[Made]:
    """A ledger with a damaged live table and its approved plan."""
    history(store, ACCOUNTS)
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        damage(store, live)
        table = live_of(live)
        with closing(TableTarget(table)) as target:
            yield Made(store, live, target, approved(store, planned(store, table)), tmp_path / "data")
    set_failpoints(None)


def _at(point: str, happens: Callable[[], None]) -> None:
    """Let something happen the first time that a point is reached."""
    left = [happens]

    def look(name: str) -> None:
        if name == point and left:
            left.pop()()

    set_failpoints(look)


def _no_room() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "backup.jsonl")


def _full() -> None:
    raise OperationalError("INSERT", {}, Exception("database or disk is full"))


def _gone() -> None:
    raise StoreError("the database says: the connection is gone", where="live", next_step="check [live]")


@pytest.mark.parametrize(
    "other",
    [{"ledger_id": "0" * 32}, {"target": Target(kind="foreign", table="other", database="other")}],
    ids=["ledger", "rows"],
)
@pytest.mark.parametrize("act", [apply, dry_run])
def test_a_plan_for_another_ledger_or_other_rows_is_refused(made, other, act):
    """Nothing is written, and the run is as it was approved."""
    before = contents(made.live)
    with pytest.raises(RefusedError, match=r"the plan is of (another|other)"):
        act(made.work(plan=sealed(msgspec.structs.replace(made.plan, **other))))
    assert contents(made.live) == before
    assert made.status() == ("approved", None)


def test_a_plan_that_nobody_approved_or_whose_approval_expired_is_refused(made):
    """An edited plan is another one, which nobody approved; and an approval holds for its time only."""
    edited = sealed(msgspec.structs.replace(made.plan, changes=made.plan.changes[1:]))
    with pytest.raises(RefusedError, match="planned"):
        apply(made.work(plan=edited))
    late = NOW + timedelta(days=4000)
    with pytest.raises(RefusedError, match="expired"):
        apply(made.work(now=lambda: late))
    assert made.status() == ("approved", None)
    assert made.fence() is None
    assert not made.data.joinpath("recovery").exists()


def test_a_dry_run_needs_no_lease_however_long_it_takes(made):
    """It renews nothing, and so cannot lose what it does not have."""
    seconds = iter(range(0, 100_000, 1_000))
    assert dry_run(made.work(clock=lambda: float(next(seconds)))).fingerprints.changed_since == 0
    assert made.fence() is None


def test_a_throttled_run_rests_and_keeps_its_lease(made):
    """Between batches it rests longer than a lease lasts, and nobody can take the run over meanwhile."""
    moment, rested = [NOW], list[float]()

    def sleep(seconds: float) -> None:
        rested.append(seconds)
        moment[0] += timedelta(seconds=seconds)
        with pytest.raises(RefusedError):
            resume(made.work(holder="two", now=lambda: moment[0]))

    def clock() -> float:
        # A batch takes a second by this clock, since it is asked before and after one.
        moment[0] += timedelta(seconds=1)
        return (moment[0] - NOW).total_seconds()

    work = made.work(batch=2, throttle=0.005, clock=clock, now=lambda: moment[0], sleep=sleep)
    assert apply(work).results["outcomes"]["corrected"]
    assert max(rested) <= work.options.lease.total_seconds() / 3
    assert sum(rested) > 2 * work.options.lease.total_seconds()


def test_a_log_that_is_not_what_it_was_ends_the_run(made):
    """An event that was lost since the plan was made is found before anything is changed."""
    before = contents(made.live)
    with made.store.writing() as connection:
        connection.exec_driver_sql("DELETE FROM stored_events WHERE id = 7")
    with pytest.raises(RefusedError, match="not what it was"):
        apply(made.work())
    assert made.status()[0] == "failed"
    assert contents(made.live) == before
    assert made.fence() is None


def test_a_system_in_a_critical_state_needs_a_person(made):
    """With nothing whole to replay from nothing is written, somebody is told, and writers are not fenced."""

    class Critical(msgspec.Struct):
        severity: str = "critical"

    told: list[str] = []

    def alert(kind: str, content: Any) -> None:
        told.append(f"{kind}: {content['system']['severity']}")

    before = contents(made.live)
    with pytest.raises(RefusedError, match="critical"):
        apply(made.work(around=Surroundings(check=Critical, alert=alert)))
    assert made.status()[0] == "manual_intervention_required"
    assert told == ["manual_intervention_required: critical"]
    assert contents(made.live) == before
    assert made.fence() is None


def test_of_two_operators_one_applies_and_the_other_is_refused(made):
    """While one has the lease the other is refused, whatever he asks for; afterwards the plan is done."""
    refusals: list[str] = []

    def other() -> None:
        for act in (apply, resume, lambda work: abort(work, reason="mine")):
            with pytest.raises(RefusedError) as refused:
                act(made.work(holder="two"))
            refusals.append(str(refused.value))

    _at("batch:noted", other)
    done = apply(made.work(holder="one"))
    assert len(refusals) == 3
    assert done.results["outcomes"]["corrected"]
    assert all("one" in each for each in refusals), refusals


def test_who_lost_the_lease_stops_at_once(made):
    """Another process took the run over: the first writes nothing more, neither rows nor that it failed."""
    later = NOW + timedelta(minutes=10)

    def taken_over() -> None:
        assert resume(made.work(holder="two", now=lambda: later)).status == "manual_intervention_required"

    _at("batch:written", taken_over)
    with pytest.raises(RefusedError, match="lease"):
        apply(made.work(holder="one"))
    assert made.status()[0] == "manual_intervention_required"
    entries = account_entries(made.store, run_of(made.plan))
    assert len({entry[1] for entry in entries if entry[0] != "transaction.settled"}) == len(
        [entry for entry in entries if entry[0] != "transaction.settled"]
    )
    assert audit_is_whole(made.store)


@pytest.mark.parametrize(
    ("point", "happens"),
    [
        ("backup:begun", _no_room),
        ("settle:begun", _full),
        ("batch:noted", _gone),
        ("batch:written", _full),
        ("report:begun", _no_room),
    ],
)
def test_a_run_that_failed_says_why_and_is_resumed_to_the_same_end(made, point, happens):
    """A full disk, a full database and one that is gone end the run as failed; resumed, it is as if it had not."""
    _at(point, happens)
    with pytest.raises(StoreError):
        apply(made.work())
    status, reason = made.status()
    assert status == "failed"
    assert any(words in str(reason) for words in ("No space", "full", "gone"))
    found = made.fence()
    assert found is not None
    assert (found.is_up, found.holder) == (True, None)
    done = resume(made.work(plan=plan_of(made.data, run_of(made.plan))))
    assert done.status == "manual_intervention_required"
    waiting = {each.account_id for each in made.plan.undecided()}
    assert done.results["outcomes"]["corrected"] == len({each.account_id for each in made.plan.changes} - waiting)
    assert made.fence() is None
    assert audit_is_whole(made.store)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without a device that is always full")
def test_a_disk_that_is_full_while_the_backup_is_written_changes_nothing(made):
    """The run has failed before a row was written, and goes on once there is room."""
    folder = made.data / "recovery" / run_of(made.plan)
    folder.mkdir(parents=True)
    (folder / "backup.draft").symlink_to("/dev/full")
    before = contents(made.live)
    with pytest.raises(StoreError, match="No space left"):
        apply(made.work())
    assert contents(made.live) == before
    assert made.status()[0] == "failed"
    (folder / "backup.draft").unlink()
    assert resume(made.work()).results["outcomes"]["corrected"]


def test_a_database_that_is_full_leaves_nothing_half_done(made):
    """The ledger's own file cannot grow any more in the middle of the run; with room again it is resumed."""
    limited = [True]

    @event.listens_for(made.store.engine, "connect")
    def _limit(connection: Any, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2 if limited else 1_000_000_000}")

    made.store.engine.dispose()
    with pytest.raises(StoreError, match="full"):
        apply(made.work(batch=3))
    limited.clear()
    made.store.engine.dispose()
    assert made.status()[0] in {"failed", "running"}
    assert audit_is_whole(made.store)
    later = NOW + timedelta(minutes=5)
    done = resume(made.work(now=lambda: later))
    waiting = {each.account_id for each in made.plan.undecided()}
    assert done.results["outcomes"]["corrected"] == len({each.account_id for each in made.plan.changes} - waiting)


def test_a_backup_that_does_not_read_back_changes_nothing(made, monkeypatch):
    """A disk that keeps something else than it is given is found before a row is written."""
    before = contents(made.live)
    check = backup.check_backup

    def spoiled(folder: Path, sha256: str, accounts: int) -> None:
        path = folder / "backup.jsonl"
        path.write_bytes(path.read_bytes().replace(b"active", b"Active", 1))
        check(folder, sha256, accounts)

    monkeypatch.setattr(backup, "check_backup", spoiled)
    with pytest.raises(StoreError, match="read back"):
        apply(made.work())
    assert contents(made.live) == before
    assert made.status()[0] == "failed"


def test_a_foreign_system_that_does_not_pause_ends_the_run(made):
    """Nothing is changed while its writers may be at work; resumed, it is asked again."""
    asked: list[str] = []

    def pause() -> None:
        asked.append("pause")
        if len(asked) == 1:
            raise HookFailed("it said no")

    before = contents(made.live)
    around = Surroundings(pause=pause, go_on=lambda: asked.append("on"))
    with pytest.raises(HookFailed):
        apply(made.work(around=around))
    assert made.status() == ("failed", "it said no")
    assert contents(made.live) == before
    resume(made.work(around=around))
    assert asked == ["pause", "pause", "on"]


def test_an_alert_that_reaches_nobody_is_noted_on_the_error(made):
    """The failure itself is what is told, and beside it that nobody was."""
    _at("backup:begun", _no_room)
    with pytest.raises(StoreError) as failed:
        apply(made.work(around=Surroundings(alert=lambda *_: "no route")))
    assert any("no route" in note for note in failed.value.__notes__)


def test_an_interrupted_run_has_failed_and_is_resumed(made):
    """A person's Ctrl-C ends it like an error, with the lease given back."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    _at("batch:done", interrupt)
    with pytest.raises(KeyboardInterrupt):
        apply(made.work(batch=1))
    assert made.status() == ("failed", "KeyboardInterrupt")
    assert resume(made.work()).results["outcomes"]["corrected"]


def test_a_run_that_is_unknown_or_over_is_not_resumed(made):
    """There is nothing to go on with, and the error says so."""
    with pytest.raises(UsageError):
        plan_of(made.data, "recovery-none")
    with pytest.raises(RefusedError):
        resume(made.work())
    assert abort(made.work(), reason="not wanted").restored == 0
    for act in (apply, resume, lambda work: abort(work, reason="again")):
        with pytest.raises(RefusedError):
            act(made.work())


def test_what_was_done_is_in_the_audit_trail_in_order(made):
    """The fence stands before the first row is announced, every batch is announced before its accounts are told."""
    done = apply(made.work(batch=2))
    with made.store.snapshot() as connection:
        actions = [each.action for each in audit.entries(connection, run=done.run)]
    steps = [each for each in actions if each == "step.completed"]
    assert len(steps) == 9
    first = actions.index("account.corrected")
    assert actions.index("run.started") < actions.index("fence.raised") < actions.index("correcting") < first
    assert actions[-2:] == ["fence.lifted", "run.needs_intervention"]


def test_errors_of_the_library_are_the_projects(made):
    """Whatever the database said, the caller gets an error with where and what next."""
    _at("check:begun", _full)
    with pytest.raises(LedgerReplayError) as failed:
        apply(made.work())
    assert "recover resume" in failed.value.next_step
