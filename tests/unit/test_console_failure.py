"""Every error becomes one of the tree, with a next step and the exit status that the contract gives it."""

from __future__ import annotations

import errno
import sqlite3

import msgspec
import pytest
from sqlalchemy.exc import OperationalError

from console.failure import fail, named
from schemas.errors import IncompleteError, LedgerReplayError, RefusedError, StoreError, UsageError


@pytest.mark.parametrize(
    ("error", "kind", "status", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), UsageError, 2, "/x/y"),
        (OSError(errno.ENOSPC, "No space left on device"), LedgerReplayError, 5, "make room"),
        (OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")), StoreError, 5, "run again"),
        (sqlite3.DatabaseError("database disk image is malformed"), StoreError, 5, "restore a backup"),
        (ZeroDivisionError(), LedgerReplayError, 5, "ZeroDivisionError"),
        (MemoryError(), LedgerReplayError, 5, "MemoryError"),
    ],
)
def test_foreign_errors(error: BaseException, kind: type[LedgerReplayError], status: int, words: str) -> None:
    """Errors of the system, the database and of ours that nobody foresaw get a line that says what to do."""
    found = named(error)
    assert type(found) is kind
    assert found.exit_status == status
    assert words in str(found)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(RefusedError("no"), "REFUSED"), (IncompleteError("part"), "INCOMPLETE"), (UsageError("what"), "FAILED")],
)
def test_document_of_an_error(capsys: pytest.CaptureFixture[str], error: LedgerReplayError, verdict: str) -> None:
    """With --json the one document says verdict and error; the line is on stderr all the same."""
    assert fail(error, as_json=True, debug=False) == error.exit_status
    out, err = capsys.readouterr()
    document = msgspec.json.decode(out)
    assert document["verdict"] == verdict
    assert document["error"]["what"] == error.what
    assert err == f"error: {error}\n"
