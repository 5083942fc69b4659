"""A loop over fakes: a shadow whose steps and a comparison whose chunks are given, and what the loop left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from consumers.health import Health
from consumers.metrics import Metrics
from consumers.reactions import Reactions
from consumers.shadow import Step
from consumers.watching import Limits, Watched, Watching
from ledger import Store, findings
from ledger.shadows import Shadow
from replay.comparison.chunk import Chunk, Settled
from replay.comparison.rounds import Note, NoteSettled
from replay.differences import Drifted

__all__ = ["NOW", "QUICK", "FakeComparing", "FakeFollowing", "Watch", "chunk", "drifted"]

NOW = datetime(2026, 5, 1, tzinfo=UTC)
QUICK = Limits(
    lag_events_max=10,
    poll_seconds=0.0,
    settle_seconds=0.0,
    rounds_apart_seconds=0.0,
    pause_seconds=1e-6,
    lag_seconds_max=1e9,
)


def drifted(account_id: str) -> Drifted:
    """A difference that is certain."""
    return Drifted(
        account_id=account_id,
        field="balance",
        live=1,
        replayed=2,
        difference=-1,
        cause="missed_event",
        first_event=f"{account_id}:2",
        evidence="so",
    )


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **values: object) -> None:
        self.lines.append(("info", event, values))

    def warning(self, event: str, **values: object) -> None:
        self.lines.append(("warning", event, values))

    def error(self, event: str, **values: object) -> None:
        self.lines.append(("error", event, values))

    def of(self, event: str) -> list[dict[str, object]]:
        """The values of every line about something."""
        return [values for _, said, values in self.lines if said == event]


class FakeFollowing:
    """A shadow whose steps are given: a number of events behind, or what is raised; then it is at the head."""

    def __init__(self, *steps: int | Exception) -> None:
        self.steps = list(steps)
        self.position = 100
        self.shadow = Shadow("shadow", -1, "store", "ledger", None, "zero")

    def step(self) -> Step:
        """Do the next step."""
        lag = self.steps.pop(0) if self.steps else 0
        if isinstance(lag, Exception):
            raise lag
        return Step(1 if lag else 0, self.position, self.position + lag, lag, NOW if lag else None)

    def close(self) -> None:
        """Nothing to let go of."""


class FakeRound(NamedTuple):
    """What a whole round came to."""

    verdict: str
    compared: int
    drifted: list[str]
    rejected: int = 0


class FakeComparing:
    """A comparison whose chunks are given, None while another process compares; it goes round over them again.

    What it notes it notes in a transaction of `store`, as `Rounds` does; without one nothing is noted.
    """

    def __init__(self, *chunks: Chunk | Exception | None, after: str | None = None) -> None:
        self.store: Store | None = None
        self.rejected = 0
        self.chunks = list(chunks)
        self.given = 0
        self.after = after
        self.settles: list[Settled | None] = []
        self.settled = 0
        self.closed = 0
        self.found: list[Drifted] = []
        self.result: FakeRound | None = None
        self.is_due = True
        self.is_mine = False
        self.suspected = 0

    def due(self) -> bool:
        """Say whether a chunk may be compared."""
        return self.is_due

    def step(self, note: Note) -> Chunk | None:
        """Give the next chunk."""
        chunk = self.chunks[self.given % len(self.chunks)]
        self.given += 1
        if isinstance(chunk, Exception):
            raise chunk
        if chunk is None:
            return None
        assert self.store is not None
        with self.store.writing() as connection:
            note(connection, chunk, self.after)
        self.is_mine = self.is_mine or self.after is None
        self.found += chunk.drifted
        if chunk.until is None:
            names = [each.account_id for each in self.found]
            verdict = "INCOMPARABLE" if self.rejected else "DRIFT" if names else "EQUAL"
            self.result = FakeRound(verdict, 3, names, self.rejected) if self.is_mine else None
            self.found = []
        self.after = chunk.until
        return chunk

    def settle(self, note: NoteSettled) -> Settled | None:
        """Give what became of suspects."""
        self.settled += 1
        found = self.settles.pop(0) if self.settles else Settled([], [], [])
        if found is not None and any(found):
            assert self.store is not None
            with self.store.writing() as connection:
                note(connection, found)
        return found

    def oldest_age_seconds(self, now: datetime) -> float | None:
        """Say how long ago the oldest chunk was compared."""
        assert now == NOW
        return 7.0

    def close(self) -> None:
        """Count that it let go."""
        self.closed += 1

    def release(self) -> None:
        """Nobody else is there."""


def chunk(until: str | None = None, *found: Drifted, suspected: tuple[str, ...] = (), **more: Any) -> Chunk:
    """A chunk of a round."""
    return Chunk(until, 3, list(found), list(suspected), more.get("uncompared", []), 100)


class Watch:
    """A loop over fakes, and what it left."""

    def __init__(self, store: Store, following: FakeFollowing, comparing: FakeComparing, **options: Any) -> None:
        self.log = Lines()
        self.metrics = Metrics(now=lambda: NOW)
        comparing.store = store
        self.health = Health(healthy_seconds=60)
        self.alerts = 0
        self.store = store
        self.comparing = comparing
        self.watching = Watching(
            following,
            comparing,
            self.reactions("own"),
            metrics=self.metrics,
            health=self.health,
            log=self.log,
            now=lambda: NOW,
            **({"limits": QUICK} | options),
        )

    def reactions(self, comparison: str) -> Reactions:
        """What is done about the findings of a comparison."""
        reactions = Reactions(self.store, comparison, metrics=self.metrics, log=self.log, now=lambda: NOW)
        reactions.alert_by(self._alert)
        return reactions

    def _alert(self) -> None:
        self.alerts += 1

    def run(self, turns: int = 1_000, at: Callable[[int], None] = lambda _: None) -> Watched:
        """Run until the loop ends, or has asked so often whether to stop."""
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            at(asked)
            return asked > turns

        return self.watching.run(should_stop)

    def gauge(self, name: str, **labels: str) -> float | None:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(f"ledger_replay_{name}", labels)

    @property
    def findings(self) -> list[tuple[str, str]]:
        """Account and state of every open finding."""
        with self.store.snapshot() as connection:
            return [(each.account_id, each.state) for each in findings.listed(connection)]
