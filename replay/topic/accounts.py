"""Some accounts of a topic, wherever on it their events are: one pass over all partitions that keeps only theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

import polars as pl

from ledger.ahead import read_ahead
from replay.certificate import Position
from replay.source import Batch
from replay.topic.client import PartitionStopped, open_reader
from replay.topic.connection import Connection
from replay.topic.refusals import stopped_error
from replay.topic.source import decoded
from schemas import PoisonEvent, decode_values
from schemas.columns import RAW_SCHEMA

__all__ = ["AccountsOfTopic", "TopicAccounts", "accounts_between"]

#: Records whose accounts are asked for at each distance from the end.
RECORDS_PER_LOOK = 50


class TopicAccounts:
    """A topic from its beginning until an offset of each partition (the next one), to be narrowed to accounts.

    `homes` is told of each account that is read in which partition all of its events are, null where in several.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        *,
        until: Mapping[int, int],
        homes: dict[str, int | None] | None = None,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._until = dict(until)
        self._homes = {} if homes is None else homes

    def of_accounts(self, account_ids: Sequence[str]) -> AccountsOfTopic:
        """Return the same part of the topic, narrowed to some accounts."""
        return AccountsOfTopic(self._connection, self._topic, account_ids, self._until, homes=self._homes)


class AccountsOfTopic:
    """What a topic has of some accounts; memory grows with their events. Nothing is read before it is asked for."""

    def __init__(
        self,
        connection: Connection,
        topic: str,
        account_ids: Sequence[str],
        until: Mapping[int, int],
        *,
        homes: dict[str, int | None],
    ) -> None:
        self._homes = homes
        self._connection = connection
        self._topic = topic
        self._accounts = pl.DataFrame({"account_id": sorted(set(account_ids))}, schema={"account_id": pl.String()})
        self._until = dict(until)
        self._contents = pl.DataFrame(schema={name: RAW_SCHEMA[name] for name in ("account_id", "version", "state")})

    def read(self, *, after: int, until: Position, details: tuple[str, ...]) -> Iterator[Batch]:  # noqa: ARG002 - a topic is read from its beginning.
        """Yield the accounts' events as one batch, in version order: each may be in several partitions.

        `until` is the position that the source was made with, or before it. An event's `position` is its offset.
        BrokerError or RefusedError where a partition cannot be read that far.
        """
        ends = self._until if not isinstance(until, dict) else until
        events = [decode_values([], [], details).events]
        poison: list[PoisonEvent] = []
        names = set(self._accounts["account_id"])
        with open_reader(self._connection, self._topic) as reader:
            for partition, end in sorted(ends.items()):
                try:
                    for chunk in read_ahead(reader.read(partition, start=0, until=end)):
                        batch = decoded(chunk, details, keeps_bytes=True)
                        events.append(batch.events.join(self._accounts, on="account_id", how="semi"))
                        for name in events[-1]["account_id"].unique():
                            self._homes[name] = partition if self._homes.get(name, partition) == partition else None
                        poison += [found for found in batch.poison if found.account_id in names]
                except PartitionStopped as stopped:
                    raise stopped_error(self._connection, self._topic, stopped) from stopped
        # Of two copies in different partitions the first stays the first, whatever their offsets are.
        found = pl.concat(events).sort("account_id", "version", maintain_order=True)
        self._contents = _hashed(found)
        yield Batch(found, poison, sum(ends.values()))

    def ends(self, until: Position) -> None:  # noqa: ARG002 - a topic does not know what it should hold.
        """Return None: only a store, or an earlier certificate, knows where accounts should end."""
        return

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the different contents of some of the events that were read; `state` is a hash of the bytes."""
        return self._contents.join(keys.unique(), on=["account_id", "version"], how="semi")


def _hashed(events: pl.DataFrame) -> pl.DataFrame:
    contents = [blake2b(state, digest_size=16).digest() for state in events["state"]]
    hashed = events.select("account_id", "version", pl.Series("state", contents, dtype=pl.Binary()))
    return hashed.unique(maintain_order=True)


def accounts_between(connection: Connection, topic: str, partition: int, after: int, until: int) -> list[str]:
    """Return some accounts of records after an offset of a partition and before another, the newest first.

    They are of the last records, and of some at each distance from the end, which is each time twice as far.
    BrokerError or RefusedError where the partition cannot be read there.
    """
    found: dict[str, None] = {}
    distance = 1
    try:
        with open_reader(connection, topic) as reader:
            while (end := until + 1 - distance) > after + 1:
                start = max(after + 1, end - RECORDS_PER_LOOK)
                names = [
                    name
                    for chunk in reader.read(partition, start=start, until=end)
                    for name in decoded(chunk).events["account_id"]
                ]
                found |= dict.fromkeys(reversed(names))
                distance *= 2
    except PartitionStopped as stopped:
        raise stopped_error(connection, topic, stopped) from stopped
    return list(found)
