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
from itertools import accumulate
from typing import NamedTuple

from sqlalchemy import Connection

from ledger import read_model, shadows
from ledger.read_model import Generation
from ledger.shadows import Shadow
from ledger.store import Store
from replay.comparison.chunk import Chunk, Settled, Uncompared
from replay.comparison.own_judged import Judge, Verdicts
from replay.comparison.own_moved import unmoved
from replay.comparison.own_rows import ACCOUNTS_AT_ONCE, Keys, OwnRows, Row, past_head
from schemas.errors import UsageError

__all__ = ["OwnPair"]

#: Accounts of a chunk that are replayed alone at most, and their events; one account is in any case. Of accounts that
#: are not plainly equal a chunk looks at so many. It ends early behind them, so it is short whatever went wrong.
SUSPECTS_MAX = 2_000
SUSPECT_EVENTS_MAX = 200_000
UNEQUAL_MAX = 20_000

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
        self.generations: list[int] = []

    def begin(self, after: str | None) -> None:
        """Begin a round, or go on with one behind a key."""
        self._after = after
        if after is None:
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
            some = self._suspects(connection, own, live, (keys, counts), {*parked[0], *parked[1]})
            found = Judge(self._store, connection, live, shadow, parked).judged(some.suspects)
            if live.position > (head := self._store.head(connection)):
                accounts = own.account_ids(Keys(self._after, some.until))
                found = _none_certain(found, accounts, past_head(live.position, head))
        self._after = some.until
        return Chunk(some.until, _compared(some, found), found.drifted, [], found.uncompared, live.position)

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
        self, connection: Connection, own: OwnRows, live: Generation, within: tuple[Keys, list[int]], parked: set[str]
    ) -> _Some:
        """Return how many accounts of a range live has, which are to be replayed alone, and where it ends."""
        keys, head = within[0], self._store.head(connection)
        # Few later events are listed; of many, each account is asked for its own. A log that ends before the position
        # of live has lost its end, and every account may have lost its own.
        is_far = not live.position <= head <= live.position + LISTED_EVENTS_MAX
        found = own.compared(*within, until=live.position if is_far else None)
        # Rows that are where the head says, which is after the position of live.
        ahead = [] if is_far or head == live.position else own.appended(keys, live.position)
        unequal = {row.account_id: row for row in found.rows}
        names = sorted({*unequal, *ahead, *parked})
        if len(names) > UNEQUAL_MAX:
            names = names[:UNEQUAL_MAX]
            keys, found = own.cut(keys, found, names[-1])
        suspects = {row.account_id: row for row in unmoved(self._store, connection, found.rows, live.position)}
        wanted = [name for name in names if name in parked or name not in unequal]
        for some in _slices([name for name in wanted if name not in suspects]):
            suspects |= {row.account_id: row for row in own.of_accounts(some)}
        ordered = [suspects[name] for name in sorted(suspects)]
        few = _few(ordered)
        if len(few) < len(ordered):
            keys, found = own.cut(keys, found, few[-1].account_id)
        return _Some(keys.until, found.accounts, few)


class _Some(NamedTuple):
    """The accounts until a key, how many of them live has, and those of them that are to be replayed alone."""

    until: str | None
    live: int
    suspects: list[Row]


def _none_certain(found: Verdicts, accounts: list[str], why_not: str) -> Verdicts:
    """Return what was found, with all accounts uncompared; those of which the log itself says why keep that."""
    reasons = dict.fromkeys(accounts, why_not) | {each.account_id: each.reason for each in found.uncompared}
    uncompared = [Uncompared(account_id=name, reason=reasons[name]) for name in sorted(reasons)]
    return Verdicts(found.drifted, uncompared)


def _compared(some: _Some, found: Verdicts) -> int:
    """Return how many accounts were compared: those of live and those that it should have, less the uncompared."""
    uncompared = {each.account_id for each in found.uncompared}
    drifted = {each.account_id for each in found.drifted} - uncompared
    absent = {row.account_id for row in some.suspects if row.live is None}
    return some.live + len(drifted & absent) - len(uncompared - absent)


def _few(rows: list[Row]) -> list[Row]:
    """Return the first of some accounts, so few that they are soon replayed."""
    events = accumulate(max(row.head_version or 0, row.live_version, row.shadow_version) for row in rows)
    few = sum(reached <= SUSPECT_EVENTS_MAX for reached in events)
    return rows[: min(max(few, 1), SUSPECTS_MAX)]


def _slices(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), ACCOUNTS_AT_ONCE):
        yield names[start : start + ACCOUNTS_AT_ONCE]
