"""Generated files are realistic, legal, and the same bytes for the same seed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from console import generate as module
from console.generate import Generated, generate
from schemas.errors import RefusedError, UsageError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def make(folder: Path, *, accounts: int = 60, events: int = 3_000, seed: int = 7) -> Generated:
    """Generate with the tests' clock."""
    return generate(accounts=accounts, events=events, seed=seed, folder=folder, now=NOW)


def transactions(folder: Path) -> pl.DataFrame:
    """Read the generated transactions."""
    return pl.read_csv(folder / "transactions.csv", try_parse_dates=True)


def running(rows: pl.DataFrame) -> pl.DataFrame:
    """Add what each row leaves on its account: completed credits less debits, and what is frozen."""
    signed = pl.when(pl.col("type") == "credit").then(pl.col("amount")).otherwise(-pl.col("amount"))
    return rows.with_columns(
        balance=pl.when(pl.col("status") == "completed").then(signed).otherwise(0).cum_sum().over("account_id"),
        frozen=pl.when(pl.col("status") == "frozen").then(pl.col("amount")).otherwise(0).cum_sum().over("account_id"),
    )


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """One seed gives byte-identical files, another seed gives others."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(tmp_path / name, seed=seed)
    for file in ("transactions.csv", "accounts.csv", "orders.csv"):
        contents = [(tmp_path / name / file).read_bytes() for name in ("a", "b", "c")]
        assert contents[0] == contents[1]
        assert contents[0] != contents[2]


@pytest.mark.parametrize("chunk_rows", [37, 500, 1_000_000])
def test_no_account_spends_what_it_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    """In created_at order, frozen points never exceed the balance, however the rows are cut into chunks."""
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    make(tmp_path)
    rows = running(transactions(tmp_path))
    assert rows["created_at"].is_sorted()
    assert rows.filter(pl.col("frozen") > pl.col("balance")).height == 0


def test_accounts_file_is_the_truth(tmp_path: Path) -> None:
    """The accounts file says what adding up the transactions says, for every account."""
    made = make(tmp_path)
    rows = running(transactions(tmp_path))
    summed = rows.group_by("account_id").agg(pl.col("balance", "frozen").last()).sort("account_id")
    accounts = pl.read_csv(tmp_path / "accounts.csv")
    assert made.accounts == 60
    assert accounts["account_id"].to_list() == summed["account_id"].to_list()
    assert accounts["balance"].to_list() == summed["balance"].to_list()
    assert accounts["frozen_amount"].to_list() == summed["frozen"].to_list()
    assert accounts["status"].unique().to_list() == ["active"]


def test_rows_are_in_the_90_days_before_now_and_pending_ones_are_young(tmp_path: Path) -> None:
    """Every row is created within 90 days before now; what is pending is not stale yet."""
    make(tmp_path, events=20_000)
    rows = transactions(tmp_path)
    assert rows["created_at"].min() >= NOW - timedelta(days=90)
    assert rows["created_at"].max() < NOW
    pending = rows.filter(pl.col("status") == "pending")
    assert pending.height > 0
    assert pending["created_at"].min() >= NOW - timedelta(hours=1)


def test_refunds_name_a_payment_of_the_same_account_and_amount(tmp_path: Path) -> None:
    """Each refund gives back exactly one completed payment of its own account."""
    make(tmp_path)
    rows = transactions(tmp_path)
    refunds = rows.filter(pl.col("business_code") == "order.refund")
    paid = refunds.join(rows, left_on="related_transaction_id", right_on="transaction_id", suffix="_paid")
    assert refunds.height > 10
    assert paid.height == refunds.height == refunds["related_transaction_id"].n_unique()
    same = (pl.col("account_id") == pl.col("account_id_paid")) & (pl.col("amount") == pl.col("amount_paid"))
    assert paid.filter(~same | (pl.col("status_paid") != "completed")).height == 0


def test_orders_agree_with_their_payments(tmp_path: Path) -> None:
    """Each payment has one order of its account, its points, and a status that fits."""
    make(tmp_path)
    rows = transactions(tmp_path).filter(pl.col("business_code") == "order.payment")
    order_ids = rows["metadata"].str.json_path_match("$.order_id")
    orders = pl.read_csv(tmp_path / "orders.csv", try_parse_dates=True)
    assert orders["order_id"].to_list() == order_ids.to_list()
    assert orders["points_amount"].to_list() == rows["amount"].to_list()
    assert set(orders["status"]) == {"pending", "completed", "cancelled"}


def test_accounts_are_skewed(tmp_path: Path) -> None:
    """A few accounts have most of the rows."""
    make(tmp_path, accounts=1_000, events=20_000)
    sizes = transactions(tmp_path).group_by("account_id").len().sort("len", descending=True)["len"]
    assert sizes.len() == 1_000
    assert sizes.head(100).sum() > 20_000 * 0.4


def test_more_accounts_than_events(tmp_path: Path) -> None:
    """An account without a row is not made up."""
    made = make(tmp_path, accounts=50, events=5)
    assert (made.accounts, made.transactions) == (5, 5)


def test_somebodys_file_is_never_replaced(tmp_path: Path) -> None:
    """A file with other content stops the command before anything is written; the same content does not."""
    make(tmp_path)
    make(tmp_path)
    (tmp_path / "accounts.csv").write_text("mine\n")
    before = (tmp_path / "transactions.csv").read_bytes()
    with pytest.raises(RefusedError, match=r"accounts\.csv"):
        make(tmp_path, seed=8)
    assert (tmp_path / "accounts.csv").read_text() == "mine\n"
    assert (tmp_path / "transactions.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts.csv", "orders.csv", "transactions.csv"]


@pytest.mark.parametrize(("accounts", "events"), [(0, 5), (5, 0), (-1, 5)])
def test_nothing_to_generate(tmp_path: Path, accounts: int, events: int) -> None:
    """No accounts or no events is a usage error."""
    with pytest.raises(UsageError):
        make(tmp_path, accounts=accounts, events=events)
