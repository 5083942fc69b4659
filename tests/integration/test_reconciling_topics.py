"""Two real topics of different keys and partition counts: whoever reads them, the breaks are those of everything."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kafka_broker import Broker
from order_streams import Appender, Facts, record
from reconciled import check_judged, check_links
from reconciler_of_topics import RULES, reconciling
from topic_cases import connection_to, records_of
from topics import Record, make_topic, send, send_transaction

from consumers import topic_group
from consumers.reconciliation.reconciling import Reconciling
from ledger import Store, shadows
from ledger.order_transactions import FOLLOWER
from schemas.orders import OrderEvent

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("reconciler_of_topics.py")
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
#: Kills at random moments; those of one that follows the store are in tests/recovery.
KILLS = 20 if FULL else 1


class Topics:
    """A topic of the ledger and one of orders, what is to come on each, and a store that has all of the ledger."""

    def __init__(self, broker: Broker, name: str, folder: Path, seed: int) -> None:
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        self.chance = random.Random(seed)
        self.broker, self.ledger, self.orders = broker, f"{name}-ledger", f"{name}-orders"
        self.store = Store.at(folder)
        make_topic(broker, self.ledger, 3)
        make_topic(broker, self.orders, 2)
        facts, appender = Facts(self.chance, 120), Appender(self.store)
        self.to_come: list[tuple[str, Record]] = []
        began = datetime.now(UTC) - timedelta(hours=1)
        for event in facts.opening():
            appender.append(event)
            self.to_come += [(self.ledger, each) for each in records_of([event])]
        for number, fact in enumerate(facts.waiting):
            made = fact(began + timedelta(seconds=number))
            if isinstance(made, OrderEvent):
                self.to_come.append((self.orders, record(made)))
            else:
                appender.append(made)
                self.to_come += [(self.ledger, each) for each in records_of([made])]

    def come(self, count: int) -> None:
        """Let so many facts come, some of them twice."""
        some, self.to_come = self.to_come[:count], self.to_come[count:]
        for topic in (self.ledger, self.orders):
            records = [each for name, each in some if name == topic]
            send(self.broker, topic, [*records, *records[-3:]])

    def reconciling(self) -> Reconciling:
        """Open an instance."""
        return reconciling(self.store, connection_to(self.broker), self.ledger, self.orders)

    def check_whole(self) -> None:
        """Compare what is kept and judged with everything that was sent."""
        with self.store.snapshot() as connection:
            check_links(self.store, self.store.head(connection))
        found = check_judged(self.store, RULES)
        assert found.height > 10
        assert set(found.filter("is_found")["state"]) <= {"open", "reopened"}

    @property
    def read(self) -> int:
        """How many offsets of the ledger were read."""
        with self.store.snapshot() as connection:
            shadow = shadows.find(connection, FOLLOWER)
            return 0 if shadow is None else sum(shadows.positions(connection, shadow).values())


@pytest.fixture
def topics(kafka_server: Broker, topic_name: str, tmp_path: Path) -> Iterator[Topics]:
    """Two topics on which nothing is yet."""
    topics = Topics(kafka_server, topic_name, tmp_path / "data", seed=7)
    yield topics
    topics.store.close()


@pytest.fixture
def opened(topics: Topics) -> Iterator[Callable[[], Reconciling]]:
    """Opens instances that are closed at the end."""
    instances: list[Reconciling] = []

    def open_one() -> Reconciling:
        instances.append(topics.reconciling())
        return instances[-1]

    yield open_one
    for each in instances:
        each.close()


def until(happened: Callable[[], bool], *instances: Reconciling, seconds: float = 90) -> None:
    """Step the instances in turn until something has happened."""
    ends_at = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends_at, "it does not happen"
        for each in instances:
            each.step()


def finish(*instances: Reconciling) -> None:
    """Step until both sides were read past now, and past every deadline, and all is judged."""
    # What was judged last opens once both sides were read past that judgement, too.
    for _ in range(2):
        last = datetime.now(UTC) + timedelta(seconds=1)

        def is_over(last: datetime = last) -> bool:
            standing = instances[0].standing()
            return standing.until is not None and standing.until > last and standing.touched == 0

        until(is_over, *instances)
    for each in instances:
        each.step()


def parts(instance: Reconciling) -> tuple[frozenset[int], frozenset[int]]:
    """Return the partitions that an instance has of the ledger's topic and of the orders'."""
    return instance.following._batches.group.assigned, instance.orders_topic._group.assigned


def test_two_instances_share_both_topics(topics, opened):
    """Each reads some partitions of both, one that leaves gives its own to the other, and no break is missed."""
    topics.come(100)
    first, second = opened(), opened()
    until(lambda: all(any(part) for part in zip(parts(first), parts(second), strict=True)), first, second)

    def is_shared() -> bool:
        of_ledger, of_orders = zip(parts(first), parts(second), strict=True)
        return (
            sorted([*of_ledger[0], *of_ledger[1]]) == [0, 1, 2]
            and sorted([*of_orders[0], *of_orders[1]]) == [0, 1]
            and all(of_ledger)
        )

    until(is_shared, first, second)
    topics.come(200)
    finish(first, second)
    check_judged(topics.store, RULES)
    second.close()
    topics.come(10_000)
    finish(first)
    assert parts(first) == ({0, 1, 2}, {0, 1})
    topics.check_whole()


def test_a_transaction_that_is_open_on_one_topic_holds_everything_back(topics, opened):
    """Nothing opens while records that were there cannot be read, however long that takes."""
    topics.come(10_000)
    with send_transaction(topics.broker, topics.orders, [(b"nobody", b"{}")], end="open", partition=0) as held:
        here = opened()
        until(lambda: topics.read > 0 and here.orders_topic.step().lag_events == 0, here)
        for _ in range(20):
            here.step()
        assert here.standing().orders_until is None
        held.abort()
    finish(here)
    topics.check_whole()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the group give up a member as soon as brokers let it."""
    monkeypatch.setattr(topic_group, "SESSION_MS", 6_000)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_one_that_is_killed_beside_another_leaves_the_same_breaks(topics, opened):
    """While one goes on, another is killed again and again; nothing is missed, and nothing is there twice."""
    here = opened()
    # A few at a time: until the group has let the other one in, the one here takes all of them.
    share = max(len(topics.to_come) // (20 * KILLS), 1)
    words = [str(topics.store.url), topics.broker.bootstrap_servers, topics.ledger, topics.orders]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    for _ in range(KILLS):
        command = [sys.executable, str(PROGRAM), *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as other:
            assert other.stdout is not None
            # Where the one here was faster with all that there is, the other is killed with nothing to do.
            while b"step 1" not in other.stdout.readline() and topics.to_come:
                here.step()
                topics.come(share)
            time.sleep(topics.chance.uniform(0, 0.5))
            assert other.poll() is None
            other.send_signal(signal.SIGKILL)
            assert other.wait() == -signal.SIGKILL
        check_judged(topics.store, RULES)
    topics.come(10_000)
    finish(here)
    topics.check_whole()
