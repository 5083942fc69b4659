"""The intake: transactions from a topic of rows, each record once, as far as there are any or for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ledger import intakes
from ledger.importing import Imported, import_transactions
from ledger.importing.codecs import Message
from ledger.importing.healing import Unread
from ledger.importing.intake import RecordSource, RowImport, Taken
from ledger.importing.mapping import Mapping
from ledger.importing.rejects import Rejects, RejectsLog, place_of
from ledger.intakes import Intake
from ledger.store import Store
from replay.engine import Progress
from replay.topic.client import QUIET_SECONDS, Chunk, PartitionStopped, Reader, Waiting, open_reader
from replay.topic.connection import Connection
from replay.topic.metadata import Topic
from replay.topic.refusals import topic_named
from schemas.errors import BrokerError, RefusedError

__all__ = ["BATCH_RECORDS", "Ended", "TopicRows", "dry_import", "import_from_topic", "topic_of_rows"]

#: Records of one transaction: enough to work by columns, few enough that other writers need not wait long.
BATCH_RECORDS = 20_000
POLL_SECONDS = 0.5

#: What a reader that goes on for ever waits out: a broker comes back, a transaction ends. Nothing else mends itself.
_PASSING = {"unreachable", "stalled"}


@dataclass
class Ended:
    """Where an intake ended: the next offset by partition, and what it could not read.

    `began_at` names the partitions that had lost their first records when they were read for the first time; in
    `unread` they are `deleted`.
    """

    taken: Taken
    offsets: dict[int, int]
    unread: list[Unread]
    began_at: dict[int, int]

    @property
    def verdict(self) -> str:
        """INCOMPLETE where records could not be read, REJECTS where rows were not taken or are deleted, else OK."""
        if self.unread:
            return "INCOMPLETE"
        return "REJECTS" if self.taken.rejected or self.taken.deletions_count else "OK"


@dataclass
class TopicRows:
    """A topic that rows are read from, at one place; the connection, the topic's name and the codec of its values.

    `before` is where the ledger says that it was read to. `offsets` is where reading goes on.
    """

    connection: Connection
    name: str
    codec: str
    before: Intake | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    began_at: dict[int, int] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    waiting: Waiting | None = None
    should_stop: Callable[[], bool] = lambda: False

    def look(self) -> Topic:
        """Return the topic as it is now; RefusedError if it is not the one that was read, or records are missing."""
        topic = topic_of_rows(self.connection, self.name)
        if self.before is not None:
            _check(topic, self.before)
        for partition, bounds in topic.partitions.items():
            if partition not in self.offsets:
                self.offsets[partition] = bounds.first
                if bounds.first > 0:
                    self.began_at[partition] = bounds.first
        return topic

    def read(self, reader: Reader, topic: Topic) -> Iterator[Chunk]:
        """Yield what is committed by now, partition by partition; what cannot be read goes to `unread`.

        `offsets` is behind each chunk when the next one is asked for.
        """
        self.unread = []
        for partition, bounds in sorted(topic.partitions.items()):
            start = self.offsets[partition]
            try:
                for chunk in reader.read(partition, start=start, until=bounds.stable, waiting=self.waiting):
                    yield chunk
                    if self.should_stop():
                        return
            except PartitionStopped as stopped:
                self.unread.append(Unread(partition, stopped.offset, stopped.reason, stopped.details))
            else:
                if bounds.stable < bounds.high:
                    held = f"an open transaction holds back what comes from offset {bounds.stable:,} on"
                    self.unread.append(Unread(partition, bounds.stable, "stalled", held))

    def ended(self, taken: Taken, *, is_told: bool = False) -> Ended:
        """Return where reading ended; whoever `is_told` to stop has no news in what an open transaction still holds."""
        deleted = [
            Unread(at, offset, "deleted", f"the topic begins at offset {offset:,}: the records before it were deleted")
            for at, offset in sorted(self.began_at.items())
        ]
        unread = [part for part in self.unread if not (is_told and part.reason == "stalled")]
        return Ended(taken, self.offsets, [*deleted, *unread], self.began_at)

    def messages(self, chunk: Chunk, records_max: int) -> Iterator[list[Message]]:
        """Yield a chunk's records as a codec takes them, so many at a time, and go on behind what was yielded."""
        for start in range(0, len(chunk.offsets), records_max):
            part = slice(start, start + records_max)
            offsets = chunk.offsets[part]
            self.offsets[chunk.partition] = offsets[-1] + 1
            numbers = (place_of(chunk.partition, offset) for offset in offsets)
            yield [Message(*one) for one in zip(numbers, chunk.keys[part], chunk.values[part], strict=True)]
        # Behind the last record there may be others that are no records, such as the end of a transaction.
        self.offsets[chunk.partition] = chunk.next_offset


def topic_of_rows(connection: Connection, name: str) -> Topic:
    """Return the topic of that name; UsageError if there is none, BrokerError if no broker answers."""
    return topic_named(connection, name, next_step="check the name given with --from-topic")


def import_from_topic(
    store: Store,
    rows: TopicRows,
    *,
    mapping: Mapping,
    now: Callable[[], datetime],
    rejects: Path,
    follow: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
    batch_records: int = BATCH_RECORDS,
    poll_seconds: float = POLL_SECONDS,
) -> Ended:
    """Import the rows of a topic from where the last import of it ended, with `follow` until `should_stop` says so.

    The place in the topic moves in the transaction that appends what was read. With `restart` the topic is read from
    its first offset again, as one never seen: rows that are known change nothing.

    Raises:
        RefusedError: the topic was made again, has lost records that were not read yet, or is read by another codec.
        PositionMoved: another import of the same topic was faster.
        UsageError: there is no such topic, or no such codec.
        BrokerError: no broker answers; with `follow` only at the beginning.
    """
    if restart:
        with store.writing() as connection:
            intakes.forget(connection, rows.name)
    rows.before = _before(store, rows)
    topic = rows.look()
    taking = RowImport(store, codec=rows.codec, mapping=mapping, now=now, rejects=RejectsLog(rejects))
    taking.read_store()
    writer = _Writer(taking, rows, topic, batch_records, progress)
    notes = _Notes(rows.waiting)
    with open_reader(rows.connection, rows.name) as reader:
        while True:
            for chunk in rows.read(reader, topic):
                writer.add(chunk)
            writer.write()
            if rows.should_stop() or not follow or any(part.reason not in _PASSING for part in rows.unread):
                return rows.ended(taking.taken, is_told=follow and rows.should_stop())
            notes.say(rows.ended(taking.taken).unread)
            time.sleep(poll_seconds)
            topic = _looked_again(rows, topic)


def dry_import(
    store: Store, rows: TopicRows, *, mapping: Mapping, now: datetime, rejects: Path, restart: bool = False
) -> tuple[Imported, Ended]:
    """Say what an import of a topic as it is now would do; nothing is written but the rejects."""
    rows.before = None if restart else _before(store, rows)
    topic = rows.look()

    def parts() -> Iterator[list[Message]]:
        with open_reader(rows.connection, rows.name) as reader:
            for chunk in rows.read(reader, topic):
                yield from rows.messages(chunk, BATCH_RECORDS)

    source = RecordSource(parts(), codec=rows.codec, mapping=mapping, where=f"topic {rows.name!r}")
    refused = Rejects(rejects, has_places=True)
    found = import_transactions(store, source, mapping=mapping, now=now, dry_run=True, rejects=refused)
    taken = source.taken
    taken.imported, taken.unchanged, taken.events = found.imported, found.unchanged, found.events
    taken.rejected = found.rejected - taken.deletions_count
    return found, rows.ended(taken)


class _Notes:
    """Says what a follower cannot read, once for as long as it stays so."""

    def __init__(self, waiting: Waiting | None) -> None:
        self._waiting = waiting
        self._since: dict[str, float] = {}
        self._said: set[str] = set()

    def say(self, unread: list[Unread]) -> None:
        """Say what is new after a round, and of open transactions only those that stay: most are short."""
        if self._waiting is None:
            return
        now = time.monotonic()
        texts = {
            f"not read: partition {each.partition} at offset {each.offset:,}: {each.details}": each for each in unread
        }
        self._since = {text: self._since.get(text, now) for text in texts}
        self._said &= texts.keys()
        for text, part in texts.items():
            is_due = part.reason != "stalled" or now - self._since[text] >= QUIET_SECONDS
            if is_due and text not in self._said:
                self._said.add(text)
                self._waiting(text)


class _Writer:
    """Gathers records until they are a batch, and has it taken."""

    def __init__(
        self, taking: RowImport, rows: TopicRows, topic: Topic, batch_records: int, progress: Progress | None
    ) -> None:
        self._taking, self._rows, self._topic_id = taking, rows, topic.topic_id
        self._batch_records, self._progress = batch_records, progress
        self._messages: list[Message] = []

    def add(self, chunk: Chunk) -> None:
        for messages in self._rows.messages(chunk, self._batch_records):
            self._messages += messages
            if len(self._messages) >= self._batch_records:
                self.write()

    def write(self) -> None:
        rows, before = self._rows, self._rows.before
        after = Intake(rows.name, self._topic_id, rows.codec, dict(rows.offsets))
        if before is not None and before.offsets == after.offsets:
            return
        self._taking.take(self._messages, lambda connection: intakes.move(connection, before, after))
        rows.before, self._messages = after, []
        if self._progress is not None:
            self._progress(self._taking.taken.records, None)


def _before(store: Store, rows: TopicRows) -> Intake | None:
    """Return where the topic was read to, and go on there; None where it never was."""
    with store.snapshot() as connection:
        before = intakes.known(connection, rows.name)
    if before is not None and before.codec != rows.codec:
        raise RefusedError(
            f"the topic was read by codec {before.codec} until now, not by {rows.codec}",
            where=f"topic {rows.name!r}",
            next_step=f"say --codec {before.codec}, or --restart to read it again from its first offset",
        )
    if before is not None:
        rows.offsets = dict(before.offsets)
    return before


def _looked_again(rows: TopicRows, topic: Topic) -> Topic:
    try:
        return rows.look()
    except BrokerError as error:
        if rows.waiting is not None:
            rows.waiting(f"the topic cannot be looked at: {error.what}")
        return topic


def _check(topic: Topic, before: Intake) -> None:
    """Refuse a topic that cannot be read on from where the ledger says that it was read to."""
    again = "--restart reads it from its first offset; rows that are known change nothing"
    if topic.topic_id != before.topic_id:
        raise RefusedError(
            f"the topic was made again: its id is {topic.topic_id}, read was {before.topic_id}",
            where=f"topic {topic.name!r}",
            next_step=again,
        )
    for partition, offset in sorted(before.offsets.items()):
        bounds = topic.partitions.get(partition)
        if bounds is None or bounds.high < offset:
            end = f"ends at offset {bounds.high:,}" if bounds else "is not there"
            raise RefusedError(
                f"the topic has lost its last records: partition {partition} {end}, and was read up to {offset:,}",
                where=f"topic {topic.name!r}",
                next_step=again,
            )
        if bounds.first > offset:
            raise RefusedError(
                f"records were deleted before they were read: partition {partition} begins at offset "
                f"{bounds.first:,}, and was read up to {offset:,}",
                where=f"topic {topic.name!r}",
                next_step=f"get the {bounds.first - offset:,} rows elsewhere and import them as a file; then {again}",
            )
