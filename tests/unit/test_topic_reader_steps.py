"""The reader on kafka-python step by step, over batches made here: what a broker seldom does is done on purpose."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import crc32c
import pytest
from kafka import TopicPartition
from kafka.errors import KafkaConnectionError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from replay.topic import reader_python
from replay.topic.client import Chunk, PartitionStopped
from replay.topic.connection import Connection

PLACE = TopicPartition("events", 0)
PATIENCE_SECONDS = 0.2


def batch(base: int, count: int, *, last: int | None = None, deltas: list[int] | None = None) -> bytes:
    """A batch of records that say their own number, its offsets from `base`; `last` is the offset that it ends at."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10**9,
    )
    for place, delta in enumerate(deltas or range(count)):
        builder.append(delta, 0, b"k", b"%d" % (base + place), [])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    struct.pack_into(">i", data, 23, (base + count - 1 if last is None else last) - base)
    struct.pack_into(">I", data, DefaultRecordBatch.CRC_OFFSET, crc32c.crc32c(bytes(data[21:])))
    return bytes(data)


class FakeConsumer:
    """Gives some batches one after the other, as the client does, whatever is asked."""

    def __init__(self, batches: list[bytes], before_position: Callable[[int], None]) -> None:
        self._fetcher = self
        self._batches = batches
        self._before_position = before_position
        self._at = 0
        self.PartitionRecords: Callable[..., object]

    def assign(self, places: list[TopicPartition]) -> None:
        """Take the one place there is."""

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Begin at an offset."""
        self._at = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[object]]:
        """Give what the next batch holds, and go on behind it."""
        for data in self._batches:
            records = MemoryRecords(data)
            first = DefaultRecordBatch(data)
            if first.last_offset >= self._at:
                parts = self.PartitionRecords(self._at, place(), records)
                self._at = first.last_offset + 1
                return {PLACE: parts.take(None)}
        return {}

    def position(self, place: TopicPartition, timeout_ms: int) -> int:
        """Say where it goes on."""
        self._before_position(self._at)
        return self._at


def place() -> TopicPartition:
    """The one partition there is."""
    return PLACE


def reading(
    batches: list[bytes], start: int, until: int, before_position: Callable[[int], None] = lambda _: None
) -> Iterator[Chunk]:
    """Read a range of such a partition."""
    connection = Connection(bootstrap_servers="nowhere:1", stall_timeout_seconds=PATIENCE_SECONDS)
    reader = reader_python.KafkaPythonReader(connection, "events")
    reader._consumer = FakeConsumer(batches, before_position)
    return reader.read(0, start=start, until=until)


def read(batches: list[bytes], start: int, until: int) -> tuple[list[int], int, PartitionStopped | None]:
    """Return the offsets that came, the offset behind them, and what stopped it; values and bounds are checked."""
    found: list[int] = []
    position = start
    stop = None
    try:
        for chunk in reading(batches, start, until):
            assert chunk.values == [b"%d" % offset for offset in chunk.offsets]
            assert position <= chunk.next_offset <= until
            assert all(position <= offset < chunk.next_offset for offset in chunk.offsets)
            found += chunk.offsets
            position = chunk.next_offset
    except PartitionStopped as stopped:
        stop = stopped
        assert stop.offset == position
    return found, position, stop


def test_a_range_may_begin_and_end_within_batches():
    """What is before the start or at the end is left out, and nothing else."""
    batches = [batch(base, 10) for base in (0, 10, 20, 30)]
    assert read(batches, 3, 27) == (list(range(3, 27)), 27, None)
    assert read(batches, 10, 20) == (list(range(10, 20)), 20, None)


@pytest.mark.parametrize("removed", ["one", "last", "all"])
def test_a_batch_with_fewer_records_than_offsets_stops_the_partition(removed):
    """Compaction leaves a batch its offsets and takes records out of it: what is missing may be anybody's."""
    hollow = {
        "one": batch(10, 9, last=19, deltas=[0, 1, 2, 4, 5, 6, 7, 8, 9]),
        "last": batch(10, 9, last=19),
        "all": batch(10, 0, last=19, deltas=[]),
    }[removed]
    found, position, stop = read([batch(0, 10), hollow, batch(20, 10)], 0, 30)
    assert (found, position) == (list(range(10)), 10)
    assert stop is not None
    assert stop.reason == "corrupt"
    assert "compaction" in stop.details


def test_what_came_is_kept_where_asking_for_the_position_fails():
    """The client goes on behind what it gave, so that is handed on even if the next question to it fails."""
    failed: list[int] = []

    def fail_once(at: int) -> None:
        if at == 20 and not failed:
            failed.append(at)
            raise KafkaConnectionError("the leader moved")

    batches = [batch(base, 10) for base in (0, 10, 20)]
    found = [offset for chunk in reading(batches, 0, 30, fail_once) for offset in chunk.offsets]
    assert failed == [20]
    assert found == list(range(30))


MALFORMED = [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]


@pytest.mark.parametrize("start", [0, 5, 13])
def test_a_malformed_batch_stops_the_partition_where_reading_was(start):
    """What comes before it is given, also where reading starts within it, and the position never goes back."""
    batches = [batch(0, 10), batch(10, 10, deltas=MALFORMED), batch(20, 10)]
    found, position, stop = read(batches, start, 30)
    assert (found, position) == (list(range(start, 10)), max(10, start))
    assert stop is not None
    assert stop.reason == "corrupt"


def test_the_first_of_two_malformed_batches_counts():
    """Whatever is wrong behind it."""
    batches = [batch(0, 10), batch(10, 10, deltas=MALFORMED), batch(20, 10, deltas=MALFORMED)]
    assert read(batches, 0, 30)[:2] == (list(range(10)), 10)


def test_a_malformed_batch_behind_the_end_is_none_of_ours():
    """A range that ends before it is whole."""
    batches = [batch(0, 10), batch(10, 10), batch(20, 10, deltas=MALFORMED)]
    assert read(batches, 0, 15) == (list(range(15)), 15, None)
    assert read(batches, 0, 20) == (list(range(20)), 20, None)


def test_large_records_are_handed_on_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch):
    """A chunk is bounded by its bytes too."""
    monkeypatch.setattr(reader_python, "CHUNK_BYTES", 50)
    batches = [batch(base, 10) for base in (0, 10, 20, 30)]
    assert [chunk.next_offset for chunk in reading(batches, 0, 40)] == [10, 20, 30, 40]


def test_what_is_done_with_a_chunk_is_no_waiting(monkeypatch: pytest.MonkeyPatch):
    """Patience with brokers is not used up by whoever works on what came."""
    monkeypatch.setattr(reader_python, "CHUNK_RECORDS", 10)
    quiet = [3]

    def quiet_for_a_while(at: int) -> None:
        if at == 10 and quiet[0]:
            quiet[0] -= 1
            raise KafkaConnectionError("a moment")

    found: list[int] = []
    for chunk in reading([batch(0, 10), batch(10, 10)], 0, 20, quiet_for_a_while):
        found += chunk.offsets
        time.sleep(PATIENCE_SECONDS * 1.5)
    assert found == list(range(20))
