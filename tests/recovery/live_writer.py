"""A live system as a process: applies the store's events to a table of its own, late, in bursts, and with pauses.

`python live_writer.py STORE LIVE_URL SEED`. Rows and its own position are written in one transaction, so that it can be
killed at any moment and started again.
"""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from typing import Any

from sqlalchemy import NullPool, create_engine, select, text

from ledger import Store
from ledger.tables import EVENTS
from schemas import TransactionRecorded, decode

ON_CONFLICT = (
    "ON CONFLICT (account_id) DO UPDATE SET balance = accounts.balance + excluded.balance,"
    " frozen_amount = accounts.frozen_amount + excluded.frozen_amount"
)
UPSERT = {
    "sqlite": ON_CONFLICT,
    "postgresql": ON_CONFLICT,
    "mysql": "ON DUPLICATE KEY UPDATE balance = balance + VALUES(balance),"
    " frozen_amount = frozen_amount + VALUES(frozen_amount)",
}


def main() -> None:
    """Follow the store until killed."""
    folder, url, seed = sys.argv[1:]
    chance = random.Random(int(seed))
    store = Store.at(folder, create=False)
    engine = create_engine(url, poolclass=NullPool)
    insert = "INSERT INTO accounts VALUES (:account_id, :balance, :frozen, 'active', NULL)"
    with engine.connect() as connection:
        while True:
            position = int(connection.execute(text("SELECT position FROM writer")).scalar_one())
            deltas, until = read(store, position, chance.choice((1, 5, 50, 1_000)))
            if deltas:
                connection.execute(text(f"{insert} {UPSERT[engine.name]}"), deltas)
                connection.execute(text("UPDATE writer SET position = :until"), {"until": until})
            connection.commit()
            time.sleep(chance.choice((0, 0, 0.001, 0.01, 0.05, 0.5 if chance.random() < 0.2 else 0)))


def read(store: Store, position: int, events: int) -> tuple[list[dict[str, Any]], int]:
    """Return what the next events change, by account, and the position of the last of them."""
    statement = select(EVENTS.c.id, EVENTS.c.state).where(EVENTS.c.id > position).order_by(EVENTS.c.id).limit(events)
    changes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with store.snapshot() as connection:
        for at, state in connection.execute(statement):
            event = decode(state)
            position = at
            change = changes[str(event.account_id)]
            if isinstance(event, TransactionRecorded):
                if event.to_status == "frozen":
                    change[1] += event.amount
                else:
                    change[0] += event.amount if event.type == "credit" else -event.amount
    rows = [{"account_id": each, "balance": balance, "frozen": frozen} for each, (balance, frozen) in changes.items()]
    return rows, position


if __name__ == "__main__":
    main()
