"""A shadow compares without a break while a writer and a projector run at full speed: no drift is reported, ever."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from databases import OnPostgres, OnSqlite

from consumers.projector import project
from consumers.shadow import StoreShadow
from ledger import Store
from replay.comparison.own import OwnPair
from replay.comparison.rounds import Rounds

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
EVENTS = 1_000_000 if FULL else 20_000


class Busy:
    """A process that can be killed and started again."""

    def __init__(self, what: str, url: str, chance: random.Random) -> None:
        self._what, self._url, self._chance = what, url, chance
        self.kills = 0
        self.start()

    def start(self) -> None:
        """Start it with another seed than the last time."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        arguments = [self._what, self._url, str(self._chance.randrange(2**32)), str(EVENTS)]
        command = [sys.executable, "-m", "tests.recovery.busy", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment)

    def is_done(self) -> bool:
        """Whether it has come to its end, which no error is."""
        status = self._process.poll()
        assert status in (None, 0), f"the {self._what} ended with {status}"
        return status == 0

    def kill(self) -> None:
        """Kill it, and start another, unless it has ended by itself."""
        if not self.is_done():
            self._process.send_signal(signal.SIGKILL)
            self.kills += self._process.wait() == -signal.SIGKILL
            self.start()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def busy(what: str, url: str, chance: random.Random) -> Iterator[Busy]:
    """Yield a running process, which is gone after it."""
    process = Busy(what, url, chance)
    try:
        yield process
    finally:
        process.close()


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
        with busy("writer", url, chance) as writer, busy("projector", url, chance) as projector:
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
