"""Rounds of an archiver over a topic: each reads what the partitions have more, judges it, and commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from consumers.archived import Archived, archived
from consumers.topic_following import refuse_lost
from replay.archive.appending import Appending, Origin
from replay.archive.state import State
from replay.archive.table import Archive
from replay.certificate import Unread
from replay.engine import Progress, run
from replay.gate import Parked
from replay.source import Batch
from replay.topic.client import PartitionStopped, Reader, Waiting
from replay.topic.full_replay import Published, unlike
from replay.topic.metadata import Topic
from replay.topic.source import PartitionSource
from schemas.errors import RefusedError

__all__ = ["Rounds", "TopicNow"]


class TopicNow(NamedTuple):
    """A topic as it is described now, and what a store knows of it: both are asked for only where they are needed.

    `published` is held against what comes: where accounts end at least, and that they are the same events. `watermark`
    is asked once all was read and nothing is wrong. `offsets` are where the store's events end on the topic, and `mark`
    is different whenever there is something new to be known.
    """

    topic: Topic
    published: Callable[[], Published | None] = lambda: None
    watermark: Callable[[], datetime | None] = lambda: None
    offsets: Mapping[int, int] = {}
    mark: object = None


class Rounds:
    """Brings an archive up to date with a topic, as often as it is asked to."""

    def __init__(
        self,
        archive: Archive,
        reader: Reader,
        topic: Topic,
        *,
        ledger_id: str,
        waiting: Waiting | None,
        progress: Progress | None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._archive = archive
        self._reader = reader
        self._origin = Origin("topic", topic.topic_id, ledger_id, topic.name)
        self._waiting = waiting
        self._progress = progress
        self._should_stop = should_stop
        self._appended = 0
        self._target = Appending(archive, self._origin)
        # What came twice, when so much had come twice.
        self._compared: tuple[int, pl.DataFrame] | None = None

    @property
    def has_let_go(self) -> bool:
        """Whether events that waited are to be read again, by a target that begins again."""
        return self._target.has_let_go

    def begin_again(self) -> None:
        """Go on from what the archive is now."""
        target = Appending(self._archive, self._origin)
        # Only now, since the archive's place may fail and this be asked once more.
        self._appended += self._target.appended
        self._target, self._compared = target, None

    def take(self, now: TopicNow, ends: Mapping[int, int]) -> Archived:
        """Read every partition up to an end, and commit that with what there is to say of it."""
        target = self._target
        _refuse_lost(now.topic, self._origin, target.state)
        is_cut, unread = self._read(now.topic, ends)
        found, stops = self._judged(now.topic, ends)
        is_read = not unread and not is_cut
        is_whole = is_read and all(target.reached(partition) >= end for partition, end in now.offsets.items())
        published = now.published()
        if published is not None:
            for each in unlike(target.last, published.ends, is_whole=is_whole):
                found.setdefault(each.account_id, each)
        moment = now.watermark() if is_whole and target.is_readable and not found else None
        known_until = None if moment is None else min(moment, datetime.now(UTC))
        state = target.conclude(found, watermark=known_until, unread=unread)
        return archived(target, state, self._appended + target.appended, stops)

    def _read(self, topic: Topic, ends: Mapping[int, int]) -> tuple[bool, list[Unread]]:
        """Read partition by partition; return whether it was told to stop before the end, and where one stopped."""
        is_cut = False
        unread: list[Unread] = []
        for partition, until in sorted(ends.items()):
            source = _Source(self._reader, topic.topic_id, partition, end=until, keeps_bytes=True)
            source.waiting, source.should_stop = self._waiting, self._should_stop
            start, target = self._target.start(partition), self._target.of(partition)
            try:
                run(source, target, after=start, until=until, progress=self._progress)
            except PartitionStopped as stopped:
                unread.append(_unread(stopped, until))
            else:
                is_cut |= source.is_cut
                if not source.is_cut:
                    self._target.passed(partition)
        return is_cut, unread

    def _judged(self, topic: Topic, partitions: Collection[int]) -> tuple[dict[str, Parked], list[PartitionStopped]]:
        """Return who cannot be vouched for, and the partitions that could not be read again to compare repeats."""
        stops: list[PartitionStopped] = []

        def copies(keys: pl.DataFrame) -> pl.DataFrame:
            # The same keys say nothing: what was found to be the same is forgotten, and may come a third time.
            repeated = self._target.repeated
            if self._compared is not None and self._compared[0] == repeated:
                # Nothing came twice since, so a follower does not read it all again.
                return self._compared[1].join(keys.unique(), on=keys.columns, how="semi")
            found = [pl.DataFrame(schema={**keys.schema, "state": pl.Binary()})]
            for partition in sorted(partitions):
                # As far as it was ever read: this round may have ended before that, where it read something again.
                end = self._target.reached(partition)
                source = PartitionSource(self._reader, topic.topic_id, partition, end=end, keeps_bytes=True)
                source.waiting = self._waiting
                try:
                    found.append(source.copies(keys))
                except PartitionStopped as stopped:
                    stops.append(stopped)
            contents = pl.concat(found).unique()
            self._compared = None if stops else (repeated, contents)
            return contents

        found = self._target.judged(None, copies)
        if stops:
            # What could be read may show that two are different; of all others nobody knows.
            found = self._target.uncompared(f"it could not be compared: {stops[0]}") | found
        return found, stops


class _Source(PartitionSource):
    """A partition whose reading may be told to stop; `is_cut` says that it was, behind the batch in hand."""

    is_cut = False
    should_stop: Callable[[], bool] = staticmethod(lambda: False)

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        """Yield the events from offset `after` to before `until`, or fewer."""
        with closing(super().read(after=after, until=until, details=details)) as batches:  # type: ignore[type-var]  # a generator, which closes.
            for batch in batches:
                yield batch
                if self.should_stop():
                    self.is_cut = batch.position < until
                    return


def _unread(stopped: PartitionStopped, until: int) -> Unread:
    return Unread(
        partition=stopped.partition,
        offset=stopped.offset,
        until=until,
        reason=stopped.reason,
        details=stopped.details,
    )


def _refuse_lost(topic: Topic, origin: Origin, state: State | None) -> None:
    if topic.topic_id != origin.source_id:
        raise RefusedError(
            f"topic {topic.name!r} was made again: its id is {topic.topic_id}, archived was {origin.source_id}",
            next_step="name another place with --archive, and archive it there",
        )
    known = state.position if state is not None and isinstance(state.position, dict) else {}
    elsewhere = "archive from the store into another place"
    refuse_lost(topic, known, "the archive has it up to", restart=elsewhere, instead=elsewhere)
