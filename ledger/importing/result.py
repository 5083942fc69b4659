"""What an import says when it is done: counts, the rejects file, and a profile of the columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

__all__ = ["ColumnProfile", "Imported", "Progress"]

#: Called as progress(done_rows, total_rows or None). An import reads first (total unknown), then appends.
Progress = Callable[[int, int | None], None]


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the input as it was read, before any mapping of values.

    `distinct` is approximate above a few thousand values. `values` counts the values of a column that should
    have few (type, status), most frequent first; it is None for the others.
    """

    column: str
    rows: int
    empty: int
    distinct: int
    min: str | None
    max: str | None
    examples: list[str]
    values: dict[str, int] | None = None


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an import. Counts are rows of the input; `events` is how many events were appended.

    `restored` of them are events that the ledger had lost, which are not counted as `imported`. `absent` is how many
    rows of earlier imports of accounts are not in this input.

    `rejects` is the file that names every rejected row, None where there is none. `profile` is given by a dry
    run. `ignored_columns` were in the input and mean nothing to the import; `naive_times` counts the times
    without a zone, which were taken in the mapping's timezone.
    """

    imported: int
    unchanged: int
    rejected: int
    rejects: Path | None
    events: int
    profile: list[ColumnProfile] | None = None
    ignored_columns: list[str] = []
    naive_times: int = 0
    restored: int = 0
    absent: int = 0
