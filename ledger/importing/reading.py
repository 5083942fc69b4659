"""An input as an import reads it, batch by batch: its rows checked, and what there is to say of its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

from ledger.ahead import mapped_ahead, read_ahead
from ledger.importing.batches import LINE, Batch, Checked
from ledger.importing.mapping import Mapping
from ledger.importing.profile import Profiler
from ledger.importing.rejects import Rejects
from ledger.importing.result import ColumnProfile, Progress
from ledger.importing.sources import Source, require_columns

__all__ = ["Reading"]


#: What a check makes of the rows of a batch.
Found = TypeVar("Found", bound=Checked)


class Reading:
    """Reads inputs that have the columns `required`, and may have those that are `optional`.

    Rejects go to `refused`. `ignored` are columns that mean nothing, `naive_times` counts the times without a zone.
    """

    def __init__(
        self, mapping: Mapping, required: tuple[str, ...], optional: tuple[str, ...], refused: Rejects, *, dry_run: bool
    ) -> None:
        self._mapping, self._required, self._optional, self._refused = mapping, required, optional, refused
        self._profiler = Profiler(wanted=dry_run)
        self._is_profiled = dry_run
        self.ignored: set[str] = set()
        self.naive_times = 0

    @property
    def profile(self) -> list[ColumnProfile] | None:
        """The profile of the columns that a dry run gives."""
        return self._profiler.profile() if self._is_profiled else None

    def checked(
        self, source: Source, check: Callable[[Batch, Mapping], Found], progress: Progress | None
    ) -> Iterator[tuple[Batch, Found]]:
        """Yield every batch that has rows, and what the check makes of it; `progress` is told of all rows so far.

        UsageError where the input is unreadable or empty, or lacks a column that it must have.
        """
        mapping, done = self._mapping, 0
        names = {mapping.source_name(column) for column in self._required + self._optional}
        batches = read_ahead(source.batches(delimiter=mapping.delimiter))
        # Three things at once: a batch is read, the one before is checked, the one before that is with the caller.
        # Closed here: an error must not leave the threads to whoever collects the garbage.
        with closing(mapped_ahead(lambda each: check(each, mapping), batches)) as found_ahead:
            for index, (batch, found) in enumerate(found_ahead):
                if index == 0 and source.has_header:
                    require_columns(batch.rows.columns, self._required, self._optional, mapping, source.where)
                self.ignored |= set(batch.rows.columns) - names - {LINE}
                self._refused.add(batch.bad)
                self._profiler.add(batch.rows)
                if batch.rows.height:
                    self._refused.add(found.rejects)
                    self.naive_times += found.naive_times
                    yield batch, found
                done += batch.rows.height + batch.bad.height
                if progress is not None:
                    progress(done, None)
