"""Which codes an order has, what each puts at risk, and one sentence of evidence.

The rules are those of `projections.reconciliation`.
"""

from __future__ import annotations

import polars as pl

__all__ = ["explained", "of_code"]

#: What a mismatch says beside its code, its risk and its evidence.
_OF_ORDER = (
    "order_id",
    "account_id",
    "order_points",
    "credit_points",
    "order_status",
    "credit_status",
    "transactions",
    "order_partition",
    "order_position",
    "ledger_partition",
    "ledger_position",
    "order_at",
    "latest_at",
)


def explained(sums: pl.LazyFrame, *, timing_seconds: float) -> pl.LazyFrame:
    """Return one row an (order, code) of the rows that `order_sums` gives.

    Collecting raises where a sum is past int64, and never wraps.
    """
    wide = [name for name, dtype in sums.collect_schema().items() if dtype == pl.Int128]
    flagged = sums.with_columns(pl.col(wide).cast(pl.Int64, strict=True))
    flagged = flagged.with_columns(**{code: flag.fill_null(value=False) for code, flag in _codes().items()})
    flagged = flagged.with_columns(timing_difference=_is_far(timing_seconds).fill_null(value=False))
    risks, evidence = _risks(), _evidence()
    codes = pl.concat_list(pl.when(code).then(pl.lit(code)) for code in risks).list.drop_nulls()
    found = flagged.filter(pl.any_horizontal(list(risks))).with_columns(code=codes).explode("code")
    return found.select(*_told(), "code", points_at_risk=of_code(risks), evidence=of_code(evidence))


def of_code(values: dict[str, pl.Expr]) -> pl.Expr:
    """Return the value of each row's code."""
    return pl.coalesce(pl.when(pl.col("code") == code).then(value) for code, value in values.items())


def _told() -> list[pl.Expr]:
    """The columns of `_OF_ORDER`."""
    source = {
        "account_id": pl.coalesce("account_id", "first_account_id"),
        "order_points": pl.col("points"),
        "credit_points": pl.col("net"),
        "transactions": pl.col("transactions").fill_null([]),
        "order_at": pl.coalesce("placed_at", "first_created_at"),
        "latest_at": pl.max_horizontal("order_latest_at", "linked_latest_at"),
    }
    return [source.get(name, pl.col(name)).alias(name) for name in _OF_ORDER]


def _codes() -> dict[str, pl.Expr]:
    """When each code holds, but for `_is_far`; where there is no order, no comparison with one holds."""
    status, credit_status = pl.col("order_status"), pl.col("credit_status")
    completed, cancelled = status == "completed", status == "cancelled"
    has_order, linked = pl.col("has_order"), pl.col("transactions").is_not_null()
    net, expected = pl.col("net"), pl.col("expected")
    forward, reverse, refunded = pl.col("forward"), pl.col("reverse"), pl.col("refunded")
    sign = (status != "cancelled") & (forward == 0) & pl.col("has_unrelated_reverse")
    unfounded = (forward == 0) | (~cancelled & (refunded == 0))
    beyond = (reverse > forward) | ((refunded > 0) & (reverse > refunded))
    return {
        "missing_credit_transaction": completed & (expected > 0) & ~linked,
        "amount_mismatch": linked & ((net != expected) | (pl.col("excess") > 0)),
        "status_mismatch": (completed & (expected > 0) & linked & (credit_status != "completed"))
        | _is_paid_again()
        | (cancelled & credit_status.is_in(["completed", "frozen", "pending"])),
        "orphan_credit_transaction": ~has_order & (pl.col("effective_count") > 0),
        "duplicate_credit": pl.col("duplicate_amount").is_not_null(),
        "wrong_account": pl.col("elsewhere") > 0,
        "sign_mismatch": sign,
        "missing_reversal": (net > expected) & ((completed & (reverse < refunded)) | (cancelled & (reverse < forward))),
        "orphan_reversal": (net < expected) & (reverse > 0) & ~sign & unfounded,
        "over_reversal": (net < expected) & (forward > 0) & beyond,
        "frozen_leak": (completed | cancelled) & (pl.col("frozen") > 0),
    }


def _is_paid_again() -> pl.Expr:
    """Whether a completed order that has all its points still has a payment that is pending."""
    is_paid = (pl.col("order_status") == "completed") & (pl.col("net") == pl.col("expected")) & (pl.col("net") > 0)
    return is_paid & (pl.col("forward_pending") > 0)


def _is_far(timing_seconds: float) -> pl.Expr:
    """Whether nothing is wrong but when it was paid."""
    lag = (pl.col("completed_at") - pl.col("paid_at")).abs()
    is_known = pl.col("completed_at").ne_missing(pl.col("placed_at"))
    is_wrong = pl.any_horizontal(list(_codes()))
    far = lag > pl.duration(microseconds=round(timing_seconds * 1_000_000))
    return ~is_wrong & (pl.col("order_status") == "completed") & is_known & far


def _risks() -> dict[str, pl.Expr]:
    """What each code puts at risk."""
    difference, held = pl.col("difference"), pl.col("held")
    paid_again = pl.when(_is_paid_again()).then("forward_pending")
    risks = {
        "missing_credit_transaction": difference,
        "amount_mismatch": pl.max_horizontal(difference, "excess"),
        "status_mismatch": paid_again.otherwise(pl.max_horizontal(difference, held)),
        "orphan_credit_transaction": difference.cast(pl.Int128) + held,
        "duplicate_credit": difference,
        "wrong_account": pl.col("elsewhere"),
        "sign_mismatch": difference,
        "missing_reversal": difference,
        "orphan_reversal": difference,
        "over_reversal": difference,
        "frozen_leak": pl.col("frozen"),
        "timing_difference": pl.lit(0),
    }
    return {code: risk.cast(pl.Int64, strict=True) for code, risk in risks.items()}


def _evidence() -> dict[str, pl.Expr]:
    """One sentence a code. Forward and reverse are named by what they are to an account."""
    earns = pl.col("direction") == "earn"
    paid = pl.when(earns).then(pl.lit("credited")).otherwise(pl.lit("debited"))
    opposite = pl.when(earns).then(pl.lit("debited")).otherwise(pl.lit("credited"))
    back = pl.when(earns).then(pl.lit("debited back")).otherwise(pl.lit("credited back"))
    moved = pl.format("{} {} and {} {}", "forward", paid, "reverse", back)
    status, refunded = pl.col("order_status"), pl.col("refunded")
    some_refunded = pl.format("{} points of which {} were refunded", "points", "refunded")
    of_points = pl.when(refunded > 0).then(some_refunded).otherwise(pl.format("{} points", "points"))
    asks = pl.format("The order is {} with {}", status, of_points)
    is_pending = status == "pending"
    right = pl.when(is_pending).then(pl.format("0 to {}", "points")).otherwise(pl.format("{}", "expected"))
    wanted = pl.when(status == "cancelled").then("forward").otherwise("refunded")
    limit = pl.min_horizontal("forward", pl.when((status != "cancelled") & (refunded > 0)).then("refunded"))
    not_asked = pl.lit("the order is neither refunded nor cancelled")
    unfounded = pl.when(pl.col("forward") == 0).then(pl.format("nothing was {}", paid)).otherwise(not_asked)
    side = pl.when(pl.col("paid_at") < pl.col("completed_at")).then(pl.lit("before")).otherwise(pl.lit("after"))
    refund, too_much = _refund_to_come(back), _payments_to_come()
    return {
        "missing_credit_transaction": pl.format("{}, and no transaction names it.", asks),
        "amount_mismatch": pl.format(
            "{}, so its net must be {}; it is {}: {}{}{}.", asks, right, "net", moved, refund, too_much
        ),
        "status_mismatch": _status_evidence(moved),
        "orphan_credit_transaction": pl.format(
            "There is no such order, but transactions name it: {} debited, {} credited, {} frozen, {} pending.",
            *("forward", "reverse", "frozen", "pending"),
        ),
        "duplicate_credit": pl.format(
            "{} {} for an order of {} points: {} was {} {} times, {} too many.",
            *("forward", paid, "points", "duplicate_amount", paid, "duplicate_count", "duplicate_times"),
        ),
        "wrong_account": pl.format(
            "The order is of account {}, but {} points were moved or held in {}.",
            "account_id",
            "elsewhere",
            "elsewhere_accounts",
        ),
        "sign_mismatch": pl.format(
            "{} was {} and is related to no payment, while nothing was {}.", "reverse", opposite, paid
        ),
        "missing_reversal": pl.format("{}, and {} had to be {}, but {} was{}.", asks, wanted, back, "reverse", refund),
        "orphan_reversal": pl.format("{} was {}, but {}.", "reverse", back, unfounded),
        "over_reversal": pl.format("{} was {}, but only {} had to be.", "reverse", back, limit),
        "frozen_leak": pl.format("The order is {}, but {} points are still frozen for it.", status, "frozen"),
        "timing_difference": pl.format(
            "The last payment was completed at {}, {} the order was, at {}.",
            *(_moment("paid_at"), side, _moment("completed_at")),
        ),
    }


def _refund_to_come(back: pl.Expr) -> pl.Expr:
    """How much more is about to be given back, where anything is."""
    to_come = pl.format(", and {} more to be {} is pending", "reverse_pending", back)
    return pl.when(pl.col("reverse_pending") > 0).then(to_come).otherwise(pl.lit(""))


def _payments_to_come() -> pl.Expr:
    """By how much payments to come, where there are any, are more than a pending order may have."""
    too_much = pl.format(", and with {} frozen or pending that is {} too much", "forward_held", "excess")
    has_held = (pl.col("excess") > 0) & (pl.col("forward_held") > 0)
    return pl.when(has_held).then(too_much).otherwise(pl.lit(""))


def _status_evidence(moved: pl.Expr) -> pl.Expr:
    paid_again = pl.format(
        "The order is completed and its net is {} as it must be, but a payment of {} is still pending.",
        *("net", "forward_pending"),
    )
    not_agreed = pl.format(
        "The order is {}, but its transactions are {}: {}, {} frozen, {} pending.",
        *("order_status", "credit_status", moved, "frozen", "pending"),
    )
    return pl.when(_is_paid_again()).then(paid_again).otherwise(not_agreed)


def _moment(name: str) -> pl.Expr:
    return pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
