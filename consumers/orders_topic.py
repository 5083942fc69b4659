"""The orders of a topic: a member of a consumer group that keeps what its partitions say in the database.

Instances share the partitions. Where each is read from is in the database and nowhere else: a batch is one transaction
that takes the lock of the reconciliation, moves the positions of its partitions by compare-and-set, and keeps events,
and records that are none, with where these are. An instance that was too slow, or lost a partition while it held a
batch of it, finds the position moved: the batch is forgotten, and it goes on from where the ledger is.

Brokers that do not answer are waited for. What cannot be read, or is not there any more, stops it: it jumps over
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection as Session

from consumers.topic_following import LOOK_SECONDS, Patience, quick, refuse_lost
from consumers.topic_group import Group, Range
from ledger import orders
from ledger.orders import Added, Source
from ledger.store import Store
from replay.topic.client import PartitionStopped, Waiting
from replay.topic.connection import Connection
from replay.topic.metadata import Topic, describe
from replay.topic.refusals import stopped_error, topic_named
from schemas import ORDER_SCHEMA, PoisonOrder, decode_orders
from schemas.errors import PositionMoved, RefusedError

__all__ = ["OrdersStep", "OrdersTopic"]

_RESTART = "read it anew with `import orders --from-topic NAME --restart`: what it said before is then forgotten"
_NOTHING = Added(0, 0, 0)


class OrdersStep(NamedTuple):
    """What one step did, and where reading is after it.

    `events` that were read, of which `added` says what became of them, and `parked`, the records that are no event;
    `position` and `head`, the end of what is committed, by partition; `lag_events` at most so many are between the two.
    """

    events: int
    added: Added
    parked: Sequence[PoisonOrder]
    position: Mapping[int, int]
    head: Mapping[int, int]
    lag_events: int


class OrdersTopic:
    """Reads the topic of orders from where the ledger has it, or from its beginning.

    `restart` forgets all that the topic said before, or what came from elsewhere (`replaced`). A step takes up to
    `batch_records` of all partitions that the group gives to this instance, and waits up to `poll_seconds` where there
    is nothing; `waiting` is told why the brokers keep it waiting, and an empty text when it goes on. `at` is called by
    the name of each place between read and commit.

    Raises:
        UsageError: there is no such topic.
        RefusedError: orders come from elsewhere, the topic is another one by now, or it lost what comes next.
        BrokerError: the brokers do not answer at first.
    """

    def __init__(
        self,
        store: Store,
        connection: Connection,
        topic: str,
        *,
        restart: bool = False,
        batch_records: int = 5_000,
        poll_seconds: float = 0.2,
        waiting: Waiting | None = None,
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._connection = connection
        self._batch_records = batch_records
        self._poll_seconds = poll_seconds
        self._patience = Patience(waiting, seconds=poll_seconds)
        self._at = at
        self._topic = topic_named(connection, topic, next_step="check the name of the topic of orders")
        #: Where the orders came from that a restart has forgotten, None where that was this topic too.
        self.replaced: Source | None = None
        self._positions = self._begin(restart=restart)
        self._looked_at = time.monotonic()
        self._is_level = False
        self._heads = self.committed
        # Another group than that of the shadow that follows a ledger's topic beside it: whoever leads a group has to
        # know the partitions of each topic that any member reads, and kafka-python knows only those of its own.
        self._group = Group(connection, topic, f"ledger-replay-{store.ledger_id}-orders")

    @property
    def source(self) -> Source:
        """Where these orders come from."""
        return Source("topic", self._topic.name, self._topic.topic_id)

    @property
    def committed(self) -> dict[int, int]:
        """The end of what is committed by partition, as the topic was looked at last."""
        return {partition: bounds.stable for partition, bounds in self._topic.partitions.items()}

    @property
    def held_back(self) -> int:
        """How many offsets transactions that are open on the topic held back, as it was looked at last."""
        return sum(bounds.high - bounds.stable for bounds in self._topic.partitions.values())

    def step(self) -> OrdersStep:
        """Keep at most one batch; where another instance was faster, nothing is kept and the step says so.

        RefusedError where the topic has lost what comes next, was made again, or cannot be read there; BrokerRefused
        where a broker says no. Brokers that do not answer only leave it behind.
        """
        return self._patience.step(self._moved_on, otherwise=self._step, what="the orders wait")

    def close(self) -> None:
        """Leave the group, so that other instances have its partitions at once."""
        self._group.close()

    def _begin(self, *, restart: bool) -> dict[int, int]:
        """Return where reading begins, after noting that orders come from this topic."""
        with self._store.writing() as session:
            orders.lock(session)
            found = orders.source(session)
            if restart and found is not None:
                orders.forget(session)
                if (found.kind, found.topic) != ("topic", self._topic.name):
                    self.replaced = found
                found = None
            _refuse_other(found, self.source)
            positions = dict.fromkeys(self._topic.partitions, 0) | orders.positions(session)
            _refuse_lost(self._topic, positions)
            orders.set_source(session, self.source)
            orders.add_partitions(session, self._topic.partitions)
        return positions

    def _moved_on(self) -> OrdersStep:
        try:
            return self._stepped()
        except PositionMoved:
            self._is_level = False
            self._positions = self._level()
            return self._step()
        except PartitionStopped as stopped:
            # Where records are gone, how the topic is now says more of it.
            self._look()
            raise stopped_error(self._connection, self._topic.name, stopped) from stopped

    def _stepped(self) -> OrdersStep:
        if time.monotonic() >= self._looked_at + LOOK_SECONDS:
            self._look()
        # Before anything is read, so that what is read is not taken for all that there is.
        known = self.committed
        self._heads = known | self._group.heads(sorted(known))
        if self._group.is_moved or not self._is_level:
            self._positions = self._level()
            self._group.seek(self._positions)
        # What is read is only good where it is written: everything else begins again at the stored positions.
        self._is_level = False
        ranges = self._group.read(self._batch_records, self._poll_seconds)
        if not ranges:
            self._is_level = True
            # Other instances go on.
            with self._store.snapshot() as session:
                self._positions = self._stored(session)
            return self._step()
        self._at("read")
        events, poison = _decoded(ranges)
        added = self._write(ranges, events, poison)
        self._is_level = True
        return self._step(events.height, added, poison)

    def _write(self, ranges: Sequence[Range], events: pl.DataFrame, poison: Sequence[PoisonOrder]) -> Added:
        with self._store.writing() as session:
            orders.lock(session)
            self._stored(session)
            for after, chunk in ranges:
                orders.advance(session, chunk.partition, after=after, until=chunk.next_offset)
            added = orders.add_events(session, events)
            orders.add_parked(session, poison)
            self._at("write")
            positions = orders.positions(session)
            self._at("commit")
        self._positions = positions
        self._at("committed")
        return added

    def _look(self) -> None:
        """Refuse a topic that is not what it was, or has lost what comes next."""
        topic = describe(quick(self._connection), self._topic.name)
        self._looked_at = time.monotonic()
        if topic is None:
            raise RefusedError(
                "the topic of orders is gone", where=f"topic {self._topic.name!r}", next_step="bring it back"
            )
        _refuse_other(self.source, Source("topic", topic.name, topic.topic_id))
        with self._store.snapshot() as session:
            positions = self._stored(session)
        # It was described before they were read: other instances may be past its ends by now, and it has more then.
        _refuse_lost(topic, {at: min(position, self._positions.get(at, 0)) for at, position in positions.items()})
        if topic.partitions.keys() != self._topic.partitions.keys():
            self._is_level = False
        self._topic = topic

    def _level(self) -> dict[int, int]:
        """Return the positions as they are stored, new partitions with them."""
        with self._store.snapshot() as session:
            positions = self._stored(session)
        if self._topic.partitions.keys() <= positions.keys():
            return positions
        with self._store.writing() as session:
            orders.lock(session)
            self._stored(session)
            orders.add_partitions(session, self._topic.partitions)
            return orders.positions(session)

    def _stored(self, session: Session) -> dict[int, int]:
        """Return the positions as they are stored; RefusedError where orders come from elsewhere by now."""
        _refuse_other(orders.source(session), self.source)
        return orders.positions(session)

    def _step(self, events: int = 0, added: Added = _NOTHING, parked: Sequence[PoisonOrder] = ()) -> OrdersStep:
        # Another instance may be past the ends that this one has seen.
        lag = sum(max(head - self._positions.get(at, 0), 0) for at, head in self._heads.items())
        return OrdersStep(events, added, parked, dict(self._positions), dict(self._heads), lag)


def _decoded(ranges: Sequence[Range]) -> tuple[pl.DataFrame, list[PoisonOrder]]:
    found = [
        decode_orders(chunk.values, chunk.offsets, partition=chunk.partition, keys=chunk.keys) for _, chunk in ranges
    ]
    events = pl.concat([ORDER_SCHEMA.to_frame(), *(each.events for each in found)])
    return events, [poison for each in found for poison in each.poison]


def _refuse_other(found: Source | None, wanted: Source) -> None:
    """RefusedError where orders come from elsewhere than from this topic."""
    if found is None or found == wanted:
        return
    if (found.kind, found.topic) == (wanted.kind, wanted.topic):
        raise RefusedError(
            f"topic {wanted.topic!r} was made again: its id is {wanted.topic_id}, orders were read from "
            f"{found.topic_id}",
            next_step=_RESTART,
        )
    raise orders.other_source(found, wanted)


def _refuse_lost(topic: Topic, positions: Mapping[int, int]) -> None:
    instead = "have a topic that keeps all, or import files"
    refuse_lost(topic, positions, "orders were read to", restart=_RESTART, instead=instead)
