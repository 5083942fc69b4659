"""A process that reconciles two topics: `python reconciler_of_topics.py URL SERVERS LEDGER ORDERS`, a line a step."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from consumers.orders_topic import OrdersTopic
from consumers.reconciliation.judging import Judge
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.read_until import TopicOfLedger, TopicOfOrders, high_ends
from consumers.reconciliation.reconciling import Reconciling
from consumers.topic_shadow import TopicShadow
from ledger import Store
from ledger.order_transactions import FOLLOWER
from projections.reconciliation import Rules
from replay.topic.connection import Connection

__all__ = ["RULES", "reconciling"]

RULES = Rules(grace_seconds=0.5)


def reconciling(store: Store, connection: Connection, ledger: str, orders: str, *, batch: int = 20) -> Reconciling:
    """Open a reconciliation of two topics, in small batches."""
    shadow = TopicShadow(
        store,
        connection,
        ledger,
        name=FOLLOWER,
        beside=OrderTransactions(),
        batch_events=batch,
        poll_seconds=0.05,
    )
    orders_topic = OrdersTopic(store, connection, orders, batch_records=batch, poll_seconds=0.05)
    described = high_ends(connection)
    return Reconciling(
        store,
        shadow,
        Judge(store, RULES, orders_max=batch),
        orders_topic=orders_topic,
        readings=(TopicOfLedger(store, lambda: shadow.shadow, described), TopicOfOrders(orders, described)),
        now=lambda: datetime.now(UTC),
        look_seconds=0.2,
    )


def main(url: str, servers: str, ledger: str, orders: str) -> None:
    """Reconcile until killed."""
    here = reconciling(Store(url), Connection(bootstrap_servers=servers), ledger, orders)
    while True:
        did = here.step()
        sys.stdout.write(f"step {int(did)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
