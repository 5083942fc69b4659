"""Relays under test: what is on a topic beside what is stored, and a topic that is a list, with a sender to it.

That sender can be stopped between any two events, as no broker can.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from kafka_broker import Broker
from ledgers import append
from samples import opened, recorded
from sqlalchemy import select
from topics import read_records

from consumers.delivery import Span
from ledger import Store, topics
from ledger.tables import EVENTS

__all__ = ["Crash", "Log", "once", "position", "shuffled_history", "stored", "wait_for", "written"]


class Crash(Exception):
    """The relay's process ends here."""


class Log:
    """A topic of one partition, and a sender to it that may end its relay, or let another run, between two events."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.crash_after: int | None = None
        self.meanwhile: Callable[[], object] | None = None
        self.meanwhile_at = 0

    def deliver(self, account_ids: Sequence[str], states: Sequence[bytes]) -> dict[int, Span]:
        """Append to the list."""
        first = len(self.records)
        for number, record in enumerate(zip(account_ids, states, strict=True)):
            self._between(number)
            self.records.append(record)
        self._between(len(states))
        return {0: Span(first, len(self.records))}

    def _between(self, number: int) -> None:
        if self.meanwhile is not None and number >= self.meanwhile_at:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if self.crash_after is not None:
            if self.crash_after == 0:
                raise Crash
            self.crash_after -= 1


def stored(store: Store) -> dict[str, list[bytes]]:
    """Return each account's bytes in version order, as the store has them."""
    statement = select(EVENTS.c.originator_id, EVENTS.c.state).order_by(EVENTS.c.originator_version)
    streams: dict[str, list[bytes]] = {}
    with store.snapshot() as connection:
        for account_id, state in connection.execute(statement):
            streams.setdefault(account_id, []).append(bytes(state))
    return streams


def written(broker: Broker, topic: str) -> dict[str, list[bytes]]:
    """Return each account's bytes as they stand on the topic, repeats and all."""
    streams: dict[str, list[bytes]] = {}
    for record in read_records(broker, topic):
        streams.setdefault(record.key.decode(), []).append(record.value)
    return streams


def once(streams: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    """Return streams without the repeats."""
    return {account_id: list(dict.fromkeys(stream)) for account_id, stream in streams.items()}


def wait_for(is_so: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is so, and fail if it does not come about."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def position(store: Store, topic: str) -> int:
    """Return up to where a topic was published."""
    with store.snapshot() as connection:
        known = topics.known(connection, topic)
    return known.position if known else 0


def shuffled_history(store: Store, events: int, accounts: int = 40) -> None:
    """Append events of many accounts in a shuffled order."""
    chance = random.Random(20240301)
    versions: dict[str, int] = {}
    ready = []
    for _ in range(events):
        account_id = f"account-{chance.randrange(accounts)}"
        version = versions[account_id] = versions.get(account_id, 0) + 1
        ready.append(opened(account_id) if version == 1 else recorded(account_id, version, chance.randrange(1, 99)))
    append(store, *ready)
