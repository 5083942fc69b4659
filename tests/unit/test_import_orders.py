"""Order rows of files: what a row becomes, what is known already, and what is a reject."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imports import NOW, rejects_of, write_csv
from sqlalchemy import create_engine

from ledger import Store, orders
from ledger.importing import FileSource, Imported, Mapping, TableSource, import_orders
from ledger.orders import Source
from schemas.errors import RefusedError, UsageError

HEADER = ["order_id", "account_id", "points_amount", "status", "created_at"]
ALL = [*HEADER, "direction", "refunded_points", "updated_at"]
CREATED, UPDATED = "2024-03-01T12:00:00Z", "2024-03-02T12:00:00Z"

Bring = Callable[..., Imported]


@pytest.fixture
def bring(store: Store, tmp_path: Path) -> Bring:
    """Imports rows at `NOW`, with all columns."""

    def brought(*rows: dict[str, str], header: list[str] = ALL, **options: Any) -> Imported:
        path = write_csv(tmp_path / "orders.csv", rows, header)
        options = {"now": NOW, "rejects": tmp_path / "rejects.csv", "orders_per_transaction": 2} | options
        return import_orders(store, FileSource(path), **options)

    return brought


def order(order_id: str = "o1", **fields: str) -> dict[str, str]:
    """A good row: a pending order of ten points, unless `fields` say otherwise."""
    good = {"order_id": order_id, "account_id": "a1", "points_amount": "10", "status": "pending", "created_at": CREATED}
    return good | fields


def said(store: Store) -> list[tuple[Any, ...]]:
    """Return what the ledger has: order, version, event, account, points, direction, refunded, day and hour."""
    with store.snapshot() as connection:
        found = orders.events(connection)
    return found.with_columns(pl.col("effective_at").dt.strftime("%d.%m.")).drop("partition", "position").rows()


PLACED = ("o1", 1, "order.placed", "a1", 10, "spend", None, "01.03.")


def event(
    version: int, name: str, day: str, refunded: int | None = None, account: str | None = None
) -> tuple[Any, ...]:
    """An event of the order that changes only its status or what was refunded."""
    return ("o1", version, f"order.{name}", account, None, None, refunded, day)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (order(), [PLACED]),
        (order(status="completed"), [PLACED, event(2, "completed", "01.03.")]),
        (order(status="completed", updated_at=UPDATED), [PLACED, event(2, "completed", "02.03.")]),
        (order(status="cancelled", updated_at=UPDATED), [PLACED, event(2, "cancelled", "02.03.")]),
        (
            order(status="completed", refunded_points="4", updated_at=UPDATED),
            [PLACED, event(2, "completed", "02.03."), event(3, "refunded", "02.03.", 4)],
        ),
        (order(status="completed", refunded_points="0"), [PLACED, event(2, "completed", "01.03.")]),
        (order(account_id="", points_amount="0"), [("o1", 1, "order.placed", None, 0, "spend", None, "01.03.")]),
        (order(direction="earn"), [("o1", 1, "order.placed", "a1", 10, "earn", None, "01.03.")]),
    ],
)
def test_a_row_becomes_the_events_that_lead_to_it(store, bring, row, expected):
    """Placed when it was created, then what its status and refunds say, at its update or else its creation."""
    found = bring(row)
    assert said(store) == expected
    assert (found.imported, found.unchanged, found.rejected, found.events) == (1, 0, 0, len(expected))


def test_twice_the_same_file_changes_nothing(store, bring):
    """Known rows are unchanged, whatever they say, in any order, with or without the optional columns."""
    rows = [order("o1"), order("o2", status="completed", refunded_points="3"), order("o3", direction="earn")]
    bring(*rows)
    before = said(store)
    again = bring(*rows[::-1])
    plain = bring(*({name: row[name] for name in HEADER} for row in rows), header=HEADER)
    assert said(store) == before
    assert [(found.imported, found.unchanged, found.events) for found in (again, plain)] == [(0, 3, 0)] * 2


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ({}, {"status": "completed", "updated_at": UPDATED}, [event(2, "completed", "02.03.")]),
        ({}, {"status": "completed"}, [event(2, "completed", "02.01.")]),
        ({}, {"status": "cancelled"}, [event(2, "cancelled", "02.01.")]),
        (
            {"status": "completed"},
            {"status": "cancelled", "refunded_points": "3"},
            [event(2, "completed", "01.03."), event(3, "cancelled", "02.01."), event(4, "refunded", "02.01.", 3)],
        ),
        (
            {"status": "completed", "refunded_points": "3"},
            {"status": "completed", "refunded_points": "5", "updated_at": UPDATED},
            [event(2, "completed", "01.03."), event(3, "refunded", "01.03.", 3), event(4, "refunded", "02.03.", 2)],
        ),
    ],
)
def test_a_known_order_goes_on(store, bring, first, then, expected):
    """The next versions say what changed, when it was updated or else now."""
    bring(order(**first))
    found = bring(order(**then))
    assert said(store) == [PLACED, *expected]
    assert (found.imported, found.unchanged, found.rejected) == (1, 0, 0)


def test_an_account_that_is_learnt_comes_with_the_next_event(store, bring):
    """An order that was known without an account may tell it once it goes on."""
    bring(order(account_id=""))
    bring(order(account_id="a2", status="completed", refunded_points="1"))
    assert [row[3] for row in said(store)] == [None, "a2", "a2"]
    assert bring(order(account_id="", status="completed")).unchanged == 1


@pytest.mark.parametrize("status", ["pending", "completed", "cancelled"])
def test_an_account_that_is_told_later_is_taken(store, bring, status):
    """A row that says nothing else that is new puts its account into what placed the order, once."""
    bring(order(account_id="", status=status))
    before = said(store)
    with store.writing() as connection:
        orders.untouch(connection, ["o1"])
    found = bring(order(status=status))
    assert (found.imported, found.unchanged, found.rejected, found.events) == (1, 0, 0, 0)
    assert said(store) == [PLACED, *before[1:]]
    with store.snapshot() as connection:
        assert orders.touched(connection, 9) == ["o1"]
    assert bring(order(status=status)).unchanged == 1
    assert bring(order(account_id="a2", status=status)).rejected == 1


@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        ({}, {"account_id": "a2"}, "account_id is 'a2', but the order is known with 'a1'"),
        ({}, {"points_amount": "11"}, "points_amount is '11', but the order is known with '10'"),
        ({}, {"direction": "earn"}, "direction is 'earn', but the order is known with 'spend'"),
        ({}, {"created_at": UPDATED}, "created_at is '2024-03-02T12:00:00.000000Z', but the order is known with"),
        ({"status": "completed"}, {}, "status is 'pending', but the order is 'completed' already"),
        (
            {"status": "cancelled"},
            {"status": "completed"},
            "status is 'completed', but the order is 'cancelled' already",
        ),
        (
            {"status": "completed", "refunded_points": "3"},
            {"status": "completed", "refunded_points": "2"},
            "refunded_points is '2', but the order is known with '3'",
        ),
    ],
)
def test_what_an_order_cannot_become_is_a_reject(store, bring, first, then, why):
    """The row is named with its line and reason, other rows go in, and what is known stays."""
    bring(order(**first))
    before = said(store)
    found = bring(order(**then), order("o9"))
    assert (found.imported, found.rejected) == (1, 1)
    [reject] = rejects_of(found)
    assert reject["line"] == 2
    assert why in reject["reason"]
    assert '"order_id":"o1"' in reject["row"]
    assert [row for row in said(store) if row[0] == "o1"] == before


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"order_id": ""}, "order_id is missing"),
        ({"order_id": "x" * 256}, "order_id is longer than 255"),
        ({"account_id": "x" * 256}, "account_id is longer than 255"),
        ({"points_amount": "-1"}, "points_amount must not be negative: '-1'"),
        ({"points_amount": ""}, "points_amount is missing"),
        ({"points_amount": "1.5"}, "points_amount must be an integer of 64 bits: '1.5'"),
        ({"points_amount": str(2**63)}, "points_amount must be an integer of 64 bits"),
        ({"status": "paid"}, "unknown status 'paid': not one of pending, completed, cancelled"),
        ({"status": "frozen"}, "unknown status 'frozen'"),
        ({"status": ""}, "status is missing"),
        ({"created_at": ""}, "created_at is missing"),
        ({"created_at": "soon"}, "created_at is no time"),
        ({"updated_at": "soon"}, "updated_at is no time"),
        ({"direction": "give"}, "unknown direction 'give': not one of spend, earn"),
        ({"status": "completed", "refunded_points": "-2"}, "refunded_points must not be negative"),
        ({"status": "completed", "refunded_points": "some"}, "refunded_points must be an integer"),
        ({"refunded_points": "2"}, "refunded_points of an order that is pending"),
        ({"account_id": "a\0b"}, "NUL"),
    ],
)
def test_a_bad_row_is_named_and_the_rest_goes_in(store, bring, fields, why):
    """Nothing of a bad row is guessed."""
    found = bring(order("o1") | fields, order("o2"))
    [reject] = rejects_of(found)
    assert (found.imported, found.rejected, reject["line"]) == (1, 1, 2)
    assert why in reject["reason"]
    assert {row[0] for row in said(store)} == {"o2"}


def test_words_and_columns_of_another_system_are_mapped(store, bring):
    """Names, statuses, directions and decimals as the mapping says; times in its zone."""
    mapping = Mapping(
        columns={"order_id": "id", "points_amount": "points"},
        statuses={"PAID": "completed"},
        directions={"gift": "earn"},
        amount_scale=0,
        timezone="Europe/Berlin",
    )
    row = {
        "id": "o1",
        "account_id": "a1",
        "points": "10.0",
        "status": "PAID",
        "created_at": "2024-03-01 01:00:00",
        "direction": "gift",
        "more": "?",
    }
    found = bring(row, header=list(row), mapping=mapping)
    assert (found.imported, found.ignored_columns, found.naive_times) == (1, ["more"], 1)
    assert [row[2:6] for row in said(store)] == [
        ("order.placed", "a1", 10, "earn"),
        ("order.completed", None, None, None),
    ]
    with store.snapshot() as connection:
        assert orders.events(connection)["effective_at"][0] == datetime(2024, 3, 1, tzinfo=UTC)


def test_an_import_says_where_orders_come_from_and_up_to_when(store, bring):
    """All that there was at the moment of the import has been read, and every order has to be judged."""
    bring(order("o1"), order("o2"), order("o3"))
    with store.snapshot() as connection:
        assert orders.source(connection) == Source("files")
        assert orders.read_until(connection).orders_at == NOW
        assert orders.touched(connection, 9) == ["o1", "o2", "o3"]


def test_an_import_of_which_every_row_was_refused_says_nothing_of_any_moment(store, bring):
    """A mapping was forgotten, say: up to when orders are known stays as it was."""
    assert bring(order(status="paid")).rejected == 1
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at is None


def test_only_orders_with_something_new_are_touched(store, bring):
    """What is known already need not be judged again."""
    bring(order("o1"), order("o2"))
    with store.writing() as connection:
        orders.untouch(connection, ["o1", "o2"])
    bring(order("o1"), order("o2", status="completed"))
    with store.snapshot() as connection:
        assert orders.touched(connection, 9) == ["o2"]


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(store, bring):
    """Counts are those of the import; there is a profile beside them."""
    bring(order("o1"))
    before = said(store)
    rows = [order("o1", status="completed"), order("o2"), order("o3", status="paid")]
    dry = bring(*rows, dry_run=True, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert said(store) == before
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at == NOW
    real = bring(*rows)
    assert (dry.imported, dry.unchanged, dry.rejected, dry.events) == (2, 0, 1, 2)
    assert (real.imported, real.unchanged, real.rejected, real.events) == (2, 0, 1, 2)
    assert dry.profile is not None
    assert [column.column for column in dry.profile] == ALL


@pytest.mark.parametrize("dry_run", [False, True])
def test_orders_of_a_topic_are_not_mixed_with_files(store, bring, dry_run):
    """A ledger whose orders come from a topic takes none of files."""
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_source(connection, Source("topic", "orders", "id"))
    with pytest.raises(RefusedError, match="come from the topic 'orders' with the id id, not from files"):
        bring(order(), dry_run=dry_run)
    assert said(store) == []


def test_a_file_without_a_column_of_orders_is_refused(bring):
    """A file of something else is named as such before anything is written."""
    with pytest.raises(UsageError, match="points_amount"):
        bring({"order_id": "o1"}, header=["order_id", "account_id", "status", "created_at"])


def test_rows_of_a_database_are_rows_too(store, tmp_path):
    """A table of the order system's own database says the same as a file of it."""
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (order_id, account_id, points_amount, status, created_at)")
        connection.exec_driver_sql(f"INSERT INTO orders VALUES ('o1', 'a1', 10, 'pending', '{CREATED}')")
    engine.dispose()
    found = import_orders(store, TableSource(url, table="orders"), now=NOW, rejects=tmp_path / "rejects.csv")
    assert (found.imported, said(store)) == (1, [PLACED])


def test_progress_counts_rows(bring):
    """First what was read, then what was written of all."""
    seen: list[tuple[int, int | None]] = []
    bring(order("o1"), order("o2"), order("o3"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-3:] == [(3, None), (2, 3), (3, 3)]


def test_an_import_that_ends_halfway_is_finished_by_the_same_command(store, bring):
    """What went in is known, so the rest follows; only a whole import says up to when orders were read."""
    rows = [order(f"o{number}", status="completed") for number in range(5)]

    def interrupted(done: int, total: int | None) -> None:
        if total and done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(*rows, progress=interrupted)
    with store.snapshot() as connection:
        assert orders.events(connection).height == 8
        assert orders.read_until(connection).orders_at is None
    found = bring(*rows)
    assert (found.imported, found.unchanged, found.events) == (1, 4, 2)
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at == NOW
