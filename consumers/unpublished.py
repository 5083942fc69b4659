"""What the store has for a topic: batches of what can be read and is this ledger's, and the rest by name.

The relay publishes by these, and by where an account was: its last event that was published proves the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from ledger.store import Store
from replay.gate import LAST_SCHEMA
from schemas import PoisonEvent, decode_batch

__all__ = ["Batch", "decoded", "in_version_order", "last_published", "read"]

_FOREIGN = "it is not the event that the account's head says: it was not appended by this ledger"


class Batch(NamedTuple):
    """Events that can be read and are this ledger's, what is neither, and the position that they reach."""

    events: pl.DataFrame
    poison: list[PoisonEvent]
    position: int


def read(store: Store, connection: Connection, after: int, until: int, batch_events: int) -> Iterator[Batch]:
    """Yield what is after a position (exclusive) until another (inclusive), `batch_events` at a time."""
    for raw in store.read(connection, after=after, until=until, batch_events=batch_events):
        yield decoded(store, connection, raw, raw["position"][-1])


def decoded(store: Store, connection: Connection, raw: pl.DataFrame, position: int) -> Batch:
    """Decode a batch, only to see what cannot be, and set apart what the accounts' heads do not know."""
    events, poison = decode_batch(raw)
    heads = store.heads(connection, events["account_id"].unique().to_list())
    known = events.join(heads, on="account_id", how="left", suffix="_head", maintain_order="left")
    at_end = pl.col("version") == pl.col("version_head")
    is_foreign = (pl.col("version") > pl.col("version_head").fill_null(0)) | (
        at_end & (pl.col("chain") != pl.col("chain_head"))
    )
    foreign = known.filter(is_foreign)
    if foreign.is_empty():
        return Batch(events, poison, position)
    rows = foreign.select("position", "account_id", "version").iter_rows(named=True)
    poison += [PoisonEvent(**row, reason=_FOREIGN) for row in rows]
    return Batch(known.filter(~is_foreign).select(events.columns), poison, position)


def last_published(store: Store, connection: Connection, events: pl.DataFrame, after: int) -> pl.DataFrame:
    """Return the last version up to a position of the accounts of a batch (`LAST_SCHEMA`); none for new ones.

    For a batch that goes on where the account was that is the event before its first. An event that was lost and
    put back comes after its followers, so a batch may also begin in the middle; then the account's whole index says.
    """
    spans = events.group_by("account_id").agg(
        first=pl.col("version").min(), last=pl.col("version").max(), count=pl.col("version").n_unique()
    )
    around = pl.concat(
        [
            spans.select("account_id", version=pl.col("first") - 1),
            spans.select("account_id", version=pl.col("last") + 1),
        ]
    )
    known = store.read_keys(connection, around).filter(pl.col("position") <= after).select(LAST_SCHEMA.names())
    before, behind = pl.col("version") == pl.col("first") - 1, pl.col("version") == pl.col("last") + 1
    beside = spans.join(known, on="account_id")
    usual = spans.filter(pl.col("last") - pl.col("first") + 1 == pl.col("count")).join(
        beside.filter(behind), on="account_id", how="anti"
    )
    usual = usual.join(beside.filter(before), on="account_id", how="left").filter(
        (pl.col("first") == 1) | pl.col("version").is_not_null()
    )
    others = spans.join(usual, on="account_id", how="anti")["account_id"].to_list()
    found = usual.filter(pl.col("version").is_not_null()).select(LAST_SCHEMA.names())
    if not others:
        return found
    last = store.last_versions(connection, others, until=after)
    return pl.concat([found, store.read_keys(connection, last).select(LAST_SCHEMA.names())])


def in_version_order(events: pl.DataFrame) -> pl.DataFrame:
    """Return events in position order, but each account's by version: one put back comes after its followers."""
    ordered = events.with_columns(place=pl.col("position").cum_max().over("account_id", order_by="version"))
    if ordered["place"].equals(events["position"]):
        return events
    return ordered.sort("place", "version").drop("place")
