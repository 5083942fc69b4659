"""What comes before a topic is published to: it is the right one, and nothing is on it but events of this store.

The relay may have crashed behind events that it sent and before it noted them: a topic may have more than is known
of it. A store restored from a backup finds more there too, and that are the events of the store that was lost. The two
are told apart by reading on from what is known: the same bytes are a repeat and do no harm, but others would
stand beside those of the same account and version for ever.
"""

from __future__ import annotations

from operator import itemgetter

import polars as pl

from consumers.topics import check_known, check_topic, create_topic
from ledger import topics
from ledger.store import Store
from replay.topic.client import Chunk, PartitionStopped, Waiting, open_reader
from replay.topic.connection import Connection
from replay.topic.metadata import Topic, describe
from replay.topic.source import decoded
from schemas.errors import BrokerError, RefusedError

__all__ = ["claimed_topic"]

_ACCEPT = "`publish --accept-topic` publishes everything again beside it"
_BOTH = f"`import events --from topic` first brings the store up to the topic (or {_ACCEPT})"

#: What a read that waits for something may get when it is tried again.
_PASSING = {
    "unreachable": "check that the brokers are up, then run it again",
    "stalled": "have the transaction ended by who began it, then run it again",
}


def claimed_topic(
    store: Store,
    connection: Connection,
    name: str,
    *,
    partitions: int,
    replication: int,
    accept_retention: bool = False,
    accept_topic: bool = False,
    waiting: Waiting | None = None,
) -> Topic:
    """Return the topic to publish to, made if there is none, and note that this store publishes to it.

    With `accept_topic` what is known of it is forgotten, and what is on it is taken as it is. RefusedError for
    a topic that does not keep everything, is not the one that is known, or has what is not this store's, and for
    a store that ends before what was published; BrokerError where the brokers do not answer in time.
    """
    topic = _found(store, connection, name, is_new=accept_topic) or create_topic(
        connection, name, partitions=partitions, replication=replication
    )
    check_topic(topic, accept_retention=accept_retention)
    own = {partition: bounds.high for partition, bounds in topic.partitions.items()}
    if not accept_topic:
        with store.snapshot() as reading:
            known, head = topics.known(reading, name), store.head(reading)
        check_known(topic, known)
        if known is not None:
            _check_head(known, head)
            _check_tail(store, connection, topic, known, waiting)
    with store.writing() as writing:
        if accept_topic:
            topics.forget(writing, name)
        topics.claim(writing, name, topic.topic_id, len(topic.partitions), own)
    return topic


def _found(store: Store, connection: Connection, name: str, *, is_new: bool) -> Topic | None:
    found = describe(connection, name)
    if found is None and not is_new:
        with store.snapshot() as reading:
            if topics.known(reading, name) is not None:
                raise RefusedError(
                    "the topic is gone",
                    where=f"topic {name!r}",
                    next_step="`publish --accept-topic` makes it anew and publishes every event again",
                )
    return found


def _check_head(known: topics.KnownTopic, head: int) -> None:
    if head < known.position:
        raise RefusedError(
            f"the store ends at position {head:,}, published was up to {known.position:,}: it has lost its last events",
            where=f"topic {known.name!r}",
            next_step="`import events --from topic` brings back what the topic has; `publish --accept-topic` takes "
            "the store as it is and publishes every event again",
        )


def _check_tail(
    store: Store, connection: Connection, topic: Topic, known: topics.KnownTopic, waiting: Waiting | None
) -> None:
    """Refuse a topic that has, behind what is known to be our own, anything but events of this store."""
    starts = {at: max((known.own or {}).get(at, 0), bounds.first) for at, bounds in topic.partitions.items()}
    longer = {at: bounds.high for at, bounds in sorted(topic.partitions.items()) if starts[at] < bounds.high}
    if not longer:
        return
    with open_reader(connection, topic.name) as reader:
        for partition, high in longer.items():
            try:
                for chunk in reader.read(partition, start=starts[partition], until=high, waiting=waiting):
                    _check_chunk(store, topic.name, chunk)
            except PartitionStopped as stopped:
                raise _unread(connection, topic.name, stopped) from stopped


def _check_chunk(store: Store, topic: str, chunk: Chunk) -> None:
    """Refuse records that are not, byte for byte, the store's event of their account and version."""
    batch = decoded(chunk, keeps_bytes=True)
    with store.snapshot() as reading:
        stored = store.read_keys(reading, batch.events.select("account_id", "version").unique())
    stored = stored.select("account_id", "version", stored="state")
    compared = batch.events.join(stored, on=["account_id", "version"], how="left")
    others = compared.filter(pl.col("state").ne_missing(pl.col("stored"))).sort("position")
    found = [
        (offset, "an event that this store has not" if state is None else "another event than this store", of, _BOTH)
        for offset, state, *of in others.select("position", "stored", "account_id", "version").head(1).iter_rows()
    ]
    found += [
        (each.position, f"a record that is no event ({each.reason})", [each.account_id, each.version], _ACCEPT)
        for each in batch.poison
    ]
    if found:
        offset, what, (account_id, version), next_step = min(found, key=itemgetter(0))
        of_account = "" if account_id is None else f", account {account_id!r}"
        of_version = "" if version is None else f", version {version:,}"
        raise RefusedError(
            f"the topic is ahead of what was published, and has {what}",
            where=f"topic {topic!r}, partition {chunk.partition}, offset {offset:,}{of_account}{of_version}",
            next_step=next_step,
        )


def _unread(connection: Connection, topic: str, stopped: PartitionStopped) -> BrokerError | RefusedError:
    """Return what to say where it cannot be seen whether the records are ours."""
    what = f"what the topic has that this store knows nothing of cannot be read: {stopped.reason}: {stopped.details}"
    where = (
        f"topic {topic!r} on {connection.bootstrap_servers}, partition {stopped.partition}, offset {stopped.offset:,}"
    )
    if stopped.reason in _PASSING:
        return BrokerError(what, where=where, next_step=_PASSING[stopped.reason])
    return RefusedError(
        what,
        where=where,
        next_step="restore the partition from a replica, then run it again; `publish --accept-topic` takes it as it is "
        "now and publishes every event again",
    )
