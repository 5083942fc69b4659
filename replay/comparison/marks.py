"""Marks: what live says of how far it is, so that a row is compared with the log at exactly that place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from replay.comparison.live_table import Mark
from replay.comparison.settling import is_same_state
from replay.steps import Steps

__all__ = ["Judged", "judge"]


class Judged(NamedTuple):
    """Accounts by what their mark came to: live is as the log says there, or is not, or the log knows no such place.

    `wrong` is the version that a row was compared at, by account. `behind` are rows that are what the log says at their
    own mark, which is not their account's last place: live has yet to apply what came after it, or never will.
    """

    same: list[str]
    wrong: dict[str, int]
    unknown: list[str]
    behind: list[str]


def judge(steps: Steps, live: pl.DataFrame, mark: Mark, *, positions: Sequence[int] = ()) -> Judged:
    """Compare live rows (`LIVE_SCHEMA`, each with a mark, or none where `positions` are that of the table).

    A transaction may have several events, and live may be at any of them; after it the account may have been locked.
    So a row is the same if it equals the account at any of the places that fit its mark, and wrong at the last of them.
    """
    both = steps.frame.join(
        live.select("account_id", "mark", *(pl.col(name).alias(f"live_{name}") for name in _LIVE)), on="account_id"
    ).sort("account_id", "version")
    is_last = pl.col("account_id").ne_missing(pl.col("account_id").shift(-1))
    both = both.with_columns(is_last=is_last, is_same=is_same_state())
    places = both.filter(_is_place(mark, positions))
    found = places.group_by("account_id").agg(
        pl.col("is_same").any(), pl.col("version").last(), is_level=(pl.col("is_same") & pl.col("is_last")).any()
    )
    # A table says of all its rows where they are; a row that says so for itself may have been left behind.
    is_level = pl.lit(value=True) if mark.query is not None else pl.col("is_level")
    same = found.filter(pl.col("is_same") & is_level)["account_id"].to_list()
    behind = found.filter(pl.col("is_same") & ~is_level)["account_id"].to_list()
    wrong = dict(found.filter(~pl.col("is_same")).select("account_id", "version").iter_rows())
    known = {*same, *wrong, *behind}
    return Judged(same, wrong, [each for each in live["account_id"].to_list() if each not in known], behind)


def _is_place(mark: Mark, positions: Sequence[int]) -> pl.Expr:
    if mark.query is not None:
        next_position = pl.col("position").shift(-1).over("account_id")
        is_last = [
            (pl.col("position") <= position) & (next_position.is_null() | (next_position > position))
            for position in positions
        ]
        return pl.any_horizontal(*is_last) if is_last else pl.lit(value=False)
    if mark.of == "version":
        return pl.col("version").cast(pl.String) == pl.col("mark")
    return pl.col("transaction_id").forward_fill().over("account_id") == pl.col("mark")


_LIVE = ("balance", "frozen", "status", "locked_at")
