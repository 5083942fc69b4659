"""`recover apply`, `resume` and `abort`: what would be done, whether it is wanted, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from console.answer import Answer
from console.consent import need_yes
from console.recover_around import Applying, go_on_hook, holder_of, opened_work
from console.recover_audit import HeadKeeper, outsides_of
from console.recover_guards import need_other_approver, need_own_ledger
from console.recover_plan import more_changes, plan_lines, shown_changes
from console.recover_status import half_done, newest
from console.render import printable
from console.words import count, first_few
from ledger import audit, fence
from ledger.recovery_run import RecoveryRun
from ledger.recovery_runs import Runs
from replay.certificate import Certificate
from replay.recovery import applying, leaving
from replay.recovery.applying import Applied, plan_of
from replay.recovery.outcome import DONE, by_account, is_waiting, noted_accounts
from replay.recovery.plan import Plan, read_plan
from replay.recovery.steps_check import Fingerprints, refuse_other, way_back, written_accounts
from replay.recovery.work import Options
from schemas import format_time
from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from console.run import Run
    from ledger.store import Store
    from replay.recovery.abort import Aborted
    from replay.recovery.work import Work

__all__ = ["abort", "apply", "dry_run", "leave_live", "resume", "run_named"]

#: What to do about a run that did not do all, by whether what it did is right.
_NEXT = {
    True: "next: see the report; plan again for what is left, and decide what waits",
    False: "next: see the report; mend what differs, then `recover resume`, or plan again",
}

_VERDICTS = {
    "EQUAL": "is EQUAL to the log",
    "DRIFT": "is not EQUAL to the log (DRIFT)",
    "INCOMPARABLE": "cannot be compared whole with the log (INCOMPARABLE)",
}

#: What became of one account, and of several.
_MEANINGS = {
    "corrected": ("corrected", "corrected"),
    "already": ("right already", "right already"),
    "accepted": ("left as live has it, as a person accepted", "left as live has them, as a person accepted"),
    "waiting": ("waits for a person to decide", "wait for a person to decide"),
    "changed_since": (
        "was changed in live after the plan was made: left as it is",
        "were changed in live after the plan was made: left as they are",
    ),
    "moved_since": (
        "went on in the log after the plan was made: left as it is",
        "went on in the log after the plan was made: left as they are",
    ),
    "other_than_log": (
        "is in the log other than in the plan: left as it is",
        "are in the log other than in the plan: left as they are",
    ),
    "failed": ("did not take the correction", "did not take the correction"),
    "restored": ("was put back when the run was given up", "were put back when the run was given up"),
}


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
            "steps": _steps_ahead(work),
            "fingerprints": fingerprints,
            "changes": plan.changes,
            "certificate": found.system["certificate"],
        },
        **shown_changes(plan),
        summary=[
            f"dry run of {found.run}, nothing is written; the system is {severity}",
            *plan_lines(plan),
            *approved,
            *_since(fingerprints),
            "",
            "it would",
            *[f"  {name}: {words}" for name, words in _steps_ahead(work).items()],
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
        need_yes(f"apply plan {plan.hash[:16]}", _ahead_lines(work), is_sure=options.is_sure)
        with _notes_said(run), _kept(keeper):
            done = applying.apply(work)
    return _applied_answer(plan, done)


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
            lines = [f"done so far: {done}", *_ahead_lines(work)]
            need_yes(f"go on with {work.run}", lines, is_sure=options.is_sure)
            with _notes_said(run), _kept(keeper):
                found = applying.resume(work)
    return _applied_answer(plan, found)


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
    return _aborted_answer(work.run, plan.hash, found)


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
    return _aborted_answer(wanted, recovery.plan_hash, found)


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


def _ahead_lines(work: Work) -> list[str]:
    known = work.state().steps
    return [f"{name}: {words}" for name, words in _steps_ahead(work).items() if name not in known]


def _steps_ahead(work: Work) -> dict[str, str]:
    """Return what each step does that has something to do, by name."""
    plan, around = work.plan, work.around
    groups = by_account(plan)
    waiting = sum(is_waiting(changes) for changes in groups.values())
    to_correct = len(groups) - waiting
    backup = f"keep {count(len(written_accounts(plan)), 'row')} of live in {work.folder}, and read them back"
    correct = f"correct {count(to_correct, 'account')}, in batches"
    if plan.target.kind == "read_model":
        backup = "keep the generation that is live"
        correct = "make a new generation of the read model and let it go live"
    if waiting:
        correct += f"; {count(waiting, 'account waits for a person and stays', 'accounts wait for a person and stay')}"
    pauses = " and let the foreign system pause" if around.pause is not None else ""
    goes_on = " and let the foreign system go on" if around.go_on is not None else ""
    adjusted = {each.account_id for each in plan.changes if each.decision and each.decision.action == "adjust"}
    steps = {
        "check": "look at the system, and whether all is still as it was planned",
        "backup": f"fence writers{pauses}, then {backup}",
        "heal": f"bring {count(len(plan.heal), 'event')} back from {plan.heal_source}",
        "settle": " and ".join(
            [
                *([f"settle {count(len(plan.settle), 'stale transaction')}"] if plan.settle else []),
                *([f"adjust {count(len(adjusted), 'account')}"] if adjusted else []),
            ]
        )
        + ", as events",
        "correct": correct,
        "verify": "compare live with the log again",
        "unlock": f"unlock {count(len(plan.unlock), 'account')} as events, each once it is equal to the log",
        "reconcile": "reconcile orders with the ledger, where orders are known",
        "report": f"write the report, lift the fence{goes_on}",
    }
    has = {"heal": plan.heal, "settle": plan.settle or adjusted, "correct": groups, "unlock": plan.unlock}
    return {name: words for name, words in steps.items() if has.get(name, True)}


#: What becomes of one account, and of several.
_WOULD_STAY = (": it would be left as it is", ": they would be left as they are")


def _since(fingerprints: Fingerprints) -> list[str]:
    told = [
        (fingerprints.already, "right already", ""),
        (fingerprints.changed_since, "changed in live since the plan was made", _WOULD_STAY),
        (fingerprints.moved_since, "went on in the log since the plan was made", _WOULD_STAY),
    ]
    return [
        f"{count(number, 'account')} {words}{stays and stays[number != 1]}" for number, words, stays in told if number
    ]


def _applied_answer(plan: Plan, done: Applied) -> Answer:
    results, steps = done.results, done.steps
    is_complete = done.status == "completed"
    system = steps["check"].get("system") or {}
    written = [each["file"] for each in steps["report"].get("files", [])]
    certificate = msgspec.convert(steps["verify"]["certificate"], Certificate)
    return Answer(
        verdict="COMPLETE" if is_complete else "FINDINGS",
        fields={
            "run": done.run,
            "status": done.status,
            "manual_intervention_required": not is_complete,
            "reason": done.reason,
            "severity": system.get("severity"),
            "plan": {"hash": plan.hash, "changes": len(plan.changes)},
            **{name: value for name, value in results.items() if name not in ("status", "reason", "verdict")},
            "verified": results["verdict"],
            "steps": steps,
            "report": written,
            "certificate": certificate,
        },
        summary=[
            f"{done.run}: {done.status}" + (f": {done.reason}" if done.reason else ""),
            *_outcome_lines(results),
            f"live {_VERDICTS[results['verdict']]} for the accounts of the plan",
        ],
        notes=[
            *_left_lines(steps),
            *[f"report: {file}" for file in written],
            *done.notes,
            *([] if is_complete else [_NEXT[results["verdict"] == "EQUAL"]]),
        ],
    )


def _outcome_lines(results: dict[str, Any]) -> list[str]:
    outcomes = {name: number for name, number in results["outcomes"].items() if number}
    balance = results["balance"]
    events = {
        "event back": results["healed"],
        "transaction settled": results["settled"],
        "account adjusted": results["adjusted"],
        "account unlocked": results["unlocked"],
    }
    return [
        *[f"  {count(number, 'account')} {_MEANINGS[name][number != 1]}" for name, number in outcomes.items()],
        f"  balances of what was corrected: {balance['before']:,} before, {balance['after']:,} after "
        f"({balance['added']:,} added, {balance['taken']:,} taken)",
        *[f"  {_of(number, words)}" for words, number in events.items() if number],
        f"  {100 * results['success_rate']:.2f} % of {count(results['accounts'], 'account')} are done with",
    ]


def _of(number: int, words: str) -> str:
    noun, _, rest = words.partition(" ")
    return f"{count(number, noun)} {rest}"


def _left_lines(steps: dict[str, dict[str, Any]]) -> list[str]:
    left = [
        f"{each['account_id']}: {each['outcome']}: {each['reason']}"
        for each in steps["correct"]["left"]
        if each["outcome"] not in DONE
    ]
    left += [f"{account}: not unlocked: {why}" for account, why in steps["unlock"]["not_unlocked"]]
    left += [f"{account}: {why}" for account, why in steps["unlock"]["not_in_live"]]
    left += [f"{each['account_id']}: event {each['version']} did not come back" for each in steps["heal"]["missing"]]
    left += [f"{account}: {name} not settled: {why}" for account, name, why in steps["settle"]["refused"]]
    return first_few([printable(line) for line in left], "that need a person")


def _aborted_answer(name: str, plan_hash: str, found: Aborted) -> Answer:
    events = {action: number for action, number in found.events.items() if number}
    lines = [
        f"{name}: aborted, the fence is lifted",
        f"  {count(found.restored, 'live row')} put back",
        *([f"  generation {found.generation} is live again"] if found.generation is not None else []),
        *[
            f"  {number:,} {action} {'stays' if number == 1 else 'stay'} in the log"
            for action, number in events.items()
        ],
    ]
    not_restored = [{"account_id": account, "reason": why} for account, why in found.not_restored]
    return Answer(
        verdict="FINDINGS" if not_restored else "COMPLETE",
        fields={
            "run": name,
            "status": "aborted",
            "plan": {"hash": plan_hash},
            "restored": found.restored,
            "as_before": found.as_before,
            "generation": found.generation,
            "not_restored": not_restored,
            "events": found.events,
            "stay": found.stay,
            "notes": found.notes,
        },
        summary=lines,
        notes=[
            *first_few([printable(f"not put back: {name}: {why}") for name, why in found.not_restored], "rows"),
            *first_few([printable(f"stays: {each.action} of {each.account_id}") for each in found.stay], "events"),
            *[printable(note) for note in found.notes],
        ],
    )
