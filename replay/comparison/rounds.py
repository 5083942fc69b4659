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

from sqlalchemy import Connection

from ledger import comparisons
from ledger.comparisons import Comparison
from ledger.store import Store
from replay.comparison.chunk import Chunk, Pair, Settled, Uncompared
from schemas.errors import PositionMoved

__all__ = ["Note", "NoteSettled", "RoundResult", "Rounds"]

#: Notes what a chunk behind a key came to, or a look at suspects, in the transaction that vouches for it.
Note = Callable[[Connection, Chunk, str | None], None]
NoteSettled = Callable[[Connection, Settled], None]

ROWS_MIN, ROWS_FIRST, ROWS_MAX = 500, 5_000, 100_000

#: How many times as large as the last chunk the next one may be, and how many times as small.
GROWTH_MAX = 4.0

#: A process that is gone holds the others up for so long.
LEASE = timedelta(seconds=30)


@dataclass
class RoundResult:
    """What a whole round came to; `suspected` accounts may still settle, which changes it.

    `compared` counts accounts of either side less the uncompared; `drifted` are accounts that differ for certain;
    `rejected` counts live rows that could not be read.
    """

    number: int
    compared: int = 0
    drifted: list[str] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)
    uncompared: list[Uncompared] = field(default_factory=list)
    rejected: int = 0

    @property
    def verdict(self) -> str:
        """INCOMPARABLE where something was not compared, else DRIFT where something differs, else EQUAL."""
        if self.uncompared or self.suspected or self.rejected:
            return "INCOMPARABLE"
        return "DRIFT" if self.drifted else "EQUAL"

    def saw(self, chunk: Chunk) -> None:
        """Take in a chunk."""
        self.compared += chunk.compared
        self.drifted += _new(self.drifted, [each.account_id for each in chunk.drifted])
        self.suspected += _new(self.suspected, chunk.suspected)
        self.uncompared += chunk.uncompared
        self.rejected += chunk.rejected

    def saw_again(self, chunk: Chunk, after: str | None) -> None:
        """Take in what a chunk of a later round, behind the key `after`, says of accounts that are suspected still."""
        still = set(chunk.suspected)
        over = [name for name in self.suspected if _is_within(name, after, chunk.until) and name not in still]
        self.settled(Settled(chunk.drifted, over, chunk.uncompared))

    def settled(self, found: Settled) -> None:
        """Take in what became of suspected accounts."""
        of_mine = set(self.suspected)
        drifted = {each.account_id for each in found.drifted} & of_mine
        given_up = [each for each in found.uncompared if each.account_id in of_mine]
        over = drifted | set(found.same) | {each.account_id for each in given_up}
        self.suspected = [name for name in self.suspected if name not in over]
        self.drifted += _new(self.drifted, sorted(drifted))
        self.uncompared += given_up
        self.compared -= len(given_up)


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

    @property
    def suspected(self) -> int:
        """How many accounts of its rounds this process suspects, and has neither settled nor given up."""
        return len({name for found in (self._round, self._result) if found is not None for name in found.suspected})

    def due(self) -> bool:
        """Say whether a chunk may be compared now without comparing for more than `load_max` of the time."""
        return self._monotonic() >= self._due_at

    def step(self, note: Note | None = None) -> Chunk | None:
        """Compare the next chunk and note it; None where nothing was noted.

        That is so while another process compares, and once after it did: `after` then says where this one goes on.
        `note` is called in the transaction that moves the cursor, so that no chunk passes whose findings are not
        written, and nobody writes findings of a chunk that is another's by now.
        """
        held = self._taken()
        if held is None:
            return None
        began = self._monotonic()
        if not self._has_begun:
            self._pair.begin(held.after_key)
            self._has_begun = True
        chunk = self._pair.chunk(self._rows)
        # A chunk that is void because it took too long must be smaller the next time.
        self._adapt(self._monotonic() - began)
        # A chunk that is not noted is compared again, by this process or by whoever has the lease now.
        self._has_begun = False
        try:
            with self._store.writing() as connection:
                moved = comparisons.compared(connection, held, chunk.until, now=self._now(), lease=self._lease)
                if note is not None:
                    note(connection, chunk, held.after_key)
        except PositionMoved:
            self.close()
            return None
        self._has_begun = True
        self._held, self._cursor = moved, (moved.round, moved.after_key)
        self._saw(chunk, held)
        return chunk

    def settle(self, note: NoteSettled | None = None) -> Settled | None:
        """Look at the suspected accounts once more; None where another process compares, who looks at them itself.

        `note` is called in a transaction that makes sure of the lease, where there is something to note.
        """
        held = self._taken()
        if held is None:
            return None
        found = self._pair.settle()
        if not any(found):
            return found
        try:
            with self._store.writing() as connection:
                renewed = comparisons.renewed(connection, held, now=self._now(), lease=self._lease)
                if note is not None:
                    note(connection, found)
        except PositionMoved:
            self.close()
            return None
        self._held = renewed
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
        self._held = None
        self._has_begun = False
        self._pair.close()

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
        held = None if self._is_elsewhere(now) else self._take(now)
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

    def _is_elsewhere(self, now: datetime) -> bool:
        """Whether another process has the lease: who only waits for it need not write to find that out."""
        with self._store.snapshot() as connection:
            found = comparisons.find(connection, self.name)
        if found is None or found.holder in {None, self._holder}:
            return False
        return now <= datetime.fromisoformat(str(found.held_until))

    def _take(self, now: datetime) -> Comparison | None:
        with self._store.writing() as connection:
            return comparisons.take(connection, self.name, self._holder, now=now, lease=self._lease)

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
        if self._result is not None:
            self._result.saw_again(chunk, before.after_key)
        if chunk.until is None:
            self._result, self._round = self._round, None
            self._has_begun = False


def _is_within(name: str, after: str | None, until: str | None) -> bool:
    return (after is None or name > after) and (until is None or name <= until)


def _new(known: list[str], names: list[str]) -> list[str]:
    seen = set(known)
    return [name for name in dict.fromkeys(names) if name not in seen]
