"""A file of exported events as the copy of the stream that a store is healed from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from ledger.importing.healing import Records, Unread
from ledger.importing.judge import EventKey
from ledger.importing.sources import FileSource
from schemas.errors import UsageError

__all__ = ["FileCopy"]

LINES_PER_PART = 10_000


class FileCopy:
    """The lines of a file that `export events` wrote, as records of one partition: their offsets are line numbers."""

    def __init__(self, path: Path | str) -> None:
        self._source = FileSource(path, format="jsonl")
        self.where = f"file {str(path)!r}"

    def check(self) -> None:
        """Let a file pass that has an event near its beginning; UsageError for any other.

        Lines of a damaged export may be anything, so one that is an event is enough.
        """
        for part in self.records():
            if isinstance(part, Records) and any(map(_is_event, part.values)):
                return
            break
        raise UsageError(
            "no export of events", where=self.where, next_step="name a file that `export events` wrote, or topic"
        )

    def records(self) -> Iterator[Records | Unread]:
        """Yield the lines that are not blank; UsageError where the file cannot be read."""
        with self._source.open() as stream:
            lines = enumerate(stream, start=1)
            while part := list(islice(lines, LINES_PER_PART)):
                kept = [(number, line.rstrip(b"\r\n")) for number, line in part if line.strip()]
                offsets = [number for number, _ in kept]
                yield Records(0, offsets, [None] * len(kept), [line for _, line in kept])


_decode_key = msgspec.json.Decoder(EventKey).decode


def _is_event(line: bytes | None) -> bool:
    try:
        _decode_key(line or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
