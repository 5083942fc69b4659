"""The loop of tasks: each steps in turn, what does not answer rests alone, and what says no ends them all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError
from watched_fakes import Lines

from consumers.health import Health
from consumers.loop import Loop, Pauses
from consumers.metrics import LoopMetrics
from schemas.errors import ArchiveError, BrokerError, BrokerRefused, PositionMoved, RefusedError, StoreError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
QUICK = Pauses(poll_seconds=0.0, pause_seconds=1e-6, pause_seconds_max=4e-6)


class FakeTask:
    """A task whose steps are given: whether there was something to do, or what is raised; then there is nothing."""

    def __init__(self, name: str, *steps: bool | Exception, rounds: int | None = None) -> None:
        self.name = name
        self.steps = list(steps)
        self.stepped = 0
        self.rounds = rounds
        self.let_gone = 0
        self.answers = True
        self.why_not_ready: str | None = None
        self.fails_to_let_go: Exception | None = None

    def step(self) -> bool:
        """Do the next step."""
        self.stepped += 1
        found = self.steps.pop(0) if self.steps else False
        if isinstance(found, Exception):
            raise found
        return found

    def has_answered(self) -> bool:
        """As it was told."""
        return self.answers

    def is_done(self) -> bool:
        """Say whether it has stepped so often."""
        return self.rounds is not None and self.stepped >= self.rounds

    def let_go(self) -> None:
        """Count it."""
        self.let_gone += 1
        if self.fails_to_let_go is not None:
            raise self.fails_to_let_go


class Run:
    """A loop over fakes, and what it left."""

    def __init__(self, *tasks: FakeTask, pauses: Pauses = QUICK) -> None:
        self.log = Lines()
        self.metrics = LoopMetrics()
        self.health = Health(healthy_seconds=60)
        self.loop = Loop(tasks, metrics=self.metrics, health=self.health, log=self.log, pauses=pauses)

    def __call__(self, turns: int = 1_000, at: Callable[[int], None] = lambda _: None) -> None:
        """Run until the loop ends, or has asked so often whether to stop."""
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            at(asked)
            return asked > turns

        self.loop.run(should_stop)

    def gauge(self, name: str) -> float | None:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(f"ledger_replay_{name}")


def test_tasks_step_in_turn_until_all_are_done() -> None:
    """Each turn every task makes a step, those too that are done, until none is left that is not."""
    one, two = FakeTask("one", rounds=2), FakeTask("two", rounds=5)
    Run(one, two)()
    assert (one.stepped, two.stepped) == (5, 5)


def test_a_task_without_an_end_goes_on_until_it_is_stopped() -> None:
    """Where one of the tasks has no end, only a stop ends the loop."""
    one, two = FakeTask("one", rounds=2), FakeTask("two")
    run = Run(one, two)
    run(turns=7)
    assert two.stepped == 7
    assert (run.gauge("up"), run.gauge("ready")) == (0, 0)
    assert run.health.why_not_ready == "the loop has ended"


@pytest.mark.parametrize(
    "error",
    [
        StoreError("the live table does not answer"),
        BrokerError("no brokers"),
        OperationalError("select", {}, Exception("server closed the connection")),
        DBAPIError("select", {}, Exception("gone"), connection_invalidated=True),
        psycopg.OperationalError("gone"),
        sqlite3.OperationalError("database is locked"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_does_not_answer_rests_alone(error: Exception) -> None:
    """An outage of one task lets the other go on, makes the process unready and is over when the task steps again."""
    failing, other = FakeTask("failing", False, error), FakeTask("other")
    run = Run(failing, other, pauses=QUICK._replace(pause_seconds=0.05, pause_seconds_max=0.05))
    seen: list[float | None] = []

    def at(_: int) -> None:
        seen.append(run.gauge("ready"))
        failing.rounds = other.rounds = 0 if run.log.of("goes on") else None

    run(turns=10_000_000, at=at)
    assert other.stepped > failing.stepped >= 3
    assert failing.let_gone == 1
    (line,) = run.log.of("does not answer")
    assert (line["task"], line["again_in_seconds"]) == ("failing", 0.05)
    assert run.log.of("goes on") == [{"task": "failing"}]
    assert run.gauge("errors_total") == 1
    assert (seen[1], 0 in seen, seen[-1]) == (1, True, 1)


def test_pauses_grow_for_each_task_by_itself() -> None:
    """What goes on failing is asked less and less often, up to a limit; the pauses of another task are its own."""
    one = FakeTask("one", *[BrokerError("none")] * 4, rounds=50)
    two = FakeTask("two", False, BrokerError("none"), rounds=50)
    run = Run(one, two)
    run()
    pauses: dict[object, list[object]] = {"one": [], "two": []}
    for line in run.log.of("does not answer"):
        pauses[line["task"]].append(line["again_in_seconds"])
    assert pauses == {"one": [1e-6, 2e-6, 4e-6, 4e-6], "two": [1e-6]}


def test_a_step_that_did_not_ask_what_failed_is_no_end_of_an_outage() -> None:
    """Until all that failed has answered the pauses go on growing, and the process is not ready."""
    task = FakeTask("one", BrokerError("none"), False, BrokerError("none"), False)
    task.answers = False
    run = Run(task)
    run(turns=50)
    assert [line["again_in_seconds"] for line in run.log.of("does not answer")] == [1e-6, 2e-6]
    assert run.log.of("goes on") == []
    assert run.gauge("errors_total") == 2


def test_what_cannot_be_let_go_of_is_no_end() -> None:
    """An error while connections are given up after an outage is logged, and the loop goes on."""
    task = FakeTask("one", BrokerError("none"), rounds=3)
    task.fails_to_let_go = RuntimeError("stuck")
    run = Run(task)
    run()
    assert [line["error"] for line in run.log.of("cannot be let go of")] == ["stuck"]


@pytest.mark.parametrize(
    "error", [RefusedError("no"), BrokerRefused("no"), ArchiveError("no"), ValueError("a bug")], ids=repr
)
def test_what_says_no_ends_the_loop(error: Exception) -> None:
    """What waiting does not help against ends it, with the error, and it is not up any more."""
    run = Run(FakeTask("one"), FakeTask("two", error))
    with pytest.raises(type(error), match=str(error)):
        run()
    assert run.gauge("up") == 0


def test_a_position_that_moved_is_no_end() -> None:
    """Where another process was faster, the loop goes on at once, and nothing is taken for an outage."""
    run = Run(FakeTask("one", PositionMoved("faster"), rounds=2))
    run()
    assert run.log.of("moved by another process") == [{"task": "one", "reason": "faster"}]
    assert run.gauge("errors_total") == 0


def test_it_is_ready_once_every_task_is() -> None:
    """The first task that is not ready says why the process is not."""
    one, two = FakeTask("one"), FakeTask("two")
    two.why_not_ready = "not read yet"
    run = Run(one, two)
    seen: list[str | None] = []

    def at(turn: int) -> None:
        seen.append(run.health.why_not_ready)
        if turn == 3:
            two.why_not_ready = None

    run(turns=4, at=at)
    assert seen[1:4] == ["not read yet", "not read yet", None]


def test_each_source_that_keeps_it_waiting_is_one_reason() -> None:
    """Two sources that do not answer make it unready until both do, whichever comes back first."""
    health = Health(healthy_seconds=60)
    health.ready(None)
    health.waits_for("no brokers", source="events")
    health.waits_for("no topic", source="orders")
    assert health.why_not_ready == "no brokers"
    health.waits_for(None, source="events")
    assert health.why_not_ready == "no topic"
    health.waits_for(None, source="orders")
    assert health.why_not_ready is None
