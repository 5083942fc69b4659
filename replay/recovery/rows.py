"""Live rows against the changes of a plan: which side of them a row is on, and what writing the other side takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from replay.differences import Value
from replay.recovery.plan import Change
from replay.recovery.table_target import Write
from replay.recovery.table_values import RawValues
from replay.recovery.targets import ROW, LiveRow, Values, values_of_text

__all__ = ["State", "is_as_made", "is_side", "side", "state_of", "write_of"]

State = Literal["from", "to", "other"]

#: What a row has on one side of the changes, by field; null where it has no row.
Side = Mapping[str, Value] | None


def side(changes: Sequence[Change], which: Literal["from", "to"]) -> Side:
    """Return what an account's row has before or after its changes, as far as they say."""
    values = {each.field: each.from_ if which == "from" else each.to for each in changes}
    if ROW not in values:
        return values
    text = values[ROW]
    return None if text is None else values_of_text(str(text))


def state_of(changes: Sequence[Change], row: LiveRow | None) -> tuple[State, str]:
    """Return whether a row is as before or as after the changes of its account, and if neither, what it is."""
    if row is not None and row.values is None:
        return "other", f"its live row cannot be read: {row.problem}"
    values = None if row is None else row.values
    if is_side(side(changes, "from"), values):
        return "from", ""
    if is_side(side(changes, "to"), values):
        return "to", ""
    if values is None:
        return "other", "its live row is gone"
    before = side(changes, "from")
    if before is None:
        return "other", "live has a row of it by now"
    wrong = [name for name, value in before.items() if _is_other(values, name, value)]
    shown = [f"{name} is {values[name]!r}, not {before[name]!r}" for name in wrong]
    return "other", f"its live row was changed: {', '.join(shown)}"


def is_side(wanted: Side, values: Values | None) -> bool:
    """Whether a row has what one side says; a column that the table does not have says nothing."""
    if wanted is None or values is None:
        return wanted is None and values is None
    return not any(_is_other(values, name, value) for name, value in wanted.items())


def _is_other(values: Values, name: str, value: Value) -> bool:
    return name in values and values[name] != value


def is_as_made(row: LiveRow, made: Mapping[str, Any] | None, wanted: Side, raw_values: RawValues) -> bool:
    """Whether a row that was made with the values of one side is as it was `made`, all columns of it.

    Where nobody knows how it was made, whatever is in a column that was given nothing may be somebody else's.
    """
    given = [raw_values.key_column, *raw_values.of(wanted or {})]
    before = {name: row.raw[name] for name in given} if made is None else made
    return all(before.get(name) == value for name, value in row.raw.items())


def write_of(account_id: str, row: LiveRow | None, wanted: Side, raw_values: RawValues) -> Write:
    """Return what gives a row the values of one side; UsageError where the table's columns cannot keep them."""
    columns: Mapping[str, Any] | None = None if wanted is None else raw_values.of(wanted)
    return Write(account_id, row, columns, wanted)
