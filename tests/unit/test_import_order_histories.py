"""Several rows of one order in one file, and rows that are rejected: what is known, and what nothing can be said of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from imports import NOW, rejects_of, write_csv

from ledger import Store, orders
from ledger.importing import FileSource, Imported, import_orders

HEADER = ["order_id", "account_id", "points_amount", "status", "created_at", "refunded_points", "updated_at"]
CREATED = "2024-03-01T12:00:00Z"

Bring = Callable[..., Imported]


@pytest.fixture
def bring(store: Store, tmp_path: Path) -> Bring:
    """Imports rows at `NOW`."""

    def brought(*rows: dict[str, str], **options: Any) -> Imported:
        path = write_csv(tmp_path / "orders.csv", rows, HEADER)
        options = {"now": NOW, "rejects": tmp_path / "rejects.csv", "orders_per_transaction": 2} | options
        return import_orders(store, FileSource(path), **options)

    return brought


def row(order_id: str = "o1", status: str = "pending", **fields: str) -> dict[str, str]:
    """A good row: an order of ten points, unless `fields` say otherwise."""
    good = {"order_id": order_id, "account_id": "a1", "points_amount": "10", "status": status, "created_at": CREATED}
    return good | fields


def said(store: Store, order_id: str = "o1") -> list[tuple[Any, ...]]:
    """Return what the ledger has of an order: event, account, points refunded, day."""
    with store.snapshot() as connection:
        found = orders.events(connection, [order_id])
    assert found["version"].to_list() == list(range(1, found.height + 1))
    day = found["effective_at"].dt.strftime("%d.%m.")
    return list(zip(found["event"], found["account_id"], found["refunded_points"], day, strict=True))


def withheld(store: Store) -> dict[str, str]:
    """Return the orders that nothing can be said of, and why."""
    with store.snapshot() as connection:
        return dict(orders.conflicts(connection).rows())


HISTORY = [
    row(account_id=""),
    row("o2"),
    row("o3", "completed"),
    row(status="completed", updated_at="2024-03-02"),
    row("o3", "completed"),
    row(status="completed", refunded_points="3", updated_at="2024-03-03"),
    row("o2", "completed"),
    row(status="completed", refunded_points="5", updated_at="2024-03-04"),
]


def test_a_history_is_followed_in_the_order_of_the_file(store, bring):
    """Each row leads on from the one before it; one that repeats it is unchanged."""
    found = bring(*HISTORY)
    assert (found.imported, found.unchanged, found.rejected, found.events) == (7, 1, 0, 8)
    assert said(store) == [
        ("order.placed", None, None, "01.03."),
        ("order.completed", "a1", None, "02.03."),
        ("order.refunded", None, 3, "03.03."),
        ("order.refunded", None, 2, "04.03."),
    ]
    # Without a moment of its own a change is as old as its order, in one row or in two.
    assert said(store, "o2") == [("order.placed", "a1", None, "01.03."), ("order.completed", None, None, "01.03.")]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_history_that_is_known_changes_nothing(store, bring, dry_run):
    """Rows that say how an order was before its last one repeat what is known, as far as it went the last time."""
    bring(*HISTORY[:4])
    bring(*HISTORY)
    before = said(store)
    found = bring(*HISTORY, dry_run=dry_run)
    assert (found.imported, found.unchanged, found.rejected, found.events) == (0, 8, 0, 0)
    assert said(store) == before
    assert withheld(store) == {}


@pytest.mark.parametrize("again", [1, 2])
def test_a_history_that_goes_back_is_a_reject(store, bring, again):
    """A last row that the order cannot have come to is named, and so is its order, whatever came before."""
    for _ in range(again):
        found = bring(row(status="completed"), row("o2"), row(), row("o2", "completed"))
        [reject] = rejects_of(found)
        assert (reject["line"], reject["reason"]) == (4, "status is 'pending', but the order is 'completed' already")
        assert withheld(store) == {"o1": "a row of it was rejected: line 4: " + reject["reason"]}


def test_an_account_is_learnt_within_a_file(store, bring):
    """What a later row tells of an order that was placed in the same file is known of it from the first event."""
    found = bring(row(account_id=""), row(), row(status="completed"))
    assert (found.imported, found.unchanged, found.rejected, found.events) == (3, 0, 0, 2)
    assert [event[1] for event in said(store)] == ["a1", None]
    assert bring(row(account_id=""), row(), row(status="completed")).unchanged == 3


def test_too_many_rows_of_one_order_are_no_history(store, bring):
    """A column that is no id of an order ends in rejects, not in hours of work."""
    found = bring(*[row()] * 1_002)
    assert (found.imported, found.unchanged, found.rejected) == (1, 999, 2)
    assert rejects_of(found)[0]["reason"] == "the input has order 'o1' in more than 1,000 rows"
    assert list(withheld(store)) == ["o1"]


BAD = {
    "status": row(status="paid"),
    "points": row(points_amount="ten"),
    "time": row(created_at="soon"),
    "another account": row(account_id="a2"),
    "another amount": row(points_amount="11"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("is_in_one_file", [True, False])
def test_a_rejected_row_withholds_its_order_until_a_good_one(store, bring, bad, is_in_one_file):
    """What the order system says now is not known, so nothing is judged; a good row, new or unchanged, ends that."""
    if is_in_one_file:
        found = bring(row(), bad, row("o2"))
    else:
        bring(row())
        with store.writing() as connection:
            orders.untouch(connection, ["o1"])
        found = bring(bad, row("o2"))
    [reject] = rejects_of(found)
    assert withheld(store) == {"o1": f"a row of it was rejected: line {reject['line']}: {reject['reason']}"}
    with store.writing() as connection:
        assert "o1" in orders.touched(connection, 9)
        assert orders.parked(connection).row(0)[:4] == (None, None, "o1", None)
        orders.untouch(connection, ["o1", "o2"])
    bring(row("o2"))
    assert list(withheld(store)) == ["o1"]
    assert bring(row()).unchanged == 1
    assert withheld(store) == {}
    with store.snapshot() as connection:
        assert orders.touched(connection, 9) == ["o1"]


def test_a_later_good_row_of_the_same_file_counts(store, bring):
    """The last word of a file about an order is what stands."""
    found = bring(BAD["status"], row("o2"), row("o2", "paid"), row())
    assert (found.imported, found.rejected) == (2, 2)
    assert list(withheld(store)) == ["o2"]


def test_an_order_that_only_a_bad_row_names_is_withheld(store, bring):
    """Its transactions are no orphans: it is there, and nothing more is known of it."""
    found = bring(row("o9", "paid"))
    assert (found.imported, found.rejected) == (0, 1)
    assert list(withheld(store)) == ["o9"]


@pytest.mark.parametrize("order_id", ["", "x" * 256, "a\0b"])
def test_a_row_that_names_no_order_is_only_counted(store, bring, order_id):
    """Nobody knows which order it is about."""
    assert bring(row(order_id)).rejected == 1
    assert withheld(store) == {}


def test_a_dry_run_withholds_nothing(store, bring):
    """It only says that there are rejects."""
    assert bring(BAD["status"], dry_run=True).rejected == 1
    assert withheld(store) == {}


def test_the_last_import_says_up_to_when_orders_were_read(store, bring):
    """A moment that was a slip of the pen is corrected by the next import, also to an earlier one."""
    bring(row(), now=NOW + timedelta(days=365))
    bring(row())
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at == NOW
