"""A topic in memory, for what is not about brokers: partitions, chunks, and one partition that may stop short."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from samples import recorded

from projections import TRANSACTIONS
from replay.full_replay import Replay
from replay.topic import Connection, Topic, replayed_topic
from replay.topic.client import Chunk, PartitionStopped, Waiting
from replay.topic.metadata import Bounds
from schemas import encode

__all__ = ["PARTITIONS", "FakeReader", "Sent", "replay"]

PARTITIONS = 3
POISON = b'{"event":"account.vanished"}'


class Sent(NamedTuple):
    """A record: version 0 is a payload that is no event, version -1 is a tombstone."""

    partition: int
    account_id: str
    version: int
    amount: int = 10

    @property
    def value(self) -> bytes | None:
        """What is on the topic."""
        if self.version < 1:
            return POISON if self.version == 0 else None
        return encode(recorded(self.account_id, self.version, self.amount))


class FakeReader:
    """Partitions in memory, given in chunks of a few records, with one that may stop short."""

    def __init__(self, sent: list[Sent], chunk_records: int, stop: tuple[int, int] | None) -> None:
        self._logs = defaultdict(list)
        for record in sent:
            self._logs[record.partition].append(record)
        self._chunk_records = chunk_records
        self._stop = stop

    @property
    def topic(self) -> Topic:
        """The topic as it would be described."""
        ends = {partition: len(self._logs[partition]) for partition in range(PARTITIONS)}
        bounds = {partition: Bounds(0, end, end) for partition, end in ends.items()}
        return Topic(name="events", topic_id="id", partitions=bounds, settings={})

    def read(self, partition: int, *, start: int, until: int, waiting: Waiting | None = None) -> Iterator[Chunk]:
        """Yield the records of a partition."""
        end = until
        if self._stop is not None and self._stop[0] == partition:
            end = min(until, self._stop[1])
        for first in range(start, end, self._chunk_records):
            some = self._logs[partition][first : min(first + self._chunk_records, end)]
            keys = [record.account_id.encode() for record in some]
            offsets = range(first, first + len(some))
            yield Chunk(partition, offsets, keys, [record.value for record in some], first + len(some))
        if end < until:
            raise PartitionStopped(partition, max(end, start), "corrupt", "the test says so")


@contextmanager
def replay(
    sent: list[Sent], *, chunk_records: int = 3, stop: tuple[int, int] | None = None, folder: Path | None = None
) -> Iterator[Replay]:
    """Replay records in memory."""
    reader = FakeReader(sent, chunk_records, stop)

    @contextmanager
    def opened(*_: object) -> Iterator[FakeReader]:
        yield reader

    connection = Connection(bootstrap_servers="nowhere:1")
    with (
        patch("replay.topic.workers.open_reader", opened),
        patch("replay.topic.split.open_reader", opened),
        replayed_topic(
            connection, reader.topic, [TRANSACTIONS], ledger_id="ledger", links=True, checkpoint_folder=folder
        ) as found,
    ):
        yield found
