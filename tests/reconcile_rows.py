"""Small worlds of orders and transactions as an import has them, and what a reconciliation of them finds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from ledger import Store
from ledger.importing import FileSource, Mapping, import_orders, import_transactions
from replay.reconcile import Found, Range, ask_for, reconcile
from replay.reconcile_breaks import Kept, keep
from replay.reconcile_files import ledger_of_file, orders_of_file
from replay.reconcile_sides import LedgerSide, ledger_of_store, orders_of_ledger

__all__ = ["DAY", "LATER", "bring", "codes", "in_files", "kept", "order", "payment", "refund", "told", "write"]

DAY = datetime(2026, 3, 1, tzinfo=UTC)
#: Past every deadline of what happened on that day.
LATER = DAY + timedelta(days=2)

_TIMES = {"created_at", "updated_at"}
_WHOLE = {"amount", "points_amount", "refunded_points"}

Row = dict[str, Any]


def order(order_id: str, points: int = 100, **fields: Any) -> Row:
    """A completed order of alice, unless `fields` say otherwise."""
    row = {"order_id": order_id, "account_id": "alice", "points_amount": points, "status": "completed"}
    return row | {"created_at": DAY, "refunded_points": None} | fields


def payment(transaction_id: str, order_id: str | None, amount: int = 100, **fields: Any) -> Row:
    """A completed payment by alice, unless `fields` say otherwise."""
    row = {"transaction_id": transaction_id, "account_id": "alice", "type": "debit", "status": "completed"}
    more = {"amount": amount, "related_transaction_id": None, "business_code": "order.payment"}
    return row | more | {"order_id": order_id, "created_at": DAY + timedelta(minutes=1)} | fields


def refund(transaction_id: str, order_id: str, amount: int = 100, **fields: Any) -> Row:
    """A completed refund to alice, unless `fields` say otherwise."""
    return payment(transaction_id, order_id, amount, type="credit", business_code="order.refund") | fields


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as Parquet with types, or as CSV, and return where."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: pl.Int64() if name in _WHOLE else pl.String() for name in names}
    schema = {name: pl.Datetime("us", "UTC") if name in _TIMES else kinds[name] for name in names}
    frame = pl.DataFrame([{name: row.get(name) for name in names} for row in rows], schema=schema, orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).write_csv(path)
    return path


def bring(store: Store, orders: Sequence[Row] = (), transactions: Sequence[Row] = (), *, now: datetime = LATER) -> None:
    """Import orders and transactions, every row of which is good."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows, bring_in in ((transactions, import_transactions), (orders, import_orders)):
            if rows:
                source = FileSource(write(folder / "rows.parquet", rows))
                found = bring_in(store, source, now=now, rejects=folder / "rejects.csv")
                assert found.rejected == 0, (folder / "rejects.csv").read_text()


def told(store: Store, *, now: datetime = LATER, span: Range = Range(), ledger: LedgerSide | None = None) -> Found:
    """Return what a reconciliation finds, without keeping it."""
    side = ledger or ledger_of_store(store, ask_for(span=span), now=now)
    return reconcile(side, orders_of_ledger(store), span=span, now=now)


def kept(store: Store, *, now: datetime = LATER, span: Range = Range(), ledger: LedgerSide | None = None) -> Kept:
    """Reconcile and keep what is found."""
    found = told(store, now=now, span=span, ledger=ledger)
    return keep(store, found, now=now)


def in_files(orders: Sequence[Row], transactions: Sequence[Row], *, ending: str, now: datetime = LATER) -> Found:
    """Return what a reconciliation of the same rows in two files finds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            FileSource(write(folder / f"{kind}.{ending}", rows)) for kind, rows in (("t", transactions), ("o", orders))
        ]
        ledger, _ = ledger_of_file(files[0], mapping=Mapping(), rejects=folder / "r1.csv", now=now)
        found, _ = orders_of_file(files[1], mapping=Mapping(), rejects=folder / "r2.csv", now=now)
        return reconcile(ledger, found, now=now)


def codes(frame: pl.DataFrame) -> list[tuple[str, str]]:
    """Return order and code of each mismatch, in order."""
    return list(frame.select("order_id", "code").sort("order_id", "code").iter_rows())
