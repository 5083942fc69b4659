"""A moment as a question: which events count, by when things happened, by when they were recorded, or by both.

A replay of a moment reads and gates every event up to its position all the same, so that holes, poison and heads are
judged over everything; only what it folds is of the moment. A position says what is read, a moment what is counted.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from functools import reduce
from operator import and_
from typing import TypeVar

import msgspec
import polars as pl

from schemas import format_time
from schemas.errors import UsageError

__all__ = ["Moment", "Time", "in_utc"]

#: A moment as callers give it: with its zone, or as its text in ISO 8601.
Time = datetime | str

_WRITE = "give a datetime with its zone, or text as 2026-01-31 or 2026-01-31T09:30:00Z"

Events = TypeVar("Events", pl.DataFrame, pl.LazyFrame)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A moment on either clock or on both, inclusive, in UTC; None on a clock that was not asked."""

    effective: datetime | None = None
    recorded: datetime | None = None

    @classmethod
    def asked(cls, as_of: Time | None, recorded_as_of: Time | None) -> Moment | None:
        """Return the moment that was asked for, None where none was; UsageError as `in_utc`."""
        if as_of is None and recorded_as_of is None:
            return None
        return cls(effective=in_utc(as_of, "as_of"), recorded=in_utc(recorded_as_of, "recorded_as_of"))

    @property
    def details(self) -> tuple[str, ...]:
        """The detail columns that `of` needs beside the columns that every event batch has."""
        return () if self.recorded is None else ("recorded_at",)

    @property
    def name(self) -> str:
        """The moment as a part of a file's name, other for every other moment; empty for none."""
        asked = {"as-of": self.effective, "recorded-as-of": self.recorded}
        # A colon is no part of a file's name everywhere.
        return "".join(f"-{clock}-{format_time(at).replace(':', '')}" for clock, at in asked.items() if at is not None)

    def predicate(self) -> pl.Expr | None:
        """Return what is true of the events that count, None where all do."""
        clocks = {"effective_at": self.effective, "recorded_at": self.recorded}
        counts = [pl.col(column) <= at for column, at in clocks.items() if at is not None]
        return reduce(and_, counts) if counts else None

    def of(self, events: Events) -> Events:
        """Return the events of a batch, or of a lazy scan, that count."""
        counts = self.predicate()
        return events if counts is None else events.filter(counts)

    def is_past(self, watermark: datetime | None) -> bool:
        """Say whether either clock was asked for a moment after the watermark; None is before any moment."""
        asked = [at for at in (self.effective, self.recorded) if at is not None]
        return any(watermark is None or at > watermark for at in asked)


def in_utc(at: Time | None, name: str) -> datetime | None:
    """Return a time in UTC, whether it was given as one or as its text in ISO 8601; a date is its UTC midnight.

    UsageError names what is no time, or has no zone.
    """
    found = _parsed(at, name) if isinstance(at, str) else at
    if found is None:
        return None
    if not isinstance(found, datetime):
        raise UsageError(f"{name} {found!r} is no time", next_step=_WRITE)
    if found.tzinfo is None:
        raise UsageError(f"{name} {found.isoformat()} has no time zone", next_step="give it one, as tzinfo=UTC or Z")
    try:
        return found.astimezone(UTC)
    except OverflowError as error:
        raise UsageError(f"{name} {found.isoformat()} has no year in UTC", next_step=_WRITE) from error


def _parsed(words: str, name: str) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(words), time(), UTC)
    except ValueError:
        # It is no date, so perhaps a time.
        pass
    try:
        return datetime.fromisoformat(words)
    except ValueError as error:
        raise UsageError(f"{name} {words!r} is no time", next_step=_WRITE) from error
