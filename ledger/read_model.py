"""The read model's tables: generations of account rows, which one is live, and up to which position each is.

All functions work inside the caller's transaction. A generation's position moves by compare-and-set in the
transaction that writes its rows, so two projectors can never both apply the same events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection, Table, delete, func, insert, select, text, update

from ledger import bulk
from ledger.tables import ACCOUNTS, GENERATIONS, IMPORTED_ACCOUNTS, LIVE, PARKED, SHADOW_ACCOUNTS
from schemas.errors import PositionMoved, UsageError

__all__ = [
    "ROW_SCHEMA",
    "Generation",
    "advance",
    "as_stored",
    "create",
    "drop",
    "generations",
    "go_live",
    "imported",
    "live",
    "lock_creation",
    "parked",
    "replace_parked",
    "rows",
    "table_of",
    "write_rows",
]

_TIMES = ("locked_at", "last_effective_at")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"
_UTC_MICROSECONDS = pl.Datetime("us", "UTC")

#: One row of the read model, as a frame: what the table keeps, times as times.
ROW_SCHEMA = pl.Schema(
    {
        "account_id": pl.String(),
        "balance": pl.Int64(),
        "frozen": pl.Int64(),
        "pending_credit": pl.Int64(),
        "pending_debit": pl.Int64(),
        "status": pl.String(),
        "locked_at": _UTC_MICROSECONDS,
        "status_version": pl.Int64(),
        "closed_version": pl.Int64(),
        "version": pl.Int64(),
        "chain": pl.Binary(),
        "last_effective_at": _UTC_MICROSECONDS,
    }
)


class Generation(NamedTuple):
    """One complete set of read-model rows."""

    generation: int
    position: int
    created_at: str
    certificate: str | None
    is_live: bool
    is_previous: bool


def generations(connection: Connection) -> list[Generation]:
    """Return every generation, oldest first."""
    number, previous = connection.execute(select(LIVE.c.generation, LIVE.c.previous)).one_or_none() or (None, None)
    found = connection.execute(select(GENERATIONS).order_by(GENERATIONS.c.generation))
    return [
        Generation(
            row.generation,
            row.position,
            row.created_at,
            row.certificate,
            is_live=row.generation == number,
            is_previous=row.generation == previous,
        )
        for row in found
    ]


def live(connection: Connection) -> Generation | None:
    """Return the live generation, None before the first."""
    return next((found for found in generations(connection) if found.is_live), None)


def create(connection: Connection, *, position: int, created_at: str, certificate: str | None = None) -> Generation:
    """Make an empty generation at a position; it is not live."""
    lock_creation(connection)
    number: int = connection.execute(select(func.coalesce(func.max(GENERATIONS.c.generation), 0) + 1)).scalar_one()
    values = {"generation": number, "position": position, "created_at": created_at, "certificate": certificate}
    connection.execute(insert(GENERATIONS).values(values))
    return Generation(number, position, created_at, certificate, is_live=False, is_previous=False)


def lock_creation(connection: Connection) -> None:
    """Let nobody else make a generation for the rest of the transaction: two would take the same number."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(5417163211)"))


def drop(connection: Connection, generation: int) -> None:
    """Remove a generation and its rows; the caller makes sure that it is not live."""
    for table in (ACCOUNTS, PARKED, GENERATIONS):
        connection.execute(delete(table).where(table.c.generation == generation))


def go_live(connection: Connection, generation: int) -> None:
    """Make a generation the live one; UsageError if there is none of that number."""
    known = generations(connection)
    if generation not in {found.generation for found in known}:
        numbers = ", ".join(str(found.generation) for found in known) or "none"
        raise UsageError(f"there is no generation {generation}", next_step=f"there are: {numbers}")
    before = next((found.generation for found in known if found.is_live), None)
    if before != generation:
        connection.execute(delete(LIVE))
        connection.execute(insert(LIVE).values(id=1, generation=generation, previous=before))


def advance(connection: Connection, generation: int, *, after: int, until: int) -> None:
    """Move a generation's position; PositionMoved if it is not where this writer found it."""
    statement = (
        update(GENERATIONS)
        .where(GENERATIONS.c.generation == generation, GENERATIONS.c.position == after)
        .values(position=until)
    )
    if connection.execute(statement).rowcount != 1:
        raise PositionMoved(
            f"another process moved generation {generation} from position {after}",
            next_step="run again; nothing of this run was written",
        )


def table_of(number: int) -> Table:
    """Return the table of the rows under a number: a generation's, or below zero a shadow's."""
    return ACCOUNTS if number > 0 else SHADOW_ACCOUNTS


def rows(connection: Connection, generation: int, account_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """Return rows of a generation (`ROW_SCHEMA`), all of them or those of some accounts, in no order.

    RefusedError names the first row that has a value of another type, or a time that is none: a hand wrote it.
    """
    table = table_of(generation)
    statement = select(*(table.c[name] for name in ROW_SCHEMA)).where(table.c.generation == generation)
    stored = pl.Schema({name: pl.String() if name in _TIMES else dtype for name, dtype in ROW_SCHEMA.items()})
    found = bulk.select_rows(connection, statement, stored, key=table.c.account_id, keys=account_ids)
    read = found.with_columns(
        pl.col(name).str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC", strict=False) for name in _TIMES
    )
    for name in _TIMES:
        if read[name].null_count() > found[name].null_count():
            bad = found.filter(pl.col(name).is_not_null() & read[name].is_null()).row(0, named=True)
            raise bulk.misplaced(bad["account_id"], name, bad[name])
    return read


def write_rows(connection: Connection, generation: int, changed: pl.DataFrame) -> None:
    """Insert rows (`ROW_SCHEMA`) into a generation, or replace them where the account is there."""
    # In the order of the key the database finds most of them where it is already.
    bulk.upsert_rows(connection, table_of(generation), as_stored(generation, changed.sort("account_id")))


def as_stored(generation: int, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows (`ROW_SCHEMA`) as `ledger_accounts` has them: under a number, times as text."""
    return rows.select(
        pl.lit(generation, pl.Int64()).alias("generation"),
        *(pl.col(name).dt.strftime(_TIME_FORMAT) if name in _TIMES else pl.col(name) for name in ROW_SCHEMA),
    )


def imported(connection: Connection) -> pl.DataFrame:
    """Return the copy of a foreign live table: `account_id`, `balance`, `frozen`, `status`, `locked_at`."""
    columns = ("account_id", "balance", "frozen_amount", "status", "locked_at")
    schema = {name: ROW_SCHEMA[name] for name in ("account_id", "balance", "frozen", "status")}
    statement = select(*(IMPORTED_ACCOUNTS.c[name] for name in columns))
    found = bulk.select_rows(connection, statement, {**schema, "locked_at": pl.String()})
    return found.with_columns(pl.col("locked_at").str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC"))


def parked(connection: Connection, generation: int) -> pl.DataFrame:
    """Return what a generation cannot vouch for: `account_id`, `version`, `reason`."""
    columns = {name: ROW_SCHEMA[name] for name in ("account_id", "version")} | {"reason": pl.String()}
    statement = select(*(PARKED.c[name] for name in columns)).where(PARKED.c.generation == generation)
    return bulk.select_rows(connection, statement, columns)


def replace_parked(connection: Connection, generation: int, account_ids: Sequence[str], found: pl.DataFrame) -> None:
    """Forget what is parked among some accounts of a generation and note what is parked there now."""
    for start in range(0, len(account_ids), bulk.KEYS_PER_QUERY):
        some = account_ids[start : start + bulk.KEYS_PER_QUERY]
        connection.execute(delete(PARKED).where(PARKED.c.generation == generation, PARKED.c.account_id.in_(some)))
    noted = found.select(pl.lit(generation, pl.Int64()).alias("generation"), "account_id", "version", "reason")
    bulk.insert_rows(connection, PARKED, noted)
