"""Audit trails with something in them, and what is done to them behind the ledger's back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from ledger import Store, audit
from ledger.audit import Bad, Entry, Head, Verified
from ledger.audit_chain import COLUMNS, Raw
from ledger.recovery_tables import AUDIT, AUDIT_HEAD

__all__ = [
    "AT",
    "bad_of",
    "cut_off",
    "edit",
    "entry",
    "heads_of",
    "record",
    "remade",
    "rows_of",
    "set_head",
    "set_rows",
    "verified",
]

AT = datetime(2026, 5, 1, 3, tzinfo=UTC)


def entry(number: int, **more: Any) -> Entry:
    """An entry that says which one it is."""
    values = {
        "action": "account.corrected",
        "by": "eve",
        "at": AT + timedelta(seconds=number),
        "run": "recovery-1",
        "account_id": f"acc-{number}",
        "details": {"to": number, "from": 0},
    }
    return Entry(**values | more)


def record(store: Store, *entries: Entry) -> Head:
    """Append entries in one transaction and return the head."""
    with store.writing() as connection:
        return audit.append(connection, store.ledger_id, entries)


def verified(store: Store, known: Sequence[Head] = ()) -> Verified:
    """Verify the trail."""
    with store.snapshot() as connection:
        return audit.verify(connection, store.ledger_id, known)


def bad_of(store: Store, known: Sequence[Head] = ()) -> int | None:
    """Return the number of the first bad entry."""
    bad: Bad | None = verified(store, known).first_bad
    return None if bad is None else bad.number


def rows_of(store: Store) -> list[Raw]:
    """Return the rows as `Raw`, which are what is under the hashes."""
    with store.snapshot() as connection:
        found = connection.execute(select(*(AUDIT.c[name] for name in COLUMNS)).order_by(AUDIT.c.number))
        return [Raw(*(value.encode() if isinstance(value, str) else value for value in row)) for row in found]


def set_rows(store: Store, rows: Sequence[Raw]) -> None:
    """Put rows in the place of all that are there; the head stays."""
    with store.writing() as connection:
        connection.execute(delete(AUDIT))
        for row in rows:
            texts = {name: getattr(row, name) for name in COLUMNS[1:7]}
            values = {name: None if value is None else value.decode() for name, value in texts.items()}
            values |= {"number": row.number, "previous": row.previous, "hash": row.hash}
            connection.execute(insert(AUDIT).values(values))


def edit(store: Store, number: int, **values: Any) -> None:
    """Change columns of an entry."""
    with store.writing() as connection:
        connection.execute(update(AUDIT).where(AUDIT.c.number == number).values(values))


def cut_off(store: Store, number: int) -> None:
    """Delete an entry and all after it."""
    with store.writing() as connection:
        connection.execute(delete(AUDIT).where(AUDIT.c.number >= number))


def set_head(store: Store, number: int, hash_: bytes) -> None:
    """Make the row of the head anew."""
    with store.writing() as connection:
        connection.execute(delete(AUDIT_HEAD))
        connection.execute(insert(AUDIT_HEAD).values(id=1, number=number, hash=hash_))


def remade(rows: Sequence[Raw], start: int = 0) -> list[Raw]:
    """Return rows whose numbers and hashes are made anew from a place on, as somebody does who hides a change."""
    found = list(rows)
    for place in range(start, len(found)):
        before = found[place - 1].hash if place else found[place].previous
        row = found[place]._replace(number=place + 1, previous=before)
        found[place] = row._replace(hash=row.digest())
    return found


def heads_of(rows: Sequence[Raw]) -> list[Head]:
    """Return the head of every row, as an outside place would have them."""
    return [Head(row.number, row.hash.hex()) for row in rows]
