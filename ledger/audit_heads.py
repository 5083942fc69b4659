"""Heads of the audit trail that are kept outside the database: a file, or whatever else is `Outside`.

A head vouches for its entry and all before it, so one that is kept where nobody who writes to the database can change
it shows a tail that was cut off together with the row of the head, and a chain that was made anew.

The order: entries are committed first, then their heads are written. Whoever is killed in between leaves the outside
behind, which is no damage: the next `keep` writes every head that is missing, and `audit verify` says how far behind
it is. So what stands outside is always in the database too, and where it is not, somebody took it out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Protocol

import msgspec

from ledger import audit
from ledger.audit_chain import Head
from ledger.store import Store
from schemas import format_time
from schemas.errors import StoreError, UsageError

__all__ = ["HeadFile", "Outside", "head_line", "head_of", "keep"]

#: More bytes than a line has.
_LINE_BYTES_MAX = 4_096

#: What every line begins with.
_BEGINNING = b'{"number":'


class Outside(Protocol):
    """A place outside the database that keeps heads of one ledger; `name` says which, for people."""

    @property
    def name(self) -> str:
        """What people call it."""

    def heads(self) -> list[Head]:
        """Return the heads in the order in which they were written, none where the place is not there yet."""

    def write(self, heads: Sequence[Head], at: datetime) -> None:
        """Add heads, and return once they are safe."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    number: Annotated[int, msgspec.Meta(ge=1)]
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    at: str
    ledger: str


def head_line(head: Head, at: datetime, ledger_id: str) -> bytes:
    """Return a head as one JSON object without a line break."""
    return msgspec.json.encode(_Line(number=head.number, hash=head.hash, at=format_time(at), ledger=ledger_id))


def head_of(line: bytes, ledger_id: str, where: str) -> Head | None:
    """Return the head of a line, None for one of another ledger; UsageError for a line that is none."""
    try:
        found = msgspec.json.decode(line, type=_Line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"not a head of the audit trail: {error}",
            where=where,
            next_step="somebody changed it, or it is something else: see [audit] in the configuration",
        ) from error
    return Head(found.number, found.hash) if found.ledger == ledger_id else None


class HeadFile:
    """A file that has one head a line as JSON (`number`, `hash`, `at`, `ledger`), to which lines are only added."""

    def __init__(self, path: Path, ledger_id: str) -> None:
        self.path = path
        self._ledger_id = ledger_id

    @property
    def name(self) -> str:
        """What people call it."""
        return f"file {self.path}"

    def heads(self) -> list[Head]:
        """Return the heads of this ledger in the order of the file, none where there is no file.

        A last line without its end is what a process left that was killed while it wrote, and is not counted.
        UsageError for a line that is none, or a file that cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(
                f"cannot read the heads of the audit trail: {error.strerror}",
                where=str(self.path),
                next_step="check [audit] file, and who may read it",
            ) from error
        *lines, torn = content.split(b"\n")
        self._need_torn(torn)
        found = (head_of(line, self._ledger_id, f"{self.path}:{number}") for number, line in enumerate(lines, 1))
        return [head for head in found if head is not None]

    def write(self, heads: Sequence[Head], at: datetime) -> None:
        """Add heads, a line each, and return once they are on the disk; StoreError where that fails."""
        content = b"".join(head_line(head, at, self._ledger_id) + b"\n" for head in heads)
        try:
            is_new = not self.path.exists()
            with self.path.open("a+b", buffering=0) as file:
                # Another process may be in the middle of a line, which must not be taken for a torn one.
                fcntl.flock(file, fcntl.LOCK_EX)
                self._drop_torn_line(file)
                _write_all(file, content)
                os.fsync(file.fileno())
            if is_new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise StoreError(
                f"cannot write the heads of the audit trail: {error.strerror}",
                where=str(self.path),
                next_step="check [audit] file, who may write it and the disk; nothing is lost: the entries are in the "
                "database, and the next command that adds to the trail writes their heads",
            ) from error

    def _drop_torn_line(self, file: BinaryIO) -> None:
        """Cut off what is behind the last whole line: what a process left that was killed, or found the disk full."""
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - _LINE_BYTES_MAX)
        file.seek(start)
        torn = file.read(end - start).rpartition(b"\n")[2]
        self._need_torn(torn)
        if torn:
            file.truncate(end - len(torn))

    def _need_torn(self, line: bytes) -> None:
        """UsageError for an end without a line break that is not the beginning of a line of ours."""
        if len(line) >= _LINE_BYTES_MAX or line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
            raise UsageError(
                "it does not end with a head of the audit trail",
                where=str(self.path),
                next_step="name another file under [audit], or take away what somebody wrote behind the last line",
            )


def keep(store: Store, outsides: Iterable[Outside], at: datetime) -> None:
    """Write the head of every entry that a place does not have yet; call it after the commit of what was added.

    A place that has heads which are not in the database gets only the newest one: `audit verify` tells of the others.
    The first place that cannot be written raises what it raises (`HeadFile.write`), and the next call mends it.
    """
    for outside in outsides:
        known = outside.heads()
        with store.snapshot() as connection:
            missing = audit.heads_after(connection, known[-1].number - 1 if known else 0)
            if known and (not missing or missing[0] != known[-1]):
                newest = audit.head(connection, store.ledger_id)
                missing = [newest] if newest.number and newest != known[-1] else []
            elif known:
                missing = missing[1:]
        if missing:
            outside.write(missing, at)


def _write_all(file: BinaryIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _sync_folder(folder: Path) -> None:
    """Make sure that a new name in a folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
