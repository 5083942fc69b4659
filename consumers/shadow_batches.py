"""The batches of a shadow of the store: read and folded, the next one in a thread while the last one is written.

What is folded ahead stands on rows as they are after the batch that is being written: those of accounts that were
touched lately are remembered, others are the same before and after it. That batch moves the position by
compare-and-set: where it fails, what was folded on it can never be written either, and what is remembered is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from sqlalchemy import Connection

from ledger import shadows
from ledger.shadows import Shadow
from ledger.store import Store
from replay.rows import Folded
from replay.source import Batch
from replay.store_rows import Memory, fold_batch
from replay.store_source import StoreSource
from schemas.errors import RefusedError

__all__ = ["STORE", "StoreBatches", "Taken"]

#: The only partition that a store has.
STORE = 0


class Taken(NamedTuple):
    """A batch as it was read and folded: it holds for a shadow whose position is `after`."""

    after: int
    head: int
    batch: Batch
    folded: Folded


class StoreBatches:
    """Gives the batches of the store that come next for a shadow; one at most is ahead of the one that was asked for.

    A batch has `batch_events`, or `catch_up_events` while the shadow is that far behind. `at` is called with `read`
    and `fold` after each.
    """

    def __init__(self, store: Store, batch_events: int, catch_up_events: int, at: Callable[[str], None]) -> None:
        self._store = store
        self._batch_events = batch_events
        self._catch_up_events = catch_up_events
        self._at = at
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow-ahead")
        self.ahead: Future[Taken | None] | None = None
        self._memory: Memory | None = None

    def take(self, shadow: Shadow) -> Taken | None:
        """Return the batch that comes next, None where there is none yet; PositionMoved if the shadow is not there."""
        ahead, self.ahead = self.ahead, None
        return self._made(shadow, None) if ahead is None else ahead.result()

    def begin_next(self, shadow: Shadow, taken: Taken) -> None:
        """Begin with the batch after one that is about to be written, if it is known that there is more."""
        if taken.head > taken.batch.position:
            self.ahead = self._worker.submit(self._made, shadow, taken)

    def forget(self) -> None:
        """Forget what was made ahead, once it is made, and what is known of rows."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            # What went wrong there, if anything, concerns nobody any more: it is asked again.
            ahead.exception()
        self._memory = None

    def close(self) -> None:
        """End the thread."""
        self.forget()
        self._worker.shutdown()

    def where(self, connection: Connection, shadow: Shadow) -> tuple[int, int]:
        """Return the shadow's position and the store's head, both of one moment.

        PositionMoved if the shadow is gone; RefusedError where the store lost events that the shadow has.
        """
        positions = shadows.positions(connection, shadow)
        if not positions:
            raise shadows.gone(shadow)
        position, head = positions[STORE], self._store.head(connection)
        if head < position:
            raise RefusedError(
                f"the shadow {shadow.name!r} is at position {position:,} of the store, whose head is {head:,}: "
                "the store has lost events, or was put back from a backup",
                next_step="bring the events back first (`import events`), or restart the shadow",
            )
        return position, head

    def _made(self, shadow: Shadow, before: Taken | None) -> Taken | None:
        """Read and fold the batch after `before`, which is written meanwhile, or after the shadow's position."""
        with self._store.snapshot() as connection:
            position, head = self.where(connection, shadow)
            if before is not None:
                # Wherever the shadow is by now: if not there, the position cannot be moved from there either.
                position = before.batch.position
            is_far = head - position > self._catch_up_events
            events = self._catch_up_events if is_far else self._batch_events
            source = StoreSource(self._store, connection, batch_events=events)
            batch = _read(source, position, head, events)
            if batch is None:
                return None
            self._at("read")
            memory, self._memory = self._memory, None
            if memory is None or memory.position != position:
                memory = Memory.at(position, connection, shadow.number)
            folded = fold_batch(source, connection, shadow.number, batch, memory=memory)
            self._memory = memory.after(batch.position, folded)
            self._at("fold")
            return Taken(position, head, batch, folded)


def _read(source: StoreSource, after: int, head: int, events: int) -> Batch | None:
    """Return the next events, at most so many, None where there are none."""
    # A range that ends there says more to the database than a limit: without statistics PostgreSQL would sort all that
    # follows for each batch. Positions have gaps, so where the range is empty only the limit is left.
    for until in sorted({min(after + events, head), head}):
        batch = next(source.read(after=after, until=until, details=()), None)
        if batch is not None:
            return batch
    return None
