"""The laws of a recovery run: its state is its events', and whatever does not fit is refused and leaves no event."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from ledger.recovery_run import STEPS, RecoveryRun, RunEvent
from ledger.recovery_runs import RunMapper
from schemas.errors import RunRefused

START = datetime(2026, 5, 1, 3, tzinfo=UTC)
Command = Callable[[RecoveryRun, datetime], None]

RESULTS = st.dictionaries(
    st.text(max_size=5), st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | st.just(START), max_size=3
)
WORDS = st.text(max_size=10)
HOURS = st.integers(-1, 48).map(lambda hours: timedelta(hours=hours))
HASHES = st.sampled_from(["h1", "h1", "h1", "h2"])

#: What the aggregate may do, said once more: from which statuses each command may be given.
LEGAL = {
    "approve": {"planned", "approved", "running", "manual_intervention_required", "failed"},
    "start": {"approved"},
    "resume": {"running", "manual_intervention_required", "failed"},
    "complete_step": {"running"},
    "note_progress": {"running"},
    "need_intervention": {"approved", "running"},
    "fail": {"running"},
    "complete": {"running"},
    "begin_abort": {"approved", "running", "manual_intervention_required", "failed"},
    "abort": {"approved", "running", "manual_intervention_required", "failed"},
}
AFTER = {
    "start": "running",
    "resume": "running",
    "need_intervention": "manual_intervention_required",
    "fail": "failed",
    "complete": "completed",
    "abort": "aborted",
}


def _commands() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    by = {"by": WORDS}
    arguments = {
        "approve": {**by, "reason": WORDS, "plan_hash": HASHES, "expires_at": HOURS},
        "start": by,
        "resume": by,
        "complete_step": {"name": st.sampled_from([*STEPS, "tidy"]), "results": RESULTS},
        "note_progress": {"done": st.integers(-1, 5), "total": st.integers(0, 5)},
        "need_intervention": {"reason": WORDS, "details": RESULTS},
        "fail": {"error": WORDS},
        "complete": {"results": RESULTS},
        "begin_abort": {**by, "reason": WORDS},
        "abort": {**by, "reason": WORDS, "results": RESULTS},
    }
    any_of_them = [st.tuples(st.just(name), st.fixed_dictionaries(given_)) for name, given_ in arguments.items()]
    return st.one_of(*any_of_them)


def _started(commands: list[tuple[str, dict[str, Any]]], steps: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the commands behind a start that works, and so many steps."""
    before = [
        ("approve", {"by": "ann", "reason": "", "plan_hash": "h1", "expires_at": timedelta(days=9)}),
        ("start", {"by": "bob"}),
    ]
    return [*before, *(("complete_step", {"name": name, "results": {}}) for name in STEPS[:steps]), *commands]


COMMANDS = st.lists(_commands(), max_size=12)
SEQUENCES = COMMANDS | st.builds(_started, COMMANDS, st.sampled_from([0, 4, 8, 8, 9]))


def _give(run: RecoveryRun, name: str, arguments: dict[str, Any], at: datetime) -> None:
    given_ = {"at": at, **arguments}
    if name == "approve":
        given_["expires_at"] += at
    getattr(run, name)(**given_)


def _stored_and_read(events: list[RunEvent]) -> list[RunEvent]:
    mapper = RunMapper()
    return [mapper.to_domain_event(mapper.to_stored_event(each)) for each in events]


@given(SEQUENCES, st.integers(-12, 12))
def test_the_stored_events_say_what_the_run_is(commands: list[tuple[str, dict[str, Any]]], zone_hours: int):
    """After any commands in any zone, the events as they are stored and read again give an equal run, in any cut."""
    run = RecoveryRun.planned("r")
    at = START.astimezone(timezone(timedelta(hours=zone_hours)))
    for name, arguments in commands:
        at += timedelta(hours=1)
        try:
            _give(run, name, arguments, at)
        except RunRefused:
            event(f"{name} refused")
        else:
            event(f"{name} taken")
    collected = run.collect_events()
    assert {each.at.tzinfo for each in collected} <= {UTC}
    events = _stored_and_read(collected)
    assert [each.version for each in events] == list(range(1, len(events) + 1))
    again = RecoveryRun.project(None, events)
    assert again == (run if events else None)
    for cut in range(len(events)):
        assert RecoveryRun.project(RecoveryRun.project(None, events[:cut]), events[cut:]) == again


@given(SEQUENCES)
def test_what_does_not_fit_is_refused_and_leaves_no_event(commands: list[tuple[str, dict[str, Any]]]):
    """A command is taken in the statuses that it fits and refused in all others, where the run stays as it was."""
    run = RecoveryRun.planned("r")
    at = START
    for name, arguments in commands:
        at += timedelta(hours=1)
        before = deepcopy(run)
        try:
            _give(run, name, arguments, at)
        except RunRefused:
            assert run == before
            assert before.status not in LEGAL[name] or _has_other_reason(before, name, arguments, at)
        else:
            assert before.status in LEGAL[name]
            assert not _has_other_reason(before, name, arguments, at)
            assert run.version == before.version + 1
            assert run.status == AFTER.get(name, "approved" if before.status == "planned" else before.status)
            assert (run.ended_at is None) == (run.status in ("approved", "running"))


def _has_other_reason(run: RecoveryRun, name: str, arguments: dict[str, Any], at: datetime) -> bool:
    """Say whether a command is refused for something else than the status."""
    match name:
        case "approve":
            return run.plan_hash not in ("", arguments["plan_hash"])
        case "start":
            return run.is_aborting or _is_expired(run, at)
        case "resume":
            is_early = "backup" not in run.steps
            return run.is_aborting or run.started_at is None or (is_early and _is_expired(run, at))
        case "complete_step":
            order = [*STEPS, "tidy"]
            return arguments["name"] == "tidy" or not {*order[: order.index(arguments["name"])]} <= set(run.steps)
        case "note_progress":
            return not 0 <= arguments["done"] <= arguments["total"]
        case "complete":
            return not {*STEPS} - {"report"} <= set(run.steps)
    return False


def _is_expired(run: RecoveryRun, at: datetime) -> bool:
    return all(each.expires_at <= at for each in run.approvals)
