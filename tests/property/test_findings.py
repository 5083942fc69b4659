"""Findings are what a plain reading of the events gives, whole or account range by account range."""

from __future__ import annotations

import json
from collections import Counter

import oracle
import polars as pl
from histories import ACCOUNTS, NOW, examples, histories, legal_histories
from hypothesis import given

from projections import (
    ACCOUNT_STATUS,
    BALANCES,
    FINDINGS_SCHEMA,
    TRANSACTIONS,
    account_findings,
    cross_account_findings,
    findings,
    identities,
    missing_related,
    sort_findings,
)
from schemas import Event, event_rows

#: Codes whose `actual` the oracle works out too.
COMPARED_ACTUAL = {
    "negative_balance",
    "over_frozen",
    "overflow",
    "conflicting_duplicate",
    "duplicate_transaction",
    "illegal_transition",
    "related_in_other_account",
}
#: What a history without any contradiction may still show: overdrafts, old pending ones, sums too large, and so on.
STATE_CODES = {
    "negative_balance",
    "missing_related_transaction",
    "stale_pending_transaction",
    "related_in_other_account",
    "over_frozen",
    "closed_account_activity",
    "future_timestamp",
    "overflow",
}


def states_of(events: list[Event]) -> list[pl.LazyFrame]:
    """The states that findings are made from."""
    batch = event_rows(events).lazy()
    return [projection.fold(batch).collect().lazy() for projection in (TRANSACTIONS, ACCOUNT_STATUS, BALANCES)]


def as_found(rows: pl.DataFrame) -> list[oracle.Found]:
    """Findings in the oracle's form."""
    assert rows.schema == FINDINGS_SCHEMA
    found = [
        (code, account_id, transaction_id, position, actual if code in COMPARED_ACTUAL else None)
        for code, account_id, transaction_id, position, _, actual, _ in rows.iter_rows()
    ]
    illegal = rows.filter(pl.col("code") == "illegal_transition")
    counts = [
        ("illegal changes", row["account_id"], row["transaction_id"], json.loads(row["details"])["count"], None)
        for row in illegal.iter_rows(named=True)
    ]
    return found + counts


@examples(100)
@given(events=histories(40))
def test_findings_are_those_of_a_plain_reading(events: list[Event]) -> None:
    """Every finding is found, with its place and value, and nothing else is."""
    rows = findings(*states_of(events), now=NOW).collect()
    assert Counter(as_found(rows)) == Counter(oracle.findings(events, NOW))


@examples(20)
@given(events=legal_histories(40))
def test_legal_histories_have_no_contradictions(events: list[Event]) -> None:
    """Of a history in which every event follows, only its state may be found wanting."""
    rows = findings(*states_of(events), now=NOW).collect()
    assert set(rows["code"]) <= STATE_CODES


@examples(15)
@given(events=histories(40))
def test_findings_by_range_are_the_findings_of_the_whole(events: list[Event]) -> None:
    """Account by account, then id by id, on either engine, gives what all at once gives, in the same order."""
    transactions, status, balances = states_of(events)
    whole = findings(transactions, status, balances, now=NOW).collect()
    parts = []
    for account_id in ACCOUNTS:
        is_own = pl.col("account_id") == account_id
        parts.append(account_findings(transactions.filter(is_own), status, balances.filter(is_own), now=NOW))
    missing, known = missing_related(transactions), identities(transactions)
    for is_even in (True, False):
        bucket = (pl.col("transaction_id").str.len_bytes() % 2 == 0) == is_even
        related_bucket = (pl.col("related_transaction_id").str.len_bytes() % 2 == 0) == is_even
        parts.append(cross_account_findings(missing.filter(related_bucket), known.filter(bucket)))
    assert sort_findings(pl.concat(parts)).collect(engine="streaming").equals(whole)
