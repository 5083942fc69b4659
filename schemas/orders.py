"""The four events of an order: what the order system says, and how it is read.

Every event is a frozen msgspec struct tagged by `event`. `(order_id, version)` is its key: versions of one order run
from 1, which is `order.placed` and nothing else, without a hole. Times are UTC with microseconds. Points are whole,
0 .. 2^63-1. A field that is None where it may be left out leaves what an earlier event said. `extra` holds the fields
that a newer writer added and this reader does not know; they survive a round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import polars as pl

from schemas.codec import Upcasters, format_time
from schemas.columns import UTC_MICROSECONDS, wire_time
from schemas.events import AMOUNT_MAX, SCHEMA_VERSION, Amount, Identifier, Moment, Version

__all__ = [
    "DIRECTIONS",
    "ORDER_EVENT_TYPES",
    "ORDER_SCHEMA",
    "ORDER_STATUSES",
    "DecodedOrders",
    "Direction",
    "OrderCancelled",
    "OrderCompleted",
    "OrderEvent",
    "OrderPlaced",
    "OrderRefunded",
    "OrderStatus",
    "PoisonOrder",
    "decode_order",
    "decode_orders",
    "encode_order",
    "order_rows",
]

Direction = Literal["spend", "earn"]
OrderStatus = Literal["pending", "completed", "cancelled"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)
ORDER_STATUSES: tuple[str, ...] = get_args(OrderStatus)

Points = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MAX)]
FirstVersion = Annotated[int, msgspec.Meta(ge=1, le=1)]
LaterVersion = Annotated[int, msgspec.Meta(ge=2, le=AMOUNT_MAX)]

#: One row an event of an order. `event` is its tag; `refunded_points` are those of this refund; `partition` and
#: `position` are null where no topic has it.
ORDER_SCHEMA = pl.Schema(
    {
        "order_id": pl.String(),
        "version": pl.Int64(),
        "event": pl.String(),
        "account_id": pl.String(),
        "points": pl.Int64(),
        "direction": pl.String(),
        "refunded_points": pl.Int64(),
        "effective_at": UTC_MICROSECONDS,
        "partition": pl.Int64(),
        "position": pl.Int64(),
    }
)


class OrderEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every event of an order carries."""

    event_id: Annotated[str, msgspec.Meta(min_length=1)]
    order_id: Identifier
    version: Version
    account_id: Identifier | None = None
    points: Points | None = None
    direction: Direction | None = None
    effective_at: Moment
    schema_version: int = SCHEMA_VERSION
    extra: dict[str, Any] = {}


class OrderPlaced(OrderEvent, frozen=True, kw_only=True, tag="order.placed"):
    """An order over so many points exists from here on and is pending: to be paid with them, or to give them."""

    version: FirstVersion
    points: Points
    direction: Direction = "spend"


class OrderCompleted(OrderEvent, frozen=True, kw_only=True, tag="order.completed"):
    """The order is done, so its points are owed."""

    version: LaterVersion


class OrderCancelled(OrderEvent, frozen=True, kw_only=True, tag="order.cancelled"):
    """The order is off, so nothing is owed."""

    version: LaterVersion


class OrderRefunded(OrderEvent, frozen=True, kw_only=True, tag="order.refunded"):
    """Some of the order's points, or all that are left, are given back; one order may have several."""

    version: LaterVersion
    refunded_points: Amount


ORDER_EVENT_TYPES: dict[str, type[OrderEvent]] = {
    str(cls.__struct_config__.tag): cls for cls in (OrderPlaced, OrderCompleted, OrderCancelled, OrderRefunded)
}


class PoisonOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an order that cannot be read, as a value: where it is and why; never a skip.

    `partition` and `position` are the place in the topic. `order_id` and `version` are what the bytes, or else the key
    beside them, say; None where they say nothing.
    """

    partition: int
    position: int
    order_id: str | None
    version: int | None
    reason: str


class DecodedOrders(NamedTuple):
    """Decoded records: `events` (`ORDER_SCHEMA`) in the order given, and what could not be read."""

    events: pl.DataFrame
    poison: list[PoisonOrder]


def encode_order(event: OrderEvent) -> bytes:
    """Return the wire bytes of an event: one JSON object without a newline, unknown fields included."""
    fields = msgspec.to_builtins(event, builtin_types=(datetime,))
    extra = fields.pop("extra")
    fields["effective_at"] = format_time(event.effective_at)
    return msgspec.json.encode(fields | extra)


def decode_order(
    data: bytes, *, partition: int = 0, position: int = 0, key: bytes | None = None, upcasters: Upcasters | None = None
) -> OrderEvent | PoisonOrder:
    """Return the event that the bytes hold, or a `PoisonOrder` that says where and why there is none.

    `key` is the record's, which names the order where the bytes do not.
    """
    try:
        return _convert(data, upcasters or _UPCASTERS)
    except (ValueError, OverflowError, RecursionError) as error:  # msgspec's errors are ValueErrors.
        order_id, version = _named(data)
        named = order_id or _key_text(key)
        return PoisonOrder(
            partition=partition, position=position, order_id=named, version=version, reason=str(error) or repr(error)
        )


def decode_orders(
    values: Sequence[bytes | None],
    positions: Sequence[int],
    *,
    partition: int = 0,
    keys: Sequence[bytes | None] | None = None,
) -> DecodedOrders:
    """Return the events that the values of some records of one partition hold, as `decode_order` reads each.

    A record without a value (a tombstone) holds none: an order is never deleted.
    """
    rows: list[_Fields] = []
    places: list[int] = []
    slow: list[int] = []
    for place, value in enumerate(values):
        try:
            rows.append(_FIELDS(value or b""))
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors.
            slow.append(place)
        else:
            places.append(place)
    frame = _frame(rows, [positions[place] for place in places], partition)
    doubtful = frame.select(_is_doubtful()).to_series()
    slow += [places[row] for row in doubtful.arg_true()]
    frame = frame.filter(~doubtful).select(ORDER_SCHEMA.names())
    if not slow:
        return DecodedOrders(frame, [])
    strict, poison = _strictly(values, positions, keys, partition, sorted(slow))
    order = pl.DataFrame({"position": positions}, schema={"position": pl.Int64()}).with_row_index("place")
    both = pl.concat([frame, strict]).join(order, on="position", how="left").sort("place")
    return DecodedOrders(both.select(ORDER_SCHEMA.names()), poison)


def order_rows(events: Sequence[OrderEvent], places: Sequence[tuple[int | None, int | None]] = ()) -> pl.DataFrame:
    """Return structs as rows (`ORDER_SCHEMA`), with the partition and position of each where they are told."""
    rows = [_row(event) for event in events]
    for row, (partition, position) in zip(rows, places, strict=False):
        row |= {"partition": partition, "position": position}
    return pl.DataFrame(rows, schema=ORDER_SCHEMA, orient="row")


_UPCASTERS = Upcasters()
_NO_VALUE = "the record has no value (a tombstone), which deletes no order"
_KNOWN = {tag: frozenset(cls.__struct_fields__) - {"extra"} for tag, cls in ORDER_EVENT_TYPES.items()}
_REFUNDED = str(OrderRefunded.__struct_config__.tag)
_PLACED = str(OrderPlaced.__struct_config__.tag)


#: What no value of a field can be: a null that is told is another matter than none.
_ABSENT: Any = ""


class _Fields(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Every field of every event; which of them an event may have is judged by column."""

    event: Literal["order.placed", "order.completed", "order.cancelled", "order.refunded"]
    event_id: Annotated[str, msgspec.Meta(min_length=1)]
    order_id: Identifier
    version: Version
    effective_at: str
    account_id: Identifier | None = None
    points: Points | None = None
    direction: Direction | None = _ABSENT
    refunded_points: Amount | None = None
    schema_version: Literal[1] = 1


_FIELDS = msgspec.json.Decoder(_Fields).decode


def _convert(data: bytes, upcasters: Upcasters) -> OrderEvent:
    fields = msgspec.json.decode(data)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the data is wrong, not the caller.
    tag = fields.get("event")
    if not isinstance(tag, str) or tag not in ORDER_EVENT_TYPES:
        raise ValueError(f"unknown event {tag!r}")
    fields = upcasters.lift(fields)
    extra = {key: value for key, value in fields.items() if key not in _KNOWN[tag] and key != "event"}
    known = {key: value for key, value in fields.items() if key not in extra}
    event = msgspec.convert(known, ORDER_EVENT_TYPES[tag])
    # OverflowError for a moment that UTC has no year for.
    return msgspec.structs.replace(event, effective_at=event.effective_at.astimezone(UTC), extra=extra)


class _Order(msgspec.Struct):
    order_id: Identifier | None = None


class _Key(_Order):
    version: Version | None = None


def _named(data: bytes) -> tuple[str | None, int | None]:
    """Return the order and the version that some bytes name, as far as they do, though they may be no event."""
    for kind in (_Key, _Order):
        try:
            found = msgspec.json.decode(data, type=kind)
        except (ValueError, RecursionError):
            continue
        return found.order_id, getattr(found, "version", None)
    return None, None


def _key_text(key: bytes | None) -> str | None:
    """Return the order that a record's key names, which may be any bytes."""
    try:
        return msgspec.convert((key or b"").decode(), Identifier)
    except ValueError:  # Of both: no UTF-8, and no identifier.
        return None


def _frame(rows: list[_Fields], positions: list[int], partition: int) -> pl.DataFrame:
    names = [name for name in ORDER_SCHEMA if name not in ("partition", "position")]
    types = {name: pl.String() if name == "effective_at" else ORDER_SCHEMA[name] for name in names}
    frame = pl.DataFrame({name: list(map(attrgetter(name), rows)) for name in names}, schema=types)
    is_placed = pl.col("event") == _PLACED
    return frame.with_columns(
        pl.Series("position", positions, dtype=pl.Int64),
        wire_time("effective_at"),
        # What an order is placed without is the default of its struct.
        direction=pl.when(pl.col("direction") != _ABSENT)
        .then("direction")
        .when(is_placed & (pl.col("direction") == _ABSENT))
        .then(pl.lit("spend")),
        partition=pl.lit(partition, pl.Int64()),
    )


def _is_doubtful() -> pl.Expr:
    """Rows that are for the strict decoder to judge: fields of another kind of event, or an odd time."""
    is_placed = pl.col("event") == _PLACED
    is_refund = pl.col("event") == _REFUNDED
    return (
        pl.col("effective_at").is_null()
        | (is_placed != (pl.col("version") == 1))
        | (is_placed & pl.any_horizontal(pl.col("points", "direction").is_null()))
        | (is_refund != pl.col("refunded_points").is_not_null())
    )


def _strictly(
    values: Sequence[bytes | None],
    positions: Sequence[int],
    keys: Sequence[bytes | None] | None,
    partition: int,
    places: Sequence[int],
) -> tuple[pl.DataFrame, list[PoisonOrder]]:
    events: list[OrderEvent] = []
    found_at: list[tuple[int | None, int | None]] = []
    poison: list[PoisonOrder] = []
    for place in places:
        key = None if keys is None else keys[place]
        value, position = values[place], positions[place]
        found = (
            PoisonOrder(partition=partition, position=position, order_id=_key_text(key), version=None, reason=_NO_VALUE)
            if value is None
            else decode_order(value, partition=partition, position=position, key=key)
        )
        if isinstance(found, PoisonOrder):
            poison.append(found)
        else:
            events.append(found)
            found_at.append((partition, positions[place]))
    return order_rows(events, found_at), poison


def _row(event: OrderEvent) -> dict[str, Any]:
    fields = msgspec.structs.asdict(event)
    return {name: fields.get(name) for name in ORDER_SCHEMA} | {"event": event.__struct_config__.tag}
