"""The relay: publishes the store to a topic, in position order, keyed by account, the stored bytes as they are.

One batch is read, gated, sent, and acknowledged whole before the position moves, by compare-and-set. A crash
between the two sends a batch again; it never loses or reorders. For a partition is written in the order in which one
relay sends, a relay sends version n + 1 of an account only after version n, and only from a position up to
which everything was acknowledged: so whenever version n + 1 is on the topic for the first time, version n is before
it, however many relays run at once and wherever they are killed. What else is there are repeats.

Damaged bytes, what cannot be read, and what follows a hole are not published. Such accounts are parked: the position
goes on without them, their first unpublished version is kept with it, and when the head is reached they are tried
again, so that a repaired store brings its topic up to date by the same command. While one is parked the verdict is
INCOMPLETE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import polars as pl
from sqlalchemy import Connection

from consumers.claim import claimed_topic
from consumers.delivery import Delivery, Span
from consumers.topics import PARTITIONS, REPLICATION_OF_BROKER
from consumers.unpublished import Batch, decoded, in_version_order, last_published, read
from ledger import topics
from ledger.ahead import read_ahead
from ledger.store import Store
from replay.engine import Progress
from replay.gate import LAST_SCHEMA, Gate, Parked
from replay.topic.client import Waiting
from replay.topic.connection import Connection as KafkaConnection
from replay.topic.metadata import Topic
from schemas import PoisonEvent
from schemas.errors import BrokerError, BrokerRefused, PositionMoved, RefusedError

__all__ = ["Published", "Relay", "Sends", "publish"]

#: Events sent and acknowledged between two moves of the position: what a crash sends again at most.
BATCH_EVENTS = 20_000

POLL_SECONDS = 0.2

#: Seconds after which a follower with nothing new to send looks whether a parked account was repaired.
RETRY_SECONDS = 5.0

#: Seconds between two looks of a follower whether brokers that were away are back.
BROKER_RETRY_SECONDS = 5.0

#: Why an account is parked whose stream is whole but ends before its head.
HEAD_MISMATCH = "head_mismatch"


@dataclass(frozen=True)
class Published:
    """How far a topic is: COMPLETE up to `position`, or INCOMPLETE with the accounts whose later events wait.

    `published` are the events that this run sent, `offsets` the next offset by partition after all that is known to
    be there. `parked` names each account's first event that is not on the topic.
    """

    verdict: str
    topic: str
    topic_id: str
    published: int
    position: int
    offsets: dict[int, int]
    parked: list[Parked]


class Sends(Protocol):
    """Where events go: returns once all are acknowledged, BrokerError if one was not."""

    def deliver(self, account_ids: Sequence[str], states: Sequence[bytes]) -> dict[int, Span]:
        """Write events in this order and return by partition where they are."""


def publish(
    store: Store,
    connection: KafkaConnection,
    topic_name: str,
    *,
    follow: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    partitions: int = PARTITIONS,
    replication: int = REPLICATION_OF_BROKER,
    accept_retention: bool = False,
    accept_topic: bool = False,
    batch_events: int = BATCH_EVENTS,
    poll_seconds: float = POLL_SECONDS,
    waiting: Waiting | None = None,
) -> Published:
    """Bring a topic to the head of the store, making it first if there is none.

    With `follow` it goes on until `should_stop` says so, asking for new events every `poll_seconds`. With
    `accept_topic` what is known of the topic is forgotten and every event is published again. `waiting` is told why the
    brokers keep it waiting, and an empty text when it goes on. RefusedError for a topic or a store that does not fit
    (see `claimed_topic`); PositionMoved if another relay was faster; BrokerError where the brokers do not take the
    events in time: a follower that has begun goes on once they are back, unless they said no (BrokerRefused).
    """
    claimed = partial(
        claimed_topic,
        store,
        connection,
        topic_name,
        partitions=partitions,
        replication=replication,
        accept_retention=accept_retention,
        waiting=waiting,
    )
    topic = claimed(accept_topic=accept_topic)
    with Delivery(connection, topic) as delivery:
        relay = Relay.at(store, topic_name, delivery, batch_events)
        while True:
            try:
                relay.run(follow=follow, should_stop=should_stop, progress=progress, poll_seconds=poll_seconds)
                break
            except BrokerError as error:
                if not follow or isinstance(error, BrokerRefused):
                    raise
                if waiting is not None:
                    waiting(f"publishing waits at position {relay.position:,} of the store: {error.what}")
                if not _is_back(claimed, should_stop):
                    break
                if waiting is not None:
                    waiting("")
    return relay.published(topic.topic_id)


def _is_back(claimed: Callable[[], Topic], should_stop: Callable[[], bool]) -> bool:
    """Wait until the brokers answer for the topic again and it is as it was; False if told to stop before."""
    while True:
        again_at = time.monotonic() + BROKER_RETRY_SECONDS
        while time.monotonic() < again_at:
            if should_stop():
                return False
            time.sleep(POLL_SECONDS)
        # It sends again only once all partitions answer, or each try would add to some of them. Why it waits was said.
        try:
            claimed()
        except BrokerRefused:
            raise
        except BrokerError:
            continue
        return True


@dataclass
class Relay:
    """One run of the relay: where it is, what it remembers of accounts, and what it has sent.

    `offsets` are those known before anything more is sent, `waiting` the parked accounts as the store has them, and
    `last` is the last published version of each account met in this run, with its chain. While `is_first`, nothing was
    published of an account that is not met yet.
    """

    store: Store
    topic: str
    sends: Sends
    batch_events: int
    position: int
    offsets: dict[int, int]
    waiting: pl.DataFrame
    is_first: bool
    sent: int = 0
    last: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LAST_SCHEMA))

    @classmethod
    def at(cls, store: Store, topic: str, sends: Sends, batch_events: int) -> Relay:
        """Return a relay where the last one stopped; PositionMoved if the topic was forgotten meanwhile."""
        with store.snapshot() as connection:
            known, waiting = topics.known(connection, topic), topics.parked(connection, topic)
        if known is None:
            raise _forgotten(topic)
        is_first = known.position == 0
        return cls(store, topic, sends, batch_events, known.position, known.offsets, waiting, is_first)

    def run(
        self,
        *,
        follow: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Publish to the head, then what waits and was repaired, and with `follow` on from there until told to stop."""
        start, retry_at = self.position, time.monotonic()
        while True:
            head = self.head()
            with closing(self.passed(head)) as positions:
                for position in positions:
                    if progress is not None:
                        progress(position - start, head - start)
                    # What is new since the last look at the parked may be what they wait for.
                    retry_at = time.monotonic()
                    if should_stop():
                        break
            is_last = should_stop() or not follow
            if self.position >= head and (is_last or time.monotonic() >= retry_at):
                self.retry_parked()
                retry_at = time.monotonic() + RETRY_SECONDS
            if is_last:
                return
            time.sleep(poll_seconds)

    def head(self) -> int:
        """Return the position of the newest event."""
        with self.store.snapshot() as connection:
            return self.store.head(connection)

    def passed(self, until: int) -> Generator[int]:
        """Publish what is after the position until `until`; yield each position that was reached."""
        if until <= self.position:
            return
        with self.store.snapshot() as connection:
            found = read(self.store, connection, self.position, until, self.batch_events)
            with closing(read_ahead(found)) as batches:  # type: ignore[type-var]  # a generator, which closes.
                for batch in batches:
                    self._publish(batch)
                    yield self.position
        if self.position < until:
            self._commit(until, {}, [], self.waiting.clear())
            yield self.position

    def _publish(self, batch: Batch) -> None:
        """Send what may be sent of a batch, and park what may not."""
        waits = self.waiting["account_id"].implode()
        events = batch.events.filter(~pl.col("account_id").is_in(waits))
        waiting = set(self.waiting["account_id"])
        poison = [found for found in batch.poison if found.account_id not in waiting]
        gate = self._gated(events, poison)
        admitted = in_version_order(gate.admit(events, poison))
        found = gate.parked(None, _no_copies)
        spans = self._send(admitted)
        self._commit(batch.position, spans, list(found), _parked_rows(found, gate.last))
        self.last = gate.last.filter(~pl.col("account_id").is_in(list(found)))
        self.sent += admitted.height

    def _gated(self, events: pl.DataFrame, poison: Sequence[PoisonEvent]) -> Gate:
        """Return a gate that knows what was published of the accounts of a batch."""
        broken = [(found.account_id, found.version, found.position) for found in poison]
        schema = {name: events.schema[name] for name in ("account_id", "version", "position")}
        keys = pl.concat([events.select(*schema), pl.DataFrame(broken, schema=schema, orient="row")])
        unmet = keys.join(self.last, on="account_id", how="anti")
        if unmet.height and not self.is_first:
            with self.store.snapshot() as connection:
                met = last_published(self.store, connection, unmet, self.position)
            self.last = pl.concat([self.last, met])
        return Gate(last=self.last)

    def _send(self, admitted: pl.DataFrame) -> dict[int, Span]:
        if admitted.is_empty():
            return {}
        return self.sends.deliver(admitted["account_id"].to_list(), admitted["state"].to_list())

    def retry_parked(self) -> None:
        """Publish what parked accounts have before the position, as far as the store was repaired."""
        if self.waiting.is_empty():
            return
        with self.store.snapshot() as connection:
            for account_id, version in self._repaired(connection):
                self._catch_up(connection, account_id, version)

    def _repaired(self, connection: Connection) -> list[tuple[str, int]]:
        """Return the parked accounts whose next event is there and good now, and its version."""
        gate, events, poison = self._at_stop(connection)
        admitted = gate.admit(events, poison)
        return admitted.select("account_id", "version").rows()

    def _at_stop(self, connection: Connection) -> tuple[Gate, pl.DataFrame, list[PoisonEvent]]:
        """Return the event at which each parked account stopped, and a gate that knows the one before it.

        Where that one is lost, nothing proves the event, and the gate takes it for one behind a hole.
        """
        stops = self.waiting.select("account_id", "version")
        before = stops.select("account_id", version=pl.col("version") - 1)
        known = self.store.read_keys(connection, before).select(LAST_SCHEMA.names())
        raw = self.store.read_keys(connection, stops).filter(pl.col("position") <= self.position)
        batch = decoded(self.store, connection, raw, self.position)
        return Gate(last=known), batch.events, batch.poison

    def _catch_up(self, connection: Connection, account_id: str, version: int) -> None:
        """Publish an account from a version on, in version order, page by page, until it stops again or ends."""
        before = pl.DataFrame({"account_id": [account_id], "version": [version - 1]}, schema_overrides=_KEYS)
        last = self.store.read_keys(connection, before).select(LAST_SCHEMA.names())
        self.is_first = False
        while True:
            raw = self.store.read_account(
                connection, account_id, after_version=version - 1, until=self.position, events=self.batch_events
            )
            batch = decoded(self.store, connection, raw, self.position)
            gate = Gate(last=last)
            admitted = gate.admit(batch.events, batch.poison)
            found = gate.parked(None, _no_copies)
            spans = self._send(admitted)
            is_all = raw.height < self.batch_events
            last, version = gate.last, _next_version(gate.last, account_id)
            rows = _parked_rows(found, gate.last)
            if not found and not is_all:
                rows = self.waiting.filter(account_id=account_id).with_columns(version=pl.lit(version, pl.Int64()))
            self._commit(self.position, spans, [account_id], rows)
            self.sent += admitted.height
            if found or is_all:
                return

    def _commit(self, until: int, spans: Mapping[int, Span], tried: list[str], parked: pl.DataFrame) -> None:
        """Move the position, and what waits with it; PositionMoved if another relay changed one of them."""
        with self.store.writing() as connection:
            offsets = {partition: span.next for partition, span in spans.items()}
            topics.advance(connection, self.topic, after=self.position, until=until, offsets=offsets)
            # The other relay may have let an account go at this very position, and what this one held back of it
            # would be lost.
            if not topics.parked(connection, self.topic).equals(self.waiting):
                raise PositionMoved(
                    "another relay changed which accounts wait",
                    where=f"topic {self.topic!r}",
                    next_step="run again, one at a time; what this one sent meanwhile are repeats, which do no harm",
                )
            _check_spans(self.topic, self.offsets, spans)
            topics.replace_parked(connection, self.topic, tried, parked)
            found, waiting = topics.known(connection, self.topic), topics.parked(connection, self.topic)
        if found is None:
            raise _forgotten(self.topic)
        self.position, self.offsets, self.waiting = until, found.offsets, waiting

    def published(self, topic_id: str) -> Published:
        """Return where the topic is; accounts that have lost their end are parked first."""
        self._judge_ends()
        parked = [
            Parked(account_id=account_id, version=version, reason=reason)
            for account_id, version, reason in self.waiting.iter_rows()
        ]
        verdict = "INCOMPLETE" if parked else "COMPLETE"
        return Published(verdict, self.topic, topic_id, self.sent, self.position, self.offsets, parked)

    def _judge_ends(self) -> None:
        """Park the accounts that have lost their last events, and let go of those that are whole to their head."""
        waiting = set(self.waiting["account_id"])
        with self.store.snapshot() as connection:
            lost = self.store.lost_ends(connection)["account_id"].to_list()
            new = sorted(set(lost) - waiting)
            reached = dict(self.store.last_versions(connection, new, until=self.position).iter_rows())
            whole = self._whole(connection, sorted(waiting - set(lost)))
        if new or whole:
            rows = [(account_id, reached.get(account_id, 0) + 1, HEAD_MISMATCH) for account_id in new]
            frame = pl.DataFrame(rows, schema=topics.PARKED_SCHEMA, orient="row")
            self._commit(self.position, {}, [*new, *whole], frame)

    def _whole(self, connection: Connection, account_ids: list[str]) -> list[str]:
        """Return the parked accounts that wait for nothing: what stopped them was taken out of the store again."""
        heads = dict(self.store.heads(connection, account_ids).select("account_id", "version").iter_rows())
        ends = dict(self.store.last_versions(connection, account_ids, until=self.store.head(connection)).iter_rows())
        stops = self.waiting.filter(pl.col("account_id").is_in(account_ids)).select("account_id", "version")
        return [
            account_id
            for account_id, version in stops.iter_rows()
            if heads.get(account_id, 0) == ends.get(account_id, 0) == version - 1
        ]


_KEYS = {"account_id": pl.String(), "version": pl.Int64()}


def _parked_rows(found: Mapping[str, Parked], last: pl.DataFrame) -> pl.DataFrame:
    """Return parked accounts as the store keeps them: with the first version that was not let through."""
    reached = dict(last.filter(pl.col("account_id").is_in(list(found))).select("account_id", "version").iter_rows())
    rows = [(account_id, reached.get(account_id, 0) + 1, parked.reason) for account_id, parked in found.items()]
    return pl.DataFrame(rows, schema=topics.PARKED_SCHEMA, orient="row")


def _next_version(last: pl.DataFrame, account_id: str) -> int:
    return int(last.filter(account_id=account_id)["version"].max() or 0) + 1  # type: ignore[arg-type]  # an integer.


def _no_copies(keys: pl.DataFrame) -> pl.DataFrame:
    """The store holds each version once, so no repeat can be in conflict."""
    return keys.with_columns(state=pl.lit(None, pl.Binary())).clear()


def _check_spans(topic: str, known: Mapping[int, int], spans: Mapping[int, Span]) -> None:
    """Refuse to go on where events were written before the end that the topic had before they were sent."""
    for partition, span in spans.items():
        if span.first < known.get(partition, 0):
            raise RefusedError(
                f"the topic was made again, or lost its last records, meanwhile: partition {partition} was written "
                f"at offset {span.first:,}, known are {known[partition]:,}",
                where=f"topic {topic!r}",
                next_step="`publish --accept-topic` takes it as it is now and publishes every event again",
            )


def _forgotten(topic: str) -> PositionMoved:
    return PositionMoved("the topic was forgotten meanwhile", where=f"topic {topic!r}", next_step="run it again")
