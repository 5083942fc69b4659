"""The engine's target in the database: a generation of the read model, brought forward batch by batch.

The same gate, the same folds and the same merge as a full replay; only the state lives in rows. For each batch
the rows of its accounts are read, the new events folded and merged in, rows and position written together.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from ledger.store import Store
from projections import ACCOUNT_STATUS, BALANCES, account_rows
from replay.engine import Progress, run
from replay.full_replay import overflows
from replay.gate import Gate, Parked
from replay.source import Batch
from replay.store_source import StoreSource
from schemas import PoisonEvent, decode_batch
from schemas.columns import RAW_SCHEMA

__all__ = ["beyond_heads", "bring_forward", "bring_level", "off_head", "stored_rows"]

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
    target = _Rows(source, connection, found.generation, found.position)
    run(source, target, after=found.position, until=until, progress=progress)
    if target.position < until:
        read_model.advance(connection, found.generation, after=target.position, until=until)


def bring_level(store: Store, connection: Connection, found: read_model.Generation) -> None:
    """Apply to each account of a generation what the store has after the row's version, and move it to the head.

    A generation that was not replayed from the store has no position there; its rows' versions say as much.
    """
    heads = store.heads(connection)
    rows = read_model.rows(connection, found.generation).select("account_id", reached="version")
    both = heads.join(rows, on="account_id", how="left").with_columns(pl.col("reached").fill_null(0))
    behind = both.filter(pl.col("reached") < pl.col("version")).select("account_id", "reached").sort("account_id")
    target = _Rows(StoreSource(store, connection), connection, found.generation, found.position)
    until = store.head(connection)
    for some in behind.iter_slices(LEVEL_ACCOUNTS):
        events, poison = target.unfolded(some["account_id"].to_list(), some, until=until)
        target.apply(Batch(events, poison, found.position))
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


def stored_rows(rows: pl.DataFrame, gate: Gate) -> pl.DataFrame:
    """Return replayed balances rows as the read model stores them: with the chain at their version."""
    return rows.join(gate.last.select("account_id", "chain"), on="account_id", how="left").select(
        read_model.ROW_SCHEMA.names()
    )


@dataclass
class _Rows:
    source: StoreSource
    connection: Connection
    generation: int
    position: int
    details: tuple[str, ...] = ()

    def apply(self, batch: Batch) -> None:
        batch = self._with_parked_streams(batch)
        keys = [batch.events["account_id"], pl.Series([p.account_id for p in batch.poison], dtype=pl.String())]
        touched = pl.concat(keys).unique().drop_nulls().to_list()
        rows = read_model.rows(self.connection, self.generation, touched)
        gate = Gate(last=rows.select("account_id", "version", "chain"))
        admitted = gate.admit(batch.events, batch.poison)
        # A repeat was folded before, and a hole or a poison event parks; lost tails are a full replay's to find.
        parked = gate.parked(None, self.source.copies)
        changed = self._merged(rows, admitted, gate, parked)
        read_model.write_rows(self.connection, self.generation, changed)
        noted = [(found.account_id, found.version, found.reason) for found in parked.values()]
        names = {"account_id": pl.String(), "version": pl.Int64(), "reason": pl.String()}
        frame = pl.DataFrame(noted, schema=names, orient="row")
        read_model.replace_parked(self.connection, self.generation, touched, frame)
        read_model.advance(self.connection, self.generation, after=self.position, until=batch.position)
        self.position = batch.position

    def _with_parked_streams(self, batch: Batch) -> Batch:
        """Add all earlier events of parked accounts that this batch touches: it may have what they wait for."""
        parked = read_model.parked(self.connection, self.generation)
        again = parked.join(batch.events.select("account_id").unique(), on="account_id", how="semi")
        if again.is_empty():
            return batch
        behind = batch.events.select(pl.col("position").min()).item()
        account_ids = again["account_id"].to_list()
        rows = read_model.rows(self.connection, self.generation, account_ids)
        earlier, unread = self.unfolded(account_ids, rows.select("account_id", reached="version"), until=behind - 1)
        return Batch(pl.concat([batch.events, earlier]), [*batch.poison, *unread], batch.position)

    def unfolded(
        self, account_ids: list[str], versions: pl.DataFrame, *, until: int
    ) -> tuple[pl.DataFrame, list[PoisonEvent]]:
        """Return the events of some accounts after the version that each row `reached`, and what cannot be read."""
        events: list[pl.DataFrame] = []
        poison: list[PoisonEvent] = []
        reached = pl.col("reached").fill_null(0)
        for batch in self.source.of_accounts(account_ids).read(after=0, until=until, details=()):
            later = batch.events.join(versions, on="account_id", how="left").filter(pl.col("version") > reached)
            events.append(later.drop("reached"))
            poison.extend(batch.poison)
        none = decode_batch(pl.DataFrame(schema=RAW_SCHEMA)).events
        return pl.concat([none, *events]), poison

    def _merged(
        self, rows: pl.DataFrame, admitted: pl.DataFrame, gate: Gate, parked: dict[str, Parked]
    ) -> pl.DataFrame:
        balances = BALANCES.merge(_balances_of(rows), BALANCES.fold(admitted.lazy())).collect()
        status = ACCOUNT_STATUS.merge(_status_of(rows), ACCOUNT_STATUS.fold(admitted.lazy()))
        for found in overflows(balances):
            parked.setdefault(found.account_id, found)
        past = [found.account_id for found in parked.values() if found.reason == "overflow"]
        fits = balances.filter(~pl.col("account_id").is_in(past))
        changed = fits.join(admitted.select("account_id").unique(), on="account_id", how="semi")
        return stored_rows(account_rows(changed.lazy(), status).collect(), gate)


def _balances_of(rows: pl.DataFrame) -> pl.LazyFrame:
    """The state of `BALANCES` that rows of the read model stand for."""
    return rows.lazy().select(pl.col(name).cast(dtype) for name, dtype in BALANCES.schema.items())


def _status_of(rows: pl.DataFrame) -> pl.LazyFrame:
    """The state of `ACCOUNT_STATUS` that rows of the read model stand for."""
    known = rows.lazy().filter(pl.col("status_version").is_not_null())
    return known.select(pl.col(name).cast(dtype) for name, dtype in ACCOUNT_STATUS.schema.items())
