"""How the orders were judged last: by which rules, and while which accounts were parked.

All functions work inside the caller's transaction; whoever writes holds `ledger.orders.lock`. It is in the database
since of several judges each has to see what changed since any of them judged.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, select

from ledger.order_tables import ORDERS_JUDGED

__all__ = ["Last", "last", "note"]

_ONLY = 1


class Last(NamedTuple):
    """The `rules` by which orders were judged last, by name, and the accounts that were parked then."""

    rules: dict[str, float]
    parked_accounts: frozenset[str]


def last(connection: Connection) -> Last | None:
    """Return how orders were judged last, None before they were."""
    row = connection.execute(select(ORDERS_JUDGED.c.rules, ORDERS_JUDGED.c.parked_accounts)).one_or_none()
    if row is None:
        return None
    rules = msgspec.json.decode(row.rules, type=dict[str, float])
    return Last(rules, msgspec.json.decode(row.parked_accounts, type=frozenset[str]))


def note(connection: Connection, judged: Last) -> None:
    """Note how orders are judged from now on; the caller holds the lock."""
    rules, accounts = (msgspec.json.encode(each).decode() for each in (judged.rules, sorted(judged.parked_accounts)))
    connection.execute(delete(ORDERS_JUDGED))
    connection.execute(insert(ORDERS_JUDGED).values(id=_ONLY, rules=rules, parked_accounts=accounts))
