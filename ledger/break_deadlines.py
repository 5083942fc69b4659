"""When a break that was found is due: the deadline that is stored, made of the facts and of when they were noticed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

from schemas import format_time

__all__ = ["Turn", "as_text"]

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Turn(NamedTuple):
    """One look: up to when both sides were read, when it is, who looks, and what its deadlines are made of.

    No deadline of new facts is before `judged_at` (None: `now`), nor later than `now` and `grace`. Facts that were
    noticed after `noticed_until` wait whatever their deadline.
    """

    until: datetime | None
    now: datetime
    by: str
    noticed_until: datetime | None = None
    grace: timedelta = timedelta()
    judged_at: datetime | None = None

    @property
    def is_past(self) -> pl.Expr:
        """Whether a break that waits is due, by `deadline_at` and `noticed_at`."""
        if self.until is None:
            return pl.lit(value=False)
        is_past = pl.col("deadline_at") <= format_time(self.until)
        return (
            is_past
            if self.noticed_until is None
            else is_past & (pl.col("noticed_at") <= format_time(self.noticed_until))
        )

    @property
    def deadline_at(self) -> pl.Expr:
        """The deadline that is stored where facts are new, made of that which they give, `deadline_at`."""
        earliest = format_time(self.judged_at or self.now)
        # A clock may be set to any moment that a text can have.
        latest = format_time(_LATEST if self.grace > _LATEST - self.now else self.now + self.grace)
        return pl.min_horizontal(pl.max_horizontal("deadline_at", pl.lit(earliest)), pl.lit(latest))

    @property
    def kept_deadline_at(self) -> pl.Expr:
        """The deadline of facts that are not new: what was stored, unless another time of grace makes it earlier."""
        return pl.min_horizontal("old_deadline_at", pl.max_horizontal("deadline_at", "old_noticed_at"))

    @property
    def is_kept(self) -> pl.Expr:
        """Whether no fact is later than those that `old_deadline_at` was made of, or nobody can tell."""
        noticed_at, deadline_at = (
            pl.col(f"old_{name}_at").str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC")
            for name in ("noticed", "deadline")
        )
        is_cut = deadline_at >= noticed_at + self.grace
        return (pl.col("deadline_at") <= pl.col("old_deadline_at")) | is_cut


def as_text(moments: pl.Expr) -> pl.Expr:
    """Return moments as the tables have them; those of a year that has not four digits, which would not sort, cut."""
    return moments.clip(_EARLIEST, _LATEST).dt.strftime(_TIME_FORMAT)
