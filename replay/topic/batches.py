"""Batches of a partition as they lie in the log: each has to begin where the one before it ended.

A checksum covers what is in a batch, not the offsets that it claims, and no client looks at those: over a batch
whose offset was damaged it jumps, and what it jumps over is lost without a word. So the chain of batches is checked
here, and that each has a record for every offset. Only compaction leaves holes between batches or in one, and a
compacted topic has lost events too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError

from replay.topic.records import Body, places_of

__all__ = ["CommittedRecords", "Span", "Spans", "first_missing"]

#: The only format of batches there is since Kafka 0.11.
FORMAT = 2


class Span(NamedTuple):
    """Offsets from `offset` to `last`, all of them records that a reader of committed records is given."""

    offset: int
    last: int

    @property
    def size(self) -> int:
        """No bytes of it are kept."""
        return 0


class _Chain:
    """Batches in order; CorruptRecordError at one that does not begin where the one before it ended."""

    def __init__(self, records: Any, offset: int) -> None:
        self._records = records
        self._offset = offset
        self._is_first = True

    def next_batch(self) -> Any:
        """Return the next batch, None after the last."""
        batch = self._records.next_batch()
        if batch is None:
            return None
        if batch.magic != FORMAT:
            # The format is not under the checksum either, and another one would hide what is aborted.
            raise CorruptRecordError(f"the batch at offset {self._offset} is of format {batch.magic}, not {FORMAT}")
        # A range may begin within a batch, but only its first.
        begins = self._offset if self._is_first and batch.base_offset < self._offset else batch.base_offset
        if begins != self._offset or batch.last_offset < self._offset:
            said = f"{batch.base_offset} to {batch.last_offset}"
            raise CorruptRecordError(f"where offset {self._offset} should be is a batch that says it holds {said}")
        self._offset, self._is_first = batch.next_offset, False
        return batch


class Spans(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types.
    """What kafka-python makes of a fetched range, batch by batch: a `Span` for each that holds committed records.

    The chain of the batches and their checksums are checked; the records are not taken apart.
    """

    def _unpack_records(self, place: Any, records: Any, *_: Any) -> Iterator[Any]:
        chain = _Chain(records, self.fetch_offset)
        while (batch := chain.next_batch()) is not None:
            if not batch.validate_crc():
                raise CorruptRecordError(f"the batch at offset {batch.base_offset} of {place} fails its checksum")
            self.leader_epoch = batch.leader_epoch
            found = None
            if self._is_committed(batch):
                _need_all(batch)
                found = self._taken(batch)
            self.next_fetch_offset = batch.next_offset
            if found is not None:
                yield found
        self.drain()

    def _taken(self, batch: Any) -> Any:
        return Span(max(batch.base_offset, self.fetch_offset), batch.last_offset)

    def _is_committed(self, batch: Any) -> bool:
        if batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
        return not batch.is_control_batch and not self._is_batch_aborted(batch)


def _need_all(batch: Any) -> None:
    """CorruptRecordError where a batch has not as many records as offsets: brokers take no such batch."""
    offsets = batch.last_offset - batch.base_offset + 1
    if batch.records_count != offsets:
        raise CorruptRecordError(
            f"the batch at offset {batch.base_offset} has {batch.records_count} records for {offsets} offsets: some "
            "were removed, as compaction does"
        )


class CommittedRecords(Spans):
    """The same with the records of each batch, uncompressed: a `Body`.

    kafka-python would make two objects of every record, with a dozen fields of which three are used: most of all that
    reading costs. `replay.topic.records` takes them apart by columns.
    """

    def _taken(self, batch: Any) -> Body:
        # Iterating is what uncompresses.
        iter(batch)
        data = bytes(batch._buffer[batch._pos :])  # noqa: SLF001 - where the records are then has no public name.
        first = max(batch.base_offset, self.fetch_offset)
        return Body(first, batch.last_offset, batch.base_offset, data, places_of(data, batch.records_count))


def first_missing(offsets: Sequence[int], spans: Iterable[Span], until: int) -> int | None:
    """Return the first offset before `until` that a span says is a record and `offsets`, in order, does not hold."""
    for first, last in spans:
        end = min(last + 1, until)
        found = offsets[bisect_left(offsets, first) : bisect_left(offsets, end)]
        if len(found) < end - first:
            return next((want for want, offset in enumerate(found, first) if offset != want), first + len(found))
    return None
