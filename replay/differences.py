"""Differences as values: a column of an account that live has other than replay, and which columns are compared."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import polars as pl

__all__ = ["FOREIGN_FIELDS", "OWN_FIELDS", "Drifted", "Value", "differs", "is_compared"]

#: The columns of our own read model, and those of a foreign live table, that are compared.
OWN_FIELDS = (
    "balance",
    "frozen",
    "pending_credit",
    "pending_debit",
    "status",
    "locked_at",
    "status_version",
    "closed_version",
    "version",
    "chain",
    "last_effective_at",
)
FOREIGN_FIELDS = ("balance", "frozen", "status", "locked_at")
_OF_STATUS = ("status", "locked_at")

Value = int | str | None


class Drifted(msgspec.Struct, frozen=True, kw_only=True):
    """One difference: a column of an account, or `row` where one side has no row.

    `difference` is live less replayed, for numbers; a chain is told as hexadecimal text. `first_event` is the id, as
    the event says it, of the first event after which live cannot be explained, null where no event can say.
    """

    account_id: str
    field: str
    live: Value
    replayed: Value
    difference: int | None
    cause: str = msgspec.field(name="class")
    first_event: str | None
    evidence: str


def differs(field: str, fields: Sequence[str], *, than: str = "replayed_") -> pl.Expr:
    """Whether a row's live column is compared (see `is_compared`), and is not that of the other side."""
    return is_compared(field, fields, than=than) & pl.col(field).ne_missing(pl.col(f"{than}{field}"))


def is_compared(field: str, fields: Sequence[str], *, than: str = "replayed_") -> pl.Expr:
    """Whether a column counts in a row that both sides have; the other side's columns have `than` before their names.

    The log says nothing of the status of an account that it never locked, unlocked or closed, and a foreign row without
    a lock time may be of a table that knows none. Our own read model (`fields` has `status_version`) is compared in
    every column, always.
    """
    if "status_version" in fields or field not in _OF_STATUS:
        return pl.lit(value=True)
    has_status = pl.col(f"{than}status_version").is_not_null()
    return has_status & pl.col(field).is_not_null() if field == "locked_at" else has_status
