"""Account status: whether an account is locked or closed, and since when.

Only accounts that were ever locked, unlocked or closed have a row; all others are active.
"""

from __future__ import annotations

import polars as pl

from projections.protocol import Projection
from schemas.columns import EVENT_SCHEMA

__all__ = ["ACCOUNT_STATUS"]

_STATUS_AFTER = {"account.locked": "locked", "account.unlocked": "active", "account.closed": "closed"}


def _fold(events: pl.LazyFrame) -> pl.LazyFrame:
    status = pl.col("event").cast(pl.String).replace_strict(_STATUS_AFTER, return_dtype=pl.String)
    rows = events.filter(pl.col("event").is_in(list(_STATUS_AFTER))).select(
        "account_id",
        status.alias("status"),
        pl.col("version").alias("status_version"),
        pl.when(pl.col("event") == "account.locked").then("effective_at").alias("locked_at"),
        pl.when(pl.col("event") == "account.closed").then("version").alias("closed_version"),
    )
    return _aggregate(rows)


def _merge(left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
    return _aggregate(pl.concat([left, right]))


def _aggregate(rows: pl.LazyFrame) -> pl.LazyFrame:
    # The last by version, not by row: the result must not depend on the order of rows in a batch.
    return rows.group_by("account_id").agg(
        pl.col("status").max_by("status_version"),
        pl.col("status_version").max(),
        pl.col("locked_at").max_by("status_version"),
        pl.col("closed_version").min(),
    )


ACCOUNT_STATUS = Projection(
    name="account_status",
    version=1,
    key=("account_id",),
    schema=pl.Schema(
        {
            "account_id": pl.String(),
            "status": pl.String(),
            "status_version": pl.Int64(),
            "locked_at": EVENT_SCHEMA["effective_at"],
            "closed_version": pl.Int64(),
        }
    ),
    fold=_fold,
    merge=_merge,
    takes_codes=True,
)
