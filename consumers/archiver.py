"""The archiver: brings an archive up to date from the store or from a topic, exactly once.

One run reads its source to the head that it had at the start, through the gate, into commits that carry the position.
Two archivers at once do no harm: one of them is told that the archive moved (PositionMoved), and nothing of it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

from ledger.store import Store
from replay.archive.appending import Appending, Origin
from replay.archive.table import Archive, State
from replay.certificate import COMPLETE, INCOMPLETE, Unread
from replay.engine import Progress, run
from replay.store_source import StoreSource
from replay.topic.client import PartitionStopped, Reader, Waiting, open_reader
from replay.topic.connection import Connection
from replay.topic.full_replay import Published, unlike
from replay.topic.metadata import Topic
from replay.topic.source import PartitionSource
from schemas.errors import PositionMoved, RefusedError

__all__ = ["Archived", "archive_store", "archive_topic"]

POLL_SECONDS = 0.5

#: How often a follower moves the watermark on while nothing happens: each time is a commit.
WATERMARK_SECONDS = 60.0


class Archived(NamedTuple):
    """Where an archive is: COMPLETE, or INCOMPLETE with what is `parked` or could not be read (`unread`)."""

    verdict: str
    appended: int
    state: State
    version: int
    unread: list[str]


def archive_store(
    archive: Archive,
    store: Store,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    follow: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> Archived:
    """Append what the store has after the archive's position; with `follow` go on until `should_stop`.

    RefusedError where the archive is of another source, or holds more than the store has.
    """
    origin = Origin("store", store.ledger_id, store.ledger_id)
    target = Appending(archive, origin)
    appended = 0
    while True:
        try:
            state = _from_store(target, store, now, progress)
        except PositionMoved:
            if not follow or should_stop():
                raise
            # Somebody compacted it, say: a follower goes on from what is there now.
            appended += target.appended
            target = Appending(archive, origin)
            continue
        if not follow or should_stop():
            return _archived(target, state, appended + target.appended)
        if state.parked or state.poison:
            # What waited is read again, since it may be mended by now.
            appended += target.appended
            target = Appending(archive, origin)
        _wait(store, state, now, should_stop, poll_seconds)


def _from_store(target: Appending, store: Store, now: Callable[[], datetime], progress: Progress | None) -> State:
    # Before the snapshot: what is recorded between the two would be vouched for, and not be there. A clock that was
    # set ahead vouches for nothing that is to come.
    watermark = min(now(), datetime.now(UTC))
    with StoreSource.snapshot(store) as source:
        head = source.head()
        state = target.state
        if state is not None and isinstance(state.position, int) and head < state.position:
            raise RefusedError(
                f"the archive is at position {state.position:,} of the store, whose head is {head:,}: the store has "
                "lost events, or was put back from a backup",
                next_step="bring the store back first (`import events`), or keep this archive and begin another",
            )
        if target.held:
            # What was lost may be back in its old place, so these accounts are read from their beginning.
            run(source.of_accounts(target.held), target, after=0, until=target.start())
        target.passed()
        run(source, target, after=target.start(), until=head, progress=progress)
        return target.conclude(target.judged(source.ends(head), source.copies), watermark=watermark)


def _wait(
    store: Store,
    state: State,
    now: Callable[[], datetime],
    should_stop: Callable[[], bool],
    poll_seconds: float,
) -> None:
    """Return when the store has more, when the watermark is old, or when it is time to stop."""
    due = None if state.watermark is None else state.watermark + timedelta(seconds=WATERMARK_SECONDS)
    while not should_stop():
        with store.snapshot() as connection:
            if store.head(connection) != state.position or (due is not None and now() >= due):
                return
        time.sleep(poll_seconds)


def archive_topic(
    archive: Archive,
    connection: Connection,
    topic: Topic,
    *,
    ledger_id: str,
    published: Published | None = None,
    watermark: Callable[[], datetime | None] = lambda: None,
    waiting: Waiting | None = None,
    progress: Progress | None = None,
) -> Archived:
    """Append what a topic has after the archive's position, up to its ends as they were described.

    A partition that cannot be read to its end is named; what came before it is archived. What a store `published` is
    held against what came: where accounts end at least, and that they are the same events. `watermark` is asked once
    all was read and nothing is wrong. RefusedError where the archive is of another source, or a partition lost its
    beginning or its end.
    """
    target = Appending(archive, Origin("topic", topic.topic_id, ledger_id, topic.name))
    _refuse_lost(topic, target.state)
    unread: list[Unread] = []
    sources: list[PartitionSource] = []
    with open_reader(connection, topic.name) as reader:
        for partition, bounds in sorted(topic.partitions.items()):
            source = _source(reader, topic, partition, bounds.high, waiting)
            sources.append(source)
            try:
                run(source, target.of(partition), after=target.start(partition), until=bounds.high, progress=progress)
                target.passed(partition)
            except PartitionStopped as stopped:
                unread.append(_unread(stopped, bounds.high))

        def copies(keys: pl.DataFrame) -> pl.DataFrame:
            return pl.concat([source.copies(keys) for source in sources]).unique()

        try:
            found = target.judged(None, copies)
        except PartitionStopped as stopped:
            raise RefusedError(
                f"what came twice could not be compared: {stopped}", where=topic.name, next_step="run it again"
            ) from stopped
    if published is not None:
        for each in unlike(target.last, published.ends, is_whole=not unread):
            found.setdefault(each.account_id, each)
    is_whole = target.is_readable and not found and not unread
    moment = watermark() if is_whole else None
    known_until = None if moment is None else min(moment, datetime.now(UTC))
    state = target.conclude(found, watermark=known_until, unread=unread)
    return _archived(target, state, target.appended)


def _unread(stopped: PartitionStopped, until: int) -> Unread:
    return Unread(
        partition=stopped.partition,
        offset=stopped.offset,
        until=until,
        reason=stopped.reason,
        details=stopped.details,
    )


def _source(reader: Reader, topic: Topic, partition: int, end: int, waiting: Waiting | None) -> PartitionSource:
    source = PartitionSource(reader, topic.topic_id, partition, end=end, keeps_bytes=True)
    source.waiting = waiting
    return source


def _refuse_lost(topic: Topic, state: State | None) -> None:
    known = state.position if state is not None and isinstance(state.position, dict) else {}
    for partition, bounds in sorted(topic.partitions.items()):
        reached = known.get(partition, 0)
        if bounds.first > reached:
            lost = f"begins at offset {bounds.first:,}, the archive has it up to {reached:,}"
        elif bounds.high < reached:
            lost = f"ends at offset {bounds.high:,}, the archive has it up to {reached:,}"
        else:
            continue
        raise RefusedError(
            f"partition {partition} of topic {topic.name!r} {lost}: records were lost",
            next_step="archive from the store into another place",
        )


def _archived(target: Appending, state: State, appended: int) -> Archived:
    verdict = INCOMPLETE if state.parked or state.poison or state.unread else COMPLETE
    unread = [
        f"partition {each.partition}, offset {each.offset}: {each.reason}: {each.details}" for each in state.unread
    ]
    return Archived(verdict, appended, state, target.version or 0, unread)
