"""A member of a consumer group: committed records of the partitions that the group gives it, from where it is told.

The group only says who reads what. Positions are the caller's: nothing is committed to Kafka, and after every change of
the assignment nothing is handed on before the caller has said anew where to read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    IllegalStateError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RetriableError,
    SaslAuthenticationFailedError,
)

from replay.topic.batches import CommittedRecords
from replay.topic.client import CHUNK_BYTES, FETCH_BYTES_MAX, Chunk, PartitionStopped, Reason
from replay.topic.connection import Connection
from replay.topic.records import Body, MalformedBatchError, records_of
from schemas.errors import BrokerError, BrokerRefused

__all__ = ["Group", "Range"]

#: Milliseconds without a sign of life after which a member loses its partitions; brokers take no less than 6,000 unless
#: they are told to.
SESSION_MS = 10_000
HEARTBEAT_MS = 2_000

#: Milliseconds between two polls after which a member is taken for stuck, and its partitions go to others.
POLL_INTERVAL_MS_MAX = 60_000

#: How long a broker may hold back an answer while there is nothing new: what else it is asked waits as long.
FETCH_WAIT_MS = 50

#: How soon partitions that a topic was given are seen.
METADATA_AGE_MS = 5_000

#: Batches taken out of the client at once.
POLL_BATCHES = 16

#: How long the ends of the partitions may take to come, and a goodbye to be heard.
ANSWER_MS = 2_000


class Range(NamedTuple):
    """Records of one partition from the offset `after` to before the chunk's next one; there may be none."""

    after: int
    chunk: Chunk


class _Placed(CommittedRecords):
    """The same, saying where a batch is that cannot be read."""

    def _unpack_records(self, place: Any, records: Any, *rest: Any) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(place, records, *rest)
        except Exception as error:
            # Damaged bytes raise what they will.
            reason: Reason = "corrupt" if isinstance(error, CorruptRecordError) else "unreadable"
            # Or the client would ask this range for more without end once it is sought anew.
            self.drain()
            raise _stopped(place.partition, self.next_fetch_offset, reason, error) from error


class Group:
    """A member of a group that reads one topic; BrokerError where the brokers do not answer, or say no.

    `is_moved` says that the assignment changed since the last `seek`, which has to come before the next `read`.
    """

    def __init__(self, connection: Connection, topic: str, group_id: str) -> None:
        self._topic = topic
        self._where = connection.bootstrap_servers
        self.is_moved = True
        self._after: dict[int, int] = {}
        self._pending: dict[int, list[Body]] = {}
        self._reached: dict[int, int] = {}
        self._failure: PartitionStopped | None = None
        try:
            self._consumer = KafkaConsumer(**connection.kafka_python(), **_settings(group_id))
        except KafkaError as error:
            raise self._error(error) from error
        # It has no other way to see batches, and what it makes of them decides what is read.
        self._consumer._fetcher.PartitionRecords = _Placed  # noqa: SLF001
        self._consumer.subscribe([topic], listener=_Listener(self))

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that this member reads now."""
        return frozenset(place.partition for place in self._consumer.assignment())

    def heads(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return the end of the committed records of the partitions that the client knows of by now.

        BrokerError where none is told in time.
        """
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            found = self._ends(places)
        except (KafkaError, ValueError) as error:
            raise self._error(error) from error
        return {place.partition: offset for place, offset in found.items()}

    def _ends(self, places: list[Any]) -> dict[Any, int]:
        try:
            return self._consumer.end_offsets(places, timeout_ms=ANSWER_MS) if places else {}
        except KeyError as unknown:
            # What the topic was just given is in none of its answers, and it does not expect that itself.
            known = [place for place in places if place not in unknown.args]
            if known == places:
                raise
            return self._ends(known)

    def seek(self, positions: Mapping[int, int]) -> None:
        """Forget what was read, and read on from these offsets."""
        self.is_moved = False
        self._failure = None
        self._pending, self._reached = {}, {}
        self._after = dict(positions)
        for partition in self.assigned & set(positions):
            self._seek(TopicPartition(self._topic, partition))

    def read(self, events: int, seconds: float) -> list[Range]:
        """Return up to so many records of the partitions, all that there are or, waiting so long, none.

        None after a change of the assignment. PartitionStopped where a partition cannot be read on, once all before
        that was handed on, and again each time until the next `seek`; BrokerError where a broker says no.
        """
        if self._failure is None:
            self._fill(events, seconds)
        if self.is_moved:
            return []
        found = self._cut(events)
        if not found and self._failure is not None:
            raise self._failure
        return found

    def close(self) -> None:
        """Leave the group, so that others have its partitions at once."""
        self._consumer.close(autocommit=False, timeout_ms=ANSWER_MS)

    def assign(self, places: Sequence[Any]) -> None:
        """Take note of a new assignment, on the client's own thread."""
        self.is_moved = True
        # Without a position the client would ask Kafka for one, where none was ever committed.
        for place in places:
            self._seek(place)

    def _seek(self, place: Any) -> None:
        try:
            self._consumer.seek(place, self._after.get(place.partition, 0))
        except (ValueError, KeyError):
            # It was taken away meanwhile, of which the listener hears too.
            self.is_moved = True

    def _fill(self, events: int, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while not self.is_moved and not self._is_enough(events):
            has_some = any(self._pending.values())
            # What there is is not kept waiting for more.
            left = 0.0 if has_some else max(0.0, ends_at - time.monotonic())
            if not self._polled(left) and (has_some or time.monotonic() >= ends_at):
                return
            if self._failure is not None:
                return

    def _is_enough(self, events: int) -> bool:
        bodies = [body for pending in self._pending.values() for body in pending]
        return sum(_offsets(body) for body in bodies) >= events or sum(body.size for body in bodies) >= CHUNK_BYTES

    def _polled(self, seconds: float) -> bool:
        """Add what comes within some seconds to what is pending; return whether anything did."""
        try:
            found = self._consumer.poll(timeout_ms=round(seconds * 1_000), max_records=POLL_BATCHES)
            for place, bodies in found.items():
                self._pending.setdefault(place.partition, []).extend(bodies)
            before = dict(self._reached)
            for partition in self.assigned & set(self._after):
                # What is no record moves the client on too.
                place = TopicPartition(self._topic, partition)
                self._reached[partition] = self._consumer.position(place, timeout_ms=ANSWER_MS) or 0
        except (IllegalStateError, NoOffsetForPartitionError):
            self.is_moved = True
        except PartitionStopped as stopped:
            self._failure = stopped
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            self._failure = self._gone(error)
        except RetriableError:
            # The client mends this by itself.
            time.sleep(min(seconds, 0.1))
        except KafkaError as error:
            raise self._error(error) from error
        else:
            return bool(found) or before != self._reached
        return False

    def _cut(self, events: int) -> list[Range]:
        """Take so many of the pending records, what was left the last time first."""
        found: list[Range] = []
        for partition in [*self._pending, *(self._reached.keys() - self._pending.keys())]:
            bodies = self._pending.pop(partition, [])
            some, until = _some(bodies, events, self._reached.get(partition, 0))
            after = self._after[partition]
            if until <= after:
                continue
            chunk = self._chunk(partition, some, until)
            if chunk.next_offset > after:
                self._after[partition] = chunk.next_offset
                found.append(Range(after, chunk))
                events -= len(chunk.values)
            left = [body._replace(offset=max(body.offset, until)) for body in bodies if body.last >= until]
            if left:
                self._pending = {partition: left} | self._pending
            if events <= 0 or self._failure is not None:
                break
        return found

    def _chunk(self, partition: int, bodies: list[Body], until: int) -> Chunk:
        try:
            return Chunk(partition, *records_of(bodies, until), until)
        except MalformedBatchError as error:
            self._failure = _stopped(partition, error.offset, "corrupt", error)
            return self._chunk(partition, bodies[: error.index], error.offset)

    def _gone(self, error: KafkaError) -> PartitionStopped:
        of_it = [place for place in self._consumer.assignment() if str(place) in str(error)]
        partition = of_it[0].partition if of_it else min(self.assigned, default=0)
        return _stopped(partition, self._after.get(partition, 0), "gone", error)

    def _error(self, error: Exception) -> BrokerError:
        if isinstance(error, AuthorizationError | SaslAuthenticationFailedError):
            return BrokerRefused(f"Kafka refused: {error}", where=self._where, next_step="see [kafka.security]")
        return BrokerError(
            f"Kafka did not answer: {error}", where=self._where, next_step="check that the brokers are up"
        )


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types.
    """Tells a member of its partitions; it is called on the client's thread, which must not wait for anything."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - all that was read is forgotten.
        self._group.is_moved = True

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._group.assign(list(assigned))


def _settings(group_id: str) -> dict[str, Any]:
    """Return all settings that decide what is read, and from where: the defaults jump, commit and show too much."""
    return {
        "group_id": group_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "check_crcs": True,
        "allow_auto_create_topics": False,
        "key_deserializer": None,
        "value_deserializer": None,
        "partition_assignment_strategy": (RangePartitionAssignor,),
        "session_timeout_ms": SESSION_MS,
        "heartbeat_interval_ms": HEARTBEAT_MS,
        "max_poll_interval_ms": POLL_INTERVAL_MS_MAX,
        "metadata_max_age_ms": METADATA_AGE_MS,
        "max_poll_records": POLL_BATCHES,
        "max_partition_fetch_bytes": FETCH_BYTES_MAX,
        "fetch_max_bytes": 2 * FETCH_BYTES_MAX,
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "metrics_enabled": False,
    }


def _offsets(body: Body) -> int:
    return body.last + 1 - body.offset


def _some(bodies: Sequence[Body], events: int, reached: int) -> tuple[list[Body], int]:
    """Return the bodies that hold so many records, and the offset behind these; behind all, what was reached."""
    some: list[Body] = []
    for body in bodies:
        if events < _offsets(body):
            return ([*some, body], body.offset + events) if events else (some, body.offset)
        events -= _offsets(body)
        some.append(body)
    return some, max(reached, bodies[-1].last + 1 if bodies else 0)


def _stopped(partition: int, offset: int, reason: Reason, error: Exception) -> PartitionStopped:
    return PartitionStopped(partition, offset, reason, f"{type(error).__name__}: {error}")
