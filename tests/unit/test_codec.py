"""The codec: the same bytes for the same event, unknown fields kept, and poison as a value with its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from samples import START, opened, recorded
from test_columns import events

from schemas import (
    EVENT_TYPES,
    Event,
    PoisonEvent,
    TransactionRecorded,
    Upcasters,
    decode,
    encode,
    event_id,
    format_time,
)

WIRE = (
    b'{"event":"transaction.recorded","event_id":"a:2","account_id":"a","version":2,'
    b'"effective_at":"2024-03-01T12:02:00.000000Z","recorded_at":"2024-03-01T12:02:00.000000Z","schema_version":1,'
    b'"transaction_id":"a-t2","type":"credit","amount":10,"from_status":null,"to_status":"completed",'
    b'"related_transaction_id":null,"business_code":null,"order_id":null,"metadata":null}'
)


@given(events)
def test_every_event_comes_back_as_it_was(event):
    """Encoding and decoding gives an equal event, and encoding that gives the same bytes."""
    again = decode(encode(event))
    assert again == event
    assert encode(again) == encode(event)
    assert b"\n" not in encode(event)


def test_the_wire_bytes_are_these():
    """The wire format is written out here, so that no change of it goes unseen."""
    assert encode(recorded("a", 2)) == WIRE
    assert decode(WIRE) == recorded("a", 2)


def test_unknown_fields_survive_a_round_trip():
    """What a newer writer added stands beside the known fields again, nested or not."""
    line = WIRE[:-1] + b',"note":"x","nested":{"a":[1,null]}}'
    event = decode(line)
    assert event.extra == {"note": "x", "nested": {"a": [1, None]}}
    assert encode(event) == line


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01T12:02:00.000000Z",
        "2024-03-01T12:02:00Z",
        "2024-03-01T12:02:00.000Z",
        "2024-03-01T20:02:00+08:00",
        "2024-03-01T06:32:00.0-05:30",
        "2024-03-01T12:02:00+00:00",
    ],
)
def test_times_in_any_zone_are_one_moment_and_one_text(text):
    """A moment is read from any offset and precision, is UTC in memory, and is written in one form."""
    event = decode(WIRE.replace(b'"2024-03-01T12:02:00.000000Z"', f'"{text}"'.encode()))
    assert event == recorded("a", 2)
    assert event.effective_at.utcoffset() == timedelta(0)
    assert encode(event) == WIRE


@pytest.mark.parametrize(
    "text", ["2024-03-01T12:00:00", "2024-03-01", "yesterday", "", "0001-01-01T00:00:00+08:00", "2024-02-30T00:00:00Z"]
)
def test_a_time_that_is_no_moment_is_poison(text):
    """A time without a zone, of no day, or outside the years of UTC is named, not guessed."""
    found = decode(WIRE.replace(b'"2024-03-01T12:02:00.000000Z"', f'"{text}"'.encode(), 1), position=9)
    assert isinstance(found, PoisonEvent)
    assert found.position == 9


def test_a_time_is_written_with_six_digits_in_utc():
    """No digit is dropped, and no offset is kept."""
    assert format_time(START) == "2024-03-01T12:00:00.000000Z"
    moment = datetime(2024, 3, 1, 20, 0, 0, 5, tzinfo=timezone(timedelta(hours=8)))
    assert format_time(moment) == "2024-03-01T12:00:00.000005Z"
    assert format_time(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b'"transaction.recorded"', b'"transaction.undone"'), "unknown event 'transaction.undone'"),
        ((b'"schema_version":1', b'"schema_version":2'), "unknown schema version 2"),
        ((b'"schema_version":1', b'"schema_version":0'), "unknown schema version 0"),
        ((b'"schema_version":1', b'"schema_version":true'), "unknown schema version True"),
        ((b'"event":"transaction.recorded",', b""), "unknown event None"),
        ((b'"amount":10', b'"amount":0'), ">= 1"),
        ((b'"amount":10', b'"amount":9223372036854775808'), "amount"),
        ((b'"amount":10', b'"amount":"10"'), "amount"),
        ((b'"type":"credit"', b'"type":"earn"'), "earn"),
        ((b'"account_id":"a"', b'"account_id":""'), "account_id"),
        ((b'"account_id":"a"', b'"account_id":"a\\u0000"'), "account_id"),
        ((b'"amount":10,', b""), "amount"),
        ((b"}", b""), "truncated"),
        ((WIRE, b""), "truncated"),
        ((WIRE, b"[]"), "not a JSON object"),
        ((WIRE, b"\xff\xfe"), ""),
        ((WIRE, b"[" * 100_000), ""),
    ],
)
def test_what_is_no_event_is_poison_with_its_position(change, reason):
    """Unknown tags, unknown versions, illegal values and broken bytes are values that say where and why."""
    found = decode(WIRE.replace(*change), position=7, account_id="a", version=2)
    assert isinstance(found, PoisonEvent)
    assert (found.position, found.account_id, found.version) == (7, "a", 2)
    assert reason in found.reason


@pytest.mark.parametrize("key", [("b", 2), ("a", 3)])
def test_bytes_of_another_key_than_the_source_says_are_poison(key):
    """An event is believed only where the source keeps it under the key that it names itself."""
    found = decode(WIRE, position=3, account_id=key[0], version=key[1])
    assert isinstance(found, PoisonEvent)
    assert "the bytes say 'a' version 2" in found.reason


class PointsRecorded(Event, frozen=True, kw_only=True, tag="points.recorded"):
    """Version 2 of an event that had a signed number in version 1."""

    points: int
    type: str
    reason: str = "unknown"


def upcasters() -> Upcasters:
    """A registry in which version 1 said `signed_points`, and version 2 says `points` and `type`."""
    registry = Upcasters(current=2)

    @registry.register("points.recorded", 1)
    def split_sign(fields):
        signed = fields.pop("signed_points")
        return fields | {"points": abs(signed), "type": "debit" if signed < 0 else "credit"}

    return registry


def lifted(**fields):
    """Decode a points event of these fields with the registry."""
    key = {"event": "points.recorded", "event_id": "a:1", "account_id": "a", "version": 1}
    times = dict.fromkeys(("effective_at", "recorded_at"), "2024-03-01T12:00:00Z")
    line = msgspec.json.encode({**key, **times, **fields})
    return decode(line, position=5, upcasters=upcasters(), types={**EVENT_TYPES, "points.recorded": PointsRecorded})


def test_an_event_of_version_1_is_read_as_version_2():
    """The upcaster lifts the old fields to the new ones, keeps unknown ones, and says the new version."""
    event = lifted(schema_version=1, signed_points=-30, note="kept")
    assert (event.points, event.type, event.schema_version) == (30, "debit", 2)
    assert event.extra == {"note": "kept"}


@pytest.mark.parametrize("fields", [{}, {"signed_points": "5"}, {"signed_points": None}])
def test_an_event_that_cannot_be_lifted_is_poison(fields):
    """Fields that the upcaster does not find, or not of its type, are named and do not end the read."""
    found = lifted(schema_version=1, **fields)
    assert isinstance(found, PoisonEvent)
    assert "cannot be lifted" in found.reason


def test_an_event_without_a_schema_version_is_of_version_1():
    """The first writers did not say a version."""
    assert lifted(signed_points=5).type == "credit"


def test_an_event_of_the_current_version_is_not_lifted():
    """A version 2 event goes through as it is."""
    assert lifted(schema_version=2, points=4, type="debit").points == 4


def test_an_event_of_a_later_version_is_poison():
    """This reader does not guess at what it does not know."""
    found = lifted(schema_version=3, points=4, type="debit")
    assert isinstance(found, PoisonEvent)
    assert "knows 1 to 2" in found.reason
    assert found.position == 5


def test_a_tag_without_an_upcaster_did_not_change():
    """Other events of version 1 are read by a reader of version 2 as they are."""
    event = decode(WIRE, upcasters=upcasters())
    assert isinstance(event, TransactionRecorded)
    assert event.schema_version == 2


def test_a_step_is_registered_once():
    """Two functions for one step would leave it to chance which one runs."""
    registry = upcasters()
    with pytest.raises(ValueError, match="already has an upcaster"):
        registry.register("points.recorded", 1)(dict)


def test_an_event_id_is_made_of_account_and_version():
    """The same event has the same id each time it is made."""
    assert event_id("a:b", 3) == "a:b:3"
    assert opened("a").event_id == "a:1"
