"""The scenario's reconciliation to the letter: orders of a time range against transactions of one business code.

Orders with `placed_at` and transactions with `created_at` in the range, both ends of it included, are all there is;
each in its final status. An order that no such transaction names is missing_credit_transaction and nothing else.
Of others, the sum of the completed amounts, without signs, is the credit: where it is not the order's points, that is
amount_mismatch. The first transaction's status is the credit's: where the order is completed and it is not, or the
order is cancelled and it is not cancelled, that is status_mismatch.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import polars as pl

from projections.mismatches import of_code
from projections.order_sums import in_order
from projections.reconciliation import MISMATCH_SCHEMA
from projections.suspects import KEY, key_columns, of_keys

__all__ = ["Scenario", "scenario"]

#: The statuses that an order's and its first transaction's must agree about.
_CODES = {"completed": 1, "cancelled": 2}


class Scenario(NamedTuple):
    """What was compared, and what is wrong: `orders` and `transactions` are those of the range, to be counted.

    `mismatches` has `MISMATCH_SCHEMA`; `credit_points` is the sum of the completed amounts, `credit_status` the status
    of the first transaction, and `deadline_at` is null, since the scenario does not wait.
    """

    orders: pl.LazyFrame
    transactions: pl.LazyFrame
    mismatches: pl.LazyFrame


def scenario(
    orders: pl.LazyFrame, transactions: pl.LazyFrame, *, start: datetime, end: datetime, business_code: str
) -> Scenario:
    """Reconcile as the scenario does.

    `orders` has `ORDER_STATE`; `transactions` has `LINKED_SCHEMA`, but `order_id` may be null: such a one only counts.
    Among transactions of one order created at one moment, the one with the lowest position is the first, so give the
    position and the version of the first event of each, where they are known.
    """
    of_range = orders.filter(pl.col("placed_at").is_between(start, end))
    in_range = pl.col("created_at").is_between(start, end) & (pl.col("business_code") == business_code)
    of_code = transactions.filter(in_range)
    suspects, named = _suspected(of_range, of_code.filter(pl.col("order_id").is_not_null()))
    both = suspects.join(_credits(named), on="order_id", how="left")
    return Scenario(of_range, of_code, _mismatches(both))


def _suspected(orders: pl.LazyFrame, named: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return both sides of the orders that may have a mismatch, and of a few that have none."""
    status = pl.col("status").replace_strict(_CODES, default=0, return_dtype=pl.Int8)
    amount = pl.when(pl.col("status") == "completed").then("amount").otherwise(0)
    of_named = named.select(*key_columns(), beyond=amount.cast(pl.Int128), code=status, order=pl.lit(0, pl.Int8))
    is_judged = pl.col("status").is_in(list(_CODES))
    of_orders = orders.select(
        *key_columns(),
        beyond=(-pl.col("points")).cast(pl.Int128),
        code=pl.when(is_judged).then(status),
        order=pl.lit(1, pl.Int8),
    )
    sums = (
        pl.concat([of_named, of_orders])
        .group_by(KEY)
        .agg(
            pl.col("beyond").sum(),
            has_order=pl.col("order").max() == 1,
            is_linked=pl.col("order").min() == 0,
            is_one=pl.col("order_hash").min() == pl.col("order_hash").max(),
            agrees=pl.col("code").min() == pl.col("code").max(),
        )
    )
    is_clean = pl.col("is_one") & pl.col("is_linked") & pl.col("agrees") & (pl.col("beyond") == 0)
    return of_keys(orders, named, sums.filter(pl.col("has_order") & ~is_clean.fill_null(value=False)))


def _credits(transactions: pl.LazyFrame) -> pl.LazyFrame:
    """One row an order of the transactions that name it."""
    completed = pl.col("amount").filter(pl.col("status") == "completed").cast(pl.Int128).sum()
    return (
        in_order(transactions)
        .group_by("order_id")
        .agg(
            completed.alias("credit_points"),
            pl.col("status").min_by("place").alias("credit_status"),
            pl.col("account_id").min_by("place").alias("credit_account_id"),
            pl.col("transaction_id").sort_by("place").alias("transactions"),
            pl.max_horizontal("created_at", "updated_at").max().alias("linked_latest_at"),
            pl.col("partition").max_by("place_of_last").alias("ledger_partition"),
            pl.col("position").max_by("place_of_last").alias("ledger_position"),
        )
    )


def _mismatches(both: pl.LazyFrame) -> pl.LazyFrame:
    is_missing = pl.col("transactions").is_null()
    status, credit_status = pl.col("status"), pl.col("credit_status")
    points = pl.col("points").cast(pl.Int128)
    difference = (pl.col("credit_points") - points).abs()
    holds = {
        "missing_credit_transaction": is_missing,
        "amount_mismatch": ~is_missing & (difference != 0),
        "status_mismatch": ~is_missing & status.is_in(list(_CODES)) & (status != credit_status),
    }
    risks = {"missing_credit_transaction": points, "amount_mismatch": difference, "status_mismatch": points}
    evidence = {
        "missing_credit_transaction": pl.format(
            "The order has {} points, and no transaction of the range and the code names it.", "points"
        ),
        "amount_mismatch": pl.format(
            "The order has {} points, and its completed transactions come to {}.", "points", "credit_points"
        ),
        "status_mismatch": pl.format("The order is {}, and its first transaction is {}.", status, credit_status),
    }
    codes = pl.concat_list(pl.when(flag).then(pl.lit(code)) for code, flag in holds.items()).list.drop_nulls()
    found = both.with_columns(code=codes).filter(pl.col("code").list.len() > 0).explode("code")
    return found.with_columns(points_at_risk=of_code(risks), evidence=of_code(evidence)).select(_told())


def _told() -> list[pl.Expr]:
    source = {
        "account_id": pl.coalesce("account_id", "credit_account_id"),
        "order_points": pl.col("points"),
        "order_status": pl.col("status"),
        "transactions": pl.col("transactions").fill_null([]),
        "order_partition": pl.col("partition"),
        "order_position": pl.col("position"),
        "order_at": pl.col("placed_at"),
        "latest_at": pl.max_horizontal("latest_at", "linked_latest_at"),
        "deadline_at": pl.lit(None),
    }
    return [
        source.get(name, pl.col(name)).cast(dtype, strict=True).alias(name) for name, dtype in MISMATCH_SCHEMA.items()
    ]
