"""`recover apply`, `resume` and `abort`: whether what would be done may be and is wanted, and doing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from console.answer import Answer
from console.consent import need_yes
from console.recover_answers import aborted_answer, ahead_lines, applied_answer, since_lines, steps_ahead
from console.recover_around import Applying, go_on_hook, holder_of, opened_work
from console.recover_audit import HeadKeeper, outsides_of
from console.recover_guards import need_other_approver, need_own_ledger
from console.recover_plan import more_changes, plan_lines, shown_changes
from console.recover_status import half_done, newest
from console.render import printable
from console.words import count
from ledger import audit, fence
from ledger.recovery_run import RecoveryRun
from ledger.recovery_runs import Runs
from replay.recovery import applying, leaving
from replay.recovery.applying import plan_of
from replay.recovery.outcome import by_account, is_waiting, noted_accounts
from replay.recovery.plan import Plan, read_plan
from replay.recovery.steps_check import refuse_other, way_back
from replay.recovery.work import Options
from schemas import format_time
from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from console.run import Run
    from ledger.store import Store
    from replay.recovery.work import Work

__all__ = ["abort", "apply", "dry_run", "leave_live", "resume", "run_named"]


def dry_run(run: Run, file: Path, options: Applying) -> Answer:
    """Say everything that the plan would do now; nothing is written."""
    plan = read_plan(file)
    with _opened(run, plan, file, options) as (work, _):
        found = applying.dry_run(work)
        approval = work.state().approval(run.now)
        why_not = _why_not(run, work, options.by)
    severity = found.system["severity"]
    waiting = sum(is_waiting(changes) for changes in by_account(plan).values())
    fingerprints = found.fingerprints
    is_left = bool(waiting or fingerprints.moved_since or fingerprints.changed_since or plan.left)
    approved = []
    if approval is not None:
        words = f"approved by {approval.by} until {format_time(approval.expires_at)}: {approval.reason}"
        approved.append(printable(words))
    if why_not is not None:
        approved.append(f"--execute would be refused: {why_not}")
    if severity == "critical":
        approved.append(f"--execute would be refused: nothing is whole that could be replayed; {way_back(plan)}")
    return Answer(
        verdict="REFUSED" if severity == "critical" else "FINDINGS" if is_left else "OK",
        fields={
            "dry_run": True,
            "run": found.run,
            "severity": severity,
            "approved": approval is not None,
            "refused": why_not,
            "plan": {"file": str(file), "hash": plan.hash},
            "steps": steps_ahead(work),
            "fingerprints": fingerprints,
            "changes": plan.changes,
            "certificate": found.system["certificate"],
        },
        **shown_changes(plan),
        summary=[
            f"dry run of {found.run}, nothing is written; the system is {severity}",
            *plan_lines(plan),
            *approved,
            *since_lines(fingerprints),
            "",
            "it would",
            *[f"  {name}: {words}" for name, words in steps_ahead(work).items()],
        ],
        notes=[*more_changes(plan), *([f"next: `recover apply {file} --execute`"] if why_not is None else [])],
    )


@contextmanager
def _opened(run: Run, plan: Plan, file: Path, options: Applying) -> Iterator[tuple[Work, HeadKeeper]]:
    """Yield the work on the plan of a file; RefusedError where it is of another ledger, before all else."""
    with run.ledger() as store:
        need_own_ledger(plan, store, file)
        with opened_work(run, store, plan, options) as opened:
            yield opened


def _why_not(run: Run, work: Work, by: str) -> str | None:
    """Return why the run of a plan could not begin now, None where it could."""
    try:
        _refuse_taken(work)
        need_other_approver(run, work.plan, work.state(), work.now)
        work.state().start(by=by, at=work.now)
    except RefusedError as error:
        return f"{error.what}; {error.next_step}"
    return None


def apply(run: Run, file: Path, options: Applying) -> Answer:
    """Apply an approved plan, once it was said what that does."""
    plan = read_plan(file)
    with _opened(run, plan, file, options) as (work, keeper):
        # Whoever may not begin is not asked first.
        _refuse_taken(work)
        refuse_other(work, work.state())
        need_other_approver(run, plan, work.state(), run.now)
        work.state().start(by=options.by, at=run.now)
        need_yes(f"apply plan {plan.hash[:16]}", ahead_lines(work), is_sure=options.is_sure)
        with _notes_said(run), _kept(keeper):
            done = applying.apply(work)
    return applied_answer(plan, done)


def resume(run: Run, name: str | None, options: Applying) -> Answer:
    """Go on with a run that was killed, failed or needed a person."""
    with run.ledger() as store:
        plan = _plan_of_run(run, store, _run_to_take(store, name, is_over=False))
        with opened_work(run, store, plan, options) as (work, keeper):
            _refuse_taken(work)
            before = work.state()
            if "backup" not in before.steps:
                need_other_approver(run, plan, before, run.now)
            refuse_other(work, before, needs_copy="heal" not in before.steps)
            before.resume(by=options.by, at=run.now)
            done = ", ".join(work.state().steps) or "nothing"
            lines = [f"done so far: {done}", *ahead_lines(work)]
            need_yes(f"go on with {work.run}", lines, is_sure=options.is_sure)
            with _notes_said(run), _kept(keeper):
                found = applying.resume(work)
    return applied_answer(plan, found)


def abort(run: Run, name: str | None, options: Applying, *, reason: str) -> Answer:
    """Give a run up: put live rows back, lift the fence, and list what stays."""
    with run.ledger() as store:
        plan = _plan_of_run(run, store, _run_to_take(store, name, is_over=True))
        with opened_work(run, store, plan, options) as (work, keeper):
            # Whoever may not is not asked first.
            _refuse_taken(work)
            refuse_other(work, work.state(), needs_copy=False)
            work.state().abort(by=options.by, reason=reason, results={}, at=run.now)
            lines = [
                _put_back_line(work),
                "leave the events that it appended: events are never taken back",
                "lift the fence",
            ]
            need_yes(f"give up {work.run}", lines, is_sure=options.is_sure)
            with _notes_said(run), _kept(keeper):
                found = applying.abort(work, reason=reason)
    return aborted_answer(work.run, plan.hash, found)


def leave_live(run: Run, name: str | None, *, reason: str, by: str, is_sure: bool) -> Answer:
    """Give a run up whose live rows, plan or backup are gone: lift the fence, and list what it may have written."""
    with run.ledger() as store:
        wanted = _run_to_take(store, name, is_over=True)
        recovery = Runs(store).get(wanted) or RecoveryRun.planned(wanted)
        # Whoever may not is not asked first.
        with store.snapshot() as connection:
            fence.refuse_taken(connection, wanted, now=run.now)
        recovery.begin_abort(by=by, reason=reason, at=run.now)
        keeper = HeadKeeper(store, outsides_of(run, store), lambda: run.now, run.warn)
        go_on = go_on_hook(run, wanted)
        lines = [
            "leave the live rows as they are, whatever the run made of them, and list them",
            "leave the events that it appended: events are never taken back",
            "lift the fence",
        ]
        need_yes(f"give up {wanted} without its live rows", lines, is_sure=is_sure)
        options = Options(by=by, holder=holder_of(by), now=lambda: run.now)
        with _kept(keeper):
            found = leaving.leave_live(store, wanted, options=options, reason=reason, go_on=go_on)
    return aborted_answer(wanted, recovery.plan_hash, found)


def _put_back_line(work: Work) -> str:
    """Return what an abort would put back, and how many rows at most."""
    if work.plan.target.kind == "read_model":
        return "let the generation of our read model go live again that was live before"
    with work.store.snapshot() as connection:
        noted = noted_accounts(connection, work.run, "correct") | noted_accounts(connection, work.run, "unlock")
        back = {each.account_id for each in audit.entries(connection, run=work.run, actions=["row.restored"])}
    return f"put back {count(len(noted - back), 'live row')} that it wrote, where nobody changed them since"


def run_named(store: Store, name: str | None) -> str:
    """Return the run that is named, else the newest; UsageError where there is none."""
    runs = Runs(store)
    if name is not None:
        if runs.get(name) is None:
            raise UsageError(f"there is no run {name!r}", next_step="see `recover status`")
        return name
    found = runs.listed()
    if not found:
        raise UsageError("there is no run to take", next_step="see `recover status`")
    return found[-1].id


def _run_to_take(store: Store, name: str | None, *, is_over: bool) -> str:
    """Return the run that is named, else the one that is half done; UsageError where there is none, or several.

    Where it `is_over` with it, a run that came to its end and needs a person is never meant without its name: what it
    did stands. Nor is any run after which another was started.
    """
    if name is not None:
        return run_named(store, name)
    runs = Runs(store).listed()
    with store.snapshot() as connection:
        state = fence.state(connection)
    last = newest(runs)
    holder = state.run if state is not None and state.is_up else None
    found = [each for each in half_done(runs, state) if each == holder or last is None or each == last.id]
    if not found and not is_over and last is not None and last.status == "manual_intervention_required":
        found = [last.id]
    if not found:
        raise UsageError(
            "there is no run that is half done", next_step="see `recover status`; any other run has to be named"
        )
    if len(found) > 1:
        raise UsageError(f"there are several runs: {', '.join(found)}", next_step="name one")
    return found[0]


def _plan_of_run(run: Run, store: Store, name: str) -> Plan:
    recovery = Runs(store).get(name)
    if recovery is not None and recovery.started_at is None:
        raise RefusedError(
            "the run was never started",
            where=f"run {name!r}",
            next_step="apply its plan; an approval that nobody uses expires by itself",
        )
    return plan_of(run.data, name)


@contextmanager
def _kept(keeper: HeadKeeper) -> Iterator[None]:
    try:
        yield
    finally:
        keeper.keep(is_end=True)


@contextmanager
def _notes_said(run: Run) -> Iterator[None]:
    """Say what an error has to say beside itself, such as an alert that reached nobody."""
    try:
        yield
    except Exception as error:
        for note in getattr(error, "__notes__", ()):
            # A library's error goes on with its statement and an address, which help nobody at this moment.
            run.warn(next(iter(note.splitlines()), ""))
        raise


def _refuse_taken(work: Work) -> None:
    """Name who is at work, rather than say of the run that it can go on."""
    with work.store.snapshot() as connection:
        fence.refuse_taken(connection, work.run, now=work.now)
