"""When a topic cannot be whole: the replay refuses before anything is read, and says what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.topics import KnownTopic
from replay.topic.connection import Connection
from replay.topic.metadata import Topic, describe
from replay.topic.partition import Assignment, checkpoints_of
from schemas.errors import RefusedError, UsageError

__all__ = ["refuse_other_topic", "resumable_from", "topic_named"]

ACCEPT = "if that is meant, take the topic as it is now: `rebuild --from topic --accept-topic`"


def topic_named(connection: Connection, name: str) -> Topic:
    """Return the topic of that name; UsageError if there is none."""
    topic = describe(connection, name)
    if topic is None:
        raise UsageError(
            f"there is no topic {name!r}",
            where=connection.bootstrap_servers,
            next_step="check --topic, or make it with `publish`",
        )
    return topic


def refuse_other_topic(topic: Topic, known: KnownTopic | None) -> None:
    """RefusedError where a topic is not the one that is known, or has lost what was vouched for."""
    if known is None:
        return
    where = f"topic {topic.name!r}"
    if topic.topic_id != known.topic_id:
        raise RefusedError(
            f"the topic was deleted and made again: its id is {topic.topic_id}, known is {known.topic_id}",
            where=where,
            next_step=ACCEPT,
        )
    if len(topic.partitions) != known.partitions:
        raise RefusedError(
            f"the topic has {len(topic.partitions)} partitions, it had {known.partitions}: keys moved to others",
            where=where,
            next_step=f"publish to a new topic, or, {ACCEPT}",
        )
    for partition, offset in sorted(known.offsets.items()):
        high = topic.partitions[partition].high
        if high < offset:
            raise RefusedError(
                f"partition {partition} ends at offset {high}, but held everything to {offset} before: its end is lost",
                where=where,
                next_step=f"publish what is lost again from the store, or, {ACCEPT}",
            )


def resumable_from(topic: Topic, assignments: Sequence[Assignment]) -> None:
    """RefusedError where a partition begins after offset zero and no checkpoint holds what was before."""
    for assignment in assignments:
        first = topic.partitions[assignment.partition].first
        if not first:
            continue
        found = checkpoints_of(assignment).load(assignment.until)
        if found is None or found.position < first:
            raise RefusedError(
                f"partition {assignment.partition} begins at offset {first}: what was before it is deleted",
                where=f"topic {topic.name!r}",
                next_step="replay from the store, or publish to a new topic that keeps everything (retention.ms=-1)",
            )
