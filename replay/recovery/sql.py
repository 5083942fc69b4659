"""The corrections of a plan as SQL, for those who apply changes to their tables themselves.

One statement a row, which does nothing unless the row still holds every value that the plan saw, and a line before it
that says why. What waits for a person is there as a line only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    Table,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import literal_column as written
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.types import Integer, NullType, Numeric, String

from ledger.importing import Mapping
from replay.comparison.foreign_keys import MYSQL, is_text, ordered
from replay.differences import Value
from replay.recovery.parts import counted
from replay.recovery.plan import Change, Plan
from replay.recovery.table_values import RawValues
from replay.recovery.targets import ROW, values_of_text
from schemas.errors import UsageError

__all__ = ["guarded_sql"]

_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": SQLiteDialect,
    "postgresql": PGDialect,
    "mysql": MySQLDialect,
    "mariadb": MySQLDialect,
}
#: Text is UTF-8 in these files, whatever the client thinks by itself.
_BEGIN = {
    "sqlite": "BEGIN;",
    "postgresql": "SET client_encoding = 'UTF8';\nBEGIN;",
    "mysql": "SET NAMES utf8mb4;\nSTART TRANSACTION;",
    "mariadb": "SET NAMES utf8mb4;\nSTART TRANSACTION;",
}

#: Fields of points.
_POINTS = ("balance", "frozen")
#: How somebody who runs the file sees whether the rows took it.
_SEEN = "Every statement should change one row; one that changed none is a row to plan again:"
_COUNTED = {
    "sqlite": "in the sqlite3 shell, `.changes on` before `.read FILE` shows `changes: 1` after each.",
    "postgresql": "psql -f shows UPDATE 1, INSERT 0 1 or DELETE 1 after each.",
    "mysql": "mysql -vv shows `1 row affected` after each.",
    "mariadb": "mariadb -vv shows `1 row affected` after each.",
}
#: A number in a column of texts, as rows are read, without a backslash: no mode of a database gives that a meaning.
_NUMBER = "^[[:space:]]*[+-]?[0-9]+([.][0-9]*)?[[:space:]]*$"


def guarded_sql(plan: Plan, dialect: str, table: Table, mapping: Mapping) -> str:
    """Return the SQL of a plan for a live table.

    `dialect` is `sqlite`, `postgresql`, `mysql` or `mariadb`; `table` has the columns as they are there
    (`ForeignTable.described`), `mapping` says which is which. The text is UTF-8.

    Raises:
        UsageError: another dialect, or a plan for our own read model, which is made anew and not corrected.
    """
    if dialect not in _DIALECTS:
        known = ", ".join(sorted(_DIALECTS))
        raise UsageError(f"no SQL is written for {dialect}", next_step=f"of these it is: {known}")
    if plan.target.kind == "read_model":
        raise UsageError("our own read model is made anew, not corrected", next_step="`recover apply`")
    written_out = _Writer(dialect, table, mapping)
    lines = [*_head(plan), _comment(f"{_SEEN} {_COUNTED[dialect]}"), _BEGIN[dialect]]
    for _, changes in groupby(plan.changes, key=lambda each: each.account_id):
        lines += written_out.lines(list(changes))
    return "\n".join([*lines, "COMMIT;", ""])


def _head(plan: Plan) -> Iterator[str]:
    yield _comment(f"Plan {plan.hash}, made at {plan.made_at} by {plan.by} at position {plan.position} of the log.")
    yield _comment(f"For {plan.target.table} of {plan.target.database}.")
    yield _comment("Each statement changes one row, or none where the row does not hold any more what the plan saw.")
    counts = {
        ("event to heal", "events to heal"): len(plan.heal),
        ("transaction to settle", "transactions to settle"): len(plan.settle),
        ("account to unlock", "accounts to unlock"): len(plan.unlock),
    }
    told = [counted(number, *words) for words, number in counts.items() if number]
    if told:
        yield _comment(f"Events of the ledger are not in here, and its values count on them: {', '.join(told)}.")


class _Writer:
    """Writes the statements of one table."""

    def __init__(self, dialect: str, table: Table, mapping: Mapping) -> None:
        self._name = dialect
        # In this style nothing but the literal itself is doubled or escaped.
        self._dialect = _DIALECTS[dialect](paramstyle="named")  # type: ignore[call-arg]
        self._table = table
        self._mapping = mapping
        self._key: Column[Any] = table.c[mapping.source_name("account_id")]
        self._raw = RawValues(mapping, {column.name: column.type for column in table.columns}, dialect)

    def lines(self, changes: Sequence[Change]) -> Iterator[str]:
        """Yield the lines of one account."""
        first = changes[0]
        values = "; ".join(f"{each.field} {_told(each.from_)} -> {_told(each.to)}" for each in changes)
        said = f"account {first.account_id}: {first.cause}. {first.reason}"
        if first.basis == "unknown" and first.decision is None:
            fields = "; ".join(f"{each.field} is {_told(each.from_)}, log {_told(each.log)}" for each in changes)
            yield _comment(f"UNDECIDED {said} ({fields})")
            return
        yield _comment(f"{said} ({values})")
        if first.decision is not None:
            made = first.decision
            yield _comment(f"{made.action} by {made.by} at {made.at}: {made.reason}")
            if made.balance is not None and first.cause != "log_damaged":
                yield _comment("the ledger needs a transaction that makes its balance the same")
        if all(each.from_ == each.to for each in changes):
            yield _comment("nothing is to be changed in live")
            return
        try:
            yield str(self._statement(changes).compile(dialect=self._dialect)) + ";"
        except UsageError as error:
            yield _comment(f"CANNOT BE WRITTEN: {error.what}")

    def _statement(self, changes: Sequence[Change]) -> Any:
        first = changes[0]
        if first.field != ROW:
            held = {each.field: each.from_ for each in changes}
            wanted = {each.field: each.to for each in changes}
            return update(self._table).where(*self._is_still(first.account_id, held)).values(self._values(wanted))
        if first.to is None:
            held = values_of_text(str(first.from_))
            return delete(self._table).where(*self._is_still(first.account_id, held))
        columns = {self._key: self._literal(self._raw.key(first.account_id))}
        columns |= self._values(values_of_text(str(first.to)))
        is_there = exists(select(written("1")).select_from(self._table).where(self._is_of(first.account_id)))
        return insert(self._table).from_select(list(columns), select(*columns.values()).where(~is_there))

    def _values(self, values: dict[str, Value]) -> dict[Column[Any], ColumnElement[Any]]:
        raw = self._raw.of(values)
        return {self._table.c[name]: self._literal(value) for name, value in raw.items()}

    def _is_still(self, account_id: str, held: dict[str, Value]) -> Iterator[ColumnElement[bool]]:
        yield self._is_of(account_id)
        for field, value in held.items():
            if self._raw.has(field):
                yield self._holds(self._table.c[self._raw.column(field)], field, value)

    def _is_of(self, account_id: str) -> ColumnElement[bool]:
        """Return the condition that a row is this account's and, whatever the collation, nobody else's."""
        own = self._literal(self._raw.key(account_id))
        if isinstance(self._key.type, Integer):
            return self._key == own
        exact = written(f"0x{account_id.encode().hex()}") if self._name in MYSQL else self._literal(account_id)
        is_exact = ordered(self._key, self._name) == exact
        return and_(self._key == own, is_exact) if is_text(self._key) else is_exact

    def _holds(self, column: Column[Any], field: str, value: Value) -> ColumnElement[bool]:
        if value is None:
            return column.is_(None)
        (raw,) = self._raw.of({field: value}).values()
        if field == "status":
            words = [theirs for theirs, ours in self._mapping.statuses.items() if ours == value]
            return column.in_([self._literal(each) for each in dict.fromkeys([*words, str(value)])])
        if field in _POINTS and self._is_loose(column):
            return self._means(column, str(raw))
        if field == "locked_at" and isinstance(raw, str):
            return column.in_([self._literal(each) for each in self._time_texts(str(value))])
        return column == self._literal(raw)

    def _is_loose(self, column: Column[Any]) -> bool:
        """Whether a column may spell a number in more than one way."""
        return isinstance(column.type, String) or (self._name == "sqlite" and isinstance(column.type, NullType))

    def _means(self, column: Column[Any], number: str) -> ColumnElement[bool]:
        """Return the condition that a text is that number, however it is spelt; what is none is never cast."""
        if self._name == "sqlite":
            # Without regular expressions: a sign at most, digits, and one point between or after them.
            plain = func.trim(column)
            digits = func.ltrim(plain, written("'+-'"))
            looks = and_(
                digits.op("GLOB")(written("'[0-9]*'")),
                digits.op("NOT GLOB")(written("'*[^0-9.]*'")),
                digits.op("NOT GLOB")(written("'*.*.*'")),
                plain.op("NOT GLOB")(written("'[+-][+-]*'")),
            )
            return case((looks, cast(plain, Numeric()))) == written(number)
        is_number = column.op("~" if self._name == "postgresql" else "REGEXP")(written(f"'{_NUMBER}'"))
        kind = Numeric(65, 30) if self._name in MYSQL else Numeric()
        return case((is_number, cast(func.trim(column), kind))) == written(number)

    def _time_texts(self, value: str) -> list[str]:
        """Return the texts that a column of texts may have for a moment; the plan knows the moment, not its text."""
        moment = datetime.fromisoformat(value)
        utc = moment.astimezone(UTC).replace(tzinfo=None)
        local = moment.astimezone(self._mapping.zone).replace(tzinfo=None)
        texts = []
        spellings = {"microseconds": 1, "milliseconds": 1_000, "seconds": 1_000_000}
        for digits in [name for name, share in spellings.items() if moment.microsecond % share == 0]:
            for blank in "T ":
                told = utc.isoformat(blank, timespec=digits)
                texts += [f"{told}Z", f"{told}+00:00", local.isoformat(blank, timespec=digits)]
        return list(dict.fromkeys(texts))

    def _literal(self, value: Any) -> ColumnElement[Any]:
        return written(_literal(value, self._name))


def _literal(value: Any, dialect: str) -> str:
    """Return a value as SQL, which means the same in every mode of the database."""
    if value is None:
        return "NULL"
    if isinstance(value, int | float | Decimal):
        return format(value, "f") if isinstance(value, Decimal) else repr(value)
    text = value.isoformat(" ", timespec="microseconds") if isinstance(value, datetime) else str(value)
    if text.isprintable() and "\\" not in text:
        return "'" + text.replace("'", "''") + "'"
    if dialect == "postgresql":
        return "E'" + "".join(_escaped(letter) for letter in text) + "'"
    data = text.encode().hex()
    return f"_utf8mb4 0x{data}" if dialect in MYSQL else f"CAST(X'{data}' AS TEXT)"


def _escaped(letter: str) -> str:
    if letter == "'":
        return "''"
    if letter == "\\":
        return "\\\\"
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"


def _comment(text: str) -> str:
    """Return a text as one line that no reader takes for anything but a remark."""
    line = "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in text)
    return "-- " + line.replace("*/", "* /").replace("/*", "/ *")


def _told(value: Value) -> str:
    return "null" if value is None else str(value)
