"""Breaks one by one: what each says, the evidence for it on both sides, and what happened to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from console.reports.model import Entry
from console.words import count
from schemas import format_time

__all__ = ["entries"]

#: Transactions of one break that are named; the JSON report has all.
TRANSACTIONS_SHOWN_MAX = 10


def entries(breaks: pl.DataFrame, history: pl.DataFrame) -> list[Entry]:
    """Return an entry a break (`BREAK_SCHEMA` and `age_seconds`); `history` may be of more than these."""
    of_these = history.filter(pl.col("break_id").is_in(breaks["id"].drop_nulls().implode())).sort("break_id", "number")
    logs: dict[int, list[str]] = {}
    for row in of_these.iter_rows(named=True):
        logs.setdefault(row["break_id"], []).append(_change(row))
    return [_entry(row, logs.get(row["id"], [])) for row in breaks.iter_rows(named=True)]


def _entry(row: dict[str, Any], log: list[str]) -> Entry:
    state = " ".join(filter(None, (row["state"], row["resolution"])))
    return Entry(
        title=row["order_id"],
        marks=[row["code"], state, f"{count(row['points_at_risk'] or 0, 'point')} at risk"],
        words=row["evidence"] or "",
        facts=[(name, value) for name, value in _facts(row) if value],
        log=log,
    )


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("break", "" if row["id"] is None else str(row["id"])),
        ("account", row["account_id"] or ""),
        ("order", _side(row["order_status"], row["order_points"], "placed", row["order_at"])),
        ("ledger", _side(row["credit_status"], row["credit_points"], "", None)),
        ("transactions", _listed(row["transactions"] or [])),
        ("event of the order", _place(row["order_partition"], row["order_position"])),
        ("event of the ledger", _place(row["ledger_partition"], row["ledger_position"])),
        ("due", _moment(row["deadline_at"])),
        ("open since", _moment(row["opened_at"])),
        ("age", "" if row["age_seconds"] is None else _age(row["age_seconds"])),
        ("facts changed", _moment(row["changed_at"])),
    ]


def _side(status: str | None, points: int | None, verb: str, at: datetime | None) -> str:
    points_of = "" if points is None else count(points, "point")
    when = f"{verb} {format_time(at)}" if at is not None and status is not None else ""
    return ", ".join(filter(None, (status, points_of, when)))


def _listed(transactions: list[str]) -> str:
    rest = len(transactions) - TRANSACTIONS_SHOWN_MAX
    shown = ", ".join(transactions[:TRANSACTIONS_SHOWN_MAX])
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def _place(partition: int | None, position: int | None) -> str:
    if position is None:
        return ""
    return f"position {position:,}" if partition is None else f"partition {partition}, offset {position:,}"


def _moment(at: datetime | None) -> str:
    return "" if at is None else format_time(at)


def _age(seconds: int) -> str:
    days, rest = divmod(max(seconds, 0), 86_400)
    hours, rest = divmod(rest, 3_600)
    if days:
        return f"{days:,} d {hours} h"
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min"


def _change(row: dict[str, Any]) -> str:
    state = " ".join(filter(None, (row["to_state"], row["resolution"])))
    return f"{format_time(row['at'])} {state}, by {row['by']}: {row['why']}"
