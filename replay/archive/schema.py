"""The columns of an archive: those of the events, and where in the source each was.

Any engine that reads Delta Lake or Parquet can use them. Rows of one data file are sorted by `account_id`, `version`;
`(account_id, version)` is there once in the whole table.
"""

from __future__ import annotations

import polars as pl
from deltalake import Field, Schema
from deltalake.schema import PrimitiveType

from schemas.columns import EVENT_SCHEMA

__all__ = ["ARCHIVE_SCHEMA", "CODED", "delta_schema"]

#: `partition` is null where the source is a store. Only types that every reader of Delta Lake knows.
ARCHIVE_SCHEMA = pl.Schema(
    {
        "account_id": pl.String(),
        "version": pl.Int64(),
        "partition": pl.Int64(),
        "position": pl.Int64(),
        **{name: dtype for name, dtype in EVENT_SCHEMA.items() if name not in ("account_id", "version", "position")},
        "chain": pl.Binary(),
    }
)

#: Columns of few values: data files hold each value once a column, and a number for it in every row. Readers that
#: follow the table's schema see texts.
CODED = dict.fromkeys(
    ("event", "type", "from_status", "to_status"), pl.Categorical(pl.Categories("ledger-replay", physical=pl.UInt8))
)

_COMMENTS = {
    "account_id": "whose event it is",
    "version": "its place among the account's events, from 1 without a hole",
    "partition": "partition of the topic that it was read from; null for a store",
    "position": "position in the store, or offset in the partition",
    "event": "its kind: account.* or transaction.*",
    "effective_at": "when it happened (UTC)",
    "recorded_at": "when the ledger recorded it (UTC)",
    "transaction_id": "null for account.*",
    "type": "credit or debit",
    "amount": "whole points, 1 or more",
    "from_status": "status of the transaction before; null for a new one",
    "to_status": "status of the transaction after",
    "metadata": "a JSON object as text",
    "chain": "hash chain of the account's events; only at the last one of each file, null elsewhere",
}

_NEVER_NULL = ("account_id", "version", "position", "event", "effective_at", "recorded_at", "event_id")


def delta_schema() -> Schema:
    """Return `ARCHIVE_SCHEMA` as Delta Lake has it, each column with what it means."""
    return Schema([_field(name, dtype) for name, dtype in ARCHIVE_SCHEMA.items()])


def _field(name: str, dtype: pl.DataType) -> Field:
    kind = {pl.String: "string", pl.Int64: "long", pl.Binary: "binary", pl.Datetime: "timestamp"}[dtype.base_type()]
    comment = {"comment": _COMMENTS[name]} if name in _COMMENTS else None
    return Field(name, PrimitiveType(kind), nullable=name not in _NEVER_NULL, metadata=comment)
