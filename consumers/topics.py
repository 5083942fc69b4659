"""Topics that events are published to: made so that they keep everything, and refused where they would not.

A topic is the copy that survives the database, so one that expires or compacts its records is no place for events.
"""

from __future__ import annotations

from kafka.errors import NoError, TopicAlreadyExistsError

from ledger.topics import KnownTopic
from replay.topic.connection import Connection
from replay.topic.metadata import Topic, admin, describe
from replay.topic.refusals import refuse_other_topic
from schemas.errors import BrokerError, RefusedError

__all__ = ["PARTITIONS", "SETTINGS", "check_known", "check_topic", "create_topic"]

#: Partitions of a new topic: as many readers can share a replay.
PARTITIONS = 6

#: The broker's own default.
REPLICATION_OF_BROKER = -1

ACCEPT = "`publish --accept-topic` takes it as it is now and publishes every event again, or publish to a new topic"

#: What makes a topic keep everything for ever.
SETTINGS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def create_topic(
    connection: Connection, name: str, *, partitions: int = PARTITIONS, replication: int = REPLICATION_OF_BROKER
) -> Topic:
    """Return a topic that keeps everything, made now, or the one that somebody made in the same moment.

    RefusedError where Kafka does not take the name, the numbers or the client, BrokerError where it does not answer.
    """
    wanted = {"num_partitions": partitions, "replication_factor": replication, "configs": SETTINGS}
    with admin(connection) as client:
        answer = client.create_topics({name: wanted}, raise_errors=False)["topics"][0]
        if answer["error_code"] in (NoError.errno, TopicAlreadyExistsError.errno):
            client.wait_for_topics([name], timeout_ms=connection.stall_timeout_seconds * 1_000)
        else:
            raise RefusedError(
                f"Kafka does not make the topic: {answer['error_message']}",
                where=f"topic {name!r}",
                next_step="see --topic, --partitions and --replication, or have the topic made for you",
            )
    found = describe(connection, name)
    if found is None:
        raise BrokerError(
            f"topic {name!r} was made and is not there", where=connection.bootstrap_servers, next_step="run it again"
        )
    return found


def check_topic(topic: Topic, *, accept_retention: bool = False) -> None:
    """Refuse a topic that does not keep every record, or has lost its first ones, unless that is accepted."""
    if accept_retention:
        return
    for setting, wanted in SETTINGS.items():
        found = topic.settings.get(setting)
        if found is None:
            raise RefusedError(
                f"nothing says that the topic keeps everything: the broker does not tell its {setting}",
                where=f"topic {topic.name!r}",
                next_step=f"let this client see the topic's settings, or check {setting}={wanted} yourself and say "
                "--accept-retention",
            )
        if found != wanted:
            raise RefusedError(
                f"the topic does not keep everything: {setting} is {found}",
                where=f"topic {topic.name!r}",
                next_step=f"set {setting}={wanted} on it, or say --accept-retention",
            )
    for partition, bounds in topic.partitions.items():
        if bounds.first > 0:
            raise RefusedError(
                f"the topic has lost its first records: partition {partition} begins at offset {bounds.first:,}",
                where=f"topic {topic.name!r}",
                next_step="publish to a new topic, or say --accept-retention",
            )


def check_known(topic: Topic, known: KnownTopic | None) -> None:
    """Refuse a topic that is not the one that is known, or that ends before what it is known to hold.

    One to which this store never published must be empty: what is in it may be the events of another ledger, even
    where a replay has seen that it is whole.
    """
    is_strange = known is None or known.own is None
    if is_strange and any(bounds.high for bounds in topic.partitions.values()):
        raise RefusedError(
            "the topic has records, and this store knows nothing of it: it never published to it",
            where=f"topic {topic.name!r}",
            next_step="choose another --topic; if they are this ledger's, `publish --accept-topic` adds its events "
            "again, and replay drops the repeats",
        )
    refuse_other_topic(topic, known, next_step=ACCEPT)
