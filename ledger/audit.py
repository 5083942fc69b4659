"""The audit trail: who did what when, as a chain of entries that can be read, added to and verified.

It is append-only: an entry is never changed, and each vouches for all before it (`ledger.audit_chain`). The row of the
head says how long the chain is, so a tail that was cut off is seen; a tail cut off together with the head is seen only
by heads that were kept elsewhere (`ledger.audit_heads`). `verify` is in `ledger.audit_check`.
All functions work inside the caller's transaction; an entry is committed together with what it tells of.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
import polars as pl
from sqlalchemy import Connection, select, text, update

from ledger import bulk
from ledger.audit_chain import (
    COLUMNS,
    HEAD_ID,
    Entry,
    Head,
    Raw,
    Recorded,
    fetched,
    genesis,
    head_row,
    raw_rows,
)
from ledger.audit_check import Bad, Verified, verify
from ledger.recovery_tables import AUDIT, AUDIT_HEAD
from schemas import format_time
from schemas.errors import RefusedError, UsageError

__all__ = ["Bad", "Entry", "Head", "Recorded", "Verified", "append", "entries", "head", "heads_after", "verify"]

_SCHEMA = pl.Schema(
    {
        name: {"number": pl.Int64(), "previous": pl.Binary(), "hash": pl.Binary()}.get(name, pl.String())
        for name in COLUMNS
    }
)
_VERIFY = "`audit verify` names the first bad entry"


def append(connection: Connection, ledger_id: str, entries: Sequence[Entry]) -> Head:
    """Add entries to the trail in one bulk insert, and return the new head.

    The caller has a write transaction (`Store.writing` or one that appends events). The row of the head stays locked
    until its end, so no two writers follow the same entry; whoever also takes the append lock takes it first.

    Raises:
        UsageError: a text that no database takes.
        RefusedError: there are entries that the head does not know, since somebody took it away or put it back.
    """
    last = _locked(connection, ledger_id)
    if not entries:
        return last
    rows, number, previous = [], last.number, bytes.fromhex(last.hash)
    for entry in entries:
        number += 1
        row = _row(entry, number, previous)
        previous = row.hash
        rows.append((number, *map(_text, row[1:7]), row.previous, row.hash))
    bulk.insert_rows(connection, AUDIT, pl.DataFrame(rows, schema=_SCHEMA, orient="row"))
    moved = update(AUDIT_HEAD).where(AUDIT_HEAD.c.id == HEAD_ID).values(number=number, hash=previous)
    connection.execute(moved)
    return Head(number, previous.hex())


def head(connection: Connection, ledger_id: str) -> Head:
    """Return the head as its row says, of an empty trail 0 and the genesis; RefusedError where it says nothing."""
    found = head_row(connection)
    if not found.is_there:
        return Head(0, genesis(ledger_id).hex())
    return _need_head(found.head)


def heads_after(connection: Connection, number: int) -> list[Head]:
    """Return number and hash of every entry after one, in order; RefusedError where a row has no such values."""
    statement = select(AUDIT.c.number, AUDIT.c.hash).where(AUDIT.c.number > number).order_by(AUDIT.c.number)
    rows = connection.execute(statement, execution_options={"ledger_binary": True}).cursor.fetchall()
    for place, digest in rows:
        if type(place) is not int or type(digest) is not bytes:
            raise _unreadable(place, "it has a number or a hash that the ledger never writes")
    return [Head(place, digest.hex()) for place, digest in rows]


def entries(
    connection: Connection,
    *,
    run: str | None = None,
    account_id: str | None = None,
    actions: Sequence[str] | None = None,
    after: int = 0,
    first: int | None = None,
    last: int | None = None,
) -> list[Recorded]:
    """Return entries in order: of a run, of an account, of some actions, after a number; the first or last so many.

    RefusedError names an entry that cannot be read. Nothing is verified here.
    """
    statement = raw_rows(connection).where(AUDIT.c.number > after)
    if run is not None:
        statement = statement.where(AUDIT.c.run == run)
    if account_id is not None:
        statement = statement.where(AUDIT.c.account_id == account_id)
    if actions is not None:
        statement = statement.where(AUDIT.c.action.in_(actions))
    if last is not None:
        found = fetched(connection, statement.order_by(AUDIT.c.number.desc()).limit(last))
        return [_recorded(row) for row in reversed(found)]
    return [_recorded(row) for row in fetched(connection, statement.order_by(AUDIT.c.number).limit(first))]


def _locked(connection: Connection, ledger_id: str) -> Head:
    """Return the head, which nobody else moves until the end of the transaction."""
    found = head_row(connection, for_update=True)
    if not found.is_there:
        # Two processes that find no row both make it; one waits here for the other.
        start = {"id": HEAD_ID, "number": 0, "hash": genesis(ledger_id)}
        into = f"INSERT INTO {AUDIT_HEAD.name} (id, number, hash) VALUES (:id, :number, :hash) ON CONFLICT DO NOTHING"
        connection.execute(text(into), start)
        found = head_row(connection, for_update=True)
    last = _need_head(found.head)
    beyond = select(AUDIT.c.number).where(AUDIT.c.number > last.number).limit(1)
    if connection.execute(beyond).first() is not None:
        raise RefusedError(
            f"the audit trail goes on behind its head, entry {last.number}: somebody changed or deleted that row",
            where=AUDIT_HEAD.name,
            next_step=f"{_VERIFY}; put that table and {AUDIT.name} back from a backup, or the row as it was",
        )
    return last


def _need_head(found: Head | None) -> Head:
    if found is None:
        raise RefusedError(
            "the row of the head of the audit trail has values that the ledger never writes",
            where=AUDIT_HEAD.name,
            next_step=f"{_VERIFY}; put that row back as it was",
        )
    return found


def _row(entry: Entry, number: int, previous: bytes) -> Raw:
    texts = {
        "at": format_time(entry.at),
        "by": entry.by,
        "action": entry.action,
        "run": entry.run,
        "account_id": entry.account_id,
        "details": msgspec.json.encode(entry.details, order="sorted").decode(),
    }
    values = {name: None if value is None else _bytes(name, value) for name, value in texts.items()}
    row = Raw(number=number, **values, previous=previous, hash=b"")
    return row._replace(hash=row.digest())


def _bytes(name: str, value: str) -> bytes:
    """Return a text as it is stored; UsageError for one that no database takes."""
    found = value.encode(errors="replace")
    if "\0" in value or found.decode() != value:
        raise UsageError(f"{name} of an audit entry is no text: {value!r}", next_step="use UTF-8 without NUL")
    return found


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _recorded(row: Raw) -> Recorded:
    """Return a row as an entry; RefusedError where somebody wrote what is none."""
    if row.misplaced is not None:
        raise _unreadable(row.number, f"column {row.misplaced!r} has a value that the ledger never writes")
    try:
        return Recorded(
            number=row.number,
            at=msgspec.convert(row.at.decode(), datetime),
            by=row.by.decode(),
            action=row.action.decode(),
            run=_text(row.run),
            account_id=_text(row.account_id),
            details=msgspec.json.decode(row.details, type=dict),
            previous=row.previous.hex(),
            hash=row.hash.hex(),
        )
    except (ValueError, msgspec.MsgspecError) as error:
        raise _unreadable(row.number, str(error)) from error


def _unreadable(number: object, reason: str) -> RefusedError:
    return RefusedError(
        f"an audit entry cannot be read: {reason}",
        where=f"{AUDIT.name}, entry {number}",
        next_step=f"{_VERIFY}; what is asked for can leave this one out",
    )
