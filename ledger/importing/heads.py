"""Heads that the store has lost, put back where a copy of the stream proves where an account's stream ends.

An account whose stored events go past its head has lost it: the head is missing, or older than its last event. The
hash chain says that the stored events are what was appended, but not that they are all; that, a copy says that was
read to its end and has exactly these events of the account.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl
from sqlalchemy import BigInteger, Connection, Text, func, select

from ledger import bulk
from ledger.importing.judge import read_events
from ledger.importing.staging import Spill
from ledger.store import GENESIS, Store, chain
from ledger.tables import EVENTS, HEADS
from schemas.columns import RAW_SCHEMA

__all__ = ["HeadFound", "LostHeads"]

_SCHEMA = pl.Schema({name: RAW_SCHEMA[name] for name in ("account_id", "version")})
_SEEN = ("account_id", "version", "partition", "offset")


class HeadFound(NamedTuple):
    """An account that has lost its head, and its last stored event: where the copy has that, and why it is no proof.

    `reason` is "" where it is proved; then `link` is the chain after it. Of an account that is not proved only the
    version is known.
    """

    account_id: str
    version: int
    reason: str
    link: bytes = b""
    event: str | None = None
    transaction_id: str | None = None
    partition: int | None = None
    offset: int | None = None


class LostHeads:
    """The accounts of a store that have lost their heads, and what a copy has of them.

    What the copy has waits on disk; memory grows with the accounts.
    """

    def __init__(self, connection: Connection, folder: str) -> None:
        self._accounts = _headless(connection)
        self._seen = Spill(folder, "heads")
        self._disputed: set[str] = set()
        self._is_whole = True

    def add(self, records: pl.DataFrame, is_same: pl.Series) -> None:
        """Take some records of the copy (`_SEEN` columns), and which of them are what the store has."""
        if self._accounts.is_empty():
            return
        of_account = records["account_id"].is_in(self._accounts["account_id"].implode())
        self._seen.add(records.filter(of_account & is_same).select(_SEEN))
        self._disputed.update(records.filter(of_account & ~is_same)["account_id"])

    def dispute(self, account_id: str) -> None:
        """Take a record that is no event, and whose key is an account's."""
        self._disputed.add(account_id)

    def cut(self) -> None:
        """Take that the copy was not read to its end."""
        self._is_whole = False

    def judged(self, store: Store, connection: Connection) -> Iterator[HeadFound]:
        """Yield each account that has lost its head, in no order."""
        if self._accounts.is_empty():
            return
        # Somebody else may have put a head back since the copy was read.
        now = _headless(connection)
        changed = now.join(self._accounts, on=["account_id", "version"], how="anti")
        for account_id, version in changed.iter_rows():
            yield HeadFound(account_id, version, "the store changed meanwhile, so run it again")
        left = now.join(changed, on="account_id", how="anti")
        unseen = left
        for group in self._seen.groups():
            seen = self._seen.read(group)
            if seen is not None:
                found = left.join(seen.unique("account_id").select("account_id"), on="account_id")
                unseen = unseen.join(found, on="account_id", how="anti")
                yield from self._judged_group(store, connection, found, seen)
        for account_id, version in unseen.iter_rows():
            yield HeadFound(account_id, version, self._doubt(account_id) or "the copy has none of its events")

    def _judged_group(
        self, store: Store, connection: Connection, accounts: pl.DataFrame, seen: pl.DataFrame
    ) -> Iterator[HeadFound]:
        versions = seen.group_by("account_id").agg(pl.col("version").n_unique().alias("seen"))
        provable: dict[str, int] = {}
        for account_id, version, count in accounts.join(versions, on="account_id").iter_rows():
            reason = self._doubt(account_id)
            if not reason and count != version:
                reason = f"the copy has only {count:,} of its events"
            if reason:
                yield HeadFound(account_id, version, reason)
            else:
                provable[account_id] = version
        for raw in store.read_accounts(connection, list(provable)):
            for (account_id,), events in raw.sort("account_id", "version").group_by("account_id", maintain_order=True):
                yield _proved(str(account_id), provable[str(account_id)], events, seen)

    def _doubt(self, account_id: str) -> str:
        if not self._is_whole:
            return "the copy could not be read to its end"
        return "the copy has other records of it than the store" if account_id in self._disputed else ""


def _headless(connection: Connection) -> pl.DataFrame:
    """Return the accounts whose stored events are past their heads: `account_id`, and `version` of the last event."""
    last = (
        select(
            EVENTS.c.originator_id.cast(Text).label("account_id"),
            func.max(EVENTS.c.originator_version.cast(BigInteger)).label("version"),
        )
        .group_by(EVENTS.c.originator_id)
        .subquery()
    )
    is_past = last.c.version > func.coalesce(HEADS.c.version, 0)
    both = last.outerjoin(HEADS, HEADS.c.account_id == last.c.account_id)
    return bulk.select_rows(
        connection, select(last.c.account_id, last.c.version).select_from(both).where(is_past), _SCHEMA
    )


def _proved(account_id: str, version: int, events: pl.DataFrame, seen: pl.DataFrame) -> HeadFound:
    """Judge an account whose every event the copy has: whether the chain goes through all that the store has."""
    link = GENESIS
    for number, (at, state, stored) in enumerate(events.select("version", "state", "chain").iter_rows(), start=1):
        link = chain(link, state)
        if at != number or link != stored:
            return HeadFound(account_id, version, f"the hash chain does not go through its version {number:,}")
    decoded, _ = read_events([(0, events["state"][-1])])
    event, transaction_id = next(decoded.select("event", "transaction_id").iter_rows(), (None, None))
    place = seen.filter((pl.col("account_id") == account_id) & (pl.col("version") == version)).sort(
        "partition", "offset"
    )
    partition, offset = place.select("partition", "offset").row(0)
    return HeadFound(account_id, version, "", link, event, transaction_id, partition, offset)
