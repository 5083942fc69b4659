"""Ready events of orders, what the database has of them, and a small world that tells some of them in any way."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ledger import Store, orders
from schemas import (
    OrderCancelled,
    OrderCompleted,
    OrderEvent,
    OrderPlaced,
    OrderRefunded,
    encode_order,
    event_id,
)

__all__ = ["ORDERS_AT", "Facts", "cancelled", "completed", "facts_of", "histories", "placed", "refunded", "wire"]

ORDERS_AT = datetime(2024, 3, 1, 12, tzinfo=UTC)


def _key(order_id: str, version: int) -> dict[str, Any]:
    moment = ORDERS_AT + timedelta(minutes=version)
    return {
        "event_id": event_id(order_id, version),
        "order_id": order_id,
        "version": version,
        "effective_at": moment,
    }


def placed(order_id: str, points: int = 10, **fields: Any) -> OrderPlaced:
    """The first event of an order."""
    return OrderPlaced(**_key(order_id, 1) | {"points": points} | fields)


def completed(order_id: str, version: int = 2, **fields: Any) -> OrderCompleted:
    """An order that is done."""
    return OrderCompleted(**_key(order_id, version) | fields)


def cancelled(order_id: str, version: int = 2, **fields: Any) -> OrderCancelled:
    """An order that is off."""
    return OrderCancelled(**_key(order_id, version) | fields)


def refunded(order_id: str, version: int = 3, points: int = 1, **fields: Any) -> OrderRefunded:
    """Points of an order that were given back."""
    return OrderRefunded(**_key(order_id, version) | {"refunded_points": points} | fields)


def wire(events: Iterable[OrderEvent]) -> list[tuple[bytes, bytes]]:
    """Return events as they are on a topic: keyed by order."""
    return [(event.order_id.encode(), encode_order(event)) for event in events]


def histories(seed: int, order_count: int = 6) -> list[OrderEvent]:
    """Return events of some orders, an order's in the order of its versions."""
    chance = random.Random(seed)
    found: list[OrderEvent] = []
    for number in range(order_count):
        order_id = f"order-{number}"
        account = chance.choice([None, f"account-{number}"])
        direction = chance.choice(["spend", "earn"])
        found.append(placed(order_id, chance.randrange(100), account_id=account, direction=direction))
        for version in range(2, 2 + chance.randrange(4)):
            kind = chance.choice([completed, cancelled, refunded])
            found.append(kind(order_id, version))
    return found


class Facts(NamedTuple):
    """What the database has of orders, as plain rows in order."""

    events: list[tuple[Any, ...]]
    parked: list[tuple[Any, ...]]
    positions: dict[int, int]
    touched: Sequence[str]


def facts_of(store: Store) -> Facts:
    """Return all that the database has of orders."""
    with store.snapshot() as connection:
        return Facts(
            orders.events(connection).rows(),
            orders.parked(connection).rows(),
            orders.positions(connection),
            orders.touched(connection, 1_000_000),
        )
