"""The backup of a recovery: the whole rows that it will change, as JSON Lines, proved readable before anything is.

Each line has an account and every column of its row as the database gave it, or null where there was none. A value
that JSON does not know is an object with its kind: `{"decimal": "1.50"}`.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Container, Generator, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from replay.recovery.table_values import Undecoded
from replay.recovery.targets import LiveRow
from schemas.errors import RefusedError, StoreError

__all__ = ["Backup", "RawRow", "check_backup", "plain_row", "raw_row", "read_backup", "write_backup"]

FILE = "backup.jsonl"
CHECKSUM = "backup.jsonl.sha256"

RawRow = Mapping[str, Any]


class Backup(NamedTuple):
    """What was written: how many accounts, how many of them have a row, and the file with its SHA-256."""

    file: str
    accounts: int
    rows: int
    bytes: int
    sha256: str


class _Line(msgspec.Struct, frozen=True):
    account_id: str
    row: dict[str, Any] | None


def write_backup(folder: Path, rows: Iterable[tuple[str, LiveRow | None]]) -> Backup:
    """Write rows and their checksum, and read them back.

    Raises:
        OSError: there is no room, or no right to write.
        RefusedError: a row has a value that cannot be kept.
        StoreError: the file does not read back as it was written.
    """
    path = folder / FILE
    draft = path.with_suffix(".draft")
    hashed, accounts, with_row, size = hashlib.sha256(), 0, 0, 0
    with draft.open("wb") as file:
        for account_id, row in rows:
            line = _line(account_id, row)
            file.write(line)
            hashed.update(line)
            accounts += 1
            with_row += row is not None
            size += len(line)
        _flush(file.flush, file.fileno())
    made = Backup(path.name, accounts, with_row, size, hashed.hexdigest())
    draft.replace(path)
    with (folder / CHECKSUM).open("w") as sums:
        sums.write(f"{made.sha256}  {path.name}\n")
        _flush(sums.flush, sums.fileno())
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
    check_backup(folder, made.sha256, accounts)
    return made


def check_backup(folder: Path, sha256: str, accounts: int) -> None:
    """Read a backup whole; StoreError where it cannot be, or is not what was written."""
    hashed, count = hashlib.sha256(), 0
    try:
        with (folder / FILE).open("rb") as file:
            for line in file:
                hashed.update(line)
                read = msgspec.json.decode(line, type=_Line)
                count += _line(read.account_id, _as_row(read)) == line
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise _unreadable(folder, str(error)) from error
    if hashed.hexdigest() != sha256 or count != accounts:
        raise _unreadable(folder, "it does not read as it was written")


def read_backup(folder: Path, account_ids: Container[str]) -> Generator[tuple[str, RawRow | None]]:
    """Yield accounts and their raw rows, as the driver gave them; StoreError where the file cannot be read."""
    try:
        with (folder / FILE).open("rb") as file:
            for line in file:
                read = msgspec.json.decode(line, type=_Line)
                if read.account_id in account_ids:
                    yield read.account_id, None if read.row is None else raw_row(read.row)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise _unreadable(folder, str(error)) from error


def plain_row(raw: RawRow) -> dict[str, Any]:
    """Return a raw row as JSON can have it; RefusedError where a value of it cannot be kept."""
    return {name: _kept(name, value) for name, value in raw.items()}


def raw_row(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw row that `plain_row` made plain."""
    return {name: _given(value) for name, value in plain.items()}


def _line(account_id: str, row: LiveRow | None) -> bytes:
    kept = None if row is None else plain_row(row.raw)
    return msgspec.json.encode(_Line(account_id, kept)) + b"\n"


def _as_row(read: _Line) -> LiveRow | None:
    return None if read.row is None else LiveRow(read.account_id, raw_row(read.row), None)


def _kept(name: str, value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    for kind, (type_, write, _) in _KINDS.items():
        if type(value) is type_:
            return {kind: write(value)}
    if isinstance(value, bytearray | memoryview):
        return {"bytes": base64.b64encode(value).decode()}
    raise RefusedError(
        f"column {name!r} has a value that a backup cannot keep: {type(value).__name__}",
        next_step="take the plan as SQL instead (`recover plan --sql`), after a backup of your own",
    )


def _given(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    return _KINDS[kind][2](text)


def _unreadable(folder: Path, reason: str) -> StoreError:
    return StoreError(
        f"the backup cannot be read back: {reason}",
        where=str(folder / FILE),
        next_step="check the disk; without a backup nothing is changed",
    )


def _flush(flush: Callable[[], None], descriptor: int) -> None:
    flush()
    os.fsync(descriptor)


def _plain(value: Any) -> Any:
    return value


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


#: The types that drivers give besides those of JSON: how each is written, and read.
_KINDS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "float": (float, repr, float),
    "decimal": (Decimal, str, Decimal),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "microseconds": (
        timedelta,
        lambda value: value // timedelta(microseconds=1),
        lambda value: timedelta(microseconds=value),
    ),
    "uuid": (UUID, str, UUID),
    "bytes": (bytes, _encoded, base64.b64decode),
    "no_text": (Undecoded, _encoded, lambda value: Undecoded(base64.b64decode(value))),
    "json_object": (dict, _plain, _plain),
    "json_list": (list, _plain, _plain),
}
