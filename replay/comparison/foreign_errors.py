"""What the database of a live table says, as our errors: what it may get over, and what somebody has to mend."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from schemas.errors import StoreError, UsageError

__all__ = ["named"]

#: Drivers have these in one class with a database that does not answer. MySQL: no such database, user, column, table,
#: procedure or right to it, no SQL at all, or SQL that writes.
_MYSQL_SAYS_NO = {1044, 1045, 1049, 1054, 1064, 1142, 1143, 1146, 1227, 1305, 1370, 1698, 1792}
#: PostgreSQL, by SQLSTATE: whoever asks is not let in, no such database, SQL that writes.
_POSTGRES_SAYS_NO = ("28", "3D", "25006")
#: The driver has no SQLSTATE of what is said before there is a connection, only words. A server that speaks another
#: language, or refuses in others, is waited for, and what it says is told each time.
_POSTGRES_REFUSES = re.compile(
    r"FATAL: +(?:.* authentication failed for user |no pg_hba\.conf entry |pg_hba\.conf rejects "
    r"|(?:database|role) \".*\" (?:does not exist|is not permitted to log in)|permission denied for database )"
    r"|no password supplied"
)
#: SQLite: wrong SQL, SQL that writes, a file that is no database or a broken one.
_SQLITE_SAYS_NO = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextmanager
def named(where: str, *, was_read: bool = False) -> Iterator[None]:
    """Raise StoreError for what the database may get over, UsageError for what it will say again until it is mended.

    `was_read`: the table was there and could be read, so whatever is wrong now may be a change that is under way.
    """
    try:
        yield
    except SQLAlchemyError as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or ["no reason given"])[0]
        kind = UsageError if _says_no(error) and not was_read else StoreError
        raise kind(f"the database says: {reason}", where=where, next_step="check [live]") from error


def _says_no(error: SQLAlchemyError) -> bool:
    if not isinstance(error, DBAPIError):
        return not isinstance(error, PoolTimeoutError)
    if error.connection_invalidated:
        return False
    if isinstance(error, ProgrammingError | DataError | IntegrityError):
        return True
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return getattr(original, "sqlite_errorcode", 0) & 0xFF in _SQLITE_SAYS_NO
    if isinstance(original, psycopg.Error):
        return bool((original.sqlstate or "").startswith(_POSTGRES_SAYS_NO) or _POSTGRES_REFUSES.search(str(original)))
    code = original.args[0] if original is not None and original.args else None
    return code in _MYSQL_SAYS_NO
