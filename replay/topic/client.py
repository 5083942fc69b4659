"""What a reader of a topic does, whichever client does it: one partition, from an offset up to an end.

A reader takes committed records only, never jumps over what it cannot read, and never ends before the end that
it was given: it stops with the offset and the reason instead. It waits for brokers that do not answer, says so, and
gives up after the connection's patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol

from replay.topic.connection import Connection
from schemas.errors import BrokerError

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_RECORDS",
    "Chunk",
    "PartitionStopped",
    "Patience",
    "Reader",
    "Reason",
    "Waiting",
    "open_reader",
]

#: Records handed on at once: enough that the work on a chunk is by columns, few enough to stay in the cache.
CHUNK_RECORDS = 25_000

#: Bytes of records after which fewer are handed on at once.
CHUNK_BYTES = 64 * 2**20

#: Bytes that a broker gives at once of one partition.
FETCH_BYTES_MAX = 4 * 2**20

#: Seconds without a record after which a reader says that it waits.
QUIET_SECONDS = 2.0

Reason = Literal["unreachable", "stalled", "corrupt", "unreadable", "gone"]

#: Called with a sentence while a reader waits, and with an empty text when it goes on.
Waiting = Callable[[str], None]


class Chunk(NamedTuple):
    """Records of one partition in offset order; `next_offset` is where the next chunk starts.

    Offsets may have holes: control records and aborted records have offsets too. A chunk may hold no record.
    """

    partition: int
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: list[bytes | None]
    next_offset: int


class PartitionStopped(Exception):
    """A partition that could not be read to its end.

    `offset` is the first that was not read. Reasons: `unreachable`, no broker answers; `stalled`, an open
    transaction holds the last stable offset; `corrupt`, a batch fails its checksum; `unreadable`, it cannot be
    taken apart; `gone`, the records there are no more.
    """

    def __init__(self, partition: int, offset: int, reason: Reason, details: str) -> None:
        super().__init__(f"partition {partition}, offset {offset}: {reason}: {details}")
        self.partition = partition
        self.offset = offset
        self.reason = reason
        self.details = details


class Reader(Protocol):
    """Reads one partition at a time."""

    def read(self, partition: int, *, start: int, until: int, waiting: Waiting | None = None) -> Iterator[Chunk]:
        """Yield the committed records from offset `start` to before `until`; PartitionStopped where that fails."""


def open_reader(connection: Connection, topic: str) -> AbstractContextManager[Reader]:
    """Return a context that gives a reader by the client that the connection names."""
    if connection.client == "librdkafka":
        from replay.topic.reader_librdkafka import LibrdkafkaReader

        return LibrdkafkaReader(connection, topic)
    from replay.topic.reader_python import KafkaPythonReader

    return KafkaPythonReader(connection, topic)


class Patience:
    """How long one partition has given nothing, and what that means once it is too long."""

    def __init__(self, connection: Connection, topic: str, partition: int, waiting: Waiting | None) -> None:
        self._connection = connection
        self._topic = topic
        self._partition = partition
        self._waiting = waiting
        self._since = time.monotonic()
        self._is_quiet = False

    def moved(self) -> None:
        """Take note that the reader went on."""
        self._since = time.monotonic()
        if self._is_quiet and self._waiting is not None:
            self._waiting("")
        self._is_quiet = False

    def waited(self, offset: int, until: int) -> None:
        """Take note that nothing came for the offset; PartitionStopped when it has been too long."""
        seconds = time.monotonic() - self._since
        if seconds >= self._connection.stall_timeout_seconds:
            raise self._stopped(offset, until, seconds)
        if seconds >= QUIET_SECONDS and self._waiting is not None:
            self._is_quiet = True
            self._waiting(f"partition {self._partition} waits at offset {offset:,}: the brokers give nothing")

    def _stopped(self, offset: int, until: int, seconds: float) -> PartitionStopped:
        """Ask the brokers why, now that it matters."""
        # Not before it is needed: a worker has no other use for the administration's half of the client.
        from replay.topic.metadata import describe

        try:
            topic = describe(self._connection, self._topic)
        except BrokerError as error:
            return PartitionStopped(
                self._partition, offset, "unreachable", f"nothing for {seconds:.0f} s: {error.what}"
            )
        bounds = None if topic is None else topic.partitions.get(self._partition)
        if bounds is None:
            return PartitionStopped(self._partition, offset, "gone", "the topic has no such partition any more")
        if bounds.stable < min(until, bounds.high):
            open_since = f"an open transaction holds the last stable offset at {bounds.stable}, below {until}"
            return PartitionStopped(self._partition, offset, "stalled", open_since)
        return PartitionStopped(self._partition, offset, "unreadable", f"the broker gave nothing for {seconds:.0f} s")
