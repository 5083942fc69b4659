"""The reader on librdkafka, an extra."""

# ruff: noqa: SLF001 - the client names its own error codes with an underscore.
from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

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
from replay.topic.connection import CLIENT_ID, Connection
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from replay.topic.reader_python import KafkaPythonReader

__all__ = ["LibrdkafkaReader"]

POLL_SECONDS = 0.5

#: Kilobytes that the client reads ahead of one partition.
READ_AHEAD_KILOBYTES = 64 * 1024

_REASONS: dict[int, Reason] = {
    KafkaError._BAD_MSG: "corrupt",
    KafkaError._BAD_COMPRESSION: "corrupt",
    KafkaError.INVALID_MSG: "corrupt",
    KafkaError._AUTO_OFFSET_RESET: "gone",
    KafkaError.OFFSET_OUT_OF_RANGE: "gone",
    KafkaError._LOG_TRUNCATION: "gone",
    KafkaError._UNKNOWN_PARTITION: "gone",
    KafkaError._UNKNOWN_TOPIC: "gone",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "gone",
}

#: What the client mends by itself, so that only patience decides.
_PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}

_log = logging.getLogger(__name__)


class LibrdkafkaReader:
    """Reads one partition at a time, without a group; a context that closes its consumer.

    The client says nothing of the batches that it jumped over, so where offsets are missing the other one reads
    what the log holds there: the marks of transactions and aborted records have offsets too, and lost records.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer: Any = None
        self._stack = ExitStack()
        self._batches: KafkaPythonReader | None = None

    def __enter__(self) -> Self:
        settings = {
            **self._connection.librdkafka(),
            # The client asks for a group's name even where no group is used; nothing is committed to it.
            "group.id": CLIENT_ID,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "check.crcs": True,
            "allow.auto.create.topics": False,
            # A position that control records end shows only as the end of the partition.
            "enable.partition.eof": True,
            "fetch.message.max.bytes": FETCH_BYTES_MAX,
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 4 * CHUNK_RECORDS,
            "queued.max.messages.kbytes": READ_AHEAD_KILOBYTES,
        }
        try:
            self._consumer = Consumer(settings, logger=_log)
        except KafkaException as error:
            raise ConfigurationError(
                f"the client librdkafka cannot be made: {error.args[0].str()}",
                where="[kafka]",
                next_step="check [kafka.security], or use client = 'kafka-python'",
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()
        self._stack.close()

    def read(self, partition: int, *, start: int, until: int, waiting: Waiting | None = None) -> Iterator[Chunk]:
        """Yield the committed records from offset `start` to before `until`, at most `CHUNK_RECORDS` at a time."""
        if start >= until:
            return
        self._consumer.assign([TopicPartition(self._topic, partition, start)])
        patience = Patience(self._connection, self._topic, partition, waiting)
        position = start
        at_once = CHUNK_RECORDS
        while position < until:
            # It waits for as many as it is asked for, so it is asked for no more than there are.
            messages = self._consumer.consume(min(at_once, until - position), POLL_SECONDS)
            marks = [place for place, message in enumerate(messages) if message.error() is not None]
            failed = next((place for place in marks if _is_failure(messages[place])), None)
            reached = max((messages[place].offset() for place in marks if _is_end(messages[place])), default=position)
            records = _records(messages if failed is None else messages[:failed], marks, until)
            reached = max(reached, records[-1].offset() + 1 if records else 0)
            if reached > position:
                patience.moved()
                chunk, stop = self._checked(_chunk(partition, records, min(reached, until)), position, waiting)
                at_once = _at_once(chunk)
                yield chunk
                if stop is not None:
                    raise stop
                position = chunk.next_offset
                # What was done with it meanwhile was no waiting for brokers.
                patience.moved()
            if failed is not None and position < until:
                raise _stopped(partition, position, messages[failed].error())
            if reached <= position and not records:
                patience.waited(position, until)

    def _checked(self, chunk: Chunk, start: int, waiting: Waiting | None) -> tuple[Chunk, PartitionStopped | None]:
        """Return a chunk as far as the log holds no more records than it, and what stops it there."""
        holes = _holes(chunk, start)
        if not holes:
            return chunk, None
        first, until = holes[0][0], holes[-1][1]
        if any(after <= first for first, after in holes):
            return _cut(chunk, start), PartitionStopped(chunk.partition, start, "corrupt", "offsets are out of order")
        try:
            missing = self._first_missing(chunk, first, until, waiting)
        except PartitionStopped as stop:
            return _cut(chunk, stop.offset), stop
        if missing is None:
            return chunk, None
        lost = "the log has a record there, the client gave none"
        return _cut(chunk, missing), PartitionStopped(chunk.partition, missing, "corrupt", lost)

    def _first_missing(self, chunk: Chunk, first: int, until: int, waiting: Waiting | None) -> int | None:
        # Loaded where offsets are missing: most topics have no need of the other client, which takes long to load.
        from replay.topic.batches import first_missing
        from replay.topic.reader_python import KafkaPythonReader

        if self._batches is None:
            self._batches = self._stack.enter_context(KafkaPythonReader(self._connection, self._topic))
        spans = self._batches.spans(chunk.partition, start=first, until=until, waiting=waiting)
        return first_missing(chunk.offsets, spans, until)


def _holes(chunk: Chunk, start: int) -> list[tuple[int, int]]:
    """Return the ranges of offsets from `start` that a chunk does not hold; what is out of order is one of them."""
    if len(chunk.offsets) == chunk.next_offset - start:
        return []
    edges = [start - 1, *chunk.offsets, chunk.next_offset]
    return [(before + 1, after) for before, after in pairwise(edges) if after != before + 1]


def _cut(chunk: Chunk, offset: int) -> Chunk:
    kept = bisect_left(chunk.offsets, offset)
    return Chunk(chunk.partition, chunk.offsets[:kept], chunk.keys[:kept], chunk.values[:kept], offset)


def _is_failure(message: Any) -> bool:
    error = message.error()
    return error is not None and error.code() != KafkaError._PARTITION_EOF and error.code() not in _PASSING


def _is_end(message: Any) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _records(messages: list[Any], marks: list[int], until: int) -> list[Any]:
    """Return the messages that are records before `until`."""
    if marks:
        messages = [message for message in messages if message.error() is None]
    while messages and messages[-1].offset() >= until:
        messages.pop()
    return messages


def _chunk(partition: int, records: list[Any], next_offset: int) -> Chunk:
    keys = [record.key() for record in records]
    values = [record.value() for record in records]
    return Chunk(partition, _offsets(records), keys, values, next_offset)


def _at_once(chunk: Chunk) -> int:
    """Return how many records like those of a chunk may be asked for at once."""
    size = sum(map(len, filter(None, chunk.values)))
    return max(1, min(CHUNK_RECORDS, CHUNK_BYTES * len(chunk.values) // size)) if size else CHUNK_RECORDS


def _offsets(records: list[Any]) -> Sequence[int]:
    """Return the offsets, as a range where they have no hole."""
    offsets = [record.offset() for record in records]
    whole = range(offsets[0], offsets[0] + len(offsets)) if offsets else range(0)
    return whole if offsets == list(whole) else offsets


def _stopped(partition: int, offset: int, error: Any) -> PartitionStopped:
    return PartitionStopped(
        partition, offset, _REASONS.get(error.code(), "unreadable"), f"{error.name()}: {error.str()}"
    )
