"""What the command of the archive does with its source: one run, or one after the other, and what is said meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from console.run import Progress, Run
from console.stopping import stopped_by_signals
from console.words import count, position_text
from consumers.archiver import Archived, TopicNow, archive_store, archive_topic, follow_topic
from replay.topic.rebuild import found_topic, published_of, topic_watermark

if TYPE_CHECKING:
    from ledger.store import Store
    from ledger.topics import KnownTopic
    from replay.archive.table import Archive
    from replay.topic.connection import Connection
    from replay.topic.metadata import Topic

__all__ = ["TopicReading", "from_store", "from_topic"]

#: Accounts held back that a follower names after a round; all of them are in its answer.
NAMED_MAX = 10


def from_store(run: Run, store: Store, place: Archive, *, follow: bool) -> Archived:
    """Bring an archive up to date with the store; with `follow` go on until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    with stopped_by_signals(stop, only_if=follow), _shown(run) as (progress, told):
        return archive_store(
            place,
            store,
            now=lambda: run.now,
            follow=follow,
            should_stop=stop.is_set,
            waiting=_waiting(run),
            progress=progress,
            told=told,
        )


@dataclass(frozen=True)
class TopicReading:
    """A topic that can be archived, and what a store knew of it when it was looked at."""

    run: Run
    store: Store
    kafka: Connection
    topic: Topic
    known: KnownTopic | None

    @classmethod
    def found(cls, run: Run, store: Store, name: str | None) -> TopicReading:
        """Look at a topic; RefusedError where it is not the one that the store knows."""
        kafka = run.kafka()
        return cls(run, store, kafka, *found_topic(store, kafka, run.topic(name)))

    def again(self) -> TopicReading:
        """Look at it once more."""
        return TopicReading(self.run, self.store, self.kafka, *found_topic(self.store, self.kafka, self.topic.name))

    @property
    def now(self) -> TopicNow:
        """The topic as an archiver takes it."""
        known, clock = self.known, self.run.now if self.run.options.now else None
        return TopicNow(
            self.topic,
            published=lambda: published_of(self.store, known),
            watermark=lambda: None if known is None else topic_watermark(self.store, known, clock),
            offsets={} if known is None else known.offsets,
            mark=known,
        )


def from_topic(run: Run, place: Archive, reading: TopicReading, *, follow: bool) -> Archived:
    """Bring an archive up to date with a topic; with `follow` go on until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    ledger_id = _ledger_id(reading.store, place)
    waiting = _waiting(run)
    with stopped_by_signals(stop, only_if=follow), _shown(run) as (progress, told):
        if not follow:
            now = reading.now
            return archive_topic(
                place,
                reading.kafka,
                now.topic,
                ledger_id=ledger_id,
                published=now.published(),
                watermark=now.watermark,
                waiting=waiting,
                progress=progress,
            )
        return follow_topic(
            place,
            reading.kafka,
            lambda: reading.again().now,
            ledger_id=ledger_id,
            should_stop=stop.is_set,
            waiting=waiting,
            progress=progress,
            told=told,
        )


def _waiting(run: Run) -> Callable[[str], None]:
    """Return what says why a run waits; that it goes on is seen."""

    def waiting(words: str) -> None:
        if words:
            run.warn(words)

    return waiting


@contextmanager
def _shown(run: Run) -> Iterator[tuple[Progress | None, Callable[[Archived], None]]]:
    """Yield what shows how far a run is, and what a follower tells after each round.

    On a terminal that is the bar, which says where the archive is. Elsewhere only what is not whole is said, once.
    """
    with run.rounds("archiving") as (progress, say):

        def told(found: Archived) -> None:
            state = found.state
            events = count(state.events, "event")
            say(f"{found.verdict}: {events} archived, up to position {position_text(state.position)}")
            for words in found.unread:
                run.warn(f"not read: {words}")
            for parked in state.parked[:NAMED_MAX]:
                run.warn(f"held back: {parked.account_id} from version {parked.version:,}, {parked.reason}")
            if len(state.parked) > NAMED_MAX:
                run.warn(f"held back: {len(state.parked) - NAMED_MAX:,} accounts more")

        yield progress, told


def _ledger_id(store: Store, place: Archive) -> str:
    """Return whose events they are: where no ledger is here, whoever the archive was made for."""
    with store.snapshot() as connection:
        is_empty = store.head(connection) == 0 and store.heads(connection).is_empty()
    snapshot = place.snapshot() if is_empty else None
    return store.ledger_id if snapshot is None or snapshot.state is None else snapshot.state.ledger_id
