"""The event stream as JSON Lines, out and in: the wire bytes themselves, one event a line, in position order."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from ledger.importing.batches import BadRow, bad_rows
from ledger.importing.judge import DryRun, Judge, read_events, readable
from ledger.importing.lost import Lost, Refusal, lines_of
from ledger.importing.rejects import Rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.sources import FileSource
from ledger.store import Store
from schemas.errors import PoisonEventError, UsageError

__all__ = ["export_events", "import_events", "lines_to"]

BATCH_LINES = 50_000


def export_events(
    store: Store, file: Path | str, progress: Progress | None = None, without: Collection[str] = ()
) -> int:
    """Write every event of the store, at one moment, and return how many; "-" is standard output.

    Events of the accounts in `without` are left out, unread; `progress` counts them too. A file is written beside
    its name and then renamed, so a file of that name is whole.

    Raises:
        PoisonEventError: an event's bytes hold a line break, so they are no line.
        UsageError: the file cannot be written.
    """
    with lines_to(file) as output, store.snapshot() as connection:
        head = store.head(connection)
        done = written = 0
        left_out = pl.DataFrame({"account_id": list(without)}, schema={"account_id": pl.String()})
        for batch in store.read(connection, until=head):
            raw = batch.join(left_out, on="account_id", how="anti", maintain_order="left") if without else batch
            broken = raw.filter(pl.col("state").bin.contains(b"\n"))
            if broken.height:
                raise PoisonEventError(
                    "an event's bytes hold a line break, so they cannot be a line of the export",
                    where=f"position {broken['position'][0]}, account {broken['account_id'][0]!r}",
                    next_step="see what `verify` says about the account",
                )
            if raw.height:
                output.write(b"\n".join([*raw["state"].to_list(), b""]))
            done += batch.height
            written += raw.height
            if progress is not None:
                progress(done, None)
    return written


@contextmanager
def lines_to(file: Path | str) -> Iterator[BinaryIO]:
    """Yield where lines of events go; "-" is standard output. A file is written beside its name and then renamed.

    UsageError where it cannot be written; what goes wrong with whatever gives the lines passes through as it is.
    """
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    partial = path.with_name(path.name + ".partial")
    try:
        with _writing(path):
            raw = _Partial(partial, path)
        with BufferedWriter(raw) as output:
            yield output
        with _writing(path):
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class _Partial(FileIO):
    """A file in the making: its own errors are about writing, unlike those of whoever has what is to be written."""

    def __init__(self, partial: Path, path: Path) -> None:
        super().__init__(partial, "wb")
        self._path = path

    def write(self, data: Any) -> int:
        """Write some bytes; UsageError where they cannot be written."""
        with _writing(self._path):
            return super().write(data)

    def close(self) -> None:
        """Close the file; UsageError where what was written cannot be kept."""
        with _writing(self._path):
            super().close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write the events: {error.strerror}", where=str(path)) from error


def import_events(
    store: Store,
    file: Path | str,
    *,
    rejects: Path,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Append events in wire form, as they are: bytes, versions and hash chain come out as they were exported.

    A version that the account has is unchanged if its bytes are the same, else a reject; one that its head is past
    and that the store has lost is put back, at the end of the store, if the hash chain proves that it is the event
    that was appended; any other version must be the account's next. A line that is no event is a reject. Memory
    grows with the events that were lost.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    imported = unchanged = restored = done = 0
    dry = DryRun() if dry_run else None
    lost = Lost()
    with Rejects(rejects) as refused:
        for lines in _batches(FileSource(file, format="jsonl")):
            read, bad = read_events(lines)
            events = lines_of(read)
            with store.snapshot() if dry_run else store.appending() as connection:
                judge = Judge(store, connection, events, lost, dry)
                for line in events:
                    judge.take(line)
                if not dry_run and judge.appended:
                    store.append_rows(connection, judge.new)
            refused.add(bad_rows([*bad, *map(_bad, judge.refused)]))
            imported += len(judge.appended)
            unchanged += judge.unchanged
            done += len(lines)
            if progress is not None:
                progress(done, None)
        if lost:
            with store.snapshot() if dry_run else store.appending() as connection:
                found = lost.restore(store, connection, dry_run=dry_run)
            refused.add(bad_rows(list(map(_bad, found.refused))))
            restored = len(found.restored)
            unchanged += found.unchanged
    return Imported(
        imported=imported,
        restored=restored,
        unchanged=unchanged,
        rejected=refused.count,
        rejects=refused.file,
        events=imported + restored,
        profile=[] if dry_run else None,
    )


def _batches(source: FileSource) -> Iterator[list[tuple[int, bytes]]]:
    with source.open() as stream:
        lines = enumerate(stream, start=1)
        is_empty = True
        while batch := list(islice(lines, BATCH_LINES)):
            is_empty = False
            kept = [(number, line.rstrip(b"\r\n")) for number, line in batch]
            yield [(number, line) for number, line in kept if line.strip()]
        if is_empty:
            raise UsageError("the file is empty", where=source.where, next_step="check that it was written whole")


def _bad(refusal: Refusal) -> BadRow:
    return refusal.line.number, refusal.reason, readable(refusal.line.state)
