"""A plan applied: the lease, the fence, the steps in their order, and the end. Killed anywhere, it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from eventsourcing.persistence import PersistenceError
from sqlalchemy.exc import SQLAlchemyError

from ledger import fence
from ledger.audit_runs import told_results
from ledger.recovery_run import STEPS, RecoveryRun
from replay.recovery.abort import Aborted, put_back
from replay.recovery.failpoints import failpoint
from replay.recovery.healed import is_of_copy
from replay.recovery.outcome import DONE
from replay.recovery.own_target import OwnReadModel
from replay.recovery.parts import counted
from replay.recovery.plan import Plan, read_plan, write_plan
from replay.recovery.steps_check import Fingerprints, back_up, check, fingerprints, refuse_other
from replay.recovery.steps_correct import correct_table
from replay.recovery.steps_events import heal, settle
from replay.recovery.steps_own import correct_own
from replay.recovery.steps_unlock import unlock
from replay.recovery.steps_verify import verify
from replay.recovery.work import Work, run_folder
from schemas.errors import LedgerReplayError, PositionMoved, StoreError, UsageError

__all__ = ["Applied", "DryRun", "abort", "apply", "dry_run", "plan_of", "resume"]

PLAN_FILE = "plan.json"
#: The library that keeps runs and accounts has errors of its own for what the database says.
_DATABASE_SAYS = (SQLAlchemyError, PersistenceError)
#: How a run ends: all is done, or a person is needed.
COMPLETED, NEEDS_PERSON = "completed", "manual_intervention_required"


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would find now: the state of the system, and what is no more as it was planned."""

    run: str
    system: Any
    fingerprints: Fingerprints


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: `completed` or `manual_intervention_required`, why, and the results of its steps.

    `notes` are what is worth saying and ended nothing, such as an alert that reached nobody.
    """

    run: str
    status: str
    reason: str
    results: dict[str, Any]
    steps: dict[str, dict[str, Any]]
    notes: list[str]


def plan_of(data: Path, run: str) -> Plan:
    """Return the plan that a run applies; UsageError where there is none in the data folder."""
    path = run_folder(data, run) / PLAN_FILE
    if not path.is_file():
        raise UsageError(
            "there is no such run here", where=str(path), next_step="see `recover status`, or check --data"
        )
    return read_plan(path)


def dry_run(work: Work) -> DryRun:
    """Check what a run would find, and write nothing; RefusedError for a plan that could not be applied."""
    refuse_other(work, work.state())
    system = None if work.around.check is None else work.around.check()
    return DryRun(run=work.run, system=msgspec.to_builtins(system), fingerprints=fingerprints(work))


def apply(work: Work) -> Applied:
    """Apply an approved plan.

    Raises:
        RefusedError: it is not approved or not any more, of another ledger or other rows; the log is not what it was,
            the state of the system is critical; somebody else applies a plan, or took this run over.
        StoreError: a database does not answer, a disk is full: the run has failed and can be resumed.
    """
    refuse_other(work, work.state())

    def start(recovery: RecoveryRun) -> None:
        recovery.start(by=work.options.by, at=work.now)
        _keep_plan(work)

    with _leased(work, start, "run.started"):
        return _steps(work)


def resume(work: Work) -> Applied:
    """Go on with a run that was killed, failed, or needed a person; raises as `apply`."""
    before = work.state()
    refuse_other(work, before, needs_copy="heal" not in before.steps)
    # Nothing is left to do of it but to look again, since what was left may have been mended.
    again_from = "verify" if before.status == NEEDS_PERSON and "report" in before.steps else None
    with _leased(work, lambda recovery: recovery.resume(by=work.options.by, at=work.now), "run.resumed"):
        return _steps(work, again_from=again_from)


def abort(work: Work, *, reason: str) -> Aborted:
    """Give a run up: put back the live rows that it changed, as far as nobody changed them since, and lift the fence.

    Events stay, and are listed. Raises as `apply`.
    """
    refuse_other(work, work.state(), needs_copy=False)

    def begin(recovery: RecoveryRun) -> None:
        recovery.begin_abort(by=work.options.by, reason=reason, at=work.now)

    with _leased(work, begin, "run.abort_begun"):
        results = put_back(work)
        if work.around.go_on is not None and _is_fenced(work):
            work.around.go_on()
        plain = msgspec.to_builtins(results)

        def end(recovery: RecoveryRun) -> None:
            recovery.abort(by=work.options.by, reason=reason, results=plain, at=work.now)

        told = told_results(plain)
        _end(work, end, "run.aborted", {"reason": reason, "restored": results.restored, **told})
    return _reported(work, results, reason)


def _reported(work: Work, results: Aborted, reason: str) -> Aborted:
    """Write the report of a run that was given up, which is over already: that none could be written is a note."""
    if work.around.report is None:
        return results
    try:
        with _named(work):
            files = dict(work.around.report({"status": "aborted", "reason": reason}))
            with work.store.writing() as connection:
                work.record(connection, [work.entry("report.written", **files)])
    except LedgerReplayError as error:
        notes = [f"the report could not be written: {error}; `recover report` writes it"]
    else:
        notes = [f"report: {each['file']}" for each in files.get("files", ())]
    return msgspec.structs.replace(results, notes=[*results.notes, *notes])


def _keep_plan(work: Work) -> None:
    """Keep the plan beside the run, so that it can be resumed without one."""
    work.folder.mkdir(parents=True, exist_ok=True)
    path = work.folder / PLAN_FILE
    draft = path.with_suffix(".draft")
    write_plan(work.plan, draft)
    draft.replace(path)


@contextmanager
def _leased(work: Work, begin: Callable[[RecoveryRun], None], action: str) -> Iterator[None]:
    """Take the lease and begin; an error within ends the run as failed, and gives the lease back."""
    options = work.options
    with _named(work), work.runs.changing(work.run) as (recovery, connection):
        fence.take(connection, work.run, options.holder, now=work.now, lease=options.lease)
        begin(recovery)
        accounts = len({each.account_id for each in work.plan.changes})
        work.record(connection, [work.entry(action, plan=work.plan.hash, accounts=accounts)])
    work.has_lease = True
    try:
        with _named(work):
            failpoint("lease:taken")
            yield
    except BaseException as error:
        _failed(work, error)
        raise


@contextmanager
def _named(work: Work) -> Iterator[None]:
    """Turn what the libraries and the system raise into this project's errors."""
    next_step = "mend that, then `recover resume`; `recover status` says whether writers are fenced until then"
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        raise StoreError(what, where=str(error.filename or work.folder), next_step=next_step) from error
    except _DATABASE_SAYS as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or ["no reason given"])[0]
        where = work.store.url.render_as_string(hide_password=True)
        raise StoreError(f"the database says: {reason}", where=where, next_step=next_step) from error


def _failed(work: Work, error: BaseException) -> None:
    """Note that a run failed, where that can be noted: else it stays as it is, and its lease runs out."""
    reason = str(error) or type(error).__name__
    try:
        with work.changing() as (recovery, connection):
            if recovery.status == "running":
                recovery.fail(reason, work.now)
                work.record(connection, [work.entry("run.failed", error=reason)])
            fence.release(connection, work.run, work.options.holder)
        is_failed = recovery.status == "failed"
    except PositionMoved:
        # Somebody else goes on with it: this process must not write another word, nor say that it failed.
        is_failed = False
    except (LedgerReplayError, *_DATABASE_SAYS) as second:
        error.add_note(f"the run could not be noted as failed: {second}")
        is_failed = True
    if is_failed:
        work.alert("recovery_failed", {"error": reason})
    for note in work.notes:
        error.add_note(note)


def _steps(work: Work, *, again_from: str | None = None) -> Applied:
    """Do what is not done yet, in order, and end the run."""
    steps = {
        "backup": back_up,
        "heal": heal,
        "settle": settle,
        "correct": _correct,
        "verify": verify,
        "unlock": unlock,
        "reconcile": _reconcile,
        "report": _report,
    }
    known = set(work.state().steps)
    if again_from is not None:
        known -= set(STEPS[STEPS.index(again_from) :])
    if "check" not in known:
        check(work)
    if not known.issuperset(STEPS):
        _raise_fence(work)
    for name, step in steps.items():
        if name not in known:
            work.keep()
            step(work)
    return _finish(work)


def _correct(work: Work) -> None:
    if isinstance(work.target, OwnReadModel):
        correct_own(work, work.target)
    else:
        correct_table(work, work.target)


def _reconcile(work: Work) -> None:
    failpoint("reconcile:begun")
    work.done("reconcile", {"skipped": True} if work.around.reconcile is None else work.around.reconcile())
    failpoint("reconcile:done")


def _report(work: Work) -> None:
    failpoint("report:begun")
    if work.around.report is None:
        work.done("report", {"skipped": True})
    else:
        results = dict(work.around.report(_ending(work)))
        work.done("report", results, [work.entry("report.written", **results)])
    failpoint("report:done")


def _raise_fence(work: Work) -> None:
    """Fence our own writers, then let the foreign system pause: again where a run was killed between the two."""
    with work.changing() as (_, connection):
        if fence.raise_fence(connection, work.run, work.options.by, work.now):
            work.record(connection, [work.entry("fence.raised")])
    failpoint("fence:raised")
    if work.around.pause is not None:
        work.around.pause()
        # It may have taken longer than the lease, and somebody else may have the run by now.
        with work.store.writing() as connection:
            work.renew(connection)


def _is_fenced(work: Work) -> bool:
    with work.store.snapshot() as connection:
        found = fence.state(connection)
    return found is not None and found.is_up


def _ending(work: Work) -> dict[str, Any]:
    """Return how the run ends: its status, why, and what all of it comes to."""
    steps = work.state().steps
    correct, verdict = steps["correct"], steps["verify"]["verdict"]
    left = {name: count for name, count in correct["outcomes"].items() if count and name not in DONE}
    reasons = [counted(count, *_WORDS[name]) for name, count in left.items()]
    if verdict != "EQUAL":
        count = len(steps["verify"]["drifted"]) + len(steps["verify"]["uncompared"])
        words = counted(count, "account", "accounts")
        reasons.append(f"live {_verdict_words(verdict)} for {words} of the plan after it")
    reasons += [counted(*each) for each in _undone(work.plan, steps) if each[0]]
    return {
        "status": NEEDS_PERSON if reasons else COMPLETED,
        "reason": "; ".join(reasons),
        "verdict": verdict,
        **{name: correct[name] for name in ("accounts", "outcomes", "success_rate", "balance", "frozen")},
        "healed": steps["heal"]["healed"],
        "settled": steps["settle"]["settled"],
        "adjusted": steps["settle"]["adjusted"],
        "unlocked": steps["unlock"]["unlocked"],
    }


def _verdict_words(verdict: str) -> str:
    return "is not EQUAL to the log" if verdict == "DRIFT" else "cannot be compared whole with the log"


def _undone(plan: Plan, steps: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[int, str, str]]:
    """Yield how much was not done of what is no correction of a live row, and what one is, and several."""
    yield len(steps["heal"]["missing"]), "lost event did not come back", "lost events did not come back"
    yield (
        len(steps["settle"]["refused"]),
        "transaction or adjustment was refused",
        "transactions or adjustments were refused",
    )
    yield len(steps["unlock"]["not_unlocked"]), "account was not unlocked", "accounts were not unlocked"
    yield (
        len(steps["unlock"]["not_in_live"]),
        "account was unlocked in the log and not in live",
        "accounts were unlocked in the log and not in live",
    )
    unread = [each for each in plan.left if each.kind in _UNREAD and not is_of_copy(each)]
    yield (
        len(unread),
        "live row could not be read or compared when it was planned",
        "live rows could not be read or compared when it was planned",
    )


#: What a plan leaves since nobody knows what live has; what else it leaves it only names.
_UNREAD = ("unreadable", "uncompared")
_WORDS = {
    "waiting": ("account waits for a person to decide", "accounts wait for a person to decide"),
    "changed_since": (
        "account has a live row that was changed after the plan was made",
        "accounts have live rows that were changed after the plan was made",
    ),
    "moved_since": (
        "account went on in the log after the plan was made",
        "accounts went on in the log after the plan was made",
    ),
    "other_than_log": (
        "account is in the log other than in the plan",
        "accounts are in the log other than in the plan",
    ),
    "failed": (
        "account has a live row that did not take the correction",
        "accounts have live rows that did not take the correction",
    ),
}


def _finish(work: Work) -> Applied:
    """Let everybody go on, and end the run."""
    results = _ending(work)
    if work.around.go_on is not None:
        work.keep()
        work.around.go_on()
    status, reason = results["status"], results["reason"]

    def end(recovery: RecoveryRun) -> None:
        if status == COMPLETED:
            recovery.complete(results, work.now)
        else:
            recovery.need_intervention(reason, results, work.now)

    _end(work, end, "run.completed" if status == COMPLETED else "run.needs_intervention", results)
    if status == NEEDS_PERSON:
        work.alert(NEEDS_PERSON, results)
    return Applied(
        run=work.run, status=status, reason=reason, results=results, steps=work.state().steps, notes=work.notes
    )


def _end(work: Work, end: Callable[[RecoveryRun], None], action: str, details: Mapping[str, Any]) -> None:
    """End the run, lift the fence and give the lease back, in one transaction."""
    with work.changing() as (recovery, connection):
        end(recovery)
        lifted = [work.entry("fence.lifted")] if fence.lift(connection, work.run) else []
        work.record(connection, [*lifted, work.entry(action, **details)])
        fence.release(connection, work.run, work.options.holder)
    failpoint("fence:lifted")
