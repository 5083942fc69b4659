"""What reconciliation says of an order in columns is what a naive oracle says that sees everything at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import order_oracle as oracle
import polars as pl
import pytest
from histories import examples
from hypothesis import given
from hypothesis import strategies as st
from order_worlds import MOMENTS, ORDERS, World, worlds

from projections import ORDERS as ORDER_FOLD
from projections.reconciliation import MISMATCH_SCHEMA, WITHHELD_SCHEMA, Rules, judged, subjects, withheld
from projections.scenario import scenario

RULES = Rules(grace_seconds=90.5)
each_engine = pytest.mark.parametrize("engine", ["in-memory", "streaming"])
WORDS = {
    "hole": "its last version is",
    "sums": "past int64",
    "parked": "parked",
}


def sides_of(world: World, seed: int = 0) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return the orders' state and the transactions, rows in an order of the seed."""
    events = world.event_frame().sample(fraction=1.0, shuffle=True, seed=seed)
    linked = world.linked_frame().sample(fraction=1.0, shuffle=True, seed=seed)
    return ORDER_FOLD.fold(events.lazy()), linked.lazy()


def found_in(frame: pl.DataFrame) -> list[oracle.Found]:
    """Return the rows of a mismatch frame as the oracle's."""
    return [
        oracle.Found(
            **{name: row[name] for name in oracle.Found._fields if name in row and name != "transactions"},
            transactions=tuple(row["transactions"]),
            order_place=(row["order_partition"], row["order_position"]),
            ledger_place=(row["ledger_partition"], row["ledger_position"]),
        )
        for row in frame.iter_rows(named=True)
    ]


def sound_part(world: World) -> World:
    """Return a world without the orders that are withheld."""
    left_out = oracle.withheld(*world)
    events = [row for row in world.events if row["order_id"] not in left_out]
    return World(events, [row for row in world.linked if row["order_id"] not in left_out], [], [])


@each_engine
@examples(80)
@given(world=st.one_of(worlds(is_sound=True), worlds(), worlds(is_huge=True)), seed=st.integers(0, 2**32))
def test_mismatches_are_those_of_the_oracle(engine: Any, world: World, seed: int) -> None:
    """Every mismatch with its numbers, places, transactions and times, once, whatever the order of rows and engine."""
    world = sound_part(world)
    found = judged(*sides_of(world, seed), RULES).collect(engine=engine)
    assert found.schema == MISMATCH_SCHEMA
    expected = oracle.mismatches(
        world.events, world.linked, grace_seconds=RULES.grace_seconds, timing_seconds=RULES.timing_seconds
    )
    assert sorted(found_in(found), key=repr) == sorted(expected, key=repr)
    assert found["evidence"].str.ends_with(".").all()


@each_engine
@examples(50)
@given(world=st.one_of(worlds(), worlds(is_huge=True)))
def test_withheld_orders_are_those_of_the_oracle(engine: Any, world: World) -> None:
    """Each order that nothing can be said of is named once, with the first of its reasons."""
    parked = pl.Series("account_id", world.parked_accounts, dtype=pl.String)
    frame = withheld(*sides_of(world), conflicts=world.conflict_frame(), parked_accounts=parked).collect(engine=engine)
    assert frame.schema == WITHHELD_SCHEMA
    kinds = oracle.withheld(*world)
    assert sorted(frame["order_id"]) == sorted(kinds)
    for order_id, reason in frame.iter_rows():
        told = [reason for known, reason in world.conflicts if known == order_id]
        assert reason == min(told) if told else WORDS[kinds[order_id]] in reason


@examples(40)
@given(world=worlds(), is_lazy=st.booleans())
def test_subjects_are_all_orders_of_either_side(world: World, is_lazy: bool) -> None:
    """Every order id of either side is there once, with when it was placed and the moment of its last fact."""
    frame = subjects(*sides_of(world)).collect(engine="streaming" if is_lazy else "in-memory")
    expected = {
        name: (each.order_at, each.latest_at) for name, each in oracle.sides_of(world.events, world.linked).items()
    }
    assert frame.height == len(expected)
    assert {row[0]: (row[1], row[2]) for row in frame.iter_rows()} == expected


@examples(80)
@given(world=worlds(is_sound=True), chosen=st.sets(st.sampled_from(ORDERS)))
def test_what_is_said_of_an_order_does_not_depend_on_the_others(world: World, chosen: set[str]) -> None:
    """Some orders judged alone have the mismatches that they have among all."""
    world = sound_part(world)
    orders, linked = sides_of(world)
    among_all = judged(orders, linked, RULES).filter(pl.col("order_id").is_in(chosen))
    alone = judged(*(side.filter(pl.col("order_id").is_in(chosen)) for side in (orders, linked)), RULES)
    assert alone.sort("order_id", "code").collect().equals(among_all.sort("order_id", "code").collect())


@each_engine
@examples(50)
@given(
    world=worlds(is_sound=True),
    start=st.sampled_from(MOMENTS),
    length=st.sampled_from([timedelta(0), timedelta(days=1), timedelta(days=30)]),
    unnamed=st.sets(st.integers(0, 20)),
)
def test_the_scenario_is_the_oracles_loop(
    engine: Any, world: World, start: Any, length: timedelta, unnamed: set[int]
) -> None:
    """Counts, codes, sums, statuses and transactions are those of the scenario's own loop over the range."""
    linked = [row | {"order_id": None} if row["position"] in unnamed else row for row in world.linked]
    world = world._replace(linked=linked)
    span = {"start": start, "end": start + length, "business_code": "order.payment"}
    result = scenario(*sides_of(world), **span)
    orders, transactions, found = (frame.collect(engine=engine) for frame in result)
    assert found.schema == MISMATCH_SCHEMA
    expected_orders, expected_transactions, expected = oracle.scenario(world.events, world.linked, **span)
    assert (orders.height, transactions.height) == (expected_orders, expected_transactions)
    columns = ("order_id", "code", "order_points", "credit_points", "order_status", "credit_status")
    rows = [(*(row[name] for name in columns), tuple(row["transactions"])) for row in found.iter_rows(named=True)]
    assert sorted(rows, key=repr) == sorted(expected, key=repr)
