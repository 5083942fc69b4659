"""Events sent to a topic: batch by batch, each acknowledged whole by all replicas before anything is said of it.

The producer is idempotent and has one request a partition under way at a time, so what it sends twice it writes
once, and in the order it was given. Where a send fails for good, events behind it in other requests may have been
written: the batch is then sent again as a whole by the next run, and readers drop by version what they have seen.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self

from kafka import KafkaProducer
from kafka.errors import AuthorizationError, KafkaConfigurationError, KafkaError, MessageSizeTooLargeError
from kafka.partitioner import murmur2

from replay.topic.connection import Connection
from replay.topic.metadata import Topic
from schemas.errors import BrokerError, BrokerRefused, ConfigurationError

__all__ = ["Delivery", "Span", "partition_of"]

#: Bytes of one partition sent at once, before compression: a fourth of what brokers take by default.
BATCH_BYTES = 256 * 1024

#: Milliseconds that a partition's bytes wait for more: what is sent comes all at once, and its end should not wait.
LINGER_MS = 5

#: Bytes of one request; how large an event may be is the broker's to say.
REQUEST_BYTES_MAX = 16 * 1024 * 1024

#: Seconds beyond the connection's patience in which the producer must have given up by itself.
GRACE_SECONDS = 5.0

#: Keys whose partition is remembered: the hash is made in Python, and costs more than the rest of a send.
KEYS_REMEMBERED = 100_000


class Span(NamedTuple):
    """What was written of a delivery to one partition: the first offset, and the next after the last."""

    first: int
    next: int


@lru_cache(maxsize=KEYS_REMEMBERED)
def partition_of(account_id: str, partitions: int) -> int:
    """Return the partition of an account, the one that every Java client would choose for the key."""
    return int(murmur2(account_id.encode()) & 0x7FFFFFFF) % partitions


class Delivery:
    """What sends to one topic; use it as a context.

    The producer is made when there is something to send, and anew after one that failed.
    """

    def __init__(self, connection: Connection, topic: Topic) -> None:
        self._topic = topic.name
        self._partitions = len(topic.partitions)
        self._patience_seconds = connection.stall_timeout_seconds
        self._where = f"topic {topic.name!r} on {connection.bootstrap_servers}"
        self._connection = connection
        self._producer: Any = None

    def _made(self, connection: Connection) -> Any:
        options = connection.kafka_python()
        patience_ms = max(1, round(connection.stall_timeout_seconds * 1_000))
        try:
            return KafkaProducer(
                **options,
                acks="all",
                enable_idempotence=True,
                retries=float("inf"),  # Until the delivery's own time is over.
                max_in_flight_requests_per_connection=5,
                delivery_timeout_ms=max(patience_ms, options["request_timeout_ms"] + LINGER_MS),
                max_block_ms=patience_ms,
                compression_type="zstd",
                batch_size=BATCH_BYTES,
                linger_ms=LINGER_MS,
                max_request_size=REQUEST_BYTES_MAX,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except KafkaConfigurationError as error:
            raise ConfigurationError(
                f"the Kafka client cannot be made: {error}", where="[kafka]", next_step="check its options"
            ) from error
        except KafkaError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._abandon()
        elif self._producer is not None:
            self._producer.close(timeout=self._patience_seconds + GRACE_SECONDS)

    def _abandon(self) -> None:
        """End the producer with what it has under way, which is void."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        # Its `close` waits for what is under way, and where that fails it leaves the thread that sends.
        producer._sender.force_close()  # noqa: SLF001 - there is no other way to it.
        producer._sender.join(GRACE_SECONDS)  # noqa: SLF001 - as above.
        # What came first counts, and was said.
        with suppress(KafkaError):
            producer.close(timeout=0)

    def deliver(self, account_ids: Sequence[str], states: Sequence[bytes]) -> dict[int, Span]:
        """Write events in this order, and return by partition where; BrokerError if one was not acknowledged."""
        if self._producer is None:
            self._producer = self._made(self._connection)
        try:
            with _uncollected():
                return self._written(account_ids, states)
        except BrokerError:
            # A producer that failed may have lost its place in the order; all of it is sent again by a new one.
            self._abandon()
            raise

    def _written(self, account_ids: Sequence[str], states: Sequence[bytes]) -> dict[int, Span]:
        topic, partitions, send = self._topic, self._partitions, self._producer.send
        spans: dict[int, Span] = {}
        try:
            sent = [
                send(topic, state, account_id.encode(), partition=partition_of(account_id, partitions))
                for account_id, state in zip(account_ids, states, strict=True)
            ]
        except KafkaError as error:
            raise self._failed(error) from error
        # Not `flush`, which fails where the client cuts in two what the broker finds too large.
        for account_id, future in zip(account_ids, sent, strict=True):
            written = future.value if future.succeeded() else self._awaited(future, account_id)
            before = spans.get(written.partition)
            spans[written.partition] = Span(before.first if before else written.offset, written.offset + 1)
        return spans

    def _awaited(self, future: Any, account_id: str) -> Any:
        try:
            return future.get(self._patience_seconds + GRACE_SECONDS)
        except KafkaError as error:
            raise self._failed(error, account_id) from error

    def _failed(self, error: KafkaError, account_id: str | None = None) -> BrokerError:
        of_account = "" if account_id is None else f", account {account_id!r}"
        kind: type[BrokerError] = BrokerRefused
        if isinstance(error, AuthorizationError):
            next_step = "see [kafka.security], and what this client may do"
        elif isinstance(error, MessageSizeTooLargeError):
            next_step = "raise max.message.bytes of the topic, then run it again"
        else:
            kind, next_step = (
                BrokerError,
                "check that the brokers are up, then run it again: it goes on where it stopped",
            )
        reason = str(error) or type(error).__name__
        return kind(f"Kafka did not take every event: {reason}", where=self._where + of_account, next_step=next_step)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector off: of what sending makes it would walk everything again and again, all in use."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
