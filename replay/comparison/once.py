"""A foreign live table compared once with a replay of the store; what differs is looked at a few times."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import msgspec
import polars as pl

from ledger.store import Store
from replay.certificate import Certificate
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ReplayedNow
from replay.differences import Drifted
from replay.drift import Drift
from replay.engine import Progress
from replay.full_replay import replayed
from replay.rows import stored_rows
from replay.store_source import StoreSource

__all__ = ["SETTLE_SECONDS_MAX", "drift_once"]

#: Somebody waits for the answer, so a difference is looked at for no longer than this before it is called drift.
SETTLE_SECONDS_MAX = 2.0
#: Looks go on for so many times as long; what has not settled by then is told as suspected.
PATIENCE = 3.0
CHUNK_ROWS = 50_000


def drift_once(
    store: Store,
    live: LiveTable,
    *,
    rejects: Callable[[pl.DataFrame], None] | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Drift:
    """Compare a foreign live table with a replay of the store up to its head.

    Where rows differ, they are looked at again by their keys, with what was appended meanwhile: what does not settle in
    a few looks is `suspected`. `rejects` is given the rows that cannot be read. UsageError and StoreError as of
    `ForeignTable`.
    """
    foreign = ForeignTable(msgspec.structs.replace(live, settle_seconds=min(live.settle_seconds, SETTLE_SECONDS_MAX)))
    # A replay that fails must not leave the connection behind that the first look has made.
    with closing(foreign):
        # What is wrong with the table must not be found out after a replay of everything.
        foreign.open().close()
        with StoreSource.snapshot(store) as source, replayed(source, progress=progress) as replay:
            parked = {each.account_id: f"{each.reason} at version {each.version}" for each in replay.certificate.parked}
            rows = stored_rows(replay.rows, replay.gate)
            certificate = replay.certificate
    now = ReplayedNow(store, rows, parked, position=certificate.store_position)
    with closing(ForeignPair(foreign, now, rejects=rejects)) as pair:
        return _Looks(pair, sleep).result(certificate)


class _Looks:
    """One round over a pair, and then looks at what it suspects."""

    def __init__(self, pair: ForeignPair, sleep: Callable[[float], None]) -> None:
        self._pair = pair
        self._sleep = sleep
        self._compared = 0
        self._drifted: list[Drifted] = []
        self._suspected: set[str] = set()
        self._uncompared: dict[str, str] = {}

    def result(self, certificate: Certificate) -> Drift:
        """Return what the round and the looks came to."""
        self._round()
        self._settle()
        entries = sorted(self._drifted, key=lambda each: each.account_id)
        drifted = len({each.account_id for each in entries})
        is_open = bool(self._suspected or self._uncompared or self._pair.rejected)
        return Drift(
            verdict="INCOMPARABLE" if is_open else "DRIFT" if drifted else "EQUAL",
            live="foreign",
            compared=self._compared,
            drifted=drifted,
            accounts=entries,
            suspected=sorted(self._suspected),
            uncompared=sorted(self._uncompared),
            certificate=certificate,
            why_not=next(iter(self._uncompared.values()), ""),
        )

    def _round(self) -> None:
        self._pair.begin(None)
        is_whole = False
        while not is_whole:
            chunk = self._pair.chunk(CHUNK_ROWS)
            self._compared += chunk.compared
            self._drifted += chunk.drifted
            self._suspected.update(chunk.suspected)
            self._uncompared |= {each.account_id: each.reason for each in chunk.uncompared}
            is_whole = chunk.until is None

    def _settle(self) -> None:
        live = self._pair.foreign.live
        pause = max(live.settle_seconds / live.looks_min, 0.01)
        looks = int(PATIENCE * live.looks_min) + 1
        while self._suspected and looks:
            looks -= 1
            found = self._pair.settle_all()
            self._drifted += found.drifted
            given_up = {each.account_id: each.reason for each in found.uncompared}
            self._compared -= len(given_up.keys() - self._uncompared.keys())
            self._uncompared |= given_up
            self._suspected.difference_update(found.same)
            self._suspected.difference_update(each.account_id for each in found.drifted)
            self._suspected.difference_update(each.account_id for each in found.uncompared)
            if self._suspected:
                self._sleep(pause)
