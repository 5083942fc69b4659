"""Rows of a foreign live table, from what their driver gives to typed columns.

What is not plain goes through the very checks of an import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from ledger.importing import Mapping, values
from ledger.importing.accounts import check_accounts
from ledger.importing.batches import LINE, BadRow, bad_rows
from ledger.importing.mapping import ACCOUNT_STATUSES
from ledger.importing.rejects import REJECT_SCHEMA, as_rejects
from ledger.importing.table_source import text_batch
from replay.comparison.streaming import columns_of
from schemas.columns import UTC_MICROSECONDS
from schemas.events import ID_LENGTH_MAX

__all__ = ["LIVE_SCHEMA", "LiveRows", "RowReader", "without_repeats"]

#: A live row: `is_unread` where something of it cannot be read, and then it has nothing but its account.
LIVE_SCHEMA = pl.Schema(
    {
        "account_id": pl.String(),
        "balance": pl.Int64(),
        "frozen": pl.Int64(),
        "status": pl.String(),
        "locked_at": UTC_MICROSECONDS,
        "mark": pl.String(),
        "is_unread": pl.Boolean(),
        LINE: pl.Int64(),
    }
)
#: Rows that are checked at once; what a chunk leaves of them may have to be read again, so they are not many.
ROWS_PER_GROUP = 10_000


class LiveRows(NamedTuple):
    """Rows (`LIVE_SCHEMA`, in the table's order, without those of no account) and rejects (`REJECT_SCHEMA`)."""

    rows: pl.DataFrame
    rejects: pl.DataFrame


class RowReader:
    """Reads rows of `account_id, balance, frozen_amount, status`, and after these `locked_at` and the mark, if any."""

    def __init__(self, mapping: Mapping, names: list[str], *, has_locked_at: bool, has_mark: bool) -> None:
        self._mapping = mapping
        self._names = names
        self._has_locked_at = has_locked_at
        self._has_mark = has_mark
        legal = {status: status for status in ACCOUNT_STATUSES}
        self._statuses = legal | {theirs: ours for theirs, ours in mapping.statuses.items() if ours in legal}
        self._no_rejects = pl.DataFrame(schema=REJECT_SCHEMA)

    def read(self, slices: Iterable[Sequence[Sequence[Any]]], before: int = 0) -> Iterator[LiveRows]:
        """Yield rows as they come in slices, many slices together; `before` is how many rows came before them."""
        group: list[pl.DataFrame] = []
        height = 0
        for rows in slices:
            typed = self._typed(columns_of(rows))
            if typed is not None:
                group.append(typed)
                height += typed.height
            if typed is None or height >= ROWS_PER_GROUP:
                yield from self._grouped(group, before)
                before += height
                group, height = [], 0
            if typed is None:
                yield self._checked(rows, before)
                before += len(rows)
        yield from self._grouped(group, before)

    def _typed(self, columns: list[list[Any]]) -> pl.DataFrame | None:
        """Return values that are all of the types that they should be, times and marks as text, else None."""
        try:
            ids, status = _texts("account_id", columns[0]), _texts("status", columns[3])
            balance, frozen = _whole("balance", columns[1]), _whole("frozen", columns[2])
            if ids is None or status is None or balance is None or frozen is None:
                return None
            typed = [ids, balance, frozen, status]
            if self._has_locked_at:
                typed.append(_any_texts("locked_at", columns[4]))
            if self._has_mark:
                typed.append(_any_texts("mark", columns[-1]))
            return pl.DataFrame(typed)
        except (OverflowError, TypeError, UnicodeEncodeError, pl.exceptions.PolarsError):
            # A number past int64, or text that is none: the checks say which row has it.
            return None

    def _grouped(self, group: list[pl.DataFrame], before: int) -> Iterator[LiveRows]:
        if group:
            typed = pl.concat(group)
            plain = self._plain(typed, before)
            yield self._checked(typed.rows(), before) if plain is None else LiveRows(plain, self._no_rejects)

    def _plain(self, typed: pl.DataFrame, before: int) -> pl.DataFrame | None:
        """Return rows whose values are what they should be, None where any is not."""
        if self._mapping.amount_scale:
            return None
        ids = typed["account_id"]
        status = typed["status"].replace_strict(self._statuses, default=None, return_dtype=pl.String)
        lengths = ids.str.len_bytes()
        locked_at = self._plain_times(typed["locked_at"]) if self._has_locked_at else None
        if (
            status.null_count()
            or (lengths == 0).any()
            # Of so few bytes, no more characters.
            or (lengths > ID_LENGTH_MAX).any()
            or ids.str.contains("\0", literal=True).any()
            or (self._has_locked_at and locked_at is None)
        ):
            return None
        marks = typed["mark"] if self._has_mark else None
        return self._frame([ids, typed["balance"], typed["frozen"], status], locked_at, marks, before)

    def _plain_times(self, texts: pl.Series) -> pl.Series | None:
        texts = texts.replace("", None)
        read = values.times(texts, self._mapping.zone)
        return read.moments if read.moments.null_count() == texts.null_count() else None

    def _frame(
        self, typed: list[pl.Series], locked_at: pl.Series | None, marks: pl.Series | None, before: int
    ) -> pl.DataFrame:
        rows = pl.DataFrame(typed)
        return rows.with_columns(
            pl.lit(None, UTC_MICROSECONDS).alias("locked_at") if locked_at is None else locked_at.alias("locked_at"),
            pl.lit(None, pl.String).alias("mark") if marks is None else marks,
            is_unread=pl.lit(False),
            line=pl.int_range(before + 1, before + rows.height + 1, dtype=pl.Int64),
        )

    def _checked(self, rows: Sequence[Sequence[Any]], before: int) -> LiveRows:
        """Return rows that went through the very checks of an import, as text."""
        bad: list[BadRow] = []
        good: list[tuple[Any, ...]] = []
        decoded = ([_decoded(value) for value in row] for row in rows)
        for line, row in enumerate(decoded, start=before + 1):
            if all(not isinstance(value, str) or _is_unicode(value) for value in row):
                good.append((line, *row))
            else:
                bad.append((line, "a value is no UTF-8 text", [str(value) for value in row]))
        batch = text_batch(self._names, [row[1:] for row in good], 0)
        texts = batch.rows.with_columns(pl.Series(LINE, [row[0] for row in good], pl.Int64))
        checked = check_accounts(batch._replace(rows=texts), self._mapping, table="[live]")
        named = values.pick(texts, ("account_id",), self._mapping).drop_nulls("account_id")
        marks = texts.select(LINE, mark=self._names[-1] if self._has_mark else pl.lit(None, pl.String))
        read = (
            named.join(checked.good.drop("account_id"), on=LINE, how="left", maintain_order="left")
            .join(marks, on=LINE, how="left", maintain_order="left")
            .rename({"frozen_amount": "frozen"})
            .with_columns(is_unread=pl.col("balance").is_null())
        )
        return LiveRows(read.select(LIVE_SCHEMA.names()), pl.concat([checked.rejects, bad_rows(bad)]))


def _texts(name: str, column: list[Any]) -> pl.Series | None:
    kinds = set(map(type, column))
    if kinds == {str}:
        return pl.Series(name, column, pl.String)
    # As SQLite is read: it does not say whether its texts are any.
    return pl.Series(name, column, pl.Binary).cast(pl.String) if kinds == {bytes} else None


def _whole(name: str, column: list[Any]) -> pl.Series | None:
    return pl.Series(name, column, pl.Int64) if set(map(type, column)) == {int} else None


def _any_texts(name: str, column: list[Any]) -> pl.Series:
    kinds = set(map(type, column)) - {type(None)}
    if kinds <= {str}:
        return pl.Series(name, column, pl.String)
    if kinds == {bytes}:
        return pl.Series(name, column, pl.Binary).cast(pl.String)
    return text_batch([name], [(value,) for value in column], 0).rows[name]


def _decoded(value: object) -> object:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def without_repeats(rows: pl.DataFrame) -> LiveRows:
    """Return one row an account of rows in order, and as rejects all rows of an account that has several.

    Which of them the other system goes by nobody here can know, so such an account is unread.
    """
    is_same = pl.col("account_id") == pl.col("account_id").shift()
    is_repeated = (is_same | is_same.shift(-1)).fill_null(False)
    if not rows.select(is_same.any()).item():
        return LiveRows(rows, pl.DataFrame(schema=REJECT_SCHEMA))
    marked = rows.with_columns(is_repeated=is_repeated)
    reason = pl.format("the table has more than one row of account '{}'", "account_id")
    rejects = as_rejects(marked.filter("is_repeated").drop("is_repeated", "is_unread"), "account_id", reason)
    single = marked.filter(is_same.fill_null(False).not_())
    return LiveRows(
        single.with_columns(is_unread=pl.col("is_unread") | pl.col("is_repeated")).drop("is_repeated"), rejects
    )
