"""The laws of every projection: any cut, any grouping, any batch size, any row order, either engine, any repetition."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import polars as pl
import pytest
from histories import examples, histories
from hypothesis import given
from hypothesis import strategies as st

from projections import ACCOUNT_STATUS, BALANCES, INTEGRITY, ORDER_LINKS, RELATIONS, TRANSACTIONS, Projection
from schemas import Event, event_rows

PROJECTIONS = [BALANCES, ACCOUNT_STATUS, TRANSACTIONS, RELATIONS, ORDER_LINKS]
each_projection = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
each_engine = pytest.mark.parametrize("engine", ["in-memory", "streaming"])


def state_of(projection: Projection, state: pl.LazyFrame, engine: str = "in-memory") -> pl.DataFrame:
    """Collect a state, with its columns as they must be and its rows in key order."""
    collected = state.collect(engine=engine)
    assert collected.schema == projection.schema
    assert collected.select(projection.key).is_duplicated().any() is False
    return collected.sort(projection.key)


def cut(events: list[Event], places: list[int]) -> list[pl.LazyFrame]:
    """Cut a history's batch at the given places."""
    batch = event_rows(events)
    edges = [0, *sorted(place % (len(events) + 1) for place in places), len(events)]
    return [batch.slice(start, end - start).lazy() for start, end in pairwise(edges)]


@each_engine
@each_projection
@examples(12)
@given(events=histories(), places=st.lists(st.integers(0, 1000), min_size=2, max_size=2))
def test_merges_of_any_cut_are_associative_and_equal_the_whole(
    projection: Projection, engine: str, events: list[Event], places: list[int]
) -> None:
    """Three parts of a stream give the state of the whole, whichever two are merged first."""
    x, y, z = (state_of(projection, projection.fold(part), engine).lazy() for part in cut(events, places))
    left_first = projection.merge(state_of(projection, projection.merge(x, y), engine).lazy(), z)
    right_first = projection.merge(x, state_of(projection, projection.merge(y, z), engine).lazy())
    whole = state_of(projection, projection.fold(event_rows(events).lazy()), engine)
    assert state_of(projection, left_first, engine).equals(whole)
    assert state_of(projection, right_first, engine).equals(whole)


@each_projection
@examples(5)
@given(events=histories(14))
def test_batches_of_one_event_give_the_state_of_one_batch(projection: Projection, events: list[Event]) -> None:
    """A stream folded event by event ends in the state that one batch of it has."""
    batch = event_rows(events)
    parts = (projection.fold(batch.slice(row, 1).lazy()) for row in range(batch.height))
    ends = reduce(
        lambda state, part: state_of(projection, projection.merge(state.lazy(), part)), parts, projection.empty()
    )
    assert ends.equals(state_of(projection, projection.fold(batch.lazy())))


@each_projection
@examples(10)
@given(events=histories(), seed=st.integers(0, 2**32))
def test_row_order_and_repetition_do_not_matter(projection: Projection, events: list[Event], seed: int) -> None:
    """A batch in another row order, on the other engine, folded again, has the same state."""
    batch = event_rows(events)
    shuffled = batch.sample(fraction=1.0, shuffle=True, seed=seed)
    first = state_of(projection, projection.fold(batch.lazy()))
    assert state_of(projection, projection.fold(batch.lazy())).equals(first)
    assert state_of(projection, projection.fold(shuffled.lazy()), "streaming").equals(first)


@each_projection
@examples(8)
@given(events=histories())
def test_the_state_of_no_events_changes_nothing(projection: Projection, events: list[Event]) -> None:
    """Merging the empty state in front or behind leaves a state as it is."""
    state = projection.fold(event_rows(events).lazy())
    whole, nothing = state_of(projection, state), projection.empty().lazy()
    assert state_of(projection, projection.merge(nothing, state)).equals(whole)
    assert state_of(projection, projection.merge(state, nothing)).equals(whole)


@each_projection
def test_fold_reads_only_the_details_it_names(projection: Projection) -> None:
    """A batch decoded without the details that a projection does not name is enough for it."""
    from schemas.columns import DETAIL_COLUMNS

    lean = event_rows([]).drop(name for name in DETAIL_COLUMNS if name not in projection.details)
    assert state_of(projection, projection.fold(lean.lazy())).equals(projection.empty())


def test_integrity_folds_as_transactions_do() -> None:
    """Integrity is the transactions' state with findings at its end."""
    assert (INTEGRITY.fold, INTEGRITY.merge, INTEGRITY.schema) == (
        TRANSACTIONS.fold,
        TRANSACTIONS.merge,
        TRANSACTIONS.schema,
    )
