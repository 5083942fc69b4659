"""What judging orders found, made for tests: a row an order and code, with little to say about each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from ledger.breaks import FOUND_SCHEMA

__all__ = ["at", "found", "mismatch", "of"]

START = datetime(2026, 5, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    """A moment, in hours after the beginning of the test."""
    return START + timedelta(hours=hours)


def mismatch(order_id: str, code: str = "amount_mismatch", *, points: int = 5, deadline: float = 1, **more: object):
    """One mismatch; `deadline` is in hours."""
    row: dict[str, object] = {
        "order_id": order_id,
        "code": code,
        "account_id": "alice",
        "points_at_risk": points,
        "order_points": 10,
        "credit_points": 5,
        "order_status": "completed",
        "credit_status": "completed",
        "transactions": [f"{order_id}-paid"],
        "evidence": f"{points} points are not where they belong",
        "order_partition": 0,
        "order_position": 7,
        "ledger_partition": None,
        "ledger_position": 3,
        "order_at": at(0),
        "deadline_at": at(deadline),
    }
    return row | more


def found(*mismatches: dict[str, object]) -> pl.DataFrame:
    """A frame of mismatches."""
    return pl.DataFrame(list(mismatches), schema=FOUND_SCHEMA)


def of(*order_ids: str) -> pl.Series:
    """The orders that were judged."""
    return pl.Series(order_ids, dtype=pl.String)
