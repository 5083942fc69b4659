"""The archiver: brings an archive up to date from the store or from a topic, exactly once.

One run reads its source to the head that it had at the start, through the gate, into commits that carry the position.
Two archivers at once do no harm: one of them is told that the archive moved (PositionMoved), and nothing of it counts.
A follower that has begun goes on by itself after that, and after an archive's place that did not answer for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from consumers.archived import Archived, archived
from consumers.topic_rounds import Rounds, TopicNow
from ledger.store import Store
from replay.archive.appending import Appending, Origin
from replay.archive.state import State
from replay.archive.table import Archive
from replay.engine import Progress, run
from replay.store_source import StoreSource
from replay.topic.client import Waiting, open_reader
from replay.topic.connection import Connection
from replay.topic.full_replay import Published
from replay.topic.metadata import Topic
from schemas.errors import ArchiveError, BrokerError, BrokerRefused, PositionMoved, RefusedError

__all__ = ["Archived", "TopicNow", "archive_store", "archive_topic", "follow_topic"]

POLL_SECONDS = 0.5

#: How often a follower moves the watermark on while nothing happens: each time is a commit.
WATERMARK_SECONDS = 60.0

#: The longest that a follower waits before it asks an archive's place again, which failed.
PAUSE_SECONDS_MAX = 30.0

#: Called with where the archive is.
Told = Callable[[Archived], None]


def archive_store(
    archive: Archive,
    store: Store,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    follow: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    waiting: Waiting | None = None,
    progress: Progress | None = None,
    told: Told = lambda _: None,
    poll_seconds: float = POLL_SECONDS,
) -> Archived:
    """Append what the store has after the archive's position; with `follow` go on until `should_stop`.

    `told` hears of every round of a follower, `waiting` why the archive's place keeps it waiting. RefusedError where
    the archive is of another source, or holds more than the store has; ArchiveError where its place says no, or does
    not answer a run, or a follower that begins or is told to stop.
    """
    origin = Origin("store", store.ledger_id, store.ledger_id)
    target = Appending(archive, origin)
    patience = _Patience(should_stop, waiting, poll_seconds)
    appended, begins_again = 0, False
    while True:
        try:
            if begins_again:
                target, appended = Appending(archive, origin), appended + target.appended
                begins_again = False
            state = _from_store(target, store, now, progress)
        except (PositionMoved, ArchiveError) as error:
            if not follow or not patience.goes_on(error):
                raise
            begins_again = True
            continue
        patience.over()
        found = archived(target, state, appended + target.appended)
        if follow:
            told(found)
        if not follow or should_stop():
            return found
        # What waited is read again, since it may be mended by then.
        begins_again = bool(state.parked or state.poison)
        _wait(store, state, now, should_stop, poll_seconds)


class _Patience:
    """What a follower does about an archive that it could not move on: it waits, longer each time in a row."""

    def __init__(self, should_stop: Callable[[], bool], waiting: Waiting | None, seconds: float) -> None:
        self._should_stop = should_stop
        self._waiting = waiting
        self._seconds = seconds
        self._pause = 0.0

    def goes_on(self, error: PositionMoved | ArchiveError) -> bool:
        """Wait as long as it takes; False where that does not help, or once it is time to stop."""
        if isinstance(error, PositionMoved):
            # Somebody compacted it, say: a follower goes on from what is there now.
            return not self._should_stop()
        if error.says_no:
            return False
        if self._waiting is not None:
            self._waiting(f"the archive is waited for: {error.what}")
        self._pause = min(max(self._seconds, 2 * self._pause), PAUSE_SECONDS_MAX)
        again_at = time.monotonic() + self._pause
        while not self._should_stop():
            left = again_at - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, POLL_SECONDS))
        return False

    def over(self) -> None:
        """Take note that the archive was moved on."""
        if self._pause and self._waiting is not None:
            self._waiting("")
        self._pause = 0.0


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

    A partition that cannot be read to its end, or not once more to compare what came twice, is named; what came before
    it is archived. What a store `published`, and its `watermark`, are as of `TopicNow`. RefusedError where the archive
    is of another source, or a partition lost its beginning or its end.
    """
    now = TopicNow(topic, lambda: published, watermark)
    with open_reader(connection, topic.name) as reader:
        rounds = Rounds(archive, reader, topic, ledger_id=ledger_id, waiting=waiting, progress=progress)
        return rounds.take(now, {partition: bounds.high for partition, bounds in topic.partitions.items()})


def follow_topic(
    archive: Archive,
    connection: Connection,
    look: Callable[[], TopicNow],
    *,
    ledger_id: str,
    should_stop: Callable[[], bool],
    waiting: Waiting | None = None,
    progress: Progress | None = None,
    told: Told = lambda _: None,
    poll_seconds: float = POLL_SECONDS,
) -> Archived:
    """Append what a topic has, and on and on what comes, until `should_stop`; `told` hears of every round.

    Each round reads what is committed by then, as `archive_topic` does: an open transaction is waited for without
    standing in the way. The topic is looked at again and again (`look`). Brokers that do not answer are waited for, and
    so is the archive's place, as in `archive_store`: `waiting` hears of both.
    """
    patience = _Patience(should_stop, waiting, poll_seconds)
    begins_again = False
    now = look()
    with open_reader(connection, now.topic.name) as reader:
        rounds = Rounds(
            archive,
            reader,
            now.topic,
            ledger_id=ledger_id,
            waiting=waiting,
            progress=progress,
            should_stop=should_stop,
        )
        while True:
            try:
                if begins_again:
                    rounds.begin_again()
                    begins_again = False
                found = rounds.take(now, _committed(now.topic))
            except (PositionMoved, ArchiveError) as error:
                if not patience.goes_on(error):
                    raise
                begins_again = True
                continue
            patience.over()
            told(found)
            if should_stop():
                return found
            begins_again = rounds.has_let_go
            now = _looked_again(
                look, now, found.state, should_stop=should_stop, waiting=waiting, poll_seconds=poll_seconds
            )
            if should_stop():
                return found


def _committed(topic: Topic) -> dict[int, int]:
    """Return how far each partition can be read now: behind an open transaction nothing can."""
    return {partition: bounds.stable for partition, bounds in topic.partitions.items()}


def _looked_again(
    look: Callable[[], TopicNow],
    before: TopicNow,
    state: State,
    *,
    should_stop: Callable[[], bool],
    waiting: Waiting | None,
    poll_seconds: float,
) -> TopicNow:
    """Return the topic when there is more of it or to be known of it, when a while is over, or at a stop."""
    due = time.monotonic() + WATERMARK_SECONDS
    unread = {each.partition for each in state.unread}
    reached = state.position if isinstance(state.position, dict) else {}
    now = before
    while not should_stop():
        try:
            now = look()
        except BrokerRefused:
            raise
        except BrokerError as error:
            if waiting is not None:
                waiting(f"the topic cannot be looked at: {error.what}")
        # What a partition that stopped has is tried again after a while.
        ends = _committed(now.topic).items()
        has_more = any(end > reached.get(partition, -1) for partition, end in ends if partition not in unread)
        if has_more or now.topic.topic_id != before.topic.topic_id or now.mark != before.mark:
            return now
        if time.monotonic() >= due:
            return now
        time.sleep(poll_seconds)
    return now
