"""Rows of live against the log at the place that live itself says it is at: exact, with nothing to settle."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from replay.comparison.foreign import ForeignSnapshot
from replay.comparison.live_table import Mark
from replay.comparison.marks import judge
from replay.comparison.replayed import Moment
from replay.differences import FOREIGN_FIELDS, Drifted
from replay.explain import entries, explained
from replay.steps import Steps

__all__ = ["ByMark", "MarkedRows"]

_LIVE = ("account_id", *FOREIGN_FIELDS, "mark")


class MarkedRows(NamedTuple):
    """What marks came to: differences, accounts that are as the log says, and those that their mark says nothing of.

    `damaged` are accounts that the log cannot vouch for, `unknown` those of `rest` whose mark the log does not know:
    it may still come.
    """

    drifted: list[Drifted]
    same: list[str]
    rest: list[str]
    unknown: list[str]
    damaged: list[str]


class ByMark:
    """Compares rows by a mark."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark

    def may_be_elsewhere(self, live: ForeignSnapshot, moment: Moment) -> pl.Expr:
        """Whether rows that are the same may be so at another place than the mark says.

        A transaction as the mark of a row is taken to be the last one where the row is the same.
        """
        if self._mark.of == "version":
            return (pl.col("mark") != pl.col("replayed_version").cast(pl.String)).fill_null(False)
        positions = self._positions(live, moment)
        at = moment.position
        if not positions or not isinstance(at, int):
            return pl.lit(value=False)
        return pl.col("account_id").is_in(moment.moved(min(*positions, at), max(*positions, at)))

    def judged(self, rows: pl.DataFrame, live: ForeignSnapshot, moment: Moment) -> MarkedRows:
        """Judge rows (as `paired` gives them) by their mark, or by that of the table."""
        positions = self._positions(live, moment)
        has_mark = pl.lit(bool(positions)) if self._mark.query is not None else pl.col("mark").is_not_null()
        marked = rows.filter(has_mark)
        without = rows.filter(~has_mark)["account_id"].to_list()
        if marked.is_empty():
            unknown = without if self._mark.query is not None and live.mark is not None else []
            return MarkedRows([], [], without, unknown, [])
        steps = moment.steps_to_head(marked["account_id"].to_list())
        damaged = [each for each in marked["account_id"].to_list() if each in steps.parked]
        sound = marked.filter(~pl.col("account_id").is_in(damaged))
        found = judge(steps, sound, self._mark, positions=positions)
        nowhere = self._nowhere(sound, found.unknown)
        unknown = [each for each in found.unknown if each not in nowhere]
        return MarkedRows(
            _told(steps, sound, found.wrong),
            [*found.same, *nowhere],
            # What is behind its own mark settles like any row that may be on its way.
            [*unknown, *without, *found.behind],
            unknown if self._mark.query is None else [],
            damaged,
        )

    def _nowhere(self, rows: pl.DataFrame, unknown: list[str]) -> set[str]:
        """Accounts that neither live has, nor the log at the place of the table."""
        if self._mark.query is None:
            return set()
        return set(rows.filter(pl.col("account_id").is_in(unknown), pl.col("balance").is_null())["account_id"])

    def _positions(self, live: ForeignSnapshot, moment: Moment) -> list[int]:
        """Where the table says that it is, nowhere if the log does not know the place, or the mark is of rows."""
        if self._mark.query is None or live.mark is None:
            return []
        if self._mark.of == "transaction":
            return moment.positions_of(live.mark)
        digits = live.mark.strip()
        is_known = digits.isascii() and digits.isdigit() and isinstance(moment.head, int) and int(digits) <= moment.head
        return [int(digits)] if is_known else []


def _told(steps: Steps, rows: pl.DataFrame, wrong: dict[str, int]) -> list[Drifted]:
    """Tell what differs from the log at a version of each account."""
    if not wrong:
        return []
    until = pl.DataFrame({"account_id": list(wrong), "until": list(wrong.values())})
    there = steps.frame.join(until, on="account_id", maintain_order="left").filter(pl.col("version") <= pl.col("until"))
    at_mark = Steps(there.drop("until"))
    said = at_mark.rows().rename(lambda name: name if name == "account_id" else f"replayed_{name}")
    live = rows.filter(pl.col("account_id").is_in(list(wrong))).select(_LIVE)
    both = live.join(said, on="account_id", how="left", maintain_order="left")
    causes = explained(at_mark, both, fields=FOREIGN_FIELDS)
    return entries(both, causes, fields=FOREIGN_FIELDS)
