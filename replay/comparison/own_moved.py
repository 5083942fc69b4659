"""Which accounts have only moved between two positions: the log says so, without a replay from their beginning.

Two positions are compared: that of live, and that of the shadow or of the heads. An account has only moved where the
live row is that of an event of the log at or before the position of live, by version and chain, its next event is after
that position, and the side that is behind becomes the other one by exactly the events between the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from ledger.read_model import ROW_SCHEMA
from ledger.store import Store
from replay.comparison.own_rows import Row, Stored
from replay.comparison.own_typed import stored, typed, untyped
from replay.rows import fold
from replay.store_source import StoreSource
from schemas import decode_batch

__all__ = ["unmoved"]

#: Versions between two sides that are still folded onto the one that is behind; more are replayed from the beginning.
VERSIONS_MAX = 1_000
ACCOUNTS_AT_ONCE = 2_000


class _Event(NamedTuple):
    position: int
    chain: bytes


def unmoved(store: Store, connection: Connection, rows: list[Row], position: int) -> list[Row]:
    """Return those of some rows of which the log does not say that they have only moved, in their order."""
    moved: set[str] = set()
    for start in range(0, len(rows), ACCOUNTS_AT_ONCE):
        moved |= _moved(store, connection, rows[start : start + ACCOUNTS_AT_ONCE], position)
    return [row for row in rows if row.account_id not in moved]


def _moved(store: Store, connection: Connection, rows: list[Row], position: int) -> set[str]:
    known = [row for row in rows if row.head_version is not None and 0 <= row.live_version <= row.head_version]
    at = _events(store, connection, ((row.account_id, row.live_version + next_) for row in known for next_ in (0, 1)))
    right = [row for row in known if _is_at(row, at, position)]
    same = {row.account_id for row in right if row.live == row.shadow}
    return same | _become_each_other(store, connection, [row for row in right if row.account_id not in same])


def _events(store: Store, connection: Connection, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], _Event]:
    """Return the events of some keys; not those that the store has twice, which are for the third opinion."""
    found = store.read_keys(connection, pl.DataFrame(list(keys), schema=_KEY, orient="row"))
    single = found.unique(list(_KEY), keep="none").select(*_KEY, "position", "chain")
    return {(name, version): _Event(place, chain) for name, version, place, chain in single.iter_rows()}


_KEY = {"account_id": pl.String(), "version": pl.Int64()}


def _is_at(row: Row, at: dict[tuple[str, int], _Event], position: int) -> bool:
    """Whether live is at the version that the account has in the log at a position."""
    reached = at.get((row.account_id, row.live_version))
    if row.live is not None and (reached is None or reached.position > position or reached.chain != row.live_chain):
        return False
    if row.live is not None and row.live_version == row.head_version:
        return bool(row.live_chain == row.head_chain)
    following = at.get((row.account_id, row.live_version + 1))
    return following is not None and following.position > position


def _become_each_other(store: Store, connection: Connection, rows: list[Row]) -> set[str]:
    """Return the accounts of which the row that is behind becomes the other by the events between the two."""
    pairs = {row.account_id: pair for row in rows if (pair := _behind_and_ahead(row)) is not None}
    if not pairs:
        return set()
    keys = [
        (name, version)
        for name, (behind, ahead) in pairs.items()
        for version in range(behind[_VERSION] + 1, ahead[_VERSION] + 1)
    ]
    raw = store.read_keys(connection, pl.DataFrame(keys, schema=_KEY, orient="row"))
    events, poison = decode_batch(raw)
    before = pl.DataFrame([(name, *pair[0]) for name, pair in pairs.items()], schema=ROW_SCHEMA, orient="row")
    folded = fold(before, events, poison, copies=StoreSource(store, connection).copies)
    after = stored(folded.changed)
    return {
        name for name, (_, ahead) in pairs.items() if name not in folded.parked and after.get(name) == untyped(ahead)
    }


_VERSION = [name for name in ROW_SCHEMA if name != "account_id"].index("version")


def _behind_and_ahead(row: Row) -> tuple[Stored, ...] | None:
    """Return both rows, typed, the one that is behind first; None where they cannot be brought to each other."""
    if row.live is None or row.shadow is None or not 0 < abs(row.live_version - row.shadow_version) <= VERSIONS_MAX:
        return None
    sides = sorted((row.live, row.shadow), key=lambda side: side[_VERSION])
    both = tuple(typed(side) for side in sides)
    return both if all(untyped(mine) == side for mine, side in zip(both, sides, strict=True)) else None
