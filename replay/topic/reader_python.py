"""The reader on kafka-python, the client that is always there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    CorruptRecordError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RetriableError,
    UnknownTopicOrPartitionError,
)

from replay.topic.batches import CommittedRecords, Span, Spans
from replay.topic.client import (
    CHUNK_BYTES,
    CHUNK_RECORDS,
    FETCH_BYTES_MAX,
    Chunk,
    PartitionStopped,
    Patience,
    Reason,
    Waiting,
)
from replay.topic.connection import Connection
from replay.topic.records import Body, MalformedBatchError, records_of
from schemas.errors import BrokerError

__all__ = ["KafkaPythonReader"]

POLL_MS = 500

#: How long a broker may wait for a record where there is none. It answers one question after the other, so what it is
#: asked behind the end of a partition keeps the next partition waiting.
FETCH_WAIT_MS = 10

#: Batches taken apart at once: memory holds that many uncompressed, beside those of a chunk.
POLL_BATCHES = 4
RETRY_SECONDS = 0.1

_REASONS: dict[type[Exception], Reason] = {
    CorruptRecordError: "corrupt",
    MalformedBatchError: "corrupt",
    OffsetOutOfRangeError: "gone",
    LogTruncationError: "gone",
    UnknownTopicOrPartitionError: "gone",
}


class KafkaPythonReader:
    """Reads one partition at a time, without a group; a context that closes its consumer."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer: Any = None

    def __enter__(self) -> Self:
        # Every setting that decides what is read is said: the defaults jump to the newest record, commit
        # positions by themselves and show what was never committed.
        try:
            self._consumer = KafkaConsumer(
                **self._connection.kafka_python(),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                check_crcs=True,
                allow_auto_create_topics=False,
                key_deserializer=None,
                value_deserializer=None,
                # What is polled here are batches, see `replay.topic.batches`.
                max_poll_records=POLL_BATCHES,
                max_partition_fetch_bytes=FETCH_BYTES_MAX,
                fetch_max_bytes=FETCH_BYTES_MAX,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                metrics_enabled=False,
            )
        except KafkaError as error:
            where = self._connection.bootstrap_servers
            raise BrokerError(f"Kafka did not answer: {error}", where=where, next_step="run it again") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close(autocommit=False)

    def read(self, partition: int, *, start: int, until: int, waiting: Waiting | None = None) -> Iterator[Chunk]:
        """Yield the committed records from offset `start` to before `until`, `CHUNK_RECORDS` or so at a time."""
        for batches, next_offset in self._drained(CommittedRecords, partition, start, until, waiting):
            yield from _chunks(partition, batches, next_offset)

    def spans(self, partition: int, *, start: int, until: int, waiting: Waiting | None = None) -> Iterator[Span]:
        """Yield the offsets of the committed records of such a range, by batch: the last may go past `until`."""
        for spans, _ in self._drained(Spans, partition, start, until, waiting):
            yield from spans

    def _drained(
        self, kind: type[Any], partition: int, start: int, until: int, waiting: Waiting | None
    ) -> Iterator[tuple[list[Any], int]]:
        """Yield what `kind` makes of the range, with the offset that comes after it."""
        if start >= until:
            return
        place = TopicPartition(self._topic, partition)
        # It has no other way to see batches, and what it makes of them decides what is read.
        self._consumer._fetcher.PartitionRecords = kind  # noqa: SLF001
        self._consumer.assign([place])
        self._consumer.seek(place, start)
        patience = Patience(self._connection, self._topic, partition, waiting)
        position = handed_on = start
        gathered: list[Any] = []
        failure: Exception | None = None
        while position < until and failure is None:
            reached, failure = self._polled(place, gathered, position)
            moved = reached > position
            if moved:
                patience.moved()
                position = reached
            is_enough = position - handed_on >= CHUNK_RECORDS or sum(each.size for each in gathered) >= CHUNK_BYTES
            # What there is is handed on before anything is waited for: it is not lost where that is in vain.
            if gathered and position < until and (is_enough or not moved):
                yield gathered, position
                gathered, handed_on = [], position
                # What was done with it meanwhile was no waiting for brokers.
                patience.moved()
            if not moved and failure is None:
                patience.waited(position, until)
        yield gathered, min(position, until)
        if failure is not None:
            _stop(partition, position, failure)

    def _polled(self, place: Any, gathered: list[Any], position: int) -> tuple[int, Exception | None]:
        """Add what is there to `gathered`; return the offset behind it, and what ends the reading."""
        try:
            # Kept before anything else is asked: the client goes on behind it from now on.
            gathered.extend(self._consumer.poll(timeout_ms=POLL_MS).get(place, ()))
            # What is no record moves the client on too.
            position = max(position, self._consumer.position(place, timeout_ms=POLL_MS) or 0)
        except Exception as error:  # noqa: BLE001 - damaged bytes raise what they will; it is judged by the caller.
            if not isinstance(error, RetriableError) or isinstance(error, UnknownTopicOrPartitionError):
                return _behind(gathered, position), error
            # The client mends this by itself, so only patience decides.
            time.sleep(RETRY_SECONDS)
        return _behind(gathered, position), None


def _behind(gathered: list[Any], position: int) -> int:
    return max(position, gathered[-1].last + 1) if gathered else position


def _chunks(partition: int, batches: list[Body], next_offset: int) -> Iterator[Chunk]:
    """Yield the records of batches as one chunk, as far as they can be taken apart; PartitionStopped behind it."""
    # The last batches may be behind the end, or go on there.
    batches = [batch for batch in batches if batch.offset < next_offset]
    try:
        yield Chunk(partition, *records_of(batches, next_offset), next_offset)
    except MalformedBatchError as error:
        yield from _chunks(partition, batches[: error.index], error.offset)
        _stop(partition, error.offset, error)


def _stop(partition: int, offset: int, failure: Exception) -> NoReturn:
    reason: Reason = next((reason for kind, reason in _REASONS.items() if isinstance(failure, kind)), "unreadable")
    details = f"{type(failure).__name__}: {failure}"
    raise PartitionStopped(partition, offset, reason, details) from failure
