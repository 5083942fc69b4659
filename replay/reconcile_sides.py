"""The two sides of a one-shot reconciliation: transactions out of a replay, orders as the ledger knows them.

A side says up to which moment everything that was there has been read. Of the ledger it also says which accounts
nothing is known of: what is wrong with their orders may only seem so.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import polars as pl

from ledger import break_rows, orders, topics
from ledger.store import Store
from projections import TRANSACTIONS, Projection
from projections.order_links import ORDER_LINKS
from projections.orders import ORDERS
from projections.reconciliation import LINKED_SCHEMA
from replay.archive.full_replay import replayed_archive, snapshot_of
from replay.archive.table import Archive
from replay.certificate import Certificate
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.store_source import StoreSource
from replay.topic.connection import Connection
from replay.topic.full_replay import Watch, replayed_topic
from replay.topic.rebuild import found_topic, published_of, published_until

__all__ = [
    "Asked",
    "LedgerSide",
    "OrderSide",
    "Unknown",
    "ledger_of_archive",
    "ledger_of_store",
    "ledger_of_topic",
    "orders_of_ledger",
]

#: Columns of `LINKED_SCHEMA` by those of `TRANSACTIONS`, where these have another name.
_OF_TRANSACTIONS = {"version": "created_version", "position": "created_position"}

#: No account has this id. It stands for accounts that nobody has seen, where some may be missing.
_NOBODY = ""


#: An order that a break is about, whose account that was, and when the order was.
BROKEN_SCHEMA = pl.Schema({name: break_rows.BREAK_SCHEMA[name] for name in ("order_id", "account_id", "order_at")})


class Unknown(NamedTuple):
    """Accounts that a replay cannot vouch for: `accounts` are known by name, of others only the certificate tells."""

    accounts: pl.Series
    certificate: Certificate | None = None
    served: pl.Series | None = None

    def among(self, account_ids: pl.Series) -> pl.Series:
        """Return every account that nothing is known of, those of some that orders name included."""
        certificate = self.certificate
        if certificate is None or not (certificate.unread or certificate.damaged):
            return self.accounts
        named = account_ids.drop_nulls().unique()
        if certificate.unread and self.served is not None:
            # Whoever was not seen may have all of their events where nothing could be read.
            lost = named.filter(~named.is_in(self.served.implode()))
        else:
            lost = named.filter([certificate.may_have_lost(each) for each in named.to_list()])
        return pl.concat([self.accounts, lost, pl.Series([_NOBODY], dtype=pl.String())])


class Asked(NamedTuple):
    """Which transactions are asked for, and whether `version` is to be that of their first event, not their last."""

    wanted: pl.Expr
    by_first_event: bool = False

    @property
    def projection(self) -> Projection:
        """What has to be folded for it."""
        return TRANSACTIONS if self.by_first_event else ORDER_LINKS

    def of(self, state: pl.LazyFrame) -> pl.LazyFrame:
        """Return the transactions (`LINKED_SCHEMA`) that a state of the projection has."""
        names = _OF_TRANSACTIONS if self.by_first_event else {}
        columns = {name: pl.col(names.get(name, name)) for name in LINKED_SCHEMA}
        if self.by_first_event:
            columns["partition"] = pl.lit(None, pl.Int64())
        return state.filter(self.wanted).select(**columns)


class LedgerSide(NamedTuple):
    """Transactions (`LINKED_SCHEMA`, `order_id` null where none names an order), and what was replayed for them.

    `until` is the moment up to which all of them were read, None where that is not known; `certificate` is None where
    rows of a file stand in for the ledger. `conflicts` (`CONFLICT_SCHEMA`) are orders that a row names which cannot be
    read.
    """

    transactions: pl.DataFrame
    unknown: Unknown
    until: datetime | None
    certificate: Certificate | None = None
    conflicts: pl.DataFrame = orders.CONFLICT_SCHEMA.to_frame()


class OrderSide(NamedTuple):
    """Orders (`ORDER_STATE`); `conflicts` (`CONFLICT_SCHEMA`) cannot be judged, `parked` (`PARKED_SCHEMA`) not be read.

    `until` is as of `LedgerSide`. `broken` (`BROKEN_SCHEMA`) are the orders that a break is known of already, and
    `facts_count` is how many facts were known then, None where the orders are those of a file; `rejected` counts the
    rows of a file that could not be read.
    """

    orders: pl.DataFrame
    conflicts: pl.DataFrame
    parked: pl.DataFrame
    until: datetime | None
    broken: pl.DataFrame = BROKEN_SCHEMA.to_frame()
    facts_count: tuple[int, ...] | None = None
    rejected: int = 0


def orders_of_ledger(store: Store) -> OrderSide:
    """Return the orders that were imported into the ledger, or read from their topic."""
    with store.snapshot() as session:
        events = orders.events(session)
        conflicts, parked = orders.conflicts(session), orders.parked(session)
        until, facts_count = orders.read_until(session).orders_at, orders.facts_count(session)
        broken = break_rows.listed(session).select(BROKEN_SCHEMA.names())
    return OrderSide(ORDERS.fold(events.lazy()).collect(), conflicts, parked, until, broken, facts_count)


def ledger_of_store(store: Store, asked: Asked, *, now: datetime, progress: Progress | None = None) -> LedgerSide:
    """Return the store's transactions; it is whole up to `now`, which is a moment before the call."""
    with (
        StoreSource.snapshot(store) as source,
        replayed(source, [asked.projection], progress=progress) as replay,
    ):
        return _side(replay, asked, until=now)


def ledger_of_archive(archive: Archive, asked: Asked, *, now: datetime | None = None) -> LedgerSide:
    """Return an archive's transactions; it says itself up to when it is whole, which is at most `now`.

    UsageError and IncompleteError as `replayed_archive`.
    """
    snapshot = snapshot_of(archive)
    known = snapshot.held.watermark
    with replayed_archive(archive, [asked.projection], snapshot=snapshot) as replay:
        return _side(replay, asked, until=known if known is None or now is None else min(known, now))


def ledger_of_topic(
    store: Store,
    connection: Connection,
    name: str,
    asked: Asked,
    *,
    now: datetime,
    workers: int | None = None,
    watch: Watch | None = None,
) -> LedgerSide:
    """Return a topic's transactions; `now` is a moment before the call.

    It is whole up to `now`, unless our relay publishes to it: then only where the relay has nothing more to publish,
    else up to the first event that it has not published.
    """
    topic, known = found_topic(store, connection, name)
    published = published_of(store, known)
    with replayed_topic(
        connection,
        topic,
        [asked.projection],
        ledger_id=store.ledger_id,
        published=published,
        links=published is not None,
        workers=workers,
        watch=watch,
    ) as replay:
        if known is None or known.own is None:
            return _side(replay, asked, until=now)
        with store.snapshot() as session:
            held_back = topics.parked(session, name)["account_id"]
        return _side(replay, asked, until=published_until(store, known, now), held_back=held_back)


def _side(replay: Replay, asked: Asked, *, until: datetime | None, held_back: pl.Series | None = None) -> LedgerSide:
    certificate = replay.certificate
    served, seen = replay.rows["account_id"], replay.gate.last["account_id"]
    parked = pl.Series(replay.parked_ids, dtype=pl.String())
    known = [parked, seen.filter(~seen.is_in(served.implode())), *([] if held_back is None else [held_back])]
    accounts = pl.concat(known).unique()
    found = [asked.of(bucket.lazy()).collect() for bucket in replay.states.buckets(asked.projection)]
    transactions = pl.concat([LINKED_SCHEMA.to_frame(), *found])
    if isinstance(certificate.position, dict):
        # An offset means nothing without its partition, which not every state tells.
        has_place = pl.col("partition").is_not_null()
        transactions = transactions.with_columns(position=pl.when(has_place).then("position"))
    return LedgerSide(transactions, Unknown(accounts, certificate, served), until, certificate)
