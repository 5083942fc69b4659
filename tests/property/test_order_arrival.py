"""However events of orders arrive, the database has the same of them: order, copies, contradictions and batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_samples import Facts, cancelled, completed, facts_of, placed, refunded

from ledger import Store, orders
from schemas import OrderEvent, PoisonOrder, order_rows

_Place = tuple[int, int]
_Told = tuple[_Place, OrderEvent | PoisonOrder]


@st.composite
def told(draw: st.DrawFn) -> list[_Told]:
    """What a topic of two partitions tells of two orders: any versions, copies, contradictions, and poison."""
    found: list[_Told] = []
    for offset in range(draw(st.integers(0, 14))):
        place = (draw(st.integers(0, 1)), offset)
        order_id, version = draw(st.sampled_from("ab")), draw(st.integers(1, 3))
        if draw(st.integers(0, 9)) == 0:
            named = draw(st.sampled_from([None, "a", "d"]))
            of = draw(st.sampled_from([None, version]))
            poison = PoisonOrder(partition=place[0], position=offset, order_id=named, version=of, reason="bad")
            found.append((place, poison))
        elif version == 1:
            found.append((place, placed(order_id, draw(st.integers(1, 2)))))
        else:
            kind = draw(st.sampled_from([completed, cancelled, refunded]))
            found.append((place, kind(order_id, version, account_id=draw(st.sampled_from([None, "x"])))))
    return found


def _content(event: OrderEvent) -> tuple[Any, ...]:
    row = order_rows([event]).row(0)
    return row[:-2]


def _expected(everything: list[_Told]) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]:
    """Return what is kept, with places, and the places and orders of what is parked: naively, all at once."""
    first: dict[tuple[Any, ...], _Place] = {}
    told = {(each.order_id, each.version) for _, each in everything if isinstance(each, OrderEvent)}
    parked: set[tuple[Any, ...]] = set()
    for place, each in everything:
        if isinstance(each, PoisonOrder):
            if (each.order_id, each.version) not in told:
                parked.add((*place, each.order_id))
        else:
            content = _content(each)
            first[content] = min(first.get(content, place), place)
    kept = set()
    for content, place in first.items():
        rivals = [other for other in first if other[:2] == content[:2]]
        least = min(rivals, key=lambda row: [(value is None, value) for value in row])
        if content == least:
            kept.add((*content, *place))
        else:
            parked.add((*place, content[0]))
    return kept, parked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A ledger that every example empties of orders."""
    folder: Path = tmp_path_factory.mktemp("orders")
    store = Store.at(folder)
    yield store
    store.close()


def _emptied(store: Store) -> None:
    with store.writing() as connection:
        orders.lock(connection)
        orders.forget(connection)
        orders.untouch(connection, orders.touched(connection, 1_000))


def _stored(store: Store, batches: list[list[_Told]]) -> Facts:
    _emptied(store)
    for batch in batches:
        events = [(place, each) for place, each in batch if isinstance(each, OrderEvent)]
        poison = [each for _, each in batch if isinstance(each, PoisonOrder)]
        with store.writing() as connection:
            orders.lock(connection)
            frame = order_rows([each for _, each in events], [place for place, _ in events])
            orders.add_events(connection, frame)
            orders.add_parked(connection, poison)
    return facts_of(store)


@given(told(), st.data())
def test_the_order_of_arrival_does_not_matter(store, everything, data):
    """Any order, any batches, anything twice: the table is what one who sees all at once would write."""
    again = data.draw(st.lists(st.sampled_from(everything), max_size=4)) if everything else []
    arrived = data.draw(st.permutations([*everything, *again]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arrived)), max_size=4)))
    bounds = [0, *cuts, len(arrived)]
    found = _stored(store, [arrived[start:stop] for start, stop in pairwise(bounds)])
    kept, parked = _expected(everything)
    assert set(found.events) == kept
    assert len(found.events) == len(kept)
    assert {(partition, position, order_id) for partition, position, order_id, *_ in found.parked} == parked
    assert len(found.parked) == len(parked)
    named = {row[0] for row in kept} | {order_id for *_, order_id in parked if order_id is not None}
    assert set(found.touched) == named
    in_one = _stored(store, [everything])
    assert found == in_one


@given(told(), st.integers(1, 5))
def test_every_record_is_new_a_repeat_or_a_conflict(store, everything, size):
    """Counts add up, whatever the batches: as many are new as there are keys."""
    events = [(place, each) for place, each in everything if isinstance(each, OrderEvent)]
    counts = [0, 0, 0]
    _emptied(store)
    for start in range(0, len(events), size):
        some = events[start : start + size]
        with store.writing() as connection:
            orders.lock(connection)
            added = orders.add_events(connection, order_rows([each for _, each in some], [at for at, _ in some]))
        counts = [before + now for before, now in zip(counts, added, strict=True)]
    assert sum(counts) == len(events)
    assert counts[0] == len({(each.order_id, each.version) for _, each in events})


@given(told())
def test_what_is_there_already_touches_nothing(store, everything):
    """An order is judged again only when something of it is new."""
    found = _stored(store, [everything])
    with store.writing() as connection:
        orders.lock(connection)
        orders.untouch(connection, found.touched)
        kept = orders.events(connection)
        added = orders.add_events(connection, kept)
        assert orders.touched(connection, 100) == []
    assert added == (0, kept.height, 0)
