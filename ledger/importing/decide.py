"""What each row means to the ledger: a new record, a change of status, nothing new, or a conflict.

Rows about transactions that nobody else mentions are decided in columns. Only rows whose transaction is known with
other content, or comes several times in the file, are decided one by one, in the order of the file.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import polars as pl

from ledger.importing.batches import LINE
from ledger.importing.rejects import as_rejects
from ledger.importing.wire import NEW_EVENT_COLUMNS, at
from ledger.rules import is_legal
from schemas.columns import UTC_MICROSECONDS
from schemas.events import TransactionRecorded, TransactionStatusChanged

__all__ = ["Decided", "decide"]

_RECORDED = str(TransactionRecorded.__struct_config__.tag)
_CHANGED = str(TransactionStatusChanged.__struct_config__.tag)
_CONTENT = ["related_transaction_id", "business_code", "order_id", "metadata"]
_KEY = ["account_id", "transaction_id", "status", "type", "amount", *_CONTENT]
#: What a row becomes: `from_status` null for a record, and the moment that orders it among its account's events.
_NEW = {LINE: pl.Int64(), "from_status": pl.String(), "order_at": UTC_MICROSECONDS}


class Decided(NamedTuple):
    """`events` (`account_id` and `NEW_EVENT_COLUMNS`, in order), rejects, and how many rows say nothing new."""

    events: pl.DataFrame
    rejects: pl.DataFrame
    unchanged: int


def decide(
    rows: pl.DataFrame,
    known: pl.DataFrame,
    *,
    owners: pl.DataFrame,
    broken: pl.DataFrame,
    openings: pl.DataFrame,
    now: datetime,
) -> Decided:
    """Decide the rows (`ROW_SCHEMA`) of some accounts.

    `known`: every known event of the rows' transactions in these accounts (`known.KNOWN_SCHEMA`). `owners`:
    `transaction_id`, `owner` where that is perhaps not the row's account. `broken`: `account_id`, `problem`.
    `openings`: `account_id`, `opening_at`, the moment of an opening balance, in which everything before it is.
    """
    rest, refused = _accepted(rows, owners, broken)
    known_ids = known["transaction_id"].unique().implode()
    rest, early = _since_opening(rest, openings, known_ids)
    left = _without_repeats(rest, known)
    contested = left["transaction_id"].is_duplicated() | left["transaction_id"].is_in(known_ids)
    fresh = left.filter(~contested).with_columns(from_status=pl.lit(None, pl.String), order_at="created_at")
    several = left.filter(contested).sort(LINE)
    new, conflicts, repeats = _one_by_one(several, known)
    rejects = pl.concat([as_rejects(part, "", pl.col("reason")) for part in (refused, early, conflicts)])
    events = _events(pl.concat([fresh, several.join(new, on=LINE, how="inner")]), now)
    return Decided(events, rejects, rest.height - left.height + repeats)


def _accepted(rows: pl.DataFrame, owners: pl.DataFrame, broken: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows whose account can take them, and the others with `column` and `reason`."""
    reason = (
        pl.when(pl.col("problem").is_not_null())
        .then(pl.format("the stream of account '{}' cannot be continued: {}", "account_id", "problem"))
        .when(pl.col("owner") != pl.col("account_id"))
        .then(pl.format("conflicting duplicate: the transaction belongs to account '{}'", "owner"))
    )
    column = pl.when(pl.col("problem").is_not_null()).then(pl.lit("account_id")).otherwise(pl.lit("transaction_id"))
    if broken.is_empty() and owners.is_empty():
        # The usual case, without the work of wording reasons for nobody.
        nothing = pl.lit(None, pl.String)
        return rows, rows.clear().with_columns(reason=nothing, column=nothing)
    joined = rows.join(broken, on="account_id", how="left", maintain_order="left").join(
        owners, on="transaction_id", how="left", maintain_order="left"
    )
    judged = joined.with_columns(reason=reason, column=column).drop("problem", "owner")
    is_refused = judged["reason"].is_not_null()
    return judged.filter(~is_refused).drop("reason", "column"), judged.filter(is_refused)


def _since_opening(
    rows: pl.DataFrame, openings: pl.DataFrame, known_ids: pl.Series
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows less those of new transactions that an opening balance has counted, and these with `reason`."""
    if openings.is_empty():
        nothing = pl.lit(None, pl.String)
        return rows, rows.clear().with_columns(reason=nothing, column=nothing)
    judged = rows.join(openings, on="account_id", how="left", maintain_order="left")
    is_early = (pl.col("created_at") < pl.col("opening_at")).fill_null(False)
    is_counted = judged.select(is_early & ~pl.col("transaction_id").is_in(known_ids)).to_series()
    at_text = pl.col("opening_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    reason = pl.format("before the opening balance of account '{}' at {}, which has counted it", "account_id", at_text)
    early = judged.filter(is_counted).with_columns(reason=reason, column=pl.lit("created_at"))
    return judged.filter(~is_counted).drop("opening_at"), early.drop("opening_at")


def _without_repeats(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return the rows less those that say what an event of the store has said."""
    if known.is_empty():
        return rows
    records, changes = known.filter("is_record"), known.filter(~pl.col("is_record"))
    first = records.unique("transaction_id", keep="first", maintain_order=True)
    # A foreign table has only the content of now beside the status of now, so a row may repeat the first content.
    carried = first.drop("status").join(changes.select("transaction_id", "status"), on="transaction_id")
    # An event of a change has a moment of its own; the transaction was created when its record says.
    changed = changes.drop("created_at").join(first.select("transaction_id", "created_at"), on="transaction_id")
    by = [*_KEY, "created_at"]
    left = rows
    for said in (records, carried, changed):
        left = left.join(said.select(by), on=by, how="anti", nulls_equal=True, maintain_order="left")
    return left


class _History:
    """What is known of one transaction while its rows are decided in the order of the file."""

    __slots__ = ("amount", "first", "order_at", "said", "status", "type")

    def __init__(self, row: dict[str, Any]) -> None:
        self.type, self.amount = row["type"], row["amount"]
        self.first = (row["created_at"], *_content(row))
        self.said: dict[str, list[tuple[Any, ...]]] = {}
        self.order_at: datetime | None = None
        self.status = ""

    def enter(self, status: str, content: tuple[Any, ...]) -> None:
        self.said.setdefault(status, []).append(content)
        self.status = status

    def has_said(self, row: dict[str, Any], content: tuple[Any, ...]) -> bool:
        same = (self.type, self.amount) == (row["type"], row["amount"])
        contents = self.said.get(row["status"])
        if not same or contents is None:
            return False
        # A change of status carries content but not the moment of creation, which is the record's.
        return (row["created_at"], *content) in (self.first, *contents) or (
            row["created_at"] == self.first[0] and content in contents
        )


def _one_by_one(rows: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    new: list[tuple[int, str | None, datetime]] = []
    reasons: list[tuple[int, str, str]] = []
    repeats = 0
    histories = _histories(known.join(rows.select("transaction_id"), on="transaction_id", how="semi").sort("version"))
    for row in rows.iter_rows(named=True):
        content = _content(row)
        history = histories.get(row["transaction_id"])
        if history is None:
            history = histories[row["transaction_id"]] = _History(row)
            history.order_at = row["created_at"]
            history.enter(row["status"], history.first)
            new.append((row[LINE], None, row["created_at"]))
        elif history.has_said(row, content):
            repeats += 1
        elif (difference := _difference(history, row)) is not None:
            reasons.append((row[LINE], *difference))
        else:
            # A change never stands before the record that it changes.
            order_at = max(row["created_at"], history.order_at or row["created_at"])
            new.append((row[LINE], history.status, order_at))
            history.order_at = order_at
            history.enter(row["status"], content)
    schema = {LINE: pl.Int64(), "column": pl.String(), "reason": pl.String()}
    conflicts = rows.join(pl.DataFrame(reasons, schema=schema, orient="row"), on=LINE, how="inner")
    return pl.DataFrame(new, schema=_NEW, orient="row"), conflicts, repeats


def _histories(known: pl.DataFrame) -> dict[str, _History]:
    histories: dict[str, _History] = {}
    for row in known.iter_rows(named=True):
        history = histories.get(row["transaction_id"])
        if history is None:
            history = histories[row["transaction_id"]] = _History(row)
        content = _content(row)
        history.enter(row["status"], (row["created_at"], *content) if row["is_record"] else content)
    return histories


def _difference(history: _History, row: dict[str, Any]) -> tuple[str, str] | None:
    """Return (column, reason) of what keeps the row from being the transaction's next status, None if nothing does."""
    for column, before in (("type", history.type), ("amount", history.amount)):
        if row[column] != before:
            return column, f"conflicting duplicate: the transaction is known with {column} {before}, not {row[column]}"
    if row["status"] in history.said:
        names = ["created_at", *_CONTENT]
        differing = [
            name
            for name, old, new in zip(names, history.first, (row["created_at"], *_content(row)), strict=True)
            if old != new
        ]
        return differing[0] if differing else "status", (
            f"conflicting duplicate: the transaction is known as {row['status']} with another {' and '.join(differing)}"
        )
    if not is_legal(history.status, row["status"]):
        return "status", (
            f"conflicting duplicate: the transaction is {history.status}, which cannot become {row['status']}"
        )
    return None


def _content(row: dict[str, Any]) -> tuple[Any, ...]:
    metadata = row["metadata"]
    # The same object may be written in several ways; as text only the most common case is equal.
    return (
        row["related_transaction_id"],
        row["business_code"],
        row["order_id"],
        None if metadata is None else msgspec.json.decode(metadata),
    )


def _events(new: pl.DataFrame, now: datetime) -> pl.DataFrame:
    is_change = pl.col("from_status").is_not_null()
    return (
        new.sort("account_id", "order_at", LINE)
        .with_columns(
            event=pl.when(is_change).then(pl.lit(_CHANGED)).otherwise(pl.lit(_RECORDED)),
            effective_at=pl.when(is_change).then(pl.col("updated_at").fill_null(at(now))).otherwise("created_at"),
            recorded_at=pl.col("recorded_at").fill_null(at(now)),
            to_status="status",
            reason=pl.lit(None, pl.String),
        )
        .select("account_id", *NEW_EVENT_COLUMNS)
    )
