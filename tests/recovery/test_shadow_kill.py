"""A shadow that is killed anywhere, while others write, has the rows of a fresh replay at its position."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from databases import OnPostgres, OnSqlite
from ledgers import append
from samples import opened, recorded
from shadows import is_fresh, stored, to_head

from consumers.shadow import StoreShadow
from ledger import Store

ROOT = Path(__file__).parents[2]
ACCOUNTS = [f"account-{number}" for number in range(60)]
#: Accounts that only the writer appends to.
WRITTEN = [f"written-{number}" for number in range(5)]
EVENTS = 6_000
POINTS = ("read", "fold", "write", "commit", "committed")
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
#: In full, with `SEEDS`, over 100 at random moments on each database, beside those at every step; 80 more are of the
#: shadow of a topic (tests/integration).
RANDOM_KILLS = 8 if FULL else 3
SEEDS = 13


def backlog(store: Store, chance: random.Random) -> None:
    """Append many events in a shuffled order of accounts."""
    versions: dict[str, int] = {}
    events = [opened(account_id) for account_id in WRITTEN]
    for account_id in chance.choices(ACCOUNTS, k=EVENTS):
        version = versions[account_id] = versions.get(account_id, 0) + 1
        kind = {"type": chance.choice(["credit", "debit"]), "to_status": chance.choice(["completed", "frozen"])}
        events.append(
            opened(account_id) if version == 1 else recorded(account_id, version, chance.randrange(1, 99), **kind)
        )
    append(store, *events)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a module of the tests, from its first line of output on; it is ended with the block."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline()
            yield running
        finally:
            running.kill()


@contextmanager
def writer(url: str) -> Iterator[None]:
    """A process that appends to accounts of its own, an event a transaction, until the block ends."""
    with process("tests.contract.writer", url, "writer", "1000000", *WRITTEN) as running, ExitStack() as stack:
        assert running.stdout is not None
        # What it says is read away, so that it never waits for us.
        away = stack.enter_context(subprocess.Popen(["cat"], stdin=running.stdout, stdout=subprocess.DEVNULL))  # noqa: S607
        stack.callback(away.kill)
        yield


def kill(url: str, point: str | None, chance: random.Random, *options: str) -> None:
    """Follow in a process that ends by SIGKILL at a point, or at a random moment."""
    if point is not None:
        with process("tests.recovery.shadower", url, *options, point, str(chance.randrange(1, 12))) as running:
            assert running.wait() == -signal.SIGKILL
        return
    with process("tests.recovery.shadower", url, *options) as running:
        time.sleep(chance.uniform(0, 0.6))
        assert running.poll() is None
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL


class KillContract:
    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(SEEDS))
    def test_a_killed_shadow_is_a_fresh_replay_at_its_position(self, store, url, seed):
        """Killed at random moments and at every step while a writer appends, rows and position always agree."""
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        backlog(store, chance)
        moments: list[str | None] = [*POINTS, *[None] * RANDOM_KILLS]
        chance.shuffle(moments)
        reached = [0]
        with writer(url):
            for point in moments:
                kill(url, point, chance)
                assert is_fresh(store), point
                reached.append(stored(store).positions[0])
        assert reached == sorted(reached)
        assert reached[-1] > 0
        with closing(StoreShadow(store)) as shadow:
            to_head(shadow)
        assert is_fresh(store)

    @pytest.mark.slow
    @pytest.mark.parametrize("point", POINTS)
    def test_killed_while_its_batches_are_made_in_a_process_it_is_a_fresh_replay(self, store, url, point):
        """Killed at every step while a process of its own is ahead, rows and position agree, and it goes on."""
        chance = random.Random(1)
        backlog(store, chance)
        with writer(url):
            kill(url, point, chance, "process")
            assert is_fresh(store)
        assert stored(store).positions[0] > 0
        with closing(StoreShadow(store)) as shadow:
            to_head(shadow)
        assert is_fresh(store)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_two_instances_of_which_one_is_killed_are_one_shadow(self, store, url, seed):
        """While one goes on, another is killed again and again; nothing is lost and nothing is applied twice."""
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        backlog(store, chance)
        with writer(url), process("tests.recovery.shadower", url) as other:
            for _ in range(RANDOM_KILLS):
                kill(url, None, chance)
                assert is_fresh(store)
            assert other.poll() is None
        with closing(StoreShadow(store)) as shadow:
            to_head(shadow)
        assert is_fresh(store)


class TestSqliteShadowKill(OnSqlite, KillContract):
    pass


@pytest.mark.postgres
class TestPostgresShadowKill(OnPostgres, KillContract):
    pass
