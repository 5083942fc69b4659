"""Up to when each side has been read: all that was there at that moment is in the database.

A look at the ends of a source at a moment says how far that is, and once every partition was read to them it was so.
Nothing is made of the times of events, which need not be in order. A side that is behind stays where it is, and
one at which nothing happens goes on by the clock. What a transaction that is open on a topic holds back is there too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

from sqlalchemy import Connection as Session

from consumers.reconciliation.ledger_side import is_published_by_us
from consumers.topic_following import quick
from ledger import orders, shadows, topics
from ledger.orders import Side
from ledger.shadows import Shadow
from ledger.store import Store
from replay.topic.connection import Connection
from replay.topic.metadata import describe
from schemas.errors import BrokerError, BrokerRefused

__all__ = ["LOOK_SECONDS", "ReadUntil", "Reading", "StoreReading", "TopicOfLedger", "TopicOfOrders", "high_ends"]

#: Seconds between two looks at the ends of a source.
LOOK_SECONDS = 1.0


class Reading(Protocol):
    """A side as it is read."""

    side: Side

    def ends(self) -> dict[int, int] | None:
        """Return the ends of the source's partitions as they are now; None where they say nothing yet."""

    def positions(self, session: Session) -> Mapping[int, int]:
        """Return up to where each partition was read; empty where what was read is forgotten meanwhile."""


class StoreReading:
    """The ledger as its store has it; `shadow` gives the shadow that follows it."""

    side: Side = "ledger"

    def __init__(self, store: Store, shadow: Callable[[], Shadow]) -> None:
        self._store = store
        self._shadow = shadow

    def ends(self) -> dict[int, int]:
        """Return the head of the store."""
        with self._store.snapshot() as session:
            return {0: self._store.head(session)}

    def positions(self, session: Session) -> Mapping[int, int]:
        """Return where the shadow is."""
        return shadows.positions(session, self._shadow())


class TopicOfLedger:
    """The ledger as a topic has it; `shadow` gives the shadow that follows it, `described` the ends of the topic.

    Where our own relay publishes the topic, what happened is in the store first: the ends say something only once the
    relay has come to where the store's head was at the moment.
    """

    side: Side = "ledger"

    def __init__(
        self, store: Store, shadow: Callable[[], Shadow], described: Callable[[str], tuple[str, dict[int, int]] | None]
    ) -> None:
        self._store = store
        self._shadow = shadow
        self._described = described
        self._head: int | None = None

    def ends(self) -> dict[int, int] | None:
        """Return the ends of the topic, once it has what the store had when they were asked for first."""
        shadow = self._shadow()
        with self._store.snapshot() as session:
            if shadow.topic is not None and is_published_by_us(session, shadow):
                if self._head is None:
                    self._head = self._store.head(session)
                known = topics.known(session, shadow.topic)
                if known is None or known.position < self._head:
                    return None
        found = None if shadow.topic is None else self._described(shadow.topic)
        if found is None or found[0] != shadow.source_id:
            # The shadow itself refuses to go on then.
            return None
        self._head = None
        return found[1]

    def positions(self, session: Session) -> Mapping[int, int]:
        """Return where the shadow is."""
        return shadows.positions(session, self._shadow())


class TopicOfOrders:
    """The topic of orders of a name and id; `described` gives its id and its ends."""

    side: Side = "orders"

    def __init__(self, topic: str, described: Callable[[str], tuple[str, dict[int, int]] | None]) -> None:
        self._topic = topic
        self._described = described
        self._topic_id: str | None = None

    def ends(self) -> dict[int, int] | None:
        """Return the ends of the topic."""
        found = self._described(self._topic)
        if found is None:
            return None
        self._topic_id = found[0]
        return found[1]

    def positions(self, session: Session) -> Mapping[int, int]:
        """Return where the topic was read to, if it is this topic that orders come from."""
        source = orders.source(session)
        if source is None or (source.kind, source.topic_id) != ("topic", self._topic_id):
            return {}
        return orders.positions(session)


class _Look(NamedTuple):
    """A moment, and the ends that there were after it; None while they say nothing yet."""

    at: datetime
    ends: dict[int, int] | None


class ReadUntil:
    """Keeps up to when one side was read in the database; looks at its ends every `look_seconds`."""

    def __init__(
        self, store: Store, reading: Reading, *, now: Callable[[], datetime], look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._store = store
        self._reading = reading
        self._now = now
        self._look_seconds = look_seconds
        self._looked_at: float | None = None
        self._look: _Look | None = None

    def step(self) -> bool:
        """Look at the ends if it is time, and note the moment if all was read to them; return whether it was noted."""
        if self._look is None or self._look.ends is None:
            self._look_at_ends()
        if self._look is None or self._look.ends is None:
            return False
        with self._store.snapshot() as session:
            if not self._is_read(session, self._look.ends):
                return False
        with self._store.writing() as session:
            orders.lock(session)
            # Whoever begins a side anew takes this lock, too.
            if not self._is_read(session, self._look.ends):
                return False
            orders.set_read_until(session, self._reading.side, self._look.at)
        self._look = None
        return True

    def _look_at_ends(self) -> None:
        """Look at the ends if it is time; the moment is that of the first look, until one of them says something."""
        moment = time.monotonic()
        if self._looked_at is not None and moment < self._looked_at + self._look_seconds:
            return
        self._looked_at = moment
        # Noted before anything can fail: a side may remember how far it was at the first look, and that is this moment.
        if self._look is None:
            self._look = _Look(self._now(), None)
        try:
            self._look = _Look(self._look.at, self._reading.ends())
        except BrokerRefused:
            raise
        except BrokerError:
            # Who reads the topic waits for its brokers, and says so.
            return

    def _is_read(self, session: Session, ends: Mapping[int, int]) -> bool:
        positions = self._reading.positions(session)
        return bool(positions) and all(positions.get(partition, 0) >= end for partition, end in ends.items())


def high_ends(connection: Connection) -> Callable[[str], tuple[str, dict[int, int]] | None]:
    """Return what gives a topic's id and the ends of its partitions, with what is held back there; None if it is gone.

    BrokerError where the brokers do not answer soon.
    """

    def described(name: str) -> tuple[str, dict[int, int]] | None:
        topic = describe(quick(connection), name)
        if topic is None:
            return None
        return topic.topic_id, {partition: bounds.high for partition, bounds in topic.partitions.items()}

    return described
