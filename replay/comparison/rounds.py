"""Rounds without end: chunk by chunk, sized by the clock, throttled, and gone on with by whoever comes next.

The cursor and the lease are in the database, so a comparison outlives its process, and of several processes one
compares while the others wait for its lease to pass.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ledger import comparisons
from ledger.comparisons import Comparison
from ledger.store import Store
from replay.comparison.chunk import Chunk, Pair, Settled, Uncompared
from schemas.errors import PositionMoved

__all__ = ["RoundResult", "Rounds"]

ROWS_MIN, ROWS_FIRST, ROWS_MAX = 500, 5_000, 100_000

#: How many times as large as the last chunk the next one may be, and how many times as small.
GROWTH_MAX = 4.0

#: A process that is gone holds the others up for so long.
LEASE = timedelta(seconds=30)


@dataclass
class RoundResult:
    """What a whole round came to; `suspected` accounts may still settle, which changes it.

    `compared` counts accounts on either side; `drifted` are accounts that differ for certain.
    """

    number: int
    compared: int = 0
    drifted: list[str] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)
    uncompared: list[Uncompared] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """INCOMPARABLE where something was not compared, else DRIFT where something differs, else EQUAL."""
        if self.uncompared or self.suspected:
            return "INCOMPARABLE"
        return "DRIFT" if self.drifted else "EQUAL"

    def saw(self, chunk: Chunk) -> None:
        """Take in a chunk."""
        self.compared += chunk.compared
        self.drifted += _new(self.drifted, [each.account_id for each in chunk.drifted])
        self.suspected += _new(self.suspected, chunk.suspected)
        self.uncompared += chunk.uncompared

    def settled(self, found: Settled) -> None:
        """Take in what became of suspected accounts."""
        of_mine = set(self.suspected)
        drifted = {each.account_id for each in found.drifted} & of_mine
        given_up = [each for each in found.uncompared if each.account_id in of_mine]
        over = drifted | set(found.same) | {each.account_id for each in given_up}
        self.suspected = [name for name in self.suspected if name not in over]
        self.drifted += _new(self.drifted, sorted(drifted))
        self.uncompared += given_up


class Rounds:
    """A pair compared for ever: `step` while it is `due`.

    `chunk_seconds` is about how long one chunk takes, `load_max` the share of time that may be spent comparing. The
    clocks are `now` for what other processes see, in UTC, and `monotonic` for how long something took.
    """

    def __init__(
        self,
        store: Store,
        pair: Pair,
        *,
        name: str | None = None,
        chunk_seconds: float = 0.25,
        load_max: float = 0.5,
        lease: timedelta = LEASE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name or pair.name
        self._store = store
        self._pair = pair
        self._chunk_seconds = chunk_seconds
        self._load_max = load_max
        self._lease = lease
        self._now = now
        self._monotonic = monotonic
        self._holder = uuid.uuid4().hex
        self._held: Comparison | None = None
        self._has_begun = False
        self._rows = ROWS_FIRST
        self._due_at = monotonic()
        self._cursor: tuple[int, str | None] | None = None
        self._round: RoundResult | None = None
        self._result: RoundResult | None = None

    @property
    def after(self) -> str | None:
        """The key that the chunk of the next step begins behind, None at the beginning of a round."""
        return None if self._cursor is None else self._cursor[1]

    @property
    def result(self) -> RoundResult | None:
        """The last whole round, None where this process has compared none from beginning to end."""
        return self._result

    def due(self) -> bool:
        """Say whether a chunk may be compared now without comparing for more than `load_max` of the time."""
        return self._monotonic() >= self._due_at

    def step(self) -> Chunk | None:
        """Compare the next chunk and note it; None where nothing was noted.

        That is so while another process compares, and once after it did: `after` then says where this one goes on.
        """
        held = self._taken()
        if held is None:
            return None
        began = self._monotonic()
        if not self._has_begun:
            self._pair.begin(held.after_key)
            self._has_begun = True
        chunk = self._pair.chunk(self._rows)
        took = self._monotonic() - began
        try:
            with self._store.writing() as connection:
                now = self._now()
                self._held = comparisons.compared(connection, held, chunk.until, now=now, lease=self._lease)
        except PositionMoved:
            # Whoever has the lease now compares the chunk again.
            self.close()
            return None
        self._adapt(took)
        self._cursor = (self._held.round, self._held.after_key)
        self._saw(chunk, held)
        return chunk

    def settle(self) -> Settled:
        """Look at the suspected accounts once more."""
        found = self._pair.settle()
        for result in (self._round, self._result):
            if result is not None:
                result.settled(found)
        return found

    def oldest_age_seconds(self, now: datetime) -> float | None:
        """Return for how long some account was not compared, None where the comparison never began."""
        with self._store.snapshot() as connection:
            since = comparisons.oldest(connection, self.name)
        return None if since is None else (now - datetime.fromisoformat(since)).total_seconds()

    def close(self) -> None:
        """Let go of the pair's connections; the next step goes on behind the cursor that the database has."""
        self._pair.close()
        self._held = None
        self._has_begun = False

    def release(self) -> None:
        """Close, and give the lease back, so that another process goes on at once."""
        self.close()
        with self._store.writing() as connection:
            comparisons.release(connection, self.name, self._holder)

    def _taken(self) -> Comparison | None:
        """Return the comparison where it is this process's and its cursor is the one that `after` has told."""
        now = self._now()
        # Each chunk renews the lease, so it is taken again only after a pause of half of it.
        if self._held is not None and now + self._lease / 2 < datetime.fromisoformat(str(self._held.held_until)):
            return self._held
        with self._store.writing() as connection:
            held = comparisons.take(connection, self.name, self._holder, now=now, lease=self._lease)
        if held is None:
            self.close()
            return None
        cursor = (held.round, held.after_key)
        is_told = cursor == self._cursor or (self._cursor is None and held.after_key is None)
        if not is_told:
            self.close()
            self._round = None
        self._held, self._cursor = held, cursor
        return held if is_told else None

    def _adapt(self, took: float) -> None:
        """Size the next chunk by how long this one took, and say when it is due."""
        factor = self._chunk_seconds / took if took > 0 else GROWTH_MAX
        factor = min(max(factor, 1 / GROWTH_MAX), GROWTH_MAX)
        self._rows = min(max(round(self._rows * factor), ROWS_MIN), ROWS_MAX)
        self._due_at = self._monotonic() + took * (1 / self._load_max - 1)

    def _saw(self, chunk: Chunk, before: Comparison) -> None:
        """Take a chunk into the result of its round, if this process has compared all of it so far."""
        if before.after_key is None:
            self._round = RoundResult(before.round)
        if self._round is not None:
            self._round.saw(chunk)
        if chunk.until is None:
            self._result, self._round = self._round, None
            self._has_begun = False


def _new(known: list[str], names: list[str]) -> list[str]:
    seen = set(known)
    return [name for name in dict.fromkeys(names) if name not in seen]
