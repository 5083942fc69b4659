"""A shadow compares without a break while a writer and a projector run at full speed: no drift is reported, ever."""

from __future__ import annotations

import random

import pytest
from busy_processes import busy
from databases import OnPostgres, OnSqlite
from sizes import FULL

from consumers.projector import project
from consumers.shadow import StoreShadow
from ledger import Store
from replay.comparison.own import OwnPair
from replay.comparison.rounds import Rounds

EVENTS = 1_000_000 if FULL else 20_000


class Watch:
    """The shadow and its comparison, as one process has them: closed and begun again, as a restart would."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self._store, self._chance = store, chance
        self.rounds_whole, self.chunks = 0, 0
        self._begin()

    def _begin(self) -> None:
        sizes = {"batch_events": self._chance.choice([50, 500, 5_000]), "catch_up_events": 5_000}
        self._shadow = StoreShadow(self._store, **sizes)
        self._rounds = Rounds(self._store, OwnPair(self._store), chunk_seconds=0.05)

    def again(self) -> None:
        """Begin anew where it ended."""
        self.close()
        self._begin()

    def once(self) -> None:
        """Step or compare, at random, and see that nothing is found."""
        if self._chance.random() < 0.5:
            self._shadow.step()
        chunk = self._rounds.step() if self._chance.random() < 0.7 else None
        if chunk is not None:
            assert (chunk.drifted, chunk.suspected, chunk.uncompared) == ([], [], [])
            self.chunks += 1
            self.rounds_whole += chunk.until is None

    def finish(self) -> int:
        """Bring the shadow to the head, compare a whole round, and return how many accounts it compared."""
        while self._shadow.step().lag_events:
            pass
        for _ in range(3):
            while (chunk := self._rounds.step()) is None or chunk.until is not None:
                pass
        assert self._rounds.result is not None
        assert self._rounds.result.verdict == "EQUAL"
        return self._rounds.result.compared

    def close(self) -> None:
        """End both."""
        self._shadow.close()
        self._rounds.release()


class NoFalseAlarmContract:
    """What holds on every database."""

    @pytest.mark.slow
    def test_nothing_is_reported_while_all_go_on(self, store, url):
        """Whatever is killed, delayed or restarted, each chunk is equal, and so is the end."""
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        project(store)
        watch = Watch(store, chance)
        with busy("writer", url, chance, EVENTS) as writer, busy("projector", url, chance, EVENTS) as projector:
            while not (writer.is_done() and projector.is_done()):
                watch.once()
                if chance.random() < 0.05:
                    projector.kill()
                if chance.random() < 0.03:
                    writer.kill()
                if chance.random() < 0.05:
                    watch.again()
            kills = projector.kills + writer.kills
        project(store)
        assert watch.finish() > 100
        watch.close()
        print(f"{watch.chunks} chunks, {watch.rounds_whole} rounds, {kills} kills")  # noqa: T201 - what was tried.
        assert watch.rounds_whole


class TestSqlite(NoFalseAlarmContract, OnSqlite):
    """On SQLite."""


class TestPostgres(NoFalseAlarmContract, OnPostgres):
    """On PostgreSQL."""
