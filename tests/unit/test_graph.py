"""The graph of a transaction where the ledger is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import lose_event, write_history

from ledger import Store
from replay import graph
from schemas.errors import UsageError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a history."""
    store = Store.at(tmp_path)
    write_history(store)
    yield store
    store.close()


def test_a_transaction_behind_a_gap_is_not_denied(store: Store) -> None:
    """An empty graph that says INCOMPLETE and which account is parked, since the transaction may be there."""
    lose_event(store, "acc-2", 3)
    found = graph(store, "acc-2-d1")
    assert (found.verdict, found.transactions.height, found.edges.height, found.missing) == ("INCOMPLETE", 0, 0, [])
    assert [parked.account_id for parked in found.certificate.parked] == ["acc-2"]
    assert found.to_dot().endswith("}")
    assert found.to_mermaid() == "flowchart LR"
    assert graph(store, "acc-1-d1").transactions.height == 2


def test_a_transaction_of_no_event_is_refused(store: Store) -> None:
    """In a ledger that is whole, an id that no event mentions is an error that names it."""
    with pytest.raises(UsageError, match="no transaction acc-2-d9"):
        graph(store, "acc-2-d9")
