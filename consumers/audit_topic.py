"""Heads of the audit trail that are kept on a topic: what `ledger.audit_heads` does with a file, done with Kafka.

The key is the ledger's id, so a ledger's heads are in one partition, in order, and several ledgers can share a topic.
The producer is idempotent and waits for all replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from consumers.delivery import Delivery
from consumers.topics import create_topic
from ledger.audit_chain import Head
from ledger.audit_heads import head_line, head_of
from replay.topic.client import Chunk, PartitionStopped, open_reader
from replay.topic.connection import Connection
from replay.topic.metadata import describe
from replay.topic.refusals import stopped_error
from schemas.errors import UsageError

__all__ = ["AuditTopic"]


class AuditTopic:
    """A topic that has one head a record as JSON (`number`, `hash`, `at`, `ledger`).

    It is made where there is none, so that it keeps everything for ever. BrokerError where Kafka does not answer.
    """

    def __init__(self, connection: Connection, topic: str, ledger_id: str) -> None:
        self._connection = connection
        self._topic = topic
        self._ledger_id = ledger_id

    @property
    def name(self) -> str:
        """What people call it."""
        return f"topic {self._topic}"

    def heads(self) -> list[Head]:
        """Return the heads of this ledger in order, none where there is no topic; UsageError for a record that is none.

        RefusedError where the partition is damaged.
        """
        topic = describe(self._connection, self._topic)
        if topic is None:
            return []
        found: list[Head] = []
        try:
            with open_reader(self._connection, self._topic) as reader:
                # One partition has them all, unless the topic got more of them meanwhile.
                for partition, bounds in sorted(topic.partitions.items()):
                    for chunk in reader.read(partition, start=bounds.first, until=bounds.stable):
                        found += self._heads(chunk)
        except PartitionStopped as stopped:
            raise stopped_error(self._connection, self._topic, stopped) from stopped
        return found

    def _heads(self, chunk: Chunk) -> Iterator[Head]:
        for offset, value in zip(chunk.offsets, chunk.values, strict=True):
            where = f"topic {self._topic!r}, partition {chunk.partition}, offset {offset}"
            if value is None:
                raise UsageError(
                    "a tombstone is no head of the audit trail", where=where, next_step="see [audit] topic"
                )
            head = head_of(value, self._ledger_id, where)
            if head is not None:
                yield head

    def write(self, heads: Sequence[Head], at: datetime) -> None:
        """Add heads, a record each, and return once all replicas have them; BrokerError where that fails."""
        topic = describe(self._connection, self._topic) or create_topic(self._connection, self._topic, partitions=1)
        lines = [head_line(head, at, self._ledger_id) for head in heads]
        with Delivery(self._connection, topic) as delivery:
            delivery.deliver([self._ledger_id] * len(lines), lines)
