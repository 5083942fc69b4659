"""Two instances follow a topic while all that writes is at work, and is killed: live is compared, and never drifts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from busy_processes import Busy, busy
from databases import OnPostgres, OnSqlite
from kafka_broker import Broker
from shadows import fresh, stored
from sizes import FULL
from topic_cases import connection_to
from topics import bury, make_topic

from consumers.projector import project
from consumers.topic_shadow import TopicShadow
from ledger import Store
from replay.comparison.own import OwnPair
from replay.comparison.rounds import Rounds

pytestmark = pytest.mark.kafka

FOLDER = Path(__file__).parent
EVENTS = 300_000 if FULL else 10_000
#: Turns of the loop from one kill, close or new beginning to the next.
TURNS_APART = 8
SECONDS_MAX = 3_600 if FULL else 240


class Program:
    """A program of the suite that is killed and started again."""

    def __init__(self, file: str, *words: str) -> None:
        self._command = [sys.executable, str(FOLDER / file), *words]
        self._start()

    def _start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[1])}
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=environment)

    def is_done(self) -> bool:
        """Whether it has come to its end, which no error is."""
        status = self._process.poll()
        assert status in (None, 0), f"{self._command} ended with {status}"
        return status == 0

    def again(self) -> None:
        """Kill it if it still runs, and start it anew."""
        self.close()
        self._start()

    def close(self) -> None:
        """End it where it is."""
        self._process.kill()
        self._process.wait()


class Watch:
    """The instance in this process and its comparison, beside another instance, and the publisher, as programs."""

    def __init__(self, store: Store, url: str, broker: Broker, topic: str, chance: random.Random) -> None:
        self._store, self._broker, self._topic, self._chance = store, broker, topic, chance
        self.rounds_whole, self.chunks, self.rebalances = 0, 0, 0
        self.mine = self._opened()
        self._rounds = self._begun()
        self.relay = Program("relayer.py", url, broker.bootstrap_servers, topic, "500")
        self.other = Program("topic_shadower.py", url, broker.bootstrap_servers, topic, "200")

    def _opened(self) -> TopicShadow:
        sizes = {"batch_events": self._chance.choice([50, 500, 5_000]), "poll_seconds": 0.02}
        return TopicShadow(self._store, connection_to(self._broker), self._topic, **sizes)

    def _begun(self) -> Rounds:
        return Rounds(self._store, OwnPair(self._store), chunk_seconds=0.05)

    def once(self) -> None:
        """Step, compare, and see that nothing is found."""
        self.mine.step()
        self._compare()

    def compare_anew(self) -> None:
        """Have another process, as it were, go on with the comparison."""
        self._rounds.release()
        self._rounds = self._begun()

    def open_anew(self) -> None:
        """Leave the group, and come back."""
        self.mine.close()
        self.mine = self._opened()
        self.rebalances += 1

    def kill_other(self) -> None:
        """Kill the other instance, have everybody put out of the group, and start it anew."""
        self.other.close()
        self._bury()
        self.other.again()
        self.rebalances += 1

    def finish(self) -> int:
        """Bring the shadow to the end of the topic alone, compare a whole round, and return its accounts."""
        self.other.close()
        self._bury()
        ends_at = time.monotonic() + SECONDS_MAX
        while sum(stored(self._store).positions.values()) < EVENTS or self.mine.step().lag_events:
            assert time.monotonic() < ends_at, "it does not come to the end"
            self.mine.step()
        whole = self.rounds_whole + 2
        while self.rounds_whole < whole:
            self._compare()
        assert self._rounds.result is not None
        assert self._rounds.result.verdict == "EQUAL"
        return self._rounds.result.compared

    def close(self) -> None:
        """End all of it."""
        self.relay.close()
        self.other.close()
        self.mine.close()
        self._rounds.release()

    def _compare(self) -> None:
        chunk = self._rounds.step()
        if chunk is not None:
            assert (chunk.drifted, chunk.suspected, chunk.uncompared) == ([], [], [])
            self.chunks += 1
            self.rounds_whole += chunk.until is None

    def _bury(self) -> None:
        bury(self._broker, f"ledger-replay-{self._store.ledger_id}-shadow")


def until_all_is_published(watch: Watch, writer: Busy, projector: Busy, chance: random.Random) -> None:
    """Go on until the last event is written, projected and published, killing who writes now and then."""
    hurts = [writer.kill, projector.kill, watch.relay.again, watch.compare_anew, watch.open_anew, watch.kill_other]
    chance.shuffle(hurts)
    ends_at = time.monotonic() + SECONDS_MAX
    is_last = False
    for turn in count():
        assert time.monotonic() < ends_at, "it does not end"
        watch.once()
        if turn % TURNS_APART == 0:
            hurts[turn // TURNS_APART % len(hurts)]()
        if watch.relay.is_done():
            # It ended at what was the head then.
            if is_last and projector.is_done() and turn > TURNS_APART * len(hurts):
                return
            is_last = writer.is_done()
            watch.relay.again()


class NoFalseAlarmOfTopicContract:
    """What holds on every database."""

    @pytest.mark.slow
    def test_nothing_is_reported_while_two_instances_share_a_topic(self, store, url, kafka_server, topic_name):
        """Whoever is killed or restarted, and whoever reads which partition: each chunk is equal, and so is the end."""
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        make_topic(kafka_server, topic_name, 3)
        project(store)
        watch = Watch(store, url, kafka_server, topic_name, chance)
        try:
            with (
                busy("writer", url, chance, EVENTS) as writer,
                busy("projector", url, chance, EVENTS) as projector,
            ):
                until_all_is_published(watch, writer, projector, chance)
            project(store)
            assert watch.finish() > 100
            with store.snapshot() as connection:
                head = store.head(connection)
            assert stored(store).rows.equals(fresh(store, head).rows)
        finally:
            watch.close()
        print(f"{watch.chunks} chunks, {watch.rounds_whole} rounds, {watch.rebalances} rebalances")  # noqa: T201 - says what the sample met
        assert watch.rebalances


class TestSqlite(NoFalseAlarmOfTopicContract, OnSqlite):
    """On SQLite."""


class TestPostgres(NoFalseAlarmOfTopicContract, OnPostgres):
    """On PostgreSQL."""
