"""Stores with something in them, damage done to them behind the ledger's back, and what replay says of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from samples import store_rows
from sqlalchemy import delete, insert, select, update

from ledger import Ledger, Store, read_model
from ledger.tables import ACCOUNTS, EVENTS, HEADS
from replay import balances
from schemas import Event

__all__ = [
    "NOW",
    "account_rows",
    "append",
    "change_event",
    "change_row",
    "lose_event",
    "lose_head",
    "positions",
    "put_back",
    "replayed_rows",
    "take_event",
    "write_history",
]

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)


def append(store: Store, *events: Event) -> None:
    """Append ready events of accounts that are new to the store, in this order."""
    with store.appending() as connection:
        store.append_rows(connection, store_rows(events))


def write_history(store: Store, accounts: int = 4) -> list[str]:
    """Write a history with every kind of event through the ledger and return its account ids."""
    moments = iter(range(10_000))
    ledger = Ledger(store, clock=lambda: NOW + timedelta(minutes=next(moments)))
    account_ids = [f"acc-{number}" for number in range(1, accounts + 1)]
    for account_id in account_ids:
        ledger.open(account_id)
        ledger.credit(account_id, f"{account_id}-c1", 1000, business_code="GRANT")
    for number, account_id in enumerate(account_ids, start=1):
        ledger.debit(account_id, f"{account_id}-d1", 10 * number, order_id=f"o{number}")
        ledger.freeze(account_id, f"{account_id}-f1", 7)
        ledger.credit(account_id, f"{account_id}-p1", 300 + number, status="pending")
        ledger.freeze(account_id, f"{account_id}-f2", 21)
        ledger.complete(account_id, f"{account_id}-f1")
        ledger.reverse(account_id, f"{account_id}-d1", f"{account_id}-r1")
    ledger.lock(account_ids[0])
    return account_ids


def replayed_rows(store: Store, **options: Any) -> dict[str, dict[str, Any]]:
    """Return what a fresh replay says of each account that is not parked."""
    return {row["account_id"]: row for row in balances(store, now=NOW, **options).rows.to_dicts()}


def account_rows(store: Store, generation: int | None = None) -> pl.DataFrame:
    """Return the rows of a generation of the read model, by default the live one, in account order."""
    with store.snapshot() as connection:
        if generation is None:
            live = read_model.live(connection)
            assert live is not None
            generation = live.generation
        return read_model.rows(connection, generation).sort("account_id")


def positions(store: Store, account_id: str) -> dict[int, int]:
    """Return version to position of an account's events."""
    statement = select(EVENTS.c.originator_version, EVENTS.c.id).where(EVENTS.c.originator_id == account_id)
    with store.snapshot() as connection:
        return dict(tuple(row) for row in connection.execute(statement))


def _is_event(account_id: str, version: int):
    return (EVENTS.c.originator_id == account_id) & (EVENTS.c.originator_version == version)


def take_event(store: Store, account_id: str, version: int) -> dict[str, Any]:
    """Remove one event and return its row."""
    with store.writing() as connection:
        row = connection.execute(select(EVENTS).where(_is_event(account_id, version))).mappings().one()
        connection.execute(delete(EVENTS).where(_is_event(account_id, version)))
        return dict(row)


def put_back(store: Store, row: dict[str, Any]) -> None:
    """Append an event that was taken, as it was, but at the end of the store."""
    with store.appending() as connection:
        connection.execute(insert(EVENTS).values({name: value for name, value in row.items() if name != "id"}))


def lose_event(store: Store, account_id: str, *versions: int) -> None:
    """Remove events of an account, all of them where no version is given."""
    statement = delete(EVENTS).where(EVENTS.c.originator_id == account_id)
    with store.writing() as connection:
        connection.execute(statement.where(EVENTS.c.originator_version.in_(versions)) if versions else statement)


def change_event(store: Store, account_id: str, version: int, **columns: Any) -> None:
    """Write columns of a stored event over."""
    with store.writing() as connection:
        connection.execute(update(EVENTS).where(_is_event(account_id, version)).values(columns))


def lose_head(store: Store, *account_ids: str) -> None:
    """Remove the heads of some accounts, of all where none is given."""
    statement = delete(HEADS)
    with store.writing() as connection:
        connection.execute(statement.where(HEADS.c.account_id.in_(account_ids)) if account_ids else statement)


def change_row(store: Store, account_id: str, **columns: Any) -> None:
    """Write columns of the read model over, in every generation."""
    with store.writing() as connection:
        connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.account_id == account_id).values(columns))
