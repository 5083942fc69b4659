"""A topic in memory and members of a group that follow it: the test says who reads what, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from shadows import Stored
from topics import Record

from consumers.topic_group import Range
from replay.full_replay import Replay
from replay.rows import stored_rows
from replay.topic import Connection, Topic, replayed_topic
from replay.topic.client import Chunk, PartitionStopped
from replay.topic.metadata import Bounds
from replay.topic_rows import UNNAMED
from schemas.errors import BrokerError

__all__ = ["NOWHERE", "MemoryGroup", "MemoryTopic", "in_memory", "replayed_memory", "said_by_topic"]

#: Nobody connects to it.
NOWHERE = Connection(bootstrap_servers="nowhere:1")


class MemoryTopic:
    """Records by partition. None in a log is an offset without a record, as control records and aborted ones are.

    `open_from` is where a transaction is open by partition, `first` what was deleted before, `damaged` the offset from
    which a partition cannot be read; `is_down` has the brokers silent.
    """

    def __init__(self, partitions: int = 1) -> None:
        self.logs: dict[int, list[Record | None]] = {partition: [] for partition in range(partitions)}
        self.topic_id: str | None = "id"
        self.first: dict[int, int] = {}
        self.open_from: dict[int, int] = {}
        self.damaged: dict[int, int] = {}
        self.is_down = False
        self.members: list[MemoryGroup] = []

    def describe(self, *_: object) -> Topic | None:
        """Describe it as it is now."""
        if self.is_down:
            raise BrokerError("Kafka did not answer: it is down")
        if self.topic_id is None:
            return None
        bounds = {at: Bounds(self.first.get(at, 0), self.stable(at), len(log)) for at, log in self.logs.items()}
        return Topic(name="events", topic_id=self.topic_id, partitions=bounds, settings={})

    def stable(self, partition: int) -> int:
        """Return the end of what is committed."""
        return self.open_from.get(partition, len(self.logs[partition]))

    def chunk(self, partition: int, after: int, until: int) -> Chunk:
        """Return the records of a range of offsets."""
        some = enumerate(self.logs[partition][after:until], after)
        records = [(offset, *record) for offset, record in some if record is not None]
        offsets, keys, values = zip(*records, strict=True) if records else ((), (), ())
        return Chunk(partition, list(offsets), list(keys), list(values), until)

    def read(self, partition: int, *, start: int, until: int, **_: object) -> Iterator[Chunk]:
        """Yield the records of a partition, as readers without a group do."""
        for after in range(start, until, 7):
            yield self.chunk(partition, after, min(after + 7, until))

    def join(self, *_: object) -> MemoryGroup:
        """Return a new member, which has every partition until the test says otherwise."""
        self.members.append(MemoryGroup(self))
        return self.members[-1]


class MemoryGroup:
    """A member of the group; `give` changes what it reads, as a rebalance does."""

    def __init__(self, topic: MemoryTopic) -> None:
        self._topic = topic
        self._after: dict[int, int] = {}
        self._mine: frozenset[int] | None = None
        self.is_moved = True
        self.is_closed = False

    @property
    def assigned(self) -> frozenset[int]:
        """What it reads."""
        return frozenset(self._topic.logs) if self._mine is None else self._mine

    def give(self, *partitions: int) -> None:
        """Rebalance: it has these partitions now."""
        self._mine = frozenset(partitions)
        self.is_moved = True

    def heads(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return the ends of what is committed."""
        if self._topic.is_down or self._topic.topic_id is None:
            raise BrokerError("Kafka did not answer: it is down")
        return {partition: self._topic.stable(partition) for partition in partitions}

    def seek(self, positions: Mapping[int, int]) -> None:
        """Read on from there."""
        self.is_moved = False
        self._after = dict(positions)

    def read(self, events: int, seconds: float) -> list[Range]:
        """Return up to so many offsets of its partitions."""
        found: list[Range] = []
        for partition in sorted(self.assigned & set(self._after)):
            after = self._after[partition]
            if after < self._topic.first.get(partition, 0) or after > len(self._topic.logs[partition]):
                raise PartitionStopped(partition, after, "gone", "the records there are no more")
            damaged = self._topic.damaged.get(partition, after + events)
            until = min(self._topic.stable(partition), after + events, damaged)
            if until > after:
                found.append(Range(after, self._topic.chunk(partition, after, until)))
                self._after[partition] = until
                events -= until - after
        if not found:
            for partition, offset in self._topic.damaged.items():
                if partition in self.assigned:
                    raise PartitionStopped(partition, offset, "corrupt", "the test says so")
        return [] if self.is_moved else found

    def close(self) -> None:
        """Leave."""
        self.is_closed = True


@contextmanager
def in_memory(topic: MemoryTopic) -> Iterator[MemoryTopic]:
    """Have shadows of topics follow this one."""
    with (
        patch("consumers.topic_shadow.Group", topic.join),
        patch("consumers.topic_shadow.describe", topic.describe),
        patch("consumers.topic_shadow.topic_named", topic.describe),
    ):
        yield topic


@contextmanager
def _opened(topic: MemoryTopic) -> Iterator[MemoryTopic]:
    yield topic


def said_by_topic(replay: Replay) -> Stored:
    """Return what the replay of a topic says that a shadow of it should have stored at its ends."""
    position = replay.certificate.position
    assert isinstance(position, dict)
    parked = {found.account_id: (found.version, found.reason) for found in replay.certificate.parked}
    if any(found.account_id is None for found in replay.certificate.poison):
        # A certificate lists it as poison; rows have only accounts that are parked.
        parked[UNNAMED] = (1, "poison_event")
    return Stored(position, stored_rows(replay.rows, replay.gate).sort("account_id"), parked)


@contextmanager
def replayed_memory(topic: MemoryTopic) -> Iterator[Replay]:
    """Replay a topic in memory, as far as it is committed."""
    described = topic.describe()
    assert described is not None
    ends = {at: bounds.stable for at, bounds in described.partitions.items()}
    with (
        patch("replay.topic.workers.open_reader", lambda *_: _opened(topic)),
        patch("replay.topic.split.open_reader", lambda *_: _opened(topic)),
        replayed_topic(NOWHERE, described, ledger_id="ledger", until=ends, links=True) as found,
    ):
        yield found
