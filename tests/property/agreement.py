"""The write model and the projections side by side: what each says of every account, and where they differ."""

from __future__ import annotations

from typing import Any

import polars as pl

from ledger.account import Account
from projections import ACCOUNT_STATUS, BALANCES, account_rows
from schemas import Event, event_rows

SUMS = ("balance", "frozen", "pending_credit", "pending_debit")
COLUMNS = (*SUMS, "status", "version", "last_effective_at", "locked_at")


def by_aggregate(events: list[Event]) -> dict[str, dict[str, Any]]:
    """Return what the write model says of each account, sums of any size."""
    streams: dict[str, list[Event]] = {}
    for event in events:
        streams.setdefault(event.account_id, []).append(event)
    accounts = {account_id: Account.project(None, stream) for account_id, stream in streams.items()}
    return {account_id: {name: getattr(account, name) for name in COLUMNS} for account_id, account in accounts.items()}


def by_projection(events: list[Event]) -> dict[str, dict[str, Any]]:
    """Return what the projections say of each account, sums as they are in the states, before they are judged."""
    batch = event_rows(events).lazy()
    balances, status = BALANCES.fold(batch).collect(), ACCOUNT_STATUS.fold(batch).collect()
    # The sums are compared wide; the rows are finished on sums of nothing, since they may be past int64 here.
    small = balances.with_columns(pl.lit(0, pl.Int128).alias(name) for name in SUMS)
    rows = account_rows(small.lazy(), status.lazy()).drop(SUMS).collect()
    whole = rows.join(balances.select("account_id", *SUMS), on="account_id")
    return {row["account_id"]: {name: row[name] for name in COLUMNS} for row in whole.iter_rows(named=True)}


def disagreements(events: list[Event]) -> list[tuple[str, str, Any, Any]]:
    """Return (account, column, write model's, projection's) wherever the two differ."""
    left, right = by_aggregate(events), by_projection(events)
    return [
        (account_id, name, left.get(account_id, {}).get(name), right.get(account_id, {}).get(name))
        for account_id in sorted(left.keys() | right.keys())
        for name in COLUMNS
        if left.get(account_id, {}).get(name) != right.get(account_id, {}).get(name)
    ]
