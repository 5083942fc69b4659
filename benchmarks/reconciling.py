"""What is measured of `reconcile`: two Parquet files over a range, against a bare full join of them in DuckDB.

Of a thousand orders 600 are paid, 200 paid and half refunded, 100 paid by two transactions, 50 cancelled before payment
and 50 pending with a hold; three have something wrong. Ours checks every row, judges every order by the full rules, and
ends with what is wrong in words; DuckDB adds up what is completed by order, joins, and counts where the sums differ.
Store and archive, of the same rows, are measured beside it: these replay every event first.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import polars as pl

from benchmarks.report import Result

__all__ = ["TASKS", "results"]

Measured = dict[str, Any]

ROOT = Path(__file__).parent.parent
ORDERS = 1_000_000
TRANSACTIONS = 1_500_000
ACCOUNTS = 50_000
RUNS = 3
START = datetime(2025, 10, 9, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
#: An order a second.
SECOND_US = 1_000_000

_SQL = """
SELECT count(*), sum(t.transactions), sum(o.points_amount), sum(t.net),
    count(*) FILTER (WHERE o.order_id IS NULL OR t.order_id IS NULL OR o.points_amount <> t.net)
FROM (SELECT * FROM '{orders}' WHERE created_at BETWEEN '{start}' AND '{end}') o
FULL JOIN (
    SELECT order_id, count(*) AS transactions,
        sum(CASE WHEN status <> 'completed' THEN 0 WHEN type = 'debit' THEN amount ELSE -amount END) AS net
    FROM '{transactions}' GROUP BY order_id
) t USING (order_id)
"""


def make(folder: Path) -> None:
    """Write `orders.parquet` and `transactions.parquet` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    number = pl.col("number")
    # Well mixed, and the same on every machine.
    drawn = (number.cast(pl.UInt64) * pl.lit(0x9E3779B97F4A7C15, pl.UInt64)) // 2**33
    orders = pl.select(number=pl.int_range(ORDERS)).with_columns(
        points=(drawn % 500 + 2).cast(pl.Int64),
        account_id=pl.format("acct-{}", (drawn * 7 % ACCOUNTS).cast(pl.String).str.zfill(7)),
        kind=(drawn // 7 % 1_000).cast(pl.Int64),
        order_id=pl.format("order-{}", number.cast(pl.String).str.zfill(9)),
        created_at=pl.lit(START) + pl.duration(microseconds=number * SECOND_US),
    )
    kind, points = pl.col("kind"), pl.col("points")
    status = pl.when(kind < 900).then(pl.lit("completed")).when(kind < 950).then(pl.lit("cancelled"))
    refunded = pl.when(kind.is_between(600, 799)).then(points // 2).otherwise(0)
    orders.select(
        "order_id",
        "account_id",
        points_amount="points",
        status=status.otherwise(pl.lit("pending")),
        created_at="created_at",
        refunded_points=refunded,
    ).write_parquet(folder / "orders.parquet")
    too_much = pl.when(kind == 1).then(1).otherwise(0)
    rows = [
        _transactions(orders.filter((kind < 800) & (kind != 0)), "pay", points + too_much),
        _transactions(orders.filter(kind.is_between(600, 799)), "back", points // 2, type="credit"),
        _transactions(orders.filter(kind.is_between(800, 899)), "first", points // 2),
        _transactions(orders.filter(kind.is_between(800, 899) & (kind != 899)), "second", points - points // 2),
        _transactions(orders.filter(kind >= 950), "hold", points, status="frozen"),
        # Attempts that came to nothing.
        _transactions(orders.filter(kind < 260), "try", points, status="cancelled"),
    ]
    every = pl.concat(rows).sort("created_at", "transaction_id")
    every.head(TRANSACTIONS).write_parquet(folder / "transactions.parquet")


def _transactions(
    orders: pl.DataFrame, name: str, amount: pl.Expr, *, type: str = "debit", status: str = "completed"
) -> pl.DataFrame:
    return orders.select(
        "account_id",
        "order_id",
        transaction_id=pl.format(f"{name}-{{}}", pl.col("number").cast(pl.String).str.zfill(9)),
        type=pl.lit(type),
        status=pl.lit(status),
        amount=amount,
        related_transaction_id=pl.lit(None, pl.String()),
        business_code=pl.lit("order.refund" if type == "credit" else "order.payment"),
        created_at=pl.col("created_at") + pl.duration(seconds=60),
    )


def of_files(folder: Path) -> Measured:
    """Reconcile the two files over a range that has every order."""
    from ledger.importing import FileSource, Mapping
    from replay.reconcile import Range, reconcile
    from replay.reconcile_files import ledger_of_file, orders_of_file

    start = perf_counter()
    more = {"mapping": Mapping(), "now": NOW}
    transactions, orders = (FileSource(folder / f"{name}.parquet") for name in ("transactions", "orders"))
    ledger, _ = ledger_of_file(transactions, rejects=folder / "rejects-transactions.csv", **more)
    side, _ = orders_of_file(orders, rejects=folder / "rejects-orders.csv", **more)
    found = reconcile(ledger, side, span=Range(START, NOW))
    seconds = perf_counter() - start
    assert found.withheld.is_empty(), "nothing of these files is withheld"
    return _measured(seconds, found.orders, found.transactions) | {"mismatches": found.mismatches.height}


def of_duckdb(folder: Path) -> Measured:
    """Join the two files and add up, nothing else."""
    import duckdb

    start = perf_counter()
    places = {name: str(folder / f"{name}.parquet") for name in ("orders", "transactions")}
    with duckdb.connect() as connection:
        orders, transactions, *_ = connection.execute(_SQL.format(start=START, end=NOW, **places)).fetchall()[0]
    return _measured(perf_counter() - start, orders, int(transactions))


def of_ledger(folder: Path) -> Measured:
    """Reconcile a ledger of the same rows, by its store and by its archive, whose time is `archive_seconds`."""
    from consumers.archiver import archive_store
    from ledger.importing import FileSource, import_orders, import_transactions
    from ledger.store import Store
    from replay.archive.files import Location
    from replay.archive.table import Archive
    from replay.reconcile import ask_for, reconcile
    from replay.reconcile_sides import ledger_of_archive, ledger_of_store, orders_of_ledger

    store = Store.at(folder / "ledger")
    for name, bring in (("transactions", import_transactions), ("orders", import_orders)):
        bring(store, FileSource(folder / f"{name}.parquet"), now=NOW, rejects=folder / f"rejects-{name}.csv")
    archive = Archive(Location(str(folder / "archive")), expected=folder / "archive.json")
    archive_store(archive, store, now=lambda: NOW)
    start = perf_counter()
    found = reconcile(ledger_of_store(store, ask_for(), now=NOW), orders_of_ledger(store))
    seconds = perf_counter() - start
    start = perf_counter()
    again = reconcile(ledger_of_archive(archive, ask_for()), orders_of_ledger(store))
    archive_seconds = perf_counter() - start
    store.close()
    assert again.mismatches.equals(found.mismatches), "store and archive disagree"
    return _measured(seconds, found.orders, found.transactions) | {"archive_seconds": archive_seconds}


def _measured(seconds: float, orders: int, transactions: int) -> Measured:
    return {"seconds": seconds, "events": transactions, "check": [orders, transactions], "settings": {}}


TASKS: dict[str, Callable[[Path], Measured]] = {
    "reconcile files": of_files,
    "reconcile duckdb": of_duckdb,
    "reconcile ledger": of_ledger,
}


def results(run: Callable[[str, Path], Measured], data: Path) -> list[Result]:
    """Measure each task in a process of its own as `run` starts it, ours and DuckDB's in turn."""
    folder = data / "reconciliation"
    subprocess.run([sys.executable, "-m", "benchmarks.reconciling", str(folder)], check=True, cwd=ROOT)
    found = [(run("reconcile files", folder), run("reconcile duckdb", folder)) for _ in range(RUNS)]
    assert len({str(each["check"]) for pair in found for each in pair}) == 1, "ours and DuckDB's counts disagree"
    ours, bare = ([pair[place] for pair in found] for place in (0, 1))
    ledger = run("reconcile ledger", folder)
    seconds, bare_seconds = _median(ours), _median(bare)
    rows = f"{ORDERS:,} orders, {ours[0]['events']:,} transactions in Parquet"
    return [
        Result.within(
            "reconcile files over a range: against DuckDB, bare full join with sums",
            f"{rows}, {seconds:.2f} s; DuckDB: {bare_seconds:.2f} s",
            seconds / bare_seconds,
            "x",
            value_max=3.0,
        ),
        Result.below("reconcile files over a range: peak memory", ours, bytes_max=3e9),
        Result.noted("reconcile the same from the store", rows, f"{ledger['seconds']:.2f} s"),
        Result.noted("reconcile the same from the archive", rows, f"{ledger['archive_seconds']:.2f} s"),
    ]


def _median(measured: Sequence[Measured]) -> float:
    return median(each["seconds"] for each in measured)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
