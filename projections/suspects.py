"""Which orders have to be looked at closely: all that may have a mismatch, told from a few sums, at a small cost.

Nearly all orders are what they should be, and sums of them are all that is worked out of these. Orders are grouped by a
hash of their id, since numbers are compared faster than texts; where two ids share a hash, both are looked at.
"""

from __future__ import annotations

import polars as pl

from schemas.columns import EVENT_SCHEMA

__all__ = ["KEY", "immense", "key_columns", "of_keys", "suspected"]

MOMENT = EVENT_SCHEMA["effective_at"]

KEY = "_order_key"
#: What is known of an order, as bits: there is one, it is pending, it earns, it tells its account.
_KNOWN, _PENDING, _EARNED, _TOLD = 1, 2, 4, 8
#: The most that a transaction of it does: points are moved, or held.
_MOVED, _HELD = 1, 2
#: Nothing that is below this as a float, however many were added up, is past int64 as the sum of integers.
_SIZE_MAX = 2.0**61


def suspected(
    orders: pl.LazyFrame, linked: pl.LazyFrame, *, timing_seconds: float
) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return both sides of the orders that may have a mismatch, and of a few that have none. Reads each side twice."""
    sums = _sums(orders, linked)
    return of_keys(orders, linked, sums.filter(~_is_clean(timing_seconds).fill_null(value=False)))


def immense(orders: pl.LazyFrame, linked: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return both sides of the orders of which a sum may be past int64, and of a few of which none is."""
    of_linked = linked.select("order_id", size=pl.col("amount").cast(pl.Float64))
    of_orders = orders.select(
        "order_id", size=pl.col("points").fill_null(0).cast(pl.Float64) + pl.col("refunded_points").cast(pl.Float64)
    )
    # Hardly ever are even all of them together that much, and then there is nothing to group.
    sizes = pl.concat([of_linked, of_orders]).filter(pl.col("size").sum() > _SIZE_MAX)
    large = sizes.group_by(_key()).agg(pl.col("size").sum())
    return of_keys(orders, linked, large.filter(pl.col("size") > _SIZE_MAX))


def of_keys(orders: pl.LazyFrame, linked: pl.LazyFrame, found: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return both sides of the orders that have one of the keys."""
    # Without the cache the column engine works out what is used twice twice.
    keys = found.select(KEY).cache()
    first, second = (
        side.with_columns(_key()).join(keys, on=KEY, how="semi").drop(KEY).cache() for side in (orders, linked)
    )
    return first, second


def key_columns() -> list[pl.Expr]:
    """Return the key of an order, and `order_hash`: where it differs in rows of one key, so does the order."""
    return [_key(), pl.col("order_id").hash(seed=1).alias("order_hash")]


def _key() -> pl.Expr:
    return pl.col("order_id").hash().alias(KEY)


def _sums(orders: pl.LazyFrame, linked: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row a key of both sides, which are put below each other: that is cheaper than to join them.

    `beyond` is what was debited, less what was credited, less what the order expects, so 0 of most orders; `room` is
    how far a pending one may be from that, whatever is held or pending taken as payments to come. A hash that is the
    same in all rows stands for a text that is: of orders by chance another one once in 2^128, of accounts once in 2^64.
    """
    completed, is_debit = pl.col("status") == "completed", pl.col("type") == "debit"
    amount, paid = pl.col("amount"), completed & is_debit
    is_held = pl.col("status").is_in(["frozen", "pending"])
    of_linked = {
        "beyond": pl.when(paid).then(amount).when(completed).then(-amount).otherwise(0),
        "room": pl.when(is_held).then(-amount).otherwise(0),
        "order": pl.lit(0, pl.Int8),
        "effect": pl.when(completed).then(_MOVED).when(is_held).then(_HELD).otherwise(0).cast(pl.Int8),
        "debit_at": pl.when(paid).then("updated_at"),
        "credit_at": pl.when(completed & ~is_debit).then("updated_at"),
        "timed_at": pl.lit(None, MOMENT),
    }
    earned, is_completed = pl.col("direction") == "earn", pl.col("status") == "completed"
    sign = pl.when(earned).then(-1).otherwise(1)
    expected = pl.max_horizontal(pl.col("points") - pl.col("refunded_points").cast(pl.Int64), pl.lit(0, pl.Int64))
    is_pending = pl.col("status") == "pending"
    is_timed = is_completed & pl.col("completed_at").ne_missing(pl.col("placed_at"))
    known = {
        _KNOWN: pl.lit(value=True),
        _PENDING: is_pending,
        _EARNED: earned,
        _TOLD: pl.col("account_id").is_not_null(),
    }
    of_orders = {
        "beyond": pl.when(is_completed).then(-expected * sign).otherwise(0),
        "room": pl.when(is_pending).then("points").otherwise(0),
        "order": pl.sum_horizontal(pl.when(holds).then(bit).otherwise(0) for bit, holds in known.items()).cast(pl.Int8),
        "effect": pl.lit(0, pl.Int8),
        "debit_at": pl.lit(None, MOMENT),
        "credit_at": pl.lit(None, MOMENT),
        "timed_at": pl.when(is_timed).then("completed_at"),
    }
    ids = [
        _key(),
        pl.col("order_id").hash(seed=1).alias("order_hash"),
        pl.col("account_id").hash().alias("account_hash"),
    ]
    rows = [linked.select(*ids, **of_linked), orders.select(*ids, **of_orders)]
    is_one = [(pl.col(name).min() == pl.col(name).max()).alias(name) for name in ("order_hash", "account_hash")]
    return (
        pl.concat(rows)
        .group_by(KEY)
        .agg(
            pl.col("beyond", "room").sum(),
            pl.col("order", "effect", "debit_at", "credit_at", "timed_at").max(),
            *is_one,
        )
    )


def _is_clean(timing_seconds: float) -> pl.Expr:
    """Whether no code of `projections.mismatches` can hold."""
    beyond, room, order, effect = (pl.col(name) for name in ("beyond", "room", "order", "effect"))
    is_pending, earned = (order & _PENDING) != 0, (order & _EARNED) != 0
    lag = (pl.col("timed_at") - pl.when(earned).then("credit_at").otherwise("debit_at")).abs()
    is_near = (lag <= pl.duration(microseconds=round(timing_seconds * 1_000_000))).fill_null(value=True)
    is_expected = pl.when(earned).then(beyond.is_between(-room, 0)).otherwise(beyond.is_between(0, room))
    fits = is_expected & ((effect < _HELD) | is_pending) & is_near
    return (
        pl.col("order_hash")
        & (pl.col("account_hash") | ((order & _TOLD) == 0))
        & pl.when(order == 0).then(effect == 0).otherwise(fits)
    )
