"""Realistic transactions, accounts and orders files of a points system, the same bytes for the same seed.

Every random number is a hash of (seed, stream, row), computed in columns, so no row depends on another and the
files do not depend on chunk memory or on a library's generator. What does depend on order, that no account ever
spends points it does not have, is one reflected running sum an account: a debit is cut to what is available, and
one that nothing is left for fails, as it would in life.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import polars as pl

from schemas.errors import RefusedError, UsageError

__all__ = ["Generated", "generate"]

DAYS = 90
CHUNK_ROWS = 500_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A day's activity in 100 equal slots: 20 fall into the first 8 hours, 60 into the next 12, 20 into the last 4.
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
DAY_PIECES = ((0, 20, 0, 8 * HOUR_US), (20, 80, 8 * HOUR_US, 20 * HOUR_US), (80, 100, 20 * HOUR_US, DAY_US))

# Pending rows are this young, so that a check on the same day finds none of them stale.
PENDING_AGE_MAX = timedelta(hours=1)

TRANSACTION_COLUMNS = (
    "transaction_id",
    "account_id",
    "type",
    "status",
    "amount",
    "related_transaction_id",
    "business_code",
    "metadata",
    "created_at",
)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What was written: file names by kind, and how many rows each has."""

    files: dict[str, str]
    accounts: int
    transactions: int
    orders: int


@dataclass(frozen=True, kw_only=True)
class _Plan:
    accounts: int
    events: int
    seed: int
    now: datetime


def generate(
    *,
    accounts: int,
    events: int,
    seed: int,
    folder: Path,
    now: datetime,
    progress: Callable[[int, int | None], None] | None = None,
) -> Generated:
    """Write `transactions.csv`, `accounts.csv` and `orders.csv` into `folder`.

    `events` counts transaction rows; the accounts file says of every account that has one what a replay gives.
    Rows are created within the 90 days before `now`, in order. Raises RefusedError where one of the files is
    there with other content, since it may be somebody's real one.
    """
    if accounts < 1 or events < 1:
        raise UsageError(
            f"cannot generate {accounts} accounts and {events} events", next_step="give at least 1 of each"
        )
    plan = _Plan(accounts=min(accounts, events), events=events, seed=seed, now=now)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".generate-") as scratch:
        rows = _write(plan, Path(scratch), progress)
        for path in sorted(Path(scratch).iterdir()):
            _refuse_other_content(path, folder / path.name)
        for path in sorted(Path(scratch).iterdir()):
            path.replace(folder / path.name)
    files = {name: str(folder / f"{name}.csv") for name in ("transactions", "accounts", "orders")}
    return Generated(files=files, **rows)


def _refuse_other_content(made: Path, target: Path) -> None:
    if not target.exists():
        return
    with made.open("rb") as left, target.open("rb") as right:
        while (block := left.read(1 << 20)) == right.read(1 << 20):
            if not block:
                return
    raise RefusedError(
        "a file is there already and holds something else",
        where=str(target),
        next_step="choose an empty --output folder",
    )


def _write(plan: _Plan, folder: Path, progress: Callable[[int, int | None], None] | None) -> dict[str, int]:
    truth = pl.DataFrame(schema={"account_id": pl.String(), "balance": pl.Int64(), "frozen_amount": pl.Int64()})
    orders = 0
    with ExitStack() as stack:
        transactions_file = stack.enter_context((folder / "transactions.csv").open("wb"))
        orders_file = stack.enter_context((folder / "orders.csv").open("wb"))
        for start in range(0, plan.events, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, plan.events)
            rows = _reverse(_spend(_draw(plan, start, stop), truth))
            order_rows = _orders(rows)
            _append_csv(transactions_file, rows.select(TRANSACTION_COLUMNS), start == 0)
            _append_csv(orders_file, order_rows, start == 0)
            truth = _add_up(truth, rows)
            orders += order_rows.height
            if progress:
                progress(stop, plan.events)
    status = [pl.lit("active").alias("status"), pl.lit(None, dtype=pl.String()).alias("locked_at")]
    truth.sort("account_id").with_columns(status).write_csv(folder / "accounts.csv")
    return {"accounts": truth.height, "transactions": plan.events, "orders": orders}


def _append_csv(file: BinaryIO, rows: pl.DataFrame, is_first: bool) -> None:
    text = pl.col("created_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    rows.with_columns(text).write_csv(file, include_header=is_first)


def _random(plan: _Plan, stream: int, below: int) -> pl.Expr:
    """Return an integer in [0, below) a row: splitmix64 of seed, stream and row number (`row`, UInt64)."""
    mask = 2**64 - 1
    key = (plan.seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) & mask
    x = pl.col("row") * pl.lit(0x9E3779B97F4A7C15, pl.UInt64) + pl.lit(key, pl.UInt64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x // 2**shift)) * pl.lit(factor, pl.UInt64)
    return ((x ^ (x // 2**31)) % pl.lit(below, pl.UInt64)).cast(pl.Int64)


def _draw(plan: _Plan, start: int, stop: int) -> pl.DataFrame:
    """Return what each row wants to be, before anyone asks whether the account can pay for it."""
    rows = pl.select(pl.int_range(start, stop, dtype=pl.Int64).cast(pl.UInt64).alias("row"))
    index = pl.col("row").cast(pl.Int64)
    # Accounts open at an even pace through the first two thirds; the row that opens one is its first top-up.
    pace = max(plan.accounts, plan.events * 2 // 3)
    opened = pl.min_horizontal(index * plan.accounts // pace + 1, pl.lit(plan.accounts))
    is_first = (index == 0) | (opened > (index - 1) * plan.accounts // pace + 1)
    # The cube of a uniform number favours the oldest accounts: a long tail, as real ones have.
    unit = 1 << 20
    u = _random(plan, 1, unit)
    skewed = u * u // unit * u // unit * opened // unit
    kind = pl.when(is_first).then(pl.lit(-1)).otherwise(_random(plan, 2, 100))
    credit_amount = (_random(plan, 3, 200) + 1) * (1 + (_random(plan, 4, 8) == 0).cast(pl.Int64) * 9)
    debit_amount = (_random(plan, 3, 300) + 1) * (1 + (_random(plan, 4, 10) == 0).cast(pl.Int64) * 4)
    drawn = rows.with_columns(
        account=pl.when(is_first).then(opened - 1).otherwise(skewed),
        kind=kind,
        created_at=_created_at(plan),
    ).with_columns(
        type=pl.when(pl.col("kind") < 50).then(pl.lit("credit")).otherwise(pl.lit("debit")),
        amount=pl.when(pl.col("kind") < 0)
        .then((_random(plan, 3, 50) + 1) * 100)
        .when(pl.col("kind") < 50)
        .then(credit_amount)
        .otherwise(debit_amount),
        status=_wanted_status(plan),
        account_id=_numbered("acct-", pl.col("account"), 7),
        transaction_id=_numbered("txn-", pl.col("row"), 9),
    )
    return drawn.with_columns(business_code=_business_code(plan))


def _numbered(prefix: str, index: pl.Expr, digits: int) -> pl.Expr:
    return pl.concat_str(pl.lit(prefix), (index + 1).cast(pl.String).str.zfill(digits))


def _wanted_status(plan: _Plan) -> pl.Expr:
    kind = pl.col("kind")
    is_young = pl.col("created_at") >= plan.now - PENDING_AGE_MAX
    return (
        pl.when(is_young & (kind >= 0) & (_random(plan, 5, 4) == 0))
        .then(pl.lit("pending"))
        .when(kind >= 94)
        .then(pl.lit("spare"))
        .when(kind >= 90)
        .then(pl.lit("frozen"))
        .otherwise(pl.lit("completed"))
    )


def _business_code(plan: _Plan) -> pl.Expr:
    kind = pl.col("kind")
    return (
        pl.when(kind < 0)
        .then(pl.lit("account.topup"))
        .when((kind < 50) & (_random(plan, 6, 5) == 0))
        .then(pl.lit("campaign.bonus"))
        .when(kind < 50)
        .then(pl.lit("order.earn"))
        .otherwise(pl.lit("order.payment"))
    )


def _created_at(plan: _Plan) -> pl.Expr:
    """Spread the rows over the 90 days before now: in order, thin at night, thick by day."""
    end = (plan.now - EPOCH) // timedelta(microseconds=1)
    first, last = _activity(end - DAYS * DAY_US), _activity(end)
    slot = max((last - first) // (plan.events + 1), 1)
    index = pl.col("row").cast(pl.Int64)
    place = first + index * slot + _random(plan, 7, slot)
    day, rest = place // DAY_US, place % DAY_US
    moment = pl.lit(None, dtype=pl.Int64())
    for low, high, begin, stop in DAY_PIECES:
        offset = rest - low * DAY_US // 100
        width = (high - low) * DAY_US // 100
        # Both are multiples of a second, so the fraction is taken in small numbers and nothing overflows.
        scaled = begin + offset * ((stop - begin) // 36_000_000) // (width // 36_000_000)
        moment = (
            pl.when(rest.is_between(low * DAY_US // 100, high * DAY_US // 100, closed="left"))
            .then(scaled)
            .otherwise(moment)
        )
    return (day * DAY_US + moment).cast(pl.Datetime("us", "UTC"))


def _activity(moment_us: int) -> int:
    """Return the place of a moment on the activity clock, on which every row takes the same time."""
    day, rest = divmod(moment_us, DAY_US)
    for low, high, begin, stop in DAY_PIECES:
        if begin <= rest < stop:
            share = (rest - begin) * ((high - low) * DAY_US // 100) // (stop - begin)
            return day * DAY_US + low * DAY_US // 100 + share
    raise AssertionError(rest)


def _spend(rows: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Cut every debit and hold to what its account has available then; fail those that nothing is left for."""
    before = truth.select("account_id", available=pl.col("balance") - pl.col("frozen_amount"))
    takes = (pl.col("type") == "debit") & pl.col("status").is_in(["completed", "frozen"])
    gives = (pl.col("type") == "credit") & (pl.col("status") == "completed")
    wish = pl.when(takes).then(-pl.col("amount")).when(gives).then(pl.col("amount")).otherwise(0)
    rows = rows.join(before, on="account_id", how="left", maintain_order="left").with_columns(wish=wish)
    total = pl.col("available").fill_null(0) + pl.col("wish").cum_sum().over("account_id")
    rows = rows.with_columns(total=total)
    # The running minimum below zero is what the account could not pay up to here, so its growth is the cut.
    unpaid = -pl.min_horizontal(pl.col("total").cum_min().over("account_id"), pl.lit(0))
    rows = rows.with_columns(unpaid=unpaid)
    cut = pl.col("unpaid") - pl.col("unpaid").shift(1).over("account_id").fill_null(0)
    paid = pl.col("amount") - pl.when(takes).then(cut).otherwise(0)
    return rows.with_columns(
        amount=pl.when(paid > 0).then(paid).otherwise(pl.col("amount")),
        status=pl.when(paid > 0).then(pl.col("status")).otherwise(pl.lit("failed")),
    ).drop("available", "wish", "total", "unpaid")


def _reverse(rows: pl.DataFrame) -> pl.DataFrame:
    """Turn spare rows into refunds of the account's payment just before them, or into cancelled debits."""
    previous = {
        f"previous_{name}": pl.col(name).shift(1).over("account_id")
        for name in ("transaction_id", "type", "status", "amount")
    }
    rows = rows.with_columns(**previous)
    is_spare = pl.col("status") == "spare"
    is_refund = is_spare & (pl.col("previous_type") == "debit") & (pl.col("previous_status") == "completed")
    is_refund = is_refund.fill_null(False)
    related = pl.when(is_refund).then(pl.col("previous_transaction_id"))
    order = pl.when(is_refund).then(pl.col("previous_transaction_id")).otherwise(pl.col("transaction_id"))
    rows = rows.with_columns(
        related_transaction_id=related,
        amount=pl.when(is_refund).then(pl.col("previous_amount")).otherwise(pl.col("amount")),
        type=pl.when(is_refund).then(pl.lit("credit")).otherwise(pl.col("type")),
        business_code=pl.when(is_refund).then(pl.lit("order.refund")).otherwise(pl.col("business_code")),
        status=pl.when(is_refund)
        .then(pl.lit("completed"))
        .when(is_spare)
        .then(pl.lit("cancelled"))
        .otherwise(pl.col("status")),
        order_id=pl.when(pl.col("kind") >= 50).then(order.str.replace("txn", "order", literal=True)),
    )
    metadata = pl.when(pl.col("order_id").is_not_null()).then(
        pl.concat_str(pl.lit('{"order_id": "'), pl.col("order_id"), pl.lit('"}'))
    )
    return rows.with_columns(metadata=metadata)


def _orders(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the orders that the payments of these rows were for, as the shop's own system knows them."""
    payments = rows.filter(pl.col("business_code") == "order.payment")
    refunded = rows.filter(pl.col("business_code") == "order.refund").select("order_id")
    known = {"completed": "completed", "frozen": "pending", "pending": "pending"}
    status = pl.col("status").replace_strict(known, default="cancelled")
    is_refunded = pl.col("order_id").is_in(refunded["order_id"].implode())
    return payments.select(
        "order_id",
        "account_id",
        points_amount="amount",
        status=pl.when(is_refunded).then(pl.lit("cancelled")).otherwise(status),
        created_at="created_at",
    )


def _add_up(truth: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    signed = pl.when(pl.col("type") == "credit").then(pl.col("amount")).otherwise(-pl.col("amount"))
    sums = rows.group_by("account_id").agg(
        balance=signed.filter(pl.col("status") == "completed").sum(),
        frozen_amount=pl.col("amount").filter(pl.col("status") == "frozen").sum(),
    )
    return pl.concat([truth, sums]).group_by("account_id").agg(pl.col("balance", "frozen_amount").sum())
