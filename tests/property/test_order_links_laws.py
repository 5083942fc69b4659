"""Order links say of a transaction what the projection of transactions says of it."""

from __future__ import annotations

import polars as pl
from histories import examples, histories, legal_histories
from hypothesis import given
from samples import recorded

from projections import ORDER_LINKS, TRANSACTIONS
from projections.order_links import UNSETTLED, of_orders
from schemas import Event, event_rows

#: Columns that both have, by their names here and there.
SAME = {
    **{
        name: name
        for name in (*ORDER_LINKS.key, "order_id", "business_code", "related_transaction_id", "type", "amount")
    },
    **{name: name for name in ("status", "created_at", "updated_at")},
    "version": "status_version",
    "position": "status_position",
}


def links(batch: pl.DataFrame) -> pl.DataFrame:
    """The state of some events, in key order."""
    return ORDER_LINKS.fold(batch.lazy()).select(SAME.keys()).collect().sort(ORDER_LINKS.key)


@examples(40)
@given(events=histories())
def test_links_are_columns_of_transactions(events: list[Event]) -> None:
    """Whatever a history holds, both projections give the same values of the same transactions."""
    batch = event_rows(events)
    of_transactions = TRANSACTIONS.fold(batch.lazy()).select(**SAME).collect()
    assert links(batch).equals(of_transactions.sort(ORDER_LINKS.key))


@examples(40)
@given(events=legal_histories())
def test_what_is_left_out_says_nothing_of_an_order(events: list[Event]) -> None:
    """Of a legal history, what may say something of an order is enough for every transaction that names one."""
    whole = links(event_rows(events)).filter(pl.col("order_id") != "")
    assert links(of_orders(event_rows(events))).filter(pl.col("order_id") != "").equals(whole)


def test_what_may_still_be_told_is_kept() -> None:
    """A transaction without an order is left out at once only where it is recorded as settled."""
    changed = {"from_status": "pending", "to_status": "completed"}
    kinds = [{}, *({"to_status": status} for status in UNSETTLED), changed, {"order_id": "o"}]
    batch = event_rows([recorded("a", version, **kind) for version, kind in enumerate(kinds, start=1)])
    assert of_orders(batch)["version"].to_list() == [2, 3, 4, 5]


def test_ids_that_no_database_keeps_are_made_such_that_it_does() -> None:
    """A NUL is replaced and an id is cut where an order's id must end, since events are not refused for them."""
    wild = recorded("a", 1, order_id="o\0" + "x" * 5_000, business_code="a\0b")
    row = ORDER_LINKS.fold(event_rows([wild]).lazy()).collect().row(0, named=True)
    assert row["order_id"] == "o\ufffd" + "x" * 253
    assert row["business_code"] == "a\ufffdb"
