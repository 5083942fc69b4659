"""Wire bytes of events for tests of decoders: valid ones of every kind, and ones to which something was done."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
from hypothesis import strategies as st

from schemas import (
    AccountClosed,
    AccountLocked,
    AccountOpened,
    AccountUnlocked,
    TransactionRecorded,
    TransactionStatusChanged,
    encode,
)

__all__ = ["FIELDS", "NASTY", "damaged", "events", "with_value"]

STATUSES = ["pending", "frozen", "completed", "cancelled", "failed"]
ids = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001 - the zone is added here.
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ids, inner, max_size=3),
    max_leaves=5,
)
maybe_text = st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
key = {
    "event_id": ids,
    "account_id": ids,
    "version": st.integers(1, 2**63 - 1),
    "effective_at": moments,
    "recorded_at": moments,
    "extra": st.dictionaries(st.sampled_from(["note", "origin"]), plain, max_size=2),
}
content = {
    "transaction_id": ids,
    "type": st.sampled_from(["credit", "debit"]),
    "amount": st.integers(1, 2**63 - 1),
    "from_status": st.none() | st.sampled_from(STATUSES),
    "to_status": st.sampled_from(STATUSES),
    "related_transaction_id": maybe_text,
    "business_code": maybe_text,
    "order_id": maybe_text,
    "metadata": st.none() | st.dictionaries(ids, plain, max_size=3),
}
events = st.one_of(
    *(st.builds(cls, **key, **content) for cls in (TransactionRecorded, TransactionStatusChanged)),
    *(
        st.builds(cls, **key, reason=maybe_text)
        for cls in (AccountOpened, AccountLocked, AccountUnlocked, AccountClosed)
    ),
)

#: JSON texts that a field may hold by damage or by another writer.
NASTY = [
    "null", "true", "0", "-1", "1", "1.0", "1.5", "1e3", "9223372036854775807", "9223372036854775808", "1e400",
    '""', '"1"', '"a\\u0000b"', '"pending"', '"PENDING"', '"x"', "[]", "{}", '{"a":1}', '[{"a":[1]}]', '"\\ud800"',
    '"' + "x" * 255 + '"', '"' + "x" * 256 + '"', '"' + "é" * 255 + '"', '"account.opened"', '"account.deleted"', "NaN",
    '"2024-03-01T12:00:00Z"', '"2024-03-01T12:00:00"', '"2024-03-01"', '"2024-03-01T12:00:00.1234567Z"',
    '"2024-03-01T12:00:60Z"', '"2024-03-01T24:00:00Z"', '"2024-03-01T12:00:00+08:00"', '"2024-03-01T12:00:00+0800"',
    '"2024-03-01T12:00:00-00:00"', '"2024-03-01t12:00:00z"', '"2024-03-01 12:00:00Z"', '"2024-03-01T12:00:00.5Z"',
    '"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00+08:00"', '"9999-12-31T23:59:59-08:00"', '"+12024-03-01T12:00:00Z"',
    '"2024-02-30T12:00:00Z"', '"2024-03-01T12:00Z"', '" 2024-03-01T12:00:00Z"', '"2024-03-01T12:00:00.Z"',
    '"2024-03-01T12:00:00.123456789Z"', '"2024-03-01T12:00:00.999999999Z"', '"2024-03-01T12:00:00+24:00"',
    '"2024-3-1T12:00:00Z"', '"2024-03-01T12:00:00 Z"', '"2024-03-01T12:00:00UTC"', '"2024-03-01T12:00:00+08"',
]  # fmt: skip

FIELDS = [
    *("event", "event_id", "account_id", "version", "effective_at", "schema_version"),
    *("transaction_id", "type", "amount", "from_status", "to_status", "order_id", "metadata"),
]


@st.composite
def damaged(draw):
    """A valid line to which something was done."""
    line = encode(draw(events))
    fields = msgspec.json.decode(line)
    kinds = ["value", "missing", "bytes", "cut", "whitespace", "line", "two", "unknown", "unknown bytes"]
    kind = draw(st.sampled_from(kinds))
    name = draw(st.sampled_from(sorted(fields)))
    parts = {field: json.dumps(value) for field, value in fields.items()}
    if kind == "value":
        parts[name] = draw(st.sampled_from(NASTY))
    elif kind == "missing":
        del parts[name]
    elif kind.startswith("unknown"):
        parts["new"] = draw(st.sampled_from(NASTY))
    text = "{" + ",".join(f"{json.dumps(field)}:{value}" for field, value in parts.items()) + "}"
    line = text.encode()
    if kind in ("bytes", "unknown bytes"):
        place = draw(st.integers(0, len(line) - 1))
        line = line[:place] + draw(st.binary(max_size=2)) + line[place + 1 :]
    elif kind == "cut":
        line = line[: draw(st.integers(0, len(line)))]
    elif kind == "whitespace":
        line = draw(st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\xef\xbb\xbf"])) + line + b"\r"
    elif kind == "line":
        line = draw(st.sampled_from([b"", b" ", b"null", b"[]", b"{}", b'"x"', b"1", b"\n", b"{}{}", b"#", b"\0"]))
    elif kind == "two":
        line = line + draw(st.sampled_from([b"\n", b" ", b"", b","])) + line
    return line


def with_value(line: bytes, name: str, value: str) -> bytes:
    """Return the bytes of an event with the JSON text of one field put in."""
    parts = {field: json.dumps(held) for field, held in msgspec.json.decode(line).items()} | {name: value}
    return ("{" + ",".join(f'"{field}":{held}' for field, held in parts.items()) + "}").encode()
