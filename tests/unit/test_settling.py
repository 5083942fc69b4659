"""When a difference from a foreign live table is drift: each rule, and what each of them is there for."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from replay.comparison.settling import Behind, Settling, behind, has_reached
from replay.steps import STEPS_SCHEMA, Steps

FEED = (0, 0)
ROW, OTHER = ("live", 1), ("replayed", 1)


def held_still(settling: Settling, *, looks: int = 3, seconds: float = 5.0, head: int = 10) -> list[str]:
    """Look at account `a` several times, always the same; what is ripe at the last look."""
    settling.suspect(["a"], now=0)
    ripe: list[str] = []
    for look in range(looks):
        ripe = settling.look({"a": (ROW, OTHER)}, now=look * seconds, head=head)
    return ripe


def test_what_holds_still_and_no_lag_explains_is_drift() -> None:
    """Three looks over ten seconds, the replay at the head, and no earlier state of the account: drift."""
    settling = Settling()
    assert held_still(settling) == ["a"]
    assert settling.is_drift("a", None, FEED, position=10, head=10)


@pytest.mark.parametrize(("looks", "seconds"), [(2, 20.0), (9, 1.0)])
def test_few_looks_or_little_time_are_not_enough(looks: int, seconds: float) -> None:
    """Rule (a): neither two looks far apart nor many in a moment make an account ripe."""
    assert held_still(Settling(), looks=looks, seconds=seconds) == []


def test_a_changed_row_begins_anew() -> None:
    """Rule (a): where either row changed since, as in an account of many events, counting begins again."""
    settling = Settling()
    settling.suspect(["a"], now=0)
    for look in range(20):
        pairing = (ROW, ("replayed", look // 2))
        assert settling.look({"a": pairing}, now=look * 6.0, head=look) == []
    assert "changes again and again" in Settling(unsettled_seconds=0, suspects=settling.suspects).unsettled(now=0)["a"]


def test_a_replay_that_is_behind_says_nothing() -> None:
    """Rule (b): as long as the replay is not where the head of the log was, live may know what it does not."""
    settling = Settling()
    held_still(settling, head=10)
    assert not settling.is_drift("a", None, FEED, position=9, head=12)
    # The head as it was then, not the newest one, which a busy log would never let be reached.
    assert not settling.is_drift("a", None, FEED, position=11, head=20)
    assert settling.is_drift("a", None, FEED, position=12, head=30)


def test_a_row_that_lag_explains_waits_for_a_witness() -> None:
    """Rule (c): an earlier state is drift only once live was seen past the event that it would wait for."""
    settling = Settling()
    held_still(settling)
    found = Behind(3, waits_for=7)
    assert not settling.is_drift("a", found, FEED, position=10, head=10)
    settling.saw(FEED, 6)
    assert not settling.is_drift("a", found, FEED, position=10, head=10)
    settling.saw((0, 1), 9)
    settling.saw((1, 0), 9)
    assert not settling.is_drift("a", found, FEED, position=10, head=10)
    settling.saw(FEED, 8)
    assert settling.is_drift("a", found, FEED, position=10, head=10)


def test_what_was_seen_is_not_forgotten() -> None:
    """A witness of before counts on: live does not go back, and a smaller one does not undo it."""
    settling = Settling()
    settling.saw(FEED, 8)
    settling.saw(FEED, 2)
    assert not settling.may_be_lag(Behind(3, waits_for=8), FEED)
    assert settling.may_be_lag(Behind(3, waits_for=9), FEED)


def test_once_and_quiet_no_witness_is_asked_for() -> None:
    """Compared once, an earlier state is drift where the log did not grow meanwhile, and not where it did."""
    for head, expected in ((10, True), (11, False)):
        settling = Settling(quiet_waives=True)
        held_still(settling, head=10)
        assert settling.is_drift("a", Behind(3, waits_for=7), FEED, position=head, head=head) is expected


def test_what_does_not_settle_is_named_and_stays() -> None:
    """After its time a suspect is uncompared with the reason, and is looked at again all the same."""
    settling = Settling(unsettled_seconds=60)
    held_still(settling)
    assert not settling.is_drift("a", Behind(3, waits_for=7), FEED, position=10, head=10)
    assert settling.unsettled(now=59) == {}
    assert "past position 7" in settling.unsettled(now=60)["a"]
    assert settling.look({"a": (ROW, OTHER)}, now=61, head=10) == ["a"]
    settling.clear(["a"])
    assert settling.unsettled(now=100) == {}


def test_one_that_was_not_looked_at_is_not_given_up() -> None:
    """A suspect that waits for its first look because there are too many is not yet uncompared."""
    settling = Settling(unsettled_seconds=60)
    settling.suspect(["a"], now=0)
    assert settling.unsettled(now=1_000) == {}


@pytest.mark.parametrize(
    ("position", "head", "expected"),
    [(3, 3, True), (2, 3, False), ({0: 5, 1: 7}, {0: 5, 1: 6}, True), ({0: 5}, {0: 5, 1: 1}, False)],
)
def test_every_partition_counts(position: Any, head: Any, expected: bool) -> None:
    """A position has reached a head where it has in each partition."""
    assert has_reached(position, head) is expected


def stepped(*sums: int, status: str | None = None) -> Steps:
    """The steps of account `a`: a balance after each event, at positions 10, 20, ..; the last may give a status."""
    last = len(sums)
    rows = [
        {
            "account_id": "a",
            "version": version,
            "position": version * 10,
            "after_balance": balance,
            "after_frozen": 0,
            "after_status": status if version == last and status else "active",
            "after_status_version": version if version == last and status else None,
        }
        for version, balance in enumerate(sums, start=1)
    ]
    return Steps(
        pl.DataFrame(rows, schema={name: STEPS_SCHEMA[name] for name in rows[0]}).select(
            *(
                pl.col(name) if name in rows[0] else pl.lit(None, kind).alias(name)
                for name, kind in STEPS_SCHEMA.items()
            )
        )
    )


def live_row(balance: int | None, status: str | None = "active") -> pl.DataFrame:
    """The live row of account `a`, none where it has no balance."""
    kinds = {"account_id": pl.String, "balance": pl.Int64, "frozen": pl.Int64, "status": pl.String}
    frozen = None if balance is None else 0
    row = pl.DataFrame([("a", balance, frozen, None if balance is None else status)], schema=kinds, orient="row")
    return row.with_columns(locked_at=pl.lit(None, pl.Datetime("us", "UTC")))


@pytest.mark.parametrize(
    ("balances", "balance", "expected"),
    [
        # Plainly behind.
        ([0, 10, 30], 10, Behind(2, 30)),
        # +10 -10: it may be at either, and only what is past the later of them proves anything.
        ([0, 10, 0, 5], 0, Behind(3, 40)),
        # Never was so.
        ([0, 10, 30], 20, None),
        # Before its first event: no row, or one of zeros.
        ([10, 30], None, Behind(0, 10)),
        ([10, 30], 0, Behind(0, 10)),
        # The last state is not an earlier one.
        ([10, 30], 30, None),
    ],
)
def test_earlier_states_are_found(balances: list[int], balance: int | None, expected: Behind | None) -> None:
    """A live row is behind to the newest earlier state that it equals."""
    assert behind(stepped(*balances), live_row(balance)) == {"a": expected}


def test_a_status_counts_from_where_the_log_says_one() -> None:
    """Before the first lock any status is what an earlier state may be; after it only that of the log."""
    steps = stepped(10, 10, status="locked")
    assert behind(steps, live_row(10, "closed")) == {"a": Behind(1, 20)}
    longer = Steps(pl.concat([stepped(5, 10, status="locked").frame, stepped(0, 0, 15).frame.tail(1)]))
    assert behind(longer, live_row(10, "active")) == {"a": None}
    assert behind(longer, live_row(10, "locked")) == {"a": Behind(2, 30)}


def test_an_account_that_the_log_never_heard_of_is_not_behind() -> None:
    """No lag gives a row of an account without events."""
    nothing = Steps(stepped(1).frame.clear())
    assert behind(nothing, live_row(0)) == {"a": None}
