"""Drift: live rows against a replay at one position, every account and every column, and why they differ.

Our own read model is compared at exactly its position; a copy of a foreign live table is compared at the head.
An account that the log cannot vouch for is `uncompared`, never equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import polars as pl

from ledger import read_model
from ledger.store import Store
from replay.certificate import Certificate
from replay.engine import Progress
from replay.explain import Cause, explain_accounts, first_event_ids
from replay.full_replay import Replay, replayed
from replay.generation import stored_rows
from replay.store_source import StoreSource
from schemas import format_time
from schemas.errors import UsageError

__all__ = ["Drift", "Drifted", "drift"]

EQUAL, DRIFT, INCOMPARABLE = "EQUAL", "DRIFT", "INCOMPARABLE"

_OWN_FIELDS = (
    "balance",
    "frozen",
    "pending_credit",
    "pending_debit",
    "status",
    "locked_at",
    "status_version",
    "closed_version",
    "version",
    "chain",
    "last_effective_at",
)
_OF_STATUS = ("status", "locked_at")
_FOREIGN_FIELDS = ("balance", "frozen", "status", "locked_at")

Value = int | str | None


class Drifted(msgspec.Struct, frozen=True, kw_only=True):
    """One difference: a column of an account, or `row` where one side has no row.

    `difference` is live less replayed, for numbers; a chain is told as hexadecimal text. `first_event` is the id, as
    the event says it, of the first event after which live cannot be explained, null where no event can say.
    """

    account_id: str
    field: str
    live: Value
    replayed: Value
    difference: int | None
    cause: str = msgspec.field(name="class")
    first_event: str | None
    evidence: str


@dataclass(frozen=True)
class Drift:
    """The comparison: accounts compared, accounts that differ, each difference, and what could not be compared."""

    verdict: str
    live: str
    compared: int
    drifted: int
    accounts: list[Drifted]
    suspected: list[str]
    uncompared: list[str]
    certificate: Certificate


def drift(
    store: Store,
    *,
    live: Literal["imported", "read_model"] | pl.DataFrame | None = None,
    progress: Progress | None = None,
) -> Drift:
    """Compare live rows with a replay.

    `live` is `imported` (the copy that `import accounts` made), `read_model` (our own live generation), a frame
    of foreign rows (`account_id`, `balance`, `frozen`, `status`, `locked_at`), or None: the imported rows if
    there are any, else our own read model. A foreign row without `locked_at` is not compared in it, since its table
    may know no such thing. UsageError if there is nothing to compare.
    """
    with StoreSource.snapshot(store) as source:
        side = _live_side(source, live)
        # A log that lost its tail ends before the read model; the heads name the accounts that it lost.
        until = None if side.position is None else min(side.position, source.head())
        with replayed(source, until=until, progress=progress) as replay:
            return _compared(source, side, replay)


@dataclass(frozen=True)
class _Side:
    """The live side: its rows, the columns that count, and the position it claims (None: the head)."""

    name: str
    rows: pl.DataFrame
    fields: tuple[str, ...]
    position: int | None

    @property
    def is_own(self) -> bool:
        """Whether this is our own read model, which has every column and begins as active."""
        return self.position is not None


def _live_side(source: StoreSource, live: str | pl.DataFrame | None) -> _Side:
    if isinstance(live, pl.DataFrame):
        return _Side("foreign", live, _FOREIGN_FIELDS, None)
    imported = read_model.imported(source.connection)
    if live == "imported" or (live is None and imported.height):
        return _Side("imported", imported, _FOREIGN_FIELDS, None)
    own = read_model.live(source.connection)
    if own is None:
        raise UsageError("there are no live rows to compare", next_step="`import accounts FILE` or `project` first")
    return _Side("read_model", read_model.rows(source.connection, own.generation), _OWN_FIELDS, own.position)


def _compared(source: StoreSource, side: _Side, replay: Replay) -> Drift:
    parked = replay.parked_ids
    live = side.rows.filter(~pl.col("account_id").is_in(parked)).with_columns(has_live=True)
    replayed_rows = stored_rows(replay.rows, replay.gate).with_columns(has_replayed=True)
    both = live.join(
        replayed_rows.rename(lambda name: name if name == "account_id" else f"replayed_{name}"),
        on="account_id",
        how="full",
        coalesce=True,
    ).with_columns(_differs(field, side).alias(f"differs_{field}") for field in side.fields)
    differs = pl.any_horizontal(f"differs_{field}" for field in side.fields)
    wrong = both.filter(~_is_whole() | differs).sort("account_id")
    causes = explain_accounts(source, wrong.filter(_is_whole()), until=replay.certificate.store_position)
    causes |= _row_causes(source, wrong.filter(~_is_whole()))
    entries = [entry for row in wrong.iter_rows(named=True) for entry in _entries(row, side, causes[row["account_id"]])]
    return Drift(
        verdict=INCOMPARABLE if parked else DRIFT if entries else EQUAL,
        live=side.name,
        compared=both.height,
        drifted=wrong.height,
        accounts=entries,
        suspected=[],
        uncompared=parked,
        certificate=replay.certificate,
    )


def _is_whole() -> pl.Expr:
    """Where both sides have a row."""
    return pl.col("has_live").fill_null(False) & pl.col("replayed_has_replayed").fill_null(False)


def _differs(field: str, side: _Side) -> pl.Expr:
    """Where both sides have a row and the column differs, if it is comparable at all."""
    differs = _is_whole() & pl.col(field).ne_missing(pl.col(f"replayed_{field}"))
    if side.is_own or field not in _OF_STATUS:
        return differs
    # Of the status a log without lock, unlock or close events says nothing.
    differs &= pl.col("replayed_status_version").is_not_null()
    return differs & pl.col(field).is_not_null() if field == "locked_at" else differs


def _row_causes(source: StoreSource, wrong: pl.DataFrame) -> dict[str, Cause]:
    """The causes of rows that one side does not have, by account."""
    is_extra = pl.col("has_live").fill_null(False)
    extra = Cause("row_extra", None, "the log has no event of this account")
    first = first_event_ids(source, wrong.filter(~is_extra)["account_id"].to_list())
    missing = {
        account_id: Cause("row_missing", event_id, "live has no row of this account")
        for account_id, event_id in first.items()
    }
    return missing | dict.fromkeys(wrong.filter(is_extra)["account_id"], extra)


def _entries(row: dict[str, Any], side: _Side, cause: Cause) -> Iterator[Drifted]:
    is_whole = row["has_live"] and row["replayed_has_replayed"]
    fields = [field for field in side.fields if row[f"differs_{field}"]] if is_whole else ["row"]
    for field in fields:
        # A row that is missing on one side is told by its balance on the other.
        column = field if is_whole else "balance"
        live, replayed = row[column], row[f"replayed_{column}"]
        are_numbers = isinstance(live, int) and isinstance(replayed, int)
        yield Drifted(
            account_id=row["account_id"],
            field=field,
            live=_value(live),
            replayed=_value(replayed),
            difference=live - replayed if are_numbers else None,
            cause=cause.code,
            first_event=cause.first_event,
            evidence=cause.evidence,
        )


def _value(value: int | str | bytes | datetime | None) -> Value:
    if isinstance(value, bytes):
        return value.hex()
    return format_time(value) if isinstance(value, datetime) else value
