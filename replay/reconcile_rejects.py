"""Rows of files that cannot be read, and the orders that they name: of those nothing can be said."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl

from ledger.importing.mapping import Mapping
from ledger.importing.rejects import Rejects
from ledger.orders import CONFLICT_SCHEMA
from schemas.events import ID_LENGTH_MAX

__all__ = ["OrderRejects"]

_decode = msgspec.json.Decoder().decode


class OrderRejects(Rejects):
    """Writes the rejects of a file as an import does, and gathers the orders that their rows name.

    `where` names the file. An order that another row tells well is named too: what is rejected may say otherwise.
    """

    def __init__(self, path: Path, *, where: str, mapping: Mapping) -> None:
        super().__init__(path)
        self._where = where
        self._columns = dict.fromkeys([mapping.source_name("order_id"), "order_id"])
        self._metadata = dict.fromkeys([mapping.source_name("metadata"), "metadata"])
        self._reasons: dict[str, str] = {}

    @property
    def conflicts(self) -> pl.DataFrame:
        """The orders that rejected rows name (`CONFLICT_SCHEMA`), each with the first of them."""
        return pl.DataFrame(list(self._reasons.items()), schema=CONFLICT_SCHEMA, orient="row")

    def add(self, rows: pl.DataFrame) -> None:
        """Append rows that have at least the columns of `REJECT_SCHEMA`."""
        super().add(rows)
        for line, reason, row in rows.select("line", "reason", "row").iter_rows():
            order_id = self._order_of(row)
            if order_id is not None:
                # As `projections.order_links` cuts it: what names such an order names this one.
                words = f"row {line} of {self._where} names it and was rejected: {reason}"
                self._reasons.setdefault(order_id[:ID_LENGTH_MAX], words)

    def _order_of(self, row: str) -> str | None:
        value = _decode(row)
        if not isinstance(value, dict):
            # A line that could not be taken apart.
            return None
        metadata = _object(next((value[name] for name in self._metadata if value.get(name)), None))
        named = [*(value.get(name) for name in self._columns), metadata.get("order_id")]
        found = next((each for each in named if each not in (None, "")), None)
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            return None
        return found if isinstance(found, str) else repr(found)


def _object(text: object) -> dict[str, object]:
    """Return the JSON object that a text holds, an empty one where it holds none."""
    try:
        value = _decode(text) if isinstance(text, str) else None
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return {}
    return value if isinstance(value, dict) else {}
