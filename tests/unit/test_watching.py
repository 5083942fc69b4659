"""The loop that follows and compares: what it compares when, what it tells, and what it waits for or ends with."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError
from watched_fakes import QUICK, FakeComparing, FakeFollowing, Watch, chunk, drifted

from consumers.shadow import Step
from consumers.watching import Watched
from ledger import Store, incidents
from replay.comparison.chunk import Settled, Uncompared
from schemas.errors import BrokerError, BrokerRefused, PositionMoved, RefusedError, StoreError


def test_rounds_end_the_loop(store: Store) -> None:
    """With a number of rounds the loop ends after so many whole ones, whatever their chunks."""
    comparing = FakeComparing(chunk("b"), chunk("d"), chunk(None))
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=2)
    assert watch.run() == Watched(2, 3, 0, 100, "EQUAL", 0)
    assert comparing.given == 6
    assert watch.gauge("rounds_total", verdict="EQUAL") == 2
    assert watch.gauge("oldest_uncompared_chunk_age_seconds") == 7
    assert [values["verdict"] for values in watch.log.of("round finished")] == ["EQUAL"]
    assert (watch.gauge("up"), watch.gauge("ready")) == (0, 0)


def test_rounds_are_said_where_they_come_to_something_else(store: Store) -> None:
    """A round like the one before has no line of its own; the next line says how many rounds it stands for."""
    quiet, bad = [chunk(None)] * 3, [chunk(None, drifted("a"))] * 2
    watch = Watch(store, FakeFollowing(), FakeComparing(*quiet, *bad, chunk(None)), rounds_max=6)
    watch.run()
    said = [(values["rounds"], values["verdict"], values["drifted"]) for values in watch.log.of("round finished")]
    assert said == [(1, "EQUAL", 0), (3, "DRIFT", 1), (2, "EQUAL", 0)]


def test_rounds_that_come_to_the_same_are_said_once_in_a_while(store: Store) -> None:
    """Once the last line is old enough, the next round says that all is as it was."""
    often = QUICK._replace(unsaid_seconds_max=0.0)
    watch = Watch(store, FakeFollowing(), FakeComparing(chunk(None)), rounds_max=3, limits=often)
    watch.run()
    assert [values["rounds"] for values in watch.log.of("round finished")] == [1, 1, 1]


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
    assert (len(watch.log.of("incident begun")), len(watch.log.of("incident over"))) == (1, 1)
    assert watch.alerts >= 2
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
    watch = Watch(store, FakeFollowing(1_000, 500, 11, 10), comparing)
    watch.run(turns=4, at=lambda _: seen.append((watch.gauge("ready"), comparing.given)))
    assert seen == [(0, 0), (0, 0), (0, 0), (0, 0), (1, 1)]
    assert len(watch.log.of("caught up")) == 1


def test_a_watch_that_ends_by_itself_follows_to_the_head_first(store: Store) -> None:
    """With a number of rounds nothing is compared before the head, so what it says of its place is where that was."""
    seen: list[int] = []
    comparing = FakeComparing(chunk(None))
    watch = Watch(store, FakeFollowing(11, 10, 3), comparing, rounds_max=1)
    watch.run(at=lambda _: seen.append(comparing.given))
    assert seen == [0, 0, 0, 0, 1]


def test_what_was_given_up_after_the_round_was_not_compared(store: Store) -> None:
    """How many accounts were compared is asked at the end, when what was suspected has settled."""
    comparing = FakeComparing(chunk(None))
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)

    def give_up(_: int) -> None:
        if comparing.result is not None:
            comparing.result = comparing.result._replace(compared=2)

    assert watch.run(at=give_up).compared == 2


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


def test_what_an_open_transaction_holds_back_is_told_once(store: Store) -> None:
    """The shadow has all that can be read, so it is compared; what it cannot read is a warning until it can."""

    class HeldBack(FakeFollowing):
        def step(self) -> Step:
            """Be where the topic can be read to, with something behind that twice."""
            held_back = 3 if self.steps else 0
            self.steps = self.steps[1:]
            return Step(0, 5, 5, 0, None, held_back)

    comparing = FakeComparing(chunk(None))
    watch = Watch(store, HeldBack(1, 2), comparing)
    watch.run(turns=4)
    assert comparing.given
    told = [(level, values) for level, event, values in watch.log.lines if event.endswith(("after it", "held back"))]
    assert told == [("warning", {"events": 3}), ("warning", {"events": 0})]


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
    assert watch.run() == Watched(1, 3, 4, 100, "EQUAL", 0)
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


def test_following_does_not_hide_that_comparing_fails(store: Store) -> None:
    """While the live table is away and no chunk is due, the shadow steps; that is no end of the outage."""
    away = StoreError("the live table does not answer")
    comparing = FakeComparing(away, away, chunk(None), chunk(None))
    watch = Watch(store, FakeFollowing(), comparing, limits=QUICK._replace(pause_seconds_max=8e-6), rounds_max=1)

    def turned(turn: int) -> None:
        # Every other turn nothing is due.
        comparing.is_due = turn % 2 == 0

    watch.run(at=turned)
    assert [line["again_in_seconds"] for line in watch.log.of("does not answer")] == [1e-6, 2e-6]
    assert len(watch.log.of("goes on")) == 1


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
    assert (second.log.of("drift found"), second.log.of("incident begun")) == ([], [])
    assert second.gauge("drifted_accounts") == 1


def test_a_second_process_tells_what_the_first_left_untold(store: Store) -> None:
    """Drift whose process ended before it told anybody is told by the next one; what was told wakes nobody."""
    bad = (chunk("b", drifted("a")), chunk(None))
    Watch(store, FakeFollowing(), FakeComparing(*bad), rounds_max=1).run()
    second = Watch(store, FakeFollowing(), FakeComparing(*bad), rounds_max=1)
    second.run()
    assert second.alerts > 0
    with store.writing() as connection:
        alert = incidents.due(connection, "own")
        assert alert is not None
        incidents.note_told(connection, alert, now="2026-05-01T00:00:01Z")
    third = Watch(store, FakeFollowing(), FakeComparing(*bad), rounds_max=1)
    third.run()
    assert third.alerts == 0
