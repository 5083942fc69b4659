"""The laws of the orders' fold: any cut, any order of arrival, any batch size, either engine."""

from __future__ import annotations

from functools import reduce
from typing import Any

import order_oracle as oracle
import polars as pl
import pytest
from histories import examples
from hypothesis import given
from hypothesis import strategies as st
from order_worlds import World, pieces, worlds

from projections import ORDER_STATE, ORDERS

each_engine = pytest.mark.parametrize("engine", ["in-memory", "streaming"])


def state_of(state: pl.LazyFrame, engine: Any = "in-memory") -> pl.DataFrame:
    """Collect a state, with its columns as they must be and its rows in key order."""
    collected = state.collect(engine=engine)
    assert collected.schema == ORDER_STATE == ORDERS.schema
    return collected.sort("order_id")


@each_engine
@examples(60)
@given(world=worlds(is_huge=True), places=st.lists(st.integers(0, 30), min_size=2, max_size=2), seed=st.integers(0, 99))
def test_merges_of_any_cut_in_any_order_equal_the_whole(
    engine: Any, world: World, places: list[int], seed: int
) -> None:
    """Three parts of events in any order give the state of the whole, whichever two are merged first."""
    events = world.event_frame()
    shuffled = events.sample(fraction=1.0, shuffle=True, seed=seed)
    x, y, z = (state_of(ORDERS.fold(part.lazy()), engine).lazy() for part in pieces(shuffled, places))
    whole = state_of(ORDERS.fold(events.lazy()), engine)
    assert state_of(ORDERS.merge(state_of(ORDERS.merge(x, y), engine).lazy(), z), engine).equals(whole)
    assert state_of(ORDERS.merge(x, state_of(ORDERS.merge(z, y), engine).lazy()), engine).equals(whole)


@examples(30)
@given(world=worlds())
def test_events_one_by_one_give_the_state_of_one_batch(world: World) -> None:
    """Batches of one event, merged from the state of none, end in the state that one batch has."""
    parts = (ORDERS.fold(part.lazy()) for part in world.event_frame().iter_slices(1))
    ends = reduce(lambda state, part: state_of(ORDERS.merge(state.lazy(), part)), parts, ORDERS.empty())
    assert ends.equals(state_of(ORDERS.fold(world.event_frame().lazy())))


@examples(80)
@given(world=worlds(is_huge=True))
def test_an_order_is_what_its_events_say_in_version_order(world: World) -> None:
    """What was told last stands, refunds add up beyond int64, and each time is of its own events."""
    rows = state_of(ORDERS.fold(world.event_frame().lazy())).rows(named=True)
    orders = {name: sides.order for name, sides in oracle.sides_of(world.events, []).items()}
    assert [row["order_id"] for row in rows] == sorted(orders)
    for row in rows:
        order = orders[row["order_id"]]
        assert order is not None
        names = ("account_id", "points", "status", "placed_at", "completed_at")
        assert {name: row[name] for name in names} == {name: getattr(order, name) for name in names}
        assert (row["direction"] or "spend", row["refunded_points"]) == (order.direction, order.refunded)
        assert (row["events"], row["version"]) == (len(order.versions), max(order.versions))
        assert (row["latest_at"], (row["partition"], row["position"])) == (max(order.moments), order.place)
        cancelled = [
            event["effective_at"]
            for event in world.events
            if (event["order_id"], event["event"]) == (row["order_id"], "order.cancelled")
        ]
        assert row["cancelled_at"] == max(cancelled, default=None)
