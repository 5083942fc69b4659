"""What the tests of topic replay share: long histories, connections with little patience, both clients."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterable
from typing import Any

from kafka_broker import Broker
from samples import opened, recorded
from topics import Record

from replay.topic import Connection
from schemas import Event, encode

__all__ = ["CLIENTS", "connection_to", "history", "records_of"]

#: The clients that are installed.
CLIENTS = ("kafka-python", *(("librdkafka",) if importlib.util.find_spec("confluent_kafka") else ()))


def connection_to(broker: Broker, client: str = "kafka-python", patience_seconds: float = 20.0) -> Connection:
    """Return a connection to a broker under test."""
    return Connection(
        bootstrap_servers=broker.bootstrap_servers,
        client=client,  # type: ignore[arg-type]  # one of `CLIENTS`.
        stall_timeout_seconds=patience_seconds,
    )


def history(accounts: int, events: int, *, seed: int = 1) -> list[Event]:
    """Return events of accounts that take turns at random."""
    chance = random.Random(seed)
    versions: dict[str, int] = {}
    found: list[Event] = []
    for _ in range(events):
        account_id = f"account-{chance.randrange(accounts)}"
        version = versions[account_id] = versions.get(account_id, 0) + 1
        kind: dict[str, Any] = {
            "type": chance.choice(["credit", "credit", "debit"]),
            "to_status": chance.choice(["completed", "frozen", "pending"]),
        }
        if chance.random() < 0.1:
            kind["related_transaction_id"] = f"{account_id}-t{chance.randrange(2, version + 2)}"
        amount = chance.randrange(1, 1_000)
        found.append(opened(account_id) if version == 1 else recorded(account_id, version, amount, **kind))
    return found


def records_of(events: Iterable[Event]) -> list[Record]:
    """Return events as they are on a topic: keyed by account."""
    return [(event.account_id.encode(), encode(event)) for event in events]
