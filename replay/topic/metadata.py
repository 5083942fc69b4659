"""What a topic is: its identity, its partitions with their bounds, and the settings that decide what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    InvalidTopicError,
    KafkaConfigurationError,
    KafkaError,
    UnknownTopicOrPartitionError,
)
from kafka.protocol.consumer import IsolationLevel

from replay.topic.connection import Connection
from schemas.errors import BrokerError, BrokerRefused, ConfigurationError

__all__ = ["Bounds", "Topic", "admin", "describe"]

#: The settings that decide how long a record stays.
KEEPING = ("cleanup.policy", "retention.ms", "retention.bytes")

#: There is no topic of a name that none can have, either.
_NO_TOPIC = (UnknownTopicOrPartitionError.errno, InvalidTopicError.errno)


class Bounds(msgspec.Struct, frozen=True):
    """Offsets of a partition: the first there is, and the ends for readers of committed and of all records.

    `stable` is the last stable offset: an open transaction holds it below `high`, the high watermark.
    """

    first: int
    stable: int
    high: int


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic at one moment; `topic_id` is new for one that was deleted and made again under its old name.

    `settings` are those of `KEEPING`, as text.
    """

    name: str
    topic_id: str
    partitions: dict[int, Bounds]
    settings: dict[str, str]

    @property
    def events(self) -> int:
        """How many offsets there are: at least as many as records."""
        return sum(bounds.high - bounds.first for bounds in self.partitions.values())


@contextmanager
def admin(connection: Connection) -> Iterator[KafkaAdminClient]:
    """Yield an admin client; BrokerError where no broker answers in time, or one refuses what is asked of it."""
    try:
        with closing(KafkaAdminClient(**connection.kafka_python())) as client:
            yield client
    except (KafkaConfigurationError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"the Kafka client cannot be made: {error}", where="[kafka]", next_step="check its options"
        ) from error
    except KafkaError as error:
        refused = isinstance(error, AuthorizationError)
        check = "check --bootstrap-servers and that the brokers are up"
        if connection.security:
            # The client does not tell a password that is wrong from a broker that is not there.
            check += ", and that [kafka.security] is what they want"
        if refused:
            raise BrokerRefused(
                f"Kafka refused: {error}", where=connection.bootstrap_servers, next_step="see [kafka.security]"
            ) from error
        raise BrokerError(
            f"Kafka did not answer: {error}", where=connection.bootstrap_servers, next_step=check
        ) from error


def describe(connection: Connection, name: str) -> Topic | None:
    """Return a topic as it is now, None if there is none of that name; BrokerError where Kafka does not answer."""
    with admin(connection) as client:
        found = client.describe_topics([name])[0]
        if found["error_code"] in _NO_TOPIC:
            return None
        if found["error_code"]:
            raise BrokerError(
                f"topic {name!r} cannot be described: Kafka's error {found['error_code']}",
                where=connection.bootstrap_servers,
                next_step="check the topic and what this client may do",
            )
        numbers = sorted(partition["partition_index"] for partition in found["partitions"])
        return Topic(
            name=name,
            topic_id=str(found["topic_id"]),
            partitions=_bounds(client, name, numbers),
            settings=_settings(client, name),
        )


def _bounds(client: Any, name: str, numbers: list[int]) -> dict[int, Bounds]:
    places = [TopicPartition(name, number) for number in numbers]
    committed, every = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED

    def offsets(spec: OffsetSpec, level: IsolationLevel) -> dict[TopicPartition, int]:
        found = client.list_partition_offsets(dict.fromkeys(places, spec), isolation_level=level)
        return {place: answer.offset for place, answer in found.items()}

    # The high watermark comes last, so that it is never below the other two.
    first, stable = offsets(OffsetSpec.EARLIEST, committed), offsets(OffsetSpec.LATEST, committed)
    high = offsets(OffsetSpec.LATEST, every)
    return {place.partition: Bounds(first[place], stable[place], high[place]) for place in places}


def _settings(client: Any, name: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    found = client.describe_configs([resource], config_filter="all")["topic"][name]
    return {key: str(found[key]["value"]) for key in KEEPING if key in found}
