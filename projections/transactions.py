"""Transactions: where each one stands, and the evidence of what went wrong with it on the way.

An event is a partial state of one event, and partial states of one transaction are joined in version order: what
only shows between two events (a status that does not follow from the one before, a time that goes back) is checked
at the place where two partial states meet. So one function joins both events and states, wherever the cut is.
"""

from __future__ import annotations

import polars as pl

from projections.protocol import Projection
from schemas.columns import EVENT_SCHEMA

__all__ = ["TRANSACTIONS"]

KEY = ("account_id", "transaction_id")
MOMENT = EVENT_SCHEMA["effective_at"]

#: What each status may become, written down here a second time: a wrong rule of the write model must not agree with
#: the projection by being the same table.
_MAY_BECOME: dict[str, tuple[str, ...]] = {
    "": ("pending", "frozen", "completed"),
    "pending": ("frozen", "completed", "cancelled", "failed"),
    "frozen": ("completed", "cancelled"),
}

#: What any event may say of its transaction, first the recording or a change later: the last that says it counts.
_TOLD = ("related_transaction_id", "business_code", "order_id")

#: What a transaction was when first recorded (or first heard of, where it never was), and whether a repeat is equal.
_CONTENT = ("created_at", "created_status", "type", "amount", *(f"created_{name}" for name in _TOLD))

_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(KEY, pl.String()),
        # Of the first transaction.recorded by version; of the first event where there is none.
        "created_at": MOMENT,
        "created_version": pl.Int64(),
        "created_position": pl.Int64(),
        "created_status": pl.String(),
        "type": pl.String(),
        "amount": pl.Int64(),
        **dict.fromkeys((f"created_{name}" for name in _TOLD), pl.String()),
        # Of the last event that says it, whatever it is.
        **dict.fromkeys(_TOLD, pl.String()),
        # Of all recordings: how many, the place of the last, and whether two of them say different things.
        "recorded_count": pl.Int64(),
        "recorded_last_version": pl.Int64(),
        "recorded_last_position": pl.Int64(),
        "is_conflicting": pl.Boolean(),
        # Of the last event.
        "status": pl.String(),
        "status_version": pl.Int64(),
        "status_position": pl.Int64(),
        "updated_at": MOMENT,
        # Of the first event, whatever it is.
        "first_version": pl.Int64(),
        "first_position": pl.Int64(),
        "first_is_recorded": pl.Boolean(),
        "first_from": pl.String(),
        "first_to": pl.String(),
        "first_effective_at": MOMENT,
        "latest_effective_at": MOMENT,
        # Of the first illegal change: what it says it came from, and what the status was.
        "illegal_count": pl.Int64(),
        "illegal_version": pl.Int64(),
        "illegal_position": pl.Int64(),
        "illegal_from": pl.String(),
        "illegal_to": pl.String(),
        "illegal_previous": pl.String(),
        # Of the first event that is effective before the one in front of it.
        "regression_version": pl.Int64(),
        "regression_position": pl.Int64(),
        "regression_before": MOMENT,
        "regression_after": MOMENT,
    }
)


def _fold(events: pl.LazyFrame) -> pl.LazyFrame:
    needed = [*KEY, "version", "position", "event", "effective_at", "from_status", "to_status", "type", "amount"]
    of_transactions = events.filter(pl.col("transaction_id").is_not_null()).select(*needed, *_TOLD)
    return _join(of_transactions, "version", _state_of_event())


def _merge(left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
    return _join(pl.concat([left, right]), "first_version", [pl.col(name) for name in _SCHEMA])


def _state_of_event() -> list[pl.Expr]:
    """The state of one event alone, with the columns of the schema."""
    recorded = pl.col("event") == "transaction.recorded"
    # A recording from no status is never an illegal change: an import states a legacy row that had already ended as
    # recorded cancelled or failed, and a repeat is a duplicate.
    change = pl.concat_str(pl.col("from_status").fill_null(""), pl.col("to_status"), separator=">")
    is_legal = change.is_in([f"{before}>{after}" for before, ends in _MAY_BECOME.items() for after in ends])
    illegal = ~(is_legal | (recorded & pl.col("from_status").is_null()))
    source: dict[str, pl.Expr | str] = {
        **{name: name for name in (*KEY, "type", "amount", *_TOLD)},
        **{f"created_{name}": name for name in _TOLD},
        **dict.fromkeys(("created_at", "updated_at", "first_effective_at", "latest_effective_at"), "effective_at"),
        **dict.fromkeys(("created_version", "status_version", "first_version"), "version"),
        **dict.fromkeys(("created_position", "status_position", "first_position"), "position"),
        **dict.fromkeys(("created_status", "status", "first_to"), "to_status"),
        "first_from": "from_status",
        "first_is_recorded": recorded,
        "recorded_count": recorded,
        "recorded_last_version": pl.when(recorded).then("version"),
        "recorded_last_position": pl.when(recorded).then("position"),
        "is_conflicting": pl.lit(value=False),
        "illegal_count": illegal,
        "illegal_version": pl.when(illegal).then("version"),
        "illegal_position": pl.when(illegal).then("position"),
        "illegal_from": pl.when(illegal).then("from_status"),
        "illegal_to": pl.when(illegal).then("to_status"),
    }
    return [
        (pl.col(found) if isinstance(found := source.get(name), str) else pl.lit(None) if found is None else found)
        .cast(dtype)
        .alias(name)
        for name, dtype in _SCHEMA.items()
    ]


def _join(parts: pl.LazyFrame, order: str, as_states: list[pl.Expr]) -> pl.LazyFrame:
    """Join parts, in whatever row order, into one row a transaction.

    A part is consecutive events of its transaction; `order` is the version of its first, and `as_states` makes it
    a state. Most transactions have one part, which is its own result, so only the others are sorted and grouped: by
    the number of their first row, since numbers are compared faster than two texts. Which ones have one part is told
    by a hash: where two transactions share one, both go the longer way to the same result.
    """
    marked = pl.col("transaction_id").hash() ^ pl.col("account_id").hash(seed=1)
    # Without the cache the column engine works out what is used twice twice.
    counted = parts.with_columns(_is_alone=pl.len().over(marked) == 1).cache()
    alone = counted.filter("_is_alone").select(as_states)
    others = counted.filter(~pl.col("_is_alone")).with_row_index("_row")
    several = others.with_columns(_group=pl.col("_row").min().over(KEY)).sort("_group", order)
    several = several.select(*as_states, "_group")
    met = _check_meeting(several).with_columns(_is_odd=_is_odd()).cache()
    odd = met.filter("_is_odd").select("_group").unique()
    plain = met.join(odd, on="_group", how="anti", maintain_order="left")
    return pl.concat([alone, _chained(plain), _aggregate(met.join(odd, on="_group", how="semi"))])


def _is_odd() -> pl.Expr:
    """Whether a part is other than the next of a transaction that was recorded first, once, and went on legally."""
    follows = (pl.col("_group") == pl.col("_group").shift(1)).fill_null(value=False)
    is_other = pl.any_horizontal(pl.col(name) != pl.col(name).shift(1) for name in ("type", "amount"))
    return (
        pl.when(follows)
        .then((pl.col("recorded_count") > 0) | is_other)
        .otherwise(~pl.col("first_is_recorded") | (pl.col("recorded_count") != 1))
        | pl.col("is_conflicting")
        | (pl.col("illegal_count") > 0)
        | pl.col("regression_version").is_not_null()
    )


def _chained(parts: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row a transaction of parts of which none is odd: what it is stands in its first part or in its last.

    The same as `_aggregate` at a small part of its cost, since nothing has to be searched for.
    """
    begins = (pl.col("_group") != pl.col("_group").shift(1)).fill_null(value=True)
    ends = (pl.col("_group") != pl.col("_group").shift(-1)).fill_null(value=True)
    row = pl.int_range(pl.len())
    start = pl.when(begins).then(row).forward_fill()

    def told(name: str) -> pl.Expr:
        """What the last part that says it says, unless that is another transaction's."""
        said_at = pl.when(pl.col(name).is_not_null()).then(row).forward_fill()
        return pl.when(said_at >= start).then(pl.col(name).forward_fill())

    marked = parts.with_columns(_begins=begins, _ends=ends, **{name: told(name) for name in _TOLD}).cache()
    of_last = (*_TOLD, "status", "status_version", "status_position", "updated_at", "latest_effective_at")
    last = marked.filter("_ends").select(of_last)
    first = marked.filter("_begins").select(name for name in _SCHEMA if name not in of_last)
    return pl.concat([first, last], how="horizontal").select(_SCHEMA.names())


def _check_meeting(ordered: pl.LazyFrame) -> pl.LazyFrame:
    """Add to each part what only shows beside the part in front of it."""
    follows = (pl.col("_group") == pl.col("_group").shift(1)).fill_null(value=False)
    previous_status = pl.col("status").shift(1)
    # A repeated recording starts from no status by nature; it is a duplicate, not an illegal change.
    starts_anew = pl.col("first_is_recorded") & pl.col("first_from").is_null()
    is_judged = (pl.col("illegal_version") == pl.col("first_version")).fill_null(value=False)
    breaks = follows & ~starts_anew & ~is_judged & pl.col("first_from").ne_missing(previous_status)
    goes_back = follows & (pl.col("first_effective_at") < pl.col("updated_at").shift(1))
    evidence = {
        "illegal_version": pl.when(breaks).then("first_version"),
        "illegal_position": pl.when(breaks).then("first_position"),
        "illegal_from": pl.when(breaks).then("first_from"),
        "illegal_to": pl.when(breaks).then("first_to"),
        "illegal_previous": pl.when(breaks | (follows & is_judged)).then(previous_status),
        "regression_version": pl.when(goes_back).then("first_version"),
        "regression_position": pl.when(goes_back).then("first_position"),
        "regression_before": pl.when(goes_back).then(pl.col("updated_at").shift(1)),
        "regression_after": pl.when(goes_back).then("first_effective_at"),
    }
    return ordered.with_columns(
        # The first event of a part is its earliest, so its evidence comes before what the part had.
        **{name: found.otherwise(name) for name, found in evidence.items()},
        illegal_count=pl.col("illegal_count") + breaks,
    )


def _aggregate(parts: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row a transaction of parts that `_check_meeting` has seen."""
    is_recorded = pl.col("recorded_count") > 0
    content = pl.when(is_recorded).then(pl.struct(_CONTENT).struct.json_encode())
    # Any recording goes before any event that is none, whatever their versions.
    order = pl.col("created_version").cast(pl.Int128) + pl.when(is_recorded).then(0).otherwise(2**63)
    return (
        parts.with_columns(_content=content, _order=order)
        .group_by("_group")
        .agg(
            pl.col(KEY).first(),
            pl.col(*_CONTENT, "created_version", "created_position").min_by("_order"),
            # Parts do not overlap, so the last part that says it has the last event that does.
            *(_last_told(name) for name in _TOLD),
            pl.col("recorded_count", "illegal_count").sum(),
            pl.col("recorded_last_version", "recorded_last_position", "latest_effective_at").max(),
            _is_conflicting(),
            pl.col("status", "status_position", "updated_at").max_by("status_version"),
            pl.col("status_version").max(),
            pl.col("first_position", "first_is_recorded", "first_from", "first_to", "first_effective_at").min_by(
                "first_version"
            ),
            pl.col("illegal_position", "illegal_from", "illegal_to", "illegal_previous").min_by("illegal_version"),
            pl.col("regression_position", "regression_before", "regression_after").min_by("regression_version"),
            pl.col("first_version", "illegal_version", "regression_version").min(),
        )
        .select(_SCHEMA.names())
    )


def _last_told(name: str) -> pl.Expr:
    return pl.col(name).max_by(pl.when(pl.col(name).is_not_null()).then("status_version"))


def _is_conflicting() -> pl.Expr:
    """Whether two recordings differ in anything, or any two events in what the transaction moves."""
    differs = [pl.col(name).min() != pl.col(name).max() for name in ("_content", "type", "amount")]
    return pl.any_horizontal(pl.col("is_conflicting").any(), *differs).fill_null(value=False).alias("is_conflicting")


TRANSACTIONS = Projection(
    name="transactions",
    version=2,
    key=KEY,
    schema=_SCHEMA,
    fold=_fold,
    merge=_merge,
    details=("transaction_id", "related_transaction_id", "business_code", "order_id"),
    takes_codes=True,
)
