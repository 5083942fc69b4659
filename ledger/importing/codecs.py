"""Records of a foreign topic to rows: plain JSON objects, or the change events of Debezium.

A codec gives a row as the object that a JSON Lines file would hold. What Debezium and Kafka Connect encode (times as
integers, decimals as bytes) becomes text by the schema that stands beside the row; without one, integers of times
need `epoch_unit` in the mapping, since nothing else says what they count.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from ledger.importing.batches import BadRow, Batch
from ledger.importing.mapping import Mapping
from ledger.importing.sources import object_batch, read_object
from schemas.errors import UsageError

__all__ = ["CODECS", "Deletion", "Message", "Rows", "read_messages"]

_NAIVE = "%Y-%m-%dT%H:%M:%S.%f"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_TIMES = ("created_at", "updated_at", "recorded_at")
#: What a logical type of Kafka Connect or Debezium counts; all of these are the wall clock of the database.
_WALL_CLOCKS = {
    "io.debezium.time.Timestamp": "ms",
    "io.debezium.time.MicroTimestamp": "us",
    "io.debezium.time.NanoTimestamp": "ns",
    "org.apache.kafka.connect.data.Timestamp": "ms",
}
_DATES = {"io.debezium.time.Date", "org.apache.kafka.connect.data.Date"}
_DECIMAL = "org.apache.kafka.connect.data.Decimal"
_VARIABLE_DECIMAL = "io.debezium.data.VariableScaleDecimal"
#: A longer one is no scale of any number.
_SCALE = re.compile("-?[0-9]{1,9}")


class Message(NamedTuple):
    """A record of a topic: a number that orders it among the others, and its bytes."""

    line: int
    key: bytes | None
    value: bytes | None


class Deletion(NamedTuple):
    """A row that the source has deleted, by what it still says of it; the ledger keeps its events."""

    line: int
    what: str
    transaction_id: str | None
    account_id: str | None


class Rows(NamedTuple):
    """Messages read: the rows, what is deleted at the source, and how many tombstones follow deletions."""

    batch: Batch
    deletions: list[Deletion]
    tombstones: int


class _Deleted(NamedTuple):
    what: str
    row: dict[str, Any]


#: A codec makes a row of a value, or says that it was deleted, or None for a tombstone; ValueError says why not.
_Codec = Callable[[bytes | None, Mapping], dict[str, Any] | _Deleted | None]


def read_messages(codec: str, messages: list[Message], mapping: Mapping) -> Rows:
    """Return the rows of messages, by a codec of `CODECS`; UsageError for another one."""
    if codec not in CODECS:
        raise UsageError(f"there is no codec {codec!r}", next_step=f"use {' or '.join(sorted(CODECS))}")
    read = CODECS[codec]
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    deletions: list[Deletion] = []
    tombstones = 0
    for line, key, value in messages:
        try:
            found = read(value, mapping)
            if isinstance(found, _Deleted):
                deletions.append(_deletion(line, key, found, mapping))
                continue
        except (ValueError, TypeError, RecursionError) as error:
            # What a codec takes apart is anybody's; whatever is wrong with one record must not stop the others.
            why = f"{error}" if isinstance(error, ValueError) else f"cannot be taken apart: {error}"
            bad.append((line, f"the record {why}", None if value is None else value.decode("utf-8", "replace")))
            continue
        if found is None:
            tombstones += 1
        else:
            lines.append(line)
            objects.append(found)
    return Rows(object_batch(lines, objects, bad), deletions, tombstones)


def _deletion(line: int, key: bytes | None, found: _Deleted, mapping: Mapping) -> Deletion:
    ids = [found.row.get(mapping.source_name(column)) for column in ("transaction_id", "account_id")]
    texts = [None if value is None else str(value) for value in ids]
    of = "" if texts[0] or key is None else f", key {key.decode('utf-8', 'replace')[:200]}"
    return Deletion(line, f"{found.what}{of}", *texts)


def _json(value: bytes | None, mapping: Mapping) -> dict[str, Any] | _Deleted | None:
    if value is None:
        raise ValueError("has no value (a tombstone), and plain rows have none to mark deletions")
    row = read_object(value)
    if row.keys() == {"schema", "payload"} and isinstance(row["payload"], dict):
        # How Kafka Connect writes a row of which Debezium's envelope was taken off.
        row = _by_schema(row["payload"], _fields(row["schema"]))
    if row.get("__deleted") in (True, "true"):
        return _Deleted("the source has deleted this row", row)
    return _with_epochs(row, mapping, suffix="Z")


class _Envelope(msgspec.Struct):
    """A change event, or the wrapper around one that has its schema beside it; no `payload` is no bytes at all."""

    op: str | None = None
    before: msgspec.Raw = msgspec.Raw(b"null")
    after: msgspec.Raw = msgspec.Raw(b"null")
    schema: msgspec.Raw = msgspec.Raw(b"null")
    payload: msgspec.Raw = msgspec.Raw(b"")


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_NULL = b"null"


def _debezium(value: bytes | None, mapping: Mapping) -> dict[str, Any] | _Deleted | None:
    if value is None:
        return None
    try:
        envelope = _decode_envelope(value)
        schema = bytes(envelope.schema)
        if bytes(envelope.payload):
            if bytes(envelope.payload) == _NULL:
                return None
            envelope = _decode_envelope(envelope.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is no change event of Debezium: {error}") from error
    if envelope.op in ("c", "r", "u"):
        if bytes(envelope.after) == _NULL:
            raise ValueError(f"is a change event {envelope.op!r} without the row after it")
        row = _by_schema(read_object(bytes(envelope.after)), _row_fields(schema, "after"))
        return _with_epochs(row, mapping, suffix="")
    if envelope.op == "d":
        is_known = bytes(envelope.before) != _NULL
        row = _by_schema(read_object(bytes(envelope.before)), _row_fields(schema, "before")) if is_known else {}
        return _Deleted("the source has deleted this row", row)
    if envelope.op == "t":
        return _Deleted("the source has emptied the table", {})
    if envelope.op is None:
        raise ValueError("is no change event of Debezium: it has no op; rows without an envelope are codec json")
    raise ValueError(f"is a change event of no row: op {envelope.op!r}")


CODECS: dict[str, _Codec] = {"debezium": _debezium, "json": _json}


class _Field(NamedTuple):
    """The logical type of a column, and its scale where it has one."""

    name: str
    scale: int


#: A connector sends the same schema with every record, so it is read once.
_known_schemas: dict[tuple[bytes, str], dict[str, _Field]] = {}
_SCHEMAS_MAX = 64


def _row_fields(schema: bytes, side: str) -> dict[str, _Field]:
    """Return the typed columns of the row before or after a change, by an envelope's schema."""
    if schema == _NULL:
        return {}
    found = _known_schemas.get((schema, side))
    if found is None:
        if len(_known_schemas) >= _SCHEMAS_MAX:
            _known_schemas.clear()
        envelope = msgspec.json.decode(schema)
        sides = envelope.get("fields") if isinstance(envelope, dict) else None
        listed = sides if isinstance(sides, list) else ()
        row = next((each for each in listed if isinstance(each, dict) and each.get("field") == side), None)
        found = _known_schemas[schema, side] = _fields(row)
    return found


def _fields(schema: object) -> dict[str, _Field]:
    """Return the columns of a row's schema that have a logical type."""
    listed = schema.get("fields") if isinstance(schema, dict) else None
    found: dict[str, _Field] = {}
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and isinstance(each.get("field"), str) and isinstance(each.get("name"), str):
            parameters = each.get("parameters")
            scale = str(parameters.get("scale")) if isinstance(parameters, dict) else ""
            found[each["field"]] = _Field(each["name"], int(scale) if _SCALE.fullmatch(scale) else 0)
    return found


def _by_schema(row: dict[str, Any], fields: dict[str, _Field]) -> dict[str, Any]:
    """Return a row with its times and decimals as text; what does not fit its type stays, for the row's own checks."""
    for column, field in fields.items():
        value = row.get(column)
        if value is None:
            continue
        if field.name in _WALL_CLOCKS and type(value) is int:
            row[column] = _moment(value, _WALL_CLOCKS[field.name])
        elif field.name in _DATES and type(value) is int:
            row[column] = _day(value)
        elif field.name == _DECIMAL and isinstance(value, str):
            row[column] = _decimal(value, field.scale)
        elif field.name == _VARIABLE_DECIMAL and isinstance(value, dict):
            scale = value.get("scale")
            row[column] = _decimal(str(value.get("value")), scale if type(scale) is int else 0)
    return row


def _with_epochs(row: dict[str, Any], mapping: Mapping, *, suffix: str) -> dict[str, Any]:
    """Return a row with the integers of its times as text: UTC with the suffix Z, else the source's wall clock."""
    for column in _TIMES:
        name = mapping.source_name(column)
        value = row.get(name)
        if type(value) is int:
            if mapping.epoch_unit is None:
                raise ValueError(
                    f"has the integer {value} as {name}; set [import] epoch_unit to what it counts: s, ms, us or ns"
                )
            row[name] = _moment(value, mapping.epoch_unit) + suffix
    return row


def _moment(count: int, unit: str) -> str:
    times, per = _MICROSECONDS[unit]
    try:
        return (_EPOCH + timedelta(microseconds=count * times // per)).strftime(_NAIVE).rjust(26, "0")
    except OverflowError:
        # No moment of any calendar: the check of the column names it.
        return str(count)


def _day(count: int) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=count)).isoformat()
    except OverflowError:
        return str(count)


def _decimal(text: str, scale: int) -> str:
    """Return a decimal that is the base64 of a big-endian number without its scale; other text as it is."""
    try:
        unscaled = int.from_bytes(base64.b64decode(text, validate=True), "big", signed=True)
        # Python writes no number of thousands of digits, and no amount has them.
        sign, digits = ("-" if unscaled < 0 else ""), str(abs(unscaled))
    except (binascii.Error, ValueError):
        return text
    if not -100 <= scale <= 100:
        return text
    if scale <= 0:
        return f"{sign}{digits}{'0' * -scale}"
    digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"
