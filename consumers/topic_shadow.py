"""The shadow of a topic: a member of a consumer group that folds what its partitions have into rows of the database.

Instances of one shadow share the partitions. Where each is read from is in the database and nowhere else: a batch is
one transaction that locks the shadow, moves the positions of its partitions by compare-and-set, and only then looks at
the rows. An instance that was too slow, or lost a partition while it held a batch of it, finds the position moved: the
batch is forgotten, and it goes on from where the shadow is. So it does not matter when a partition is taken away.

The next batch is read, and maybe folded, while the last one is written: see `consumers.topic_batches`.

Brokers that do not answer are waited for. What cannot be read, or is not there any more, stops the shadow: it jumps
over nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl
from sqlalchemy import Connection as Session

from consumers.shadow import Step
from consumers.shadow_start import Start, refuse_unlike
from consumers.topic_batches import Ahead, Ready, TopicBatches, reached_by
from consumers.topic_following import LOOK_SECONDS, Patience, quick
from consumers.topic_group import Group
from consumers.topic_shadow_start import begin_topic, refuse_lost, refuse_other_topic
from ledger import shadows
from ledger.shadows import Shadow
from ledger.store import Store
from replay.rows import Beside
from replay.topic.client import PartitionStopped, Waiting
from replay.topic.connection import Connection
from replay.topic.metadata import Topic, describe
from replay.topic.refusals import stopped_error, topic_named
from replay.topic_rows import Applied, Taken, apply, keep
from schemas import PoisonEvent, decode, format_time
from schemas.errors import PositionMoved, RefusedError

__all__ = ["TopicShadow"]


class TopicShadow:
    """A shadow that follows a topic; a new one begins as `start` says, one that exists goes on where it is.

    `restart` drops it first. A step takes up to `batch_events` of all partitions that the group gives to this instance,
    and waits up to `poll_seconds` where there is nothing; `waiting` is told why the brokers keep it waiting, and an
    empty text when it goes on. One batch more is read ahead where there is more. `beside` is what is kept beside the
    rows, in the transactions that write them. `at` is called with the name of each place that a step passes: `read` and
    `fold`, in another thread, then `write` and `commit` before the commit, and `committed`. RefusedError and UsageError
    as of `consumers.topic_shadow_start` and `refuse_unlike`; BrokerError where the brokers do not answer at first.
    """

    def __init__(
        self,
        store: Store,
        connection: Connection,
        topic: str,
        *,
        name: str = "shadow",
        start: Start = Start(),
        restart: bool = False,
        beside: Beside | None = None,
        batch_events: int = 5_000,
        poll_seconds: float = 0.2,
        waiting: Waiting | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        refuse_unlike(name, start, beside)
        self._store = store
        self._beside = beside
        self._connection = connection
        self._patience = Patience(waiting, seconds=poll_seconds)
        self._at = at
        self._topic = topic_named(connection, topic)
        self._shadow = begin_topic(store, self._topic, name, start, restart=restart, created_at=format_time(now()))
        self._positions: dict[int, int] = {}
        self._level()
        # Looked at again, since its ends as they were before may be behind where other instances are by now.
        self._look()
        # Two looks right after each other do not tell a transaction that was left open.
        self._held_back: dict[int, tuple[int, int]] = {}
        self._batches = TopicBatches(
            store,
            lambda: Group(connection, topic, f"ledger-replay-{store.ledger_id}-{name}"),
            batch_events=batch_events,
            poll_seconds=poll_seconds,
            at=at,
            beside=beside,
        )

    @property
    def shadow(self) -> Shadow:
        """The shadow as it is registered now."""
        return self._shadow

    def step(self) -> Step:
        """Apply at most one batch; where another instance was faster, nothing is applied and the step says so.

        RefusedError where the topic has lost what comes next, was made again, or cannot be read there; BrokerRefused
        where a broker says no. Brokers that do not answer only leave the shadow behind, and what a transaction that is
        open on the topic holds back is not there yet: it is told once that has not moved for `LOOK_SECONDS`.
        """
        return self._patience.step(self._moved_on, otherwise=self._step, what=f"the shadow {self._shadow.name!r} waits")

    def close(self) -> None:
        """Leave the group, so that other instances have its partitions at once; the shadow stays where it is."""
        self._batches.close()

    def _moved_on(self) -> Step:
        try:
            return self._stepped()
        except PositionMoved:
            self._batches.forget()
            self._shadow = self._found_again()
            self._level()
            return self._step()
        except PartitionStopped as stopped:
            self._batches.forget()
            # Where records are gone, how the topic is now says more of it.
            self._look()
            raise stopped_error(self._connection, self._topic.name, stopped) from stopped
        except BaseException:
            self._batches.forget()
            raise

    def _stepped(self) -> Step:
        if time.monotonic() >= self._looked_at + LOOK_SECONDS:
            before = self._topic.partitions.keys()
            self._look()
            if self._topic.partitions.keys() != before:
                self._batches.forget()
        ready = self._batches.take(self._shadow, self._topic.partitions, self._level)
        if ready is None:
            # Other instances go on, or one begins the shadow anew.
            with self._store.snapshot() as session:
                self._positions = self._stored(session)
            return self._step()
        self._batches.begin_next(self._shadow, ready)
        self._write(ready)
        return self._step(ready.batch)

    def _write(self, ready: Ready) -> None:
        with self._store.writing() as session:
            shadows.lock(session, self._shadow)
            before = shadows.positions(session, self._shadow)
            for after, chunk in ready.ranges:
                shadows.advance(session, self._shadow, chunk.partition, after=after, until=chunk.next_offset)
            if ready.ahead is not None and ready.ahead.onto == before:
                self._batches.written(self._keep(session, ready.ahead))
            else:
                apply(session, self._shadow, ready.batch, self._beside)
                if ready.ahead is not None:
                    self._batches.forget_rows()
            self._at("write")
            self._at("commit")
        self._positions = before | reached_by(ready.ranges)
        self._at("committed")

    def _keep(self, session: Session, ahead: Ahead) -> Applied | None:
        """Write what was folded ahead and what was left of it, and return what came of that."""
        keep(session, self._shadow, ahead.found, self._beside)
        return None if ahead.left is None else apply(session, self._shadow, ahead.left, self._beside)

    def _look(self) -> None:
        """Refuse a topic that is not what it was, or has lost what comes next."""
        topic = describe(quick(self._connection), self._topic.name)
        self._looked_at = time.monotonic()
        if topic is None:
            raise RefusedError(
                "the topic is gone", where=f"topic {self._topic.name!r}", next_step="follow the store, or another topic"
            )
        self._check(topic)
        self._held_back = _held_back(self._topic, topic)
        self._topic = topic

    def _check(self, topic: Topic) -> None:
        refuse_other_topic(self._shadow, topic.name, topic.topic_id)
        with self._store.snapshot() as session:
            positions = shadows.positions(session, self._shadow)
        # It was described before they were read: other instances may be past its ends by now, and it has more then.
        mine = {at: min(position, self._positions.get(at, 0)) for at, position in positions.items()}
        refuse_lost(topic, self._shadow.name, mine)

    def _level(self) -> dict[int, int]:
        """Take over the positions as they are stored, and return them, new partitions with them."""
        with self._store.snapshot() as session:
            self._positions = self._stored(session)
        if not self._topic.partitions.keys() <= self._positions.keys():
            with self._store.writing() as session:
                shadows.lock(session, self._shadow)
                shadows.add_partitions(session, self._shadow, self._topic.partitions)
                self._positions = self._stored(session)
        return self._positions

    def _stored(self, session: Session) -> dict[int, int]:
        positions = shadows.positions(session, self._shadow)
        if not positions:
            raise PositionMoved(
                f"another process dropped the shadow {self._shadow.name!r}, or began it anew",
                next_step="run again; nothing of this run was written",
            )
        return positions

    def _found_again(self) -> Shadow:
        with self._store.snapshot() as session:
            found = shadows.find(session, self._shadow.name)
        if found is None:
            raise RefusedError(
                f"the shadow {self._shadow.name!r} was dropped while it was followed", next_step="start it again"
            )
        return refuse_other_topic(found, self._topic.name, self._topic.topic_id)

    def _step(self, batch: Taken | None = None) -> Step:
        events, newest = 0, None
        if batch is not None:
            events, newest = batch.events.height, _newest(batch)
        # Another instance may be past the ends that this one has seen.
        known = {partition: bounds.stable for partition, bounds in self._topic.partitions.items()}
        heads = known | self._batches.heads
        lag = sum(max(head - self._positions.get(at, 0), 0) for at, head in heads.items())
        # What is behind an open transaction nobody can read yet, so it is no lag, however long that stays open.
        held_back = sum(high - stable for at, (stable, high) in self._held_back.items() if heads.get(at) == stable)
        return Step(events, dict(self._positions), heads, lag, newest, held_back)


def _held_back(before: Topic, now: Topic) -> dict[int, tuple[int, int]]:
    """Return where what is committed ends and where all ends, of partitions that an open transaction holds there.

    Transactions end and others begin where producers are at work: one that was there at the look before was left open.
    """
    return {
        at: (bounds.stable, bounds.high)
        for at, bounds in now.partitions.items()
        if (known := before.partitions.get(at)) and known.stable == bounds.stable < known.high
    }


def _newest(batch: Taken) -> datetime | None:
    """Return when the newest of the partitions' last events was recorded: partitions are written in order."""
    last = batch.events.group_by("partition").agg(pl.col("state").sort_by("position").last())["state"]
    moments = [event.recorded_at for event in map(decode, last) if not isinstance(event, PoisonEvent)]
    return max(moments, default=None)
