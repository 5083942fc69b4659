"""The bulk reader of orders gives what the reader of one gives, whatever the bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from schemas import (
    ORDER_EVENT_TYPES,
    ORDER_SCHEMA,
    OrderEvent,
    PoisonOrder,
    decode_order,
    decode_orders,
    encode_order,
    order_rows,
)

_ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
)
_IDS = st.text(min_size=1, max_size=3) | st.sampled_from(["a", "a\0b", "x" * 256, "\ud800", "\u00e9\U0001f600"])
_NUMBERS = st.integers(-1, 4) | st.sampled_from([2**63 - 1, 2**63, 1.0, 1.5, True, "1"])
_TIMES = st.sampled_from(
    [
        "2024-03-01T12:00:00.000000Z",
        "2024-03-01T12:00:00Z",
        "2024-03-01T12:00:00.1234567Z",
        "2024-03-01T12:00:00+02:00",
        "2024-03-01T12:00:00",
        "2024-02-30T12:00:00.000000Z",
        "2024-03-01T23:59:60.000000Z",
        "0000-03-01T12:00:00.000000Z",
        "0001-01-01T00:00:00.000000+10:00",
        "9999-12-31T23:59:59.999999-01:00",
        " 024-03-01T12:00:00.000000Z",
    ]
)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "event": st.sampled_from([*ORDER_EVENT_TYPES, "order.paid"]),
    "event_id": st.sampled_from(["e", ""]),
    "order_id": _IDS,
    "version": _NUMBERS,
    "effective_at": _TIMES,
}
_MORE: dict[str, st.SearchStrategy[Any]] = {
    "account_id": st.none() | _IDS,
    "points": st.none() | _NUMBERS,
    "direction": st.sampled_from(["spend", "earn", "give", "", None]),
    "refunded_points": st.none() | _NUMBERS,
    "schema_version": st.sampled_from([1, 1, 1, 0, 2, "1", None]),
    "extra": _ODD,
    "new": _ODD,
}


@st.composite
def _documents(draw: st.DrawFn) -> bytes:
    """An event whose fields are right, a little wrong, of another kind of event, or missing."""
    fields = draw(st.fixed_dictionaries(_FIELDS, optional=_MORE))
    if draw(st.booleans()):
        # Often enough right in what is not drawn to be odd.
        fields |= {"event_id": "e", "order_id": "o", "effective_at": "2024-03-01T12:00:00.000000Z"}
        fields["version"] = 1 if fields["event"] == "order.placed" else 2
    if draw(st.integers(0, 5)) == 0:
        fields.pop(draw(st.sampled_from(sorted(fields))))
    return json.dumps(fields).encode()


_VALUES = st.lists(_documents() | st.binary(max_size=20) | st.none(), max_size=6)


@given(_VALUES, st.integers(0, 3))
def test_many_are_read_as_each_by_itself(values, partition):
    """Rows, their order and places, and the reason of everything that is no event are the same both ways."""
    keys = [b"key" if place % 2 else None for place in range(len(values))]
    offsets = range(5, 5 + 3 * len(values), 3)
    found = decode_orders(values, offsets, partition=partition, keys=keys)
    each = [
        decode_order(value or b"", partition=partition, position=offset, key=key)
        for value, offset, key in zip(values, offsets, keys, strict=True)
    ]
    events = [one for one in each if isinstance(one, OrderEvent)]
    places = [(partition, at) for at, one in zip(offsets, each, strict=True) if isinstance(one, OrderEvent)]
    assert found.events.schema == ORDER_SCHEMA
    assert found.events.equals(order_rows(events, places))
    # Without a value there is nothing to decode, which only whoever has the record can say.
    tombstones = {offset for value, offset in zip(values, offsets, strict=True) if value is None}
    reason = "the record has no value (a tombstone), which deletes no order"
    strange = [
        structs.replace(one, reason=reason) if one.position in tombstones else one
        for one in each
        if isinstance(one, PoisonOrder)
    ]
    assert found.poison == strange


@given(_documents())
def test_what_is_read_is_read_again(value):
    """An event that was read and written is the same event, with every field that its reader did not know."""
    found = decode_order(value)
    if isinstance(found, OrderEvent):
        assert decode_order(encode_order(found)) == found
