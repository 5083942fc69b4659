"""`reconcile` over files that are not good throughout, from standard input, and of ranges that nobody has read."""

from __future__ import annotations

import json

import pytest
from conftest import NOW

ORDERS = "order_id,account_id,points_amount,status,created_at\n"
TRANSACTIONS = "transaction_id,account_id,type,status,amount,business_code,order_id,created_at\n"
AT = "2026-04-01T00:00:00Z"


@pytest.fixture
def reconcile(run, tmp_path):
    """Reconcile rows of orders and of transactions in two files of one name, and return what was said."""

    def reconciled(orders, transactions, *words):
        for folder, head, rows in (("o", ORDERS, orders), ("t", TRANSACTIONS, transactions)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "rows.csv").write_text(head + "".join(f"{row}\n" for row in rows))
        return run("reconcile", "--orders", "o/rows.csv", "--transactions", "t/rows.csv", "--now", NOW, *words)

    return reconciled


def test_an_order_that_a_rejected_row_names_is_withheld(reconcile):
    """Neither a missing payment nor an orphan is said of what a row might tell; other orders are judged."""
    said = reconcile(
        [f"o1,a,100,completed,{AT}", f"o2,a,100,shipped,{AT}", f"o3,a,9,completed,{AT}", f"o3,a,8,completed,{AT}",
         f"o4,a,50,completed,{AT}", f",a,50,completed,{AT}", "o6,a"],
        [f"t1,a,debit,done,100,pay,o1,{AT}", f"t2,a,debit,completed,100,pay,o2,{AT}"],
        "--json",
    )  # fmt: skip
    found = said.document
    assert (said.status, found["verdict"]) == (3, "INCOMPLETE")
    assert [(each["order_id"], each["code"]) for each in found["mismatches"]] == [("o4", "missing_credit_transaction")]
    reasons = {each["order_id"]: each["reason"] for each in found["withheld"]}
    assert list(reasons) == ["o1", "o2", "o3"]
    assert reasons["o1"].startswith("row 2 of t/rows.csv names it and was rejected: ")
    assert reasons["o2"].startswith("row 3 of o/rows.csv names it and was rejected: ")


def test_an_order_is_read_from_a_rejected_row_s_metadata(run, tmp_path):
    """The order of a transaction may be in its metadata, and so may that of a rejected one."""
    (tmp_path / "o.csv").write_text(f"{ORDERS}o1,a,5,completed,{AT}\no2,a,5,completed,{AT}\n")
    row = {"transaction_id": "t1", "account_id": "a", "type": "debit", "status": "done", "amount": 5, "created_at": AT}
    rows = [row | {"metadata": metadata} for metadata in ({"order_id": "o1"}, "{", None)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    found = run("reconcile", "--orders", "o.csv", "--transactions", "t.jsonl", "--now", NOW, "--json").document
    assert [each["order_id"] for each in found["withheld"]] == ["o1"]
    assert [each["order_id"] for each in found["mismatches"]] == ["o2"]


def test_the_rejects_of_each_side_have_a_file(reconcile, tmp_path):
    """Two files of one name, and an import of a third, do not overwrite each other's rejects."""
    found = reconcile([f"o1,a,x,completed,{AT}"], [f"t1,a,debit,done,1,pay,o1,{AT}"], "--json").document
    files = {name: each["file"] for name, each in found["rejected"].items()}
    assert files == {
        side: f"ledger-data/reports/rejects-reconcile-{side}-rows.csv" for side in ("orders", "transactions")
    }
    texts = {name: (tmp_path / file).read_text() for name, file in files.items()}
    assert ("o1" in texts["orders"], "t1" in texts["transactions"]) == (True, True)
    assert "t1" not in texts["orders"]


def test_orders_that_are_all_rejected_are_counted(reconcile):
    """Where no row of the orders is good, that is said with its file, not that no order is known."""
    said = reconcile(["o1,a,x,completed,never"], [f"t1,a,debit,completed,1,pay,o1,{AT}"])
    assert said.status == 3
    assert "1 row of orders could not be read: see ledger-data/reports/rejects-reconcile-orders-rows.csv" in said.out
    assert reconcile([",a,1,completed,"], []).status == 3


def test_standard_input_stands_for_a_file(run, reconcile, monkeypatch, tmp_path):
    """--input-format says what standard input is, and nothing of the file beside it."""
    reconcile([], [f"t1,a,debit,completed,100,pay,o1,{AT}"])
    (tmp_path / "piped").write_text(f"{ORDERS}o1,a,100,completed,{AT}\n")
    with (tmp_path / "piped").open() as piped:
        monkeypatch.setattr("sys.stdin", piped)
        words = ["--orders", "-", "--transactions", "t/rows.csv", "--input-format", "csv", "--now", NOW, "--json"]
        said = run("reconcile", *words)
    assert (said.status, said.document["orders"], said.document["verdict"]) == (0, 1, "CLEAN")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--business-code", ""], "--business-code is empty"),
        (["--input-format", "csv"], "--input-format is about standard input"),
        (["--orders", "-"], "standard input has no ending"),
        (["--orders", "-", "--transactions", "-", "--input-format", "csv"], "cannot be both"),
        (["--orders", "-", "--input-format", "xml"], "unknown format 'xml'"),
        (["--business-code", "pay", "--end", "2026-04-29"], "--end is before the 24 hours"),
        (["--watch", "--input-format", "csv"], "--input-format is about a single look"),
    ],
)
def test_what_means_nothing_is_bad_usage(run, data, words, what):
    """Options that say nothing of what is asked end in one line and exit status 2."""
    said = run("reconcile", "--data", data, "--now", NOW, *words)
    assert (said.status, what in said.err) == (2, True), said.err
    assert len(said.err.strip().splitlines()) == 1


def test_the_scenario_looks_back_from_now(reconcile):
    """Without --start the range begins 24 hours before now, whatever --end says."""
    words = ["--business-code", "pay", "--end", "2026-04-30T12:00:00Z", "--json"]
    found = reconcile([f"o1,a,1,completed,{AT}"], [], *words).document
    assert (found["start"], found["end"]) == ("2026-04-30T00:00:00.000000Z", "2026-04-30T12:00:00.000000Z")


def test_what_nobody_has_read_is_named(run, data, tmp_path):
    """The words say which side was read until when, how far this needs it, and what to do."""
    (tmp_path / "orders.csv").write_text(f"{ORDERS}o1,a,0,completed,{AT}\n")
    assert run("import", "orders", "--data", data, "orders.csv", "--now", "2026-04-02").status == 0
    words = ["--data", data, "--now", NOW]
    said = run("reconcile", *words, "--start", "2026-04-01", "--business-code", "gift")
    assert said.status == 3
    until = "2026-04-02T00:00:00.000000Z, and this needs it until 2026-05-01T00:00:00.000000Z"
    assert f"the order side was read only until {until}: bring orders in again (`import orders`)" in said.out


def test_a_decision_about_other_facts_is_named(run, data, tmp_path):
    """An accepted break whose facts changed since is a finding again, and the words say why."""
    words = ["--data", data, "--now", NOW]
    for name, head, row in (
        ("orders", ORDERS, f"n1,zoe,100,completed,{AT}"),
        ("transactions", TRANSACTIONS, f"n1,zoe,debit,completed,99,pay,n1,{AT}"),
    ):
        (tmp_path / f"{name}.csv").write_text(f"{head}{row}\n")
        assert run("import", name, *words, f"{name}.csv").status == 0
    run("reconcile", *words)
    ids = [each["id"] for each in run("breaks", *words, "--json").document["breaks"]]
    run("breaks", "resolve", *ids, *words, "--accept", "--reason", "known", "--by", "ann")
    assert run("reconcile", *words).status == 0
    (tmp_path / "more.csv").write_text(f"{TRANSACTIONS}n2,zoe,debit,completed,5000,pay,n1,{AT}\n")
    assert run("import", "transactions", *words, "more.csv").status == 0
    said = run("reconcile", *words)
    assert said.status == 1
    assert "changed after somebody decided (accepted): n1, amount_mismatch" in said.out
