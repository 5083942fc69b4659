"""The live rows of some accounts as a plan sees them, and a fingerprint of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import polars as pl

from ledger import read_model
from ledger.read_model import ROW_SCHEMA
from ledger.store import Store
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.differences import FOREIGN_FIELDS, OWN_FIELDS, Value
from schemas import format_time

__all__ = ["LiveRows", "digest_of", "live_rows", "value_of"]

_DOMAIN = b"ledger-replay live rows 1\0"
_NO_LOCKS = pl.DataFrame(schema={name: ROW_SCHEMA[name] for name in ("account_id", "status", "locked_at")})


class LiveRows(NamedTuple):
    """Live rows of some accounts, in order of the account: `account_id` and `fields`.

    `unread` are those of them that cannot be read. `locked` are all locked rows of the table (`account_id`, `status`,
    `locked_at`), null for our own read model, which is locked where the log says so.
    """

    rows: pl.DataFrame
    fields: tuple[str, ...]
    unread: frozenset[str]
    locked: pl.DataFrame | None
    has_locked_at: bool


def live_rows(store: Store, live: LiveTable | None, account_ids: Sequence[str]) -> LiveRows:
    """Return the rows of some accounts in a table, or in our own live generation where `live` is null."""
    if live is None:
        with store.snapshot() as connection:
            generation = read_model.live(connection)
            number = 0 if generation is None else generation.generation
            rows = read_model.rows(connection, number, account_ids)
        return LiveRows(rows.sort("account_id"), OWN_FIELDS, frozenset(), None, has_locked_at=True)
    foreign = ForeignTable(live)
    with closing(foreign), closing(foreign.open()) as snapshot:
        read = snapshot.of_accounts(account_ids).rows
        locked = [batch.rows.filter(pl.col("status") == "locked") for batch in snapshot.batches()]
        has_locked_at = snapshot.has_locked_at
    unread = frozenset(read.filter("is_unread")["account_id"])
    return LiveRows(
        read.filter(~pl.col("is_unread")).select("account_id", *FOREIGN_FIELDS),
        FOREIGN_FIELDS,
        unread,
        pl.concat([_NO_LOCKS, *(part.select(_NO_LOCKS.columns) for part in locked)]),
        has_locked_at,
    )


def value_of(value: int | str | bytes | datetime | None) -> Value:
    """Return a value as a plan has it: bytes as hexadecimal text, times in their one form."""
    if isinstance(value, bytes):
        return value.hex()
    return format_time(value) if isinstance(value, datetime) else value


def digest_of(rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """Return SHA-256, in hexadecimal, over live rows in order: a line of JSON each, the account and then `fields`."""
    digest = hashlib.sha256(_DOMAIN)
    for row in rows:
        digest.update(msgspec.json.encode([row["account_id"], *(value_of(row[name]) for name in fields)]) + b"\n")
    return digest.hexdigest()
