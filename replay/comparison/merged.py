"""A foreign live table against replay: two streams merged in key order, differences settled before they are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import polars as pl

from replay.comparison.by_mark import ByMark
from replay.comparison.chunk import Chunk, Settled, Uncompared
from replay.comparison.foreign import ForeignSnapshot, ForeignTable
from replay.comparison.foreign_rows import without_repeats
from replay.comparison.looks import Look, Looks
from replay.comparison.merge import Cut, Merge, paired
from replay.comparison.rejected import SEE_REJECTS, Rejected
from replay.comparison.replayed import Moment, Replayed
from replay.comparison.settling import Pairing, Settling
from replay.differences import Drifted
from schemas.errors import UsageError

__all__ = ["ForeignPair"]

#: A snapshot is held no longer, since the other database keeps what was changed meanwhile for it.
SNAPSHOT_SECONDS_MAX = 60.0
#: Suspects that are looked at again at once.
SUSPECTS_PER_LOOK = 2_000
#: The pause after a look is at least so many times as long as that took.
PAUSE_PER_LOOK = 4.0

_LIVE = ("balance", "frozen", "status", "locked_at")


@dataclass
class _Round:
    live: ForeignSnapshot
    moment: Moment
    merge: Merge
    parked: dict[str, str]
    opened_at: float


class ForeignPair:
    """The pair of a foreign live table and what replay says; see `replay.comparison.chunk.Pair`.

    `name` says which table it is: a store may be compared with several, each with findings of its own. `rejects` is
    given the rows that cannot be read (`REJECT_SCHEMA`), once a round, in the thread that reads them while the caller
    waits; `rejected` counts those since it was begun or gone on with. `clock` gives seconds. Both databases are read in
    snapshots, live first, so that the log knows at least what live had applied.
    """

    def __init__(
        self,
        foreign: ForeignTable,
        replayed: Replayed,
        *,
        rejects: Callable[[pl.DataFrame], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        live = foreign.live
        self.foreign = foreign
        self.name = f"live {foreign.where}"
        self._rejected = Rejected(rejects)
        #: How many there were when the last chunk was given.
        self._rejected_before = 0
        self.settling = Settling(
            settle_seconds=live.settle_seconds,
            unsettled_seconds=live.unsettled_seconds,
            looks_min=live.looks_min,
            quiet_waives=replayed.is_once,
        )
        self._replayed = replayed
        self._clock = clock
        self._by_mark = None if live.mark is None else ByMark(live.mark)
        self._looks = Looks(self.settling, replayed, partitions=live.partitions, by_mark=self._by_mark)
        self._look_at = 0.0
        self._round: _Round | None = None
        self._after: str | None = None
        #: What was found to differ, and the rows that it was found of: as long as these stay, it needs no new look.
        self._known: dict[str, tuple[Pairing, list[Drifted]]] = {}

    @property
    def rejected(self) -> int:
        """How many rows could not be read since the round was begun or gone on with."""
        return self._rejected.count

    def begin(self, after: str | None) -> None:
        """Begin a round, or go on with one behind a key."""
        self._leave()
        self._after = after
        # All of it anew: what was counted before may be of a chunk that nobody has noted.
        self._rejected.begin()
        self._rejected_before = 0
        self._open()

    def chunk(self, rows: int) -> Chunk:
        """Compare the next accounts, about so many of the side that has more.

        Where the other database does not answer, StoreError, and the next call goes on at the same place.
        """
        at = self._round or self._open()
        try:
            found = self._compared(at, at.merge.cut(rows))
        except BaseException:
            self._leave()
            raise
        # From here on it is waited for, unless somebody waits for this one answer.
        self.foreign.was_read = not self._replayed.is_once
        found = found._replace(rejected=self.rejected - self._rejected_before)
        self._after, self._rejected_before = found.until, self.rejected
        is_old = self._clock() - at.opened_at > SNAPSHOT_SECONDS_MAX
        if found.until is None or is_old or self.foreign.blocks_writers:
            self._leave()
        return found

    def settle(self) -> Settled:
        """Look at some of the suspected accounts once more, if it is time to."""
        now = self._clock()
        settling = self.settling
        if not settling.suspects or now < self._look_at:
            return Settled([], [], [])
        pause = settling.settle_seconds / settling.looks_min
        self._look_at = now + pause
        found = self._looked(list(settling.suspects)[:SUSPECTS_PER_LOOK], now)
        # Where a look takes long, as a pass over a topic does, most of the time must be left for the rest.
        ended = self._clock()
        self._look_at = ended + max(pause, PAUSE_PER_LOOK * (ended - now))
        return found

    def settle_all(self) -> Settled:
        """Look at every suspected account once more, now: for whoever does nothing else meanwhile."""
        total = Settled([], [], [])
        waiting = list(self.settling.suspects)
        for start in range(0, len(waiting), SUSPECTS_PER_LOOK):
            found = self._looked(waiting[start : start + SUSPECTS_PER_LOOK], self._clock())
            total = Settled(total[0] + found[0], total[1] + found[1], total[2] + found[2])
        return total

    def _looked(self, account_ids: list[str], now: float) -> Settled:
        settling = self.settling
        with closing(self.foreign.open()) as live, closing(self._replayed.open()) as moment:
            found = self._looks.look(account_ids, live, moment, now=now)
        for account_id in account_ids:
            # To the end of the row, so that all have their turn.
            if account_id in settling.suspects:
                settling.suspects[account_id] = settling.suspects.pop(account_id)
        for entry in found.drifted:
            self._known.setdefault(entry.account_id, (found.pairings[entry.account_id], []))[1].append(entry)
        return Settled(found.drifted, found.same, found.uncompared)

    def close(self) -> None:
        """Let go of connections and snapshots; what is suspected stays so."""
        self._leave()
        self.foreign.close()

    def _leave(self) -> None:
        # Forgotten first: whatever does not answer now, the next chunk begins with connections of its own.
        left, self._round = self._round, None
        if left is not None:
            try:
                left.live.close()
            finally:
                left.moment.close()

    def _open(self) -> _Round:
        live = self.foreign.open()
        self._rejected.read_anew()
        try:
            moment = self._replayed.open()
        except BaseException:
            live.close()
            raise
        batches = (self._taken(batch.rows, batch.rejects) for batch in live.batches(self._after))
        self._round = _Round(live, moment, Merge(batches, moment.batches(self._after)), moment.parked(), self._clock())
        if self._by_mark is not None and not isinstance(moment.position, int):
            self._leave()
            raise UsageError("[live.mark] needs the store to compare with", next_step="leave it away for a topic")
        return self._round

    def _taken(self, rows: pl.DataFrame, rejects: pl.DataFrame) -> pl.DataFrame:
        self._rejected.add(rejects)
        return rows

    def _compared(self, at: _Round, cut: Cut) -> Chunk:
        live, repeats = without_repeats(cut.live)
        self._taken(live, repeats)
        both = paired(live, cut.replayed)
        parked = {
            account_id: reason for account_id, reason in at.parked.items() if self._is_here(account_id, cut.until)
        }
        uncompared = [Uncompared(account_id=account_id, reason=reason) for account_id, reason in parked.items()]
        unread = both.filter("is_unread")["account_id"].to_list()
        uncompared += [Uncompared(account_id=each, reason=UNREAD) for each in unread if each not in parked]
        out = {each.account_id for each in uncompared}
        candidates = both.filter(self._is_candidate(at))
        if out:
            candidates = candidates.filter(~pl.col("account_id").is_in(out))
        drifted, suspected = self._judged(at, candidates, cut.until)
        self._clear_settled(suspected, cut.until)
        left_out = both.filter(pl.col("account_id").is_in(out)).height if out else 0
        return Chunk(cut.until, both.height - left_out, drifted, suspected, uncompared, at.moment.position)

    def _is_candidate(self, at: _Round) -> pl.Expr:
        if self._by_mark is None:
            return pl.col("is_other")
        return pl.col("is_other") | self._by_mark.may_be_elsewhere(at.live, at.moment)

    def _judged(self, at: _Round, candidates: pl.DataFrame, until: str | None) -> tuple[list[Drifted], list[str]]:
        """Return what is known to differ, and what is suspected from now on."""
        drifted: list[Drifted] = []
        if self._by_mark is not None and candidates.height:
            judged = self._by_mark.judged(candidates, at.live, at.moment)
            drifted += judged.drifted
            # What the log cannot vouch for the next look says.
            candidates = candidates.filter(pl.col("account_id").is_in([*judged.rest, *judged.damaged]))
        seen = Look.pairings_of(candidates)
        self._forget_known(set(seen), until)
        suspected = []
        for account_id, pairing in seen.items():
            known = self._known.get(account_id)
            if known is not None and known[0] == pairing:
                drifted += known[1]
            else:
                self._known.pop(account_id, None)
                suspected.append(account_id)
        self.settling.suspect(suspected, now=self._clock())
        return drifted, suspected

    def _clear_settled(self, suspected: list[str], until: str | None) -> None:
        """Forget suspects that are none any more: once they are so again, their time begins anew."""
        still = set(suspected)
        self.settling.clear(
            [each for each in self.settling.suspects if each not in still and self._is_here(each, until)]
        )

    def _forget_known(self, still: set[str], until: str | None) -> None:
        for account_id in [*self._known]:
            if self._is_here(account_id, until) and account_id not in still:
                del self._known[account_id]

    def _is_here(self, account_id: str, until: str | None) -> bool:
        """Whether an account is of the chunk that ends with a key."""
        return (self._after is None or account_id > self._after) and (until is None or account_id <= until)


UNREAD = f"its live row cannot be read, or it has several: {SEE_REJECTS}"
