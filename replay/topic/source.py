"""One partition of a topic as a source for the engine: records decoded in bulk, poison named by key and offset.

A position is the next offset, so everything before it was read. The event's place in a batch is its own offset.
The key of a record only says where it belongs when its value cannot be read; the value says the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import polars as pl

from ledger.ahead import read_ahead
from replay.source import Batch
from replay.topic.client import Chunk, Reader, Waiting
from schemas import PoisonEvent, decode_values, key_in
from schemas.columns import RAW_SCHEMA

__all__ = ["TOMBSTONE", "PartitionSource", "decoded"]

TOMBSTONE = "the record has no value (a tombstone): an event is never deleted"


class PartitionSource:
    """The committed records of one partition from its first offset up to a fixed end."""

    name = "topic"

    def __init__(self, reader: Reader, topic_id: str, partition: int, *, end: int, keeps_bytes: bool = False) -> None:
        self.identity = f"{topic_id}-{partition}"
        self.waiting: Waiting | None = None
        self._reader = reader
        self._partition = partition
        self._end = self._reached = end
        self._keeps_bytes = keeps_bytes

    def head(self) -> int:
        """Return the end that this source reads to."""
        return self._end

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        """Yield the events from offset `after` to before `until`; PartitionStopped where it cannot be read on."""
        chunks = self._reader.read(self._partition, start=after, until=until, waiting=self.waiting)
        self._reached = after
        for chunk in read_ahead(chunks):
            self._reached = chunk.next_offset
            yield decoded(chunk, details, keeps_bytes=self._keeps_bytes)

    def ends(self, until: int) -> None:  # noqa: ARG002 - a topic does not know what it should hold.
        """Return None: only a store, or an earlier certificate, knows where accounts should end."""
        return

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the different contents of some events, by reading the partition once more as far as it was read.

        `state` is a BLAKE2b-128 of the bytes: memory grows with the events asked for, not with their size or number
        of copies.
        """
        wanted = keys.unique()
        found = pl.DataFrame(schema={name: RAW_SCHEMA[name] for name in ("account_id", "version", "state")})
        for chunk in read_ahead(self._reader.read(self._partition, start=0, until=self._reached, waiting=self.waiting)):
            events = decoded(chunk, (), keeps_bytes=True).events.select(found.columns)
            copies = events.join(wanted, on=["account_id", "version"], how="semi")
            contents = [blake2b(state, digest_size=16).digest() for state in copies["state"]]
            hashed = copies.with_columns(pl.Series("state", contents, dtype=pl.Binary()))
            found = pl.concat([found, hashed]).unique()
        return found


def decoded(chunk: Chunk, details: tuple[str, ...] = (), *, keeps_bytes: bool = False) -> Batch:
    """Return a chunk of records as a batch; its events have no bytes unless they are asked for."""
    offsets, values = chunk.offsets, chunk.values
    poison: list[PoisonEvent] = []
    if None in values:
        gone = [place for place, value in enumerate(values) if value is None]
        poison = [_poison(chunk, place, TOMBSTONE) for place in gone]
        kept = [place for place, value in enumerate(values) if value is not None]
        offsets, values = [offsets[place] for place in kept], [values[place] for place in kept]
    bytes_only: Sequence[bytes] = values  # type: ignore[assignment]  # there is no None left.
    events, unreadable = decode_values(offsets, bytes_only, details, keeps_bytes=keeps_bytes)
    if unreadable:
        places = {offset: place for place, offset in enumerate(chunk.offsets)}
        poison += [_poison(chunk, places[found.position], found.reason) for found in unreadable]
    return Batch(events, poison, chunk.next_offset)


def _poison(chunk: Chunk, place: int, reason: str) -> PoisonEvent:
    """Name a record that is no event: by what it says itself as far as that can be read, else by its key."""
    key, value = chunk.keys[place], chunk.values[place]
    account_id, version = (None, None) if value is None else key_in(value)
    if account_id is None and key is not None:
        account_id = key.decode("utf-8", "replace")
    return PoisonEvent(
        position=chunk.offsets[place],
        account_id=account_id,
        version=version,
        reason=reason,
        partition=chunk.partition,
    )
