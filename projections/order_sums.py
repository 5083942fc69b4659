"""Both sides of an order in one row: what it asks for, what its transactions come to, and the difference.

The words are those of `projections.reconciliation`. Sums are Int128, so they never wrap.
"""

from __future__ import annotations

import polars as pl

__all__ = ["POINTS_MAX", "in_order", "order_sums"]

POINTS_MAX = 2**63 - 1

#: The order of the transactions of an order: by the first two, and by the others where these do not tell them apart.
#: Versions come after positions, since those of two accounts say nothing of each other.
_IN_ORDER = ("created_at", "position", "version", "account_id", "transaction_id")


def order_sums(orders: pl.LazyFrame, linked: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row for every order id of either side.

    Beside what the order says (`has_order` is whether there is one) there are: forward, reverse, frozen, pending, held
    (frozen + pending), forward_pending, reverse_pending, net, expected, difference (of net and expected, without sign),
    excess (what a pending order would be paid too much), elsewhere (what other accounts than the order's have),
    `elsewhere_accounts`, `credit_status`, `paid_at` (last completed forward), whether there is an unrelated reverse,
    the duplicate's amount, count and times too many, and the transactions with their place.
    """
    # Without the cache the column engine works out what is used three times three times.
    marked = _marked(orders, linked).cache()
    both = (
        orders.select(
            "order_id",
            "account_id",
            "points",
            pl.col("direction").fill_null("spend"),
            "completed_at",
            has_order=pl.lit(value=True),
            order_status="status",
            refunded="refunded_points",
            placed_at="placed_at",
            order_latest_at="latest_at",
            order_partition="partition",
            order_position="position",
        )
        .join(_by_order(marked), on="order_id", how="full", coalesce=True)
        .join(_elsewhere(marked), on="order_id", how="left")
    )
    sums = _compared(both.with_columns(_filled()))
    return sums.join(_duplicates(marked, sums), on="order_id", how="left")


def in_order(linked: pl.LazyFrame) -> pl.LazyFrame:
    """Add `place`, the row's number in the order that all have, and `place_of_last`, that by `updated_at` and `place`.

    One number is compared much faster, group by group, than several columns.
    """
    last = pl.col("updated_at").to_physical().cast(pl.Int128) * 2**32 + pl.col("place")
    return linked.sort(_IN_ORDER).with_row_index("place").with_columns(place_of_last=last)


def _marked(orders: pl.LazyFrame, linked: pl.LazyFrame) -> pl.LazyFrame:
    """Transactions with what each is worth to its order, and whether it is of the order's account."""
    of_order = orders.select("order_id", order_account="account_id", direction="direction")
    amount, status = pl.col("amount").cast(pl.Int128), pl.col("status")
    is_forward = (pl.col("type") == "credit") == (pl.col("direction") == "earn").fill_null(value=False)
    is_completed = status == "completed"
    worth = {
        "forward": is_completed & is_forward,
        "reverse": is_completed & ~is_forward,
        "frozen": status == "frozen",
        "pending": status == "pending",
        "forward_held": status.is_in(["frozen", "pending"]) & is_forward,
        "forward_pending": (status == "pending") & is_forward,
    }
    return (
        in_order(linked)
        .join(of_order, on="order_id", how="left")
        .with_columns(
            **{name: pl.when(counts).then(amount).otherwise(0) for name, counts in worth.items()},
            is_elsewhere=(pl.col("account_id") != pl.col("order_account")).fill_null(value=False),
        )
    )


def _by_order(marked: pl.LazyFrame) -> pl.LazyFrame:
    """One row an order of its transactions."""
    reversal = (pl.col("reverse") > 0) & pl.col("related_transaction_id").is_null()
    return marked.group_by("order_id").agg(
        pl.col("forward", "reverse", "frozen", "pending", "forward_held", "forward_pending").sum(),
        pl.col("created_at").min().alias("first_created_at"),
        pl.max_horizontal("created_at", "updated_at").max().alias("linked_latest_at"),
        pl.col("updated_at").filter(pl.col("forward") > 0).max().alias("paid_at"),
        pl.col("account_id").min_by("place").alias("first_account_id"),
        pl.col("status").max_by("place").alias("last_status"),
        pl.col("partition").max_by("place_of_last").alias("ledger_partition"),
        pl.col("position").max_by("place_of_last").alias("ledger_position"),
        pl.col("transaction_id").sort_by("place").alias("transactions"),
        reversal.any().alias("has_unrelated_reverse"),
        pl.col("status").is_in(["completed", "frozen", "pending"]).sum().alias("effective_count"),
    )


def _elsewhere(marked: pl.LazyFrame) -> pl.LazyFrame:
    """What each other account than the order's has for it, summed up, and the names of those that have anything."""
    by_account = (
        marked.filter("is_elsewhere")
        .group_by("order_id", "account_id")
        .agg(
            elsewhere=(pl.col("forward").sum() - pl.col("reverse").sum()).abs()
            + pl.col("frozen").sum()
            + pl.col("pending").sum()
        )
    )
    return (
        by_account.filter(pl.col("elsewhere") > 0)
        .group_by("order_id")
        .agg(pl.col("elsewhere").sum(), elsewhere_accounts=pl.col("account_id").sort().str.join(", "))
    )


def _filled() -> list[pl.Expr]:
    """What a side that does not exist, or has nothing of a kind, comes to."""
    of_linked = pl.col("forward", "reverse", "frozen", "pending", "forward_held", "forward_pending")
    sums = [of_linked.fill_null(0), pl.col("elsewhere", "refunded").fill_null(0)]
    flags = pl.col("has_order", "has_unrelated_reverse").fill_null(value=False)
    return [*sums, flags, pl.col("effective_count").fill_null(0), pl.col("direction").fill_null("spend")]


def _compared(both: pl.LazyFrame) -> pl.LazyFrame:
    """Add what is expected, and how far the transactions are from it."""
    net = pl.col("forward") - pl.col("reverse")
    points = pl.col("points").cast(pl.Int128)
    nothing = pl.lit(0, pl.Int128)
    expected = (
        pl.when(pl.col("order_status") == "completed")
        .then(pl.max_horizontal(points - pl.col("refunded"), nothing))
        .when(pl.col("order_status") == "cancelled")
        .then(nothing)
        .when(pl.col("order_status") == "pending")
        .then(pl.max_horizontal(pl.min_horizontal("net", points), nothing))
    )
    beyond = pl.max_horizontal(pl.col("net") + pl.col("forward_held") - points, nothing)
    credit_status = (
        pl.when(pl.col("net") > 0)
        .then(pl.lit("completed"))
        .when(pl.col("frozen") > 0)
        .then(pl.lit("frozen"))
        .when(pl.col("pending") > 0)
        .then(pl.lit("pending"))
        .when(pl.col("reverse") > 0)
        .then(pl.lit("reversed"))
        .otherwise("last_status")
    )
    return (
        both.with_columns(net=pl.when("has_order").then(net).otherwise(net.abs()))
        .with_columns(
            expected=expected,
            credit_status=credit_status,
            held=pl.col("frozen") + pl.col("pending"),
            reverse_pending=pl.col("pending") - pl.col("forward_pending"),
            excess=pl.when(pl.col("order_status") == "pending").then(beyond).otherwise(0),
        )
        .with_columns(difference=(pl.col("net") - pl.col("expected").fill_null(0)).abs())
    )


def _duplicates(marked: pl.LazyFrame, sums: pl.LazyFrame) -> pl.LazyFrame:
    """Of orders that were paid too much: the largest amount that was completed so often that it explains it."""
    excess = pl.col("forward_sum") - pl.col("points")
    overpaid = sums.filter(pl.col("net") > pl.col("expected"), pl.col("forward") > pl.col("points"))
    overpaid = overpaid.select("order_id", "points", forward_sum="forward")
    counted = marked.filter(pl.col("forward") > 0).group_by("order_id", duplicate_amount="forward")
    times = (excess // pl.col("duplicate_amount")).alias("duplicate_times")
    return (
        counted.agg(duplicate_count=pl.len())
        .join(overpaid, on="order_id")
        .with_columns(times)
        .filter(excess % pl.col("duplicate_amount") == 0, pl.col("duplicate_count") > pl.col("duplicate_times"))
        .group_by("order_id")
        .agg(pl.col("duplicate_count", "duplicate_times").max_by("duplicate_amount"), pl.col("duplicate_amount").max())
    )
