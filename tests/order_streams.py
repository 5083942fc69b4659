"""Orders and the transactions that name them as two streams, made by chance, and who follows both.

The ledger's events go to a store, and from there to a topic in memory where that is followed; the orders' to another
topic in memory. Every fact is effective when it comes, or a while before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import polars as pl
from samples import opened
from topic_groups import NOWHERE, MemoryTopic

from consumers.orders_topic import OrdersTopic
from consumers.reconciliation.judging import Judge, Judged
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.read_until import StoreReading, TopicOfLedger, TopicOfOrders
from consumers.reconciliation.reconciling import Reconciling
from consumers.shadow import Following, StoreShadow
from consumers.topic_shadow import TopicShadow
from ledger import GENESIS, Store, chain
from ledger.order_transactions import FOLLOWER
from projections.reconciliation import Rules
from schemas import Event, TransactionRecorded, TransactionStatusChanged, encode, encode_order, event_id
from schemas.orders import OrderCancelled, OrderCompleted, OrderEvent, OrderPlaced, OrderRefunded

__all__ = [
    "ACCOUNTS",
    "GRACE_SECONDS",
    "RULES",
    "START",
    "Appender",
    "Facts",
    "Followers",
    "order_facts",
    "orders_in_memory",
    "record",
]

START = datetime(2024, 3, 1, tzinfo=UTC)
GRACE_SECONDS = 60
RULES = Rules(grace_seconds=GRACE_SECONDS, timing_seconds=3_600)
ACCOUNTS = ("a", "b")
PATHS = (("completed",), ("completed",), ("pending", "completed"), ("frozen", "completed"), ("frozen", "cancelled"))
PATHS += (("pending", "failed"), ("frozen",), ("pending",))


class Appender:
    """Appends events to a store, each account's in the order given, readable or not."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heads: dict[str, bytes] = {}

    def append(self, event: Event, state: bytes | None = None) -> None:
        """Append an event, or other bytes in its place."""
        state = encode(event) if state is None else state
        link = self._heads[event.account_id] = chain(self._heads.get(event.account_id, GENESIS), state)
        row = (event.account_id, event.version, str(type(event).__struct_config__.tag), state, link)
        schema = {"account_id": pl.String, "version": pl.Int64, "topic": pl.String, "state": pl.Binary}
        with self._store.appending() as connection:
            frame = pl.DataFrame([row], schema={**schema, "chain": pl.Binary}, orient="row")
            self._store.append_rows(connection, frame)


class Facts:
    """Plans facts of a few orders by chance; each of `waiting` makes its event when it comes.

    `transactions` are how those that came stand, by account and id, as rows with the columns of the projection.
    """

    def __init__(self, chance: random.Random, orders: int = 4) -> None:
        self._chance = chance
        self.versions = dict.fromkeys(ACCOUNTS, 0)
        self.transactions: dict[tuple[str, str], dict[str, Any]] = {}
        self._number = 0
        self.waiting: list[Callable[[datetime], Event | OrderEvent]] = []
        for number in range(orders):
            self._plan(f"o{number}")

    def _plan(self, order_id: str) -> None:
        """Plan what comes of an order, both sides in their own order and otherwise in any."""
        chance = self._chance
        ledger = [fact for _ in range(chance.randrange(4)) for fact in self._transaction(order_id)]
        for side in (order_facts(order_id, chance), ledger):
            place = 0
            for fact in side:
                place = chance.randrange(place, len(self.waiting) + 1)
                self.waiting.insert(place, fact)
                place += 1

    def _transaction(self, order_id: str) -> list[Callable[[datetime], Event]]:
        chance = self._chance
        self._number += 1
        account_id, path = chance.choice(ACCOUNTS), chance.choice(PATHS)
        content = {
            "transaction_id": f"t{(self._number * 7) % 100:02}",
            "type": chance.choice(["debit", "debit", "credit"]),
            "amount": chance.choice([20, 50, 50, 100]),
        }
        # What is not settled may tell its order later.
        told_at = len(path) - 1 if chance.random() < 0.3 else 0
        facts = []
        for step, status in enumerate(path):
            change = {"from_status": path[step - 1] if step else None, "to_status": status}
            told = {**content, **change, "order_id": order_id if step >= told_at else None}
            facts.append(lambda at, told=told: self._event(account_id, told, at))
        return facts

    def _event(self, account_id: str, told: dict[str, Any], at: datetime) -> Event:
        version = self.versions[account_id] = self.versions[account_id] + 1
        content = {name: told[name] for name in ("transaction_id", "type", "amount")}
        key = (account_id, told["transaction_id"])
        known = self.transactions.setdefault(key, {**content, "account_id": account_id, "created_at": at})
        known |= {"status": told["to_status"], "updated_at": at, "version": version}
        known |= {"order_id": told["order_id"] or known.get("order_id")}
        known |= {"related_transaction_id": None, "business_code": None, "partition": None, "position": version}
        kind = TransactionRecorded if told["from_status"] is None else TransactionStatusChanged
        shared = {"event_id": event_id(account_id, version), "account_id": account_id, "version": version}
        return kind(**shared, **told, effective_at=at, recorded_at=at)

    def opening(self) -> list[Event]:
        """Return the first event of each account, which come before all else."""
        self.versions = dict.fromkeys(ACCOUNTS, 1)
        return [opened(account_id) for account_id in ACCOUNTS]

    def linked(self) -> list[dict[str, Any]]:
        """Return the transactions that name an order."""
        return [row for row in self.transactions.values() if row["order_id"]]


def order_facts(order_id: str, chance: random.Random) -> list[Callable[[datetime], OrderEvent]]:
    """Plan the events of an order: none, or placed and what came of it."""
    if chance.random() < 0.2:
        return []
    told: dict[str, Any] = {"account_id": chance.choice([None, *ACCOUNTS])}
    points, refund = chance.choice([0, 50, 100, 100]), chance.choice([20, 50])
    kinds: list[tuple[type[OrderEvent], dict[str, Any]]] = [(OrderPlaced, {**told, "points": points})]
    done, off = (OrderCompleted, {}), (OrderCancelled, {})
    kinds += chance.choice([[], [done], [done, (OrderRefunded, {"refunded_points": refund})], [off], [done, off]])

    def fact(kind: type[OrderEvent], version: int, fields: dict[str, Any]) -> Callable[[datetime], OrderEvent]:
        key = {"event_id": f"{order_id}:{version}", "order_id": order_id, "version": version}
        return lambda at: kind(**key, effective_at=at, **fields)

    return [fact(kind, version, fields) for version, (kind, fields) in enumerate(kinds, start=1)]


@contextmanager
def orders_in_memory(topic: MemoryTopic) -> Iterator[MemoryTopic]:
    """Have the topic of orders be this one."""
    with (
        patch("consumers.orders_topic.Group", topic.join),
        patch("consumers.orders_topic.describe", topic.describe),
        patch("consumers.orders_topic.topic_named", lambda *_, **__: topic.describe()),
    ):
        yield topic


class Followers:
    """Any number of reconciliations of one store, in turn; `clock` is what time it is."""

    def __init__(
        self,
        store: Store,
        orders: MemoryTopic,
        ledger: MemoryTopic | None,
        chance: random.Random,
        *,
        instances: int = 1,
    ) -> None:
        self.store = store
        self.clock = START
        self.told: list[Judged] = []
        self._orders, self._ledger, self._chance = orders, ledger, chance
        self._stack = ExitStack()
        self.instances = [self._opened() for _ in range(instances)]

    def step(self, times: int = 1) -> bool:
        """Step some instance; return whether any of the steps did something."""
        return sum(self._chance.choice(self.instances).step() for _ in range(times)) > 0

    def begin_again(self, place: int, *, restart: bool = False) -> None:
        """End an instance and begin another in its place, which begins the follower anew at a `restart`."""
        self.instances[place].close()
        self.instances[place] = self._opened(restart=restart)

    def close(self) -> None:
        """End all."""
        for each in self.instances:
            each.close()

    def _opened(self, *, restart: bool = False) -> Reconciling:
        chance, options = self._chance, {"name": FOLLOWER, "restart": restart, "beside": OrderTransactions()}
        events = chance.choice([1, 2, 3, 50])
        following: Following
        if self._ledger is None:
            following = StoreShadow(self.store, **options, batch_events=events, catch_up_events=events)
            reading: Any = StoreReading(self.store, lambda: following.shadow)
        else:
            following = TopicShadow(
                self.store, NOWHERE, "events", **options, batch_events=events, poll_seconds=0, now=lambda: self.clock
            )
            reading = TopicOfLedger(self.store, lambda: following.shadow, lambda _: _ends(self._ledger))
        orders_topic = OrdersTopic(
            self.store, NOWHERE, "orders", batch_records=chance.choice([1, 2, 50]), poll_seconds=0
        )
        judge = Judge(self.store, RULES, orders_max=chance.choice([1, 3, 100]), now=lambda: self.clock)
        readings = (reading, TopicOfOrders("orders", lambda _: _ends(self._orders)))
        return Reconciling(
            self.store,
            following,
            judge,
            orders_topic=orders_topic,
            readings=readings,
            told=self.told.append,
            now=lambda: self.clock,
            look_seconds=0,
        )


def _ends(topic: MemoryTopic | None) -> tuple[str, dict[int, int]]:
    assert topic is not None
    return str(topic.topic_id), {partition: len(log) for partition, log in topic.logs.items()}


def record(event: OrderEvent) -> tuple[bytes, bytes]:
    """Return the record of an order's event."""
    return event.order_id.encode(), encode_order(event)
