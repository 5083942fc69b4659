"""A shadow that is compared for ever, as a task of the loop: follow a batch, compare a chunk, settle, react, again.

The two are compared at one position, so a comparison is exact however far the shadow is behind. It costs more then,
since every account that moved meanwhile is replayed alone: so nothing is compared before the shadow has caught up
once (to the very head, where its rounds are numbered), and after that while it is behind by more than
`lag_events_max`, but for no longer than `lag_seconds_max`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from consumers.health import Health
from consumers.loop import Loop, Pauses
from consumers.metrics import Metrics
from consumers.reactions import Log, Reactions
from consumers.shadow import Following, Step
from replay.certificate import Position
from replay.comparison.chunk import Chunk, Settled
from replay.comparison.rounds import Note, NoteSettled

__all__ = ["Comparing", "Limits", "Watched", "Watching"]


class Round(Protocol):
    """A whole round: EQUAL, DRIFT or INCOMPARABLE, and how many accounts it compared."""

    @property
    def verdict(self) -> str:
        """What the round came to."""

    @property
    def compared(self) -> int:
        """Accounts of either side less those that could not be compared."""

    @property
    def drifted(self) -> list[str]:
        """Accounts that differ for certain."""

    @property
    def rejected(self) -> int:
        """Live rows that could not be read."""


class Comparing(Protocol):
    """A comparison that goes on for ever, a chunk at a time (`replay.comparison.rounds`)."""

    @property
    def after(self) -> str | None:
        """The key that the next chunk begins behind, None at the beginning of a round."""

    @property
    def result(self) -> Round | None:
        """The last whole round, None where this process has not compared all of it."""

    @property
    def suspected(self) -> int:
        """How many accounts this process suspects still, those that are known to drift among them."""

    def due(self) -> bool:
        """Say whether a chunk may be compared now."""

    def step(self, note: Note) -> Chunk | None:
        """Compare a chunk, and note it with the cursor; None while another process compares, and once after it did."""

    def settle(self, note: NoteSettled) -> Settled | None:
        """Look at the suspected accounts once more; None while another process compares."""

    def oldest_age_seconds(self, now: datetime) -> float | None:
        """Return how long ago the chunk was compared that has waited longest, None before the first whole round."""

    def close(self) -> None:
        """Let go of connections; the next step goes on where the round is."""

    def release(self) -> None:
        """Close, and let another process compare at once."""


class Limits(NamedTuple):
    """When to compare although the shadow is behind, and how long to wait for what is not there."""

    lag_events_max: int = 10_000
    lag_seconds_max: float = 30.0
    poll_seconds: float = 0.1
    settle_seconds: float = 0.2
    # A small ledger is compared in no time, and need not be compared all the time.
    rounds_apart_seconds: float = 1.0
    # How long rounds that come to the same as the one before go without a log line.
    unsaid_seconds_max: float = 60.0
    pause_seconds: float = 0.5
    pause_seconds_max: float = 30.0


class Watched(NamedTuple):
    """What a run of the loop came to.

    `rounds` were begun and ended by it; `compared` are the accounts of the last of them, `verdict` is what it came to,
    None where none was whole, and `rejected` counts its live rows that could not be read. `position` is None where the
    shadow made no step.
    """

    rounds: int
    compared: int
    events: int
    position: Position | None
    verdict: str | None = None
    rejected: int = 0


class Watching:
    """A task: a shadow that follows and is compared, for ever or for a number of whole rounds."""

    name = "drift"

    def __init__(
        self,
        following: Following,
        comparing: Comparing,
        reactions: Reactions,
        *,
        metrics: Metrics,
        health: Health,
        log: Log,
        rounds_max: int | None = None,
        limits: Limits = Limits(),
        parked: Callable[[], int] = lambda: 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._following = following
        self._comparing = comparing
        self._reactions = reactions
        self._metrics = metrics
        self._health = health
        self._log = log
        self._rounds_max = rounds_max
        self._limits = limits
        self._parked = parked
        self._now = now
        self._rounds = 0
        self._compared = 0
        self._events = 0
        self._suspected = 0
        self._position: Position | None = None
        self._first_position: Position | None = None
        self._newest_at: datetime | None = None
        self._has_caught_up = False
        self._behind_since: float | None = None
        self._is_held_back = False
        self._round_began = -math.inf
        # What the last round came to of which it was said, and how many have been since.
        self._came_to: dict[str, object] = {}
        self._rounds_unsaid = 0
        self._say_again_at = -math.inf
        self._has_looked_at_age = False
        self._settled_at = 0.0
        self._has_started = False
        # Following may answer while comparing does not: only what failed shows that it is over.
        self._is_comparing = self._failed_comparing = False
        # Once nothing may be compared where another process has just ended; twice it has not.
        self._times_elsewhere = 0

    @property
    def why_not_ready(self) -> str | None:
        """Why nobody should rely on it yet, None once the shadow has caught up."""
        return None if self._has_caught_up else "the shadow has not caught up yet"

    def run(self, should_stop: Callable[[], bool]) -> Watched:
        """Follow and compare, alone in a loop, until `should_stop` or until it is done, and return what it came to.

        Raises what `Loop.run` does.
        """
        limits = self._limits
        pauses = Pauses(limits.poll_seconds, limits.pause_seconds, limits.pause_seconds_max)
        Loop([self], metrics=self._metrics, health=self._health, log=self._log, pauses=pauses).run(should_stop)
        return self.end()

    def end(self) -> Watched:
        """Say that it has ended, and return what it came to."""
        self._log.info("ended", rounds=self._rounds, events=self._events, position=self._position)
        found = self._comparing.result if self._rounds else None
        # What was suspected when the round ended has settled since, so the round is asked only now.
        if found is None:
            return Watched(self._rounds, self._compared, self._events, self._position)
        came_to = found.compared, self._events, self._position, found.verdict, found.rejected
        return Watched(self._rounds, *came_to)

    def is_done(self) -> bool:
        """Say whether its rounds are whole, and nothing is suspected any more."""
        return self._rounds_max is not None and self._rounds >= self._rounds_max and self._suspected == 0

    def has_answered(self) -> bool:
        """Say whether the last step compared, if comparing is what failed."""
        return self._is_comparing or not self._failed_comparing

    def let_go(self) -> None:
        """Close the connections of the comparison, which failed or may fail next."""
        self._failed_comparing, self._is_comparing = self._is_comparing, False
        self._comparing.close()

    def step(self) -> bool:
        """Do each thing once, and say whether there was something to do."""
        if not self._has_started:
            self._has_started = True
            shadow = self._following.shadow
            self._log.info("started", shadow=shadow.name, source=shadow.source, started_from=shadow.started_from)
        self._is_comparing = False
        step = self._following.step()
        self._stepped(step)
        if not self._has_looked_at_age:
            self._look_at_age()
        did = step.events > 0
        if self._may_compare(step) and self._comparing.due():
            self._is_comparing = True
            did = self._compare() or did
        if self._suspected and time.monotonic() - self._settled_at >= self._limits.settle_seconds:
            self._is_comparing = True
            self._settle(step)
        return did

    def _stepped(self, step: Step) -> None:
        self._events += step.events
        self._position = step.position
        self._newest_at = step.recorded_at or self._newest_at
        self._metrics.stepped(step, newest_at=self._newest_at, now=self._now())
        if self._is_held_back != (step.held_back_events > 0):
            self._is_held_back = step.held_back_events > 0
            says = "a transaction that was left open on the topic holds back what comes after it"
            self._log.warning(says if self._is_held_back else "nothing is held back", events=step.held_back_events)
        is_near = step.lag_events <= self._limits.lag_events_max
        self._behind_since = None if is_near else self._behind_since or time.monotonic()
        if self._first_position is None:
            self._first_position = step.position
        # A shadow that is near without having moved may only not have begun to read.
        has_moved = step.events > 0 or step.position != self._first_position
        # A watch that ends by itself says how far it followed, which is then where the head was.
        is_begun = step.lag_events == 0 or (has_moved and self._rounds_max is None)
        if is_near and is_begun and not self._has_caught_up:
            self._has_caught_up = True
            self._log.info("caught up", position=step.position, events=self._events)
            self._suspected = self._reactions.counts().suspected
            self._metrics.parked_accounts.set(self._parked())

    def _may_compare(self, step: Step) -> bool:
        if not self._has_caught_up:
            return False
        now = time.monotonic()
        if self._comparing.after is None and now - self._round_began < self._limits.rounds_apart_seconds:
            return False
        if step.lag_events <= self._limits.lag_events_max or self._behind_since is None:
            return True
        return now - self._behind_since >= self._limits.lag_seconds_max

    def _compare(self) -> bool:
        after = self._comparing.after
        if after is None:
            self._round_began = time.monotonic()
        chunk = self._comparing.step(self._reactions.note)
        self._times_elsewhere = 0 if chunk is not None else self._times_elsewhere + 1
        if chunk is not None:
            self._suspect(self._reactions.say().suspected)
            if chunk.until is None:
                self._whole()
        elif self._times_elsewhere == 2:
            self._log.info("another process compares; this one follows, and takes over when that one ends")
        self._look_at_age()
        return chunk is not None

    def _look_at_age(self) -> None:
        now = self._now()
        age = self._comparing.oldest_age_seconds(now)
        self._has_looked_at_age = True
        if age is not None:
            self._metrics.compared(now - timedelta(seconds=age))

    def _whole(self) -> None:
        """Take note that a round is whole, if this process has compared all of it."""
        found = self._comparing.result
        self._metrics.parked_accounts.set(self._parked())
        # Of a round that another process began, what happened since to the accounts that it had compared is not known.
        if found is None:
            return
        seconds = time.monotonic() - self._round_began
        self._metrics.rounds.labels(found.verdict).inc()
        self._metrics.round_seconds.observe(seconds)
        if not found.drifted:
            self._reactions.round_found_none()
        self._rounds += 1
        self._compared = found.compared
        counts = self._reactions.counts()
        came_to = {"verdict": found.verdict, "compared": found.compared, **counts._asdict()}
        self._rounds_unsaid += 1
        # Most rounds come to what the one before did.
        if came_to == self._came_to and time.monotonic() < self._say_again_at:
            return
        values = {"rounds": self._rounds_unsaid, "seconds": round(seconds, 3), "position": self._position}
        self._log.info("round finished", **came_to, **values)
        self._came_to, self._rounds_unsaid = came_to, 0
        self._say_again_at = time.monotonic() + self._limits.unsaid_seconds_max

    def _settle(self, step: Step) -> None:
        self._settled_at = time.monotonic()

        def note(connection: Connection, settled: Settled) -> None:
            self._reactions.note_settled(connection, settled, step.position)

        found = self._comparing.settle(note)
        if found is None:
            # Another process looks at them, and the table has what came of that.
            self._suspected = self._reactions.counts().suspected
        elif any(found):
            self._suspect(self._reactions.say().suspected)

    def _suspect(self, noted: int) -> None:
        # What is known to drift is not noted as suspected when its rows change, and has to settle all the same.
        self._suspected = max(noted, self._comparing.suspected)
