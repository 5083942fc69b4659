"""Import of the live table's account rows: as rows for `drift` to compare."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
from sqlalchemy import delete, select

from ledger import bulk
from ledger.fence import refuse_fenced
from ledger.importing import values
from ledger.importing.batches import LINE, Batch, Checked
from ledger.importing.mapping import ACCOUNT_STATUSES, Mapping
from ledger.importing.openings import append_openings
from ledger.importing.reading import Reading
from ledger.importing.rejects import Rejects, as_rejects
from ledger.importing.result import Imported, Progress
from ledger.importing.sources import Source
from ledger.importing.values import Check
from ledger.store import Store
from ledger.tables import IMPORTED_ACCOUNTS
from schemas.columns import UTC_MICROSECONDS
from schemas.errors import UsageError

__all__ = ["ACCOUNT_SCHEMA", "OPTIONAL", "REQUIRED", "check_accounts", "import_accounts"]

REQUIRED = ("account_id", "balance", "frozen_amount", "status")
OPTIONAL = ("locked_at",)

#: A good row of an accounts table.
ACCOUNT_SCHEMA = pl.Schema(
    {
        LINE: pl.Int64(),
        "account_id": pl.String(),
        "balance": pl.Int64(),
        "frozen_amount": pl.Int64(),
        "status": pl.String(),
        "locked_at": UTC_MICROSECONDS,
    }
)
_CONTENT = ["balance", "frozen_amount", "status", "locked_at"]


def import_accounts(
    store: Store,
    source: Source,
    *,
    mapping: Mapping | None = None,
    now: datetime,
    as_opening_at: datetime | None = None,
    replace: bool = False,
    dry_run: bool = False,
    rejects: Path,
    progress: Progress | None = None,
) -> Imported:
    """Import account rows: into `imported_accounts`, or with `as_opening_at` as opening balances, which are events.

    The second row of an account is unchanged if it says the same, else a reject. Rows of earlier imports whose
    account the input does not name are counted as `absent`; with `replace` they are removed in the same transaction.
    Memory grows with the accounts.

    Raises:
        UsageError: the input is unreadable or empty, or lacks a column that every account has; or `replace` is asked
            for openings, which are events.
    """
    if replace and as_opening_at is not None:
        raise UsageError("opening balances are events, and replace nothing", next_step="leave one of the two away")
    mapping = mapping or Mapping()
    absent = 0
    parts = [pl.DataFrame(schema=ACCOUNT_SCHEMA)]
    named = pl.DataFrame(schema={"account_id": pl.String()})
    with Rejects(rejects) as refused:
        reading = Reading(mapping, REQUIRED, OPTIONAL, refused, dry_run=dry_run)
        for batch, checked in reading.checked(source, check_accounts, progress=None):
            # An account whose row is rejected is in the input all the same.
            account_ids = values.pick(batch.rows, ("account_id",), mapping).select("account_id")
            named = pl.concat([named, account_ids]).unique()
            parts.append(checked.good)
        rows, repeats, conflicts = _distinct(pl.concat(parts))
        refused.add(conflicts)
        if as_opening_at is None:
            imported, unchanged, absent = _keep(store, rows, named, replace=replace, dry_run=dry_run)
            events = 0
        else:
            opened = append_openings(store, rows, at=as_opening_at, now=now, dry_run=dry_run, progress=progress)
            imported, unchanged, events = opened.imported, opened.unchanged, opened.events
            refused.add(opened.rejects)
    return Imported(
        imported=imported,
        unchanged=unchanged + repeats,
        rejected=refused.count,
        rejects=refused.file,
        events=events,
        profile=reading.profile,
        ignored_columns=sorted(reading.ignored),
        naive_times=reading.naive_times,
        absent=absent,
    )


def check_accounts(batch: Batch, mapping: Mapping, *, table: str = "[import]") -> Checked:
    """Return the good rows (`ACCOUNT_SCHEMA`) and the rejects of a batch.

    `table` is that of the TOML file that the mapping is from.
    """
    picked = values.pick(batch.rows, REQUIRED + OPTIONAL, mapping)
    locked = values.times(picked["locked_at"], mapping.zone)
    status, bad_status = values.mapped("status", mapping.statuses, ACCOUNT_STATUSES)
    points = {column: values.whole(column, mapping.amount_scale) for column in ("balance", "frozen_amount")}
    read = picked.with_columns(
        locked_at_moment=locked.moments,
        locked_at_problem=locked.problems,
        status_value=status,
        **{f"{column}_value": value for column, value in points.items()},
    )
    checks = [
        *values.id_checks("account_id"),
        *(check for column in points for check in values.whole_checks(column, mapping.amount_scale, table)),
        Check("status", bad_status, values.unknown("status", "statuses", ACCOUNT_STATUSES, table)),
        *values.time_checks("locked_at", required=False),
    ]
    passed, rejects = values.split(read, batch, checks)
    good = passed.select(
        LINE,
        "account_id",
        balance="balance_value",
        frozen_amount="frozen_amount_value",
        status="status_value",
        locked_at="locked_at_moment",
    )
    return Checked(good, rejects, locked.naive_count)


def _distinct(rows: pl.DataFrame) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    """Return the first row of every account, how many rows repeat it, and the rows that contradict it."""
    first = rows.unique("account_id", keep="first", maintain_order=True)
    if first.height == rows.height:
        return rows, 0, as_rejects(rows.clear(), "account_id", pl.lit(""))
    others = rows.join(first.select(LINE), on=LINE, how="anti")
    contrary = others.join(first, on=["account_id", *_CONTENT], how="anti", nulls_equal=True, maintain_order="left")
    reason = pl.format("conflicting duplicate: the file has account '{}' before, with other content", "account_id")
    return first, others.height - contrary.height, as_rejects(contrary, "account_id", reason)


def _keep(
    store: Store, rows: pl.DataFrame, named: pl.DataFrame, *, replace: bool, dry_run: bool
) -> tuple[int, int, int]:
    """Write the rows that are new or different; return how many those are, how many were the same, and the absent.

    `named`: the `account_id` of every row of the input. With `replace` the rows of all other accounts are removed.
    """
    wire_time = pl.col("locked_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    table = rows.drop(LINE).with_columns(locked_at=wire_time)
    schema = {column.name: table.schema[column.name] for column in IMPORTED_ACCOUNTS.columns}
    with store.snapshot() if dry_run else store.writing() as connection:
        # A time without microseconds is null text to some drivers; compared as text it is exact.
        before = bulk.select_rows(connection, select(*IMPORTED_ACCOUNTS.columns), schema)
        changed = table.join(before, on=["account_id", *_CONTENT], how="anti", nulls_equal=True)
        absent = before.join(named, on="account_id", how="anti")["account_id"].to_list()
        if not dry_run:
            # The copy may be what a recovery corrects.
            refuse_fenced(connection)
            bulk.upsert_rows(connection, IMPORTED_ACCOUNTS, changed.select(list(schema)))
            for start in range(0, len(absent) if replace else 0, bulk.KEYS_PER_QUERY):
                keys = absent[start : start + bulk.KEYS_PER_QUERY]
                connection.execute(delete(IMPORTED_ACCOUNTS).where(IMPORTED_ACCOUNTS.c.account_id.in_(keys)))
    return changed.height, table.height - changed.height, len(absent)
