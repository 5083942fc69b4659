"""Balances: what each account holds, folded from the delta that every event carries.

The deltas are worked out here on their own, not through `ledger.rules`, so that the write model and this
projection check each other. Sums are Int128 and are judged against int64 only at the end: a sum that leaves
int64 and comes back is fine, and whether it did must not depend on where the stream was cut.
"""

from __future__ import annotations

import polars as pl

from projections.protocol import Projection
from schemas.columns import EVENT_SCHEMA

__all__ = ["BALANCES", "BALANCE_COLUMNS", "account_rows", "overflowed"]

SUMS = ("balance", "frozen", "pending_credit", "pending_debit")

#: The columns of `finish`, which are those of the live read model less the account's status.
BALANCE_COLUMNS = (
    "account_id",
    "balance",
    "frozen",
    "available",
    "pending_credit",
    "pending_debit",
    "version",
    "last_effective_at",
)

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def _fold(events: pl.LazyFrame) -> pl.LazyFrame:
    kind = events.collect_schema()["amount"]
    deltas = events.select("account_id", *_deltas(kind), "version", last_effective_at="effective_at")
    # Whoever gives amounts of 32 bits vouches that all of them together are within int64.
    return _aggregate(deltas, pl.Int64() if kind == pl.Int32 else pl.Int128())


def _merge(left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
    return _aggregate(pl.concat([left, right]), pl.Int128())


def _aggregate(rows: pl.LazyFrame, wide: pl.DataType) -> pl.LazyFrame:
    return rows.group_by("account_id").agg(
        pl.col(SUMS).cast(wide).sum().cast(pl.Int128), pl.col("version", "last_effective_at").max()
    )


def _deltas(kind: pl.DataType) -> list[pl.Expr]:
    """What each event is worth in each sum: what the new status counts for, less what the old one did.

    Of one event that is its amount, its negative or nothing, so the type of amounts holds it: only sums need more.
    """
    amount = pl.col("amount")
    credit, debit = pl.col("type") == "credit", pl.col("type") == "debit"
    nothing = pl.lit(0, kind)
    signed = pl.when(credit).then(amount).when(debit).then(-amount).otherwise(nothing)
    worth = {
        "balance": ("completed", signed),
        "frozen": ("frozen", amount),
        "pending_credit": ("pending", pl.when(credit).then(amount).otherwise(nothing)),
        "pending_debit": ("pending", pl.when(debit).then(amount).otherwise(nothing)),
    }
    # An event of the account itself has no statuses; null equals nothing, so it is worth nothing.
    return [
        (
            pl.when(pl.col("to_status") == status).then(points).otherwise(nothing)
            - pl.when(pl.col("from_status") == status).then(points).otherwise(nothing)
        ).alias(name)
        for name, (status, points) in worth.items()
    ]


def _finish(state: pl.LazyFrame) -> pl.LazyFrame:
    """Return `BALANCE_COLUMNS`, sums as Int64; collecting raises where a sum is past int64, and never wraps.

    Ask `overflowed` first to name the accounts.
    """
    available = (pl.col("balance") - pl.col("frozen")).alias("available")
    return state.with_columns(available).select(
        pl.col(name).cast(pl.Int64, strict=True) if name in {*SUMS, "available"} else pl.col(name)
        for name in BALANCE_COLUMNS
    )


def overflowed(state: pl.LazyFrame) -> pl.LazyFrame:
    """Return (account_id, column, value as String) for every sum, `available` included, that is past int64."""
    return (
        state.with_columns(available=pl.col("balance") - pl.col("frozen"))
        .select("account_id", *SUMS, "available")
        .unpivot(index="account_id", variable_name="column", value_name="value")
        .filter(~pl.col("value").is_between(_INT64_MIN, _INT64_MAX))
        .with_columns(pl.col("value").cast(pl.String))
    )


def account_rows(balances_state: pl.LazyFrame, status_state: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row an account: `BALANCE_COLUMNS`, `status` before `version`, and what the status came from.

    `status` is active where the account was never locked, unlocked or closed; then `locked_at`,
    `status_version` and `closed_version` are null. Not sorted. Raises as the finish of `BALANCES` does.
    """
    names = [name for name in BALANCE_COLUMNS if name not in {"version", "last_effective_at"}]
    return (
        _finish(balances_state)
        .join(status_state, on="account_id", how="left")
        .with_columns(pl.col("status").fill_null("active"))
        .select(*names, "status", "version", "last_effective_at", "locked_at", "status_version", "closed_version")
    )


BALANCES = Projection(
    name="balances",
    version=1,
    key=("account_id",),
    schema=pl.Schema(
        {
            "account_id": pl.String(),
            **dict.fromkeys(SUMS, pl.Int128()),
            "version": pl.Int64(),
            "last_effective_at": EVENT_SCHEMA["effective_at"],
        }
    ),
    fold=_fold,
    merge=_merge,
    finish=_finish,
    takes_codes=True,
)
