"""The bulk codec says what the codec says, row by row, whatever the bytes are."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import msgspec
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lines import FIELDS, NASTY, damaged, events, with_value
from samples import START, account_stream, opened, recorded

from schemas import (
    EVENT_SCHEMA,
    RAW_SCHEMA,
    PoisonEvent,
    decode,
    decode_batch,
    encode,
    event_rows,
)
from schemas.columns import DETAIL_COLUMNS


def key_in(line: bytes) -> tuple[str, int]:
    """The account and version in a line as far as it says them, so that they give no reason to doubt it."""
    try:
        fields = msgspec.json.decode(line)
        account_id, version = fields["account_id"], int(fields["version"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return "a", 2
    account_id = account_id if isinstance(account_id, str) else json.dumps(account_id)
    return account_id, version if -(2**63) <= version < 2**63 else 2


def raw_batch(lines: list[bytes]) -> pl.DataFrame:
    """The lines as a source without hash chains gives them: nobody vouches for the bytes."""
    rows = [(position, *key_in(line), line, None) for position, line in enumerate(lines, start=1)]
    return pl.DataFrame(rows, schema=RAW_SCHEMA, orient="row")


def one_by_one(raw: pl.DataFrame) -> tuple[list[dict], list[PoisonEvent]]:
    """What `decode` says of each row."""
    found, poison = [], []
    for position, account_id, version, state, link in raw.iter_rows():
        event = decode(state, position=position, account_id=account_id, version=version)
        if isinstance(event, PoisonEvent):
            poison.append(event)
        else:
            row = event_rows([event]).row(0, named=True)
            found.append(row | {"position": position, "state": state, "chain": link})
    return found, poison


def comparable(rows: list[dict]) -> list[dict]:
    """Rows with metadata as a value, since its text may be written in more than one way."""
    return [row | {"metadata": row["metadata"] and json.loads(row["metadata"])} for row in rows]


def check_same(lines: list[bytes]) -> None:
    """Check that a batch of these lines says what each of them says."""
    raw = raw_batch(lines)
    batch, poison = decode_batch(raw, DETAIL_COLUMNS)
    expected_rows, expected_poison = one_by_one(raw)
    assert comparable(batch.to_dicts()) == comparable(expected_rows)
    assert poison == expected_poison
    assert batch.columns == [*EVENT_SCHEMA, "state", "chain"]


@given(st.lists(events, max_size=8))
def test_a_batch_of_valid_events_says_what_each_event_says(found):
    """Every column of every event is what the struct has."""
    check_same([encode(event) for event in found])


@given(st.lists(st.one_of(events.map(encode), damaged()), min_size=1, max_size=6))
@example([b"", encode(opened("a"))])
def test_a_batch_with_damaged_lines_says_what_each_line_says(lines):
    """Damage is named at its own position, and every other event is as it was."""
    check_same(lines)


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_with_a_strange_value_is_judged_as_the_codec_judges_it(name, value):
    """Each strange value in each field is taken or refused alike, alone and among others."""
    line = with_value(encode(recorded("a", 2)), name, value)
    check_same([line])
    check_same([encode(opened("a")), line, encode(recorded("a", 3))])


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-23 * 60, 23 * 60), st.integers(0, 9))  # noqa: DTZ001 - the zone is added.
def test_a_moment_in_any_zone_and_precision_is_the_same_moment(moment, offset_minutes, digits):
    """Offsets and digits of a second are read as the codec reads them."""
    zone = timezone(timedelta(minutes=offset_minutes))
    seconds, _, offset = moment.replace(tzinfo=zone, microsecond=0).isoformat().rpartition(moment.strftime(":%S"))
    fraction = f".{moment.microsecond:06}789"[: digits + 1] if digits else ""
    text = f"{seconds}{moment.strftime(':%S')}{fraction}{offset}"
    line = encode(opened("a")).replace(b'"2024-03-01T12:01:00.000000Z"', json.dumps(text).encode(), 1)
    check_same([line])


def test_details_are_decoded_only_when_asked_for():
    """Without details, the columns that only some projections need are left out."""
    raw = raw_batch([encode(event) for event in account_stream("a", 3)])
    narrow = decode_batch(raw).events
    assert not set(narrow.columns) & set(DETAIL_COLUMNS)
    assert decode_batch(raw, ("order_id",)).events.columns == [*narrow.columns[:-2], "order_id", "state", "chain"]


def test_bytes_that_name_another_key_than_the_store_are_poison():
    """A row moved to another account or version by hand is not taken for that account's event."""
    raw = raw_batch([encode(opened("a")), encode(opened("b"))]).with_columns(account_id=pl.lit("a"))
    batch, poison = decode_batch(raw)
    assert batch["account_id"].to_list() == ["a"]
    assert [(event.position, event.account_id, event.version) for event in poison] == [(2, "a", 1)]
    assert "'b'" in poison[0].reason


def test_an_empty_batch_has_the_columns_and_no_poison():
    """Nothing in, nothing out, in the same shape."""
    batch, poison = decode_batch(RAW_SCHEMA.to_frame())
    assert batch.is_empty()
    assert batch.schema["effective_at"] == pl.Datetime("us", "UTC")
    assert poison == []


def test_event_rows_number_positions_from_one():
    """Structs become rows with every column, in order."""
    rows = event_rows(account_stream("a", 3))
    assert rows.schema == EVENT_SCHEMA
    assert rows["position"].to_list() == [1, 2, 3]
    assert rows["effective_at"][0] == START + timedelta(minutes=1)
