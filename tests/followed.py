"""Followers for tests: an archiver that follows a store or a topic in memory, to which things happen meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from archives import archive_at, check_exactly_once, commits_of, topics_in_memory
from topic_memory import FakeReader, Sent, replay

from consumers.archiver import Archived, TopicNow, archive_store, follow_topic
from ledger import Store
from replay.archive.full_replay import replayed_archive
from replay.topic import Connection
from replay.topic.metadata import Bounds

__all__ = ["START", "Script", "Topic", "check_as_topic", "follow", "follow_memory", "nothing"]

START = datetime(2024, 5, 1, tzinfo=UTC)


class Script:
    """What happens to a store while it is followed: a step each time that the follower asks whether to stop."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)
        self.moment = START

    def should_stop(self) -> bool:
        """Do the next step; stop where there is none."""
        if not self._steps:
            return True
        self._steps.pop(0)()
        self.moment += timedelta(seconds=100)
        return False


def follow(folder: Path, store: Store, script: Script, told: Callable[[Archived], None] = lambda _: None):
    """Follow a store until the script ends."""
    with commits_of(3):
        return archive_store(
            archive_at(folder),
            store,
            follow=True,
            told=told,
            now=lambda: script.moment,
            should_stop=script.should_stop,
            poll_seconds=0.001,
        )


def nothing() -> None:
    """Let time pass."""


class Topic:
    """A topic in memory that is followed: a step each time that the follower looks at it, and a stop after the last.

    `held_at` is where an open transaction holds what is read of partition 0.
    """

    def __init__(self, sent: list[Sent], *steps: Callable[[Topic], object]) -> None:
        self.sent = list(sent)
        self.steps = list(steps)
        self.stops = False
        self.held_at: int | None = None
        self.topic_id = "id"
        self.mark = 0
        self.watermark: datetime | None = START
        self.stop_at: tuple[int, int] | None = None
        self.fails: Exception | None = None
        self.told: list[Archived] = []
        self.said: list[str] = []

    def look(self) -> TopicNow:
        """Do the next step, and describe the topic."""
        if self.told and self.steps:
            self.steps.pop(0)(self)
        elif self.told:
            self.stops = True
        if self.fails is not None:
            raise self.fails
        topic = self.reader.topic
        if self.held_at is not None:
            topic.partitions[0] = Bounds(0, self.held_at, topic.partitions[0].high)
        offsets = {partition: bounds.high for partition, bounds in topic.partitions.items()}
        return TopicNow(
            type(topic)(name="events", topic_id=self.topic_id, partitions=topic.partitions, settings={}),
            watermark=lambda: self.watermark,
            offsets=offsets,
            mark=self.mark,
        )

    @property
    def reader(self) -> FakeReader:
        """A reader of what is on it by now."""
        return FakeReader(self.sent, 2, self.stop_at)

    def read(self, *arguments: Any, **options: Any) -> Any:
        """Read what is on it by now, as a reader does."""
        return self.reader.read(*arguments, **options)

    def send(self, *sent: Sent) -> None:
        """Put records on it."""
        self.sent += sent


class Connected(Connection, frozen=True):
    """A connection to a topic in memory."""

    reader: Any = None


def follow_memory(folder: Path, topic: Topic) -> Archived:
    """Follow a topic in memory until its steps are done."""
    with topics_in_memory(), commits_of(3):
        return follow_topic(
            archive_at(folder),
            Connected(bootstrap_servers="nowhere:1", reader=topic),
            topic.look,
            ledger_id="ledger",
            should_stop=lambda: topic.stops,
            told=topic.told.append,
            waiting=topic.said.append,
            poll_seconds=0.001,
        )


def check_as_topic(folder: Path, topic: Topic) -> None:
    """Hold the archive against a replay of the topic, and its repeats too."""
    with replay(topic.sent) as expected, replayed_archive(archive_at(folder)) as found:
        assert (found.verdict, found.certificate.digest) == (expected.verdict, expected.certificate.digest)
        assert found.parked_ids == expected.parked_ids
        assert found.certificate.repeats == expected.certificate.repeats
    check_exactly_once(archive_at(folder))
