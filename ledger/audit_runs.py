"""Whether the operation log of each recovery run says what the audit trail says of it.

A run's own events are under no hash, and a tail of the trail may be cut off together with its head: held against each
other, a change of the one is seen by the other. Each event but progress has one entry, written in one transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec
from eventsourcing.persistence import StoredEvent
from sqlalchemy import Connection, select

from ledger import audit
from ledger.recovery_run import (
    AbortBegun,
    InterventionNeeded,
    ProgressNoted,
    RunAborted,
    RunApproved,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunResumed,
    RunStarted,
    StepCompleted,
)
from ledger.recovery_runs import RunMapper
from ledger.recovery_tables import RECOVERY_EVENTS
from schemas import format_time
from schemas.errors import StoreError

__all__ = ["RunDiffers", "differing_runs", "told_results"]

#: Results that are longer than this as JSON have only their SHA-256 in the trail.
RESULTS_BYTES_MAX = 4_096

#: The action of the entry of each event.
_ACTIONS: dict[type[RunEvent], str] = {
    RunApproved: "plan.approved",
    RunStarted: "run.started",
    RunResumed: "run.resumed",
    StepCompleted: "step.completed",
    InterventionNeeded: "run.needs_intervention",
    RunFailed: "run.failed",
    RunCompleted: "run.completed",
    AbortBegun: "run.abort_begun",
    RunAborted: "run.aborted",
}


class RunDiffers(msgspec.Struct, frozen=True):
    """A run whose own events are not what the audit trail says of it, and the first difference."""

    run: str
    reason: str


def told_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results, which are as JSON has them, as an entry has them: whole, or their SHA-256 where they are long.

    The digest is over canonical JSON: keys sorted, no blanks.
    """
    content = msgspec.json.encode(results, order="sorted")
    if len(content) > RESULTS_BYTES_MAX:
        return {"results_sha256": hashlib.sha256(content).hexdigest()}
    return {"results": results}


def differing_runs(connection: Connection) -> list[RunDiffers]:
    """Return the runs that differ from the trail, by name; RefusedError for an entry of it that cannot be read."""
    stored = _stored(connection)
    told: dict[str, list[audit.Recorded]] = {name: [] for name in stored}
    for entry in audit.entries(connection, actions=list(_ACTIONS.values())):
        if entry.run is not None:
            told.setdefault(entry.run, []).append(entry)
    found = {name: _difference(stored.get(name, []), entries) for name, entries in sorted(told.items())}
    return [RunDiffers(name, reason) for name, reason in found.items() if reason is not None]


def _stored(connection: Connection) -> dict[str, list[StoredEvent]]:
    columns = RECOVERY_EVENTS.c
    statement = select(columns.originator_id, columns.originator_version, columns.topic, columns.state)
    found: dict[str, list[StoredEvent]] = {}
    for run, version, topic, state in connection.execute(
        statement.order_by(columns.originator_id, columns.originator_version)
    ):
        found.setdefault(run, []).append(StoredEvent(run, version, topic, bytes(state)))
    return found


def _difference(stored: Sequence[StoredEvent], entries: Sequence[audit.Recorded]) -> str | None:
    """Return the first difference between a run's events and the entries of it, None where there is none."""
    mapper = RunMapper()
    try:
        events = [mapper.to_domain_event(each) for each in stored]
    except StoreError as error:
        return f"{error.what}, {error.where}"
    kept = [each for each in events if isinstance(each, RunEvent) and not isinstance(each, ProgressNoted)]
    for event, entry in zip_longest(kept, entries):
        if event is None:
            return f"entry {entry.number:,} of the trail says {entry.action}, and the run's own log has no such event"
        action = _ACTIONS[type(event)]
        if entry is None:
            return f"its event {event.version} has no entry in the trail, {action}: it was cut off, or never written"
        if entry.action != action:
            return f"its event {event.version} is {action}, and entry {entry.number:,} of the trail says {entry.action}"
        said = {"by": entry.by, **entry.details}
        wrong = [name for name, value in _details(event).items() if said.get(name) != value]
        if wrong:
            names = ", ".join(wrong)
            return f"its event {event.version} says another {names} than entry {entry.number:,} of the trail, {action}"
    return None


def _details(event: RunEvent) -> dict[str, Any]:
    """Return what the entry of an event must say, as JSON has it."""
    details: dict[str, Any] = {}
    match event:
        case RunApproved():
            until = format_time(event.expires_at)
            details = {"by": event.by, "plan": event.plan_hash, "reason": event.reason, "expires_at": until}
        case RunStarted() | RunResumed() | AbortBegun():
            details = {"by": event.by}
        case StepCompleted():
            details = {"step": event.step, **told_results(event.results)}
        case InterventionNeeded():
            details = {**event.details, "reason": event.reason}
        case RunFailed():
            details = {"error": event.error}
        case RunCompleted():
            details = event.results
        case RunAborted():
            details = {"by": event.by, "reason": event.reason, **told_results(event.results)}
    return details
