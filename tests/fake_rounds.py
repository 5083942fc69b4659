"""Rounds on fakes: a clock that stands still, and a pair whose chunks take a given time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger import Store
from replay.comparison.chunk import Chunk, Settled
from replay.comparison.rounds import Rounds
from replay.differences import Drifted

__all__ = ["BEGAN", "LEASE", "Clock", "FakePair", "differs", "rounds_of", "run_round"]

BEGAN = datetime(2024, 3, 10, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """The time of day."""
        return BEGAN + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds


class FakePair:
    """Keys by number, a chunk of some of them each, which takes a given time a row."""

    name = "fake"

    def __init__(self, clock: Clock, *, keys: int = 20_000, row_seconds: float = 1e-5) -> None:
        self.clock, self.keys, self.row_seconds = clock, keys, row_seconds
        self.after = 0
        self.asked: list[int] = []
        self.begun: list[str | None] = []
        self.closed = 0
        self.drifted: dict[int, Drifted] = {}
        self.suspected: list[str] = []
        self.settled = Settled([], [], [])
        self.during: Callable[[], object] = lambda: None
        self.rejected = 0
        self.settles = 0

    def begin(self, after: str | None) -> None:
        self.begun.append(after)
        self.after = 0 if after is None else int(after)

    def chunk(self, rows: int) -> Chunk:
        self.asked.append(rows)
        self.clock.seconds += rows * self.row_seconds
        self.during()
        until = self.after + rows
        compared = min(until, self.keys) - self.after
        drifted = [each for key, each in self.drifted.items() if self.after < key <= until]
        suspected, self.suspected = self.suspected, []
        self.after = until
        return Chunk(None if until >= self.keys else f"{until:06d}", compared, drifted, suspected, [], 1, self.rejected)

    def settle(self) -> Settled:
        self.settles += 1
        return self.settled

    def close(self) -> None:
        self.closed += 1


def differs(account_id: str) -> Drifted:
    """A difference of an account."""
    return Drifted(
        account_id=account_id,
        field="balance",
        live=1,
        replayed=2,
        difference=-1,
        cause="foreign_write",
        first_event=None,
        evidence="",
    )


def rounds_of(store: Store, pair: FakePair, **options: Any) -> Rounds:
    """Rounds on fake clocks."""
    return Rounds(store, pair, now=pair.clock.now, monotonic=pair.clock.monotonic, lease=LEASE, **options)


def run_round(rounds: Rounds) -> list[Chunk | None]:
    """Compare to the end of a round."""
    chunks = [rounds.step()]
    while chunks[-1] is not None and chunks[-1].until is not None:
        chunks.append(rounds.step())
    assert None not in chunks
    return chunks
