"""Bulk decoder of events that come as bytes alone: record values of a topic, whose key is inside them.

`decode_values` gives the columns of `decode_batch`, a batch at a time. Nothing vouches for such bytes, so every
field of every event is judged: by structs whose fields have the types and limits of `schemas.events`, and by a few
checks over whole columns. What does not pass is decoded again by `schemas.codec.decode`, row by row, which either
upcasts it or names it as poison. So this too is only ever a faster way to the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import polars as pl

from schemas.codec import decode
from schemas.columns import DETAIL_COLUMNS, EVENT_SCHEMA, WIRE_TIME_BYTES, Decoded, event_rows, wire_time
from schemas.events import (
    EVENT_TYPES,
    ID_LENGTH_MAX,
    Amount,
    Event,
    PoisonEvent,
    Status,
    TransactionEvent,
    TransactionType,
    Version,
)

__all__ = ["decode_values"]

_TRANSACTION_TAGS = [tag for tag, kind in EVENT_TYPES.items() if issubclass(kind, TransactionEvent)]
_REQUIRED = ("transaction_id", "type", "amount", "to_status")
_OPTIONAL = ("from_status", "related_transaction_id", "business_code", "order_id", "metadata")
_TIMES = ("effective_at", "recorded_at")
_JUDGED = ("event", "account_id", *_REQUIRED, "from_status", *_TIMES)

#: An id as `Identifier` wants it, less its pattern: a search in each would cost more than the rest of the event, so
#: the column is searched.
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH_MAX)]
#: A time as long as the one form of the wire; whether it is one, the column says.
_Time = Annotated[str, msgspec.Meta(min_length=WIRE_TIME_BYTES, max_length=WIRE_TIME_BYTES)]


class _Fields(msgspec.Struct, gc=False):
    """Every field of every event; which of them an event may have is judged by column."""

    event: Literal[
        "account.opened",
        "account.locked",
        "account.unlocked",
        "account.closed",
        "transaction.recorded",
        "transaction.status_changed",
    ]
    event_id: Annotated[str, msgspec.Meta(min_length=1)]
    account_id: _Id
    version: Version
    effective_at: _Time
    recorded_at: _Time
    schema_version: Literal[1] = 1
    transaction_id: _Id | None = None
    type: TransactionType | None = None
    amount: Amount | None = None
    from_status: Status | None = None
    to_status: Status | None = None
    related_transaction_id: str | None = None
    business_code: str | None = None
    order_id: str | None = None
    reason: str | None = None
    # Read whole, since a value in it that cannot be read makes the event poison.
    metadata: dict[str, Any] | None = None


#: Values that are structs at once: few enough that these are still in the processor's cache when they become columns.
PART_VALUES = 4_000


class _KnownFields(_Fields, gc=False, forbid_unknown_fields=True):
    """The same of an event that has no others."""


_T = TypeVar("_T")
_KNOWN = msgspec.json.Decoder(_KnownFields).decode
_FIELDS = msgspec.json.Decoder(_Fields).decode


def decode_values(
    offsets: Sequence[int], values: Sequence[bytes], details: tuple[str, ...] = (), *, keeps_bytes: bool = True
) -> Decoded:
    """Return the events that some values hold as columns, in the order given; `offsets` are their positions, rising.

    The columns are those of `EVENT_SCHEMA` less the `DETAIL_COLUMNS` that are not in `details`, and beside them
    `state` (the bytes, null unless `keeps_bytes`) and `chain` (null).
    """
    names = [name for name in EVENT_SCHEMA if name not in DETAIL_COLUMNS or name in details]
    frame, slow = _columns(values, names)
    places = _without(range(len(values)), slow)
    doubtful = frame.select(_is_doubtful(frame.columns)).to_series()
    frame = frame.with_columns(
        pl.Series("position", _without(offsets, slow), dtype=pl.Int64),
        _states([values[place] for place in places] if keeps_bytes else None),
        chain=pl.lit(None, pl.Binary()),
    ).select(*names, "state", "chain")
    if not slow and not doubtful.any():
        return Decoded(frame, [])
    slow += [places[row] for row in doubtful.arg_true()]
    lifted, poison = _strictly([(offsets[place], values[place]) for place in sorted(slow)], frame.schema)
    if not keeps_bytes:
        lifted = lifted.with_columns(_states(None))
    return Decoded(pl.concat([frame.filter(~doubtful), lifted]).sort("position"), poison)


def _states(values: list[bytes] | None) -> pl.Expr | pl.Series:
    return pl.lit(None, pl.Binary()).alias("state") if values is None else pl.Series("state", values, dtype=pl.Binary)


def _columns(values: Sequence[bytes], names: list[str]) -> tuple[pl.DataFrame, list[int]]:
    """Return the fields that are asked for or judged by column, less the places beside, whose values have others."""
    frames: list[pl.DataFrame] = []
    slow: list[int] = []
    for start in range(0, max(len(values), 1), PART_VALUES):
        rows, odd = _rows(values[start : start + PART_VALUES])
        frames.append(_frame(rows, names))
        slow += [start + place for place in odd]
    return pl.concat(frames).with_columns(wire_time(name) for name in _TIMES), slow


def _rows(values: Sequence[bytes]) -> tuple[list[_Fields], list[int]]:
    """Return what the values hold, less those whose places come beside, which the structs do not take."""
    try:
        return list(map(_KNOWN, values)), []
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors.
        pass
    rows: list[_Fields] = []
    slow: list[int] = []
    for place, value in enumerate(values):
        try:
            rows.append(_fields_of(value))
        except (ValueError, RecursionError):
            slow.append(place)
    return rows, slow


def _fields_of(value: bytes) -> _Fields:
    """Return what a value holds, whatever fields it has beside ours; ValueError or RecursionError for what is none."""
    try:
        return _KNOWN(value)
    except msgspec.ValidationError:
        # What it does not know it skips without a look at it, so everything is read once more.
        msgspec.json.decode(value)
        return _FIELDS(value)


def _without(items: Sequence[_T], places: list[int]) -> Sequence[_T]:
    gone = set(places)
    return [item for place, item in enumerate(items) if place not in gone] if gone else items


def _frame(rows: list[_Fields], names: list[str]) -> pl.DataFrame:
    """Return the fields of some rows as columns, times as text."""
    kept = [name for name in EVENT_SCHEMA if name in names or name in _JUDGED if name not in ("position", "metadata")]
    types = {name: pl.String() if name in _TIMES else EVENT_SCHEMA[name] for name in kept}
    frame = pl.DataFrame({name: list(map(attrgetter(name), rows)) for name in kept}, schema=types)
    return frame.with_columns(_metadata(rows)) if "metadata" in names else frame


def _is_doubtful(names: list[str]) -> pl.Expr:
    """Rows that are for the strict decoder to judge: fields of the other kind of event, an odd time, a NUL."""
    of_transaction = pl.col("event").is_in(_TRANSACTION_TAGS)
    has_reason = pl.col("reason").is_not_null() if "reason" in names else pl.lit(False)
    of_the_other = [pl.col(name).is_not_null() for name in (*_REQUIRED, *_OPTIONAL) if name in names]
    return (
        pl.when(of_transaction)
        .then(pl.any_horizontal(*(pl.col(name).is_null() for name in _REQUIRED), has_reason))
        .otherwise(pl.any_horizontal(of_the_other))
        | pl.any_horizontal(pl.col(name).is_null() for name in _TIMES)
        | pl.any_horizontal(
            pl.col(name).str.contains("\0", literal=True).fill_null(False) for name in ("account_id", "transaction_id")
        )
    )


def _metadata(rows: list[_Fields]) -> pl.Series:
    """Return metadata as JSON text, null where there is none."""
    texts = [None if row.metadata is None else msgspec.json.encode(row.metadata).decode() for row in rows]
    return pl.Series("metadata", texts, dtype=pl.String)


def _strictly(rows: Sequence[tuple[int, bytes]], schema: pl.Schema) -> Decoded:
    """Return what the strict decoder makes of some positions and values, with the columns of a schema."""
    events: list[Event] = []
    places: list[tuple[int, bytes]] = []
    poison: list[PoisonEvent] = []
    for position, value in rows:
        found = decode(value, position=position)
        if isinstance(found, PoisonEvent):
            poison.append(found)
        else:
            events.append(found)
            places.append((position, value))
    columns = event_rows(events).with_columns(
        pl.Series("position", [position for position, _ in places], dtype=pl.Int64),
        _states([value for _, value in places]),
        chain=pl.lit(None, pl.Binary()),
    )
    return Decoded(columns.select(schema.names()), poison)
