"""What a row of a transactions file must be, and what is said about each kind of bad row."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from imports import HEADER, NOW, bring, events_of, rejects_of, row, streams_of, write_csv

from ledger import Store
from ledger.importing import Mapping
from schemas import TransactionRecorded

LONG = "x" * 256


BAD = {
    "unknown type": ({"type": "gift"}, "type", "unknown type 'gift'"),
    "no type": ({"type": ""}, "type", "type is missing"),
    "unknown status": ({"status": "done"}, "status", "unknown status 'done'"),
    "no status": ({"status": ""}, "status", "status is missing"),
    "no amount": ({"amount": ""}, "amount", "amount is missing"),
    "zero": ({"amount": "0"}, "amount", "an integer above zero: '0'"),
    "negative": ({"amount": "-5"}, "amount", "set [import] signed_amounts"),
    "float": ({"amount": "10.0"}, "amount", "set [import] amount_scale"),
    "exponent": ({"amount": "1e3"}, "amount", "an integer above zero: '1e3'"),
    "word": ({"amount": "ten"}, "amount", "an integer above zero: 'ten'"),
    "digits of another script": ({"amount": "\u0663"}, "amount", "set [import] amount_scale"),
    "a time of another script": ({"created_at": "\u0662024-03-01T12:00:00Z"}, "created_at", "is no time"),
    "past int64": ({"amount": str(2**63)}, "amount", "is past 9223372036854775807"),
    "far past int64": ({"amount": "9" * 60}, "amount", "is past 9223372036854775807"),
    "no transaction": ({"transaction_id": ""}, "transaction_id", "transaction_id is missing"),
    "no account": ({"account_id": ""}, "account_id", "account_id is missing"),
    "long transaction": ({"transaction_id": LONG}, "transaction_id", "longer than 255 characters"),
    "long account": ({"account_id": LONG}, "account_id", "longer than 255 characters"),
    "NUL in an id": ({"transaction_id": "a\0b"}, "", "NUL character"),
    "NUL elsewhere": ({"business_code": "a\0b"}, "", "NUL character"),
    "no time": ({"created_at": ""}, "created_at", "created_at is missing"),
    "word for a time": ({"created_at": "yesterday"}, "created_at", "created_at is no time: 'yesterday'"),
    "no such day": ({"created_at": "2023-02-29T00:00:00Z"}, "created_at", "is no time"),
    "no such hour": ({"created_at": "2023-02-28T24:30:00Z"}, "created_at", "is no time"),
    "leap second": ({"created_at": "2016-12-31T23:59:60Z"}, "created_at", "is no time"),
    "year zero": ({"created_at": "0000-12-31T23:59:59Z"}, "created_at", "is no time"),
    "past year 9999": ({"created_at": "9999-12-31T23:59:59-01:00"}, "created_at", "is no time"),
    "bad updated_at": ({"updated_at": "later"}, "updated_at", "updated_at is no time"),
    "bad recorded_at": ({"recorded_at": "12"}, "recorded_at", "recorded_at is no time"),
    "metadata no JSON": ({"metadata": "{order: 1}"}, "metadata", "metadata is not JSON"),
    "metadata no object": ({"metadata": "[1]"}, "metadata", "metadata is not a JSON object"),
    "metadata with a key twice": ({"metadata": '{"a":{"b":1, "b" :1}}'}, "metadata", "has the key 'b' twice"),
    "metadata with an order twice": ({"metadata": '{"order_id":"1","order_id":"2"}'}, "metadata", "'order_id' twice"),
    "metadata past float": ({"metadata": '{"a":1e999}'}, "metadata", "metadata is not JSON"),
    "metadata half a character": ({"metadata": '{"a":"\\ud800"}'}, "metadata", "metadata is not JSON"),
    "metadata too deep": ({"metadata": '{"a":' + "[" * 101 + "]" * 101 + "}"}, "metadata", "nested deeper than 100"),
    "metadata far too deep": ({"metadata": '{"a":' + "[" * 9_999 + "]" * 9_999 + "}"}, "metadata", "metadata"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_rejected_with_line_column_and_reason(kind: str, store: Store, tmp_path: Path):
    """A bad row is named with its line, the column and the reason, and the good rows around it go in."""
    fields, column, reason = BAD[kind]
    rows = [row(1), row(2, **fields), row(3)]
    found = bring(store, write_csv(tmp_path / "t.csv", rows, [*HEADER, "updated_at", "recorded_at"]))
    (reject,) = rejects_of(found)
    assert (found.imported, found.rejected, found.events) == (2, 1, 4)
    assert reject["line"] == 3
    assert (reject["column"] or "") == column
    assert reason in reject["reason"]
    assert msgspec.json.decode(reject["row"])["status"] == rows[1]["status"]
    assert sorted(streams_of(store)) == ["a1", "a3"]


GOOD_AMOUNTS = {"1": 1, str(2**63 - 1): 2**63 - 1, "007": 7, "+5": 5, " 12 ": 12}


@pytest.mark.parametrize("text", GOOD_AMOUNTS)
def test_a_whole_amount_above_zero_is_taken(text: str, store: Store, tmp_path: Path):
    """An integer from 1 to 2^63-1 is an amount, however it is padded."""
    bring(store, write_csv(tmp_path / "t.csv", [row(1, amount=text)]))
    assert events_of(store, "a1")[1].amount == GOOD_AMOUNTS[text]


SCALED = [
    (2, "12.34", 1234),
    (2, "12.3", 1230),
    (2, "12", 1200),
    (2, "12.3400", 1234),
    (2, "12.345", None),
    (0, "10.0", 10),
    (0, "10.", 10),
    (0, "10.5", None),
    (2, "0.00", None),
    (2, "0.01", 1),
    (2, "92233720368547758.07", 2**63 - 1),
    (2, "92233720368547758.08", None),
    (2, "\u0663.00", None),
    (2, "3.\u0660\u0660", None),
]


@pytest.mark.parametrize(("scale", "text", "points"), SCALED)
def test_a_decimal_scale_makes_points_or_loses_nothing(
    scale: int, text: str, points: int | None, store: Store, tmp_path: Path
):
    """With a decimal scale an amount is that many places of points, and digits past it are a reject."""
    found = bring(store, write_csv(tmp_path / "t.csv", [row(1, amount=text)]), mapping=Mapping(amount_scale=scale))
    assert found.rejected == (points is None)
    if points is not None:
        assert events_of(store, "a1")[1].amount == points


@pytest.mark.parametrize(("text", "type", "points"), [("-5", "debit", 5), ("5", "credit", 5), ("0", None, None)])
def test_a_signed_amount_says_the_type(text: str, type: str | None, points: int | None, store: Store, tmp_path: Path):
    """With signed amounts the sign is the type, and zero is still no amount."""
    path = write_csv(tmp_path / "t.csv", [row(1, amount=text)], [name for name in HEADER if name != "type"] + ["type"])
    found = bring(store, path, mapping=Mapping(signed_amounts=True))
    assert found.rejected == (type is None)
    if type is not None:
        event = events_of(store, "a1")[1]
        assert (event.type, event.amount) == (type, points)


TIMES = {
    "2024-03-01T12:00:00Z": "2024-03-01T12:00:00.000000Z",
    "2024-03-01 12:00:00.5Z": "2024-03-01T12:00:00.500000Z",
    "2024-03-01T12:00:00.123456789Z": "2024-03-01T12:00:00.123456Z",
    "2024-03-01T12:00:00+02:00": "2024-03-01T10:00:00.000000Z",
    "2024-03-01T12:00:00+0200": "2024-03-01T10:00:00.000000Z",
    "2024-03-01T12:00:00+02": "2024-03-01T10:00:00.000000Z",
    "20240301T120000Z": "2024-03-01T12:00:00.000000Z",
    "2024-03-01T12:00Z": "2024-03-01T12:00:00.000000Z",
    "2024-03-01": "2024-03-01T00:00:00.000000Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999Z",
}


@pytest.mark.parametrize("text", TIMES)
def test_a_time_may_have_any_form_of_iso_8601(text: str, store: Store, tmp_path: Path):
    """Times come out in UTC with six digits, whatever form of ISO 8601 they had."""
    found = bring(store, write_csv(tmp_path / "t.csv", [row(1, created_at=text)]))
    assert rejects_of(found) == []
    assert msgspec.json.decode(streams_of(store)["a1"][1])["effective_at"] == TIMES[text]
    assert found.naive_times == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-07-01T12:00:00", "2024-07-01T10:00:00.000000Z"),
        ("2024-07-01 12:00", "2024-07-01T10:00:00.000000Z"),
        ("2024-10-27T03:00:00", "2024-10-27T02:00:00.000000Z"),
        ("2024-10-27 01:59", "2024-10-26T23:59:00.000000Z"),
    ],
)
def test_a_time_without_a_zone_is_in_the_mapped_zone_and_counted(
    text: str, expected: str, store: Store, tmp_path: Path
):
    """A naive time is taken in the mapping's zone and counted."""
    path = write_csv(tmp_path / "t.csv", [row(1, created_at=text), row(2)])
    found = bring(store, path, mapping=Mapping(timezone="Europe/Berlin"))
    assert found.naive_times == 1
    assert msgspec.json.decode(streams_of(store)["a1"][1])["effective_at"] == expected


@pytest.mark.parametrize(
    ("day", "hour", "reason"),
    [
        ("2024-03-10", "02", "does not exist in America/New_York, where the clocks skipped it"),
        ("2024-11-03", "01", "is ambiguous in America/New_York, where the clocks showed it twice"),
    ],
)
@pytest.mark.parametrize("form", ["{} {}:30:00", "{}T{}:30:00.5", "{} {}:30", "{}T{}30"])
def test_a_naive_time_that_means_no_one_moment_is_rejected(form: str, day: str, hour: str, reason: str, tmp_path: Path):
    """An hour that the zone's clocks skipped or showed twice is rejected as that, in whatever form it is written."""
    text = form.format(day, hour)
    store = Store.at(tmp_path / "ledger")
    path = write_csv(tmp_path / "t.csv", [row(1, created_at=text), row(2, created_at=f"{day} 12:00")])
    found = bring(store, path, mapping=Mapping(timezone="America/New_York"))
    (reject,) = rejects_of(found)
    assert (found.imported, reject["line"], reject["column"]) == (1, 2, "created_at")
    assert f"created_at '{text}' {reason}" in reject["reason"]
    store.close()


def test_values_are_mapped_to_ours(store: Store, tmp_path: Path):
    """Types, statuses and column names of a foreign system become ours by the mapping."""
    header = ["id", "user", *HEADER[2:]]
    rows = [{"id": "t1", "user": "a1", **row(1, type="earn", status="done")}]
    rows = [{name: value for name, value in rows[0].items() if name in header}]
    mapping = Mapping(
        columns={"transaction_id": "id", "account_id": "user"},
        types={"earn": "credit"},
        statuses={"done": "completed"},
    )
    found = bring(store, write_csv(tmp_path / "t.csv", rows, header), mapping=mapping)
    assert (found.imported, found.ignored_columns) == (1, [])
    assert events_of(store, "a1")[1].to_status == "completed"


def test_a_row_becomes_one_event_with_all_that_it_says(store: Store, tmp_path: Path):
    """A row is one transaction.recorded with its content, after account.opened at the same moments."""
    fields = {
        "related_transaction_id": "t0",
        "business_code": "order",
        "metadata": '{"order_id": 77, "note":\n"two  words", "rate": 1.50}',
        "recorded_at": "2024-03-02T00:00:00Z",
    }
    bring(store, write_csv(tmp_path / "t.csv", [row(1, **fields)], [*HEADER, "recorded_at"]))
    opened, recorded = events_of(store, "a1")
    assert isinstance(recorded, TransactionRecorded)
    assert (opened.effective_at, opened.recorded_at) == (recorded.effective_at, recorded.recorded_at)
    assert recorded.from_status is None
    assert (recorded.related_transaction_id, recorded.business_code, recorded.order_id) == ("t0", "order", "77")
    assert recorded.metadata == {"order_id": 77, "note": "two  words", "rate": 1.5}
    # Numbers stay as they were written.
    assert b'"metadata":{"order_id":77,"note":"two  words","rate":1.50}' in streams_of(store)["a1"][1]


def test_what_a_row_does_not_date_was_recorded_now(store: Store, tmp_path: Path):
    """Without a recorded_at the log recorded the row at the given moment."""
    bring(store, write_csv(tmp_path / "t.csv", [row(1)]))
    assert {event.recorded_at for event in events_of(store, "a1")} == {NOW}


def test_an_order_id_column_goes_before_metadata(store: Store, tmp_path: Path):
    """The order is read from its own column where there is one, and else from metadata."""
    rows = [
        row(1, order_id="o1", metadata='{"order_id":"m1"}'),
        row(2, metadata='{"order_id":"m2"}'),
        row(3, metadata='{"order_id":true}'),
    ]
    bring(store, write_csv(tmp_path / "t.csv", rows, [*HEADER, "order_id"]))
    assert [events_of(store, f"a{number}")[1].order_id for number in (1, 2, 3)] == ["o1", "m2", None]


def test_a_thousand_rows_with_ten_bad_ones(store: Store, tmp_path: Path):
    """Of 1,000 rows with 10 bad ones 990 go in, and the rejects have exactly the bad rows' lines."""
    bad = dict(zip(range(50, 1000, 95), BAD.values(), strict=False))
    rows = [row(number, **bad[number][0]) if number in bad else row(number) for number in range(1, 1001)]
    found = bring(store, write_csv(tmp_path / "t.csv", rows, [*HEADER, "updated_at", "recorded_at"]))
    assert (found.imported, found.rejected) == (990, 10)
    assert [reject["line"] for reject in rejects_of(found)] == [number + 1 for number in bad]
    assert len(streams_of(store)) == 990
