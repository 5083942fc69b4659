"""Copies of an event stream, as a topic would hold them, made in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

from sqlalchemy import select

from ledger import Store
from ledger.importing.healing import Records, Unread
from ledger.tables import EVENTS, HEADS

__all__ = ["ListCopy", "everything", "stream_of"]


class ListCopy:
    """Records by partition, their offsets their places, in parts of some size, and what could not be read."""

    where = "a list"

    def __init__(
        self,
        partitions: Sequence[Sequence[bytes | None]],
        *,
        size: int = 7,
        unread: Iterable[Unread] = (),
        key: bytes = b"key",
    ) -> None:
        self._partitions, self._size, self._unread, self._key = partitions, size, list(unread), key

    def records(self) -> Iterator[Records | Unread]:
        """Yield all of it."""
        for partition, values in enumerate(self._partitions):
            for start in range(0, len(values), self._size):
                part = list(values[start : start + self._size])
                yield Records(partition, list(range(start, start + len(part))), [self._key] * len(part), part)
        yield from self._unread


def stream_of(store: Store, partitions: int = 3) -> list[list[bytes | None]]:
    """Return the wire bytes of every event, by partition of its account, in position order."""
    found: list[list[bytes | None]] = [[] for _ in range(partitions)]
    with store.snapshot() as connection:
        for batch in store.read(connection):
            for account_id, state in batch.select("account_id", "state").iter_rows():
                found[crc32(account_id.encode()) % partitions].append(state)
    return found


def everything(store: Store) -> list[tuple[object, ...]]:
    """Return every row of the events and of the heads, to see whether anything was written."""
    with store.snapshot() as connection:
        return [tuple(row) for table in (EVENTS, HEADS) for row in connection.execute(select(table))]
