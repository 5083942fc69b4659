"""Why a live row differs: its account is replayed alone, and each single fault that would explain the row is tried.

In this order, so that evidence that fits two has one class:

    missed_event    live is what the log says without exactly one of its events
    applied_twice   live is what the log says with exactly one of its events twice
    missed_event    live is what the log said at an earlier version: it stopped there
    foreign_write   nothing in the log gives this row: something else wrote it

The third is taken only where live had applied a transaction by then, since a row of zeros is the beginning of
every stream.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl
from sqlalchemy import LargeBinary, Text, select

from ledger import bulk
from ledger.tables import EVENTS
from projections import BALANCES
from replay.gate import Gate
from replay.store_source import StoreSource
from schemas.columns import RAW_SCHEMA

__all__ = ["Cause", "explain_accounts", "first_event_ids"]


class Cause(NamedTuple):
    """The class of a difference, the id of the first event that live cannot be explained with, and the evidence."""

    code: str
    first_event: str | None
    evidence: str


def explain_accounts(source: StoreSource, wrong: pl.DataFrame, *, until: int) -> dict[str, Cause]:
    """Return the cause of every account in `wrong`.

    `wrong` has `account_id`, the live `balance` and `frozen` (and, of our own read model, the pending sums), and
    the replayed columns with `replayed_` before their names.
    """
    if wrong.is_empty():
        return {}
    sums = [name for name in SUMS if name in wrong.columns]
    steps = _steps(source, wrong["account_id"].to_list(), until)
    tried = steps.join(_rows(wrong, sums), on="account_id").with_columns(
        without=pl.all_horizontal(pl.col(f"live_{name}") == pl.col(f"end_{name}") - pl.col(name) for name in sums),
        twice=pl.all_horizontal(pl.col(f"live_{name}") == pl.col(f"end_{name}") + pl.col(name) for name in sums),
        stopped=pl.all_horizontal(pl.col(f"live_{name}") == pl.col(f"after_{name}") for name in sums),
        has_worth=pl.any_horizontal(pl.col(name) != 0 for name in sums),
    )
    found = tried.group_by("account_id").agg(
        without=_event("event_id", pl.col("has_worth") & pl.col("without")).first(),
        twice=_event("event_id", pl.col("has_worth") & pl.col("twice")).first(),
        # The last version that live agrees with, if it had applied any transaction by then.
        stopped_at=_event("version", pl.col("stopped") & (pl.col("transactions") > 0)).last(),
        stopped=_event("next_event_id", pl.col("stopped") & (pl.col("transactions") > 0)).last(),
    )
    same = wrong.filter(*(pl.col(name) == pl.col(f"replayed_{name}") for name in sums))["account_id"].to_list()
    causes = {row["account_id"]: _cause(row) for row in found.iter_rows(named=True)}
    return causes | dict.fromkeys(same, _OTHER_COLUMN)


def first_event_ids(source: StoreSource, account_ids: list[str]) -> dict[str, str]:
    """Return the id of the first event of each account, as the event says it."""
    first = EVENTS.c.originator_version == 1
    statement = select(EVENTS.c.originator_id.cast(Text), EVENTS.c.state.cast(LargeBinary)).where(first)
    schema = {name: RAW_SCHEMA[name] for name in ("account_id", "state")}
    rows = bulk.select_rows(source.connection, statement, schema, key=EVENTS.c.originator_id, keys=account_ids)
    told = pl.col("state").cast(pl.String).str.json_path_match("$.event_id")
    return dict(rows.select("account_id", told).iter_rows())


def _event(name: str, condition: pl.Expr) -> pl.Expr:
    """A column of the events that a condition is true of, in version order."""
    return pl.col(name).filter(condition).sort_by(pl.col("version").filter(condition))


#: Sums that may tell one event from another; a foreign live table has the first two.
SUMS = ("balance", "frozen", "pending_credit", "pending_debit")
_OTHER_COLUMN = Cause("foreign_write", None, "the points agree; another column was written by something else")


def _steps(source: StoreSource, account_ids: list[str], until: int) -> pl.DataFrame:
    """One row an event of the accounts: its worth in each sum, and the sums after it."""
    gate = Gate()
    admitted = [
        gate.admit(batch.events, batch.poison).select(_EVENT_COLUMNS)
        for batch in source.of_accounts(account_ids).read(after=0, until=until, details=("transaction_id", "event_id"))
    ]
    events = pl.concat(admitted).sort("account_id", "version").with_row_index("row")
    # Each event as an account of its own gives its worth by the very fold that the balances are made with.
    single = events.lazy().with_columns(account_id=pl.col("row").cast(pl.String))
    worth = BALANCES.fold(single).select(pl.col("account_id").cast(pl.UInt32).alias("row"), *SUMS).collect()
    return (
        events.join(worth, on="row", how="left", maintain_order="left")
        .with_columns(pl.col(name).cum_sum().over("account_id").alias(f"after_{name}") for name in SUMS)
        .with_columns(
            *(pl.col(name).sum().over("account_id").alias(f"end_{name}") for name in SUMS),
            next_event_id=pl.col("event_id").shift(-1).over("account_id"),
            transactions=pl.col("transaction_id").is_not_null().cast(pl.Int64).cum_sum().over("account_id"),
        )
    )


_EVENT_COLUMNS = (
    "account_id",
    "version",
    "event",
    "effective_at",
    "event_id",
    "transaction_id",
    "type",
    "amount",
    "from_status",
    "to_status",
)


def _rows(wrong: pl.DataFrame, sums: list[str]) -> pl.DataFrame:
    return wrong.select("account_id", *(pl.col(name).cast(pl.Int128).alias(f"live_{name}") for name in sums))


def _cause(row: dict[str, int | str | None]) -> Cause:
    without, twice, stopped = row["without"], row["twice"], row["stopped"]
    if isinstance(without, str):
        return Cause("missed_event", without, f"live is what the log says without event {without}")
    if isinstance(twice, str):
        return Cause("applied_twice", twice, f"live is what the log says with event {twice} applied twice")
    if isinstance(stopped, str):
        evidence = f"live is what the log said at version {row['stopped_at']}, before event {stopped}"
        return Cause("missed_event", stopped, evidence)
    return Cause("foreign_write", None, "no event that was missed or applied twice explains this row")
