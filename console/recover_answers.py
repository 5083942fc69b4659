"""What `recover apply`, `resume` and `abort` say: what a run is about to do, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from console.answer import Answer
from console.render import printable
from console.words import count, first_few
from replay.certificate import Certificate
from replay.recovery.applying import Applied
from replay.recovery.outcome import DONE, by_account, is_waiting
from replay.recovery.plan import Plan
from replay.recovery.steps_check import Fingerprints, written_accounts

if TYPE_CHECKING:
    from replay.recovery.abort import Aborted
    from replay.recovery.work import Work

__all__ = ["aborted_answer", "ahead_lines", "applied_answer", "since_lines", "steps_ahead"]

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


def ahead_lines(work: Work) -> list[str]:
    """Return what the steps that are still to come will do, a line each."""
    known = work.state().steps
    return [f"{name}: {words}" for name, words in steps_ahead(work).items() if name not in known]


def steps_ahead(work: Work) -> dict[str, str]:
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


def since_lines(fingerprints: Fingerprints) -> list[str]:
    """Return what has become of accounts since the plan was made, a line for each kind that there is."""
    told = [
        (fingerprints.already, "right already", ""),
        (fingerprints.changed_since, "changed in live since the plan was made", _WOULD_STAY),
        (fingerprints.moved_since, "went on in the log since the plan was made", _WOULD_STAY),
    ]
    return [
        f"{count(number, 'account')} {words}{stays and stays[number != 1]}" for number, words, stays in told if number
    ]


def applied_answer(plan: Plan, done: Applied) -> Answer:
    """Return what came of a run that was carried out: COMPLETE, or FINDINGS where something is left."""
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


def aborted_answer(name: str, plan_hash: str, found: Aborted) -> Answer:
    """Return what came of a run that was given up: COMPLETE, or FINDINGS where rows could not be put back."""
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
