"""Ready events and raw rows for tests that need some, all deterministic."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from ledger import GENESIS, chain
from schemas import AccountOpened, Event, TransactionRecorded, encode, event_id

__all__ = ["START", "account_stream", "opened", "recorded", "store_rows"]

START = datetime(2024, 3, 1, 12, tzinfo=UTC)


def _key(account_id: str, version: int) -> dict[str, Any]:
    moment = START + timedelta(minutes=version)
    return {
        "event_id": event_id(account_id, version),
        "account_id": account_id,
        "version": version,
        "effective_at": moment,
        "recorded_at": moment,
    }


def opened(account_id: str) -> AccountOpened:
    """The first event of an account."""
    return AccountOpened(**_key(account_id, 1))


def recorded(account_id: str, version: int, amount: int = 10, **fields: Any) -> TransactionRecorded:
    """A completed credit, unless `fields` say otherwise."""
    content = {"transaction_id": f"{account_id}-t{version}", "type": "credit", "to_status": "completed"}
    return TransactionRecorded(**_key(account_id, version), **content | {"amount": amount} | fields)


def account_stream(account_id: str, events: int) -> list[Event]:
    """An opened account and credits of 10 points each, `events` in all."""
    return [opened(account_id), *(recorded(account_id, version) for version in range(2, events + 1))]


def store_rows(events: Iterable[Event]) -> pl.DataFrame:
    """The rows that `Store.append_rows` takes, for accounts that begin with these events."""
    heads: dict[str, bytes] = {}
    rows = []
    for event in events:
        state = encode(event)
        link = heads[event.account_id] = chain(heads.get(event.account_id, GENESIS), state)
        tag = str(type(event).__struct_config__.tag)
        rows.append((event.account_id, event.version, tag, state, link))
    schema = {
        "account_id": pl.String,
        "version": pl.Int64,
        "topic": pl.String,
        "state": pl.Binary,
        "chain": pl.Binary,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")
