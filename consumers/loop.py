"""The loop of whatever runs for ever: tasks that step in turn, and what does not answer is waited for.

A task whose database, broker or live table does not answer rests, longer each time in a row, while the others go on;
what says no ends the loop.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from consumers.health import Health
from consumers.metrics import LoopMetrics
from consumers.reactions import Log
from schemas.errors import BrokerError, BrokerRefused, PositionMoved, StoreError

__all__ = ["Loop", "Pauses", "Task"]


class Task(Protocol):
    """Something that goes on for ever, a step at a time."""

    @property
    def name(self) -> str:
        """What log lines call it."""

    @property
    def why_not_ready(self) -> str | None:
        """Why nobody should rely on it yet, None where they can."""

    def step(self) -> bool:
        """Do what there is to do, in no more than a batch, and say whether there was anything."""

    def has_answered(self) -> bool:
        """Say whether all that did not answer at the last failure has answered by now."""

    def is_done(self) -> bool:
        """Say whether it was asked for an end, and is there."""

    def let_go(self) -> None:
        """Give up connections after a failure; the next step opens them again."""


class Pauses(NamedTuple):
    """How long to wait where there is nothing to do, and for what does not answer: at first, and at most."""

    poll_seconds: float = 0.1
    pause_seconds: float = 0.5
    pause_seconds_max: float = 30.0


class Loop:
    """Tasks that step in turn until they are told to stop, or until all of them are done."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        metrics: LoopMetrics,
        health: Health,
        log: Log,
        pauses: Pauses = Pauses(),
    ) -> None:
        self._running = [_Running(task) for task in tasks]
        self._metrics = metrics
        self._health = health
        self._log = log
        self._pauses = pauses

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Go on until `should_stop`, or until every task is done.

        RefusedError and whatever else waiting does not help against end it; what does not answer is waited for.
        """
        self._metrics.up.set(1)
        try:
            while not (should_stop() or all(each.task.is_done() for each in self._running)):
                self._health.stepped()
                if not self._turn():
                    time.sleep(self._pauses.poll_seconds)
        finally:
            self._metrics.up.set(0)
            self._ready("the loop has ended")

    def _turn(self) -> bool:
        """Let each task step that does not rest, and say whether any of them had something to do."""
        did = False
        for each in self._running:
            if time.monotonic() >= each.again_at:
                did = self._step(each) or did
        reasons = (each.fails or each.task.why_not_ready for each in self._running)
        self._ready(next(filter(None, reasons), None))
        return did

    def _step(self, each: _Running) -> bool:
        try:
            did = each.task.step()
        except PositionMoved as error:
            # Another instance was faster; the next step begins where things are by now.
            self._log.info("moved by another process", task=each.task.name, reason=error.what)
            return True
        except Exception as error:
            if not _is_outage(error):
                raise
            self._rest(each, error)
            return False
        if each.fails is not None and each.task.has_answered():
            self._log.info("goes on", task=each.task.name)
            each.fails, each.pause = None, 0.0
        return did

    def _rest(self, each: _Running, error: Exception) -> None:
        """Let a task rest for which something does not answer, longer each time in a row."""
        each.fails = _words(error)
        each.pause = min(max(self._pauses.pause_seconds, 2 * each.pause), self._pauses.pause_seconds_max)
        each.again_at = time.monotonic() + each.pause
        self._metrics.errors.inc()
        self._log.error("does not answer", task=each.task.name, error=each.fails, again_in_seconds=each.pause)
        try:
            each.task.let_go()
        except Exception as also:  # noqa: BLE001 - what cannot even be let go of is no reason to end.
            self._log.error("cannot be let go of", task=each.task.name, error=_words(also))

    def _ready(self, why_not: str | None) -> None:
        self._health.ready(why_not)
        self._metrics.ready.set(0 if self._health.why_not_ready else 1)


class _Running:
    """A task in the loop: what did not answer, None where all does, and from when on it may step."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.fails: str | None = None
        self.pause = 0.0
        self.again_at = -math.inf


def _words(error: Exception) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]


def _is_outage(error: Exception) -> bool:
    """Whether an error says that something does not answer now, and may later."""
    if isinstance(error, BrokerRefused):
        return False
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, _OUTAGES)


_OUTAGES = (
    BrokerError,
    StoreError,
    InterfaceError,
    OperationalError,
    PoolTimeoutError,
    # Rows are read in bulk through the driver itself, whose errors SQLAlchemy does not see then.
    psycopg.InterfaceError,
    psycopg.OperationalError,
    sqlite3.OperationalError,
)
