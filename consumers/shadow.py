"""The shadow: replays what comes into rows of its own, for ever, beside what is live.

One batch is one transaction: rows and position together, the position by compare-and-set. Of two instances one applies
a batch and the other finds the position moved, forgets what it read, and goes on from where the shadow is now.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from consumers.shadow_batches import StoreBatches
from consumers.shadow_reading import STORE, Taken, where
from consumers.shadow_start import Start, begin, refuse_other, refuse_unlike
from ledger import shadows
from ledger.shadows import Shadow
from ledger.store import BATCH_EVENTS, Store
from replay.certificate import Position
from replay.rows import Beside, write
from schemas import format_time
from schemas.errors import PositionMoved, RefusedError

__all__ = ["Following", "Start", "Step", "StoreShadow"]

#: Events of a batch once the shadow is near the head: small, so that what is new is seen soon.
LIVE_EVENTS = 5_000


class Step(NamedTuple):
    """What one step did, and where the shadow is after it.

    `events` that were applied, 0 where there were none or another instance was faster; `position` of the shadow and
    `head` of its source as it was looked at, which is how far it can be read; `lag_events` is at most how many events
    are between the two as it was looked at, which may be two batches ago; `recorded_at` when the newest of the applied
    events was recorded, None where none was applied.
    `held_back_events` are at most how many a topic has behind its head that a transaction left open there holds back.
    """

    events: int
    position: Position
    head: Position
    lag_events: int
    recorded_at: datetime | None
    held_back_events: int = 0


class Following(Protocol):
    """A shadow that follows its source, a step at a time."""

    @property
    def shadow(self) -> Shadow:
        """The shadow as it is registered now: another instance may have begun it anew."""

    def step(self) -> Step:
        """Apply at most one batch in one transaction, without waiting for events that are not there yet.

        RefusedError where the shadow cannot go on: its source lost what it had applied, or somebody dropped it.
        """

    def close(self) -> None:
        """Let go of connections and threads; the shadow stays where it is."""


class StoreShadow:
    """A shadow that follows the store; a new one begins as `start` says, one that exists goes on where it is.

    `restart` drops it first. A batch has `batch_events`, or `catch_up_events` while the shadow is that far behind; no
    more than two are read ahead. `beside` is what is kept beside the rows, in the transactions that write them. `at` is
    called with the name of each place that a step passes: `read` and `fold`, maybe in another thread, then `write` and
    `commit` before the commit, and `committed`. RefusedError and UsageError as of `consumers.shadow_start`.
    """

    def __init__(
        self,
        store: Store,
        name: str = "shadow",
        *,
        start: Start = Start(),
        restart: bool = False,
        beside: Beside | None = None,
        batch_events: int = LIVE_EVENTS,
        catch_up_events: int = BATCH_EVENTS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        refuse_unlike(name, start, beside)
        self._store = store
        self._beside = beside
        self._at = at
        self._batches = StoreBatches(store, batch_events, catch_up_events, at, beside)
        try:
            self._shadow = begin(store, name, start, restart=restart, created_at=format_time(now()))
            self._look()
        except BaseException:
            self.close()
            raise

    @property
    def shadow(self) -> Shadow:
        """The shadow as it is registered now."""
        return self._shadow

    def step(self) -> Step:
        """Apply at most one batch; where another instance was faster, nothing is applied and the step says so."""
        try:
            taken = self._batches.take(self._shadow)
            if taken is None:
                return self._look()
            self._batches.begin_next(self._shadow, taken)
            self._write(taken)
        except PositionMoved:
            self._batches.forget()
            self._shadow = self._found_again()
            return self._look()
        except BaseException:
            self._batches.forget()
            raise
        return _step(taken.position, taken.head, taken)

    def close(self) -> None:
        """Let go of connections and threads; the shadow stays where it is."""
        self._batches.close()

    def _write(self, taken: Taken) -> None:
        with self._store.writing() as connection:
            shadows.lock(connection, self._shadow)
            shadows.advance(connection, self._shadow, STORE, after=taken.after, until=taken.position)
            write(connection, self._shadow.number, taken.folded, self._beside)
            self._at("write")
            self._at("commit")
        self._at("committed")

    def _look(self) -> Step:
        with self._store.snapshot() as connection:
            position, head = where(self._store, connection, self._shadow)
        return _step(position, head, None)

    def _found_again(self) -> Shadow:
        with self._store.snapshot() as connection:
            found = shadows.find(connection, self._shadow.name)
        if found is None:
            raise RefusedError(
                f"the shadow {self._shadow.name!r} was dropped while it was followed", next_step="start it again"
            )
        return refuse_other(self._store, found)


def _step(position: int, head: int, taken: Taken | None) -> Step:
    lag = max(head - position, 0)
    return (
        Step(0, position, head, lag, None)
        if taken is None
        else Step(taken.events, position, head, lag, taken.recorded_at)
    )
