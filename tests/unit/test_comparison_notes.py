"""What rounds find is noted in the transaction that moves the cursor, by who has the lease, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fake_rounds import Clock, FakePair, differs, rounds_of, run_round
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from consumers.metrics import Metrics
from consumers.reactions import Reactions
from ledger import Store, comparisons, findings
from replay.comparison.chunk import Chunk, Settled, Uncompared
from replay.comparison.rounds import ROWS_MAX, RoundResult


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


class Silent:
    """A log that keeps nothing."""

    def info(self, event: str, **values: object) -> None:
        """Keep nothing."""

    warning = error = info


def reactions_of(store: Store) -> Reactions:
    """What writes the findings of a comparison."""
    return Reactions(store, "fake", metrics=Metrics(), log=Silent(), now=lambda: datetime(2026, 5, 1, tzinfo=UTC))


def drifting(store: Store) -> list[str]:
    """The accounts with open findings of drift."""
    with store.snapshot() as connection:
        return [each.account_id for each in findings.listed(connection, states=("drift",))]


def cursor(store: Store) -> str | None:
    """The key that the comparison has come to."""
    with store.snapshot() as connection:
        found = comparisons.find(connection, "fake")
        return None if found is None else found.after_key


def test_no_chunk_passes_whose_findings_are_not_written(store, clock):
    """Where the findings cannot be written the cursor stays, and the next step compares the same accounts again."""
    pair = FakePair(clock)
    pair.drifted = {7: differs("7")}
    rounds, reactions = rounds_of(store, pair), reactions_of(store)

    def breaks(connection: Connection, chunk: Chunk, after: str | None) -> None:
        reactions.note(connection, chunk, after)
        raise OperationalError("insert", {}, Exception("database is locked"))

    with pytest.raises(OperationalError):
        rounds.step(breaks)
    assert (cursor(store), drifting(store)) == (None, [])
    pair.row_seconds = 0
    chunk = rounds.step(reactions.note)
    assert pair.begun == [None, None]
    assert [each.account_id for each in chunk.drifted] == ["7"]
    assert (cursor(store), drifting(store)) == (chunk.until, ["7"])


def test_nobody_writes_findings_of_a_chunk_that_is_anothers(store, clock):
    """A process whose lease passed while it compared writes nothing of that chunk."""
    pair = FakePair(clock)
    pair.drifted = {7: differs("7")}
    slow, other = rounds_of(store, pair), rounds_of(store, FakePair(clock))
    noted: list[str | None] = []

    def take_over() -> None:
        clock.seconds += 31
        other.step()

    pair.during = take_over
    assert slow.step(lambda *seen: noted.append(seen[2])) is None
    assert noted == []


def test_a_void_chunk_says_how_large_the_next_one_may_be(store, clock):
    """A chunk that took longer than the lease shrinks the next one although nothing of it was noted."""
    pair = FakePair(clock, keys=10**7, row_seconds=1e-6)
    slow, other = rounds_of(store, pair), rounds_of(store, FakePair(clock))
    for _ in range(4):
        slow.step()

    def take_over() -> None:
        clock.seconds += 31
        assert other.step() is None
        assert other.step() is not None

    pair.during = take_over
    assert slow.step() is None
    pair.during = lambda: None
    clock.seconds += 31
    assert slow.step() is None, "the cursor is elsewhere"
    assert slow.step() is not None
    assert pair.asked[-2:] == [ROWS_MAX, ROWS_MAX // 4]


def test_only_who_compares_settles(store, clock):
    """A process that waits for the lease looks at no suspects and notes nothing of them."""
    pair = FakePair(clock)
    pair.settled = Settled([], ["a"], [])
    mine, theirs = rounds_of(store, FakePair(clock)), rounds_of(store, pair)
    mine.step()
    noted: list[Settled] = []
    assert theirs.settle(lambda _, found: noted.append(found)) is None
    assert (pair.settles, noted) == (0, [])
    clock.seconds += 31
    assert theirs.settle(lambda _, found: noted.append(found)) is None, "the cursor is elsewhere"
    assert theirs.settle(lambda _, found: noted.append(found)) == pair.settled
    assert noted == [pair.settled]


def test_what_settled_is_noted_only_while_the_lease_lasts(store, clock):
    """Where another process took over during a look, nothing of that look is written."""
    pair = FakePair(clock)
    rounds, other = rounds_of(store, pair), rounds_of(store, FakePair(clock))
    rounds.step()

    def settle() -> Settled:
        clock.seconds += 31
        other.step()
        assert other.step() is not None
        return Settled([differs("7")], [], [])

    pair.settle = settle
    reactions = reactions_of(store)
    assert rounds.settle(lambda connection, found: reactions.note_settled(connection, found, 1)) is None
    assert drifting(store) == []


def test_who_only_waits_writes_nothing(store, clock, monkeypatch):
    """While another process has the lease, nothing begins a write transaction; nor does a look in vain."""
    mine, theirs = rounds_of(store, FakePair(clock)), rounds_of(store, FakePair(clock))
    mine.step()

    def no_writing() -> None:
        pytest.fail("a write transaction was begun")

    monkeypatch.setattr(store, "writing", no_writing)
    for _ in range(3):
        assert theirs.step() is None
        assert theirs.settle() is None
    assert mine.settle() == Settled([], [], [])


def test_live_rows_that_cannot_be_read_make_a_round_incomparable(store, clock):
    """Rejected rows add up over a round, and a round with any is not EQUAL."""
    pair = FakePair(clock)
    pair.rejected = 2
    rounds = rounds_of(store, pair)
    chunks = run_round(rounds)
    assert (rounds.result.verdict, rounds.result.rejected) == ("INCOMPARABLE", 2 * len(chunks))
    pair.rejected = 0
    run_round(rounds)
    assert (rounds.result.verdict, rounds.result.rejected) == ("EQUAL", 0)


def test_what_a_later_chunk_says_of_a_suspect_is_of_the_whole_round_too():
    """A suspect of the last whole round that a chunk of the next one compares is not suspected any more."""
    result = RoundResult(1, suspected=["a", "b", "c", "d", "z"])
    result.saw_again(Chunk("m", 5, [differs("b")], ["c"], [Uncompared(account_id="d", reason="a gap")], 1), None)
    assert (result.drifted, result.suspected) == (["b"], ["c", "z"])
    assert [each.account_id for each in result.uncompared] == ["d"]
    result.saw_again(Chunk("y", 5, [], [], [], 1), "m")
    assert result.suspected == ["c", "z"]
    result.saw_again(Chunk(None, 5, [], [], [], 1), "y")
    assert result.suspected == ["c"]


def test_the_next_round_settles_suspects_of_the_last(store, clock):
    """Where the next round compares a suspect and finds it equal, the last whole round is not INCOMPARABLE for it."""
    pair = FakePair(clock, row_seconds=5e-5)
    pair.suspected = ["000007"]
    rounds = rounds_of(store, pair)
    run_round(rounds)
    result = rounds.result
    assert result.verdict == "INCOMPARABLE"
    rounds.step()
    assert rounds.result is result
    assert result.verdict == "EQUAL"


def test_a_pair_that_cannot_be_closed_is_let_go_of(store, clock):
    """Where closing fails, the next step begins the pair anew all the same."""
    pair = FakePair(clock)
    rounds = rounds_of(store, pair)
    rounds.step()

    def fails() -> None:
        msg = "the other side is gone"
        raise OSError(msg)

    pair.close = fails
    with pytest.raises(OSError, match="gone"):
        rounds.close()
    rounds.step()
    assert pair.begun == [None, "005000"]
