"""Transaction rows, checked: the columns of text of a batch to typed rows, and rejects for what is wrong."""

from __future__ import annotations

import polars as pl

from ledger.importing import values
from ledger.importing.batches import LINE, Batch, Checked
from ledger.importing.mapping import Mapping
from ledger.importing.values import Check
from schemas.columns import UTC_MICROSECONDS
from schemas.events import STATUSES, TRANSACTION_TYPES

__all__ = ["OPTIONAL", "REQUIRED", "ROW_SCHEMA", "check_transactions"]

REQUIRED = ("transaction_id", "account_id", "type", "status", "amount", "created_at")
OPTIONAL = ("related_transaction_id", "business_code", "order_id", "metadata", "updated_at", "recorded_at")

#: A good row. `metadata` is compact JSON; `updated_at` and `recorded_at` may be null, like the texts.
ROW_SCHEMA = pl.Schema(
    {
        LINE: pl.Int64(),
        "transaction_id": pl.String(),
        "account_id": pl.String(),
        "type": pl.String(),
        "status": pl.String(),
        "amount": pl.Int64(),
        "related_transaction_id": pl.String(),
        "business_code": pl.String(),
        "order_id": pl.String(),
        "metadata": pl.String(),
        "created_at": UTC_MICROSECONDS,
        "updated_at": UTC_MICROSECONDS,
        "recorded_at": UTC_MICROSECONDS,
    }
)
_TIMES = ("created_at", "updated_at", "recorded_at")


def check_transactions(batch: Batch, mapping: Mapping) -> Checked:
    """Return the good rows (`ROW_SCHEMA`) and the rejects of a batch."""
    picked = values.pick(batch.rows, REQUIRED + OPTIONAL, mapping)
    metadata = values.metadata(picked["metadata"])
    times = {column: values.times(picked[column], mapping.zone) for column in _TIMES}
    kind, bad_type = values.mapped("type", mapping.types, TRANSACTION_TYPES)
    status, bad_status = values.mapped("status", mapping.statuses, STATUSES)
    sign, magnitude = values.integer("amount", mapping.amount_scale)
    if mapping.signed_amounts:
        kind = pl.when(sign == "-").then(pl.lit("debit")).otherwise(pl.lit("credit"))
    read = picked.with_columns(
        metadata_text=metadata.text,
        metadata_order_id=metadata.order_id,
        metadata_problem=metadata.problem,
        type_value=kind,
        status_value=status,
        amount_value=magnitude,
        **{f"{column}_moment": time.moments for column, time in times.items()},
        **{f"{column}_problem": time.problems for column, time in times.items()},
    )
    checks = [
        *values.id_checks("transaction_id"),
        *values.id_checks("account_id"),
        *(
            []
            if mapping.signed_amounts
            else [Check("type", bad_type, values.unknown("type", "types", TRANSACTION_TYPES))]
        ),
        Check("status", bad_status, values.unknown("status", "statuses", STATUSES)),
        *values.amount_checks("amount", mapping.amount_scale, signed=mapping.signed_amounts),
        *values.time_checks("created_at", required=True),
        *values.time_checks("updated_at", required=False),
        *values.time_checks("recorded_at", required=False),
        Check("metadata", pl.col("metadata_problem").is_not_null(), pl.col("metadata_problem")),
    ]
    passed, rejects = values.split(read, batch, checks)
    good = passed.select(
        LINE,
        "transaction_id",
        "account_id",
        type="type_value",
        status="status_value",
        amount="amount_value",
        related_transaction_id="related_transaction_id",
        business_code="business_code",
        order_id=pl.coalesce("order_id", "metadata_order_id"),
        metadata="metadata_text",
        **{column: f"{column}_moment" for column in _TIMES},
    )
    return Checked(good, rejects, sum(time.naive_count for time in times.values()))
