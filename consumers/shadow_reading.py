"""Reading and folding a batch of the store for a shadow: the part that needs no write, in whatever process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from ledger import shadows
from ledger.shadows import Shadow
from ledger.store import Store
from replay.rows import Beside, Folded
from replay.source import Batch
from replay.store_rows import Memory, fold_batch
from replay.store_source import StoreSource, decoded
from schemas import decode
from schemas.errors import RefusedError

__all__ = ["STORE", "Reading", "Taken", "where"]

#: The only partition that a store has.
STORE = 0


class Taken(NamedTuple):
    """A batch as it was read and folded: it holds for a shadow whose position is `after`, and moves it to `position`.

    `head` of the store as it was read, `events` that it has, and when the newest of them was recorded, None where
    there is none that can be read.
    """

    after: int
    head: int
    position: int
    events: int
    recorded_at: datetime | None
    folded: Folded


class Reading:
    """Reads and folds batches of the store; what is known of rows after the last one is remembered for the next.

    A batch has `batch_events`, or `catch_up_events` while the shadow is that far behind. `at` is called with `read`
    and `fold` after each. `beside` is what is kept beside the rows.
    """

    def __init__(
        self,
        store: Store,
        batch_events: int,
        catch_up_events: int,
        at: Callable[[str], None],
        beside: Beside | None = None,
    ) -> None:
        self._store = store
        self._beside = beside
        self._batch_events = batch_events
        self._catch_up_events = catch_up_events
        self._at = at
        self._memory: Memory | None = None

    def made(self, shadow: Shadow, before: Taken | None) -> Taken | None:
        """Return the batch after `before`, which is written meanwhile, or after the shadow's position; None if none.

        PositionMoved if the shadow is gone; RefusedError where the store lost events that the shadow has.
        """
        details = () if self._beside is None else self._beside.details
        with self._store.snapshot() as connection:
            position, head = where(self._store, connection, shadow)
            if before is not None:
                # Wherever the shadow is by now: if not there, the position cannot be moved from there either.
                position = before.position
            raw = self._read(connection, position, head)
            if raw is None:
                return None
            self._at("read")
            memory = self._memory_at(position, connection, shadow, before)
            rows = memory.of(raw["account_id"].unique(), connection, shadow.number)
        # SQLite cannot begin its log anew while a snapshot is held, and it would grow with every batch. The next one
        # begins at what it is asked, which is nothing unless an account is parked or an event is there twice.
        batch = decoded(raw, details)
        with self._store.snapshot() as connection:
            source = StoreSource(self._store, connection)
            folded = fold_batch(source, connection, shadow.number, batch, memory=memory, rows=rows, beside=self._beside)
        self._memory = memory.after(batch.position, folded)
        self._at("fold")
        return Taken(position, head, batch.position, batch.events.height, _newest(batch), folded)

    def forget(self) -> None:
        """Forget what is known of rows."""
        self._memory = None

    def _read(self, connection: Connection, after: int, head: int) -> pl.DataFrame | None:
        """Return the next events as they are stored, at most those of a batch, None where there are none."""
        events = self._catch_up_events if head - after > self._catch_up_events else self._batch_events
        # A range that ends there says more to the database than a limit: without statistics PostgreSQL would sort all
        # that follows for each batch. Positions have gaps, so where the range is empty only the limit is left.
        for until in sorted({min(after + events, head), head}):
            raw = next(self._store.read(connection, after=after, until=until, batch_events=events), None)
            if raw is not None:
                return raw
        return None

    def _memory_at(self, position: int, connection: Connection, shadow: Shadow, before: Taken | None) -> Memory:
        memory, self._memory = self._memory, None
        if memory is not None and memory.position == position:
            return memory
        memory = Memory.at(position, connection, shadow.number)
        # Who begins here does not know yet what somebody else folded, which may be written or not.
        return memory if before is None else memory.after(position, before.folded)


def where(store: Store, connection: Connection, shadow: Shadow) -> tuple[int, int]:
    """Return the shadow's position and the store's head, both of one moment.

    PositionMoved if the shadow is gone; RefusedError where the store lost events that the shadow has.
    """
    positions = shadows.positions(connection, shadow)
    if not positions:
        raise shadows.gone(shadow)
    position, head = positions[STORE], store.head(connection)
    if head < position:
        raise RefusedError(
            f"the shadow {shadow.name!r} is at position {position:,} of the store, whose head is {head:,}: "
            "the store has lost events, or was put back from a backup",
            next_step="bring the events back first (`import events`), or restart the shadow",
        )
    return position, head


def _newest(batch: Batch) -> datetime | None:
    if batch.events.is_empty():
        return None
    return getattr(decode(batch.events["state"][-1]), "recorded_at", None)
