"""The import of orders from their topic: as far as there are any, or for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from consumers.orders_topic import OrdersStep, OrdersTopic
from consumers.reconciliation.read_until import ReadUntil, TopicOfOrders, high_ends
from ledger.orders import Source
from ledger.store import Store
from replay.engine import Progress
from replay.topic.client import Waiting
from replay.topic.connection import Connection
from schemas import PoisonOrder
from schemas.errors import BrokerError

__all__ = ["PARKED_LISTED_MAX", "TakenOrders", "import_orders_from_topic"]

#: Parked records that are listed; the others are counted, and all are in the ledger.
PARKED_LISTED_MAX = 1_000


@dataclass
class TakenOrders:
    """What was taken: events that were new, those that were known, and records that were parked.

    `conflicts` of these say a version in another way than is known. `parked` lists the first records that are no event.
    `offsets` is where reading ended by partition, `held_back` how many offsets of it an open transaction holds back.
    `replaced` is where the orders came from before that a restart has forgotten, None where it was this topic.
    """

    imported: int = 0
    unchanged: int = 0
    conflicts: int = 0
    unreadable: int = 0
    parked: list[PoisonOrder] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    held_back: int = 0
    replaced: Source | None = None

    @property
    def rejected(self) -> int:
        """How many records were parked."""
        return self.conflicts + self.unreadable

    @property
    def verdict(self) -> str:
        """INCOMPLETE where an open transaction holds records back, REJECTS where any were parked, else OK."""
        if self.held_back:
            return "INCOMPLETE"
        return "REJECTS" if self.rejected else "OK"

    def add(self, step: OrdersStep) -> None:
        """Count what a step did."""
        self.imported += step.added.new
        self.unchanged += step.added.repeats
        self.conflicts += step.added.conflicts
        self.unreadable += len(step.parked)
        self.parked += step.parked[: PARKED_LISTED_MAX - len(self.parked)]
        self.offsets = dict(step.position)


def import_orders_from_topic(
    store: Store,
    connection: Connection,
    topic: str,
    *,
    now: Callable[[], datetime],
    follow: bool = False,
    restart: bool = False,
    waiting: Waiting | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TakenOrders:
    """Read the topic of orders to its end as it is now, or with `follow` until it should stop.

    Errors are those of `OrdersTopic`; without `follow` also BrokerError where the brokers give nothing for as long as
    the connection is patient.
    """
    taken = TakenOrders()
    with closing(OrdersTopic(store, connection, topic, restart=restart, waiting=waiting)) as reading:
        taken.replaced = reading.replaced
        until = ReadUntil(store, TopicOfOrders(topic, high_ends(connection)), now=now)
        # The ends are looked at before anything is read, so that they count once it was.
        is_noted = until.step()
        patience, ends = _Patience(connection), reading.committed
        while not should_stop():
            step = reading.step()
            taken.add(step)
            is_noted = until.step() or is_noted
            if progress is not None:
                progress(taken.imported + taken.unchanged + taken.rejected, None)
            is_whole = all(step.position.get(partition, 0) >= end for partition, end in ends.items())
            if follow:
                continue
            if is_whole and (is_noted or reading.held_back):
                taken.held_back = reading.held_back
                break
            patience.moved(step.position)
    return taken


class _Patience:
    """How long reading has not moved, and that this is too long."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._position: dict[int, int] | None = None
        self._since = time.monotonic()

    def moved(self, position: Mapping[int, int]) -> None:
        """Take note of where reading is; BrokerError when it has been there too long."""
        if position != self._position:
            self._position, self._since = dict(position), time.monotonic()
        elif time.monotonic() - self._since >= self._connection.stall_timeout_seconds:
            raise BrokerError(
                f"the topic of orders gave nothing for {self._connection.stall_timeout_seconds:.0f} s",
                where=self._connection.bootstrap_servers,
                next_step="check that the brokers are up, then run it again: it goes on where it is",
            )
