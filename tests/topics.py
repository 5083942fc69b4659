"""Topics with something in them, written by any client, and what is done to them behind a reader's back."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from kafka_broker import Broker
from producers import Header, Placed, Producer, open_producer
from sqlalchemy import select

from ledger import Store
from ledger.tables import EVENTS
from schemas import Event, encode

__all__ = [
    "FASTEST",
    "OpenTransaction",
    "Record",
    "bury",
    "delete_records",
    "delete_topic",
    "delete_topics",
    "ledger_topic",
    "make_topic",
    "read_records",
    "segment_files",
    "send",
    "send_transaction",
]

#: Key and value; None as the value is a tombstone.
Record = tuple[bytes | None, bytes | None]
#: The client for topics that are only there to be read: the fast one, where it is installed.
FASTEST = "librdkafka" if importlib.util.find_spec("confluent_kafka") else "kafka-python"
#: As the relay makes them: nothing is ever dropped.
KEPT = {"retention.ms": "-1", "cleanup.policy": "delete"}
#: The smallest segment that a broker takes under the public name of the setting.
SEGMENT_BYTES_MIN = 1 << 20


@contextmanager
def _admin(broker: Broker) -> Iterator[Any]:
    from kafka import KafkaAdminClient

    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        yield admin


def bury(broker: Broker, group: str) -> None:
    """Take all members out of a group at once, where the broker would wait for the dead as long as a session lasts."""
    from kafka.admin import MemberToRemove

    with _admin(broker) as admin:
        members = admin.describe_groups([group])[group]["members"]
        if members:
            admin.remove_group_members(group, [MemberToRemove(member_id=member["member_id"]) for member in members])


def make_topic(broker: Broker, name: str, partitions: int = 1, **config: object) -> str:
    """Make a topic and return its name; settings with `_` for `.`: `segment_bytes=16_384`.

    Segments may be as small as that, but each batch that is sent must fit in one.
    """
    settings = KEPT | {setting.replace("_", "."): str(value) for setting, value in config.items()}
    if int(settings.get("segment.bytes", SEGMENT_BYTES_MIN)) < SEGMENT_BYTES_MIN:
        settings["internal.segment.bytes"] = settings.pop("segment.bytes")
    topic = {"num_partitions": partitions, "replication_factor": 1, "configs": settings}
    with _admin(broker) as admin:
        admin.create_topics({name: topic}, wait_for_metadata=True)
    return name


def delete_topic(broker: Broker, name: str) -> None:
    """Delete a topic with all that is in it."""
    with _admin(broker) as admin:
        admin.delete_topics([name])


def delete_topics(broker: Broker, *, prefix: str) -> None:
    """Delete every topic whose name begins so."""
    with _admin(broker) as admin:
        if names := [name for name in admin.list_topics() if name.startswith(prefix)]:
            admin.delete_topics(names)


def delete_records(broker: Broker, topic: str, offsets: dict[int, int]) -> None:
    """Delete what is before an offset of each partition, as an operator or retention does."""
    from kafka import TopicPartition

    with _admin(broker) as admin:
        admin.delete_records({TopicPartition(topic, partition): offset for partition, offset in offsets.items()})


def send(
    broker: Broker,
    topic: str,
    records: Iterable[Record],
    *,
    partition: int | None = None,
    client: str = "kafka-python",
    compression: str = "none",
    headers: Sequence[Header] = (),
) -> list[Placed]:
    """Write records in order and return the partition and offset of each; without `partition` the key decides.

    `client` is one of `producers.CLIENTS`, `compression` one of `producers.COMPRESSIONS`; each record gets `headers`.
    """
    with closing(open_producer(client, broker, topic, compression=compression)) as producer:
        for key, value in records:
            producer.put(key, value, partition=partition, headers=headers)
        return producer.flush()


class OpenTransaction:
    """A transaction whose records are in the log; leaving its context without an end leaves it open.

    `placed` is partition and offset of each record.
    """

    def __init__(self, producer: Producer, placed: list[Placed]) -> None:
        self._producer = producer
        self.placed = placed

    def commit(self) -> None:
        """Make its records valid."""
        self._producer.commit()

    def abort(self) -> None:
        """Make its records void."""
        self._producer.abort()

    def close(self) -> None:
        """Let go of it as it is: the broker aborts what is open when its time is over."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def send_transaction(
    broker: Broker,
    topic: str,
    records: Iterable[Record],
    *,
    end: str = "commit",
    partition: int | None = None,
    client: str = "kafka-python",
    compression: str = "none",
    seconds_max: float = 60,
) -> OpenTransaction:
    """Write records in one transaction and end it with `commit` or `abort`, or leave it `open`.

    An open one is the caller's to end and to close; the broker aborts it `seconds_max` after it began.
    """
    producer = open_producer(client, broker, topic, compression=compression, transaction_seconds_max=seconds_max)
    for key, value in records:
        producer.put(key, value, partition=partition)
    transaction = OpenTransaction(producer, producer.flush())
    if end == "open":
        return transaction
    with transaction:
        {"commit": transaction.commit, "abort": transaction.abort}[end]()
    return transaction


def ledger_topic(
    broker: Broker,
    name: str,
    events: Store | Iterable[Event],
    partitions: int = 1,
    *,
    client: str = FASTEST,
    compression: str = "none",
    **config: object,
) -> str:
    """Make a topic of a store's events, in position order and keyed by account, or of these events; return its name."""
    make_topic(broker, name, partitions, **config)
    if not isinstance(events, Store):
        send(broker, name, [(event.account_id.encode(), encode(event)) for event in events], client=client)
        return name
    statement = select(EVENTS.c.originator_id, EVENTS.c.state).order_by(EVENTS.c.id)
    with events.snapshot() as connection:
        rows = connection.execution_options(yield_per=10_000).execute(statement)
        records = ((account_id.encode(), bytes(state)) for account_id, state in rows)
        send(broker, name, records, client=client, compression=compression)
    return name


def read_records(broker: Broker, topic: str, *, committed: bool = True) -> list[Any]:
    """Return all records of a topic by partition and offset, with kafka-python; uncommitted ones too if asked."""
    from kafka import KafkaConsumer, TopicPartition

    level = "read_committed" if committed else "read_uncommitted"
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, isolation_level=level, auto_offset_reset="earliest", group_id=None
    )
    found: list[Any] = []
    with closing(consumer):
        parts = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(parts)
        consumer.seek_to_beginning(*parts)
        ends = consumer.end_offsets(parts)
        while any(consumer.position(part) < end for part, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found += records
    return sorted(found, key=lambda record: (record.partition, record.offset))


def segment_files(broker: Broker, topic: str, partition: int = 0) -> list[Path]:
    """Return the log segments of a partition on the disk of a broker of our own, oldest first; the last is open."""
    assert broker.data is not None, "the files of a given broker are out of reach: ask for `own_kafka`"
    return sorted((broker.data / f"{topic}-{partition}").glob("*.log"))
