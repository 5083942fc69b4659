"""Relations: which transaction says that it belongs to which other, as edges.

An edge is kept whichever event names it, and whether or not the other transaction exists.
"""

from __future__ import annotations

import polars as pl

from projections.protocol import Projection

__all__ = ["RELATIONS"]

KEY = ("account_id", "transaction_id", "related_transaction_id")


def _fold(events: pl.LazyFrame) -> pl.LazyFrame:
    is_edge = pl.col("transaction_id").is_not_null() & pl.col("related_transaction_id").is_not_null()
    return events.filter(is_edge).select(KEY).unique()


def _merge(left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
    return pl.concat([left, right]).unique()


RELATIONS = Projection(
    name="relations",
    version=1,
    key=KEY,
    schema=pl.Schema(dict.fromkeys(KEY, pl.String())),
    fold=_fold,
    merge=_merge,
    details=("transaction_id", "related_transaction_id"),
    takes_codes=True,
)
