"""Whatever a foreign topic holds, reading it ends: each record is a row, a deletion, a tombstone or a reject."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.importing import Mapping
from ledger.importing.codecs import CODECS, Message, read_messages

#: The words that a codec looks for, so that a random document often has them in the wrong place.
KEYS = ["fields", "field", "name", "schema", "payload", "op", "before", "after", "parameters", "scale", "value"]
COLUMNS = ["created_at", "updated_at", "transaction_id", "account_id", "amount", "__deleted", "line"]
TEXTS = ["c", "r", "u", "d", "t", "m", "true", "AA==", "2", "-1", "--5"]
TYPES = [
    "io.debezium.time.Timestamp",
    "io.debezium.time.NanoTimestamp",
    "io.debezium.time.Date",
    "org.apache.kafka.connect.data.Decimal",
    "io.debezium.data.VariableScaleDecimal",
]
WORDS = st.sampled_from([*KEYS, *COLUMNS, *TEXTS, *TYPES])
NUMBERS = st.integers() | st.sampled_from([2**63, 2**64, -(10**30), 10**400]) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=4)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=4)


JSON = st.recursive(SCALARS, _nested, max_leaves=15)
#: A list of fields as a schema has it, any part of it something else.
FIELDS = st.lists(
    JSON
    | st.fixed_dictionaries({}, optional={"field": WORDS | JSON, "name": WORDS, "fields": JSON, "parameters": JSON}),
    max_size=3,
)
SIDES = st.lists(JSON | st.fixed_dictionaries({"field": WORDS | JSON, "fields": FIELDS | JSON}), max_size=3)
SCHEMA = JSON | st.fixed_dictionaries({"fields": SIDES | JSON})
PARTS = {"op": WORDS | JSON, "before": JSON, "after": JSON, "created_at": JSON, "__deleted": JSON}
ENVELOPE = st.fixed_dictionaries({}, optional=PARTS)
WRAPPED = st.fixed_dictionaries({"schema": SCHEMA, "payload": ENVELOPE | JSON})
#: A change event that is right, beside a schema that may be anything.
ROW = st.dictionaries(st.sampled_from(COLUMNS), SCALARS, max_size=3)
CHANGE = st.fixed_dictionaries({"op": st.sampled_from(["c", "d"]), "before": ROW, "after": ROW})
TYPED = st.fixed_dictionaries(
    {"schema": st.fixed_dictionaries({"fields": SIDES | SCALARS}) | SCHEMA, "payload": CHANGE}
)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


VALUES = st.none() | st.binary(max_size=30) | st.builds(_encoded, JSON | ENVELOPE | WRAPPED | TYPED)


@given(
    values=st.lists(VALUES, max_size=4), codec=st.sampled_from(sorted(CODECS)), epoch_unit=st.sampled_from([None, "ns"])
)
def test_every_record_is_something(values: list[bytes | None], codec: str, epoch_unit: Any):
    """No record stops the others: each is a row, a deletion, a tombstone or a reject with a reason, and only one."""
    _check(values, codec, Mapping(epoch_unit=epoch_unit))


@given(values=st.lists(st.builds(_encoded, TYPED), min_size=1, max_size=8))
def test_no_schema_stops_a_change(values: list[bytes | None]):
    """Whatever schema stands beside a change event, the change is a row, a deletion or a reject with a reason."""
    _check(values, "debezium", Mapping(epoch_unit="ms"))


def _check(values: list[bytes | None], codec: str, mapping: Mapping) -> None:
    messages = [Message(line, b"\xff", value) for line, value in enumerate(values)]
    found = read_messages(codec, messages, mapping)
    lines = found.batch.rows["line"].to_list() + found.batch.bad["line"].to_list()
    lines += [deletion.line for deletion in found.deletions]
    assert len(set(lines)) == len(lines) == len(values) - found.tombstones
    assert all(found.batch.bad["reason"].to_list())
