"""A reconciliation that is killed anywhere comes to the same breaks, none of them twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from databases import OnPostgres, OnSqlite
from order_streams import Appender, Facts
from reconciled import check_judged, check_links

from consumers.reconciliation.judging import Judge
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.read_until import StoreReading
from consumers.reconciliation.reconciling import Reconciling
from consumers.shadow import StoreShadow
from ledger import Store, orders
from ledger.order_transactions import FOLLOWER
from ledger.orders import Source
from projections.reconciliation import Rules
from schemas.orders import OrderEvent, order_rows

ROOT = Path(__file__).parents[2]
#: As of the process that is killed.
RULES = Rules(grace_seconds=0.2)
POINTS = ("read", "fold", "write", "commit", "committed", "judged", "judgement committed")
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
#: In full, with `SEEDS`, over 100 at random moments on each database, beside those at every step.
RANDOM_KILLS = 8 if FULL else 3
SEEDS = 13


class Writer:
    """Lets facts of orders come, some at a time, on both sides."""

    def __init__(self, store: Store, chance: random.Random, orders_: int) -> None:
        self._store = store
        self._facts = Facts(chance, orders_)
        self._appender = Appender(store)
        for event in self._facts.opening():
            self._appender.append(event)
        with store.writing() as connection:
            orders.lock(connection)
            orders.set_source(connection, Source("files"))

    def come(self, count: int) -> None:
        """Let so many facts come, all that are left at most; each is effective now."""
        for _ in range(min(count, len(self._facts.waiting))):
            fact = self._facts.waiting.pop(0)(datetime.now(UTC))
            if not isinstance(fact, OrderEvent):
                self._appender.append(fact)
                continue
            with self._store.writing() as connection:
                orders.lock(connection)
                orders.add_events(connection, order_rows([fact]))
                orders.set_read_until(connection, "orders", datetime.now(UTC))

    @property
    def left(self) -> int:
        """How many are to come."""
        return len(self._facts.waiting)


@contextmanager
def reconciler(url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reconciles, from when it has begun on; it is ended with the block."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.recovery.reconciler", url, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline()
            yield running
        finally:
            running.kill()


def kill(url: str, writer: Writer, count: int, point: str | None, chance: random.Random) -> None:
    """Let facts come while a process reconciles that ends by SIGKILL at a point, or at a random moment."""
    if point is not None:
        writer.come(count)
        with reconciler(url, point, str(chance.randrange(1, 4))) as running:
            assert running.wait() == -signal.SIGKILL
        return
    with reconciler(url) as running:
        writer.come(count)
        time.sleep(chance.uniform(0, 0.4))
        assert running.poll() is None
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL


def check(store: Store) -> None:
    """Compare both what is kept of the ledger and the breaks with all that is there."""
    check_links(store)
    check_judged(store, RULES)


def finish(store: Store) -> None:
    """Reconcile here until all was read and judged and every deadline has passed, and compare."""
    now = datetime.now(UTC).replace(year=2100)
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_read_until(connection, "orders", now)
    shadow = StoreShadow(store, FOLLOWER, beside=OrderTransactions())
    reading = StoreReading(store, lambda: shadow.shadow)
    options = {"readings": (reading,), "now": lambda: now, "look_seconds": 0}
    with closing(Reconciling(store, shadow, Judge(store, RULES), **options)) as here:
        while here.step() or here.standing().until != now:
            pass
        here.step()
        assert here.standing().touched == 0
    with store.snapshot() as connection:
        check_links(store, store.head(connection))
    found = check_judged(store, RULES)
    assert found.height > 0
    assert set(found.filter("is_found")["state"]) <= {"open", "reopened"}


class KillContract:
    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(SEEDS))
    def test_a_killed_reconciliation_comes_to_the_same_breaks(self, store, url, seed):
        """Killed at random moments and at every step while facts come, what is judged agrees with what is read."""
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        moments: list[str | None] = [*POINTS, *[None] * RANDOM_KILLS]
        chance.shuffle(moments)
        writer = Writer(store, chance, 100)
        share = writer.left // len(moments)
        assert share > 20
        for point in moments:
            kill(url, writer, share, point, chance)
            check(store)
        writer.come(writer.left)
        finish(store)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_two_instances_of_which_one_is_killed_are_one(self, store, url, seed):
        """While one goes on, another is killed again and again; no break is missed, and none is there twice."""
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        writer = Writer(store, chance, 60)
        share = writer.left // (RANDOM_KILLS + 1)
        with reconciler(url) as other:
            for _ in range(RANDOM_KILLS):
                kill(url, writer, share, None, chance)
                check(store)
            assert other.poll() is None
        writer.come(writer.left)
        finish(store)


class TestSqliteReconcilingKill(OnSqlite, KillContract):
    pass


@pytest.mark.postgres
class TestPostgresReconcilingKill(OnPostgres, KillContract):
    pass
