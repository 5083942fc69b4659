"""The ledger's side of the reconciliation: a shadow that keeps, beside its rows, the transactions that name an order.

They are written in the transaction that writes the shadow's rows and moves its positions, so they are always those of
the events before these positions, whoever is killed and however many instances there are. The shadow starts from zero:
the rows of a generation do not say which orders their transactions named.
"""

from __future__ import annotations

import polars as pl
from sqlalchemy import Connection

from ledger import order_transactions, orders, read_model, shadows, topics
from ledger.order_transactions import FOLLOWER
from ledger.shadows import Shadow
from projections import ORDER_LINKS
from projections.order_links import UNSETTLED, of_orders

__all__ = ["OrderTransactions", "follower", "is_published_by_us", "parked_accounts"]


class OrderTransactions:
    """What a shadow of the ledger writes beside its rows; `details` are the columns of events that this needs."""

    details = ORDER_LINKS.details

    def kept(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return those of a batch's admitted events that say something of an order, or may later."""
        return of_orders(events)

    def write(self, connection: Connection, number: int, events: pl.DataFrame) -> None:
        """Bring the transactions of a shadow's number forward, and touch their orders; the shadow is locked."""
        if events.is_empty():
            return
        orders.lock(connection)
        new = ORDER_LINKS.fold(events.lazy()).collect()
        known = order_transactions.known(connection, number, new)
        before = known.select(pl.col("order_id").replace("", None), pl.exclude("order_id")).select(new.columns)
        merged = ORDER_LINKS.merge(before.lazy(), new.lazy()).collect().with_columns(pl.col("order_id").fill_null(""))
        names_none = pl.col("order_id") == ""
        is_over = names_none & ~pl.col("status").is_in(UNSETTLED)
        settled = merged.filter(is_over).join(known, on=ORDER_LINKS.key, how="semi")
        order_transactions.write(connection, number, merged.filter(~is_over), settled=settled)
        named = pl.concat([known["order_id"], merged["order_id"]]).unique()
        orders.touch(connection, named.filter(named != "").to_list())


def follower(connection: Connection) -> Shadow | None:
    """Return the shadow that follows the ledger for the reconciliation, None before it began."""
    return shadows.find(connection, FOLLOWER)


def parked_accounts(connection: Connection, shadow: Shadow) -> frozenset[str]:
    """Return the accounts of which the follower may not know everything that its positions cover.

    Those are what it has parked itself and, where our own relay publishes its topic, what that holds back.
    """
    parked = set(read_model.parked(connection, shadow.number)["account_id"])
    if shadow.topic is not None and is_published_by_us(connection, shadow):
        parked.update(topics.parked(connection, shadow.topic)["account_id"])
    return frozenset(parked)


def is_published_by_us(connection: Connection, shadow: Shadow) -> bool:
    """Say whether what a shadow follows is the topic that the relay of this store publishes to."""
    known = None if shadow.topic is None else topics.known(connection, shadow.topic)
    return known is not None and known.topic_id == shadow.source_id and known.own is not None
