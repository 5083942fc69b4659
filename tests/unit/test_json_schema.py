"""The generated JSON Schema files: current, and true of the events."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import jsonschema
import pytest
from order_samples import cancelled, completed, placed, refunded
from samples import opened, recorded

from schemas import (
    EVENT_TYPES,
    ORDER_EVENT_TYPES,
    AccountClosed,
    AccountLocked,
    AccountUnlocked,
    OrderEvent,
    TransactionStatusChanged,
    encode,
    encode_order,
)
from schemas.json_schema import FOLDER, generate, write

KEY = {"event_id": "a:2", "account_id": "a", "version": 2, **dict.fromkeys(("effective_at", "recorded_at"), datetime(2024, 1, 1, tzinfo=UTC))}  # fmt: skip  # noqa: E501 - one event's key.
SAMPLES = [
    opened("a"),
    AccountLocked(**KEY, reason="audit"),
    AccountUnlocked(**KEY),
    AccountClosed(**KEY, extra={"new": 1}),
    recorded("a", 2, metadata={"order_id": "o1"}, related_transaction_id="t0"),
    TransactionStatusChanged(
        **KEY, transaction_id="t", type="debit", amount=2**63 - 1, from_status="pending", to_status="frozen"
    ),
    placed("o", 0, account_id="a", extra={"new": 1}),
    completed("o"),
    cancelled("o", account_id="b", points=3, direction="earn"),
    refunded("o"),
]


def test_the_files_are_what_the_structs_say():
    """A changed struct without its changed file fails here: run `python -m schemas.json_schema`."""
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == generate()


def test_writing_makes_one_file_an_event(tmp_path):
    """The generator writes one document for each known tag."""
    write(tmp_path / "json")
    assert sorted(path.name for path in (tmp_path / "json").iterdir()) == sorted(
        f"{tag}.json" for tag in (*EVENT_TYPES, *ORDER_EVENT_TYPES)
    )


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_every_event_validates(event):
    """The wire bytes of each kind of event, unknown fields included, are valid by its document."""
    tag = type(event).__struct_config__.tag
    document = json.loads(generate()[f"{tag}.json"])
    jsonschema.Draft202012Validator.check_schema(document)
    data = encode_order(event) if isinstance(event, OrderEvent) else encode(event)
    jsonschema.validate(json.loads(data), document, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amount", 0),
        ("amount", 1.5),
        ("amount", 2**63),
        ("type", "earn"),
        ("to_status", "done"),
        ("account_id", ""),
        ("account_id", "x" * 256),
        ("version", 0),
        ("event", "account.opened"),
        ("metadata", []),
    ],
)
def test_what_the_codec_refuses_does_not_validate(name, value):
    """A document holds other writers to what this reader takes."""
    document = json.loads(generate()["transaction.recorded.json"])
    fields = json.loads(encode(recorded("a", 2))) | {name: value}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(fields, document, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", ["event", "event_id", "account_id", "version", "effective_at", "amount", "to_status"])
def test_what_the_codec_needs_is_required(name):
    """An event without one of its fields does not validate."""
    document = json.loads(generate()["transaction.recorded.json"])
    fields = json.loads(encode(recorded("a", 2)))
    del fields[name]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(fields, document, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("name", "value"),
    [("points", -1), ("points", None), ("version", 2), ("direction", "give"), ("order_id", ""), ("account_id", "")],
)
def test_what_the_codec_of_orders_refuses_does_not_validate(name, value):
    """A document holds the order system to what this reader takes."""
    document = json.loads(generate()["order.placed.json"])
    fields = json.loads(encode_order(placed("o"))) | {name: value}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(fields, document, jsonschema.Draft202012Validator)
