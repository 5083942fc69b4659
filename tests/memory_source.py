"""A source of accounts held in memory: events as structs, decoded and chained as those of a store are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
from samples import store_rows

from replay.source import Batch
from schemas import RAW_SCHEMA, Event, decode_batch

__all__ = ["MemorySource"]


class MemorySource:
    """Some events in stream order, at positions from 1, in batches of a size; without chains where it has none."""

    name = "store"
    identity = "memory"

    def __init__(self, events: Sequence[Event], *, batch_events: int = 7, is_chained: bool = True) -> None:
        rows = store_rows(events).with_row_index("position", offset=1)
        chain = pl.col("chain") if is_chained else pl.lit(None, pl.Binary())
        self._rows = rows.with_columns(chain=chain).select(RAW_SCHEMA.names()).cast(dict(RAW_SCHEMA))
        self._batch_events = batch_events

    def of_accounts(self, account_ids: Sequence[str]) -> MemorySource:
        """Return the same events, those of some accounts only."""
        narrowed = MemorySource([], batch_events=self._batch_events)
        narrowed._rows = self._rows.filter(pl.col("account_id").is_in(list(account_ids)))
        return narrowed

    def head(self) -> int:
        """Return the position of the last event."""
        return self._rows.height

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        """Yield the events of a position range."""
        for raw in self._rows.filter(pl.col("position").is_between(after + 1, until)).iter_slices(self._batch_events):
            events, poison = decode_batch(raw, details)
            yield Batch(events, poison, raw["position"][-1])

    def ends(self, until: int) -> pl.DataFrame:
        """Return where each account is at a position."""
        reached = self._rows.filter(pl.col("position") <= until)
        return reached.group_by("account_id").agg(pl.col("version", "chain").last())

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return every copy of some events."""
        return self._rows.join(keys, on=["account_id", "version"], how="semi").select("account_id", "version", "state")
