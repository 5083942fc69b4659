"""The bulk decoder of values says what the codec says of each, and what is poison does not depend on what is asked."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lines import FIELDS, NASTY, damaged, events, with_value
from samples import account_stream, opened, recorded

from schemas import EVENT_SCHEMA, PoisonEvent, decode, decode_values, encode, event_rows
from schemas.columns import DETAIL_COLUMNS

MORE_FIELDS = ["recorded_at", "related_transaction_id", "business_code", "reason"]


def one_by_one(values: list[bytes]) -> tuple[list[dict], list[PoisonEvent]]:
    """What `decode` says of each value."""
    found, poison = [], []
    for position, value in enumerate(values):
        event = decode(value, position=position)
        if isinstance(event, PoisonEvent):
            poison.append(event)
        else:
            row = event_rows([event]).row(0, named=True)
            found.append(row | {"position": position, "state": value, "chain": None})
    return found, poison


def comparable(rows: list[dict]) -> list[dict]:
    """Rows with metadata as a value, since its text may be written in more than one way."""
    return [row | {"metadata": row["metadata"] and json.loads(row["metadata"])} for row in rows]


def check_same(values: list[bytes]) -> None:
    """Check that a batch of values says what each of them says, with all details and with none."""
    offsets = range(len(values))
    expected_rows, expected_poison = one_by_one(values)
    whole, poison = decode_values(offsets, values, DETAIL_COLUMNS)
    assert comparable(whole.to_dicts()) == comparable(expected_rows)
    assert poison == expected_poison
    assert whole.columns == [*EVENT_SCHEMA, "state", "chain"]
    narrow, same_poison = decode_values(offsets, values, keeps_bytes=False)
    assert same_poison == expected_poison
    assert narrow.equals(whole.select(narrow.columns).with_columns(state=pl.lit(None, pl.Binary())))


@given(st.lists(events, max_size=8))
def test_valid_values_say_what_each_event_says(found):
    """Every column of every event is what the struct has."""
    check_same([encode(event) for event in found])


@given(st.lists(st.one_of(events.map(encode), damaged()), min_size=1, max_size=6))
@example([b"", encode(opened("a"))])
def test_damaged_values_are_named_at_their_own_offset(values):
    """Damage is named at its own offset, and every other event is as it was."""
    check_same(values)


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("name", [*FIELDS, *MORE_FIELDS])
@pytest.mark.parametrize("event", [opened("a"), recorded("a", 2)], ids=["account", "transaction"])
def test_a_field_with_a_strange_value_is_judged_as_the_codec_judges_it(event, name, value):
    """Each strange value in each field of either kind of event is taken or refused alike."""
    check_same([encode(opened("b")), with_value(encode(event), name, value), encode(recorded("b", 2))])


@pytest.mark.parametrize(
    "metadata",
    [b'{"a":1e400}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"a":01}'],
    ids=["number", "utf-8", "surrogate", "nesting", "syntax"],
)
def test_what_cannot_be_read_inside_metadata_is_poison(metadata):
    """A value inside metadata that the strict decoder refuses is refused here too, though nobody asked for it."""
    value = encode(recorded("a", 2)).replace(b'"metadata":null', b'"metadata":' + metadata)
    assert metadata in value
    check_same([encode(opened("a")), value])


@pytest.mark.parametrize(
    "field",
    [
        b'"new":"\xff"', b'"n\xf4w":1', b'"new":1e400', b'"new":"\\ud800"', b'"new":{"a":"\xff"}', b'"new":01',
        b'"new":' + b"9" * 5000, b'"new":' + b"[" * 3000 + b"]" * 3000, b'"new":1', b'"new":{"a":[null]}',
    ],
)  # fmt: skip
def test_what_is_in_a_field_of_a_newer_writer_is_judged_too(field):
    """A field that this reader does not know is kept where it can be read, and makes the event poison where not."""
    value = encode(recorded("a", 2)).replace(b'"version"', field + b',"version"')
    check_same([encode(opened("a")), value, encode(recorded("a", 3))])


def test_a_damaged_name_of_a_field_is_poison():
    """A flipped bit in the name of a status must not make a held transaction one that never was."""
    value = encode(recorded("a", 3, from_status="frozen")).replace(b'"from_status"', b'"from_s\xf4atus"')
    found, poison = decode_values([7], [value])
    assert (found.height, [each.position for each in poison]) == (0, [7])


def test_offsets_with_holes_stay_with_their_values():
    """Positions are the offsets given, also where aborted records left holes and one value is poison."""
    values = [encode(event) for event in account_stream("a", 3)]
    values[1] = b"{}"
    found, poison = decode_values([3, 7, 20], values)
    assert found["position"].to_list() == [3, 20]
    assert [each.position for each in poison] == [7]


def test_no_values_are_an_empty_batch():
    """An empty batch has the columns and no poison."""
    found, poison = decode_values([], [], ("order_id",))
    assert (found.height, poison) == (0, [])
    assert found.schema["position"] == pl.Int64
    assert "order_id" in found.columns


@pytest.mark.parametrize("name", ["effective_at", "recorded_at"])
def test_a_time_is_taken_only_where_the_codec_takes_it(name):
    """Any character at any place of a time, a year of zero and a second of 60: taken or refused as the codec does."""
    time = "2026-01-24T00:04:23.450263Z"
    marks = " \t+-.:0123469TZz\x7f\u0663"
    times = [time[:at] + mark + time[at + 1 :] for at in range(len(time)) for mark in marks]
    values = [with_value(encode(recorded("a", 2)), name, json.dumps(each)) for each in times]
    good, poison = one_by_one(values)
    assert len(good) > len(time), "those with another digit are times too"
    assert len(poison) > len(time), "the others are not"
    check_same(values)
    for odd in ("0000-01-24T00:04:23.450263Z", "2026-01-24T00:04:60.450263Z", "2026-02-29T00:04:23.450263Z"):
        value = with_value(encode(recorded("a", 2)), name, json.dumps(odd))
        assert [poison.position for poison in decode_values([7], [value]).poison] == [7]
