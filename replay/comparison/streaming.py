"""Rows of a query as their driver gives them, as they come, without holding them all on either end."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Select

__all__ = ["columns_of", "streamed"]

#: How many times as many rows a server is asked for at once: each time it is waited for.
FETCHES_PER_ANSWER = 5


def streamed(connection: Connection, statement: Select[Any], rows: int) -> Generator[Sequence[Any], None, None]:
    """Yield the rows of a query, so many at once, through a cursor on the server where the driver has one.

    Close it where it is not read to its end.
    """
    # SQLite gives rows one by one in any case, and the library would only hold them up.
    is_server = connection.dialect.name != "sqlite"
    options = {"stream_results": True, "ledger_binary": True} if is_server else {}
    result = connection.execute(statement, execution_options=options)
    # The driver's own rows: as Row objects they would take twice the time. Not from the cursor itself, though, since
    # the library has taken some rows from it by then.
    strategy, cursor = result.cursor_strategy, result.cursor
    wanted = rows * FETCHES_PER_ANSWER if is_server else rows
    try:
        is_more = cursor is not None
        while is_more:
            found = strategy.fetchmany(result, cursor, wanted)
            for start in range(0, len(found), rows):
                yield found[start : start + rows]
            # The library closes what is at its end, and would refuse to be asked again.
            is_more = len(found) == wanted
    finally:
        result.close()


def columns_of(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return rows as columns; `zip` would make an object a row, which the garbage collector walks again and again."""
    return [list(map(itemgetter(place), rows)) for place in range(len(rows[0]))]
