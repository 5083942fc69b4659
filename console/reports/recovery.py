"""The report of a recovery: what was wrong, what was done about it, what is left, and what proves all of it.

Its numbers are what the entries of the audit trail add up to (`numbers_of`), so that anybody can add them up again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from console.reports import recovery_sections as sections
from console.reports.model import Figure, Report
from console.words import count, live_rows
from ledger.audit import Head, Recorded
from ledger.recovery_run import RecoveryRun
from replay.recovery.outcome import by_account, final_entries, last_tries, planned_accounts, totals
from replay.recovery.plan import Plan
from schemas import format_time

__all__ = ["FORMAT", "Reported", "numbers_of", "recovery_report"]

FORMAT = "ledger-replay recovery report 1"

#: What else is counted, by the action of its entries.
_COUNTED = {
    "healed": "event.healed",
    "settled": "transaction.settled",
    "not_settled": "transaction.not_settled",
    "adjusted": "account.adjusted",
    "unlocked": "account.unlocked",
    "not_unlocked": "account.not_unlocked",
    "restored": "row.restored",
    "not_restored": "row.not_restored",
}
_VERDICTS = {"completed": "COMPLETE", "manual_intervention_required": "FINDINGS", "aborted": "FINDINGS"}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a report is made of.

    `status` and `reason` are those of the end, which may not be noted in `recovery` yet. `entries` are those of the run
    in the audit trail up to `head`, `versions` are of the product and of what it is made with, by name.
    """

    plan: Plan
    recovery: RecoveryRun
    status: str
    reason: str
    made_at: datetime
    entries: Sequence[Recorded]
    head: Head
    versions: Mapping[str, str]


def numbers_of(entries: Iterable[Recorded]) -> dict[str, Any]:
    """Return what the entries of a run add up to, as JSON has it: accounts by outcome, points, and events."""
    found = last_tries(entries)
    summed: dict[str, Any] = msgspec.to_builtins(totals(final_entries(found).values(), planned_accounts(found)))
    del summed["left"]
    actions = Counter(each.action for each in found)
    return summed | {name: actions[action] for name, action in _COUNTED.items()}


def recovery_report(done: Reported) -> Report:
    """Return the report of a run, whatever has become of it so far."""
    numbers = numbers_of(done.entries)
    outcomes = final_entries(done.entries)
    steps = done.recovery.steps
    left = sections.left_for_person(done.plan, outcomes, done.entries, steps)
    return Report(
        title="Recovery",
        verdict=_VERDICTS.get(done.status, "INCOMPLETE"),
        headline=_headline(done, numbers),
        made_at=done.made_at,
        facts=_facts(done, numbers),
        figures=_figures(done, numbers, len(left)),
        notes=_notes(done, numbers),
        sections=[
            sections.wrong(done.plan),
            sections.outcomes(numbers),
            sections.needs_person(left),
            sections.points(numbers),
            sections.events(done.plan, numbers),
            sections.accounts(done.plan, outcomes),
            sections.steps(steps, done.entries),
            sections.reconciliation(steps.get("reconcile", {})),
            sections.certificates(steps),
            sections.approvals(done.entries),
            sections.versions(done.versions),
        ],
        document=_document(done, numbers, outcomes, left),
    )


def _headline(done: Reported, numbers: Mapping[str, Any]) -> str:
    words = done.status.replace("_", " ")
    if done.status == "aborted":
        rows = count(numbers["restored"], "live row")
        return f"{words}: {rows} put back, {numbers['not_restored']:,} not"
    finished = sum(numbers["outcomes"][name] for name in ("corrected", "already", "accepted"))
    return f"{words}: {finished:,} of {count(numbers['accounts'], 'account')} are done with" + (
        f"; {done.reason}" if done.reason else ""
    )


def _facts(done: Reported, numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    plan, run = done.plan, done.recovery
    target = f"{live_rows(plan.target.kind, plan.target.table)} in {plan.target.database}"
    applied = ""
    if run.started_at is not None:
        applied = f"{run.started_by}, from {format_time(run.started_at)}"
    facts = [
        ("run", run.id),
        ("ledger", plan.ledger_id),
        ("live rows", target),
        ("success rate", f"{100 * numbers['success_rate']:.2f} %"),
        ("plan", plan.hash),
        ("planned", f"by {plan.by} at {plan.made_at}, position {plan.position:,}"),
        ("applied by", applied),
        ("audit trail", f"up to entry {done.head.number:,}, {done.head.hash}"),
        ("why", done.reason),
    ]
    return [(name, words) for name, words in facts if words]


def _figures(done: Reported, numbers: Mapping[str, Any], left: int) -> list[Figure]:
    return [
        Figure("accounts that drifted", done.plan.drifted),
        Figure("accounts corrected", numbers["outcomes"]["corrected"]),
        Figure("points added", numbers["balance"]["added"] + numbers["frozen"]["added"]),
        Figure("points taken", numbers["balance"]["taken"] + numbers["frozen"]["taken"]),
        Figure("events back", numbers["healed"]),
        Figure("accounts unlocked", numbers["unlocked"]),
        Figure("left for a person", left),
    ]


def _notes(done: Reported, numbers: Mapping[str, Any]) -> list[str]:
    notes = []
    verified = done.recovery.steps.get("verify", {})
    if verified.get("others"):
        notes.append(f"{count(verified['others'], 'account')} outside of the plan differ too: plan again for them")
    if numbers["not_restored"]:
        notes.append(f"{count(numbers['not_restored'], 'row')} could not be put back")
    if done.status in ("running", "approved", "failed"):
        notes.append(f"the run is {done.status}: this is how far it has come")
    return notes


def _document(
    done: Reported,
    numbers: Mapping[str, Any],
    outcomes: Mapping[str, Recorded],
    left: Sequence[sections.ForPerson],
) -> dict[str, Any]:
    run, plan = done.recovery, done.plan
    return {
        "title": "recovery",
        "format": FORMAT,
        "run": run.id,
        "status": done.status,
        "reason": done.reason,
        "made_at": done.made_at,
        "ledger_id": plan.ledger_id,
        "plan": {
            "hash": plan.hash,
            "made_at": plan.made_at,
            "by": plan.by,
            "target": plan.target,
            "position": plan.position,
            "compared": plan.compared,
            "drifted": plan.drifted,
            "heal_source": plan.heal_source,
        },
        "approvals": sections.approved(done.entries),
        "started_by": run.started_by,
        "started_at": run.started_at,
        "numbers": numbers,
        "by_class": sections.by_class(plan),
        "accounts": [
            {
                "account_id": account_id,
                "class": changes[0].cause,
                "outcome": outcomes[account_id].action.removeprefix("account.") if account_id in outcomes else None,
                "reason": outcomes[account_id].details.get("reason") if account_id in outcomes else None,
                "changes": changes,
            }
            for account_id, changes in by_account(plan).items()
        ],
        "needs_person": [each._asdict() for each in left],
        "steps": run.steps,
        "reconciliation": run.steps.get("reconcile"),
        "versions": done.versions,
        "audit_head": done.head._asdict(),
    }
