"""Two independent implementations agree on every account: the write model in Python, the projections in columns."""

from __future__ import annotations

import polars as pl
from agreement import disagreements
from histories import examples, histories, legal_histories
from hypothesis import given

from ledger.account import Account
from projections import TRANSACTIONS
from schemas import Event, event_rows


@examples(100)
@given(events=histories(40))
def test_write_model_and_projections_agree_on_every_account(events: list[Event]) -> None:
    """Balance, frozen, pending, status, version, latest moment and lock time are the same, legal history or not."""
    assert disagreements(events) == []


@examples(50)
@given(events=histories(40))
def test_write_model_and_projection_agree_on_every_status(events: list[Event]) -> None:
    """Every transaction of every account has the same final status in both."""
    rows = TRANSACTIONS.fold(event_rows(events).lazy()).collect()
    projected = {(row["account_id"], row["transaction_id"]): row["status"] for row in rows.iter_rows(named=True)}
    assert projected == {key: transaction.status for key, transaction in _transactions(events).items()}


@examples(30)
@given(events=legal_histories(40))
def test_write_model_and_projection_agree_on_legal_transactions(events: list[Event]) -> None:
    """Of a legal history, what each transaction is and when it came about and last changed are the same in both."""
    names = ("type", "amount", "related_transaction_id", "created_at", "updated_at")
    rows = TRANSACTIONS.fold(event_rows(events).lazy()).collect()
    assert rows.select(pl.col("illegal_count").sum()).item() == 0
    projected = {
        (row["account_id"], row["transaction_id"]): [row[name] for name in names] for row in rows.iter_rows(named=True)
    }
    assert projected == {
        key: [getattr(transaction, name) for name in names] for key, transaction in _transactions(events).items()
    }


def _transactions(events: list[Event]):
    streams: dict[str, list[Event]] = {}
    for event in events:
        streams.setdefault(event.account_id, []).append(event)
    return {
        (account_id, transaction_id): transaction
        for account_id, stream in streams.items()
        for transaction_id, transaction in Account.project(None, stream).transactions.items()
    }
