"""Reconciliation: what is wrong between an order and the transactions that name it, as a pure function of both sides.

Words, of one order. Direction spend: forward is debit and reverse is credit; earn: the other way round. F and R are
the sums of its completed forward and reverse amounts, H of all that are frozen, P of all that are pending;
net = F - R. Effective transactions are completed, frozen or pending. The expected net E is points - refunded of a
completed order, but never below nothing (no refund makes the ledger owe more than was paid); 0 of a cancelled one; of
a pending one anything from 0 to points, and the nearest end of it where net is outside. Transactions of one order are
in the order of (created_at, position, version).

A transaction belongs to the order that its own `order_id` names, a refund too, whatever payment it is related to. An
order has one direction, the one told last, for all of its transactions. More refunded than an order has points says
nothing by itself: the money decides, and E is then nothing.

credit_status is completed if net > 0, else frozen if H, else pending if P, else reversed if R, else the status of the
last transaction; null without transactions. Codes, of which an order may have several:

- missing_credit_transaction: completed, E > 0, and no transactions at all. Nothing else then.
- orphan_credit_transaction: no such order, and any effective transaction. Nothing else then. Its net is the
  difference of debits and credits, without a sign: nobody says which of the two was the payment.
- amount_mismatch: there are transactions, and net is not E; or pending, and net with all forward amounts that are
  frozen or pending is over the points: the excess.
- status_mismatch: completed, E > 0 and credit_status is not completed; or completed, net = E > 0 and a further forward
  amount is pending; or cancelled and credit_status is completed, frozen or pending.
- duplicate_credit: net > E, and F is over the points by n times an amount that was completed forward more than n
  times. F, not net, since a refund that never came would else be a duplicate of one half of a payment.
- wrong_account: the order tells its account, and what another one has for it is not nothing: the net of that
  account's transactions, or anything frozen or pending. So a payment that was given back there and taken from the
  right account is a corrected one.
- sign_mismatch: pending or completed, F = 0, and completed reverse transactions that are related to no other.
- missing_reversal: net > E, and R < refunded (completed) or R < F (cancelled).
- orphan_reversal: net < E, R > 0, no sign_mismatch, and F = 0 or the order is neither refunded nor cancelled.
- over_reversal: net < E, F > 0, and R > F or R > refunded > 0 (of a cancelled order, net < E is R > F).
- frozen_leak: completed or cancelled, and H > 0.
- timing_difference: no other code, completed at another moment than placed (a file that knows one time only says
  nothing of when it was completed), and the last completed forward transaction was updated more than
  `timing_seconds` before or after.

points_at_risk: missing E; orphan |net| + H + P; amount_mismatch |net - E|, or the excess where that is more; sign and
the three reversals |net - E|; duplicate net - E; wrong_account what the other accounts have; frozen_leak H;
status_mismatch the larger of |net - E| and H + P, but where net = E > 0 the forward amount that is pending; timing 0.
Several codes may be about the same points, so totals count an order once, with its largest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from projections.mismatches import explained
from projections.order_sums import POINTS_MAX, order_sums
from projections.suspects import immense, suspected
from schemas.columns import EVENT_SCHEMA

__all__ = ["LINKED_SCHEMA", "MISMATCH_SCHEMA", "WITHHELD_SCHEMA", "Rules", "judged", "subjects", "withheld"]

MOMENT = EVENT_SCHEMA["effective_at"]

#: The last moment that a time of this code can be: a fact may be dated so late that its deadline would be after it.
_LATEST = datetime.max.replace(tzinfo=UTC)

#: A transaction that names an order (`order_id` is neither null nor empty), as its last event leaves it. `version` and
#: `position` are of that event; `partition` is null for a store.
LINKED_SCHEMA = pl.Schema(
    {
        "order_id": pl.String(),
        "account_id": pl.String(),
        "transaction_id": pl.String(),
        "type": pl.String(),
        "amount": pl.Int64(),
        "status": pl.String(),
        "business_code": pl.String(),
        "related_transaction_id": pl.String(),
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "version": pl.Int64(),
        "partition": pl.Int64(),
        "position": pl.Int64(),
    }
)

#: A mismatch: one row an (order, code). `account_id` is the order's, or else its first transaction's; `credit_points`
#: is the net; `transactions` are ids in (created_at, position, version) order. The places are of the last event of
#: either side (of the transactions, the one updated last), null where that side has none. `order_at` and `latest_at`
#: are those of `subjects`; before `deadline_at` the mismatch may still right itself.
MISMATCH_SCHEMA = pl.Schema(
    {
        "order_id": pl.String(),
        "code": pl.String(),
        "account_id": pl.String(),
        "order_points": pl.Int64(),
        "credit_points": pl.Int64(),
        "order_status": pl.String(),
        "credit_status": pl.String(),
        "points_at_risk": pl.Int64(),
        "transactions": pl.List(pl.String()),
        "evidence": pl.String(),
        "order_partition": pl.Int64(),
        "order_position": pl.Int64(),
        "ledger_partition": pl.Int64(),
        "ledger_position": pl.Int64(),
        "order_at": MOMENT,
        "latest_at": MOMENT,
        "deadline_at": MOMENT,
    }
)

WITHHELD_SCHEMA = pl.Schema({"order_id": pl.String(), "reason": pl.String()})


class Rules(NamedTuple):
    """How long a mismatch may right itself, and how far a payment may be from the order's completion, in seconds."""

    grace_seconds: float = 900
    timing_seconds: float = 604_800


def judged(orders: pl.LazyFrame, linked: pl.LazyFrame, rules: Rules) -> pl.LazyFrame:
    """Return every mismatch, whatever its deadline, with `MISMATCH_SCHEMA`, in no particular order.

    `orders` has `ORDER_STATE`, `linked` has `LINKED_SCHEMA`, both whole for every order in them and without those that
    `withheld` names: where a sum of an order is past int64, collecting raises or says nothing of it. Both sides are
    read twice, so give frames or files, not work to be done. The streaming engine takes half the time of the other.
    """
    suspects = suspected(orders, linked, timing_seconds=rules.timing_seconds)
    grace = pl.duration(microseconds=round(rules.grace_seconds * 1_000_000))
    return (
        explained(order_sums(*suspects), timing_seconds=rules.timing_seconds)
        .with_columns(deadline_at=(pl.col("latest_at") + grace).clip(upper_bound=_LATEST))
        .select(pl.col(name).cast(dtype, strict=True) for name, dtype in MISMATCH_SCHEMA.items())
    )


def subjects(orders: pl.LazyFrame, linked: pl.LazyFrame) -> pl.LazyFrame:
    """Return (order_id, order_at, latest_at), one row for every order id of either side.

    `order_at` is when the order was placed, or where that is not known, when the first of its transactions was created,
    or else its latest moment. `latest_at` is the latest moment of any fact of it on either side.
    """
    of_orders = orders.select(
        "order_id",
        placed_at="placed_at",
        created_at=pl.lit(None, MOMENT),
        latest_at="latest_at",
    )
    of_linked = linked.select(
        "order_id",
        placed_at=pl.lit(None, MOMENT),
        created_at="created_at",
        latest_at=pl.max_horizontal("created_at", "updated_at"),
    )
    both = pl.concat([of_orders, of_linked]).group_by("order_id")
    return both.agg(pl.col("placed_at", "created_at").min(), pl.col("latest_at").max()).select(
        "order_id", pl.coalesce("placed_at", "created_at", "latest_at").alias("order_at"), "latest_at"
    )


def withheld(
    orders: pl.LazyFrame, linked: pl.LazyFrame, *, conflicts: pl.DataFrame | pl.LazyFrame, parked_accounts: pl.Series
) -> pl.LazyFrame:
    """Return (order_id, reason) of the orders that nothing may be said about, one row each: `WITHHELD_SCHEMA`.

    `conflicts` has the same columns: orders with an event that cannot be read, or two of one version; all of them are
    in the result. `parked_accounts` are the ids of accounts that the ledger's replay could not read. An order with
    several reasons gives the first of: conflict, hole, sums past int64, parked account.
    """
    of_conflicts = conflicts.lazy().group_by("order_id").agg(pl.col("reason").min())
    reasons = [of_conflicts, _holed(orders), _overflowed(orders, linked), _parked(orders, linked, parked_accounts)]
    ranked = [
        frame.select("order_id", "reason", pl.lit(rank, pl.Int8).alias("rank")) for rank, frame in enumerate(reasons)
    ]
    return pl.concat(ranked).group_by("order_id").agg(pl.col("reason").min_by("rank"))


def _holed(orders: pl.LazyFrame) -> pl.LazyFrame:
    """Orders of which events are not here."""
    reason = pl.format("it has {} events, but its last version is {}", "events", "version")
    return orders.filter(pl.col("events") != pl.col("version")).select("order_id", reason=reason)


def _overflowed(orders: pl.LazyFrame, linked: pl.LazyFrame) -> pl.LazyFrame:
    """Orders of which a sum that `judged` makes may be past int64."""
    sums = order_sums(*immense(orders, linked))
    at_risk = pl.when("has_order").then("difference").otherwise(pl.col("difference") + pl.col("held"))
    worst = pl.max_horizontal("forward", "reverse", "held", "elsewhere", "refunded", "excess", at_risk)
    reason = pl.format("its sums are past int64: {}", worst)
    return sums.filter(worst > POINTS_MAX).select("order_id", reason=reason)


def _parked(orders: pl.LazyFrame, linked: pl.LazyFrame, parked_accounts: pl.Series) -> pl.LazyFrame:
    """Orders of which a transaction is or may be in an account that the replay of the ledger has parked."""
    if parked_accounts.is_empty():
        return pl.LazyFrame(schema=WITHHELD_SCHEMA)
    parked = pl.LazyFrame({"account_id": parked_accounts.cast(pl.String).unique()})
    named = pl.concat([side.select("order_id", "account_id") for side in (orders, linked)])
    reason = pl.format("its account {} is parked in the replay of the ledger", pl.col("account_id").min())
    found = named.join(parked, on="account_id", how="semi").group_by("order_id").agg(reason=reason)
    unknown = orders.filter(pl.col("account_id").is_null()).join(linked, on="order_id", how="anti")
    unsaid = pl.lit("its account is not known, and its transactions may be in an account that is parked")
    return pl.concat([found, unknown.select("order_id", reason=unsaid)])
