"""The recovery runs of a ledger: read, listed, and changed together with whatever belongs to the change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec
from eventsourcing.application import AggregateNotFoundError, Repository
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import EventStore, Mapper, StoredEvent
from eventsourcing_sqlalchemy.recorders import SQLAlchemyAggregateRecorder
from sqlalchemy import Connection, func, select, text

from ledger.recorder import StoreDatastore
from ledger.recovery_run import (
    AbortBegun,
    InterventionNeeded,
    ProgressNoted,
    RecoveryRun,
    RunAborted,
    RunApproved,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunResumed,
    RunStarted,
    StepCompleted,
)
from ledger.recovery_tables import RECOVERY_EVENTS, RecoveryEventRecord
from ledger.store import Store
from schemas.errors import StoreError

__all__ = ["Runs"]

_EVENTS = (
    RunApproved
    | RunStarted
    | RunResumed
    | StepCompleted
    | ProgressNoted
    | InterventionNeeded
    | RunFailed
    | RunCompleted
    | AbortBegun
    | RunAborted
)


class RunMapper(Mapper[str]):
    """Between events of runs and stored events: the state is their JSON, the topic their tag."""

    def __init__(self) -> None:
        # Neither transcoder, compressor nor cipher.
        self.transcoder = self.compressor = self.cipher = None  # type: ignore[assignment]

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """Return an event as it is stored."""
        event = cast("RunEvent", domain_event)
        tag = str(type(event).__struct_config__.tag)
        return StoredEvent(event.run, event.version, tag, msgspec.json.encode(event))

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        """Return the event that the bytes hold; StoreError, with its place, where they hold none."""
        try:
            return cast("DomainEventProtocol[str]", msgspec.json.decode(stored_event.state, type=_EVENTS))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(
                f"an event of a recovery run cannot be read: {error}",
                where=f"run {str(stored_event.originator_id)!r} event {stored_event.originator_version}",
                next_step="restore the table ledger_recovery_events from a backup of the database",
            ) from error


class RunDatastore(StoreDatastore):
    """The library's datastore on a store, with the record of runs."""

    base_stored_event_record_cls = RecoveryEventRecord  # type: ignore[assignment]
    # The library adds to it, so it must be the class's own.
    record_classes = {f"public.{RECOVERY_EVENTS.name}": (RecoveryEventRecord, RecoveryEventRecord)}  # noqa: RUF012


class Runs:
    """The runs of one store, each a `RecoveryRun` under its name.

    Raises: StoreError for an event that cannot be read, SQLAlchemy's errors for the database.
    """

    def __init__(self, store: Store) -> None:
        recorder = SQLAlchemyAggregateRecorder(RunDatastore(store), events_table_name=RECOVERY_EVENTS.name)
        self._recorder = recorder
        self._events: EventStore[str] = EventStore(RunMapper(), recorder)
        self._repository: Repository[str] = Repository(self._events)

    def get(self, run: str) -> RecoveryRun | None:
        """Return a run, None where it has no events."""
        project = cast("Any", RecoveryRun.project)
        try:
            return cast("RecoveryRun", self._repository.get(run, projector_func=project))
        except AggregateNotFoundError:
            return None

    def listed(self) -> list[RecoveryRun]:
        """Return every run, in the order of their first events."""
        names = select(RECOVERY_EVENTS.c.originator_id).group_by(RECOVERY_EVENTS.c.originator_id)
        with self._recorder.transaction(commit=False) as session:
            found = session.connection().execute(names.order_by(func.min(RECOVERY_EVENTS.c.id))).scalars().all()
            return [run for name in found if (run := self.get(name)) is not None]

    @contextmanager
    def changing(self, run: str) -> Iterator[tuple[RecoveryRun, Connection]]:
        """Yield a run (`planned` where it has no events) and the connection of one write transaction.

        The run's new events and what is written on the connection are committed together at the end, or neither on an
        error. Nobody else changes a run meanwhile: who waited decides on what it is then. Commands of a `Ledger` on
        the same store belong to the transaction too; one that is open already must not wait for this one.
        """
        with self._recorder.transaction(commit=True) as session:
            connection = session.connection()
            if connection.dialect.name == "postgresql":
                # On SQLite the transaction has the one write lock from its beginning.
                connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(text(f"LOCK TABLE {RECOVERY_EVENTS.name} IN EXCLUSIVE MODE"))
            found = self.get(run) or RecoveryRun.planned(run)
            yield found, connection
            if found.pending_events:
                self._events.put(found.collect_events())
