"""Orders that nothing can be said of, and why: rows of `ledger_orders_withheld`, kept by who judges orders.

All functions work inside the caller's transaction; whoever writes holds `ledger.orders.lock`. `ledger.break_rows` lists
the rows for people.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from sqlalchemy import Connection, delete, select

from ledger import bulk
from ledger.order_tables import ORDERS_WITHHELD

__all__ = ["known", "replace"]


def known(connection: Connection) -> list[str]:
    """Return the orders that are withheld, in order."""
    column = ORDERS_WITHHELD.c.order_id
    return list(connection.execute(select(column).order_by(column)).scalars())


def replace(connection: Connection, order_ids: Sequence[str], found: pl.DataFrame) -> None:
    """Forget what is withheld among some orders, and note what is now: `order_id`, `reason`."""
    for start in range(0, len(order_ids), bulk.KEYS_PER_QUERY):
        some = order_ids[start : start + bulk.KEYS_PER_QUERY]
        connection.execute(delete(ORDERS_WITHHELD).where(ORDERS_WITHHELD.c.order_id.in_(some)))
    bulk.insert_rows(connection, ORDERS_WITHHELD, found.select("order_id", "reason"))
