"""The recovery run: who approved and applied a plan, which steps are done, and how it ended. Plain Python, no I/O.

An eventsourcing aggregate like the account: its events are the operation log of a recovery.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from eventsourcing.domain import BaseAggregate

from schemas.errors import RunRefused, UsageError

__all__ = [
    "STEPS",
    "AbortBegun",
    "Approval",
    "InterventionNeeded",
    "Progress",
    "ProgressNoted",
    "RecoveryRun",
    "RunAborted",
    "RunApproved",
    "RunCompleted",
    "RunEvent",
    "RunFailed",
    "RunResumed",
    "RunStarted",
    "RunStatus",
    "StepCompleted",
]

#: The steps of a run, in their order.
STEPS = ("check", "backup", "heal", "settle", "correct", "verify", "unlock", "reconcile", "report")

#: `planned` is a run without events: its plan is not approved yet.
RunStatus = Literal["planned", "approved", "running", "manual_intervention_required", "failed", "completed", "aborted"]

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Approval(NamedTuple):
    """Who approved the plan of a run, why, and until when that holds; UTC."""

    by: str
    at: datetime
    reason: str
    expires_at: datetime


class Progress(NamedTuple):
    """How many accounts are done, of how many."""

    done: int
    total: int


class RunEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event of a run has: the run, its number in the run from 1, and when it was; UTC."""

    run: str
    version: int
    at: Moment

    @property
    def originator_id(self) -> str:
        """The run, as the library calls it."""
        return self.run

    @property
    def originator_version(self) -> int:
        """The number of the event, as the library calls it."""
        return self.version


class RunApproved(RunEvent, frozen=True, kw_only=True, tag="run.approved"):
    """Somebody approved the plan of that hash."""

    plan_hash: str
    by: str
    reason: str
    expires_at: Moment


class RunStarted(RunEvent, frozen=True, kw_only=True, tag="run.started"):
    """Somebody began to apply the plan."""

    by: str


class RunResumed(RunEvent, frozen=True, kw_only=True, tag="run.resumed"):
    """Somebody goes on with a run that was killed, failed, or needed a person."""

    by: str


class StepCompleted(RunEvent, frozen=True, kw_only=True, tag="run.step_completed"):
    """A step is done, with its results."""

    step: str
    results: dict[str, Any]


class ProgressNoted(RunEvent, frozen=True, kw_only=True, tag="run.progress"):
    """Some accounts are done."""

    done: int
    total: int


class InterventionNeeded(RunEvent, frozen=True, kw_only=True, tag="run.needs_intervention"):
    """The run goes no further by itself."""

    reason: str
    details: dict[str, Any]


class RunFailed(RunEvent, frozen=True, kw_only=True, tag="run.failed"):
    """An error ended the run; it can be resumed."""

    error: str


class RunCompleted(RunEvent, frozen=True, kw_only=True, tag="run.completed"):
    """All of the plan is done."""

    results: dict[str, Any]


class AbortBegun(RunEvent, frozen=True, kw_only=True, tag="run.abort_begun"):
    """Somebody began to give the run up; it is put back, and nothing else goes on with it."""

    by: str
    reason: str


class RunAborted(RunEvent, frozen=True, kw_only=True, tag="run.aborted"):
    """Somebody gave the run up, and what it had changed was put back."""

    by: str
    reason: str
    results: dict[str, Any]


#: Which statuses a command finds the run in, where it is not refused.
_APPROVABLE = ("planned", "approved", "running", "manual_intervention_required", "failed")
_RESUMABLE = ("running", "manual_intervention_required", "failed")


class RecoveryRun(BaseAggregate[str]):
    """One run: `status`, `plan_hash`, `approvals`, `steps` (results by name), `progress`, who, when and why.

    `is_aborting`: once it is begun to be given up, it is neither started nor resumed any more.
    `reason` is why it needs a person, failed or was aborted, with `details`; `results` those of its end. Results
    are kept as JSON has them. Commands append to `pending_events`; RunRefused for one that does not fit the status, and
    UsageError for a moment without a zone, leave the run as it was.
    """

    if TYPE_CHECKING:
        # The library would make a dataclass, with an __init__ of its own, of a class that is annotated at run time.
        status: RunStatus
        plan_hash: str
        approvals: list[Approval]
        steps: dict[str, dict[str, Any]]
        progress: Progress | None
        is_aborting: bool
        started_by: str | None
        started_at: datetime | None
        ended_at: datetime | None
        reason: str | None
        details: dict[str, Any]
        results: dict[str, Any]

    @classmethod
    def planned(cls, run: str) -> RecoveryRun:
        """Return a run without events."""
        found = cls.__new__(cls)
        # The library asks for a moment; the first event brings the real one.
        found.__base_init__(run, 0, datetime.min.replace(tzinfo=UTC))
        found.status = "planned"
        found.plan_hash = ""
        found.approvals = []
        found.steps = {}
        found.progress = None
        found.is_aborting = False
        found.started_by = found.started_at = found.ended_at = found.reason = None
        found.details, found.results = {}, {}
        return found

    @classmethod
    def project(cls, run: RecoveryRun | None, events: Iterable[RunEvent]) -> RecoveryRun | None:
        """Return the run after the events, None where there were none."""
        for event in events:
            if run is None:
                run = cls.planned(event.run)
            run.apply(event)
        return run

    def apply(self, event: RunEvent) -> None:
        """Take one event into the state."""
        self.version = event.version
        self.modified_on = event.at
        match event:
            case RunApproved():
                self.plan_hash = event.plan_hash
                self.approvals.append(Approval(event.by, event.at, event.reason, event.expires_at))
                if self.status == "planned":
                    self.status = "approved"
            case RunStarted():
                self.status, self.started_by, self.started_at = "running", event.by, event.at
            case RunResumed():
                self.status, self.ended_at, self.reason, self.details = "running", None, None, {}
            case StepCompleted():
                self.steps[event.step] = event.results
            case ProgressNoted():
                self.progress = Progress(event.done, event.total)
            case AbortBegun():
                self.is_aborting = True
            case _:
                self._apply_end(event)

    def _apply_end(self, event: RunEvent) -> None:
        self.ended_at = event.at
        match event:
            case InterventionNeeded():
                self.status, self.reason, self.details = "manual_intervention_required", event.reason, event.details
            case RunFailed():
                self.status, self.reason = "failed", event.error
            case RunCompleted():
                self.status, self.results = "completed", event.results
            case RunAborted():
                self.status, self.reason, self.results = "aborted", event.reason, event.results

    @property
    def is_over(self) -> bool:
        """Whether nothing follows any more."""
        return self.status in ("completed", "aborted")

    def approval(self, now: datetime) -> Approval | None:
        """Return the newest approval that still holds, None where there is none."""
        return next((each for each in reversed(self.approvals) if each.expires_at > now), None)

    def approve(self, *, plan_hash: str, by: str, reason: str, at: datetime, expires_at: datetime) -> None:
        """Approve the plan of a hash, again where an approval has expired; a run has one plan for good."""
        self._check(*_APPROVABLE)
        if self.plan_hash not in ("", plan_hash):
            raise self._refused(f"it is the run of another plan: {self.plan_hash}", "plan again")
        until = self._utc(expires_at)
        self._append(RunApproved(**self._key(at), plan_hash=plan_hash, by=by, reason=reason, expires_at=until))

    def start(self, *, by: str, at: datetime) -> None:
        """Begin to apply the plan."""
        self._check("approved")
        self._check_goes_on()
        self._check_approval(at)
        self._append(RunStarted(**self._key(at), by=by))

    def resume(self, *, by: str, at: datetime) -> None:
        """Go on with a run that has begun and is not over; without a backup yet it needs an approval that holds."""
        self._check(*_RESUMABLE)
        self._check_goes_on()
        if self.started_at is None:
            raise self._refused("it was never started", "apply the plan")
        if "backup" not in self.steps:
            self._check_approval(at)
        self._append(RunResumed(**self._key(at), by=by))

    def complete_step(self, name: str, results: Mapping[str, Any], at: datetime) -> None:
        """Note that a step is done, after those before it; done again, its new results count."""
        self._check("running")
        if name not in STEPS:
            raise self._refused(f"there is no step {name!r}", f"steps are {', '.join(STEPS)}")
        self._check_steps(STEPS[: STEPS.index(name)], name)
        self._append(StepCompleted(**self._key(at), step=name, results=_plain(results)))

    def note_progress(self, done: int, total: int, at: datetime) -> None:
        """Note how many accounts are done, of how many."""
        self._check("running")
        if not 0 <= done <= total:
            raise self._refused(f"{done} of {total} is no progress", "count again")
        self._append(ProgressNoted(**self._key(at), done=done, total=total))

    def need_intervention(self, reason: str, details: Mapping[str, Any], at: datetime) -> None:
        """Say that a person is needed; the run can be resumed after that."""
        self._check("approved", "running")
        self._append(InterventionNeeded(**self._key(at), reason=reason, details=_plain(details)))

    def fail(self, error: str, at: datetime) -> None:
        """Say that an error ended the run."""
        self._check("running")
        self._append(RunFailed(**self._key(at), error=error))

    def complete(self, results: Mapping[str, Any], at: datetime) -> None:
        """End the run, every step done; only the report may be written after it."""
        self._check("running")
        self._check_steps(STEPS[:-1], "the end")
        self._append(RunCompleted(**self._key(at), results=_plain(results)))

    def begin_abort(self, *, by: str, reason: str, at: datetime) -> None:
        """Begin to give the run up; from here on only `abort` ends it."""
        self._check("approved", *_RESUMABLE)
        self._append(AbortBegun(**self._key(at), by=by, reason=reason))

    def abort(self, *, by: str, reason: str, results: Mapping[str, Any], at: datetime) -> None:
        """Give the run up; it never goes on after that."""
        self._check("approved", *_RESUMABLE)
        self._append(RunAborted(**self._key(at), by=by, reason=reason, results=_plain(results)))

    def _append(self, event: RunEvent) -> None:
        self.apply(event)
        self.pending_events.append(event)  # type: ignore[arg-type]

    def _key(self, at: datetime) -> dict[str, Any]:
        return {"run": self.id, "version": self.version + 1, "at": self._utc(at)}

    def _utc(self, moment: datetime) -> datetime:
        if moment.tzinfo is None:
            raise UsageError(f"not a moment with a time zone: {moment!r}", where=self._where())
        return moment.astimezone(UTC)

    def _check(self, *statuses: str) -> None:
        if self.status not in statuses:
            raise self._refused(f"the run is {self.status}", _NEXT_STEPS[self.status])

    def _check_goes_on(self) -> None:
        if self.is_aborting:
            raise self._refused("an abort of it has begun", "end it with `recover abort`")

    def _check_approval(self, at: datetime) -> None:
        if self.approval(self._utc(at)) is None:
            raise self._refused(
                f"the approval expired at {self.approvals[-1].expires_at.isoformat()}", "approve the plan again"
            )

    def _check_steps(self, needed: Iterable[str], before: str) -> None:
        missing = [name for name in needed if name not in self.steps]
        if missing:
            raise self._refused(f"{', '.join(missing)} must be done before {before}", "resume the run")

    def _refused(self, what: str, next_step: str) -> RunRefused:
        return RunRefused(what, where=self._where(), next_step=next_step)

    def _where(self) -> str:
        return f"run {self.id!r}"


_NEXT_STEPS: dict[str, str] = {
    "planned": "approve its plan first, with `recover approve`",
    "approved": "apply its plan, with `recover apply`",
    "running": "go on with `recover resume`, or give it up with `recover abort`",
    "manual_intervention_required": "see `recover status`, then `recover resume` or `recover abort`",
    "failed": "see `recover status`, then `recover resume` or `recover abort`",
    "completed": "see `recover report`; what differs since is another plan",
    "aborted": "plan again: an aborted run does not go on",
}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they will be read back."""
    return msgspec.json.decode(msgspec.json.encode(values), type=dict[str, Any])
