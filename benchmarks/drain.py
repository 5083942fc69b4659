"""An empty loop of a Kafka client over some partitions: the peer of a topic replay, in a process of its own.

`python -m benchmarks.drain CLIENT TOPIC AT_ONCE PARTITIONS SETTINGS`: how many records a call may give, partitions by
comma, settings as JSON. It imports the client and nothing else, and prints how many records it took.
"""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["main"]

POLL_MS = 500


def main() -> None:
    """Take every record of the partitions up to their ends at the start."""
    client, topic, at_once, partitions, settings = sys.argv[1:]
    loop = {"kafka-python": _kafka_python, "librdkafka": _librdkafka}[client]
    print(loop(topic, int(at_once), [int(number) for number in partitions.split(",")], json.loads(settings)))


def _kafka_python(topic: str, at_once: int, partitions: list[int], settings: dict[str, Any]) -> int:
    from kafka import KafkaConsumer, TopicPartition

    # Ours polls batches, so its own number says nothing here.
    consumer = KafkaConsumer(**(settings | {"max_poll_records": at_once}))
    places = [TopicPartition(topic, number) for number in partitions]
    ends = consumer.end_offsets(places)
    consumer.assign(places)
    for place in places:
        consumer.seek(place, 0)
    count = 0
    while any(consumer.position(place) < end for place, end in ends.items()):
        for records in consumer.poll(timeout_ms=POLL_MS).values():
            count += len(records)
    consumer.close(autocommit=False)
    return count


def _librdkafka(topic: str, at_once: int, partitions: list[int], settings: dict[str, Any]) -> int:
    from confluent_kafka import Consumer, TopicPartition

    # Without the marks of the ends every message is a record, so that none has to be looked at.
    consumer = Consumer(settings | {"enable.partition.eof": False})
    places = [TopicPartition(topic, number, 0) for number in partitions]
    # No transaction was ever on this topic, so that every offset below the end is a record.
    wanted = sum(consumer.get_watermark_offsets(place, cached=False)[1] for place in places)
    consumer.assign(places)
    count = 0
    while count < wanted:
        count += len(consumer.consume(min(at_once, wanted - count), POLL_MS / 1000))
    consumer.close()
    return count


if __name__ == "__main__":
    main()
