"""A file of exported events as the copy of the stream that a store is healed from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ledger.importing.healing import Records, Unread
from ledger.importing.sources import FileSource

__all__ = ["FileCopy"]

LINES_PER_PART = 10_000


class FileCopy:
    """The lines of a file that `export events` wrote, as records of one partition: their offsets are line numbers."""

    def __init__(self, path: Path | str) -> None:
        self._source = FileSource(path, format="jsonl")
        self.where = f"file {str(path)!r}"

    def records(self) -> Iterator[Records | Unread]:
        """Yield the lines that are not blank; UsageError where the file cannot be read."""
        with self._source.open() as stream:
            lines = enumerate(stream, start=1)
            while part := list(islice(lines, LINES_PER_PART)):
                kept = [(number, line.rstrip(b"\r\n")) for number, line in part if line.strip()]
                offsets = [number for number, _ in kept]
                yield Records(0, offsets, [None] * len(kept), [line for _, line in kept])
