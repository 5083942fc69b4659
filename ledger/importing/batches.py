"""What every reader yields, rows as columns of text and those that are unreadable, and what a check makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import polars as pl

from ledger.importing.rejects import REJECT_SCHEMA

__all__ = ["LINE", "BadRow", "Batch", "Checked", "bad_rows"]

#: Line, reason, and whatever was read of the row.
BadRow = tuple[int, str, str | list[str] | None]

#: The column of line numbers; a column of the input with this name gets another one from its reader.
LINE = "line"


class Batch(NamedTuple):
    """A batch of rows.

    `rows`: `line` Int64 and one String column for each of the input's; an absent value is null or "".
    `bad`: rows as the rejects file has them (`REJECT_SCHEMA`), for which not even that was possible.
    `has_nul`: whether a value may hold a NUL, which no store keeps.
    """

    rows: pl.DataFrame
    bad: pl.DataFrame
    has_nul: bool = True


@dataclass(frozen=True)
class Checked:
    """What a check makes of a batch: `good` rows, the rejects (`REJECT_SCHEMA`), how many times had no zone."""

    good: pl.DataFrame
    rejects: pl.DataFrame
    naive_times: int


def bad_rows(rows: Sequence[BadRow]) -> pl.DataFrame:
    """Return rows that could not be read as rejects."""
    table = [(line, reason, None, None, _json(row)) for line, reason, row in rows]
    return pl.DataFrame(table, schema=REJECT_SCHEMA, orient="row")


def _json(row: str | list[str] | None) -> str:
    # Bytes that were no UTF-8 travel as lone surrogates, which JSON does not take: they are shown as \\udcXX.
    if isinstance(row, str):
        row = _printable(row)
    elif isinstance(row, list):
        row = [_printable(value) for value in row]
    return msgspec.json.encode(row).decode()


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
