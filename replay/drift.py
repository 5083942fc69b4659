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
from replay.explain import Cause, explain_accounts
from replay.full_replay import Replay, replayed
from replay.source import StoreSource
from schemas import event_id, format_time
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
    "last_effective_at",
)
_OF_STATUS = ("status", "locked_at")
_FOREIGN_FIELDS = ("balance", "frozen", "status", "locked_at")

Value = int | str | None


class Drifted(msgspec.Struct, frozen=True, kw_only=True):
    """One difference: a column of an account, or `row` where one side has no row.

    `difference` is live less replayed, for numbers. `first_event` is the id of the first event after which live
    cannot be explained, null where no event can say.
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
    there are any, else our own read model. UsageError if there is nothing to compare.
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
    def fields_of_status(self) -> tuple[str, ...]:
        """Columns of which a log without lock, unlock or close events says nothing; our own rows begin as active."""
        return _OF_STATUS if self.position is None else ()


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
    replayed_rows = replay.rows.with_columns(has_replayed=True).rename(
        lambda name: name if name == "account_id" else f"replayed_{name}"
    )
    both = live.join(replayed_rows, on="account_id", how="full", coalesce=True).sort("account_id")
    wrong = both.filter(pl.any_horizontal(~_is_whole(), *(_differs(field, side) for field in side.fields)))
    causes = explain_accounts(source, wrong.filter(_is_whole()), until=replay.certificate.position)
    entries = [entry for row in wrong.iter_rows(named=True) for entry in _entries(row, side, causes)]
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
    return differs & pl.col("replayed_status_version").is_not_null() if field in side.fields_of_status else differs


def _entries(row: dict[str, Any], side: _Side, causes: dict[str, Cause]) -> Iterator[Drifted]:
    account_id = row["account_id"]
    if not (row["has_live"] and row["replayed_has_replayed"]):
        yield _row_entry(account_id, row)
        return
    cause = causes[account_id]
    for field in side.fields:
        live, replayed = row[field], row[f"replayed_{field}"]
        if live == replayed or (field in side.fields_of_status and row["replayed_status_version"] is None):
            continue
        are_numbers = isinstance(live, int) and isinstance(replayed, int)
        yield Drifted(
            account_id=account_id,
            field=field,
            live=_value(live),
            replayed=_value(replayed),
            difference=live - replayed if are_numbers else None,
            cause=cause.code,
            first_event=cause.first_event,
            evidence=cause.evidence,
        )


def _row_entry(account_id: str, row: dict[str, Any]) -> Drifted:
    is_extra = bool(row["has_live"])
    return Drifted(
        account_id=account_id,
        field="row",
        live=row["balance"],
        replayed=row["replayed_balance"],
        difference=None,
        cause="row_extra" if is_extra else "row_missing",
        first_event=None if is_extra else event_id(account_id, 1),
        evidence="the log has no event of this account" if is_extra else "live has no row of this account",
    )


def _value(value: int | str | datetime | None) -> Value:
    return format_time(value) if isinstance(value, datetime) else value
