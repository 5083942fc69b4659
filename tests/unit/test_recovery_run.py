"""What a recovery run takes and refuses, and what it says to whoever is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ledger.recovery_run import STEPS, Approval, RecoveryRun
from schemas.errors import RunRefused, UsageError

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
DAY = timedelta(days=1)


def approved() -> RecoveryRun:
    """A run whose plan is approved for a day."""
    run = RecoveryRun.planned("r")
    run.approve(plan_hash="h", by="ann", reason="seen", at=NOW, expires_at=NOW + DAY)
    return run


def running(*steps: str) -> RecoveryRun:
    """A run under way, with some steps done."""
    run = approved()
    run.start(by="bob", at=NOW)
    for step in steps:
        run.complete_step(step, {}, NOW)
    return run


def test_a_whole_run() -> None:
    """Approved, started, every step, completed: the run knows who, when and with what results."""
    run = running(*STEPS)
    run.complete({"corrected": 5}, NOW + DAY)
    assert run.approvals == [Approval("ann", NOW, "seen", NOW + DAY)]
    assert (run.status, run.plan_hash, run.started_by, run.started_at) == ("completed", "h", "bob", NOW)
    assert (list(run.steps), run.results, run.ended_at) == (list(STEPS), {"corrected": 5}, NOW + DAY)
    assert run.is_over


def test_an_approval_holds_until_its_moment() -> None:
    """At the moment of its expiry an approval holds no longer; a later one counts."""
    run = approved()
    assert run.approval(NOW + DAY - timedelta(microseconds=1)) is not None
    assert run.approval(NOW + DAY) is None
    with pytest.raises(RunRefused, match=r"expired at 2026-05-02T03:00:00\+00:00.*run 'r'.*approve the plan again"):
        run.start(by="bob", at=NOW + DAY)
    run.approve(plan_hash="h", by="eve", reason="again", at=NOW + DAY, expires_at=NOW + 2 * DAY)
    run.start(by="bob", at=NOW + DAY)
    assert run.approval(NOW + DAY).by == "eve"


def test_a_run_has_one_plan() -> None:
    """The approval of another plan is refused and named."""
    with pytest.raises(RunRefused, match="the run of another plan: h"):
        approved().approve(plan_hash="other", by="ann", reason="", at=NOW, expires_at=NOW + DAY)


@pytest.mark.parametrize("end", ["need_intervention", "fail"])
def test_a_run_goes_on_after_its_end(end: str) -> None:
    """A run that needs a person or failed keeps its steps when it is resumed, and forgets why it ended."""
    run = running("check")
    if end == "fail":
        run.fail("the disk is full", NOW)
    else:
        run.need_intervention("the disk is full", {"free": 0}, NOW)
    assert (run.reason, run.ended_at, run.is_over) == ("the disk is full", NOW, False)
    run.resume(by="eve", at=NOW)
    assert (run.status, run.reason, run.details, run.ended_at, run.started_by) == ("running", None, {}, None, "bob")
    assert list(run.steps) == ["check"]


def test_a_run_that_was_never_started_is_not_resumed() -> None:
    """A run that needed a person before it began is given up, not resumed."""
    run = approved()
    run.need_intervention("nothing whole to replay from", {}, NOW)
    with pytest.raises(RunRefused, match="never started"):
        run.resume(by="bob", at=NOW)
    run.abort(by="bob", reason="no use", results={}, at=NOW)
    assert (run.status, run.reason) == ("aborted", "no use")


def test_an_approval_that_expired_holds_up_a_run_without_a_backup() -> None:
    """Before the backup is made the plan has to be approved again; after it the run goes on."""
    early, late = running("check"), running("check", "backup")
    with pytest.raises(RunRefused, match=r"expired.*approve the plan again"):
        early.resume(by="eve", at=NOW + DAY)
    early.approve(plan_hash="h", by="ann", reason="still", at=NOW + DAY, expires_at=NOW + 2 * DAY)
    for run in (early, late):
        run.resume(by="eve", at=NOW + DAY)
        assert run.status == "running"


def test_a_run_that_is_being_given_up_goes_on_in_no_other_way() -> None:
    """Neither started nor resumed, it can be given up again, to the end."""
    for run, go_on in ((approved(), "start"), (running("check", "backup"), "resume")):
        run.begin_abort(by="eve", reason="no use", at=NOW)
        with pytest.raises(RunRefused, match=r"abort of it has begun.*recover abort"):
            getattr(run, go_on)(by="bob", at=NOW)
        run.begin_abort(by="eve", reason="no use", at=NOW)
        run.abort(by="eve", reason="no use", results={}, at=NOW)
        assert (run.status, run.is_aborting) == ("aborted", True)


def test_no_unlock_before_verify() -> None:
    """A step is refused while one before it is not done, and so is the end; a step may be done again."""
    run = running("check", "backup", "heal", "settle", "correct")
    with pytest.raises(RunRefused, match="verify must be done before unlock"):
        run.complete_step("unlock", {}, NOW)
    run.complete_step("check", {"again": True}, NOW)
    assert run.steps["check"] == {"again": True}
    with pytest.raises(RunRefused, match="verify, unlock, reconcile must be done before the end"):
        run.complete({}, NOW)


@pytest.mark.parametrize(
    ("status", "next_step"),
    [
        ("planned", "recover approve"),
        ("approved", "recover apply"),
        ("failed", "recover resume"),
        ("manual_intervention_required", "recover resume"),
        ("completed", "recover report"),
        ("aborted", "plan again"),
    ],
)
def test_whoever_is_refused_is_told_what_to_do(status: str, next_step: str) -> None:
    """A run that is not under way notes no progress, and says how to go on from where it is."""
    run = RecoveryRun.planned("r")
    if status != "planned":
        run = approved() if status == "approved" else running(*STEPS)
    if status == "failed":
        run.fail("gone", NOW)
    elif status == "manual_intervention_required":
        run.need_intervention("gone", {}, NOW)
    elif status == "completed":
        run.complete({}, NOW)
    elif status == "aborted":
        run.abort(by="bob", reason="", results={}, at=NOW)
    with pytest.raises(RunRefused, match=f"the run is {status}") as refused:
        run.note_progress(1, 2, NOW)
    assert next_step in refused.value.next_step


def test_a_moment_has_a_zone() -> None:
    """A moment without a zone could be any, and is refused before anything is kept of it."""
    run = RecoveryRun.planned("r")
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(UsageError, match="time zone"):
        run.approve(plan_hash="h", by="ann", reason="", at=NOW, expires_at=naive)
    with pytest.raises(UsageError, match="time zone"):
        run.approve(plan_hash="h", by="ann", reason="", at=naive, expires_at=NOW)
    assert (run.status, run.pending_events) == ("planned", [])
