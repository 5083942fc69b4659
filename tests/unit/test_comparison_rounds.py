"""Rounds of a comparison: how large a chunk is, when it is due, who compares, and where it goes on."""

from __future__ import annotations

import random

import pytest
from fake_rounds import BEGAN, LEASE, Clock, FakePair, differs, rounds_of, run_round
from sqlalchemy import select

from ledger import Store, comparisons
from ledger.tables import COMPARED
from replay.comparison.chunk import Settled, Uncompared
from replay.comparison.rounds import ROWS_FIRST, ROWS_MAX, ROWS_MIN
from schemas.errors import PositionMoved


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def keys_of(store: Store) -> list[str]:
    """The last keys of the chunks that cover the accounts."""
    with store.snapshot() as connection:
        return sorted(connection.execute(select(COMPARED.c.until_key)).scalars())


def test_chunks_grow_to_the_time_they_may_take(store, clock):
    """Where rows are cheap the next chunk is larger, at most four times, and never past the most."""
    pair = FakePair(clock, keys=10**7, row_seconds=1e-6)
    rounds = rounds_of(store, pair)
    for _ in range(4):
        rounds.step()
    assert pair.asked == [ROWS_FIRST, 4 * ROWS_FIRST, 16 * ROWS_FIRST, ROWS_MAX]


def test_chunks_shrink_where_they_take_too_long(store, clock):
    """Where rows are dear the next chunk is smaller, and never under the least."""
    pair = FakePair(clock, keys=10**7, row_seconds=1e-2)
    rounds = rounds_of(store, pair)
    for _ in range(4):
        rounds.step()
    assert pair.asked == [ROWS_FIRST, ROWS_FIRST // 4, ROWS_MIN, ROWS_MIN]
    pair.row_seconds = 1e-4
    rounds.step()
    rounds.step()
    assert pair.asked[-1] == 4 * ROWS_MIN
    rounds.step()
    assert pair.asked[-1] == 2_500


@pytest.mark.parametrize(("load_max", "pause"), [(0.5, 0.1), (0.25, 0.3), (0.8, 0.025)])
def test_it_is_due_again_after_a_pause(store, clock, load_max, pause):
    """Comparing takes no more than its share of the time."""
    rounds = rounds_of(store, FakePair(clock, row_seconds=2e-5), load_max=load_max)
    assert rounds.due()
    rounds.step()
    clock.seconds = 0.1 + pause - 0.001
    assert not rounds.due()
    clock.seconds = 0.1 + pause + 0.001
    assert rounds.due()


def test_rounds_follow_each_other(store, clock):
    """A round that is whole has a result, and the next begins at the first key."""
    pair = FakePair(clock)
    pair.drifted = {7: differs("7"), 15_000: differs("15000")}
    rounds = rounds_of(store, pair)
    assert rounds.result is None
    run_round(rounds)
    assert rounds.after is None
    result = rounds.result
    assert (result.number, result.verdict, result.compared, result.drifted) == (1, "DRIFT", 20_000, ["7", "15000"])
    pair.drifted = {}
    run_round(rounds)
    assert (rounds.result.number, rounds.result.verdict, rounds.result.compared) == (2, "EQUAL", 20_000)
    assert pair.begun == [None, None]


def test_suspects_settle_into_the_result(store, clock):
    """A suspected account is neither equal nor drift until it settles, in this round or after it."""
    pair = FakePair(clock, keys=100)
    pair.suspected = ["a", "b", "c", "d"]
    rounds = rounds_of(store, pair)
    run_round(rounds)
    assert rounds.result.verdict == "INCOMPARABLE"
    pair.settled = Settled([differs("a")], ["b"], [])
    assert rounds.settle() == pair.settled
    assert (rounds.result.drifted, rounds.result.suspected) == (["a"], ["c", "d"])
    pair.settled = Settled(
        [], ["c"], [Uncompared(account_id="d", reason="moves"), Uncompared(account_id="x", reason="")]
    )
    assert rounds.result.compared == 100
    rounds.settle()
    assert (rounds.result.suspected, [each.account_id for each in rounds.result.uncompared]) == ([], ["d"])
    # It was not compared after all.
    assert rounds.result.compared == 99


def test_another_process_goes_on_where_one_ended(store, clock):
    """The next one begins behind the last chunk, after the lease has passed, and has no result of half a round."""
    first = rounds_of(store, FakePair(clock))
    assert first.step().until == "005000"
    pair = FakePair(clock)
    second = rounds_of(store, pair)
    assert second.step() is None
    clock.seconds += 31
    # The first step after somebody else says where it goes on.
    assert second.step() is None
    assert second.after == "005000"
    run_round(second)
    assert (pair.begun, second.result) == (["005000"], None)
    run_round(second)
    assert second.result.compared == 20_000
    assert first.step() is None


def test_a_released_lease_is_free_at_once(store, clock):
    """Who ends well keeps nobody waiting, and closes its pair."""
    pair = FakePair(clock)
    first, second = rounds_of(store, pair), rounds_of(store, FakePair(clock))
    run_round(first)
    first.release()
    assert pair.closed == 1
    assert second.step() is not None


def test_a_chunk_that_took_longer_than_the_lease_is_void(store, clock):
    """Whoever took over meanwhile compares it: it is not noted twice."""
    pair, other = FakePair(clock), FakePair(clock)
    first, second = rounds_of(store, pair), rounds_of(store, other)

    def take_over() -> None:
        clock.seconds += 31
        assert second.step().until == "005000"

    pair.during = take_over
    assert first.step() is None
    assert pair.closed == 1
    pair.during = lambda: None
    assert first.step() is None
    assert second.step().until is not None or second.after is None
    assert keys_of(store)[0] in {"", "005000"}


def test_after_closing_it_goes_on_at_its_cursor(store, clock):
    """A closed pair is begun again behind the last chunk, and the round keeps its result."""
    pair = FakePair(clock)
    rounds = rounds_of(store, pair)
    rounds.step()
    rounds.close()
    run_round(rounds)
    assert pair.begun == [None, "005000"]
    assert rounds.result.compared == 20_000


@pytest.mark.parametrize("seed", range(10))
def test_there_are_never_two_holders(store, seed):
    """Of several processes with random pauses each key of a round is noted once, in order, without a hole."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    clock = Clock()
    everyone = [rounds_of(store, FakePair(clock, keys=60_000, row_seconds=1e-4)) for _ in range(3)]
    noted: list[tuple[str | None, str | None]] = []
    for _ in range(60):
        rounds = chance.choice(everyone)
        after = rounds.after
        chunk = rounds.step()
        if chunk is not None:
            noted.append((after, chunk.until))
        if chance.random() < 0.2:
            clock.seconds += chance.choice([10, 31])
        if chance.random() < 0.1:
            chance.choice(everyone).release()
    assert len(noted) > 5
    assert noted[0][0] is None
    assert [after for after, _ in noted[1:]] == [until for _, until in noted[:-1]]


def test_the_oldest_chunk_has_the_age(store, clock):
    """Before the first whole round it is that of the comparison, then that of the chunk that waited longest."""
    pair = FakePair(clock, keys=10**6, row_seconds=0)
    rounds = rounds_of(store, pair)
    assert rounds.oldest_age_seconds(clock.now()) is None
    rounds.step()
    clock.seconds = 10
    assert rounds.oldest_age_seconds(clock.now()) == 10
    run_round(rounds)
    # The first chunk is of second 0, the rest of second 10.
    assert rounds.oldest_age_seconds(clock.now()) == 10
    clock.seconds = 20
    rounds.step()
    assert rounds.oldest_age_seconds(clock.now()) == 10
    clock.seconds = 25
    run_round(rounds)
    assert rounds.oldest_age_seconds(clock.now()) == 5


def test_chunks_cover_every_key_once(store):
    """Chunks of other sizes take the place of those that they cover, and the end stays covered."""
    with store.writing() as connection:
        found = comparisons.take(connection, "any", "me", now=BEGAN, lease=LEASE)
        for until in ("b", "d", "f", None, "c", "e", None):
            found = comparisons.compared(connection, found, until, now=BEGAN, lease=LEASE)
            if until == "c":
                # b is within the new chunk; d covers what is left of the old one.
                keys = set(connection.execute(select(COMPARED.c.until_key)).scalars())
                assert keys == {"", "c", "d", "f"}
        assert set(connection.execute(select(COMPARED.c.until_key)).scalars()) == {"", "c", "e"}
        assert found.round == 3


def test_a_cursor_moves_only_for_who_holds_it(store):
    """A process whose lease was taken over, or that is at another key, is told and notes nothing."""
    with store.writing() as connection:
        mine = comparisons.take(connection, "any", "me", now=BEGAN, lease=LEASE)
        assert comparisons.take(connection, "any", "you", now=BEGAN + LEASE, lease=LEASE) is None
        yours = comparisons.take(connection, "any", "you", now=BEGAN + LEASE * 1.1, lease=LEASE)
        for stale in (mine, yours._replace(after_key="x"), yours._replace(round=7)):
            with pytest.raises(PositionMoved, match="another process"):
                comparisons.compared(connection, stale, "k", now=BEGAN, lease=LEASE)
        assert keys_of(store) == []
        comparisons.release(connection, "any", "me")
        assert comparisons.find(connection, "any").holder == "you"
