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


def parse_moment(words: str, *, zone: str = "UTC", option: str = "--now") -> datetime:
    """Return a moment in UTC: a date is its UTC midnight, a time without a zone is taken in `zone`.

    UsageError names the option whose value cannot be read.
    """
    try:
        if len(words) == 10:
            return datetime.combine(date.fromisoformat(words), time(), UTC)
        moment = datetime.fromisoformat(words)
        local = moment.replace(tzinfo=zone_named(zone)) if moment.tzinfo is None else moment
        return local.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} {words!r} is no moment", next_step="write it as 2026-01-31 or 2026-01-31T09:30:00Z"
        ) from error
