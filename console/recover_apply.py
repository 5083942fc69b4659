"""`recover apply`, `resume` and `abort`: what would be done, whether it is wanted, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from console.answer import Answer
from console.recover_around import Applying, opened_work
from console.recover_plan import changes_table, plan_lines
from console.render import printable
from console.words import count, first_few
from ledger.recovery_runs import Runs
from replay.certificate import Certificate
from replay.recovery import applying
from replay.recovery.applying import Applied, plan_of
from replay.recovery.outcome import DONE, by_account, is_waiting
from replay.recovery.plan import Plan, read_plan
from replay.recovery.steps_check import Fingerprints, written_accounts
from schemas import format_time
from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from console.recover_audit import HeadKeeper
    from console.run import Run
    from ledger.store import Store
    from replay.recovery.abort import Aborted
    from replay.recovery.work import Work

__all__ = ["abort", "apply", "dry_run", "resume", "run_named"]

#: Runs that are under way, or were: what `resume` and `abort` mean where no run is named.
OPEN = ("running", "failed", "manual_intervention_required")

#: What to do about a run that did not do all, by whether what it did is right.
_NEXT = {
    True: "next: see the report; plan again for what is left, and decide what waits",
    False: "next: see the report; mend what differs, then `recover resume`, or plan again",
}

_MEANINGS = {
    "corrected": "corrected",
    "already": "right already",
    "accepted": "left as live has them, as a person accepted",
    "waiting": "wait for a person to decide",
    "changed_since": "were changed in live after the plan was made: left as they are",
    "moved_since": "went on in the log after the plan was made: left as they are",
    "other_than_log": "are in the log other than in the plan: left as they are",
    "failed": "did not take the correction",
}


def dry_run(run: Run, file: Path, options: Applying) -> Answer:
    """Say everything that the plan would do now; nothing is written."""
    plan = read_plan(file)
    with run.ledger() as store, opened_work(run, store, plan, options) as (work, _):
        found = applying.dry_run(work)
        approval = work.state().approval(run.now)
        why_not = _why_not(work, options.by)
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
        table=changes_table(plan),
        summary=[
            f"dry run of {found.run}, nothing is written; the system is {severity}",
            *plan_lines(plan),
            *approved,
            *_since(fingerprints),
            "",
            "it would",
            *[f"  {name}: {words}" for name, words in _steps_ahead(work).items()],
        ],
        notes=[f"next: `recover apply {file} --execute`"] if why_not is None else [],
    )


def _why_not(work: Work, by: str) -> str | None:
    """Return why the run of a plan could not begin now, None where it could."""
    try:
        work.state().start(by=by, at=work.now)
    except RefusedError as error:
        return f"{error.what}; {error.next_step}"
    return None


def apply(run: Run, file: Path, options: Applying) -> Answer:
    """Apply an approved plan, once it was said what that does."""
    plan = read_plan(file)
    with run.ledger() as store, opened_work(run, store, plan, options) as (work, keeper):
        # Whoever may not begin is not asked first.
        work.state().start(by=options.by, at=run.now)
        _need_yes(f"apply plan {plan.hash[:16]}", _ahead_lines(work), is_sure=options.is_sure)
        with _notes_said(run), _kept(keeper):
            done = applying.apply(work)
    return _applied_answer(plan, done)


def resume(run: Run, name: str | None, options: Applying) -> Answer:
    """Go on with a run that was killed, failed or needed a person."""
    with run.ledger() as store:
        plan = _plan_of_run(run, store, run_named(store, name, OPEN))
        with opened_work(run, store, plan, options) as (work, keeper):
            work.state().resume(by=options.by, at=run.now)
            done = ", ".join(work.state().steps) or "nothing"
            lines = [f"done so far: {done}", *_ahead_lines(work)]
            _need_yes(f"go on with {work.run}", lines, is_sure=options.is_sure)
            with _notes_said(run), _kept(keeper):
                found = applying.resume(work)
    return _applied_answer(plan, found)


def abort(run: Run, name: str | None, options: Applying, *, reason: str) -> Answer:
    """Give a run up: put live rows back, lift the fence, and list what stays."""
    with run.ledger() as store:
        plan = _plan_of_run(run, store, run_named(store, name, OPEN))
        with opened_work(run, store, plan, options) as (work, keeper):
            # Whoever may not is not asked first.
            work.state().abort(by=options.by, reason=reason, results={}, at=run.now)
            lines = [
                "put back the live rows that it changed, where nobody changed them since",
                "leave the events that it appended: events are never taken back",
                "lift the fence",
            ]
            _need_yes(f"give up {work.run}", lines, is_sure=options.is_sure)
            with _notes_said(run), _kept(keeper):
                found = applying.abort(work, reason=reason)
    return _aborted_answer(work.run, plan, found)


def run_named(store: Store, name: str | None, statuses: tuple[str, ...] | None) -> str:
    """Return the run that is named, else the newest of these statuses (None: any); UsageError where there is none."""
    runs = Runs(store)
    if name is not None:
        if runs.get(name) is None:
            raise UsageError(f"there is no run {name!r}", next_step="see `recover status`")
        return name
    found = [each for each in runs.listed() if statuses is None or each.status in statuses]
    if not found:
        raise UsageError("there is no run to take", next_step="see `recover status`")
    if statuses is not None and len(found) > 1:
        names = ", ".join(each.id for each in found)
        raise UsageError(f"there are several runs: {names}", next_step="name one")
    return found[-1].id


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
            run.warn(note)
        raise


def _need_yes(what: str, lines: list[str], *, is_sure: bool) -> None:
    """Say what is about to be done, and ask on a terminal; RefusedError where a person says no."""
    told = [f"about to {what}:", *[f"  {printable(line)}" for line in lines]]
    sys.stderr.write("".join(f"{line}\n" for line in told))
    if not is_sure and sys.stdin.isatty() and not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise RefusedError("nothing was changed")


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
        correct += f"; {count(waiting, 'account')} {'waits' if waiting == 1 else 'wait'} for a person and stay"
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


def _since(fingerprints: Fingerprints) -> list[str]:
    told = [
        (fingerprints.already, "right already"),
        (fingerprints.changed_since, "changed in live since the plan was made: they would be left as they are"),
        (fingerprints.moved_since, "went on in the log since the plan was made: they would be left as they are"),
    ]
    return [f"{count(number, 'account')} {words}" for number, words in told if number]


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
            f"live is {results['verdict']} to the log for the accounts of the plan",
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
        *[f"  {count(number, 'account')} {_MEANINGS[name]}" for name, number in outcomes.items()],
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
    left += [f"{account}: {name} not settled: {why}" for account, name, why in steps["settle"]["refused"]]
    return first_few([printable(line) for line in left], "that need a person")


def _aborted_answer(name: str, plan: Plan, found: Aborted) -> Answer:
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
            "plan": {"hash": plan.hash},
            "restored": found.restored,
            "as_before": found.as_before,
            "generation": found.generation,
            "not_restored": not_restored,
            "events": found.events,
            "stay": found.stay,
        },
        summary=lines,
        notes=[
            *first_few([printable(f"not put back: {name}: {why}") for name, why in found.not_restored], "rows"),
            *first_few([printable(f"stays: {each.action} of {each.account_id}") for each in found.stay], "events"),
        ],
    )
