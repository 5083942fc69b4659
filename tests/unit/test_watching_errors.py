"""What a watch does about what fails: it loses no finding, lets go of what cannot be closed, and ends where it must."""

from __future__ import annotations

from datetime import timedelta

import pytest
from ledgers import append, change_row
from samples import account_stream
from sqlalchemy.exc import OperationalError, ProgrammingError
from watched_fakes import NOW, QUICK, FakeComparing, FakeFollowing, Watch, chunk, drifted

from console.drift_answers import watched_answer
from consumers import project
from consumers.metrics import Metrics
from consumers.shadow import StoreShadow
from consumers.watching import Watched, Watching
from ledger import Store
from replay.comparison.chunk import Settled
from replay.comparison.own import OwnPair
from replay.comparison.rejected import SEE_REJECTS
from replay.comparison.rounds import Rounds
from schemas.errors import StoreError, UsageError


def test_no_finding_is_lost_where_the_database_hiccups_after_the_cursor_moved(store: Store) -> None:
    """Drift of a chunk is in the answer although the database did not answer right behind that chunk."""
    append(store, *account_stream("a", 4))
    project(store)
    change_row(store, "a", balance=7)
    pair = OwnPair(store)
    rounds = Rounds(store, pair)
    ages, real = 0, rounds.oldest_age_seconds

    def hiccups(now: object) -> float | None:
        nonlocal ages
        ages += 1
        if ages == 2:
            raise OperationalError("select", {}, Exception("database is locked"))
        return real(now)

    rounds.oldest_age_seconds = hiccups
    watch = Watch(store, FakeFollowing(), FakeComparing(chunk(None)))
    with_real = Watching(
        StoreShadow(store),
        rounds,
        watch.reactions(pair.name),
        metrics=watch.metrics,
        health=watch.health,
        log=watch.log,
        limits=QUICK,
        rounds_max=1,
    )
    watched = with_real.run(lambda: False)
    answer = watched_answer(store, pair.name, watched, live="read_model")
    assert len(watch.log.of("does not answer")) == 1
    assert (watched.verdict, answer.verdict, answer.fields["drifted"]) == ("DRIFT", "DRIFT", 1)
    assert watch.log.of("drift found")[0]["account_id"] == "a"


def test_what_cannot_be_closed_ends_nothing(store: Store) -> None:
    """Where the comparison cannot even be let go of while its database is down, the loop waits and goes on."""
    comparing = FakeComparing(StoreError("the live table does not answer"), chunk(None))

    def fails() -> None:
        msg = "nor does it close"
        raise StoreError(msg)

    comparing.close = fails  # type: ignore[method-assign]
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)
    assert watch.run().rounds == 1
    assert watch.log.of("cannot be let go of") == [{"task": "drift", "error": "nor does it close"}]


@pytest.mark.parametrize(
    "error",
    [
        ProgrammingError("select", {}, Exception("permission denied")),
        UsageError("column 'mark' of [live.mark] is missing"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_waiting_does_not_help_against_ends_the_loop(store: Store, error: Exception) -> None:
    """A wrong query, a right that is missing or a wrong setting ends the loop with its reason, and is not retried."""
    comparing = FakeComparing(error)
    watch = Watch(store, FakeFollowing(), comparing)
    with pytest.raises(type(error)):
        watch.run(turns=5)
    assert (comparing.given, watch.log.of("does not answer")) == (1, [])


def test_who_waits_for_the_lease_takes_suspicions_from_the_table(store: Store) -> None:
    """A process whose looks are another's counts as suspected what the table has, and ends when that is nothing."""
    comparing = FakeComparing(chunk(None, suspected=("a",)))
    comparing.settles = [None] * 1_000

    def only_once(asked: int) -> None:
        comparing.is_due = comparing.given == 0
        if asked == 5:
            with store.writing() as connection:
                watch.reactions("own").note_settled(connection, Settled([], ["a"], []), 100)

    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)
    watch.run(turns=100, at=only_once)
    assert 0 < comparing.settled < 10
    assert watch.findings == []


def test_the_answer_tells_the_last_round(store: Store) -> None:
    """The verdict and the unread rows of the last whole round are in the answer, which is no better than these."""
    comparing = FakeComparing(chunk(None))
    comparing.rejected = 3
    watched = Watch(store, FakeFollowing(), comparing, rounds_max=1).run()
    assert (watched.verdict, watched.rejected) == ("INCOMPARABLE", 3)
    answer = watched_answer(store, "own", watched, live="foreign")
    assert (answer.verdict, answer.fields["rejected"]) == ("INCOMPARABLE", 3)
    assert f"3 live rows could not be read: {SEE_REJECTS}" in answer.notes


@pytest.mark.parametrize(("round_verdict", "verdict"), [("EQUAL", "EQUAL"), ("DRIFT", "DRIFT"), ("INCOMPARABLE",) * 2])
def test_no_open_finding_is_no_better_than_the_round(store: Store, round_verdict: str, verdict: str) -> None:
    """Where nothing is open but the last whole round found something, the answer is not EQUAL."""
    answer = watched_answer(store, "own", Watched(1, 3, 0, 100, round_verdict, 0), live="foreign")
    assert answer.verdict == verdict


def test_ages_grow_while_nothing_can_be_compared(store: Store) -> None:
    """While the database of the live table is away the age of the oldest chunk grows from scrape to scrape."""
    now = NOW
    watch = Watch(store, FakeFollowing(), FakeComparing(chunk(None), *[StoreError("gone")] * 1_000))
    watch.metrics = Metrics(now=lambda: now)
    looping = Watching(
        FakeFollowing(),
        watch.comparing,
        watch.reactions("own"),
        metrics=watch.metrics,
        health=watch.health,
        log=watch.log,
        limits=QUICK,
        now=lambda: NOW,
    )
    asked = 0

    def should_stop() -> bool:
        nonlocal asked, now
        asked += 1
        now = NOW + timedelta(seconds=asked)
        return asked > 5

    looping.run(should_stop)
    assert len(watch.log.of("does not answer")) > 0
    assert watch.gauge("oldest_uncompared_chunk_age_seconds") == 7 + asked


def test_drift_is_noted_in_the_table_before_anything_is_said(store: Store) -> None:
    """Where the transaction of a chunk fails nothing is said of it; it is said once the chunk is noted."""
    comparing = FakeComparing(chunk(None, drifted("a")))
    watch = Watch(store, FakeFollowing(), comparing, rounds_max=1)
    real, fails = comparing.store.writing, [True]

    class Breaking:
        """A store whose first transaction is not committed."""

        def writing(self) -> object:
            """Begin a transaction."""
            if fails.pop() if fails else False:
                raise OperationalError("commit", {}, Exception("gone"))
            return real()

    comparing.store = Breaking()
    watch.run()
    assert len(watch.log.of("drift found")) == 1
    assert watch.findings == [("a", "drift")]
