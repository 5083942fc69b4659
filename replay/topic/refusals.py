"""When a topic cannot be whole: the replay refuses before anything is read, and says what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.topics import KnownTopic
from replay.topic.client import PartitionStopped
from replay.topic.connection import Connection
from replay.topic.metadata import Topic, describe
from replay.topic.partition import Assignment, checkpoints_of
from schemas.errors import BrokerError, RefusedError, UsageError

__all__ = ["refuse_other_topic", "resumable_from", "stopped_error", "topic_named"]

#: What a replay of a topic that is not as it was can do.
REPLAY_ANYWAY = (
    "`rebuild --from topic --accept-topic` replays it as it is, for this once; `publish --accept-topic` takes it from "
    "now on, and publishes every event again"
)


def topic_named(
    connection: Connection,
    name: str,
    known: KnownTopic | None = None,
    *,
    next_step: str = "check its name, or make it with `publish`",
) -> Topic:
    """Return the topic of that name; UsageError if there is none, RefusedError if there was one that is `known`."""
    topic = describe(connection, name)
    if topic is not None:
        return topic
    if known is not None:
        raise RefusedError(
            "the topic is gone",
            where=f"topic {name!r}",
            next_step="`publish --accept-topic` makes it anew and publishes every event again",
        )
    raise UsageError(
        f"there is no topic {name!r}",
        where=connection.bootstrap_servers,
        next_step=next_step,
    )


def refuse_other_topic(topic: Topic, known: KnownTopic | None, *, next_step: str = REPLAY_ANYWAY) -> None:
    """RefusedError where a topic is not the one that is known, or has lost what was vouched for."""
    if known is None:
        return
    difference = _difference(topic, known)
    if difference is not None:
        raise RefusedError(difference, where=f"topic {topic.name!r}", next_step=next_step)


def _difference(topic: Topic, known: KnownTopic) -> str | None:
    of_identity = known.difference(topic.topic_id, len(topic.partitions))
    if of_identity is not None:
        return of_identity
    for partition, offset in sorted(known.offsets.items()):
        high = topic.partitions[partition].high
        if high < offset:
            return (
                f"the topic has lost its last records: partition {partition} ends at offset {high:,}, known are "
                f"{offset:,}"
            )
    return None


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


def stopped_error(connection: Connection, topic: str, stopped: PartitionStopped) -> BrokerError | RefusedError:
    """Return what to raise for a partition that cannot be read on: where that is, why, and whether waiting may help."""
    what = f"the topic cannot be read on: {stopped.reason}: {stopped.details}"
    where = (
        f"topic {topic!r} on {connection.bootstrap_servers}, partition {stopped.partition}, offset {stopped.offset:,}"
    )
    if stopped.reason in ("unreachable", "stalled"):
        return BrokerError(what, where=where, next_step="check brokers and open transactions, then run it again")
    return RefusedError(what, where=where, next_step="restore the partition from a replica, then run it again")
