"""Events of orders between bytes, structs and columns: what is read, what is poison, and that both ways agree."""

from __future__ import annotations

import json

import pytest
from order_samples import cancelled, completed, placed, refunded

from schemas import ORDER_SCHEMA, OrderPlaced, PoisonOrder, decode_order, decode_orders, encode_order, order_rows

EVENTS = [
    placed("o", 0),
    placed("o", 2**63 - 1, account_id="a", direction="earn"),
    completed("o", points=3, direction="spend"),
    cancelled("o", 7, account_id="b"),
    refunded("o", 3, 5, extra={"new": {"deep": [1]}}),
]


def altered(**fields: object) -> bytes:
    """The bytes of a placed order with other fields; None leaves one out."""
    found = json.loads(encode_order(placed("o"))) | fields
    return json.dumps({name: value for name, value in found.items() if value is not ...}).encode()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_wire(event):
    """Bytes of an event are that event again, fields of a newer writer included."""
    assert decode_order(encode_order(event)) == event


def test_times_are_utc_with_microseconds():
    """Whatever offset a writer uses, readers see UTC, and the wire has one form."""
    found = decode_order(altered(effective_at="2024-03-01T12:00:00+02:00"))
    assert isinstance(found, OrderPlaced)
    assert json.loads(encode_order(found))["effective_at"] == "2024-03-01T10:00:00.000000Z"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"event": "order.paid"}, "unknown event 'order.paid'"),
        ({"points": -1}, ">= 0"),
        ({"points": 2**63}, "points"),
        ({"points": ...}, "points"),
        ({"points": 1.5}, "points"),
        ({"order_id": ...}, "order_id"),
        ({"order_id": ""}, "order_id"),
        ({"order_id": "a\0b"}, "order_id"),
        ({"account_id": ""}, "account_id"),
        ({"direction": "give"}, "direction"),
        ({"direction": None}, "direction"),
        ({"version": 0}, "version"),
        ({"version": 2}, "version"),
        ({"event": "order.completed"}, "version"),
        ({"event": "order.refunded", "version": 2}, "refunded_points"),
        ({"event": "order.refunded", "version": 2, "refunded_points": 0}, "refunded_points"),
        ({"effective_at": "yesterday"}, "effective_at"),
        ({"effective_at": "2024-03-01T12:00:00"}, "effective_at"),
        ({"effective_at": "0001-01-01T00:00:00+10:00"}, "range"),
        ({"schema_version": 9}, "schema version 9"),
    ],
)
def test_what_is_no_event_is_a_value_that_says_why(fields, why):
    """A reader never raises and never skips; both readers give the same reason at the same place."""
    one = decode_order(altered(**fields), partition=2, position=7, key=b"by-key")
    assert isinstance(one, PoisonOrder)
    assert why in one.reason
    assert (one.partition, one.position) == (2, 7)
    many = decode_orders([altered(**fields)], [7], partition=2, keys=[b"by-key"])
    assert (many.events.height, many.poison) == (0, [one])


@pytest.mark.parametrize("value", [b"", b"nothing", b"[]", b"1", b"{}", b'{"order_id": "x"}', b"[" * 5_000, b"\xff"])
def test_bytes_that_are_no_event_name_the_order_of_their_key(value):
    """Where the bytes do not say whose they are, the key beside them does."""
    found = decode_order(value, key=b"by-key")
    assert isinstance(found, PoisonOrder)
    assert found.order_id == ("x" if b"order_id" in value else "by-key")


@pytest.mark.parametrize("key", [None, b"", b"\xff\xfe", b"a\0b", b"k" * 256])
def test_a_key_that_is_no_id_names_no_order(key):
    """Any bytes may be the key of a record, and not all are an id that a database takes."""
    found = decode_order(b"nothing", key=key)
    assert isinstance(found, PoisonOrder)
    assert found.order_id is None


def test_the_order_and_version_of_poison_are_those_of_its_bytes():
    """What can be read of an unreadable event says which order is not known whole."""
    found = decode_order(altered(points=-1, version=3), key=b"other")
    assert isinstance(found, PoisonOrder)
    assert (found.order_id, found.version) == ("o", 3)


def test_many_are_columns_in_the_order_given():
    """The bulk reader gives what the struct reader gives, lifted rows in their places, with their offsets."""
    values = [*map(encode_order, EVENTS), None, altered(effective_at="2024-03-01T12:00:00.5Z"), altered(points=-1)]
    offsets = range(10, 10 + len(values))
    found = decode_orders(values, offsets, partition=4)
    lifted = decode_order(values[6] or b"")
    assert not isinstance(lifted, PoisonOrder)
    places = [(4, 10 + number) for number in (0, 1, 2, 3, 4, 6)]
    assert found.events.equals(order_rows([*EVENTS, lifted], places))
    assert found.events.schema == ORDER_SCHEMA
    assert [poison.position for poison in found.poison] == [15, 17]


def test_none_are_an_empty_frame():
    """A batch without records has the columns of one with some."""
    found = decode_orders([], [])
    assert (found.events.schema, found.events.height, found.poison) == (ORDER_SCHEMA, 0, [])
