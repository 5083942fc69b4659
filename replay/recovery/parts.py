"""The parts of the system, each as a value: what state it is in, in words, and what to do next; failures too.

A part that cannot be looked at is `unknown`, and says why: nothing is passed over, and nothing ends the check.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import psycopg
from sqlalchemy.exc import SQLAlchemyError

from schemas.errors import IncompleteError, LedgerReplayError, RefusedError

__all__ = ["Part", "PartName", "PartState", "failed_part", "few", "guarded"]

PartName = Literal["store", "heads", "accounts", "topic", "archive", "live", "disk"]

#: `none`: there is no such thing, and nothing says that there should be.
PartState = Literal["ok", "degraded", "lost", "unknown", "none"]

NAMED_MAX = 5

#: What a database says where something is damaged or gone, rather than busy or out of reach.
_DAMAGED = ("malformed", "not a database", "disk i/o error", "no such table", "corrupt", "does not exist")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the system: `details` are plain JSON values, `next_step` is empty where nothing has to be done."""

    name: PartName
    state: PartState
    words: str
    next_step: str = ""
    details: dict[str, Any] = {}


def failed_part(name: PartName, error: Exception) -> Part:
    """Return the part that could not be looked at because of an error.

    It is degraded where the error says that what is there is not whole, lost where a database file is damaged or lacks
    a table, and else unknown: nothing answered, or nobody expected it.
    """
    if isinstance(error, IncompleteError | RefusedError):
        return Part(name=name, state="degraded", words=_what(error), next_step=error.next_step)
    if isinstance(error, LedgerReplayError):
        state: PartState = "lost" if _is_damage(error.what) else "unknown"
        next_step = _RESTORE if state == "lost" else error.next_step
        return Part(name=name, state=state, words=_what(error), next_step=next_step)
    if isinstance(error, SQLAlchemyError | sqlite3.Error | psycopg.Error):
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        if _is_damage(reason):
            return Part(name=name, state="lost", words=f"the database says: {reason}", next_step=_RESTORE)
        next_step = "see that the database runs and may be read, then check again"
        return Part(name=name, state="unknown", words=f"the database says: {reason}", next_step=next_step)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        next_step = "check the path, its permissions and its disk, then check again"
        return Part(name=name, state="unknown", words=f"{error.strerror or error}{where}", next_step=next_step)
    words = f"unexpected {type(error).__name__}: {error}"
    return Part(name=name, state="unknown", words=words, next_step="report it; nothing is known of this part")


_RESTORE = "keep the damaged file aside; put a backup in its place, or bring the events back from a topic or an export"


def _what(error: LedgerReplayError) -> str:
    return f"{error.what} ({error.where})" if error.where else error.what


def _is_damage(reason: str) -> bool:
    return any(words in reason.lower() for words in _DAMAGED)


def guarded(name: PartName, look: Callable[[], Part]) -> Part:
    """Return the part that `look` gives, or the one that says why it could not."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one part, the others are looked at.
        return failed_part(name, error)


def few(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more:,} more" if more > 0 else "")
