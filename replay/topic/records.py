"""Records of batches by columns: what a client makes an object of each, read for thousands of them at once.

The format is that of Kafka since 0.11 (https://kafka.apache.org/documentation/#recordbatch): a record is its length,
attributes, timestamp and offset (both less those of its batch), key, value and headers; numbers are zigzag varints.
Only the way from one record to the next is walked, the rest is read by column. The checksum of a batch covers its
records, yet they are taken for nothing that they are not: records that do not fill their batch to the byte are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from kafka.errors import CorruptRecordError

__all__ = ["Body", "MalformedBatchError", "Parts", "Records", "places_of", "records_of"]

_Numbers = npt.NDArray[np.int64]

#: Bytes behind the last record: a number that the end of the data cuts off is read into these, and refused then.
_PADDING = bytes(16)

#: Bits that the last byte of a number of ten bytes begins at; none may follow it.
_LAST_SHIFT = 63


class Body(NamedTuple):
    """The records of one batch, uncompressed: where in `data` each begins.

    `offset` is the first that is wanted, `last` the last of the batch, which begins at `base_offset`.
    """

    offset: int
    last: int
    base_offset: int
    data: bytes
    places: list[int]

    @property
    def size(self) -> int:
        """The bytes of its records."""
        return len(self.data)


class Records(NamedTuple):
    """Records as columns, in the order of their batches."""

    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: list[bytes | None]


class MalformedBatchError(Exception):
    """The batch of that `index` holds a record that is not what the format says; its first wanted is at `offset`."""

    def __init__(self, index: int, offset: int) -> None:
        super().__init__(f"a record of the batch at offset {offset} is not what the format says")
        self.index = index
        self.offset = offset


class Parts(Sequence["bytes | None"]):
    """Parts of some bytes, cut out when they are asked for; None where the end is before the start."""

    def __init__(self, data: bytes, starts: list[int], ends: list[int]) -> None:
        self._data = data
        self._starts = starts
        self._ends = ends

    def __getitem__(self, index: int | slice) -> bytes | Parts | None:  # type: ignore[override]  # one of each kind.
        """Return a part, or some of them."""
        if isinstance(index, slice):
            return Parts(self._data, self._starts[index], self._ends[index])
        start, end = self._starts[index], self._ends[index]
        return None if end < start else self._data[start:end]

    def __iter__(self) -> Iterator[bytes | None]:
        """Yield them all."""
        data = self._data
        for start, end in zip(self._starts, self._ends, strict=True):
            yield None if end < start else data[start:end]

    def __len__(self) -> int:
        return len(self._starts)


def places_of(data: bytes, count: int) -> list[int]:
    """Return where each of `count` records begins; CorruptRecordError unless they end where the data does."""
    places: list[int] = []
    at = 0
    try:
        for _ in range(count):
            places.append(at)
            low = data[at]
            if low < 0x80:
                at += 1 + (low >> 1)
            elif (high := data[at + 1]) < 0x80:
                at += 2 + ((low & 0x7F | high << 7) >> 1)
            else:
                at = _behind(data, at)
    except IndexError:
        at = -1
    if at != len(data):
        raise CorruptRecordError(f"{count} records do not fill the {len(data)} bytes of their batch")
    return places


def _behind(data: bytes, at: int) -> int:
    """Return where the record at `at` ends, however many bytes its length takes."""
    length = shift = 0
    while data[at] & 0x80:
        length |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return at + 1 + ((length | data[at] << shift) >> 1)


def records_of(batches: Sequence[Body], until: int) -> Records:
    """Return the records of some batches, less those before a batch's `offset` and those at or past `until`.

    MalformedBatchError for a batch with a record that is none.
    """
    counts = np.array([len(batch.places) for batch in batches], np.int64)
    if not counts.sum():
        return Records([], [], [])
    sizes = np.array([len(batch.data) for batch in batches], np.int64)
    begins = np.repeat(np.cumsum(sizes) - sizes, counts)
    places = np.concatenate([np.array(batch.places, np.int64) for batch in batches]) + begins
    data = b"".join([*(batch.data for batch in batches), _PADDING])
    try:
        cursor, deltas, keys, values = _fields(np.frombuffer(data, np.uint8), places)
        # Each stands at its own offset: one that says another is a record lost, or twice there.
        cursor.check(deltas == np.arange(deltas.size) - np.repeat(np.cumsum(counts) - counts, counts))
    except _MalformedRecordError as error:
        index = int(np.searchsorted(np.cumsum(counts), error.row, side="right"))
        raise MalformedBatchError(index, batches[index].offset) from None
    offsets = np.repeat(np.array([batch.base_offset for batch in batches], np.int64), counts) + deltas
    first = np.repeat(np.array([batch.offset for batch in batches], np.int64), counts)
    wanted = (offsets >= first) & (offsets < until)
    if not wanted.all():
        offsets, keys, values = offsets[wanted], keys[:, wanted], values[:, wanted]
    return Records(_sequence(offsets), Parts(data, *keys.tolist()), list(Parts(data, *values.tolist())))


def _sequence(offsets: _Numbers) -> Sequence[int]:
    """Return the offsets, as a range where they have no hole."""
    if offsets.size and (np.diff(offsets) == 1).all():
        return range(int(offsets[0]), int(offsets[-1]) + 1)
    found: list[int] = offsets.tolist()
    return found


class _MalformedRecordError(Exception):
    """The record of that `row` breaks the format."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


@dataclass
class _Cursor:
    """Where reading is in each of some records, and where they end; `rows` are their numbers."""

    data: npt.NDArray[np.uint8]
    at: _Numbers
    ends: _Numbers
    rows: _Numbers

    def check(self, is_good: npt.NDArray[np.bool_]) -> None:
        """_MalformedRecordError for the first record that is not good."""
        if not is_good.all():
            raise _MalformedRecordError(int(self.rows[is_good.argmin()]))

    def number(self) -> _Numbers:
        """Read a zigzag varint."""
        byte = self.data[self.at]
        number = (byte & 0x7F).astype(np.int64)
        self.at = self.at + 1
        more = np.flatnonzero(byte & 0x80)
        shift = 7
        while more.size:
            if shift > _LAST_SHIFT:
                raise _MalformedRecordError(int(self.rows[more[0]]))
            byte = self.data[self.at[more]]
            number[more] |= (byte & 0x7F).astype(np.int64) << shift
            self.at[more] += 1
            more = more[(byte & 0x80) != 0]
            shift += 7
        self.check(self.at <= self.ends)
        return (number >> 1) ^ -(number & 1)

    def bytes(self) -> _Numbers:
        """Read a length and go behind as many bytes: two rows, where they start and end (before it, where null)."""
        size = self.number()
        self.check((size >= -1) & (size <= self.ends - self.at))
        start = self.at
        self.at = start + np.maximum(size, 0)
        return np.stack([start, start + size])


def _fields(data: npt.NDArray[np.uint8], places: _Numbers) -> tuple[_Cursor, _Numbers, _Numbers, _Numbers]:
    """Read the records that begin at some places: offsets (less the batch's), and where keys and values are."""
    cursor = _Cursor(data, places, np.full(places.shape, data.size), np.arange(places.size))
    length = cursor.number()
    cursor.ends = cursor.at + length
    cursor.at = cursor.at + 1  # Attributes, of which there are none yet.
    cursor.number()
    deltas = cursor.number()
    keys, values = cursor.bytes(), cursor.bytes()
    _skip_headers(cursor)
    cursor.check(cursor.at == cursor.ends)
    return cursor, deltas, keys, values


def _skip_headers(cursor: _Cursor) -> None:
    left = cursor.number()
    cursor.check(left >= 0)
    # A header takes two bytes at least, so this ends where the records do.
    while (some := np.flatnonzero(left)).size:
        part = _Cursor(cursor.data, cursor.at[some], cursor.ends[some], cursor.rows[some])
        start, end = part.bytes()
        part.check(end >= start)
        part.bytes()
        cursor.at[some] = part.at
        left[some] -= 1
