"""Why a live row differs: each single fault has its class, and the first event that live cannot be explained with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import polars as pl
import pytest
from ledgers import account_rows, append, change_row, write_history
from samples import account_stream, recorded

from consumers import project
from ledger import Store
from replay import drift

HURT = "acc-2"
FOREIGN = ("account_id", "balance", "frozen", "status", "locked_at")
SUMS = ("balance", "frozen", "pending_credit", "pending_debit")
#: What each event of the account is worth, by version, as `write_history` writes them.
WORTH = {
    1: (0, 0, 0, 0),
    2: (1000, 0, 0, 0),
    3: (-20, 0, 0, 0),
    4: (0, 7, 0, 0),
    5: (0, 0, 302, 0),
    6: (0, 21, 0, 0),
    7: (-7, -7, 0, 0),
    8: (20, 0, 0, 0),
}
AFTER = dict(
    zip(WORTH, accumulate(WORTH.values(), lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))), strict=True)
)
END = AFTER[8]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a ledger with a history and its read model, to be copied."""
    store = Store.at(tmp_path_factory.mktemp("ready"))
    write_history(store)
    project(store)
    store.close()
    return Path(str(store.url.database))


@pytest.fixture
def store(tmp_path: Path, ready: Path) -> Iterator[Store]:
    """A store with a history and a read model that is as it should be."""
    shutil.copy(ready, tmp_path)
    store = Store.at(tmp_path)
    yield store
    store.close()


def cause_of(store: Store, sums: tuple[int, ...], *, own: bool) -> set[tuple[str, str | None]]:
    """The class and first event of every difference, where the sums of the account are these."""
    if own:
        change_row(store, HURT, **dict(zip(SUMS, sums, strict=True)))
        found = drift(store)
    else:
        rows = (
            account_rows(store)
            .select(*FOREIGN)
            .with_columns(
                pl.when(pl.col("account_id") == HURT).then(pl.lit(value, pl.Int64)).otherwise(name).alias(name)
                for name, value in zip(SUMS[:2], sums[:2], strict=True)
            )
        )
        found = drift(store, live=rows)
    assert {each.account_id for each in found.accounts} <= {HURT}
    return {(each.cause, each.first_event) for each in found.accounts}


@pytest.mark.parametrize("own", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("version", range(2, 9))
def test_an_event_that_was_missed_is_named(store, version, own):
    """A row that lacks one event is a missed event, and the event is named; a foreign row knows nothing of pending."""
    sums = tuple(total - worth for total, worth in zip(END, WORTH[version], strict=True))
    expected = set() if version == 5 and not own else {("missed_event", f"{HURT}:{version}")}
    assert cause_of(store, sums, own=own) == expected


@pytest.mark.parametrize("own", [True, False], ids=["own", "foreign"])
@pytest.mark.parametrize("version", range(2, 9))
def test_an_event_that_was_applied_twice_is_named(store, version, own):
    """A row that has one event twice says so, unless a missed event explains it as well, which goes first."""
    sums = tuple(total + worth for total, worth in zip(END, WORTH[version], strict=True))
    expected = {("applied_twice", f"{HURT}:{version}")}
    if version in (3, 8):  # The debit and its reversal undo each other.
        expected = {("missed_event", f"{HURT}:{11 - version}")}
    assert cause_of(store, sums, own=own) == (set() if version == 5 and not own else expected)


@pytest.mark.parametrize("version", range(2, 8))
def test_a_row_that_stopped_is_missing_what_came_next(store, version):
    """A row that is what the log said earlier names the first event after that."""
    assert cause_of(store, AFTER[version], own=True) == {("missed_event", f"{HURT}:{version + 1}")}


@pytest.mark.parametrize(
    "sums", [(0, 0, 0, 0), (1, 2, 3, 4), (994, 21, 302, 0), (993, 21, 302, 1), (-1, -1, -1, -1)], ids=str
)
def test_a_row_that_no_event_explains_was_written_by_something_else(store, sums):
    """Sums that no one missed or repeated event gives, a row of zeros among them, are a foreign write."""
    assert cause_of(store, sums, own=True) == {("foreign_write", None)}


def test_a_column_beside_the_points_was_written_by_something_else(store):
    """Where all sums agree and another column differs, no event is blamed."""
    change_row(store, HURT, status="locked")
    assert {(each.field, each.cause, each.first_event) for each in drift(store).accounts} == {
        ("status", "foreign_write", None)
    }


def test_each_account_has_its_own_cause(store):
    """Many accounts that differ in many ways are told apart."""
    change_row(store, "acc-1", balance=993 - 1000)
    change_row(store, "acc-3", frozen=42)
    change_row(store, "acc-4", balance=5)
    found = {each.account_id: (each.cause, each.first_event, each.difference) for each in drift(store).accounts}
    assert found == {
        "acc-1": ("missed_event", "acc-1:2", -1000),
        "acc-3": ("applied_twice", "acc-3:6", 21),
        "acc-4": ("foreign_write", None, -988),
    }


def test_more_accounts_than_one_query_takes_are_explained(tmp_path):
    """Hundreds of wrong rows are explained as one is."""
    store = Store.at(tmp_path)
    append(store, *(event for number in range(1_100) for event in account_stream(f"a{number}", 2)))
    append(store, recorded("fine", 1))
    project(store)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE ledger_accounts SET balance = 20 WHERE account_id <> 'fine'")
    found = drift(store)
    assert found.drifted == 1_100
    assert {(each.cause, each.first_event == f"{each.account_id}:2") for each in found.accounts} == {
        ("applied_twice", True)
    }
    store.close()
