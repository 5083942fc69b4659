"""Our own live read model against a shadow in the same database, chunk by chunk, at exactly the position of live.

One snapshot has the live rows, their position, the shadow's rows, the heads and the events, so writers and projectors
may go on meanwhile. The database finds the accounts that are not plainly equal: rows that differ, rows that are not
where the account's head says. Most of these have only moved between two positions, which the log says; the rest are
replayed alone up to the position of live, and that third opinion decides. So no account drifts because one side
is behind, and rows that are wrong in the same way on both sides are still held against heads and log.

What it cannot see are changes of the very same values of a row of both sides that keep version and chain, and
damage in the middle of the log of accounts that nothing happens to: both need a replay from zero (`drift`, `verify`).

Where another generation goes live during a round, the next chunk goes on with that one; `generations` names all that
the round has compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TypeVar

from sqlalchemy import Connection

from ledger import read_model, shadows
from ledger.read_model import Generation
from ledger.shadows import Shadow
from ledger.store import Store
from replay.comparison.chunk import Chunk, Settled
from replay.comparison.own_judged import Judge, Verdicts
from replay.comparison.own_moved import unmoved
from replay.comparison.own_rows import Keys, OwnRows, Row
from schemas.errors import UsageError

__all__ = ["OwnPair"]

#: Every so many rounds the end of each account is looked up in the log, beginning with the first: a log that lost
#: ends under rows that had them already is damaged, but live has not drifted, and the lookup costs as much again.
ENDS_ROUNDS = 4

#: Accounts that are judged at once.
ACCOUNTS_PER_JUDGEMENT = 2_000

#: Events that live may be behind the head for the accounts of these to be listed in each chunk.
LISTED_EVENTS_MAX = 20_000


class OwnPair:
    """Our own live read model and a shadow beside it, by the shadow's name; see the module.

    `chunk` raises UsageError where there is no live read model or no shadow.
    """

    name = "read_model"

    def __init__(self, store: Store, shadow_name: str = "shadow") -> None:
        self._store = store
        self._shadow_name = shadow_name
        self._after: str | None = None
        self._rounds = count()
        self._has_ends = True
        self.generations: list[int] = []

    def begin(self, after: str | None) -> None:
        """Begin a round, or go on with one behind a key."""
        self._after = after
        self._has_ends = next(self._rounds) % ENDS_ROUNDS == 0
        self.generations = []

    def chunk(self, rows: int) -> Chunk:
        """Compare the next accounts, at most so many of each side, in one snapshot."""
        with self._store.snapshot() as connection:
            live, shadow = self._sides(connection)
            if live.generation not in self.generations:
                self.generations.append(live.generation)
            own = OwnRows(connection, live.generation, shadow.number)
            keys, counts = own.keys(self._after, rows)
            parked = own.parked(keys)
            compared, suspects = self._suspects(connection, own, live, (keys, counts), sorted({*parked[0], *parked[1]}))
            judge = Judge(self._store, connection, live, shadow, parked)
            found = Verdicts([], [])
            for some in _slices(suspects):
                found.add(judge.judged(some))
        self._after = keys.until
        return Chunk(keys.until, compared, found.drifted, [], found.uncompared, live.position)

    def settle(self) -> Settled:
        """Return nothing: everything is compared at one position."""
        return Settled([], [], [])

    def close(self) -> None:
        """Do nothing: no snapshot is kept from one chunk to the next."""

    def _sides(self, connection: Connection) -> tuple[Generation, Shadow]:
        live = read_model.live(connection)
        if live is None:
            raise UsageError("there is no live read model to compare", next_step="`project` first")
        shadow = shadows.find(connection, self._shadow_name)
        if shadow is None:
            raise UsageError(f"there is no shadow {self._shadow_name!r}", next_step="`watch` makes one")
        return live, shadow

    def _suspects(
        self,
        connection: Connection,
        own: OwnRows,
        live: Generation,
        within: tuple[Keys, list[int]],
        parked: list[str],
    ) -> tuple[int, list[Row]]:
        """Return how many accounts a range has, and those of them that are to be replayed alone."""
        head = self._store.head(connection)
        # Few later events are listed; of many, each account is asked for its own. A log that ends before the position
        # of live has lost its end, and every account may have lost its own.
        is_far = not live.position <= head <= live.position + LISTED_EVENTS_MAX
        found = own.compared(*within, ends=self._has_ends, until=live.position if is_far else None)
        suspects = {row.account_id: row for row in unmoved(self._store, connection, found.rows, live.position)}
        # Rows that are where the head says, which is after the position of live.
        ahead = [] if is_far or head == live.position else own.appended(within[0], live.position)
        seen = {row.account_id for row in found.rows}
        wanted = sorted({*(name for name in ahead if name not in seen), *parked} - suspects.keys())
        for some in _slices(wanted):
            suspects |= {row.account_id: row for row in own.of_accounts(some)}
        return found.accounts, [suspects[name] for name in sorted(suspects)]


_T = TypeVar("_T")


def _slices(items: list[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(items), ACCOUNTS_PER_JUDGEMENT):
        yield items[start : start + ACCOUNTS_PER_JUDGEMENT]
