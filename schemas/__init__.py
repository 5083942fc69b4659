"""Wire truth: events, their codec, their JSON Schema, and the error tree. Imports no other room."""

from schemas.codec import Upcasters, decode, encode, format_time, key_in
from schemas.columns import EVENT_SCHEMA, RAW_SCHEMA, Decoded, decode_batch, event_rows
from schemas.errors import LedgerReplayError
from schemas.events import (
    AMOUNT_MAX,
    EVENT_TYPES,
    SCHEMA_VERSION,
    AccountClosed,
    AccountLocked,
    AccountOpened,
    AccountUnlocked,
    Event,
    PoisonEvent,
    Status,
    TransactionEvent,
    TransactionRecorded,
    TransactionStatusChanged,
    TransactionType,
    event_id,
)
from schemas.values import decode_values

__all__ = [
    "AMOUNT_MAX",
    "EVENT_SCHEMA",
    "EVENT_TYPES",
    "RAW_SCHEMA",
    "SCHEMA_VERSION",
    "AccountClosed",
    "AccountLocked",
    "AccountOpened",
    "AccountUnlocked",
    "Decoded",
    "Event",
    "LedgerReplayError",
    "PoisonEvent",
    "Status",
    "TransactionEvent",
    "TransactionRecorded",
    "TransactionStatusChanged",
    "TransactionType",
    "Upcasters",
    "decode",
    "decode_batch",
    "decode_values",
    "encode",
    "event_id",
    "event_rows",
    "format_time",
    "key_in",
]
