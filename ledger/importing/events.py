"""The event stream as JSON Lines, out and in: the wire bytes themselves, one event a line, in position order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, select
from sqlalchemy.types import LargeBinary

from ledger import bulk
from ledger.importing.batches import BadRow, bad_rows
from ledger.importing.json_keys import repeated_key
from ledger.importing.rejects import Rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.sources import FileSource
from ledger.store import GENESIS, Store, chain
from ledger.tables import EVENTS
from schemas import decode_batch
from schemas.columns import DETAIL_COLUMNS, RAW_SCHEMA
from schemas.errors import PoisonEventError, UsageError

__all__ = ["export_events", "import_events"]

BATCH_LINES = 50_000
_ROWS = {name: RAW_SCHEMA[name] for name in ("account_id", "version")} | {
    "topic": pl.String(),
    "state": pl.Binary(),
    "chain": pl.Binary(),
}
_KEYS = Table(
    "imported_event_keys",
    MetaData(),
    Column("account_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
)


def export_events(store: Store, file: Path | str, progress: Progress | None = None) -> int:
    """Write every event of the store, at one moment, and return how many; "-" is standard output.

    A file is written beside its name and then renamed, so a file of that name is whole.

    Raises:
        PoisonEventError: an event's bytes hold a line break, so they are no line.
        UsageError: the file cannot be written.
    """
    with _output(file) as output, store.snapshot() as connection:
        head = store.head(connection)
        done = 0
        for raw in store.read(connection, until=head):
            broken = raw.filter(pl.col("state").bin.contains(b"\n"))
            if broken.height:
                raise PoisonEventError(
                    "an event's bytes hold a line break, so they cannot be a line of the export",
                    where=f"position {broken['position'][0]}, account {broken['account_id'][0]!r}",
                    next_step="see what `verify` says about the account",
                )
            output.write(b"\n".join([*raw["state"].to_list(), b""]))
            done += raw.height
            if progress is not None:
                progress(done, None)
    return done


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

    A version that the account has is unchanged if its bytes are the same, else a reject; any other version must be
    the account's next. A line that is no event is a reject.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    imported = unchanged = done = 0
    dry = _Dry() if dry_run else None
    with Rejects(rejects) as refused:
        for lines in _batches(FileSource(file, format="jsonl")):
            events, bad = _read(lines)
            with store.snapshot() if dry_run else store.appending() as connection:
                judge = _Judge(store, connection, events, dry)
                for line in events:
                    judge.take(*line)
                if not dry_run:
                    new = pl.DataFrame(judge.new, schema=_ROWS, orient="row")
                    if new.height:
                        store.append_rows(connection, new)
            refused.add(bad_rows([*bad, *judge.bad]))
            imported += len(judge.new)
            unchanged += judge.unchanged
            done += len(lines)
            if progress is not None:
                progress(done, None)
    return Imported(
        imported=imported,
        unchanged=unchanged,
        rejected=refused.count,
        rejects=refused.file,
        events=imported,
        profile=[] if dry_run else None,
    )


#: Line number, account, version, tag, wire bytes.
_Line = tuple[int, str, int, str, bytes]


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

    def __init__(self, store: Store, connection: Connection, lines: list[_Line], dry: _Dry | None) -> None:
        accounts = list(dict.fromkeys(line[1] for line in lines))
        heads = store.heads(connection, accounts)
        self._heads: dict[str, tuple[int, bytes]] = {row[0]: (row[1], row[2]) for row in heads.iter_rows()}
        self._dry = dry
        if dry is not None:
            self._heads |= {account: dry.heads[account] for account in accounts if account in dry.heads}
        self._stored = _stored(connection, [line for line in lines if line[2] <= self._heads.get(line[1], (0,))[0]])
        self.new: list[tuple[str, int, str, bytes, bytes]] = []
        self.bad: list[BadRow] = []
        self.unchanged = 0

    def take(self, line: int, account_id: str, version: int, tag: str, state: bytes) -> None:
        """Decide one line."""
        head, last = self._heads.get(account_id, (0, GENESIS))
        if version == head + 1:
            after = chain(last, state)
            self._heads[account_id] = (version, after)
            self._stored[account_id, version] = state
            self.new.append((account_id, version, tag, state, after))
            if self._dry is not None:
                self._dry.heads[account_id] = (version, after)
                self._dry.digests[account_id, version] = _digest(state)
        elif version > head:
            reason = f"version {version} of account {account_id!r} would leave a gap: {head + 1} is expected"
            self.bad.append((line, reason, _text(state)))
        elif self._is_stored(account_id, version, state):
            self.unchanged += 1
        else:
            reason = f"conflicting duplicate: version {version} of account {account_id!r} is stored with other bytes"
            self.bad.append((line, reason, _text(state)))

    def _is_stored(self, account_id: str, version: int, state: bytes) -> bool:
        key = (account_id, version)
        if key in self._stored:
            return self._stored[key] == state
        return self._dry is not None and self._dry.digests.get(key) == _digest(state)


def _digest(state: bytes) -> bytes:
    return blake2b(state, digest_size=16).digest()


def _stored(connection: Connection, lines: list[_Line]) -> dict[tuple[str, int], bytes]:
    """Return the wire bytes that the store has for the keys of some lines."""
    if not lines:
        return {}
    keys = pl.DataFrame({"account_id": [line[1] for line in lines], "version": [line[2] for line in lines]}).unique()
    _KEYS.create(connection, checkfirst=False)
    bulk.insert_rows(connection, _KEYS, keys)
    state = EVENTS.c.state.cast(LargeBinary)
    same = (EVENTS.c.originator_id == _KEYS.c.account_id) & (EVENTS.c.originator_version == _KEYS.c.version)
    statement = select(_KEYS.c.account_id, _KEYS.c.version, state).join_from(_KEYS, EVENTS, same)
    found = bulk.select_rows(connection, statement, {name: _ROWS[name] for name in ("account_id", "version", "state")})
    _KEYS.drop(connection)
    return {(account_id, version): data for account_id, version, data in found.iter_rows()}


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


def _read(lines: list[tuple[int, bytes]]) -> tuple[list[_Line], list[BadRow]]:
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
    events: list[_Line] = []
    for event in decoded.events.select("position", "account_id", "version", "event", "state").iter_rows():
        problem = _problem(event[-1])
        if problem is None:
            events.append(event)
        else:
            bad.append((event[0], problem, _text(event[-1])))
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
