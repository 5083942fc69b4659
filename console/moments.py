"""Moments as people write them: ISO 8601 or a date, with or without a zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.errors import ConfigurationError, UsageError

__all__ = ["parse_moment", "zone_named"]


def zone_named(name: str) -> ZoneInfo:
    """Return a time zone; ConfigurationError if there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(f"no time zone is called {name!r}", next_step="use a name as Europe/Berlin") from error


def parse_moment(words: str, *, zone: str = "UTC", option: str = "--now") -> tuple[datetime, bool]:
    """Return a moment in UTC, and whether it had no zone.

    A date in any form of ISO 8601 is its UTC midnight; a time without a zone is taken in `zone`. UsageError names
    the option whose value cannot be read.
    """
    day = _day(words)
    if day is not None:
        return datetime.combine(day, time(), UTC), False
    try:
        moment = datetime.fromisoformat(words)
        is_naive = moment.tzinfo is None
        local = _in_zone(moment, zone, option) if is_naive else moment
        return local.astimezone(UTC), is_naive
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} {words!r} is no moment", next_step="write it as 2026-01-31 or 2026-01-31T09:30:00Z"
        ) from error


def _in_zone(moment: datetime, zone: str, option: str) -> datetime:
    local = moment.replace(tzinfo=zone_named(zone))
    # Only where clocks change do the two readings of a local time differ.
    if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset():
        raise UsageError(
            f"{option} {moment.isoformat()} was skipped or shown twice by the clocks of {zone}",
            next_step="write it with its offset, as 2026-01-31T09:30:00+01:00",
        )
    return local


def _day(words: str) -> date | None:
    try:
        return date.fromisoformat(words)
    except ValueError:
        return None
