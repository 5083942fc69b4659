"""Records of foreign topics to rows: plain objects, and Debezium's change events in every form that it writes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ledger.importing import Mapping
from ledger.importing.codecs import CODECS, Message, Rows, read_messages
from schemas.errors import UsageError

ROW = {
    "transaction_id": "t1",
    "account_id": "a1",
    "type": "credit",
    "status": "completed",
    "amount": 10,
    "created_at": "2024-03-01T12:00:00Z",
}


def _read(codec: str, *values: Any, mapping: Mapping | None = None) -> Rows:
    """Read values, given as bytes, None, or what becomes JSON; their lines are 0, 1, ..."""
    raw = [value if value is None or isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    messages = [Message(line, b"key-%d" % line, value) for line, value in enumerate(raw)]
    return read_messages(codec, messages, mapping or Mapping())


def _rows(found: Rows) -> list[dict[str, Any]]:
    return found.batch.rows.to_dicts()


def _reasons(found: Rows) -> list[str]:
    return found.batch.bad["reason"].to_list()


def _schema(fields: dict[str, tuple[str, dict[str, str] | None]]) -> dict[str, Any]:
    row = [
        {"field": field, "type": "x", "name": name, **({"parameters": parameters} if parameters else {})}
        for field, (name, parameters) in fields.items()
    ]
    sides = [{"field": side, "type": "struct", "fields": row} for side in ("before", "after")]
    return {"type": "struct", "fields": [*sides, {"field": "op", "type": "string"}]}


def _bytes_of(number: int) -> str:
    return base64.b64encode(number.to_bytes(9, "big", signed=True)).decode()


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("op", ["c", "r", "u"])
def test_the_row_after_a_change_is_the_row(op: str, is_wrapped: bool):
    """Create, read and update give the row after, with the schema around it and without."""
    event: dict[str, Any] = {"op": op, "before": None, "after": ROW, "source": {"table": "t"}, "ts_ms": 1}
    found = _read("debezium", {"schema": _schema({}), "payload": event} if is_wrapped else event)
    assert _rows(found) == [{"line": 0, **ROW, "amount": "10"}]
    assert (found.batch.bad.height, found.deletions, found.tombstones) == (0, [], 0)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_deletion_is_named_and_its_tombstone_counted(is_wrapped: bool):
    """A delete gives no row but a deletion with the ids that it has, and the tombstone after it is no reject."""
    event: dict[str, Any] = {"op": "d", "before": ROW, "after": None}
    bare: dict[str, Any] = {"op": "d", "before": None, "after": None}
    values = [{"schema": _schema({}), "payload": one} if is_wrapped else one for one in (event, bare)]
    found = _read("debezium", *values, None, {"schema": None, "payload": None})
    first, second = found.deletions
    assert (first.line, first.transaction_id, first.account_id) == (0, "t1", "a1")
    assert (second.transaction_id, "key-1" in second.what) == (None, True)
    assert (found.tombstones, found.batch.bad.height, found.batch.rows.height) == (2, 0, 0)


def test_an_emptied_table_is_a_deletion():
    """A truncate says that all rows are gone, so it is named like a deletion."""
    (deletion,) = _read("debezium", {"op": "t"}).deletions
    assert "emptied the table" in deletion.what


def test_times_and_decimals_are_read_by_the_schema():
    """Every encoding of a time or a decimal becomes its text; a wall clock stays without a zone."""
    fields: dict[str, tuple[str, dict[str, str] | None]] = {
        "milli": ("io.debezium.time.Timestamp", None),
        "micro": ("io.debezium.time.MicroTimestamp", None),
        "nano": ("io.debezium.time.NanoTimestamp", None),
        "connect": ("org.apache.kafka.connect.data.Timestamp", None),
        "zoned": ("io.debezium.time.ZonedTimestamp", None),
        "day": ("io.debezium.time.Date", None),
        "decimal": ("org.apache.kafka.connect.data.Decimal", {"scale": "2"}),
        "small": ("org.apache.kafka.connect.data.Decimal", {"scale": "4"}),
        "tens": ("org.apache.kafka.connect.data.Decimal", {"scale": "-1"}),
        "variable": ("io.debezium.data.VariableScaleDecimal", None),
        "absent": ("io.debezium.time.Timestamp", None),
        "odd": ("io.debezium.time.Timestamp", None),
        "huge": ("io.debezium.time.Timestamp", None),
    }
    after = {
        "milli": 1_709_294_400_123,
        "micro": 1_709_294_400_123_456,
        "nano": 1_709_294_400_123_456_789,
        "connect": -1,
        "zoned": "2024-03-01T12:00:00Z",
        "day": 19_783,
        "decimal": _bytes_of(-1234),
        "small": _bytes_of(5),
        "tens": _bytes_of(12),
        "variable": {"scale": 1, "value": _bytes_of(15)},
        "absent": None,
        "odd": "not a number",
        "huge": 2**62,
    }
    (row,) = _rows(_read("debezium", {"schema": _schema(fields), "payload": {"op": "c", "after": after}}))
    assert row == {
        "line": 0,
        "milli": "2024-03-01T12:00:00.123000",
        "micro": "2024-03-01T12:00:00.123456",
        "nano": "2024-03-01T12:00:00.123456",
        "connect": "1969-12-31T23:59:59.999000",
        "zoned": "2024-03-01T12:00:00Z",
        "day": "2024-03-01",
        "decimal": "-12.34",
        "small": "0.0005",
        "tens": "120",
        "variable": "1.5",
        "absent": None,
        "odd": "not a number",
        "huge": str(2**62),
    }


@pytest.mark.parametrize(
    ("unit", "count"), [("s", 1_709_294_400), ("ms", 1_709_294_400_000), ("ns", 1709294400 * 10**9)]
)
@pytest.mark.parametrize(("codec", "suffix"), [("json", "Z"), ("debezium", "")])
def test_integers_of_times_need_a_unit(codec: str, suffix: str, unit: Any, count: int):
    """Without a schema an integer is a time only by `epoch_unit`: UTC in rows, the wall clock in change events."""
    row = ROW | {"at": count}
    value = row if codec == "json" else {"op": "c", "after": row}
    columns = {"created_at": "at"}
    (reason,) = _reasons(_read(codec, value, mapping=Mapping(columns=columns)))
    assert f"the integer {count} as at" in reason
    assert "epoch_unit" in reason
    (read,) = _rows(_read(codec, value, mapping=Mapping(columns=columns, epoch_unit=unit)))
    assert read["at"] == f"2024-03-01T12:00:00.000000{suffix}"


BAD = {
    "json": {
        "no value": (None, "has no value"),
        "no JSON": (b"{", "is not JSON"),
        "bad UTF-8": (b'{"a":"\xff"}', "is not JSON"),
        "no object": ([1], "is no JSON object"),
        "a key twice": (b'{"a":1,"a":2}', "has the key 'a' twice"),
    },
    "debezium": {
        "no JSON": (b"{", "is no change event"),
        "no object": ([1], "is no change event"),
        "a plain row": (ROW, "it has no op"),
        "no row": ({"op": "c", "after": None}, "without the row after it"),
        "a message": ({"op": "m", "message": {}}, "op 'm'"),
        "a key twice": (b'{"op":"c","after":{"a":1,"a":2}}', "has the key 'a' twice"),
        "a row that is none": ({"op": "u", "after": [1]}, "is no JSON object"),
        "an op that is none": ({"op": 1}, "is no change event"),
    },
}


@pytest.mark.parametrize(("codec", "kind"), [(codec, kind) for codec, kinds in BAD.items() for kind in kinds])
def test_what_is_no_row_is_a_reject(codec: str, kind: str):
    """A record that is no row is named with the reason, and the others are read."""
    value, reason = BAD[codec][kind]
    good = ROW if codec == "json" else {"op": "c", "after": ROW}
    found = _read(codec, good, value, good)
    assert found.batch.rows["line"].to_list() == [0, 2]
    assert found.batch.bad["line"].to_list() == [1]
    assert reason in _reasons(found)[0]


BAD_SCHEMAS: list[Any] = [
    {"fields": 5},
    {"fields": True},
    {"fields": 1.5},
    {"fields": [7, {"field": "after", "fields": 7}]},
    {"fields": [{"field": "after", "fields": [{"field": ["x"], "name": 1}]}]},
    5,
    "text",
    [],
]


@pytest.mark.parametrize("schema", BAD_SCHEMAS)
@pytest.mark.parametrize("op", ["c", "d"])
def test_a_schema_that_is_none_types_nothing(op: str, schema: Any):
    """A schema whose fields are no list stops nothing: the row stays as it is."""
    found = _read("debezium", {"schema": schema, "payload": {"op": op, "before": ROW, "after": ROW}})
    assert [len(_rows(found)), len(found.deletions)] == ([1, 0] if op == "c" else [0, 1])
    assert _rows(_read("json", {"schema": schema, "payload": ROW})) == [{"line": 0, **ROW, "amount": "10"}]


@pytest.mark.parametrize("scale", ["--5", "5" * 5_000, "x", ""])
def test_a_scale_that_is_none_is_zero(scale: str):
    """A decimal whose scale is no number of this world is read without one."""
    schema = _schema({"amount": ("org.apache.kafka.connect.data.Decimal", {"scale": scale})})
    found = _read("debezium", {"schema": schema, "payload": {"op": "c", "after": ROW | {"amount": _bytes_of(12)}}})
    assert [one["amount"] for one in _rows(found)] == ["12"]


@pytest.mark.parametrize("error", [TypeError, RecursionError, ValueError])
def test_a_codec_that_fails_rejects_the_record(error: type[Exception], monkeypatch: pytest.MonkeyPatch):
    """Whatever a codec stumbles over is one reject with its reason, and the next record is read."""

    def stumbling(value: bytes | None, mapping: Mapping) -> dict[str, Any]:
        if value == b"1":
            raise error("stumbled")
        return dict(ROW)

    monkeypatch.setitem(CODECS, "json", stumbling)
    found = _read("json", 1, ROW)
    assert (len(_rows(found)), found.batch.bad["line"].to_list()) == (1, [0])
    assert "stumbled" in _reasons(found)[0]


def test_rows_without_their_envelope_are_read_as_rows():
    """A flattened change event is a row, its schema read where it is there, and marked deletions are deletions."""
    schema = {"fields": [{"field": "created_at", "name": "io.debezium.time.MicroTimestamp"}]}
    row = ROW | {"created_at": 1_709_294_400_123_456}
    found = _read("json", {"schema": schema, "payload": row}, ROW | {"__deleted": "true"}, ROW | {"__deleted": "false"})
    assert [one["created_at"] for one in _rows(found)] == ["2024-03-01T12:00:00.123456", ROW["created_at"]]
    assert [one.transaction_id for one in found.deletions] == ["t1"]


def test_an_unknown_codec_is_bad_usage():
    """A codec that there is not is named with those that there are."""
    with pytest.raises(UsageError, match="use debezium or json"):
        _read("avro", ROW)
