"""The engine's target in the database: a generation of the read model, brought forward batch by batch.

The same gate, the same folds and the same merge as a full replay; only the state lives in rows (`replay.rows`). For
each batch the rows of its accounts are read, the new events folded and merged in, rows and position written together.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from ledger.store import Store
from replay.engine import Progress, run
from replay.rows import write
from replay.source import Batch
from replay.store_rows import fold_batch, unfolded
from replay.store_source import StoreSource

__all__ = ["beyond_heads", "bring_forward", "bring_level", "off_head"]

#: Accounts whose events are read at once when a generation is brought level with the store.
LEVEL_ACCOUNTS = 5_000


def bring_forward(
    store: Store,
    connection: Connection,
    found: read_model.Generation,
    *,
    until: int,
    progress: Progress | None = None,
) -> None:
    """Apply the events after a generation's position until `until`, inside the caller's write transaction."""
    source = StoreSource(store, connection)
    target = _Generation(source, connection, found.generation, found.position)
    run(source, target, after=found.position, until=until, progress=progress)
    if target.position < until:
        read_model.advance(connection, found.generation, after=target.position, until=until)


def bring_level(store: Store, connection: Connection, found: read_model.Generation) -> None:
    """Apply to each account of a generation what the store has after the row's version, and move it to the head.

    A generation that was not replayed from the store has no position there; its rows' versions say as much.
    """
    heads = store.heads(connection)
    rows = read_model.rows(connection, found.generation).select("account_id", "version")
    both = heads.join(rows, on="account_id", how="left", suffix="_row").with_columns(pl.col("version_row").fill_null(0))
    is_behind = pl.col("version_row") < pl.col("version")
    behind = both.filter(is_behind).select("account_id", version="version_row").sort("account_id")
    source, until = StoreSource(store, connection), store.head(connection)
    for some in behind.iter_slices(LEVEL_ACCOUNTS):
        events, poison = unfolded(source, some["account_id"].to_list(), some, until=until)
        write(connection, found.generation, fold_batch(source, connection, found.generation, Batch(events, poison, 0)))
    read_model.advance(connection, found.generation, after=found.position, until=until)


def off_head(store: Store, connection: Connection, generation: int) -> list[str]:
    """Return the accounts whose row in a generation at the head is not at the account's head, in order.

    These are the accounts that are parked, and those that lost their last events or all of them.
    """
    rows = read_model.rows(connection, generation).select("account_id", "version", "chain")
    both = rows.join(store.heads(connection), on="account_id", how="full", suffix="_head", coalesce=True)
    differs = pl.col("version").ne_missing(pl.col("version_head")) | pl.col("chain").ne_missing(pl.col("chain_head"))
    return both.filter(differs)["account_id"].sort().to_list()


def beyond_heads(last: pl.DataFrame, heads: pl.DataFrame) -> int:
    """Count the accounts that go on after their head: the store lost it, or another ledger wrote the events."""
    both = last.join(heads, on="account_id", how="left", suffix="_head")
    return both.filter(pl.col("version") > pl.col("version_head").fill_null(0)).height


@dataclass
class _Generation:
    source: StoreSource
    connection: Connection
    number: int
    position: int
    details: tuple[str, ...] = ()

    def apply(self, batch: Batch) -> None:
        write(self.connection, self.number, fold_batch(self.source, self.connection, self.number, batch))
        read_model.advance(self.connection, self.number, after=self.position, until=batch.position)
        self.position = batch.position
