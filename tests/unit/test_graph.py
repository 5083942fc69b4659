"""The graph of a transaction where the ledger is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import append, lose_event, write_history
from samples import opened, recorded

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


def test_a_transaction_of_two_accounts_is_one_node_that_names_both(tmp_path: Path) -> None:
    """Where two accounts have a transaction of one id, no statement about it hides the other."""
    store = Store.at(tmp_path / "two")
    append(store, opened("a"), recorded("a", 2, 10, transaction_id="same"))
    append(store, opened("b"), recorded("b", 2, 77, transaction_id="same", related_transaction_id="other"))
    found = graph(store, "same")
    store.close()
    dot = [line for line in found.to_dot().splitlines() if line.startswith('  "same" [')]
    assert dot == ['  "same" [label="same\\na: credit 10 completed\\nb: credit 77 completed"];']
    mermaid = found.to_mermaid().splitlines()
    assert mermaid[1:] == [
        '  t0["same<br>a: credit 10 completed<br>b: credit 77 completed"]',
        '  t1(["other"])',
        "  t0 --> t1",
    ]


def test_an_id_in_mermaid_is_text_and_no_markup(tmp_path: Path) -> None:
    """Whatever an id is made of, it is shown as it is and ends neither its label nor the line."""
    store = Store.at(tmp_path / "odd")
    append(store, opened("a"), recorded("a", 2, transaction_id='<b>&lt;#1"', related_transaction_id="<i>&"))
    found = graph(store, '<b>&lt;#1"').to_mermaid().splitlines()
    store.close()
    assert found[1].startswith('  t0["#lt;b#gt;#amp;lt;#35;1#quot;<br>credit 10 ')
    assert found[2] == '  t1(["#lt;i#gt;#amp;"])'
