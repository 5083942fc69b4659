"""A process that reconciles: `python -m tests.recovery.reconciler URL [POINT TIMES]`, with a line once it does.

It goes on for ever; with a point it ends itself as `kill -9` would, the given time that it passes there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC, datetime

from consumers.reconciliation.judging import Judge
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.read_until import StoreReading
from consumers.reconciliation.reconciling import Reconciling
from consumers.shadow import StoreShadow
from ledger import Store
from ledger.order_transactions import FOLLOWER
from projections.reconciliation import Rules

#: Small enough for many batches in a second's run.
BATCH_EVENTS = 5
ORDERS_MAX = 7

RULES = Rules(grace_seconds=0.2)


def main(url: str, point: str = "", times: str = "0") -> None:
    """Reconcile until killed."""
    left = int(times)

    def at(place: str) -> None:
        nonlocal left
        left -= place == point
        if place == point and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store = Store(url)
    sizes = {"batch_events": BATCH_EVENTS, "catch_up_events": BATCH_EVENTS}
    shadow = StoreShadow(store, FOLLOWER, beside=OrderTransactions(), **sizes, at=at)
    reconciling = Reconciling(
        store,
        shadow,
        Judge(store, RULES, orders_max=ORDERS_MAX, at=at),
        readings=(StoreReading(store, lambda: shadow.shadow),),
        now=lambda: datetime.now(UTC),
        look_seconds=0,
    )
    sys.stdout.write("began\n")
    sys.stdout.flush()
    while True:
        if not reconciling.step():
            time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
