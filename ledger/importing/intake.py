"""Import of transactions from a topic of rows: batch by batch for ever, each record once.

The rows of a batch become events in one transaction, in which the position of the reader moves too. What is not
taken is on the disk, by place, before that transaction ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec
import polars as pl
from sqlalchemy import Connection

from ledger.importing.batches import LINE, Batch
from ledger.importing.codecs import Deletion, Message, Rows, read_messages
from ledger.importing.decide import decide
from ledger.importing.mapping import Mapping
from ledger.importing.rejects import REJECT_SCHEMA, RejectsLog, place_text
from ledger.importing.resident import Resident
from ledger.importing.rows import OPTIONAL, REQUIRED, check_transactions
from ledger.importing.wire import stored_rows
from ledger.store import Store

__all__ = ["DELETIONS_MAX", "Deleted", "RecordSource", "RowImport", "Taken"]

#: How many deletions are listed; all are counted, and all are in the rejects file.
DELETIONS_MAX = 1_000


class Deleted(msgspec.Struct, frozen=True):
    """A row that the source has deleted: where it says so (`partition:offset`), and what of the row it names."""

    place: str
    what: str
    transaction_id: str | None
    account_id: str | None


class Taken(msgspec.Struct, kw_only=True):
    """What became of records: counts of rows, as `Imported` has them, and of `events` appended.

    `deletions_count` rows were deleted at the source, the first of them in `deletions`: nothing is deleted here.
    """

    records: int = 0
    imported: int = 0
    unchanged: int = 0
    rejected: int = 0
    events: int = 0
    deletions: list[Deleted] = []
    deletions_count: int = 0
    tombstones: int = 0
    naive_times: int = 0
    ignored_columns: set[str] = set()

    def note(self, rows: Rows) -> None:
        """Count what a codec has read beside rows."""
        self.tombstones += rows.tombstones
        self.deletions_count += len(rows.deletions)
        room = DELETIONS_MAX - len(self.deletions)
        self.deletions += [Deleted(place_text(each.line), *each[1:]) for each in rows.deletions[:room]]


class RowImport:
    """Takes records of a topic as rows; `taken` is what became of them so far.

    `now` is asked for the moment of what a batch does not date.
    """

    def __init__(
        self, store: Store, *, codec: str, mapping: Mapping, now: Callable[[], datetime], rejects: RejectsLog
    ) -> None:
        self.taken = Taken()
        self._store, self._codec, self._mapping, self._now, self._rejects = store, codec, mapping, now, rejects
        self._resident = Resident()

    def read_store(self) -> None:
        """Read what the store holds, so that the first batch need not."""
        with self._store.snapshot() as connection:
            self._resident.read(self._store, connection)

    def take(self, messages: Sequence[Message], move: Callable[[Connection], None]) -> None:
        """Append the events of some records and `move` the reader behind them, both or neither.

        The records are in order of place. PositionMoved, from `move`, if another reader was faster.
        """
        rows = read_messages(self._codec, list(messages), self._mapping)
        checked = check_transactions(rows.batch, self._mapping) if rows.batch.rows.height else None
        refused = [rows.batch.bad, _as_rejects(rows.deletions)]
        with self._store.appending() as connection:
            move(connection)
            if checked is not None:
                refused.append(checked.rejects)
                events, rejects, unchanged, appended = self._append(connection, checked.good)
                refused.append(rejects)
            # Before the commit: behind it nobody reads these records again.
            self._rejects.add(pl.concat(refused).sort("line"))
        self.taken.records += len(messages)
        self.taken.note(rows)
        self.taken.rejected += sum(part.height for part in refused) - len(rows.deletions)
        if checked is not None:
            self.taken.imported += events
            self.taken.unchanged += unchanged
            self.taken.events += appended
            self.taken.naive_times += checked.naive_times
            names = {self._mapping.source_name(column) for column in REQUIRED + OPTIONAL}
            self.taken.ignored_columns |= set(rows.batch.rows.columns) - names - {LINE}

    def _append(self, connection: Connection, good: pl.DataFrame) -> tuple[int, pl.DataFrame, int, int]:
        """Append what rows mean; return how many say something new, the rejects, how many nothing, and the events."""
        self._resident.read(self._store, connection)
        known = self._resident.known(self._store, connection, good)
        decided = decide(
            good,
            known.all_events(),
            owners=known.owners,
            broken=known.broken,
            openings=known.openings,
            now=self._now(),
        )
        new = stored_rows(decided.events, known.heads)
        if new.height:
            self._store.append_rows(connection, new)
        return decided.events.height, decided.rejects, decided.unchanged, new.height


class RecordSource:
    """Records of a topic as a source of rows, for a dry run; `taken` counts what is no row."""

    has_header = False

    def __init__(self, parts: Iterator[Sequence[Message]], *, codec: str, mapping: Mapping, where: str) -> None:
        self.where = where
        self.taken = Taken()
        self._parts, self._codec, self._mapping = parts, codec, mapping

    def batches(self, *, delimiter: str = ",") -> Iterator[Batch]:
        """Yield the rows in order of place."""
        del delimiter
        for messages in self._parts:
            rows = read_messages(self._codec, list(messages), self._mapping)
            self.taken.records += len(messages)
            self.taken.note(rows)
            yield rows.batch._replace(bad=pl.concat([rows.batch.bad, _as_rejects(rows.deletions)]))


def _as_rejects(deletions: list[Deletion]) -> pl.DataFrame:
    rows = [
        (each.line, f"{each.what}; the ledger keeps its events", None, each.transaction_id, None) for each in deletions
    ]
    return pl.DataFrame(rows, schema=REJECT_SCHEMA, orient="row")
