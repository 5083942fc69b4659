"""JSON codec of events: bytes to struct and back, with upcasting and unknown fields kept.

`decode` answers with a `PoisonEvent` instead of raising: an unknown tag, an unknown schema version and bytes
that are no event are values with a position, which the sequence gate turns into a parked account.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.events import EVENT_TYPES, SCHEMA_VERSION, Event, Identifier, PoisonEvent, Version

__all__ = ["Upcaster", "Upcasters", "decode", "encode", "format_time", "key_in"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
Fields = dict[str, Any]


class Upcasters:
    """Registry of functions that lift an event's fields from one schema version to the next.

    `current` is the newest version this reader knows. Register `(tag, from_version)` with a function over the
    decoded JSON object; versions are lifted one step at a time, so each function is written once.
    """

    def __init__(self, current: int = SCHEMA_VERSION) -> None:
        self.current = current
        self._steps: dict[tuple[str, int], Upcaster] = {}

    def register(self, tag: str, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Return a decorator that registers an upcaster; ValueError if that step has one."""

        def add(step: Upcaster) -> Upcaster:
            if (tag, from_version) in self._steps:
                raise ValueError(f"{tag} v{from_version} already has an upcaster")
            self._steps[tag, from_version] = step
            return step

        return add

    def lift(self, fields: Fields) -> Fields:
        """Return the fields at the current schema version; ValueError where no step leads there."""
        tag, version = fields["event"], fields.get("schema_version", 1)
        if type(version) is not int or not 1 <= version <= self.current:
            raise ValueError(f"unknown schema version {version!r} of {tag} (this reader knows 1 to {self.current})")
        while version < self.current:
            step = self._steps.get((tag, version))
            # A tag whose shape did not change between two versions needs no function.
            fields = _lifted(step, fields) if step else fields
            version += 1
        return {**fields, "schema_version": self.current}


def _lifted(step: Upcaster, fields: Fields) -> Fields:
    try:
        return step(dict(fields))
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # An upcaster meets whatever was stored: fields that it cannot lift are poison, not a failure of the reader.
        raise ValueError(f"cannot be lifted from its schema version: {error!r}") from error


_UPCASTERS = Upcasters()
_KNOWN = {tag: frozenset(cls.__struct_fields__) - {"extra"} for tag, cls in EVENT_TYPES.items()}


def format_time(moment: datetime) -> str:
    """Return ISO 8601 in UTC with exactly six digits of microseconds, the one form on the wire."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def encode(event: Event) -> bytes:
    """Return the wire bytes of an event: one JSON object without a newline, unknown fields included."""
    fields = msgspec.to_builtins(event, builtin_types=(datetime,))
    extra = fields.pop("extra")
    fields["effective_at"] = format_time(event.effective_at)
    fields["recorded_at"] = format_time(event.recorded_at)
    return msgspec.json.encode(fields | extra)


def decode(
    data: bytes,
    *,
    position: int = 0,
    account_id: str | None = None,
    version: int | None = None,
    upcasters: Upcasters = _UPCASTERS,
    types: dict[str, type[Event]] | None = None,
) -> Event | PoisonEvent:
    """Return the event that the bytes hold, or a `PoisonEvent` that says where and why there is none.

    `account_id` and `version` are what the source says beside the bytes; bytes that say otherwise are poison.
    `types` (tag to struct) is the set of known events, by default the six of this ledger.
    """
    known = EVENT_TYPES if types is None else types
    try:
        event = _convert(data, upcasters, known)
    except (ValueError, OverflowError, RecursionError) as error:  # msgspec's errors are ValueErrors.
        return PoisonEvent(position=position, account_id=account_id, version=version, reason=str(error))
    if account_id is not None and (event.account_id, event.version) != (account_id, version):
        reason = f"the bytes say {event.account_id!r} version {event.version}, the store says otherwise"
        return PoisonEvent(position=position, account_id=account_id, version=version, reason=reason)
    return event


class _Account(msgspec.Struct):
    account_id: Identifier | None = None


class _Key(_Account):
    version: Version | None = None


def key_in(data: bytes) -> tuple[str | None, int | None]:
    """Return the account and the version that some bytes name, as far as they do, though they may be no event."""
    for kind in (_Key, _Account):
        try:
            found = msgspec.json.decode(data, type=kind)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors.
            continue
        return found.account_id, getattr(found, "version", None)
    return None, None


def _convert(data: bytes, upcasters: Upcasters, types: dict[str, type[Event]]) -> Event:
    fields = msgspec.json.decode(data)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the data is wrong, not the caller.
    tag = fields.get("event")
    if not isinstance(tag, str) or tag not in types:
        raise ValueError(f"unknown event {tag!r}")
    fields = upcasters.lift(fields)
    cls = types[tag]
    names = _KNOWN[tag] if types is EVENT_TYPES else frozenset(cls.__struct_fields__) - {"extra"}
    extra = {key: value for key, value in fields.items() if key not in names and key != "event"}
    known = {key: value for key, value in fields.items() if key not in extra} if extra else fields
    event = msgspec.convert(known, cls)
    changes: dict[str, Any] = {"extra": extra} if extra else {}
    for name in ("effective_at", "recorded_at"):
        moment = getattr(event, name)
        if moment.tzinfo is not UTC:
            # OverflowError for a moment that UTC has no year for.
            changes[name] = moment.astimezone(UTC)
    return msgspec.structs.replace(event, **changes) if changes else event
