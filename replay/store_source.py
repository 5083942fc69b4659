"""The event store as a source: all of it in position order, or some accounts by the store's index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import polars as pl
from sqlalchemy import Connection

from ledger.ahead import read_ahead
from ledger.store import BATCH_EVENTS, Store
from replay.source import Batch
from replay.workers import Range, reading_ranges
from schemas import decode_batch

__all__ = ["StoreSource", "decoded"]

#: Events from which worker processes are faster: they take about as long to start as to read these.
WORKERS_EVENTS_MIN = 300_000

#: Positions that a worker is asked for at once.
RANGE_EVENTS = 50_000


class StoreSource:
    """The event store in one snapshot: all of it in position order, or some accounts by the store's index."""

    name = "store"

    def __init__(
        self,
        store: Store,
        connection: Connection,
        *,
        account_ids: Sequence[str] | None = None,
        batch_events: int = BATCH_EVENTS,
        read_ahead: bool = False,
    ) -> None:
        self.identity = store.ledger_id
        self.connection = connection
        self._store = store
        self._account_ids = None if account_ids is None else sorted(set(account_ids))
        self._batch_events = batch_events
        # Only where nobody else uses the connection meanwhile.
        self._read_ahead = read_ahead

    @classmethod
    @contextmanager
    def snapshot(
        cls, store: Store, *, account_ids: Sequence[str] | None = None, batch_events: int = BATCH_EVENTS
    ) -> Iterator[StoreSource]:
        """Yield a source over one moment of the store, whatever writers do meanwhile."""
        with store.snapshot() as connection:
            yield cls(store, connection, account_ids=account_ids, batch_events=batch_events, read_ahead=True)

    def head(self) -> int:
        """Return the position of the newest event, 0 where there is none."""
        return self._store.head(self.connection)

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        """Yield the events of a position range; each account's in order."""
        if (
            self._read_ahead
            and self._store.is_sqlite
            and self._account_ids is None
            and until - after >= WORKERS_EVENTS_MIN
        ):
            yield from self._read_with_workers(after, until, details)
            return
        if self._account_ids is None:
            read = self._store.read(self.connection, after=after, until=until, batch_events=self._batch_events)
        else:
            read = self._store.read_accounts(self.connection, self._account_ids, after=after, until=until)
        if self._read_ahead:
            yield from read_ahead(decoded(raw, details) for raw in read_ahead(read))
        else:
            yield from (decoded(raw, details) for raw in read)

    def _read_with_workers(self, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        # This process would only wait while the workers start, so it reads the first range itself.
        first = after + RANGE_EVENTS
        starts = range(first, until, RANGE_EVENTS)
        ends = ((start, min(start + RANGE_EVENTS, until)) for start in starts)
        ranges = (Range(start, end, self._store.range_sql(after=start, until=end)) for start, end in ends)
        with reading_ranges(str(self._store.url.database), ranges, details) as answers:
            yield from self._read_here(after, first, details)
            for wanted, decoded in answers:
                if decoded is None:
                    yield from self._read_here(wanted.after, wanted.until, details)
                else:
                    yield Batch(decoded.events, decoded.poison, wanted.until)

    def _read_here(self, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        for raw in self._store.read(self.connection, after=after, until=until):
            yield decoded(raw, details)

    def of_accounts(self, account_ids: Sequence[str]) -> StoreSource:
        """Return the same moment of the store, narrowed to some accounts."""
        return StoreSource(self._store, self.connection, account_ids=account_ids)

    def ends(self, until: int) -> pl.DataFrame:
        """Return the heads as they were at `until`.

        An account that goes on after `until` ended just before its first event there, with a chain that only
        replay knows; every other account ended at its head.
        """
        heads = self._store.heads(self.connection, self._account_ids)
        later = self._store.first_versions(self.connection, after=until, account_ids=self._account_ids)
        ended = later.select("account_id", version=pl.col("version") - 1, chain=pl.lit(None, pl.Binary()))
        return pl.concat([heads.join(later, on="account_id", how="anti"), ended.filter(pl.col("version") > 0)])

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return every copy of some events by the store's index."""
        wanted = keys.unique()
        accounts = wanted["account_id"].unique().to_list()
        batches = self._store.read_accounts(self.connection, accounts)
        found = [raw.join(wanted, on=["account_id", "version"], how="semi") for raw in batches]
        return pl.concat(found).select("account_id", "version", "state")


def decoded(raw: pl.DataFrame, details: tuple[str, ...]) -> Batch:
    """Return raw events (`RAW_SCHEMA`) decoded, up to the position of the last."""
    events, poison = decode_batch(raw, details)
    return Batch(events, poison, raw.select(pl.col("position").max().fill_null(0)).item())
