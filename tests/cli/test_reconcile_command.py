"""`reconcile` from the command line: what it answers, by which rules, of which orders, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import NOW, damage

ORDERS = """\
order_id,account_id,points_amount,status,created_at
order-1,alice,30,completed,2026-04-01T00:00:00Z
order-2,carl,50,completed,2026-04-01T00:00:00Z
order-3,bob,20,pending,2026-04-02T00:00:00Z
"""
TRANSACTIONS = """\
transaction_id,account_id,type,status,amount,business_code,order_id,created_at
t-1,alice,debit,completed,500,order.payment,o-1,2026-04-30T10:00:00Z
t-2,alice,credit,completed,500,order.payment,o-1,2026-04-30T11:00:00Z
t-3,alice,debit,failed,70,order.payment,o-2,2026-04-30T12:00:00Z
t-4,alice,debit,completed,70,order.payment,o-2,2026-04-30T12:30:00Z
t-5,bob,debit,completed,9,order.payment,,2026-04-30T13:00:00Z
t-6,bob,debit,completed,40,gift,o-4,2026-04-30T13:00:00Z
t-7,bob,debit,completed,1,order.payment,o-4,2026-04-29T23:59:59Z
t-8,bob,debit,completed,11,order.payment,o-5,2026-05-01T00:00:00Z
"""
SCENARIO_ORDERS = """\
order_id,account_id,points_amount,status,created_at
o-1,alice,500,completed,2026-04-30T00:00:00Z
o-2,alice,70,completed,2026-04-30T01:00:00Z
o-3,bob,5,pending,2026-04-30T02:00:00Z
o-4,bob,41,completed,2026-04-30T03:00:00Z
o-5,bob,11,cancelled,2026-05-01T00:00:00Z
o-6,bob,11,completed,2026-04-29T23:59:59Z
"""
SCENARIO = {
    "o-1": [("amount_mismatch", 500, 1000, "completed", "completed", ["t-1", "t-2"])],
    "o-2": [("status_mismatch", 70, 70, "completed", "failed", ["t-3", "t-4"])],
    "o-3": [("missing_credit_transaction", 5, None, "pending", None, [])],
    "o-4": [("missing_credit_transaction", 41, None, "completed", None, [])],
    "o-5": [("status_mismatch", 11, 11, "cancelled", "completed", ["t-8"])],
}


@pytest.fixture
def with_orders(run, data, tmp_path) -> Path:
    """The small ledger with three orders: one was paid and the points were given back, one was never paid."""
    (tmp_path / "orders.csv").write_text(ORDERS)
    assert run("import", "orders", "--data", data, "orders.csv", "--now", "2026-04-03").status == 0
    return data


@pytest.fixture
def files(tmp_path) -> list[str]:
    """The options that name a file of orders and one of transactions."""
    (tmp_path / "orders.csv").write_text(SCENARIO_ORDERS)
    (tmp_path / "transactions.csv").write_text(TRANSACTIONS)
    return ["--orders", "orders.csv", "--transactions", "transactions.csv"]


def test_what_is_wrong_is_told_as_json(run, with_orders):
    """Each mismatch has the fields of the contract, its evidence, and the break that it is."""
    said = run("reconcile", "--data", with_orders, "--now", NOW, "--json")
    found = said.document
    assert (said.status, found["verdict"], found["orders"], found["transactions"]) == (1, "FINDINGS", 3, 2)
    assert (found["mismatches_count"], found["pending_count"], found["points_at_risk"]) == (4, 0, 80)
    first, last = found["mismatches"][0], found["mismatches"][-1]
    told = {name: first[name] for name in ("code", "order_points", "credit_points", "order_status", "credit_status")}
    assert told == {
        "code": "amount_mismatch",
        "order_points": 30,
        "credit_points": 0,
        "order_status": "completed",
        "credit_status": "reversed",
    }
    assert (first["order_id"], first["transactions"]) == ("order-1", ["alice-2", "alice-3"])
    assert (first["break"], first["state"], first["account_id"]) == (1, "open", "alice")
    assert (last["order_id"], last["code"]) == ("order-2", "missing_credit_transaction")
    assert found["read_until_at"] == "2026-04-03T00:00:00.000000Z"
    assert found["certificate"]["events"] == 9
    assert list(first)[:7] == [
        "code", "order_id", "order_points", "credit_points", "order_status", "credit_status", "transactions",
    ]  # fmt: skip


def test_what_is_wrong_is_told_in_words(run, with_orders):
    """People read a line a code, up to when that is known, and a table of what is wrong."""
    said = run("reconcile", "--data", with_orders, "--now", NOW)
    assert said.status == 1
    assert "FINDINGS: 4 mismatches in 3 orders and 2 transactions, 80 points at risk" in said.out
    assert "both sides were read until 2026-04-03T00:00:00.000000Z; 0 mismatches may still right themselves" in said.out
    assert "no transaction names it" in said.out


def test_what_it_kept_is_listed_by_breaks(run, with_orders):
    """The breaks of a reconciliation are there for `breaks`, which says since when, and takes a decision."""
    run("reconcile", "--data", with_orders, "--now", NOW)
    listed = run("breaks", "--data", with_orders, "--now", NOW, "--json").document
    ids = [each["id"] for each in listed["breaks"]]
    run("breaks", "resolve", *ids, "--data", with_orders, "--accept", "--reason", "known", "--by", "ann", "--now", NOW)
    said = run("reconcile", "--data", with_orders, "--now", NOW)
    assert said.status == 0
    assert said.out.count("resolved accepted") == len(ids)


def test_an_account_that_cannot_be_read_is_incomplete(run, with_orders):
    """Orders of a parked account are named, nothing is said of them, and the exit status is 3."""
    damage(with_orders, "DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version = 3")
    said = run("reconcile", "--data", with_orders, "--now", NOW, "--json")
    assert (said.status, said.document["verdict"]) == (3, "INCOMPLETE")
    assert [each["order_id"] for each in said.document["withheld"]] == ["order-1"]
    assert {each["order_id"] for each in said.document["mismatches"]} == {"order-2"}
    assert "nothing can be said of order order-1" in run("reconcile", "--data", with_orders, "--now", NOW).out


def test_the_scenario_is_taken_to_the_letter(run, files):
    """With a business code: both sides by their moments, unsigned sums, the first status, and its three codes."""
    said = run("reconcile", *files, "--business-code", "order.payment", "--now", NOW, "--json")
    found = said.document
    assert (said.status, found["verdict"]) == (1, "FINDINGS")
    # The day before now, both ends included; t-5 names no order and counts, t-6 has another code, t-7 is too early.
    assert (found["orders"], found["transactions"], found["mismatches_count"]) == (5, 6, 5)
    assert (found["start"], found["end"]) == ("2026-04-30T00:00:00.000000Z", "2026-05-01T00:00:00.000000Z")
    names = ("code", "order_points", "credit_points", "order_status", "credit_status", "transactions")
    told: dict[str, list[tuple[object, ...]]] = {}
    for each in found["mismatches"]:
        told.setdefault(each["order_id"], []).append(tuple(each[name] for name in names))
    assert told == SCENARIO
    assert "pending" not in found
    assert "break" not in found["mismatches"][0]


def test_the_scenario_says_which_day_it_took(run, files):
    """Where --start is left away, the words say which 24 hours were looked at."""
    said = run("reconcile", *files, "--business-code", "order.payment", "--now", NOW)
    assert "from 2026-04-30T00:00:00.000000Z until 2026-05-01T00:00:00.000000Z (24 hours before now" in said.out
    given = run("reconcile", *files, "--business-code", "order.payment", "--start", "2026-04-29", "--now", NOW)
    assert "24 hours" not in given.out
    assert run("breaks", "--now", NOW).status == 2


def test_files_need_no_ledger(run, files):
    """Two files are reconciled where there is no ledger at all, by the full rules too."""
    found = run("reconcile", *files, "--now", "2026-06-01", "--json").document
    assert found["verdict"] == "FINDINGS"
    codes = {(each["order_id"], each["code"]) for each in found["mismatches"]}
    assert ("o-1", "amount_mismatch") in codes
    assert ("o-6", "missing_credit_transaction") in codes
    assert not Path("ledger-data/ledger.db").exists()


def test_rows_that_cannot_be_read_are_counted_and_named(run, files, tmp_path):
    """Bad rows of either file are in a rejects file with their line; the others are judged: INCOMPLETE."""
    with (tmp_path / "orders.csv").open("a") as orders:
        orders.write("o-7,bob,-5,completed,2026-04-30T00:00:00Z\n,bob,5,completed,2026-04-30T00:00:00Z\n")
    with (tmp_path / "transactions.csv").open("a") as transactions:
        transactions.write("t-9,bob,debit,lost,5,order.payment,o-6,2026-04-30T00:00:00Z\n")
    said = run("reconcile", *files, "--now", "2026-06-01", "--json")
    found = said.document
    assert (said.status, found["verdict"], found["orders"]) == (3, "INCOMPLETE", 6)
    assert {name: each["rows"] for name, each in found["rejected"].items()} == {"transactions": 1, "orders": 2}
    rejects = pl.read_csv(found["rejected"]["orders"]["file"])
    assert rejects["line"].to_list() == [8, 9]
    words = run("reconcile", *files, "--now", "2026-06-01").out
    assert "2 rows of orders could not be read: see ledger-data/reports/rejects-reconcile-orders-orders.csv" in words


def test_one_side_may_be_a_file(run, with_orders, tmp_path):
    """Orders of a file are held against the ledger, and transactions of a file against the ledger's orders."""
    (tmp_path / "paid.jsonl").write_text(
        json.dumps(
            {
                "transaction_id": "p-1",
                "account_id": "carl",
                "type": "debit",
                "status": "completed",
                "amount": 50,
                "metadata": {"order_id": "order-2"},
                "created_at": "2026-04-01T00:00:00Z",
            }
        )
    )
    found = run("reconcile", "--data", with_orders, "--transactions", "paid.jsonl", "--now", NOW, "--json").document
    codes = [(each["order_id"], each["code"]) for each in found["mismatches"]]
    assert (codes, found["certificate"]) == ([("order-1", "missing_credit_transaction")], None)
    (tmp_path / "other.csv").write_text(
        "order_id,account_id,points_amount,status,created_at\norder-1,alice,30,cancelled,2026-04-01\n"
    )
    found = run("reconcile", "--data", with_orders, "--orders", "other.csv", "--now", NOW, "--json").document
    assert (found["verdict"], found["orders"], found["mismatches_count"]) == ("CLEAN", 1, 0)
    assert run("breaks", "--data", with_orders, "--now", NOW, "--json").document["breaks"] == []


def test_a_range_has_only_its_orders(run, with_orders):
    """--start and --end choose orders by when they were placed, both ends included."""
    words = ["reconcile", "--data", with_orders, "--now", NOW, "--json"]
    assert run(*words, "--start", "2026-04-02").document["orders"] == 1
    assert run(*words, "--end", "2026-04-01").document["orders"] == 2
    assert run(*words, "--start", "2026-04-01", "--end", "2026-04-02").document["orders"] == 3
    assert "orders from 2026-04-02" in run(*words[:-1], "--start", "2026-04-02").out


def test_a_range_vouches_for_nothing_beside_it(run, with_orders):
    """Where only a range without a break was reconciled, the list of breaks is INCOMPLETE, and says what to run."""
    run("reconcile", "--start", "2027-01-01", "--data", with_orders, "--now", NOW)
    said = run("breaks", "--data", with_orders, "--now", NOW)
    assert (said.status, "run `reconcile` without --start and --end" in said.out) == (3, True)


def test_from_an_archive_is_as_from_the_store(run, with_orders):
    """The archive gives the same mismatches."""
    assert run("archive", "--data", with_orders, "--now", NOW).status == 0
    words = ["reconcile", "--data", with_orders, "--now", NOW, "--json"]
    store, archive = run(*words).document, run(*words, "--from", "archive").document
    assert archive["mismatches"] == store["mismatches"]
    assert archive["certificate"]["source"] == "archive"


def test_a_table_goes_into_files(run, with_orders, tmp_path):
    """Mismatches are a table: CSV, Parquet with types, and one JSON document."""
    words = ["reconcile", "--data", with_orders, "--now", NOW]
    assert run(*words, "--output", tmp_path / "found.parquet").status == 1
    table = pl.read_parquet(tmp_path / "found.parquet")
    assert table.schema["transactions"] == pl.List(pl.String())
    assert run(*words, "--format", "csv").out.startswith("code,order_id,order_points")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "no order is known"),
        (["--from", "nowhere"], "no source"),
        (["--topic", "x"], "--topic is about a topic"),
        (["--transactions", "t.csv", "--from", "archive"], "--transactions stands in for the ledger"),
        (["--map", "m.toml"], "--map is about files"),
        (["--start", "2026-05-02", "--end", "2026-05-01"], "--start is after --end"),
        (["--start", "soon"], "no moment"),
        (["--orders", "missing.csv"], "cannot open the file"),
        (["--orders", "orders.txt"], "unknown ending"),
    ],
)
def test_what_cannot_be_answered_is_bad_usage(run, data, words, what):
    """Options that contradict each other, files that are not there, and a ledger without orders: exit status 2."""
    said = run("reconcile", "--data", data, "--now", NOW, *words)
    assert (said.status, what in said.err) == (2, True), said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_damaged_parquet_file_is_named(run, tmp_path, files):
    """A Parquet file that is none, or was cut off, ends in one line that names it."""
    pl.read_csv(tmp_path / "orders.csv", try_parse_dates=True).write_parquet(tmp_path / "orders.parquet")
    whole = (tmp_path / "orders.parquet").read_bytes()
    for data in (b"PAR1", whole[: len(whole) // 2], whole[:8] + b"\xff" * 40 + whole[48:]):
        (tmp_path / "orders.parquet").write_bytes(data)
        said = run("reconcile", "--orders", "orders.parquet", *files[2:], "--now", NOW)
        assert said.status == 2, said.out
        assert "orders.parquet" in said.err
