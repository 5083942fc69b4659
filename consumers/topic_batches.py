"""The batches of a shadow of a topic: read and decoded, the next one in a thread while the last one is written.

A consumer group gives its partitions to several instances, each of which may come to any account. An instance that has
all of them folds ahead too, onto rows as they are after the batch that is being written. Where another one wrote
meanwhile after all, the positions are not those that it was folded onto, and it is folded again where it is written.

What waits of parked accounts is in the database, so their records are folded where they are written in any case.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from consumers.topic_group import Group, Range
from ledger import shadows
from ledger.shadows import Shadow
from ledger.store import Store
from replay.rows import Beside, touched
from replay.store_rows import Memory
from replay.topic_rows import Applied, Taken, applied, divided, taken

__all__ = ["Ahead", "Level", "Ready", "TopicBatches", "reached_by"]

#: Returns the stored positions by partition, those of partitions that the topic was just given with them.
Level = Callable[[], dict[int, int]]

#: How old the ends of the partitions may be that are not reached yet: a batch is not kept waiting for newer ones.
HEADS_SECONDS = 0.5


class Ahead(NamedTuple):
    """A batch folded onto rows of a shadow at the positions `onto`, but for what is `left`: records of parked accounts.

    `left` is None where there are none.
    """

    onto: dict[int, int]
    found: Applied
    left: Taken | None


class Ready(NamedTuple):
    """What was read, of each partition a range at most, and decoded; `ahead` where it was folded too.

    `has_more` says that the partitions of this instance had more than that before it was read.
    """

    ranges: list[Range]
    batch: Taken
    ahead: Ahead | None
    has_more: bool


class TopicBatches:
    """Gives what a member of a group, made by `opened`, reads next; one batch at most is ahead of what was asked for.

    Only one thread ever uses the member, and it is not the caller's. `at` is called there with `read` and `fold`.
    `beside` is what is kept beside the rows.
    """

    def __init__(
        self,
        store: Store,
        opened: Callable[[], Group],
        *,
        batch_events: int,
        poll_seconds: float,
        at: Callable[[str], None],
        beside: Beside | None = None,
    ) -> None:
        self._store = store
        self._beside = beside
        self._batch_events = batch_events
        self._poll_seconds = poll_seconds
        self._at = at
        self.ahead: Future[Ready | None] | None = None
        #: The ends of the partitions as they were before the newest batch was read.
        self.heads: dict[int, int] = {}
        # Up to where each partition was handed on.
        self._reached: dict[int, int] = {}
        self._asked_at = -math.inf
        self._is_sought = self._is_closed = False
        self._memory: Memory | None = None
        # The positions of all partitions right after the batch that the memory is of.
        self._onto: dict[int, int] = {}
        # What the last write has shown of the memory, which is in use meanwhile: that it is wrong, and who is free.
        self._is_void = False
        self._freed: set[str] = set()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow-ahead")
        try:
            self.group = self._worker.submit(opened).result()
        except BaseException:
            self._worker.shutdown()
            raise

    def take(self, shadow: Shadow, partitions: Iterable[int], level: Level) -> Ready | None:
        """Return what comes next, None where nothing came in time, or the assignment has changed.

        Reading begins at `level` after `forget` and after each change. BrokerError and PartitionStopped as of `Group`,
        PositionMoved as of `level`.
        """
        ahead, self.ahead = self.ahead, None
        if ahead is None:
            self._correct(None)
            ahead = self._worker.submit(self._made, shadow, sorted(partitions), level)
        return ahead.result()

    def begin_next(self, shadow: Shadow, ready: Ready) -> None:
        """Begin with the batch after one that is about to be written, if it is known that there is more."""
        is_void = self._is_void
        self._correct(ready.ahead)
        # To begin with rows anew, they have to be written.
        if ready.has_more and not is_void:
            self.ahead = self._worker.submit(self._made, shadow, sorted(self.heads), None)

    def written(self, left: Applied | None) -> None:
        """Take note that a batch is written as it was folded ahead, and what came of what was left of it."""
        if left is not None:
            self._freed = set(left.folded.account_ids).difference(left.folded.parked)

    def forget_rows(self) -> None:
        """Take note that a batch was written otherwise than it was folded ahead."""
        self._is_void = True

    def forget(self) -> None:
        """Forget what was made ahead, once it is made, what is known of rows, and where reading is."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            # What went wrong there, if anything, concerns nobody any more: it is asked again.
            ahead.exception()
        self._memory, self._is_sought = None, False
        self._is_void, self._freed = False, set()

    def close(self) -> None:
        """Leave the group, and end the thread; once is enough."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.forget()
            self._worker.submit(self.group.close).result()
        finally:
            self._worker.shutdown()

    def _correct(self, ahead: Ahead | None) -> None:
        """Bring the memory in line with what was written, while nothing is made; `ahead` is not written yet."""
        coming = set() if ahead is None or ahead.left is None else set(touched(ahead.left.events, ahead.left.poison))
        freed, self._freed = self._freed - coming, set()
        if self._is_void:
            self._memory, self._is_void = None, False
        elif freed and self._memory is not None:
            is_free = pl.col("account_id").is_in(sorted(freed))
            self._memory = replace(self._memory, parked=self._memory.parked.filter(~is_free))

    def _made(self, shadow: Shadow, partitions: list[int], level: Level | None) -> Ready | None:
        """Read, decode and maybe fold what comes next; without `level` something is being written meanwhile."""
        group = self.group
        if level is not None or time.monotonic() >= self._asked_at + HEADS_SECONDS or not self._has_more():
            # Before anything is read, so that what is read is not taken for all that there is.
            self.heads = group.heads(partitions)
            self._asked_at = time.monotonic()
        if group.is_moved or not self._is_sought:
            if level is None:
                return None
            self._memory = None
            self._reached = level()
            group.seek(self._reached)
            self._is_sought = True
        ranges = group.read(self._batch_events, self._poll_seconds)
        if not ranges:
            return None
        self._at("read")
        details = () if self._beside is None else self._beside.details
        batch, reached = taken((chunk for _, chunk in ranges), details), reached_by(ranges)
        self._reached = self._reached | reached
        is_alone = group.assigned.issuperset(partitions)
        ahead = self._folded(shadow, batch, reached, may_begin=level is not None) if is_alone else None
        self._at("fold")
        return Ready(ranges, batch, ahead, self._has_more())

    def _has_more(self) -> bool:
        return any(self.heads.get(each, 0) > self._reached.get(each, 0) for each in self.group.assigned)

    def _folded(self, shadow: Shadow, batch: Taken, reached: dict[int, int], *, may_begin: bool) -> Ahead | None:
        """Fold a batch onto what is known of rows, or to begin with, onto those that are stored."""
        memory, self._memory = self._memory, None
        if memory is None and not may_begin:
            return None
        with self._store.snapshot() as session:
            if memory is None:
                self._onto = shadows.positions(session, shadow)
                memory = Memory.at(self._onto, session, shadow.number)
            held = touched(batch.events, batch.poison).to_frame().join(memory.parked, on="account_id", how="semi")
            left = None
            if held.height:
                left, batch = divided(batch, held)
                # Whatever becomes of them is written by then, and not known here.
                memory = replace(
                    memory, rows=memory.rows.join(held, on="account_id", how="anti", maintain_order="left")
                )
            rows = memory.of(touched(batch.events, batch.poison), session, shadow.number)
        found = applied(rows, batch, beside=self._beside)
        onto, self._onto = self._onto, self._onto | reached
        self._memory = memory.after(self._onto, found.folded)
        return Ahead(onto, found, left)


def reached_by(ranges: Iterable[Range]) -> dict[int, int]:
    """Return where each partition is behind its range."""
    return {chunk.partition: chunk.next_offset for _, chunk in ranges}
