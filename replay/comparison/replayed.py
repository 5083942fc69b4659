"""The other side of a foreign live table: what replay says, as rows of a shadow or as rows replayed just now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Protocol

import polars as pl
from sqlalchemy import Connection, LargeBinary, Select, cast, select

from ledger import bulk, read_model, shadows
from ledger.read_model import ROW_SCHEMA
from ledger.store import Store
from ledger.tables import EVENTS, SHADOW_ACCOUNTS
from replay.certificate import Position
from replay.comparison.streaming import columns_of, streamed
from replay.steps import AccountsSource, Steps, steps
from replay.store_source import StoreSource
from schemas.errors import UsageError

__all__ = ["REPLAYED_SCHEMA", "Moment", "Replayed", "ReplayedNow", "ShadowRows"]

#: A replayed row, as far as a foreign live table is compared with it.
REPLAYED_SCHEMA = pl.Schema(
    {
        name: ROW_SCHEMA[name]
        for name in ("account_id", "balance", "frozen", "status", "locked_at", "status_version", "version")
    }
)
#: Rows that become columns at once, while they are still in the processor's cache, and how often for a batch.
ROWS_PER_FETCH = 2_000
FETCHES_PER_BATCH = 5
#: Events whose accounts are asked for at each distance from the head.
EVENTS_PER_LOOK = 50
#: How far back from the head a transaction is searched for, and in which steps.
EVENTS_SEARCHED = 1_000_000
EVENTS_PER_SEARCH = 10_000
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"


class Moment(Protocol):
    """One moment of what replay says: its rows (`REPLAYED_SCHEMA`) are at `position`, the log then was at `head`."""

    position: Position
    head: Position

    def batches(self, after: str | None = None) -> Iterator[pl.DataFrame]:
        """Yield all rows after a key, in order."""

    def of_accounts(self, account_ids: Sequence[str]) -> pl.DataFrame:
        """Return the rows of some accounts, in no order."""

    def parked(self) -> dict[str, str]:
        """Return the accounts that replay cannot vouch for, and why."""

    def steps(self, account_ids: Sequence[str]) -> Steps:
        """Replay some accounts alone up to the position of the rows."""

    def steps_to_head(self, account_ids: Sequence[str]) -> Steps:
        """Replay some accounts alone up to the head."""

    def since(self, after: int, partition: int) -> list[str]:
        """Return some accounts with events after a position of a partition of the log, the newest first."""

    def moved(self, after: int, until: int) -> list[str]:
        """Return all accounts of the store with events after a position until another."""

    def positions_of(self, transaction_id: str) -> list[int]:
        """Return the positions in the store of a transaction's events, as far as they are among the last ones."""

    def close(self) -> None:
        """End the moment."""


class Replayed(Protocol):
    """What replay says, a moment at a time."""

    #: Whether the rows are of one comparison: then only what was appended meanwhile can still be on its way.
    is_once: bool

    def open(self) -> Moment:
        """Begin a moment, which is not before the call; the caller closes it."""

    def log_partition(self, account_id: str) -> int | None:
        """Return the partition of the log that an account's events are in, null where that is not known."""


class ShadowRows:
    """The rows of a shadow in the store's database.

    `source_of` gives the log of a moment (default: the store) and `head_of` its head. `log_partition` says in which
    partition of it an account is, as soon as it was replayed alone; `since` gives some accounts with events of a
    partition after a position and before another, the newest first. Of a topic neither is known by itself, and without
    both lag is never excluded by other accounts.
    """

    is_once = False

    def __init__(
        self,
        store: Store,
        name: str = "shadow",
        *,
        source_of: Callable[[Connection], AccountsSource] | None = None,
        head_of: Callable[[Connection], Position] | None = None,
        log_partition: Callable[[str], int | None] | None = None,
        since: Callable[[int, int, int], list[str]] | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.source_of = source_of
        self.head_of = head_of
        self.since = since
        self._log_partition = log_partition

    def open(self) -> Moment:
        """Begin a moment; UsageError where there is no such shadow."""
        return _ShadowMoment(self)

    def log_partition(self, account_id: str) -> int | None:
        """Return the partition of the log that an account's events are in, null where that is not known."""
        if self._log_partition is not None:
            return self._log_partition(account_id)
        return 0 if self.source_of is None else None


class _StoreMoment:
    """A snapshot of the store's database."""

    def __init__(self, store: Store) -> None:
        self._stack = ExitStack()
        self.store = store
        self.connection = self._stack.enter_context(store.snapshot())
        self.source: AccountsSource = StoreSource(store, self.connection)
        self.position: Position = store.head(self.connection)
        self.head: Position = self.position

    def steps(self, account_ids: Sequence[str]) -> Steps:
        return steps(self.source, account_ids, until=self.position)

    def steps_to_head(self, account_ids: Sequence[str]) -> Steps:
        return steps(self.source, account_ids, until=self.head)

    def since(self, after: int, partition: int) -> list[str]:  # noqa: ARG002 - a store is one partition.
        # Where live is not far behind, the newest events will do, else some further back: each time twice as far.
        found: dict[str, None] = {}
        head, distance = self.store.head(self.connection), 1
        while head - distance >= after:
            statement = select(EVENTS.c.originator_id).where(EVENTS.c.id <= head + 1 - distance, EVENTS.c.id > after)
            statement = statement.order_by(EVENTS.c.id.desc()).limit(EVENTS_PER_LOOK)
            found |= dict.fromkeys(self.connection.execute(statement).scalars())
            distance *= 2
        return list(found)

    def moved(self, after: int, until: int) -> list[str]:
        statement = select(EVENTS.c.originator_id).where(EVENTS.c.id > after, EVENTS.c.id <= until).distinct()
        return list(self.connection.execute(statement).scalars())

    def positions_of(self, transaction_id: str) -> list[int]:
        head = self.store.head(self.connection)
        is_it = pl.col("transaction_id") == transaction_id
        for until in range(head, max(head - EVENTS_SEARCHED, 0), -EVENTS_PER_SEARCH):
            source = StoreSource(self.store, self.connection)
            batches = source.read(after=max(until - EVENTS_PER_SEARCH, 0), until=until, details=("transaction_id",))
            last = [at for batch in batches for at in batch.events.filter(is_it)["position"].to_list()]
            if last:
                # Its other events may be further back: of the account they are found by.
                (account_id,) = self.store.read_positions(self.connection, last[:1])["account_id"]
                return self.steps_to_head([account_id]).frame.filter(is_it)["position"].to_list()
        return []

    def close(self) -> None:
        self._stack.close()


def _found(connection: Connection, name: str) -> shadows.Shadow:
    found = shadows.find(connection, name)
    if found is None:
        raise UsageError(f"there is no shadow {name!r}", next_step="start one with `watch`")
    return found


class _ShadowMoment(_StoreMoment):
    def __init__(self, rows: ShadowRows) -> None:
        super().__init__(rows.store)
        try:
            found = _found(self.connection, rows.name)
            at = shadows.positions(self.connection, found)
            self.position = at.get(0, 0) if found.source == "store" else at
            if rows.source_of is not None:
                self.source = rows.source_of(self.connection)
            if rows.head_of is not None:
                self.head = rows.head_of(self.connection)
        except BaseException:
            self.close()
            raise
        self._since = rows.since
        self._number = found.number

    def batches(self, after: str | None = None) -> Iterator[pl.DataFrame]:
        # As bytes: the store reads texts one by one, so that one that is none does not end the whole read.
        texts = [
            cast(SHADOW_ACCOUNTS.c[name], LargeBinary)
            if self.store.is_sqlite and kind == pl.String
            else SHADOW_ACCOUNTS.c[name]
            for name, kind in _STORED.items()
        ]
        statement = (
            select(*texts).where(SHADOW_ACCOUNTS.c.generation == self._number).order_by(SHADOW_ACCOUNTS.c.account_id)
        )
        if after is not None:
            statement = statement.where(SHADOW_ACCOUNTS.c.account_id > after)
        rows = self._stack.enter_context(closing(streamed(self.connection, statement, ROWS_PER_FETCH)))
        held: list[pl.DataFrame] = []
        for found in rows:
            held.append(_stored(found, is_bytes=self.store.is_sqlite))
            if len(held) == FETCHES_PER_BATCH:
                yield pl.concat(held).with_columns(_moment())
                held = []
        if held:
            yield pl.concat(held).with_columns(_moment())

    def of_accounts(self, account_ids: Sequence[str]) -> pl.DataFrame:
        found = bulk.select_rows(
            self.connection, self._select(), _STORED, key=SHADOW_ACCOUNTS.c.account_id, keys=account_ids
        )
        return found.with_columns(_moment())

    def parked(self) -> dict[str, str]:
        found = read_model.parked(self.connection, self._number)
        return {account_id: f"{reason} at version {version}" for account_id, version, reason in found.iter_rows()}

    def since(self, after: int, partition: int) -> list[str]:
        if isinstance(self.position, int):
            return super().since(after, partition)
        return [] if self._since is None else self._since(partition, after, self.position.get(partition, 0))

    def _select(self) -> Select[Any]:
        return select(*(SHADOW_ACCOUNTS.c[name] for name in REPLAYED_SCHEMA)).where(
            SHADOW_ACCOUNTS.c.generation == self._number
        )


_STORED = {**REPLAYED_SCHEMA, "locked_at": pl.String()}


def _stored(found: Sequence[Any], *, is_bytes: bool) -> pl.DataFrame:
    columns = zip(_STORED.items(), columns_of(found), strict=True)
    return pl.DataFrame([_series(name, values, kind, is_bytes=is_bytes) for (name, kind), values in columns])


def _series(name: str, values: Sequence[Any], kind: pl.DataType, *, is_bytes: bool) -> pl.Series:
    if is_bytes and kind == pl.String:
        try:
            return pl.Series(name, values, pl.Binary).cast(pl.String)
        except pl.exceptions.PolarsError:
            values = [None if value is None else value.decode(errors="replace") for value in values]
    return pl.Series(name, values, kind)


def _moment() -> pl.Expr:
    return pl.col("locked_at").str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC")


class ReplayedNow:
    """Rows that were replayed from the store for one comparison; what is looked at again is replayed anew, to the head.

    `rows` have at least `REPLAYED_SCHEMA`, `parked` says why of each account that they leave out.
    """

    is_once = True

    def __init__(self, store: Store, rows: pl.DataFrame, parked: dict[str, str], *, position: int) -> None:
        self.store = store
        self.rows = rows.select(REPLAYED_SCHEMA.names()).sort("account_id")
        self.position = position
        self.parked_accounts = parked

    def open(self) -> Moment:
        """Begin a moment."""
        return _ReplayedMoment(self)

    def log_partition(self, account_id: str) -> int | None:
        """Return the one partition of a store."""
        del account_id
        return 0


class _ReplayedMoment(_StoreMoment):
    def __init__(self, replayed: ReplayedNow) -> None:
        super().__init__(replayed.store)
        self._replayed = replayed

    def batches(self, after: str | None = None) -> Iterator[pl.DataFrame]:
        rows = self._replayed.rows
        yield from (rows if after is None else rows.filter(pl.col("account_id") > after)).iter_slices(50_000)

    def of_accounts(self, account_ids: Sequence[str]) -> pl.DataFrame:
        return self.steps(account_ids).rows().select(REPLAYED_SCHEMA.names())

    def parked(self) -> dict[str, str]:
        return self._replayed.parked_accounts
