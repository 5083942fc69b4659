"""What a recovery corrects: the live rows of a table, or our own read model, and a row of either as values.

    TableTarget      a table of any database, one of another system or the imported copy: `replay.recovery.table_target`
    OwnReadModel     our own read model: `replay.recovery.own_target`

A row's values are those of `FOREIGN_FIELDS`: points, a status of ours, a time as text of the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from replay.differences import FOREIGN_FIELDS, Value

__all__ = ["ROW", "LiveRow", "Values", "row_text", "values_of_text"]

#: The field of a change that makes a row or takes one away.
ROW = "row"

#: What a row says, by field; a table without lock times has no `locked_at`.
Values = Mapping[str, Value]


class LiveRow(NamedTuple):
    """One row: `raw` is every column as the driver gives it, `values` what that means, None where it means nothing.

    `problem` says why it means nothing, else it is empty.
    """

    account_id: str
    raw: Mapping[str, Any]
    values: Values | None
    problem: str = ""


def row_text(values: Values) -> str:
    """Return a row as a plan has it: JSON of its balance, frozen, status and locked_at."""
    return msgspec.json.encode({name: values.get(name) for name in FOREIGN_FIELDS}).decode()


def values_of_text(text: str) -> dict[str, Value]:
    """Return the values of a row that `row_text` made."""
    return msgspec.json.decode(text, type=dict[str, Value])
