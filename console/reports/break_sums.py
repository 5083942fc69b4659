"""The sums of a report of breaks, as sections: by day, age, code, account and state, each order counted once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from console.reports.model import Bars, Columns, Section
from ledger import break_rows
from ledger.break_rows import Risk

__all__ = ["accounts", "ages", "codes", "days", "states"]

#: Columns of the chart over time, codes that it tells apart, and accounts that the table has.
COLUMNS_MAX = 45
CODES_SHOWN_MAX = 5
ACCOUNTS_SHOWN_MAX = 20

_OTHER = "other codes"

#: What each code means, in a few words.
MEANINGS = {
    "missing_credit_transaction": "completed, but nothing was paid",
    "amount_mismatch": "what was paid is not what the order is",
    "status_mismatch": "order and payment do not agree on what became of it",
    "orphan_credit_transaction": "paid for an order that nobody knows",
    "duplicate_credit": "paid more than once",
    "wrong_account": "paid by an account that is not the order's",
    "sign_mismatch": "paid the wrong way round",
    "missing_reversal": "cancelled or refunded, but not given back",
    "orphan_reversal": "given back without a reason",
    "over_reversal": "more was given back than had to be",
    "frozen_leak": "points are frozen for an order that is over",
    "timing_difference": "paid long before or after the order was completed",
}


def days(standing: pl.DataFrame) -> Section:
    """Return the points at risk over time, by the day of the order and by code: a column a day, or of several days."""
    title = "Points at risk by day"
    once = _largest(standing).drop_nulls("order_at")
    if once.is_empty():
        return Section(title=title, words=["No order with a break has a day."])
    on = pl.col("order_at").dt.date()
    first, last = once.select(on.min().alias("first"), on.max().alias("last")).row(0)
    width = -(-((last - first).days + 1) // COLUMNS_MAX)
    names = _names(once)
    code = pl.when(pl.col("code").is_in(names)).then("code").otherwise(pl.lit(_OTHER))
    column = (on - pl.lit(first)).dt.total_days() // width
    sums = _sums(once.with_columns(column=column, code=code))
    labels = [str(first + timedelta(days=number)) for number in range(0, (last - first).days + 1, width)]
    series = [(name, [sums.get((number, name), 0) for number in range(len(labels))]) for name in names]
    risk = sum(sum(values) for _, values in series)
    every = "a day" if width == 1 else f"{width} days"
    return Section(
        title=title,
        words=[
            "By the day of the order (UTC). An order counts once, under the code that puts most of it at risk.",
            *([f"Each column and each row is of {every}, and is named by the first."] if width > 1 else []),
        ],
        chart=Columns(
            title,
            f"Stacked columns, each of {every}, from {first} to {last}: {risk:,} points at risk in all. "
            "The table below has the same numbers.",
            labels,
            series,
        )
        if risk
        else None,
        table=_table_of_days(labels, series),
    )


def ages(standing: pl.DataFrame, now: datetime) -> Section:
    """Return how long breaks have stood."""
    found = break_rows.by_age(standing, now)
    title = "Breaks by age"
    oldest = [f"{each.key}: {each.breaks:,}" for each in found if each.breaks]
    return Section(
        title=title,
        words=["Since a break opened, or where it is not kept, since it was due."],
        chart=Bars(
            title,
            f"One bar an age, as long as there are breaks of it: {', '.join(oldest)}. "
            "The table below has the same numbers.",
            [(str(each.key), each.breaks) for each in found],
            "break",
        ),
        table=_table("age", found),
    )


def codes(standing: pl.DataFrame) -> Section:
    """Return what is wrong how often."""
    found = sorted(break_rows.by_code(standing), key=lambda each: (-each.points_at_risk, each.key or ""))
    meaning = pl.Series("meaning", [MEANINGS.get(each.key or "", "") for each in found], pl.String)
    return Section(
        title="Breaks by code",
        words=["An order that has several codes counts under each of them."],
        table=_table("code", found).with_columns(meaning),
    )


def accounts(standing: pl.DataFrame) -> Section:
    """Return whose points are at risk, most first."""
    found = break_rows.by_account(standing)
    rest = found[ACCOUNTS_SHOWN_MAX:]
    points = sum(each.points_at_risk for each in rest)
    return Section(
        title="Breaks by account",
        table=_table("account", found[:ACCOUNTS_SHOWN_MAX], unknown="no account"),
        rest=f"... and {len(rest):,} more with {points:,} points at risk: the report in JSON has all" if rest else "",
    )


def states(breaks: pl.DataFrame) -> Section:
    """Return what became of the breaks that are told one by one."""
    state = pl.concat_str("state", "resolution", separator=" ", ignore_nulls=True)
    found = breaks.group_by(state.alias("state")).agg(
        pl.len().cast(pl.Int64).alias("breaks"), pl.col("order_id").n_unique().cast(pl.Int64).alias("orders")
    )
    return Section(title="Breaks by state", words=[] if found.height else ["There is none."], table=found.sort("state"))


def _largest(standing: pl.DataFrame) -> pl.DataFrame:
    """Return of each order the break that puts most at risk, so that it counts once."""
    by_size = standing.sort("order_id", "points_at_risk", "code", descending=[False, True, False])
    return by_size.unique("order_id", keep="first", maintain_order=True)


def _names(once: pl.DataFrame) -> list[str]:
    """Return the codes that are told apart, most points first, and what all others are called."""
    points = pl.col("points_at_risk").cast(pl.Int128).sum()
    found = once.group_by("code").agg(points).sort("points_at_risk", "code", descending=[True, False])["code"].to_list()
    return found if len(found) <= CODES_SHOWN_MAX + 1 else [*found[:CODES_SHOWN_MAX], _OTHER]


def _sums(once: pl.DataFrame) -> dict[tuple[int, str], int]:
    found = once.group_by("column", "code").agg(pl.col("points_at_risk").cast(pl.Int128).sum())
    return {(column, code): points for column, code, points in found.rows()}


def _table_of_days(labels: Sequence[str], series: Sequence[tuple[str, Sequence[int]]]) -> pl.DataFrame:
    """Return the numbers of the chart, without the columns that have none."""
    parts = [pl.Series(name, values, pl.Int128) for name, values in series]
    table = pl.DataFrame([pl.Series("day", labels, pl.String), *parts])
    whole = table.with_columns(pl.sum_horizontal(name for name, _ in series).alias("all"))
    return whole.filter(pl.col("all") > 0)


def _table(name: str, risks: Sequence[Risk], *, unknown: str = "") -> pl.DataFrame:
    return pl.DataFrame(
        {
            name: pl.Series([unknown if each.key is None else each.key for each in risks], dtype=pl.String),
            "breaks": pl.Series([each.breaks for each in risks], dtype=pl.Int64),
            "orders": pl.Series([each.orders for each in risks], dtype=pl.Int64),
            "points at risk": pl.Series([each.points_at_risk for each in risks], dtype=pl.Int128),
        }
    )
