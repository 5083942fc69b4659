"""The parts of the system, each as a value: what state it is in, in words, and what to do next; failures too.

A part that cannot be looked at is `unknown`, and says why: nothing is passed over, and nothing ends the check.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import psycopg
from sqlalchemy.exc import SQLAlchemyError

from schemas.errors import IncompleteError, LedgerReplayError, RefusedError, StoreError

__all__ = ["MAKE_ROOM", "NO_ROOM", "Part", "PartName", "PartState", "counted", "failed_part", "few", "guarded"]

PartName = Literal["store", "heads", "accounts", "topic", "archive", "live", "disk", "recovery"]

#: `none`: there is no such thing, and nothing says that there should be.
PartState = Literal["ok", "degraded", "lost", "unknown", "none"]

NAMED_MAX = 5

#: What a database says where something is damaged or gone, rather than busy or out of reach.
_DAMAGED = ("malformed", "not a database", "no such table", "corrupt", "does not exist")

#: What it says of a disk that fails, and just so of one that is full: only the disk itself tells which.
_FAILED_DISK = "disk i/o error"

_FULL_DISK = ("disk is full", "no space left", "disk full")

#: Full disks make a database look lost, and a backup put in its place would take the last room.
MAKE_ROOM = "make room first, then check again"

#: Among the details of a part that nobody can look at before there is room.
NO_ROOM = "no_room"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the system: `details` are plain JSON values, `next_step` is empty where nothing has to be done."""

    name: PartName
    state: PartState
    words: str
    next_step: str = ""
    details: dict[str, Any] = {}


def failed_part(name: PartName, error: Exception, *, is_full: bool = False) -> Part:
    """Return the part that could not be looked at because of an error.

    It is degraded where the error says that what is there is not whole, lost where a database file is damaged or lacks
    a table, and else unknown: nothing answered, or nobody expected it. With `is_full` its disk has no room, and
    whatever is not surely damage is put down to that.
    """
    if isinstance(error, IncompleteError | RefusedError):
        return Part(name=name, state="degraded", words=_what(error), next_step=error.next_step)
    if isinstance(error, LedgerReplayError):
        is_full = is_full and isinstance(error, StoreError)
        return _of_database(name, error.what, _what(error), error.next_step, is_full=is_full)
    if isinstance(error, SQLAlchemyError | sqlite3.Error | psycopg.Error):
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        next_step = "see that the database runs and may be read, then check again"
        if name == "live" and _is_damage(reason):
            next_step = _LOOK_AT_LIVE
        return _of_database(name, reason, f"the database says: {reason}", next_step, is_full=is_full)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        words = f"{error.strerror or error}{where}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _without_room(name, words)
        next_step = "check the path, its permissions and its disk, then check again"
        return Part(name=name, state="unknown", words=words, next_step=next_step)
    words = f"unexpected {type(error).__name__}: {error}"
    return Part(name=name, state="unknown", words=words, next_step="report it; nothing is known of this part")


_RESTORE = "keep the damaged file aside; put a backup in its place, or bring the events back from a topic or an export"

#: What is wrong with live rows is no reason to put the ledger's own file aside.
_LOOK_AT_LIVE = "check [live] url and table, or what --against and --table name, then check again"


def _what(error: LedgerReplayError) -> str:
    return f"{error.what} ({error.where})" if error.where else error.what


def _of_database(name: PartName, reason: str, words: str, next_step: str, *, is_full: bool) -> Part:
    said, is_damaged = reason.lower(), _is_damage(reason)
    if any(each in said for each in _FULL_DISK) or (is_full and not is_damaged):
        return _without_room(name, words)
    state: PartState = "lost" if is_damaged or _FAILED_DISK in said else "unknown"
    if name == "live":
        next_step = next_step or _LOOK_AT_LIVE
    elif state == "lost":
        next_step = _RESTORE
    return Part(name=name, state=state, words=words, next_step=next_step)


def _is_damage(reason: str) -> bool:
    return any(words in reason.lower() for words in _DAMAGED)


def _without_room(name: PartName, words: str) -> Part:
    return Part(name=name, state="unknown", words=words, next_step=MAKE_ROOM, details={NO_ROOM: True})


def guarded(name: PartName, look: Callable[[], Part]) -> Part:
    """Return the part that `look` gives, or the one that says why it could not."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one part, the others are looked at.
        return failed_part(name, error)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with what is said of one, or of several."""
    return f"{number:,} {one if number == 1 else many}"


def few(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more:,} more" if more > 0 else "")
