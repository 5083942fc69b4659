"""What every step of a run has: the store, the plan, the live rows, the lease, and where it says what it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ledger import Ledger, audit, fence
from ledger.audit_runs import told_results
from ledger.recovery_run import RecoveryRun
from ledger.recovery_runs import Runs
from ledger.store import Store
from replay.engine import Progress
from replay.recovery.healed import Healing
from replay.recovery.own_target import OwnReadModel
from replay.recovery.plan import Plan, run_of
from replay.recovery.table_target import TableTarget
from schemas.errors import StoreError

__all__ = ["At", "Options", "Surroundings", "Told", "Work", "run_folder"]

LEASE = timedelta(minutes=1)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def run_folder(data: Path, run: str) -> Path:
    """Return where a run keeps its files in the data folder."""
    return data / "recovery" / run


class At(msgspec.Struct, frozen=True, kw_only=True):
    """How far a step is: `total` and `seconds_left` are null where nobody can say; `of` is accounts or events."""

    step: str
    done: int
    total: int | None
    of: str = "accounts"
    seconds_left: float | None = None


Told = Callable[[At], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is applied.

    `by` is the operator, `holder` a token of this process; `batch` fixes the size of batches, `throttle` is the
    largest share of the time that may be busy. The lease runs out `lease` after the last sign of life.
    """

    by: str
    holder: str
    batch: int | None = None
    throttle: float | None = None
    lease: timedelta = LEASE
    now: Callable[[], datetime] = _utc_now
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class SystemPart(Protocol):
    """What a check says of one part of the system: see `replay.recovery.parts.Part`."""

    @property
    def state(self) -> str:
        """`degraded` where it will not do."""

    @property
    def words(self) -> str:
        """How it is."""

    @property
    def next_step(self) -> str:
        """What to do."""


class Severity(Protocol):
    """What a check of the system says, as far as a run goes by it: see `replay.recovery.check.SystemState`."""

    @property
    def severity(self) -> str:
        """`critical` where there is nothing whole to replay from."""

    def part(self, name: Literal["disk"], /) -> SystemPart:
        """Return what it says of the disk."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What is outside of a store and its live rows; each may be left out, and then is told as skipped.

    `check` gives the state of the system; `alert` is given a kind and a content and returns why it could not tell
    anybody, else null; `pause` and `go_on` tell the foreign system, and raise where they could not; `healing` gives
    the copy of the stream that the plan names; `reconcile` gives totals; `report` is given how the run ends and
    writes the report.
    """

    check: Callable[[], Severity] | None = None
    alert: Callable[[str, Mapping[str, Any]], str | None] | None = None
    pause: Callable[[], None] | None = None
    go_on: Callable[[], None] | None = None
    healing: Callable[[], Healing] | None = None
    reconcile: Callable[[], Mapping[str, Any]] | None = None
    report: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(kw_only=True)
class Work:
    """One process at work on one run.

    `store` is let through the run's own fence; `data` is the data folder. `told` is called with how far a step is.
    """

    store: Store
    plan: Plan
    target: TableTarget | OwnReadModel
    data: Path
    options: Options
    around: Surroundings
    told: Told | None = None
    #: What is worth saying at the end and ended nothing, such as an alert that reached nobody.
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = run_of(self.plan)
        self.store = self.store.for_run(self.run)
        self.runs = Runs(self.store)
        self.ledger = Ledger(self.store, clock=self.options.now)
        # What a person decided of the points of an account counts, whatever is frozen or left, and locked or not.
        self.overriding = Ledger(
            self.store, allow_overdraft=True, allow_over_freeze=True, allow_locked=True, clock=self.options.now
        )
        self._renewed_at = self.options.clock()
        #: Whether there is a lease to keep: a dry run has none.
        self.has_lease = False

    @property
    def folder(self) -> Path:
        """Where the run keeps its plan, its backup and its report."""
        return run_folder(self.data, self.run)

    @property
    def now(self) -> datetime:
        """The moment."""
        return self.options.now()

    def state(self) -> RecoveryRun:
        """Return the run as it is now, `planned` where it has no events."""
        return self.runs.get(self.run) or RecoveryRun.planned(self.run)

    @contextmanager
    def changing(self) -> Iterator[tuple[RecoveryRun, Connection]]:
        """Yield the run and the connection of one write transaction, in which the lease is renewed first.

        PositionMoved, and nothing written, where another process has it by now.
        """
        with self.runs.changing(self.run) as (recovery, connection):
            self.renew(connection)
            yield recovery, connection

    def renew(self, connection: Connection) -> None:
        """Renew the lease in a transaction; PositionMoved where it is lost, and the work must end there."""
        options = self.options
        fence.renew(connection, self.run, options.holder, now=self.now, lease=options.lease)
        self._renewed_at = options.clock()

    def keep(self) -> None:
        """Renew the lease, if there is one, where a third of it has passed, in a transaction of its own."""
        if self.has_lease and self.options.clock() - self._renewed_at > self.options.lease.total_seconds() / 3:
            with self.store.writing() as connection:
                self.renew(connection)

    def still(self) -> None:
        """Make sure of the lease in the middle of a write of live rows, which are locked; PositionMoved where lost."""
        if self._is_one_file:
            # The live write keeps every other writer out until it ends, also who would take the lease.
            with self.store.snapshot() as connection:
                fence.check_held(connection, self.run, self.options.holder)
            return
        try:
            with self.store.writing() as connection:
                self.renew(connection)
        except SQLAlchemyError as error:
            # Else it would be told as an error of the live database, within whose transaction this is.
            where = self.store.url.render_as_string(hide_password=True)
            raise StoreError(f"the database says: {getattr(error, 'orig', None) or error}", where=where) from error

    @property
    def _is_one_file(self) -> bool:
        """Whether live is in the SQLite file of the ledger, which has one write lock."""
        live = self.target.live
        urls = [self.store.url] if live is None else [self.store.url, make_url(live.url)]
        if any(url.get_backend_name() != "sqlite" for url in urls):
            return False
        return len({Path(url.database or "").resolve() for url in urls}) == 1

    def rest(self, seconds: float) -> None:
        """Let others work for some time, and keep the lease meanwhile."""
        while seconds > 0:
            part = min(seconds, self.options.lease.total_seconds() / 3)
            self.options.sleep(part)
            self.keep()
            seconds -= part

    def record(self, connection: Connection, entries: Sequence[audit.Entry]) -> None:
        """Add entries to the audit trail."""
        audit.append(connection, self.store.ledger_id, entries)

    def entry(self, action: str, account_id: str | None = None, **details: Any) -> audit.Entry:
        """Return an entry of this run."""
        plain = msgspec.to_builtins(details)
        return audit.Entry(
            action=action, by=self.options.by, at=self.now, run=self.run, account_id=account_id, details=plain
        )

    def done(self, step: str, results: Any, entries: Sequence[audit.Entry] = ()) -> None:
        """Note that a step is done, with its results and what belongs to it in the audit trail."""
        plain = msgspec.to_builtins(results)
        with self.changing() as (recovery, connection):
            recovery.complete_step(step, plain, self.now)
            told = told_results(recovery.steps[step])
            self.record(connection, [*entries, self.entry("step.completed", step=step, **told)])

    def events(self, step: str) -> Progress:
        """Return what a replay within a step tells how far it is; it keeps the lease, too."""

        def progress(done: int, total: int | None) -> None:
            self.keep()
            self.tell(At(step=step, done=done, total=total, of="events"))

        return progress

    def tell(self, at: At) -> None:
        """Say how far a step is."""
        if self.told is not None:
            self.told(at)

    def alert(self, kind: str, content: Mapping[str, Any]) -> None:
        """Tell somebody; that nobody could be told is noted, and ends nothing."""
        if self.around.alert is None:
            return
        failed = self.around.alert(kind, {"run": self.run, **content})
        if failed is not None:
            self.notes.append(f"the alert {kind} reached nobody: {failed}")
