"""Order links: which order each transaction names, and where it stands, in no more columns than a reconciliation needs.

The same as `projections.transactions` says of these columns, of streams in version order. Which of two states came
first is told by their versions alone.
"""

from __future__ import annotations

import polars as pl

from projections.protocol import Projection
from schemas.columns import EVENT_SCHEMA
from schemas.events import ID_LENGTH_MAX

__all__ = ["ORDER_LINKS", "UNSETTLED", "of_orders"]

KEY = ("account_id", "transaction_id")
MOMENT = EVENT_SCHEMA["effective_at"]

#: Statuses that a transaction goes on from: only then can a later event tell its order.
UNSETTLED = ("pending", "frozen")

#: `type`, `amount` and `created_at` are of the first recording, of the first event where there is none
#: (`is_recorded`); `order_id` and the two after it of the last event that tells it, the rest of the last event.
#: `partition` is null for a store.
_SCHEMA = pl.Schema(
    {
        "order_id": pl.String(),
        **dict.fromkeys(KEY, pl.String()),
        "type": pl.String(),
        "amount": pl.Int64(),
        "status": pl.String(),
        "business_code": pl.String(),
        "related_transaction_id": pl.String(),
        "created_at": MOMENT,
        "is_recorded": pl.Boolean(),
        "updated_at": MOMENT,
        "version": pl.Int64(),
        "partition": pl.Int64(),
        "position": pl.Int64(),
    }
)
_CREATED = ("type", "amount", "created_at")
_TOLD = ("order_id", "business_code", "related_transaction_id")
_LAST = ("status", "updated_at", "partition", "position")


def of_orders(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events that may say something of an order: those that tell one, and those of what is not settled."""
    tells = pl.col("order_id").is_not_null()
    goes_on = pl.col("to_status").is_in(UNSETTLED) | pl.col("from_status").is_not_null()
    return events.filter(pl.col("transaction_id").is_not_null() & (tells | goes_on))


def _fold(events: pl.LazyFrame) -> pl.LazyFrame:
    has_partition = "partition" in events.collect_schema()
    of_transactions = events.filter(pl.col("transaction_id").is_not_null())
    return _aggregate(
        of_transactions.select(
            # No database keeps a NUL in text, or indexes whatever length; no order has such an id.
            _kept("order_id").str.slice(0, ID_LENGTH_MAX),
            *KEY,
            pl.col("type").cast(pl.String),
            pl.col("amount").cast(pl.Int64),
            pl.col("to_status").cast(pl.String).alias("status"),
            _kept("business_code"),
            _kept("related_transaction_id"),
            created_at="effective_at",
            is_recorded=pl.col("event").cast(pl.String) == "transaction.recorded",
            updated_at="effective_at",
            version="version",
            partition="partition" if has_partition else pl.lit(None, pl.Int64),
            position="position",
        )
    )


def _kept(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String).str.replace_all("\0", "\ufffd", literal=True)


def _merge(left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
    return _aggregate(pl.concat([left, right]))


def _aggregate(states: pl.LazyFrame) -> pl.LazyFrame:
    recorded_at = pl.when("is_recorded").then("version")
    created = (pl.coalesce(pl.col(name).min_by(recorded_at), pl.col(name).min_by("version")) for name in _CREATED)
    told = (pl.col(name).max_by(pl.when(pl.col(name).is_not_null()).then("version")) for name in _TOLD)
    return (
        states.group_by(KEY)
        .agg(*created, *told, pl.col(_LAST).max_by("version"), pl.col("version").max(), pl.col("is_recorded").any())
        .select(_SCHEMA.names())
    )


ORDER_LINKS = Projection(
    name="order_links",
    version=1,
    key=KEY,
    schema=_SCHEMA,
    fold=_fold,
    merge=_merge,
    details=("transaction_id", "related_transaction_id", "business_code", "order_id"),
    takes_codes=True,
)
