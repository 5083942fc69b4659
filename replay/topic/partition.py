"""The replay of one partition: what a worker is asked for, and what it answers with.

The result is a checkpoint: position, gate and states right there. So a partition that was interrupted goes on from
its last one, and a finished one is its last one. Per partition, the state and the position are one file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from projections import ACCOUNT_STATUS, BALANCES, ORDER_LINKS, RELATIONS, TRANSACTIONS, Projection
from replay.checkpoint import CHECKPOINT_EVENTS, Checkpoint, Checkpoints
from replay.engine import run
from replay.full_replay import Memory
from replay.gate import Gate, Parked
from replay.moment import Moment
from replay.states import States
from replay.topic.client import PartitionStopped, Reader
from replay.topic.connection import Connection
from replay.topic.source import PartitionSource

__all__ = ["Assignment", "Outcome", "Report", "State", "checkpoints_of", "replay_partition"]

_FOLDED = (BALANCES, ACCOUNT_STATUS, TRANSACTIONS, RELATIONS, ORDER_LINKS)
_PROJECTIONS = {projection.name: projection for projection in _FOLDED}


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A partition to replay from `first` (or its checkpoint in `folder`) to before `until`.

    With `links` the chain of every event is made, see `Gate`; with a `moment` only its events are folded.
    """

    connection: Connection
    topic: str
    topic_id: str
    partition: int
    first: int
    until: int
    projections: list[str]
    folder: str
    links: bool = False
    moment: Moment | None = None
    checkpoint_events: int = CHECKPOINT_EVENTS


class State(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far a partition is, in offsets; `note` says what it waits for."""

    partition: int
    position: int
    until: int
    note: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A replayed partition: the checkpoint at `position` holds the rest.

    `parked` are accounts of this partition that cannot be vouched for; `reason` and `details` say why it was not
    read to the end, empty where it was.
    """

    partition: int
    position: int
    parked: list[Parked]
    resumed_from: int | None = None
    reason: str = ""
    details: str = ""


Report = Callable[[State], None]


def checkpoints_of(assignment: Assignment) -> Checkpoints:
    """Return where the checkpoints of an assignment are."""
    kinds = tuple(_PROJECTIONS[name] for name in assignment.projections)
    links = "-links" if assignment.links else ""
    moment = assignment.moment.name if assignment.moment else ""
    identity = f"{assignment.topic_id}-{assignment.partition}{links}{moment}"
    return Checkpoints(Path(assignment.folder), identity, kinds, every_events=assignment.checkpoint_events)


def replay_partition(assignment: Assignment, reader: Reader, spill: Path, report: Report) -> Outcome:
    """Replay a partition into its checkpoint, as far as it can be read."""
    partition, until = assignment.partition, assignment.until
    checkpoints = checkpoints_of(assignment)
    found = checkpoints.load(until)
    target = _target(assignment, checkpoints, found, spill)
    source = PartitionSource(reader, assignment.topic_id, partition, end=until, keeps_bytes=assignment.links)
    state = State(partition=partition, position=found.position if found else assignment.first, until=until)
    after = state.position

    def moved(done: int, _: int | None) -> None:
        nonlocal state
        state = msgspec.structs.replace(state, position=after + done, note="")
        report(state)

    source.waiting = lambda note: report(msgspec.structs.replace(state, note=note))
    report(state)
    stopped: PartitionStopped | None = None
    try:
        run(source, target, after=after, until=until, progress=moved)
    except PartitionStopped as reason:
        stopped = reason
    checkpoints.save(Checkpoint.of(state.position, target.events, target.gate, target.states))
    try:
        parked = target.gate.parked(None, source.copies)
    except PartitionStopped as reason:
        # What came twice could not be compared, so nothing here is vouched for.
        stopped, parked = stopped or reason, {}
    return Outcome(
        partition=partition,
        position=state.position,
        parked=[msgspec.structs.replace(account, partition=partition) for account in parked.values()],
        resumed_from=found.position if found else None,
        reason=stopped.reason if stopped else "",
        details=stopped.details if stopped else "",
    )


def _target(assignment: Assignment, checkpoints: Checkpoints, found: Checkpoint | None, spill: Path) -> Memory:
    kinds: list[Projection] = [_PROJECTIONS[name] for name in assignment.projections]
    states = States(kinds, spill=spill / str(assignment.partition))
    if found is None:
        return Memory(states, Gate(links=assignment.links), 0, checkpoints, moment=assignment.moment)
    states.restore(found.states())
    gate = found.gate()
    gate.links = assignment.links
    return Memory(states, gate, found.events, checkpoints, moment=assignment.moment)
