"""What a shadow remembers of rows is what it would read if all that it folded were written, however little it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import replay.store_rows
from consumers.shadow_process import ASKED_MAX
from ledger import Store, read_model
from ledger.read_model import ROW_SCHEMA
from replay.rows import PARKED_SCHEMA, Folded
from replay.store_rows import UNWRITTEN_BATCHES_MAX, Memory

#: One that is being written, and one that is made and waits: as many as `consumers.shadow_process` asks for at once.
UNWRITTEN = 2

NUMBERS = count(1)
ACCOUNTS = [f"account-{number}" for number in range(8)]

batches = st.lists(
    st.dictionaries(st.sampled_from(ACCOUNTS), st.integers(-9, 9), min_size=1, max_size=6), min_size=1, max_size=12
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store for the rows of all examples, those of each under a number of its own."""
    store = Store.at(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


def rows_of(balances: dict[str, int]) -> pl.DataFrame:
    """Rows that differ by their balance."""
    row = dict.fromkeys(ROW_SCHEMA.names()) | {"frozen": 0, "pending_credit": 0, "pending_debit": 0}
    row |= {"status": "active", "version": 1, "chain": b"c", "last_effective_at": datetime(2026, 1, 1, tzinfo=UTC)}
    rows = [row | {"account_id": account_id, "balance": balance} for account_id, balance in balances.items()]
    return pl.DataFrame(rows, schema=ROW_SCHEMA)


def folded(balances: dict[str, int]) -> Folded:
    """A batch that made these rows."""
    rows = rows_of(balances)
    return Folded(rows["account_id"], rows, {}, PARKED_SCHEMA.to_frame().select("account_id", "version"))


@given(
    batches=batches,
    unwritten=st.integers(0, UNWRITTEN),
    rows_max=st.integers(1, 6),
    parts_max=st.integers(1, 4),
)
def test_it_knows_every_row_as_it_will_be(store, batches, unwritten, rows_max, parts_max):
    """Rows of batches that are not written yet are known, however few rows may be kept; all others can be read."""
    number = -next(NUMBERS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replay.store_rows, "MEMORY_ROWS_MAX", rows_max)
        patched.setattr(replay.store_rows, "MEMORY_PARTS_MAX", parts_max)
        known: dict[str, int] = {}
        memory = Memory(0, ROW_SCHEMA.to_frame(), PARKED_SCHEMA.to_frame())
        for place, batch in enumerate(batches):
            memory = memory.after(place, folded(batch))
            known |= batch
            if place >= unwritten:
                with store.writing() as connection:
                    read_model.write_rows(connection, number, rows_of(batches[place - unwritten]))
            with store.snapshot() as connection:
                found = memory.of(pl.Series("account_id", ACCOUNTS), connection, number)
            assert dict(found.select("account_id", "balance").iter_rows()) == known
            assert found.height == len(known)


def test_as_many_batches_are_kept_as_may_be_unwritten():
    """What the reading process is asked for at once is what a memory keeps however small it is."""
    assert UNWRITTEN_BATCHES_MAX >= ASKED_MAX == UNWRITTEN
