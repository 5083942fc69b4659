"""What people and scripts see when a command cannot answer: one line on stderr, or the one JSON document.

Nothing here hides an error: each has an exit status, and --debug shows where it came from.
"""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Any

import msgspec

from schemas.errors import ArchiveError, IncompleteError, LedgerReplayError, RefusedError, StoreError, UsageError

__all__ = ["fail", "named"]

#: What to do about a database file that is no database any more.
_RESCUE = (
    "the file is damaged: move it aside and keep it, then restore a backup, or bring the events back into a new "
    "ledger with `import events --from topic`, or from an export"
)


def fail(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Report an error and return the exit status for it."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    found = named(error)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(_document(found)), indent=2).decode() + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"error: {_one_line(str(found))}\n")
    return found.exit_status


def named(error: BaseException) -> LedgerReplayError:
    """Return the error as one of our tree, which it may be already."""
    if isinstance(error, LedgerReplayError):
        return error
    if hasattr(error, "format_message"):  # typer's own, for a command line that it cannot read.
        return UsageError(error.format_message(), next_step=_help_of(error))
    if "object-store error" in str(error):
        # Of polars, while it reads files that were there a moment ago.
        return ArchiveError(
            "the archive's object store stopped answering, or said no, while it was read",
            next_step="run it again; how long to wait is said by timeout and retry_timeout under [archive.options]",
        )
    if isinstance(error, OSError):
        return _of_system(error)
    # Bulk reads go past SQLAlchemy, so the drivers' own errors come too.
    if type(error).__module__.startswith(("sqlalchemy", "sqlite3", "psycopg")):
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        if "malformed" in reason or "not a database" in reason:
            advice = _RESCUE
        elif "locked" in reason or "timeout" in reason:
            advice = "another process is writing; run again"
        else:
            advice = "check the database that --store names"
        return StoreError(f"the database says: {reason}", next_step=advice)
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return LedgerReplayError(f"unexpected {words}", next_step="run again with --debug for the traceback and report it")


def _of_system(error: OSError) -> LedgerReplayError:
    where = str(error.filename) if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return LedgerReplayError(reason, where=where, next_step="make room or repair the disk, then run again")
    return UsageError(reason, where=where, next_step="check the path and its permissions")


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context is not None else "see ledger-replay --help"


def _document(error: LedgerReplayError) -> dict[str, object]:
    verdict = "FAILED"
    if isinstance(error, RefusedError):
        verdict = "REFUSED"
    elif isinstance(error, IncompleteError):
        verdict = "INCOMPLETE"
    fields = {
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "next_step": error.next_step,
        "exit_status": error.exit_status,
    }
    return {"verdict": verdict, "error": fields}


def _one_line(words: str) -> str:
    return " ".join(words.split())
