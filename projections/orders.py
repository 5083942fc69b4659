"""Orders: where each one stands, folded from its events (`schemas.orders`), each (order_id, version) once.

What an event does not tell (null) stays as the event before it said. Which of two events came later is told by their
versions alone, never by the place of a row, so batches may come in any order and be cut anywhere. Whether the
versions have a hole shows in `events` and `version`: an order is whole where the two are equal.
"""

from __future__ import annotations

import polars as pl

from projections.protocol import Projection
from schemas.columns import EVENT_SCHEMA

__all__ = ["ORDERS", "ORDER_STATE"]

MOMENT = EVENT_SCHEMA["effective_at"]

#: One row an order. `status` is pending, completed or cancelled; `refunded_points` is the sum of all refunds.
#: `placed_at` is of order.placed, which has version 1: null, like whatever else it told, where that is not here.
#: The other two times are of the latest event of their kind, `latest_at` is of all events. `partition` and `position`
#: are of the event with the highest version.
ORDER_STATE = pl.Schema(
    {
        "order_id": pl.String(),
        "account_id": pl.String(),
        "account_version": pl.Int64(),
        "points": pl.Int64(),
        "points_version": pl.Int64(),
        "direction": pl.String(),
        "direction_version": pl.Int64(),
        "status": pl.String(),
        "status_version": pl.Int64(),
        "placed_at": MOMENT,
        "completed_at": MOMENT,
        "cancelled_at": MOMENT,
        "refunded_points": pl.Int128(),
        "events": pl.Int64(),
        "version": pl.Int64(),
        "latest_at": MOMENT,
        "partition": pl.Int64(),
        "position": pl.Int64(),
    }
)

_STATUS_AFTER = {"order.placed": "pending", "order.completed": "completed", "order.cancelled": "cancelled"}
#: What the last event that tells it says, with the column that keeps that event's version.
_TOLD = {
    "account_id": "account_version",
    "points": "points_version",
    "direction": "direction_version",
    "status": "status_version",
}


def _fold(events: pl.LazyFrame) -> pl.LazyFrame:
    tag = pl.col("event").cast(pl.String)
    told = {"status": tag.replace_strict(_STATUS_AFTER, default=None, return_dtype=pl.String)}
    moments = {
        name: pl.when(tag == event).then("effective_at")
        for name, event in (
            ("placed_at", "order.placed"),
            ("completed_at", "order.completed"),
            ("cancelled_at", "order.cancelled"),
        )
    }
    states = events.with_columns(
        **told,
        **moments,
        refunded_points=pl.col("refunded_points").fill_null(0).cast(pl.Int128),
        events=pl.lit(1, pl.Int64),
        latest_at="effective_at",
    ).with_columns(
        pl.when(pl.col(name).is_not_null()).then("version").alias(version) for name, version in _TOLD.items()
    )
    return _aggregate(states)


def _merge(left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
    return _aggregate(pl.concat([left, right]))


def _aggregate(states: pl.LazyFrame) -> pl.LazyFrame:
    return (
        states.group_by("order_id")
        .agg(
            *(pl.col(name).max_by(version) for name, version in _TOLD.items()),
            pl.col("placed_at").min(),
            pl.col("completed_at", "cancelled_at", "latest_at", *_TOLD.values()).max(),
            pl.col("refunded_points", "events").sum(),
            pl.col("partition", "position").max_by("version"),
            pl.col("version").max(),
        )
        .select(ORDER_STATE.names())
    )


ORDERS = Projection(
    name="orders",
    version=1,
    key=("order_id",),
    schema=ORDER_STATE,
    fold=_fold,
    merge=_merge,
)
