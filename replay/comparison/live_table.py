"""The live table of another system: where it is, how its rows read, and what it says of how far it is."""

from __future__ import annotations

from typing import Literal

import msgspec

from ledger.importing import Mapping, accounts, mapping_of
from schemas.errors import ConfigurationError

__all__ = ["LiveTable", "Mark"]


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What says how far live is: a column of each row, or a query that gives one value for the whole table.

    A `column` holds the last transaction or the version that the row has applied; a `query` gives the last position
    in the store or the last transaction that the table has applied. It is read in the snapshot of the rows.
    """

    of: Literal["transaction", "version", "position"]
    column: str | None = None
    query: str | None = None


class LiveTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[live]` table of the TOML file.

    `url` is SQLAlchemy's, `table` is `name` or `schema.name`; `columns`, `statuses`, `amount_scale` and `timezone` are
    those of `[import]`. `partitions` is how many writers feed live side by side, each in the order of the log, an
    account always by the same one, chosen as Kafka's default partitioner does. A difference counts once the same rows
    were seen in `looks_min` looks over `settle_seconds`; what has not settled within `unsettled_seconds` is named.
    """

    url: str
    table: str
    columns: dict[str, str] = {}
    statuses: dict[str, str] = {}
    amount_scale: int | None = None
    timezone: str = "UTC"
    partitions: int = 1
    mark: Mark | None = None
    settle_seconds: float = 10.0
    unsettled_seconds: float = 300.0
    looks_min: int = 3

    def mapping(self, where: str = "[live]") -> Mapping:
        """Return how its rows read; ConfigurationError for a value that no mapping has."""
        table = {
            "columns": self.columns,
            "statuses": self.statuses,
            "amount_scale": self.amount_scale,
            "timezone": self.timezone,
        }
        return mapping_of(table, where=where, name="[live]")

    def check(self, where: str = "[live]") -> None:
        """Raise ConfigurationError for what contradicts itself; the mapping has checks of its own."""
        if self.partitions < 1 or self.looks_min < 1 or min(self.settle_seconds, self.unsettled_seconds) < 0:
            raise ConfigurationError("[live] partitions and looks_min are 1 or more, seconds 0 or more", where=where)
        ours_by_theirs: dict[str, str] = {}
        for ours in accounts.REQUIRED + accounts.OPTIONAL:
            theirs = self.columns.get(ours, ours)
            other = ours_by_theirs.setdefault(theirs, ours)
            if other != ours:
                raise ConfigurationError(
                    f"[live] columns: {other!r} and {ours!r} would both be their column {theirs!r}",
                    where=where,
                    next_step="give each of ours a column of its own",
                )
        mark = self.mark
        if mark is None:
            return
        if (mark.column is None) == (mark.query is None):
            raise ConfigurationError("[live.mark] has a column or a query, and only one of them", where=where)
        fits = ("transaction", "version") if mark.column is not None else ("transaction", "position")
        if mark.of not in fits:
            kind = "column" if mark.column is not None else "query"
            raise ConfigurationError(
                f"[live.mark] of = {mark.of!r} does not fit a {kind}", where=where, next_step=f"use {' or '.join(fits)}"
            )
