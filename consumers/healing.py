"""A topic as the copy of the stream that a store is healed from."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import func, select

from ledger import topics
from ledger.importing.healing import Healed, Records, Unread, heal
from ledger.store import Store
from ledger.tables import EVENTS
from replay.engine import Progress
from replay.topic.client import PartitionStopped, Waiting, open_reader
from replay.topic.connection import Connection
from replay.topic.metadata import Topic
from replay.topic.refusals import topic_named
from schemas.errors import RefusedError

__all__ = ["TopicCopy", "heal_from_topic", "topic_of_events"]


class TopicCopy:
    """Every committed record of a topic, from the first offset of each partition to where it ended at one moment.

    What is gone before the first offset, or cannot be read, or is missing at the end where the ledger knows that
    there was more (`vouched`: next offset by partition), is named as unread.
    """

    def __init__(
        self,
        connection: Connection,
        topic: Topic,
        *,
        vouched: dict[int, int] | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self.where = f"topic {topic.name!r}"
        self._connection, self._topic = connection, topic
        self._vouched = vouched or {}
        self._waiting = waiting

    def records(self) -> Iterator[Records | Unread]:
        """Yield the records partition by partition, and what cannot be read; BrokerError if no broker answers."""
        with open_reader(self._connection, self._topic.name) as reader:
            for partition, bounds in sorted(self._topic.partitions.items()):
                if bounds.first > 0:
                    gone = f"the topic begins at offset {bounds.first:,}: the records before it were deleted"
                    yield Unread(partition, bounds.first, "deleted", gone)
                try:
                    for chunk in reader.read(partition, start=bounds.first, until=bounds.high, waiting=self._waiting):
                        yield Records(partition, list(chunk.offsets), chunk.keys, chunk.values)
                except PartitionStopped as stopped:
                    yield Unread(partition, stopped.offset, stopped.reason, stopped.details)
                if bounds.high < self._vouched.get(partition, 0):
                    lost = f"the topic ends at offset {bounds.high:,}, and it had {self._vouched[partition]:,} before"
                    yield Unread(partition, bounds.high, "end_lost", lost)


def topic_of_events(connection: Connection, name: str) -> Topic:
    """Return a topic as it is now; UsageError if there is none of that name, BrokerError if no broker answers."""
    return topic_named(connection, name, next_step="check the name given with --topic")


def heal_from_topic(
    store: Store,
    connection: Connection,
    name: str,
    *,
    dry_run: bool = False,
    skip_conflicts: bool = False,
    accept_topic: bool = False,
    progress: Progress | None = None,
    waiting: Waiting | None = None,
) -> Healed:
    """Bring back what the store has lost from a topic: see `ledger.importing.heal`.

    A topic whose first records are deleted can still heal, but what it vouches for is not whole, so the result is
    INCOMPLETE. The number of its partitions does not matter, since events are judged by account and version.

    A store that was empty has nothing but what the topic has then; that is noted as published, and `publish` goes on.

    Raises:
        RefusedError: a topic of that name is known, and this one was made after it; or none is known, and without
            `accept_topic` nothing of this one is in a store that has events.
        UsageError: there is no such topic.
        BrokerError: no broker answers.
    """
    topic = topic_of_events(connection, name)
    with store.snapshot() as snapshot:
        known, is_empty = topics.known(snapshot, name), store.head(snapshot) == 0
    if known is not None and known.topic_id != topic.topic_id:
        raise RefusedError(
            f"the topic was made again: its id is {topic.topic_id}, known is {known.topic_id}",
            where=f"topic {name!r}",
            next_step="name the topic that has the events with --topic; or `publish --accept-topic`",
        )
    copy = TopicCopy(connection, topic, vouched=known.offsets if known else None, waiting=waiting)
    total = topic.events
    counted = None if progress is None else (lambda done, _: progress(done, total))
    found = heal(
        store,
        copy,
        dry_run=dry_run,
        skip_conflicts=skip_conflicts,
        must_overlap=known is None and not is_empty and not accept_topic,
        progress=counted,
    )
    if is_empty and not dry_run and found.verdict == "OK":
        _note_published(store, topic, found)
    return found


def _note_published(store: Store, topic: Topic, found: Healed) -> None:
    """Note that a topic has every event of a store, unless others have appended or published meanwhile."""
    own = {partition: bounds.high for partition, bounds in topic.partitions.items()}
    with store.appending() as connection:
        known = topics.known(connection, topic.name)
        is_as_before = known is None or (
            known.position == 0 and known.difference(topic.topic_id, len(topic.partitions)) is None
        )
        head, events = store.head(connection), connection.execute(select(func.count()).select_from(EVENTS)).scalar_one()
        if head and is_as_before and events == found.restored + found.imported:
            topics.claim(connection, topic.name, topic.topic_id, len(own), own)
            topics.advance(connection, topic.name, after=0, until=head, offsets=own)
