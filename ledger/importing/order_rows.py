"""Rows of an orders table: the columns of text of a batch to typed rows, and what a row becomes beside what is known.

A row says how an order is now, not what happened to it, so a row that differs from what is known becomes the events
that lead there, as far as an order can go that way; every other difference is a reject.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import polars as pl

from ledger.importing import values
from ledger.importing.batches import LINE, Batch
from ledger.importing.mapping import Mapping
from ledger.importing.rejects import as_rejects
from ledger.importing.values import Check
from schemas import DIRECTIONS, ORDER_SCHEMA, ORDER_STATUSES
from schemas.columns import UTC_MICROSECONDS

__all__ = [
    "OPTIONAL",
    "ORDER_ROW_SCHEMA",
    "REQUIRED",
    "CheckedOrders",
    "DecidedOrders",
    "check_orders",
    "decide_orders",
]

REQUIRED = ("order_id", "account_id", "points_amount", "status", "created_at")
OPTIONAL = ("direction", "refunded_points", "updated_at")

#: A good row. Null means: the account is not known; the direction, or what was refunded, is not told.
ORDER_ROW_SCHEMA = pl.Schema(
    {
        LINE: pl.Int64(),
        "order_id": pl.String(),
        "account_id": pl.String(),
        "points": pl.Int64(),
        "status": pl.String(),
        "direction": pl.String(),
        "refunded_points": pl.Int64(),
        "created_at": UTC_MICROSECONDS,
        "updated_at": UTC_MICROSECONDS,
    }
)
_TIMES = ("created_at", "updated_at")


class CheckedOrders(NamedTuple):
    """`good` rows (`ORDER_ROW_SCHEMA`), the rejects (`REJECT_SCHEMA`), and how many times had no zone."""

    good: pl.DataFrame
    rejects: pl.DataFrame
    naive_times: int


class DecidedOrders(NamedTuple):
    """What rows become: `events` (`ORDER_SCHEMA`), how many rows led to some, how many say nothing new, the rejects."""

    events: pl.DataFrame
    imported: int
    unchanged: int
    rejects: pl.DataFrame


def check_orders(batch: Batch, mapping: Mapping) -> CheckedOrders:
    """Return the good rows and the rejects of a batch."""
    picked = values.pick(batch.rows, REQUIRED + OPTIONAL, mapping)
    times = {column: values.times(picked[column], mapping.zone) for column in _TIMES}
    status, bad_status = values.mapped("status", mapping.statuses, ORDER_STATUSES)
    direction, bad_direction = values.mapped("direction", mapping.directions, DIRECTIONS)
    points = {column: values.whole(column, mapping.amount_scale) for column in ("points_amount", "refunded_points")}
    read = picked.with_columns(
        status_value=status,
        direction_value=direction,
        **{f"{column}_value": value for column, value in points.items()},
        **{f"{column}_moment": time.moments for column, time in times.items()},
        **{f"{column}_problem": time.problems for column, time in times.items()},
    )
    is_told = pl.col("refunded_points").is_not_null()
    refunds = values.whole_checks("refunded_points", mapping.amount_scale, "[import]")
    checks = [
        *values.id_checks("order_id"),
        # An order without an account is one whose account is not known.
        *values.id_checks("account_id")[1:],
        *values.whole_checks("points_amount", mapping.amount_scale, "[import]"),
        _negative("points_amount"),
        Check("status", bad_status, values.unknown("status", "statuses", ORDER_STATUSES)),
        *values.time_checks("created_at", required=True),
        *values.time_checks("updated_at", required=False),
        Check(
            "direction",
            pl.col("direction").is_not_null() & bad_direction,
            values.unknown("direction", "directions", DIRECTIONS),
        ),
        *(check._replace(is_bad=is_told & check.is_bad) for check in refunds),
        _negative("refunded_points"),
        Check(
            "refunded_points",
            ((pl.col("refunded_points_value") > 0) & (pl.col("status_value") == "pending")).fill_null(value=False),
            pl.lit("refunded_points of an order that is pending: nothing was paid yet"),
        ),
    ]
    passed, rejects = values.split(read, batch, checks)
    good = passed.select(
        LINE,
        "order_id",
        "account_id",
        points="points_amount_value",
        status="status_value",
        direction="direction_value",
        refunded_points="refunded_points_value",
        **{column: f"{column}_moment" for column in _TIMES},
    )
    return CheckedOrders(good, rejects, sum(time.naive_count for time in times.values()))


def decide_orders(rows: pl.DataFrame, known: pl.DataFrame, now: datetime) -> DecidedOrders:
    """Return what rows (`ORDER_ROW_SCHEMA`, each order once) become beside the events that are known of their orders.

    `now` is the moment of a change that its row does not date.
    """
    both = rows.join(_known(known), on="order_id", how="left", maintain_order="left").with_columns(
        is_new=pl.col("known_version").is_null(),
        status_before=pl.col("known_status").fill_null("pending"),
        refunded_before=pl.col("known_refunded").fill_null(0),
        version=pl.col("known_version").fill_null(0),
    )
    both = both.with_columns(
        refunded_now=pl.coalesce("refunded_points", "refunded_before"),
        is_moved=pl.col("status") != pl.col("status_before"),
    ).with_columns(is_refunded=pl.col("refunded_now") > pl.col("refunded_before"))
    both = both.with_columns(reason=_why_not())
    rejects = both.filter(pl.col("reason").is_not_null())
    good = both.filter(pl.col("reason").is_null())
    is_changed = pl.col("is_new") | pl.col("is_moved") | pl.col("is_refunded")
    changed = good.filter(is_changed)
    shown = rejects.select(*ORDER_ROW_SCHEMA.names(), "reason")
    return DecidedOrders(
        _events(changed, now),
        changed.height,
        good.height - changed.height,
        as_rejects(shown, "order_id", pl.col("reason")),
    )


def _negative(column: str) -> Check:
    reason = pl.format(f"{column} must not be negative: {{}}", values.quoted(pl.col(column)))
    # What is not told is null, which is neither good nor bad.
    return Check(column, (pl.col(f"{column}_value") < 0).fill_null(value=False), reason)


def _known(events: pl.DataFrame) -> pl.DataFrame:
    """Return how each order is known, one row an order."""
    moves = {"order.completed": "completed", "order.cancelled": "cancelled"}
    status = pl.col("event").replace_strict(moves, default=None, return_dtype=pl.String)
    return (
        events.sort("order_id", "version")
        .with_columns(status=status)
        .group_by("order_id")
        .agg(
            known_version=pl.col("version").last(),
            known_at=pl.col("effective_at").first(),
            known_account=pl.col("account_id").drop_nulls().last(),
            known_points=pl.col("points").drop_nulls().last(),
            known_direction=pl.col("direction").drop_nulls().last(),
            known_status=pl.col("status").drop_nulls().last(),
            known_refunded=pl.col("refunded_points").sum(),
        )
    )


def _why_not() -> pl.Expr:
    """Why a row cannot follow what is known of its order, null where it can."""
    status, before = pl.col("status"), pl.col("status_before")
    is_way = (before == "pending") | ((before == "completed") & (status == "cancelled"))
    carries = pl.col("is_moved") | pl.col("is_refunded")
    of_account = pl.col("account_id").is_not_null() & pl.col("known_account").is_null() & ~carries
    reasons = [
        (pl.col("account_id") != pl.col("known_account"), _differs("account_id", "known_account")),
        (of_account, pl.format("account_id is '{}', but the order is known without one", "account_id")),
        (pl.col("points") != pl.col("known_points"), _differs("points", "known_points", "points_amount")),
        (pl.col("direction") != pl.col("known_direction"), _differs("direction", "known_direction")),
        (
            pl.col("created_at") != pl.col("known_at"),
            _differs("created_at", "known_at"),
        ),
        (pl.col("is_moved") & ~is_way, pl.format("status is '{}', but the order is '{}' already", status, before)),
        (
            pl.col("refunded_now") < pl.col("refunded_before"),
            _differs("refunded_now", "refunded_before", "refunded_points"),
        ),
    ]
    return pl.when(~pl.col("is_new")).then(pl.coalesce(pl.when(is_bad).then(why) for is_bad, why in reasons))


def _differs(column: str, known: str, name: str | None = None) -> pl.Expr:
    return pl.format(f"{name or column} is '{{}}', but the order is known with '{{}}'", _text(column), _text(known))


def _text(column: str) -> pl.Expr:
    if column in ("created_at", "known_at"):
        return pl.col(column).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    return pl.col(column).cast(pl.String)


def _events(changed: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return the events that lead from what is known to what the rows say."""
    later_at = pl.coalesce("updated_at", pl.when("is_new").then("created_at"), pl.lit(now).cast(UTC_MICROSECONDS))
    is_new, is_moved = pl.col("is_new").cast(pl.Int64), pl.col("is_moved").cast(pl.Int64)
    nothing = {"points": pl.lit(None, pl.Int64()), "direction": pl.lit(None, pl.String())}
    # An order that is known without an account may tell it with its next event.
    learnt = pl.when(~pl.col("is_new") & pl.col("known_account").is_null()).then("account_id")
    placed = changed.filter("is_new").with_columns(
        version=pl.lit(1, pl.Int64()),
        event=pl.lit("order.placed"),
        direction=pl.col("direction").fill_null("spend"),
        refunded_points=pl.lit(None, pl.Int64()),
        effective_at=pl.col("created_at"),
    )
    moved = changed.filter("is_moved").with_columns(
        version=pl.col("version") + is_new + 1,
        event=pl.format("order.{}", "status"),
        account_id=learnt,
        refunded_points=pl.lit(None, pl.Int64()),
        effective_at=later_at,
        **nothing,
    )
    refunded = changed.filter("is_refunded").with_columns(
        version=pl.col("version") + is_new + is_moved + 1,
        event=pl.lit("order.refunded"),
        account_id=learnt,
        refunded_points=pl.col("refunded_now") - pl.col("refunded_before"),
        effective_at=later_at,
        **nothing,
    )
    place = {"partition": pl.lit(None, pl.Int64()), "position": pl.lit(None, pl.Int64())}
    parts = [part.with_columns(**place).select(ORDER_SCHEMA.names()) for part in (placed, moved, refunded)]
    return pl.concat(parts).cast(ORDER_SCHEMA)
