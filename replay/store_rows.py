"""Events of a store onto rows of the read model: what an account waits for may have come, so it is read again."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from replay.certificate import Position
from replay.rows import Beside, Folded, fold, parked_frame, touched
from replay.source import Batch
from replay.store_source import StoreSource
from schemas import PoisonEvent, decode_batch
from schemas.columns import RAW_SCHEMA

__all__ = ["Memory", "fold_batch", "unfolded"]


#: Rows that a memory keeps: a few dozen megabytes.
MEMORY_ROWS_MAX = 200_000

#: Batches that may not be written yet: one that is being written, and one that is made and waits.
UNWRITTEN_BATCHES_MAX = 2

#: Batches until older rows of an account are dropped for the newest, which takes as long as all the rest.
MEMORY_PARTS_MAX = 8

_IS_NEWEST = pl.col("account_id").is_last_distinct()


@dataclass
class Memory:
    """What is known of the rows under a number without asking: they are those right after `position`.

    `rows` are of accounts that were touched lately, the newest of an account last; `parked` are all that are parked.
    `changed` is how many rows each of the newest batches has, which may not be written yet. It holds for as long as
    nobody else moved the position, which whoever uses it finds out before anything is written.
    """

    position: Position
    rows: pl.DataFrame
    parked: pl.DataFrame
    changed: tuple[int, ...] = ()

    @classmethod
    def at(cls, position: Position, connection: Connection, number: int) -> Memory:
        """Return the memory of somebody who begins at a position."""
        return cls(position, read_model.ROW_SCHEMA.to_frame(), read_model.parked(connection, number))

    def of(self, account_ids: pl.Series, connection: Connection, number: int) -> pl.DataFrame:
        """Return the rows of some accounts (`account_id`, each once).

        Those that are not known are read, and may be those of a batch before.
        """
        keys = account_ids.to_frame()
        known = self.rows.join(keys, on="account_id", how="semi", maintain_order="left").filter(_IS_NEWEST)
        others = keys.join(known, on="account_id", how="anti")["account_id"].to_list()
        return pl.concat([known, read_model.rows(connection, number, others)]) if others else known

    def after(self, position: Position, folded: Folded) -> Memory:
        """Return what is known after a batch, whether it is written already or not."""
        rows = pl.concat([self.rows, folded.changed])
        changed = (*self.changed, folded.changed.height)[-UNWRITTEN_BATCHES_MAX:]
        if rows.n_chunks() > MEMORY_PARTS_MAX:
            # Those of the newest batches stay in any case: they may not be in the database yet.
            rows_max = max(MEMORY_ROWS_MAX, sum(changed))
            rows = rows.filter(_IS_NEWEST).tail(rows_max).rechunk()
        parked = self.parked
        if parked.height:
            parked = parked.join(folded.account_ids.to_frame(), on="account_id", how="anti")
        return Memory(position, rows, pl.concat([parked, parked_frame(folded.parked.values())]), changed)


def fold_batch(
    source: StoreSource,
    connection: Connection,
    number: int,
    batch: Batch,
    *,
    memory: Memory | None = None,
    rows: pl.DataFrame | None = None,
    beside: Beside | None = None,
) -> Folded:
    """Return what a batch of a store's events makes of the rows under a number; nothing is written.

    `memory` is that of the position before the batch, by default what the database has, and `rows` are what it gives
    of the accounts of the batch, where that was asked already. The batch has the details that `beside` needs.
    """
    memory = memory or Memory.at(0, connection, number)
    if rows is None:
        rows = memory.of(touched(batch.events, batch.poison), connection, number)
    held = memory.parked
    # Hardly ever is one parked, and then nothing is looked for.
    if held.height:
        held = held.join(touched(batch.events, batch.poison).to_frame(), on="account_id", how="semi")
    if held.is_empty():
        return fold(rows, batch.events, batch.poison, copies=source.copies, beside=beside)
    places = pl.Series([found.position for found in batch.poison], dtype=pl.Int64())
    begins = pl.concat([batch.events["position"], places]).to_frame().min().item()
    details = () if beside is None else beside.details
    earlier, unread = unfolded(source, held["account_id"].to_list(), rows, until=begins - 1, details=details)
    events = pl.concat([batch.events, earlier])
    return fold(rows, events, [*unread, *batch.poison], copies=source.copies, beside=beside)


def unfolded(
    source: StoreSource, account_ids: list[str], rows: pl.DataFrame, *, until: int, details: tuple[str, ...] = ()
) -> tuple[pl.DataFrame, list[PoisonEvent]]:
    """Return the events of some accounts after the `version` of their rows, and what cannot be read of them."""
    events = [decode_batch(RAW_SCHEMA.to_frame(), details).events]
    poison: list[PoisonEvent] = []
    reached = rows.select("account_id", reached="version")
    is_later = pl.col("version") > pl.col("reached").fill_null(0)
    for batch in source.of_accounts(account_ids).read(after=0, until=until, details=details):
        events.append(batch.events.join(reached, on="account_id", how="left").filter(is_later).drop("reached"))
        poison.extend(batch.poison)
    return pl.concat(events), poison
