"""What every reader of a topic does, whichever client is in it: written once, run for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from kafka_broker import Broker
from producers import CLIENTS, COMPRESSIONS
from topics import Record, delete_records, delete_topic, make_topic, send, send_transaction

from replay.topic import Connection
from replay.topic.client import Chunk, PartitionStopped, Reader, open_reader
from replay.topic.metadata import describe
from schemas.errors import BrokerError

pytestmark = pytest.mark.kafka

PATIENCE_SECONDS = 3.0


def numbered(count: int, first: int = 0) -> list[Record]:
    """Records that say their own number."""
    return [(b"key-%d" % (number % 7), b"value-%d" % number) for number in range(first, first + count)]


def flat(chunks: list[Chunk]) -> list[tuple[int, bytes | None, bytes | None]]:
    """Offset, key and value of all records of chunks, which follow on each other and lie in order."""
    found: list[tuple[int, bytes | None, bytes | None]] = []
    position = 0
    for chunk in chunks:
        assert len(chunk.offsets) == len(chunk.keys) == len(chunk.values)
        assert all(position <= offset < chunk.next_offset for offset in chunk.offsets)
        position = chunk.next_offset
        found += zip(chunk.offsets, chunk.keys, chunk.values, strict=True)
    assert [row[0] for row in found] == sorted({row[0] for row in found})
    return found


class ReaderContract:
    """The cases; a subclass names its client."""

    client: str

    @pytest.fixture
    def connection(self, kafka_server: Broker) -> Connection:
        """A connection by this client, with little patience."""
        if self.client == "librdkafka":
            pytest.importorskip("confluent_kafka", reason="no librdkafka: install `confluent-kafka`")
        return Connection(
            bootstrap_servers=kafka_server.bootstrap_servers,
            client=self.client,  # type: ignore[arg-type]  # a subclass names one of them.
            stall_timeout_seconds=PATIENCE_SECONDS,
        )

    @pytest.fixture
    def reader(self, connection: Connection, kafka_server: Broker, topic_name: str) -> Iterator[Reader]:
        """A reader of a topic with one partition, which is made here."""
        make_topic(kafka_server, topic_name, 1)
        with open_reader(connection, topic_name) as reader:
            yield reader

    def read(self, reader: Reader, start: int, until: int, partition: int = 0) -> list[Chunk]:
        """Read a range of a partition to its end, and see that it ends there."""
        chunks = list(reader.read(partition, start=start, until=until))
        assert not chunks or chunks[-1].next_offset == until
        return chunks

    def stopped(self, reader: Reader, start: int, until: int) -> tuple[list[Chunk], PartitionStopped]:
        """Read a range that cannot be read; return what came first, and where and why it stopped."""
        chunks: list[Chunk] = []
        with pytest.raises(PartitionStopped) as stop:
            chunks.extend(reader.read(0, start=start, until=until))
        assert stop.value.partition == 0
        assert not chunks or chunks[-1].next_offset == stop.value.offset
        return chunks, stop.value

    def test_all_comes_in_order(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """Every record comes once, with its key and its value, however many chunks it takes."""
        records = numbered(60_000)
        send(kafka_server, topic_name, records, client="librdkafka")
        chunks = self.read(reader, 0, len(records))
        assert [row[1:] for row in flat(chunks)] == records
        assert [row[0] for row in flat(chunks)] == list(range(len(records)))
        assert len(chunks) > 1

    def test_bounds_are_kept(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """It begins at `start` and ends before `until`, both in the middle of a batch; nothing is read of nothing."""
        send(kafka_server, topic_name, numbered(500))
        for start, until in ((0, 1), (0, 333), (123, 500), (123, 124), (499, 500)):
            assert [row[1:] for row in flat(self.read(reader, start, until))] == numbered(until - start, start)
        assert self.read(reader, 500, 500) == []
        assert self.read(reader, 0, 0) == []

    def test_any_cut_is_the_same(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """A range read in parts, each from where the one before it ended, is the range read at once."""
        send(kafka_server, topic_name, numbered(300))
        cuts = [0, 1, 99, 100, 257, 300]
        parts = [row for start, until in pairwise(cuts) for row in flat(self.read(reader, start, until))]
        assert parts == flat(self.read(reader, 0, 300))

    def test_an_empty_partition_ends(self, reader: Reader) -> None:
        """A partition of nothing gives nothing, at once."""
        assert self.read(reader, 0, 0) == []

    @pytest.mark.parametrize("end", ["commit", "abort"])
    def test_control_records_at_the_end(self, reader: Reader, kafka_server: Broker, topic_name: str, end: str) -> None:
        """What ends with the mark of a transaction is read to behind the mark; aborted records are not seen."""
        send(kafka_server, topic_name, numbered(10))
        send_transaction(kafka_server, topic_name, numbered(5, 10), end=end)
        expected = numbered(15 if end == "commit" else 10)
        assert [row[1:] for row in flat(self.read(reader, 0, 16))] == expected
        assert [row[1:] for row in flat(self.read(reader, 12, 16))] == expected[12:]
        assert flat(self.read(reader, 15, 16)) == []

    def test_holes_in_the_middle(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """Marks and aborted records between others leave holes in the offsets, and nothing else is missing."""
        expected, offset = [], 0
        for turn in range(12):
            end = "abort" if turn % 3 == 1 else "commit"
            records = numbered(turn + 1, 100 * turn)
            send_transaction(kafka_server, topic_name, records, end=end, client="librdkafka")
            if end == "commit":
                expected += [(offset + place, *record) for place, record in enumerate(records)]
            offset += len(records) + 1
        assert flat(self.read(reader, 0, offset)) == expected
        assert flat(self.read(reader, 17, offset)) == [row for row in expected if row[0] >= 17]

    def test_only_aborted_records(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """A partition in which nothing was ever committed is read to its end, and holds nothing."""
        send_transaction(kafka_server, topic_name, numbered(50), end="abort")
        assert flat(self.read(reader, 0, 51)) == []

    def test_an_open_transaction_is_no_end(
        self, reader: Reader, connection: Connection, kafka_server: Broker, topic_name: str
    ) -> None:
        """It stops at the first offset of an open transaction, stalled, having given all before, and having said so."""
        send(kafka_server, topic_name, numbered(20))
        said: list[str] = []
        with send_transaction(kafka_server, topic_name, numbered(5, 20), end="open") as transaction:
            send(kafka_server, topic_name, numbered(3, 25))
            high = describe(connection, topic_name).partitions[0].high  # type: ignore[union-attr]
            assert high == 28
            chunks: list[Chunk] = []
            with pytest.raises(PartitionStopped) as stop:
                chunks.extend(reader.read(0, start=0, until=high, waiting=said.append))
            assert (stop.value.offset, stop.value.reason) == (20, "stalled")
            assert "open transaction" in stop.value.details
            assert [row[1:] for row in flat(chunks)] == numbered(20)
            assert any("20" in line for line in said)
            transaction.abort()
        assert [row[1:] for row in flat(self.read(reader, 0, 29))] == numbered(20) + numbered(3, 25)

    def test_a_transaction_that_ends_in_time(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """One that is committed while the reader waits is read, and the wait is called off."""
        send(kafka_server, topic_name, numbered(20))
        said: list[str] = []
        waits = threading.Event()

        def hear(line: str) -> None:
            said.append(line)
            waits.set()

        with send_transaction(kafka_server, topic_name, numbered(5, 20), end="open") as transaction:

            def commit() -> None:
                waits.wait(30)
                transaction.commit()

            committer = threading.Thread(target=commit)
            committer.start()
            chunks = list(reader.read(0, start=0, until=26, waiting=hear))
            committer.join()
        assert [row[1:] for row in flat(chunks)] == numbered(25)
        assert said[-1] == ""

    def test_tombstones_and_missing_keys(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """No value and no key are told from empty ones."""
        records: list[Record] = [(b"key", None), (None, b"value"), (b"", b""), (b"key", b"value")]
        send(kafka_server, topic_name, records)
        assert [row[1:] for row in flat(self.read(reader, 0, 4))] == records

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("producer", CLIENTS)
    def test_every_producer(
        self, reader: Reader, kafka_server: Broker, topic_name: str, producer: str, compression: str
    ) -> None:
        """What any client writes with any compression and with headers comes as it was written, from any offset."""
        records = numbered(400)
        headers = [("trace", b"\x00\xff")]
        send(kafka_server, topic_name, records, client=producer, compression=compression, headers=headers)
        assert [row[1:] for row in flat(self.read(reader, 0, 400))] == records
        assert [row[1:] for row in flat(self.read(reader, 201, 399))] == records[201:399]

    def test_a_topic_that_grows(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """What comes while it reads is not read: the end was fixed before."""
        send(kafka_server, topic_name, numbered(1_000))
        chunks = reader.read(0, start=0, until=1_000)
        grower = threading.Thread(target=send, args=(kafka_server, topic_name, numbered(1_000, 1_000)))
        grower.start()
        found = flat(list(chunks))
        grower.join()
        assert [row[1:] for row in found] == numbered(1_000)
        assert [row[1:] for row in flat(self.read(reader, 0, 1_000))] == numbered(1_000)

    def test_one_reader_reads_many_partitions(
        self, connection: Connection, kafka_server: Broker, topic_name: str
    ) -> None:
        """Partitions are read in any order and again, and a read that is abandoned leaves nothing over."""
        make_topic(kafka_server, topic_name, 3)
        for partition in range(3):
            send(kafka_server, topic_name, numbered(200, 1_000 * partition), partition=partition)
        with open_reader(connection, topic_name) as reader:
            abandoned = reader.read(1, start=0, until=100)
            next(iter(abandoned))
            for partition in (2, 0, 1, 2):
                chunks = self.read(reader, 50, 200, partition)
                assert {chunk.partition for chunk in chunks} == {partition}
                assert [row[1:] for row in flat(chunks)] == numbered(150, 1_000 * partition + 50)

    def test_deleted_records_are_gone(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """To begin before the first offset stops right there, and never jumps to the first that there is."""
        send(kafka_server, topic_name, numbered(100))
        delete_records(kafka_server, topic_name, {0: 40})
        for start in (0, 39):
            chunks, stop = self.stopped(reader, start, 100)
            assert flat(chunks) == []
            assert (stop.offset, stop.reason) == (start, "gone")
        assert [row[1:] for row in flat(self.read(reader, 40, 100))] == numbered(60, 40)

    def test_an_end_that_is_not_there(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """An end past what there is, is waited for and never taken as reached."""
        send(kafka_server, topic_name, numbered(10))
        chunks, stop = self.stopped(reader, 0, 11)
        assert [row[1:] for row in flat(chunks)] == numbered(10)
        assert stop.offset == 10

    def test_a_deleted_topic_is_gone(self, reader: Reader, kafka_server: Broker, topic_name: str) -> None:
        """A topic that is deleted meanwhile stops the reader with its offset."""
        send(kafka_server, topic_name, numbered(10))
        assert len(flat(self.read(reader, 0, 10))) == 10
        delete_topic(kafka_server, topic_name)
        _, stop = self.stopped(reader, 5, 10)
        assert (stop.offset, stop.reason) == (5, "gone")

    def test_nobody_there(self, connection: Connection, topic_name: str) -> None:
        """Without any broker it ends within its patience: there is no reader, or one that says `unreachable`."""
        nowhere = msgspec.structs.replace(connection, bootstrap_servers="127.0.0.1:1", stall_timeout_seconds=1.0)
        with (
            pytest.raises((BrokerError, PartitionStopped)) as stop,
            open_reader(nowhere, topic_name) as reader,
        ):
            list(reader.read(0, start=0, until=10))
        if isinstance(stop.value, PartitionStopped):
            assert (stop.value.offset, stop.value.reason) == (0, "unreachable")
        else:
            assert stop.value.next_step


class TestKafkaPython(ReaderContract):
    """The client that is always there."""

    client = "kafka-python"


class TestLibrdkafka(ReaderContract):
    """The faster client, where it is installed."""

    client = "librdkafka"
