"""The loop that follows and compares: what it compares when, what it tells, and what it waits for or ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy.exc import OperationalError

from consumers.health import Health
from consumers.metrics import Metrics
from consumers.reactions import Reactions
from consumers.shadow import Step
from consumers.watching import Limits, Watched, Watching
from ledger import Store, findings, incidents
from ledger.shadows import Shadow
from replay.comparison.chunk import Chunk, Settled, Uncompared
from replay.differences import Drifted
from schemas.errors import BrokerError, BrokerRefused, PositionMoved, RefusedError, StoreError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
QUICK = Limits(
    lag_events_max=10,
    poll_seconds=0.0,
    settle_seconds=0.0,
    rounds_apart_seconds=0.0,
    pause_seconds=1e-6,
    lag_seconds_max=1e9,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with nothing in it."""
    opened = Store.at(tmp_path)
    yield opened
    opened.close()


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


class FakeComparing:
    """A comparison whose chunks are given, None while another process compares; it goes round over them again."""

    def __init__(self, *chunks: Chunk | Exception | None, after: str | None = None) -> None:
        self.chunks = list(chunks)
        self.given = 0
        self.after = after
        self.settles: list[Settled] = []
        self.settled = 0
        self.closed = 0
        self.found: list[Drifted] = []
        self.result: FakeRound | None = None
        self.is_due = True
        self.is_mine = False

    def due(self) -> bool:
        """Say whether a chunk may be compared."""
        return self.is_due

    def step(self) -> Chunk | None:
        """Give the next chunk."""
        chunk = self.chunks[self.given % len(self.chunks)]
        self.given += 1
        if isinstance(chunk, Exception):
            raise chunk
        if chunk is None:
            return None
        self.is_mine = self.is_mine or self.after is None
        self.found += chunk.drifted
        if chunk.until is None:
            names = [each.account_id for each in self.found]
            self.result = FakeRound("DRIFT" if names else "EQUAL", 3, names) if self.is_mine else None
            self.found = []
        self.after = chunk.until
        return chunk

    def settle(self) -> Settled:
        """Give what became of suspects."""
        self.settled += 1
        return self.settles.pop(0) if self.settles else Settled([], [], [])

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
        self.metrics = Metrics()
        self.health = Health(healthy_seconds=60)
        self.alerts = 0
        reactions = Reactions(store, "own", metrics=self.metrics, log=self.log, now=lambda: NOW)
        reactions.alert_by(self._alert)
        self.store = store
        self.watching = Watching(
            following,
            comparing,
            reactions,
            metrics=self.metrics,
            health=self.health,
            log=self.log,
            now=lambda: NOW,
            **({"limits": QUICK} | options),
        )

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


def test_rounds_end_the_loop(store: Store) -> None:
    """With a number of rounds the loop ends after so many whole ones, whatever their chunks."""
    comparing = FakeComparing(chunk("b"), chunk("d"), chunk(None))
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=2)
    assert watch.run() == Watched(2, 3, 0, 100)
    assert comparing.given == 6
    assert watch.gauge("rounds_total", verdict="EQUAL") == 2
    assert watch.gauge("oldest_uncompared_chunk_age_seconds") == 7
    assert [values["verdict"] for values in watch.log.of("round finished")] == ["EQUAL", "EQUAL"]
    assert (watch.gauge("up"), watch.gauge("ready")) == (0, 0)


def test_a_round_that_another_process_began_does_not_count(store: Store) -> None:
    """A round that goes on behind a key was begun before, so it says nothing of what came since."""
    comparing = FakeComparing(chunk(None), after="m")
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)
    assert watch.run().rounds == 1
    assert comparing.given == 2


def test_drift_is_told_once_and_its_end_once(store: Store) -> None:
    """Drift that lasts is one finding, one incident, one log line; a whole round without it ends the incident."""
    bad, good = [chunk("b", drifted("a")), chunk(None)], [chunk("b"), chunk(None)]
    watch = Watch(store, FakeFollowing(), FakeComparing(*bad, *bad, *good), rounds_max=3)
    watch.run()
    (line,) = watch.log.of("drift found")
    assert line == {
        "account_id": "a",
        "field": "balance",
        "live": "1",
        "replayed": "2",
        "class": "missed_event",
        "first_event": "a:2",
    }
    assert [values["account_id"] for values in watch.log.of("healed")] == ["a"]
    assert (len(watch.log.of("incident begun")), len(watch.log.of("incident over")), watch.alerts) == (1, 1, 2)
    with store.snapshot() as connection:
        (incident,) = incidents.listed(connection)
    assert incident.healed_at is not None
    assert watch.findings == []
    assert watch.gauge("drifted_accounts") == 0


def test_an_incident_is_not_over_before_a_round_is_whole(store: Store) -> None:
    """Where the account is equal again in the next chunk, the incident goes on until a whole round found none."""
    comparing = FakeComparing(chunk("b", drifted("a")), chunk(None), chunk("b"), chunk(None))
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)
    watch.run()
    assert watch.log.of("incident over") == []
    again = Watch(store, FakeFollowing(), FakeComparing(chunk("b"), chunk(None)), rounds_max=1)
    again.run()
    assert len(again.log.of("incident over")) == 1


def test_a_round_that_found_drift_does_not_end_its_incident(store: Store) -> None:
    """Drift that is gone before its round is whole keeps the incident open until a round found none at all."""
    first = chunk("b", drifted("a"), suspected=("aa",))
    comparing = FakeComparing(first, chunk(None))
    comparing.settles = [Settled([], ["a", "aa"], [])]
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)
    watch.run()
    assert watch.findings == []
    assert watch.log.of("incident over") == []
    again = Watch(store, FakeFollowing(), FakeComparing(chunk(None)), rounds_max=1)
    again.run()
    assert len(again.log.of("incident over")) == 1


def test_nothing_is_compared_before_the_shadow_has_caught_up(store: Store) -> None:
    """While the shadow catches up nothing is compared, and it is not ready."""
    seen: list[tuple[float | None, int]] = []
    comparing = FakeComparing(chunk(None))
    watch = Watch(store, FakeFollowing(1_000, 500, 11, 10), comparing, rounds_max=1)
    watch.run(at=lambda _: seen.append((watch.gauge("ready"), comparing.given)))
    assert seen == [(0, 0), (0, 0), (0, 0), (0, 0), (1, 1)]
    assert len(watch.log.of("caught up")) == 1


def test_a_shadow_that_has_not_begun_to_read_has_not_caught_up(store: Store) -> None:
    """A shadow that is a little behind and does not move waits for its first events, whoever applies them."""

    class Waiting(FakeFollowing):
        def step(self) -> Step:
            """Be behind by three until another instance applies one of them."""
            self.steps = self.steps[1:] or [100]
            position = int(len(self.steps) == 1)
            return Step(0, position, 3, 3 - position, None)

    comparing = FakeComparing(chunk(None))
    watch = Watch(store, Waiting(*range(5)), comparing)
    watch.run(turns=4)
    assert (comparing.given, watch.gauge("ready")) == (1, 0)
    assert watch.log.of("caught up") == [{"position": 1, "events": 0}]


def test_a_shadow_that_falls_behind_is_compared_all_the_same_after_a_while(store: Store) -> None:
    """Behind by much, nothing is compared for a while; for no longer, since it is exact at any position."""
    behind = [0, *[1_000] * 20]
    comparing = FakeComparing(chunk(None))
    Watch(store, FakeFollowing(*behind), comparing).run(turns=20)
    assert comparing.given == 1
    comparing = FakeComparing(chunk(None))
    Watch(store, FakeFollowing(*behind), comparing, limits=QUICK._replace(lag_seconds_max=0.0)).run(turns=20)
    assert comparing.given == 20


def test_a_comparison_that_is_not_due_waits(store: Store) -> None:
    """Where the load allows no chunk, the loop follows and compares nothing."""
    comparing = FakeComparing(chunk(None))
    comparing.is_due = False
    following = FakeFollowing(3, 2, 1)
    assert Watch(store, following, comparing).run(turns=10).events == 3
    assert comparing.given == 0


def test_suspects_are_settled_before_rounds_end(store: Store) -> None:
    """The loop does not end with a suspicion: it looks again until that is drift, the same, or uncompared."""
    comparing = FakeComparing(chunk(None, suspected=("a", "b", "c")))
    comparing.settles = [
        Settled([], [], []),
        Settled([drifted("a")], ["b"], []),
        Settled([], [], [Uncompared(account_id="c", reason="it never held still")]),
    ]
    comparing.is_due = True
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)

    def once(_: int) -> None:
        comparing.is_due = comparing.given == 0

    watch.run(at=once)
    assert watch.findings == [("a", "drift"), ("c", "uncompared")]
    assert len(watch.log.of("incident begun")) == 1
    assert [values["reason"] for values in watch.log.of("not compared")] == ["it never held still"]


def test_while_another_process_compares_this_one_follows(store: Store) -> None:
    """Without the lease nothing is compared, that is said once, and the following goes on."""
    comparing = FakeComparing(None, None, None, chunk(None))
    watch = Watch(store, FakeFollowing(1, 1, 1, 1), comparing, rounds_max=1)
    assert watch.run() == Watched(1, 3, 4, 100)
    assert len(watch.log.of("another process compares; this one follows, and takes over when that one ends")) == 1


@pytest.mark.parametrize(
    "error",
    [
        StoreError("the live table does not answer"),
        BrokerError("no brokers"),
        OperationalError("select", {}, Exception("server closed the connection")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_does_not_answer_is_waited_for(store: Store, error: Exception) -> None:
    """An outage of either side is logged and makes it unready; the loop goes on when it is over."""
    seen: list[float | None] = []
    comparing = FakeComparing(error, chunk("b"), chunk(None), chunk(None))
    watch = Watch(store, FakeFollowing(0, error), comparing, rounds_max=1)
    watch.run(at=lambda _: seen.append(watch.gauge("ready")))
    lines = watch.log.of("does not answer")
    assert len(lines) == 2
    assert all(
        "answer" in str(line["error"]) or "broker" in str(line["error"]) or "server" in str(line["error"])
        for line in lines
    )
    assert len(watch.log.of("goes on")) == 1
    assert watch.gauge("errors_total") == 2
    assert 0 in seen
    assert seen[-1] == 1
    assert comparing.closed == 2


def test_pauses_grow(store: Store) -> None:
    """What goes on failing is asked less and less often, up to a limit, and a stop does not wait for it."""
    limits = QUICK._replace(pause_seconds=1e-6, pause_seconds_max=4e-6)
    watch = Watch(
        store, FakeFollowing(*[BrokerError("none")] * 5), FakeComparing(chunk(None)), limits=limits, rounds_max=1
    )
    watch.run()
    assert [line["again_in_seconds"] for line in watch.log.of("does not answer")] == [1e-6, 2e-6, 4e-6, 4e-6, 4e-6]
    forever = QUICK._replace(pause_seconds=1e9, pause_seconds_max=1e9)
    stopped = Watch(store, FakeFollowing(BrokerError("none")), FakeComparing(chunk(None)), limits=forever)
    assert stopped.run(turns=3).rounds == 0


@pytest.mark.parametrize("error", [RefusedError("no"), BrokerRefused("no"), ValueError("a bug")], ids=repr)
def test_what_says_no_ends_the_loop(store: Store, error: Exception) -> None:
    """What waiting does not help against ends it, with the error, and it is not up any more."""
    watch = Watch(store, FakeFollowing(0, error), FakeComparing(chunk(None)))
    with pytest.raises(type(error), match=str(error)):
        watch.run()
    assert watch.gauge("up") == 0


def test_a_position_that_moved_is_no_end(store: Store) -> None:
    """Where another process was faster, the loop goes on from where things are."""
    watch = Watch(store, FakeFollowing(PositionMoved("faster")), FakeComparing(chunk(None)), rounds_max=1)
    assert watch.run().rounds == 1
    assert watch.gauge("errors_total") == 0


def test_findings_outlive_the_process(store: Store) -> None:
    """A second process finds the drift of the first known: no second incident, no second line."""
    bad = (chunk("b", drifted("a")), chunk(None))
    Watch(store, FakeFollowing(), FakeComparing(*bad), rounds_max=1).run()
    second = Watch(store, FakeFollowing(), FakeComparing(*bad), rounds_max=1)
    second.run()
    assert (second.alerts, second.log.of("drift found"), second.log.of("incident begun")) == (0, [], [])
    assert second.gauge("drifted_accounts") == 1
