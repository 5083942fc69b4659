"""The reconciliation as a task: when a round is whole, when it can be relied on, and what is measured of it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import pytest
from break_rows_made import at
from watched_fakes import Lines

from consumers.break_metrics import BreakMetrics
from consumers.break_reactions import BreakReactions
from consumers.health import Health
from consumers.loop import Loop, Pauses
from consumers.metrics import LoopMetrics
from consumers.reconciliation.reconciling import Standing
from consumers.reconciliation_task import AwaitedReconciliation, ReconciliationTask
from consumers.shadow import Step
from ledger import Store
from schemas.errors import BrokerError


class OrdersStep(NamedTuple):
    """What a step of the topic of orders says."""

    lag_events: int


class FakeReconciling:
    """A reconciliation that is where it is told to be."""

    def __init__(self, *, is_topic: bool) -> None:
        self.orders_topic = object() if is_topic else None
        self.ledger_until: datetime | None = None
        self.orders_until: datetime | None = None
        self.touched = 0
        self.steps: list[bool | Exception] = []
        self.stepped = 0

    def step(self) -> bool:
        """Do the next step, or nothing."""
        self.stepped += 1
        found = self.steps.pop(0) if self.steps else False
        if isinstance(found, Exception):
            raise found
        return found

    def standing(self) -> Standing:
        """Say where it is."""
        orders = OrdersStep(3) if self.orders_topic else None
        ledger = Step(0, 5, 7, 2, None)
        return Standing(ledger, orders, self.orders_until, self.ledger_until, self.touched, 0, 0)


class Running:
    """The task over a fake, with a clock that is set by hand."""

    def __init__(self, store: Store, *, is_topic: bool = False, rounds: int | None = None) -> None:
        self.time = at(1)
        self.log = Lines()
        self.reconciling = FakeReconciling(is_topic=is_topic)
        self.loop = LoopMetrics()
        metrics = BreakMetrics(self.loop.registry, now=self.now)
        reactions = BreakReactions(
            store, alert_after_seconds=60, loop_metrics=self.loop, metrics=metrics, log=self.log, now=self.now
        )
        self.task = ReconciliationTask(
            self.reconciling, reactions, metrics=metrics, log=self.log, now=self.now, rounds_max=rounds, look_seconds=0
        )

    def now(self) -> datetime:
        return self.time

    def steps(self, number: int) -> int:
        """Step so often, and return how many rounds were whole by then."""
        for _ in range(number):
            self.task.step()
        return self.task.rounds

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.loop.registry.get_sample_value(f"ledger_replay_{name}", labels)


def test_a_round_is_whole_once_what_was_there_is_judged(store: Store) -> None:
    """A round needs the ledger read past its beginning and nothing touched, at two looks with a step between them."""
    running = Running(store, rounds=2)
    assert running.steps(3) == 0
    running.reconciling.ledger_until = at(0.9)
    assert running.steps(3) == 0
    running.reconciling.ledger_until, running.reconciling.touched = at(1), 1
    assert running.steps(3) == 0
    assert running.task.why_not_ready is not None
    running.reconciling.touched = 0
    assert running.steps(1) == 0
    assert running.steps(1) == 1
    assert (running.task.why_not_ready, running.task.is_done()) == (None, False)
    running.time = at(2)
    assert running.steps(3) == 1
    running.reconciling.ledger_until = at(2)
    assert running.steps(2) == 2
    assert running.task.is_done()
    assert [line["ledger_until"] for line in running.log.of("reconciled")] == [at(1), at(2)]


def test_a_round_ends_while_the_clock_goes_on(store: Store) -> None:
    """Looks between which no side is read any further do not begin the round anew: sides are read now and then."""
    running = Running(store, is_topic=True, rounds=1)
    for number in range(40):
        running.time = at(1 + number / 100)
        if number % 4 == 0:
            running.reconciling.ledger_until = running.time
        if number % 4 == 2:
            running.reconciling.orders_until = running.time
        running.steps(1)
    assert running.task.is_done()


def test_a_topic_of_orders_must_be_read_too(store: Store) -> None:
    """Where orders come from a topic a round needs both sides; orders of files are there when they are imported."""
    running = Running(store, is_topic=True)
    running.reconciling.ledger_until = at(5)
    assert running.steps(4) == 0
    running.reconciling.orders_until = at(0)
    assert running.steps(4) == 0
    running.reconciling.orders_until = at(5)
    assert running.steps(2) == 1
    assert not running.task.is_done()


def test_where_it_stands_is_measured(store: Store) -> None:
    """Lag by side, what waits to be judged, and up to when both were read are those of the reconciliation."""
    running = Running(store, is_topic=True)
    running.reconciling.ledger_until, running.reconciling.touched = at(0), 4
    running.steps(1)
    assert running.gauge("touched_orders") == 4
    assert running.gauge("reconciliation_lag_events", side="orders") == 3
    assert running.gauge("reconciliation_lag_events", side="ledger") == 2
    assert running.gauge("reconciliation_read_until_age_seconds", side="ledger") == 3_600
    assert running.gauge("breaks", state="open", code="amount_mismatch") is None


def test_it_runs_in_the_loop(store: Store) -> None:
    """In the loop it outlives brokers that do not answer, is ready after its first round, and ends after its rounds."""
    running = Running(store, rounds=1)
    running.reconciling.steps = [True, BrokerError("no brokers"), True]
    running.reconciling.ledger_until = at(1)
    health = Health(healthy_seconds=60)
    pauses = Pauses(poll_seconds=0.0, pause_seconds=1e-6)
    loop = Loop([running.task], metrics=running.loop, health=health, log=running.log, pauses=pauses)
    loop.run(lambda: running.reconciling.stepped > 1_000)
    assert running.task.rounds == 1
    assert len(running.log.of("goes on")) == 1


def test_it_is_awaited_until_an_order_is_known(store: Store) -> None:
    """It begins at the first look that finds orders, whatever fails meanwhile, and is not waited for before that."""
    running = Running(store, rounds=1)
    found: list[ReconciliationTask | Exception | None] = [None, None, BrokerError("no brokers"), running.task]

    def begin() -> ReconciliationTask | None:
        each = found.pop(0)
        if isinstance(each, Exception):
            raise each
        return each

    health = Health(healthy_seconds=60)
    awaited = AwaitedReconciliation(
        begin, registry=running.loop.registry, health=health, log=running.log, look_seconds=0
    )
    assert [awaited.step(), awaited.step()] == [False, False]
    assert (awaited.why_not_ready, awaited.is_done(), running.gauge("reconciling")) == (None, False, 0)
    assert health.notes == ["no order is known, so nothing is reconciled"]
    assert len(running.log.of("no order is known, so nothing is reconciled")) == 1
    with pytest.raises(BrokerError):
        awaited.step()
    awaited.step()
    assert (health.notes, running.gauge("reconciling")) == ([], 1)
    assert awaited.why_not_ready == running.task.why_not_ready is not None
    running.reconciling.ledger_until = at(1)
    while not awaited.is_done():
        awaited.step()
    assert awaited.why_not_ready is None
