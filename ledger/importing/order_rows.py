"""Rows of an orders table: the columns of text of a batch to typed rows, and what a row becomes beside what is known.

A row says how an order is now, not what happened to it, so a row that differs from what is known becomes the events
that lead there, as far as an order can go that way; every other difference is a reject.

Several rows of one order are followed in the order of the input. One that repeats how the order was before is nothing
new if a later one follows it: a history that is imported again says how things were first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import polars as pl

from ledger.importing import values
from ledger.importing.batches import LINE, Batch, Checked
from ledger.importing.mapping import Mapping
from ledger.importing.rejects import as_rejects
from ledger.importing.values import Check
from schemas import DIRECTIONS, ORDER_SCHEMA, ORDER_STATUSES
from schemas.columns import UTC_MICROSECONDS
from schemas.events import ID_LENGTH_MAX

__all__ = [
    "OPTIONAL",
    "ORDER_ROW_SCHEMA",
    "REFUSED_SCHEMA",
    "REQUIRED",
    "ROWS_PER_ORDER_MAX",
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
#: A row that is a reject, and says of which order.
REFUSED_SCHEMA = pl.Schema({LINE: pl.Int64(), "order_id": pl.String(), "reason": pl.String()})

#: More rows of one order in one input are no history of it: probably another column was taken for its id.
ROWS_PER_ORDER_MAX = 1_000

_TIMES = ("created_at", "updated_at")


@dataclass(frozen=True)
class CheckedOrders(Checked):
    """As of any rows, good ones being of `ORDER_ROW_SCHEMA`.

    `refused` (`REFUSED_SCHEMA`) are the rejects whose order can be read.
    """

    refused: pl.DataFrame


class DecidedOrders(NamedTuple):
    """What rows become: `events` (`ORDER_SCHEMA`), how many rows said something new, how many nothing, the rejects.

    `filled` are known events (`ORDER_SCHEMA`) with the account that they were known without. `refused`
    (`REFUSED_SCHEMA`) are the rejects.
    """

    events: pl.DataFrame
    imported: int
    unchanged: int
    rejects: pl.DataFrame
    filled: pl.DataFrame
    refused: pl.DataFrame


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
    return CheckedOrders(good, rejects, sum(time.naive_count for time in times.values()), _refused(rejects, picked))


def decide_orders(rows: pl.DataFrame, known: pl.DataFrame, now: datetime) -> DecidedOrders:
    """Return what rows (`ORDER_ROW_SCHEMA`, an order's in order) become beside all events that are known of them.

    `now` is the moment of a change that its row does not date.
    """
    place, count = pl.int_range(pl.len()).over("order_id"), pl.len().over("order_id")
    placed = rows.with_columns(place=place, is_last=place == count - 1)
    placed = placed.join(known.select("order_id", is_fresh=False).unique(), on="order_id", how="left").sort(LINE)
    placed = placed.with_columns(pl.col("is_fresh").fill_null(value=True))
    turns = placed.filter(pl.col("place") < ROWS_PER_ORDER_MAX).partition_by(
        "place", include_key=False, maintain_order=True
    )
    before, parts = known, [_none_of(placed.filter(pl.col("place") >= ROWS_PER_ORDER_MAX))]
    # The first row of every order, then the second of those that have one, and so on.
    for turn in turns:
        before = before.join(turn.select("order_id"), on="order_id", how="semi")
        part = _decided(turn, before, now)
        before = pl.concat([_with_accounts(before, part.told), part.events])
        parts.append(part)
    told = pl.concat([part.told for part in parts])
    events = _with_accounts(pl.concat([part.events for part in parts]), told)
    rejects = pl.concat([part.rejects for part in parts]).sort(LINE)
    imported = sum(part.imported for part in parts)
    shown = rejects.select(*ORDER_ROW_SCHEMA.names(), "reason")
    return DecidedOrders(
        events,
        imported,
        rows.height - imported - rejects.height,
        as_rejects(shown, "order_id", pl.col("reason")),
        _with_accounts(known.join(told, on="order_id", how="semi"), told).filter(pl.col("version") == 1),
        rejects.select(REFUSED_SCHEMA.names()),
    )


class _Part(NamedTuple):
    """What rows become of which each order has one; `told` is `order_id` and the account that it was known without."""

    events: pl.DataFrame
    imported: int
    rejects: pl.DataFrame
    told: pl.DataFrame


def _decided(rows: pl.DataFrame, known: pl.DataFrame, now: datetime) -> _Part:
    both = rows.join(_known(known), on="order_id", how="left", maintain_order="left").with_columns(
        is_new=pl.col("known_version").is_null(),
        is_repeat=_is_repeat(rows, known),
        status_before=pl.col("known_status").fill_null("pending"),
        refunded_before=pl.col("known_refunded").fill_null(0),
        version=pl.col("known_version").fill_null(0),
    )
    both = (
        both.with_columns(refunded_now=pl.coalesce("refunded_points", "refunded_before"))
        .with_columns(
            is_moved=~pl.col("is_repeat") & (pl.col("status") != pl.col("status_before")),
            is_refunded=~pl.col("is_repeat") & (pl.col("refunded_now") > pl.col("refunded_before")),
        )
        .with_columns(
            # The next event tells it; where there is none, nothing but the account is new.
            is_told=~pl.any_horizontal("is_new", "is_moved", "is_refunded")
            & pl.col("account_id").is_not_null()
            & pl.col("known_account").is_null()
        )
        .with_columns(reason=_why_not())
    )
    good = both.filter(pl.col("reason").is_null())
    changed = good.filter(pl.any_horizontal("is_new", "is_moved", "is_refunded"))
    told = good.filter("is_told").select("order_id", told="account_id")
    rejects = both.filter(pl.col("reason").is_not_null()).select(*ORDER_ROW_SCHEMA.names(), "reason")
    return _Part(_events(changed, now), changed.height + told.height, rejects, told)


def _none_of(rows: pl.DataFrame) -> _Part:
    """Reject rows of orders that have too many."""
    reason = pl.format(f"the input has order '{{}}' in more than {ROWS_PER_ORDER_MAX:,} rows", "order_id")
    rejects = rows.select(*ORDER_ROW_SCHEMA.names(), reason=reason)
    told = pl.DataFrame(schema={"order_id": pl.String(), "told": pl.String()})
    return _Part(ORDER_SCHEMA.to_frame(), 0, rejects, told)


def _is_repeat(rows: pl.DataFrame, known: pl.DataFrame) -> pl.Series:
    """Which rows say how their order was before, and are not the last word of the input about it."""
    status = _status().forward_fill().over("order_id").fill_null("pending")
    states = known.sort("order_id", "version").select(
        "order_id", status=status, refunded=pl.col("refunded_points").fill_null(0).cum_sum().over("order_id")
    )
    earlier = rows.filter(~pl.col("is_last")).select(LINE, "order_id", "status", "refunded_points")
    same = earlier.join(states, on=["order_id", "status"], how="inner").filter(
        pl.col("refunded_points").is_null() | (pl.col("refunded_points") == pl.col("refunded"))
    )
    return rows[LINE].is_in(same[LINE].unique().implode())


def _with_accounts(events: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return events with the accounts that were told later, in what placed these orders."""
    if told.is_empty():
        return events
    account = pl.when(pl.col("version") == 1).then(pl.coalesce("account_id", "told")).otherwise("account_id")
    return (
        events.join(told, on="order_id", how="left", maintain_order="left")
        .with_columns(account_id=account)
        .select(ORDER_SCHEMA.names())
    )


def _refused(rejects: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return which rejects (`REFUSED_SCHEMA`) name an order as an id that the ledger may have."""
    order_id = pl.col("order_id")
    is_id = order_id.is_not_null() & (order_id.str.len_chars() <= ID_LENGTH_MAX)
    is_id &= ~order_id.str.contains("\x00", literal=True)
    named = rows.select(LINE, "order_id").filter(is_id)
    return rejects.join(named, on=LINE, maintain_order="left").select(REFUSED_SCHEMA.names())


def _negative(column: str) -> Check:
    reason = pl.format(f"{column} must not be negative: {{}}", values.quoted(pl.col(column)))
    # What is not told is null, which is neither good nor bad.
    return Check(column, (pl.col(f"{column}_value") < 0).fill_null(value=False), reason)


def _known(events: pl.DataFrame) -> pl.DataFrame:
    """Return how each order is known, one row an order."""
    return (
        events.sort("order_id", "version")
        .with_columns(status=_status())
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


def _status() -> pl.Expr:
    """The status that an event gives its order, null where it leaves it."""
    moves = {"order.completed": "completed", "order.cancelled": "cancelled"}
    return pl.col("event").replace_strict(moves, default=None, return_dtype=pl.String)


def _why_not() -> pl.Expr:
    """Why a row cannot follow what is known of its order, null where it can."""
    status, before = pl.col("status"), pl.col("status_before")
    is_way = (before == "pending") | ((before == "completed") & (status == "cancelled"))
    reasons = [
        (pl.col("account_id") != pl.col("known_account"), _differs("account_id", "known_account")),
        (pl.col("points") != pl.col("known_points"), _differs("points", "known_points", "points_amount")),
        (pl.col("direction") != pl.col("known_direction"), _differs("direction", "known_direction")),
        (
            pl.col("created_at") != pl.col("known_at"),
            _differs("created_at", "known_at"),
        ),
        (pl.col("is_moved") & ~is_way, pl.format("status is '{}', but the order is '{}' already", status, before)),
        (
            ~pl.col("is_repeat") & (pl.col("refunded_now") < pl.col("refunded_before")),
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
    later_at = pl.coalesce("updated_at", pl.when("is_fresh").then("created_at"), pl.lit(now).cast(UTC_MICROSECONDS))
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
