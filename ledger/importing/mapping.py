"""How a foreign system's rows are read: column names, values, the sign and scale of amounts, the time zone."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from schemas.errors import ConfigurationError
from schemas.events import STATUSES, TRANSACTION_TYPES
from schemas.orders import DIRECTIONS

__all__ = ["ACCOUNT_STATUSES", "Mapping", "load_mapping", "mapping_of"]

ACCOUNT_STATUSES = ("active", "locked", "closed")
SCALE_MAX = 18


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[import]` table of the TOML file, or a file of its own.

    `columns` is our column name to theirs; `types`, `statuses` and `directions` (of orders) are their value to ours
    (`earn = "credit"`). With `signed_amounts` the sign alone decides the type: negative is a debit. `amount_scale` is
    how many decimal places are points: 2 reads "12.34" as 1234, 0 reads "10.0" as 10; without it an amount is a plain
    integer. `timezone` is for times without a zone. `epoch_unit` is what times are counted in that a topic has as
    integers since 1970 (`s`, `ms`, `us` or `ns`). `delimiter` is CSV's.
    """

    columns: dict[str, str] = {}
    types: dict[str, str] = {}
    statuses: dict[str, str] = {}
    directions: dict[str, str] = {}
    signed_amounts: bool = False
    amount_scale: int | None = None
    timezone: str = "UTC"
    epoch_unit: Literal["s", "ms", "us", "ns"] | None = None
    delimiter: str = ","

    def source_name(self, column: str) -> str:
        """Return the name that a column of ours has in the input."""
        return self.columns.get(column, column)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of times that carry none."""
        return ZoneInfo(self.timezone)


def load_mapping(path: Path | str) -> Mapping:
    """Return the mapping of a TOML file: its `[import]` table, or the whole file where it has none.

    Raises:
        ConfigurationError: the file cannot be read, or holds a key or value that no mapping has.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read the mapping: {error}", where=str(path)) from error
    return mapping_of(document.get("import", document), where=str(path))


def mapping_of(table: Any, *, where: str, name: str = "[import]") -> Mapping:
    """Return the mapping that a parsed table holds; ConfigurationError names the table and the first wrong key."""
    try:
        mapping = msgspec.convert(table, Mapping)
    except msgspec.ValidationError as error:
        known = ", ".join(Mapping.__struct_fields__)
        raise ConfigurationError(f"{name}: {error}", where=where, next_step=f"known keys: {known}") from error
    _check(mapping, where, name)
    return mapping


def _check(mapping: Mapping, where: str, name: str) -> None:
    kinds = (("types", TRANSACTION_TYPES), ("statuses", STATUSES + ACCOUNT_STATUSES), ("directions", DIRECTIONS))
    for key, ours in kinds:
        for theirs, value in getattr(mapping, key).items():
            if value not in ours:
                raise ConfigurationError(
                    f"{name} {key}: {theirs!r} is mapped to {value!r}, which is none of {', '.join(ours)}",
                    where=where,
                )
    unknown = sorted(set(mapping.columns) - _COLUMNS)
    if unknown:
        raise ConfigurationError(
            f"{name} columns: {unknown[0]!r} is no column of ours",
            where=where,
            next_step=f"write ours = theirs, with ours one of {', '.join(sorted(_COLUMNS))}",
        )
    if mapping.amount_scale is not None and not 0 <= mapping.amount_scale <= SCALE_MAX:
        raise ConfigurationError(f"{name} amount_scale must be 0 to {SCALE_MAX}", where=where)
    if mapping.timezone not in available_timezones():
        raise ConfigurationError(
            f"{name} timezone: {mapping.timezone!r} is unknown",
            where=where,
            next_step="use a name like Europe/Berlin",
        )
    if len(mapping.delimiter) != 1 or mapping.delimiter in '"\r\n\0' or not mapping.delimiter.isascii():
        raise ConfigurationError(f"{name} delimiter must be one ASCII character", where=where)


_COLUMNS = frozenset(
    {
        "account_id",
        "amount",
        "balance",
        "business_code",
        "created_at",
        "direction",
        "frozen_amount",
        "locked_at",
        "metadata",
        "order_id",
        "points_amount",
        "recorded_at",
        "refunded_points",
        "related_transaction_id",
        "status",
        "transaction_id",
        "type",
        "updated_at",
    }
)
