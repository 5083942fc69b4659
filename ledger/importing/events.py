"""The event stream as JSON Lines, out and in: the wire bytes themselves, one event a line, in position order."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl
from sqlalchemy import Connection

from ledger.importing.batches import BadRow, bad_rows
from ledger.importing.json_keys import repeated_key
from ledger.importing.lost import STORED_ROWS, Line, Lost, stored_events
from ledger.importing.rejects import Rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.sources import FileSource
from ledger.store import GENESIS, Store, chain
from schemas import decode_batch
from schemas.columns import DETAIL_COLUMNS, RAW_SCHEMA
from schemas.errors import PoisonEventError, UsageError

__all__ = ["export_events", "import_events"]

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
    with _output(file) as output, store.snapshot() as connection:
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
def _output(file: Path | str) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as output:
            yield output
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"cannot write the events: {error.strerror}", where=str(path)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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
    dry = _Dry() if dry_run else None
    lost = Lost()
    with Rejects(rejects) as refused:
        for lines in _batches(FileSource(file, format="jsonl")):
            events, bad = _read(lines)
            with store.snapshot() if dry_run else store.appending() as connection:
                judge = _Judge(store, connection, events, dry, lost)
                for line in events:
                    judge.take(line)
                if not dry_run:
                    new = pl.DataFrame(judge.new, schema=STORED_ROWS, orient="row")
                    if new.height:
                        store.append_rows(connection, new)
            refused.add(bad_rows([*bad, *judge.bad]))
            imported += len(judge.new)
            unchanged += judge.unchanged
            done += len(lines)
            if progress is not None:
                progress(done, None)
        if lost:
            with store.snapshot() if dry_run else store.appending() as connection:
                found = lost.restore(store, connection, dry_run=dry_run)
            refused.add(bad_rows([(line.number, reason, _text(line.state)) for line, reason in found.refused]))
            restored = found.restored
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


class _Key(msgspec.Struct):
    account_id: str
    version: int


class _Dry:
    """What a dry run would have appended so far: heads, and a digest of each event."""

    def __init__(self) -> None:
        self.heads: dict[str, tuple[int, bytes]] = {}
        self.digests: dict[tuple[str, int], bytes] = {}


class _Judge:
    """Decides the lines of one batch in order, against the heads and the events that the store has."""

    def __init__(self, store: Store, connection: Connection, lines: list[Line], dry: _Dry | None, lost: Lost) -> None:
        accounts = list(dict.fromkeys(line.account_id for line in lines))
        heads = store.heads(connection, accounts)
        self._heads: dict[str, tuple[int, bytes]] = {row[0]: (row[1], row[2]) for row in heads.iter_rows()}
        self._dry = dry
        if dry is not None:
            self._heads |= {account: dry.heads[account] for account in accounts if account in dry.heads}
        self._lost = lost
        keys = {name: [getattr(line, name) for line in lines] for name in ("account_id", "version")}
        found = stored_events(connection, pl.DataFrame(keys, schema={name: STORED_ROWS[name] for name in keys}))
        self._stored = {key: state for key, (state, _) in found.items()}
        self.new: list[tuple[str, int, str, bytes, bytes]] = []
        self.bad: list[BadRow] = []
        self.unchanged = 0

    def take(self, line: Line) -> None:
        """Decide one line."""
        account_id, version, state = line.account_id, line.version, line.state
        head, last = self._heads.get(account_id, (0, GENESIS))
        if version > head and (account_id, version) in self._stored:
            self._refuse(line, f"version {version} of account {account_id!r} is stored, but its head says {head}")
        elif version == head + 1:
            self._append(line, chain(last, state))
        elif version > head:
            self._refuse(line, f"version {version} of account {account_id!r} would leave a gap: {head + 1} is expected")
        elif (is_same := self._is_stored(line)) is None:
            before = self._lost.add(line)
            if before == state:
                self.unchanged += 1
            elif before is not None:
                self._refuse(line, f"conflicting duplicate: the file has version {version} before, with other bytes")
        elif is_same:
            self.unchanged += 1
        else:
            reason = f"conflicting duplicate: version {version} of account {account_id!r} is stored with other bytes"
            self._refuse(line, reason)

    def _append(self, line: Line, after: bytes) -> None:
        account_id, version, state = line.account_id, line.version, line.state
        self._heads[account_id] = (version, after)
        self._stored[account_id, version] = state
        self.new.append((account_id, version, line.tag, state, after))
        if self._dry is not None:
            self._dry.heads[account_id] = (version, after)
            self._dry.digests[account_id, version] = _digest(state)

    def _refuse(self, line: Line, reason: str) -> None:
        self.bad.append((line.number, reason, _text(line.state)))

    def _is_stored(self, line: Line) -> bool | None:
        """Say whether the store has (or would have) these bytes, None where it has no event of this version."""
        key = (line.account_id, line.version)
        if key in self._stored:
            return self._stored[key] == line.state
        if self._dry is not None and key in self._dry.digests:
            return self._dry.digests[key] == _digest(line.state)
        return None


def _digest(state: bytes) -> bytes:
    return blake2b(state, digest_size=16).digest()


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


def _read(lines: list[tuple[int, bytes]]) -> tuple[list[Line], list[BadRow]]:
    """Return the lines that are events, and those that are none with the reason."""
    decoder = msgspec.json.Decoder(_Key)
    rows: list[tuple[int, str | None, int | None, bytes, None]] = []
    for number, data in lines:
        try:
            key = decoder.decode(data)
            rows.append((number, key.account_id, key.version, data, None))
        except (ValueError, RecursionError):
            # The strict decoder says what is wrong with it.
            rows.append((number, None, None, data, None))
    # With every column, since what is appended here is vouched for by its chain from now on.
    decoded = decode_batch(pl.DataFrame(rows, schema=RAW_SCHEMA, orient="row"), DETAIL_COLUMNS)
    texts = dict(lines) if decoded.poison else {}
    bad: list[BadRow] = [
        (poison.position, f"the line is no event: {poison.reason}", _text(texts[poison.position]))
        for poison in decoded.poison
    ]
    events: list[Line] = []
    columns = decoded.events.select("position", "account_id", "version", "event", "state")
    for event in map(Line._make, columns.iter_rows()):
        problem = _problem(event.state)
        if problem is None:
            events.append(event)
        else:
            bad.append((event.number, problem, _text(event.state)))
    return events, bad


def _problem(state: bytes) -> str | None:
    """Return what makes readers of an event that was decoded disagree on it, None where nothing does."""
    try:
        key = repeated_key(state, msgspec.json.decode(state))
    except RecursionError:
        return "the line is nested too deeply for every reader"
    return None if key is None else f"the line has the key {key!r} twice, and readers would not take the same one"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
