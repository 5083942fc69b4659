"""Opening balances: account rows as the first events of ledgers whose older history is gone.

An account's opening is `account.opened`, a completed credit (a debit where the balance is below zero) named
`opening:<account>`, a frozen debit named `opening-hold:<account>` for what is frozen, and its lock or closing, all
effective at one moment, but a lock at the moment that its row says. They go in together, so the same import again
finds them known.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import polars as pl

from ledger.importing.known import HOLD, OPENING, OPENING_REASON, Known
from ledger.importing.rejects import REJECT_SCHEMA, as_rejects
from ledger.importing.result import Progress
from ledger.importing.staging import folder_for_staging
from ledger.importing.wire import NEW_EVENT_COLUMNS, numbered, stored_rows
from ledger.importing.wire import at as moment
from ledger.store import Store
from schemas.columns import UTC_MICROSECONDS
from schemas.events import AMOUNT_MAX, ID_LENGTH_MAX

__all__ = ["BUSINESS_CODE", "Opened", "append_openings"]

BUSINESS_CODE = "opening"
ACCOUNTS_PER_APPEND = 50_000
_STATUS_EVENTS = {"locked": "account.locked", "closed": "account.closed"}
_AGAINST = {"account.locked", "account.unlocked", "account.closed"}


class Opened(NamedTuple):
    """Counts of rows, the events appended, and the rejects."""

    imported: int
    unchanged: int
    events: int
    rejects: pl.DataFrame


def append_openings(
    store: Store, rows: pl.DataFrame, *, at: datetime, now: datetime, dry_run: bool, progress: Progress | None = None
) -> Opened:
    """Append the openings of account rows (`accounts.ACCOUNT_SCHEMA`, each account once), effective at `at`."""
    accounts = rows.select("account_id")
    streams = _Streams(accounts)
    imported = unchanged = events = 0
    rejects = [pl.DataFrame(schema=REJECT_SCHEMA)]
    with folder_for_staging() as folder:
        known = Known(folder, None, accounts, watch=streams.add)
        with store.snapshot() as connection:
            known.read(store, connection)
        for start in range(0, rows.height, ACCOUNTS_PER_APPEND):
            part = rows.slice(start, ACCOUNTS_PER_APPEND)
            if dry_run:
                new, refused = _openings(part, streams, known, at=at, now=now)
                stored = numbered(new, known.heads)
            else:
                with store.appending() as connection:
                    known.catch_up(store, connection)
                    new, refused = _openings(part, streams, known, at=at, now=now)
                    stored = stored_rows(new, known.heads)
                    if stored.height:
                        store.append_rows(connection, stored)
                        known.appended(store, connection)
            opened = new["account_id"].n_unique()
            imported += opened
            events += stored.height
            unchanged += part.height - opened - refused.height
            rejects.append(refused)
            if progress is not None:
                progress(min(start + ACCOUNTS_PER_APPEND, rows.height), rows.height)
    return Opened(imported, unchanged, events, pl.concat(rejects))


class _Streams:
    """What the store's events say about some accounts: openings, older history, and events of the account itself."""

    def __init__(self, accounts: pl.DataFrame) -> None:
        self._accounts = accounts
        self._parts: list[pl.DataFrame] = []

    def add(self, events: pl.DataFrame) -> None:
        """Take a decoded batch."""
        ours = events.join(self._accounts, on="account_id", how="semi")
        if ours.is_empty():
            return
        is_opening = pl.col("transaction_id") == pl.lit(OPENING) + pl.col("account_id")
        is_hold = pl.col("transaction_id") == pl.lit(HOLD) + pl.col("account_id")
        is_other = pl.col("transaction_id").is_not_null() & ~is_opening & ~is_hold
        signed = pl.when(pl.col("type") == "debit").then(-pl.col("amount")).otherwise(pl.col("amount"))
        first = ours.sort("version").group_by("account_id")
        self._parts.append(
            first.agg(
                earliest=pl.col("effective_at").filter(is_other).min(),
                has_status=pl.col("event").is_in(_AGAINST).any(),
                opening=signed.filter(is_opening).first(),
                opening_at=pl.col("effective_at").filter(is_opening).first(),
                hold=pl.col("amount").filter(is_hold).first(),
            )
        )

    def summary(self) -> pl.DataFrame:
        """Return one row for each account that has events."""
        schema = {
            "account_id": pl.String(),
            "earliest": UTC_MICROSECONDS,
            "has_status": pl.Boolean(),
            "opening": pl.Int64(),
            "opening_at": UTC_MICROSECONDS,
            "hold": pl.Int64(),
        }
        whole = pl.concat([pl.DataFrame(schema=schema), *self._parts])
        firsts = [pl.col(name).drop_nulls().first() for name in ("opening", "opening_at", "hold")]
        summary = whole.group_by("account_id").agg(pl.col("earliest").min(), pl.col("has_status").any(), *firsts)
        self._parts = [summary.select(list(schema))]
        return self._parts[0]


def _openings(
    rows: pl.DataFrame, streams: _Streams, known: Known, *, at: datetime, now: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the new events (`account_id` and `NEW_EVENT_COLUMNS`, in order) and the rejects."""
    read = (
        rows.join(streams.summary(), on="account_id", how="left", maintain_order="left")
        .join(known.broken, on="account_id", how="left", maintain_order="left")
        .join(known.heads.select("account_id", head="version"), on="account_id", how="left", maintain_order="left")
        .with_columns(reason=_reason(at))
    )
    refused = read.filter(pl.col("reason").is_not_null())
    return _events(read.filter(pl.col("reason").is_null()), at, now), as_rejects(
        refused.select(*rows.columns, "reason"), "account_id", pl.col("reason")
    )


def _reason(at: datetime) -> pl.Expr:
    is_known = pl.col("opening").is_not_null() | pl.col("hold").is_not_null()
    differs = (
        (pl.col("opening").fill_null(0) != pl.col("balance"))
        | (pl.col("hold").fill_null(0) != pl.col("frozen_amount"))
        | (pl.col("opening_at") != moment(at)).fill_null(False)
    )
    longest = ID_LENGTH_MAX - len(HOLD)
    return (
        pl.when(pl.col("problem").is_not_null())
        .then(pl.format("the stream of account '{}' cannot be continued: {}", "account_id", "problem"))
        .when(pl.col("account_id").str.len_chars() > longest)
        .then(pl.lit(f"account_id is longer than {longest} characters, so the opening's own id would be too long"))
        .when(pl.col("frozen_amount") < 0)
        .then(pl.format("frozen_amount {} is below zero: there is no such hold", "frozen_amount"))
        .when(pl.col("balance") < -AMOUNT_MAX)
        .then(pl.format("balance {} is past what one transaction may hold", "balance"))
        .when(is_known & differs)
        .then(pl.lit("conflicting duplicate: the account has an opening with another balance, hold or moment"))
        .when(~is_known & (pl.col("earliest") < moment(at)))
        .then(pl.lit("the account has transactions before that moment; an opening would count them twice"))
    )


def _events(rows: pl.DataFrame, at: datetime, now: datetime) -> pl.DataFrame:
    is_known = pl.col("opening").is_not_null() | pl.col("hold").is_not_null()
    kind = pl.when(pl.col("balance") < 0).then(pl.lit("debit")).otherwise(pl.lit("credit"))
    recorded = pl.lit("transaction.recorded")
    parts = [
        _part(rows.filter(pl.col("head").is_null()), 0, event=pl.lit("account.opened"), reason=pl.lit(OPENING_REASON)),
        _part(
            rows.filter(~is_known & (pl.col("balance") != 0)),
            1,
            event=recorded,
            transaction_id=pl.lit(OPENING) + pl.col("account_id"),
            type=kind,
            amount=pl.col("balance").abs(),
            to_status=pl.lit("completed"),
            business_code=pl.lit(BUSINESS_CODE),
        ),
        _part(
            rows.filter(~is_known & (pl.col("frozen_amount") > 0)),
            2,
            event=recorded,
            transaction_id=pl.lit(HOLD) + pl.col("account_id"),
            type=pl.lit("debit"),
            amount=pl.col("frozen_amount"),
            to_status=pl.lit("frozen"),
            business_code=pl.lit(BUSINESS_CODE),
        ),
        _part(
            rows.filter((pl.col("status") != "active") & ~pl.col("has_status").fill_null(False)),
            3,
            event=pl.col("status").replace_strict(_STATUS_EVENTS, default=None, return_dtype=pl.String),
            reason=pl.lit(BUSINESS_CODE),
            # Whoever compares the live rows compares the moment of a lock too.
            effective_at=pl.when(pl.col("status") == "locked").then("locked_at"),
        ),
    ]
    return (
        pl.concat(parts)
        .with_columns(effective_at=pl.col("effective_at").fill_null(moment(at)), recorded_at=moment(now))
        .sort("account_id", "place")
        .select("account_id", *NEW_EVENT_COLUMNS)
    )


def _part(rows: pl.DataFrame, place: int, **columns: pl.Expr) -> pl.DataFrame:
    texts = [name for name in NEW_EVENT_COLUMNS if name not in ("effective_at", "recorded_at", "amount")]
    empty = {name: pl.lit(None, pl.String) for name in texts} | {"amount": pl.lit(None, pl.Int64)}
    empty["effective_at"] = pl.lit(None, UTC_MICROSECONDS)
    return rows.select("account_id", place=pl.lit(place), **(empty | columns))
