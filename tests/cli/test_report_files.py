"""`reconcile --report` and `breaks --report`: one result in files of three forms, beside the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

ORDERS = """order_id,account_id,points_amount,status,created_at
o-1,alice,300,completed,2026-05-02T08:00:00Z
o-2,bob,80,completed,2026-05-04T10:00:00Z
<b>o-3</b>,bob,120,cancelled,2026-05-05T08:00:00Z
o-4,bob,10,completed,2026-05-05T09:00:00Z
"""
TRANSACTIONS = """transaction_id,account_id,type,status,amount,related_transaction_id,business_code,order_id,created_at
t1,alice,credit,completed,1000,,grant,,2026-05-01T08:00:00Z
t2,alice,debit,completed,300,,shop,o-1,2026-05-02T08:00:00Z
t3,alice,debit,completed,300,,shop,o-1,2026-05-02T08:00:05Z
t4,bob,credit,completed,500,,grant,,2026-05-01T08:00:00Z
t5,bob,debit,frozen,120,,shop,<b>o-3</b>,2026-05-05T08:00:00Z
t6,bob,debit,completed,10,,shop,o-4,2026-05-05T09:00:00Z
"""
NOW = ("--now", "2026-05-10T00:00:00Z")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file of orders and one of transactions, with five breaks of three orders."""
    orders, transactions = tmp_path / "orders.csv", tmp_path / "transactions.csv"
    orders.write_text(ORDERS)
    transactions.write_text(TRANSACTIONS)
    return orders, transactions


@pytest.fixture
def ledger(run: Run, files: tuple[Path, Path], tmp_path: Path) -> Path:
    """A ledger that has both."""
    folder = tmp_path / "ledger"
    for what, file in zip(("orders", "transactions"), files, strict=True):
        assert run("import", what, file, "--data", folder, *NOW).status == 0
    return folder


def test_a_reconciliation_as_files(run: Run, ledger: Path, tmp_path: Path) -> None:
    """Each ending gives its form, with the totals of the answer, the certificate, and each break with its history."""
    files = [tmp_path / "new" / f"report.{ending}" for ending in ("html", "json", "txt")]
    words = [word for file in files for word in ("--report", file)]
    said = run("reconcile", "--data", ledger, *NOW, "--json", *words)
    assert (said.status, said.document["verdict"]) == (1, "FINDINGS")
    assert [f"written to {file}" in said.err for file in files] == [True] * 3
    html, text = files[0].read_text(), files[2].read_text()
    found = json.loads(files[1].read_text())
    assert found["totals"]["points_at_risk"] == said.document["points_at_risk"] == 300 + 80 + 120
    assert (found["totals"]["orders"], found["totals"]["transactions"]) == (4, 4)
    assert found["totals"]["breaks_listed"] == said.document["mismatches_count"] == 5
    assert found["certificate"] == said.document["certificate"]
    assert found["ledger_id"] == said.document["certificate"]["ledger_id"]
    breaks = {(row["order_id"], row["code"]): row for row in found["breaks"]}
    for row in said.document["mismatches"]:
        told = breaks[row["order_id"], row["code"]]
        assert (told["id"], told["state"], told["evidence"]) == (row["break"], "open", row["evidence"])
        assert [(change["to_state"], change["by"]) for change in told["history"]] == [("open", "reconciliation")]
    assert html.startswith("<!doctype html>")
    assert "&lt;b&gt;o-3&lt;/b&gt;" in html
    assert "<b>o-3" not in html
    assert "FINDINGS: 5 breaks of 3 orders are open, 500 points at risk" in text
    assert "<b>o-3</b> (frozen_leak, open, 120 points at risk)" in text


def test_a_reconciliation_that_keeps_nothing(run: Run, files: tuple[Path, Path], tmp_path: Path) -> None:
    """What is found in files, or by the scenario's rules, is reported too, without what only a kept break has."""
    given = ("--orders", files[0], "--transactions", files[1])
    for more, breaks_count in ([], 5), (["--business-code", "shop", "--start", "2026-05-01"], 4):
        said = run("reconcile", "--data", tmp_path, *given, *NOW, *more, "--report", tmp_path / "r.json")
        assert said.status == 1
        found = json.loads((tmp_path / "r.json").read_text())
        assert (found["ledger_id"], found["certificate"]) == (None, None)
        assert (found["totals"]["breaks_open"], found["totals"]["points_at_risk"]) == (breaks_count, 500)
        assert {(row["id"], row["state"], row["opened_at"]) for row in found["breaks"]} == {(None, "open", None)}
        assert sum(each["breaks"] for each in found["by_age"]) == breaks_count
        assert str(files[0]) in found["source"]


def test_what_a_person_decided_is_no_point_at_risk(run: Run, ledger: Path, tmp_path: Path) -> None:
    """A break that somebody resolved stays in the report of a reconciliation, with who and why, and counts no more."""
    run("reconcile", "--data", ledger, *NOW)
    ids = {row["order_id"]: row["id"] for row in run("breaks", "--data", ledger, "--json").document["breaks"]}
    run("breaks", "resolve", ids["o-2"], "--accept", "--reason", "agreed", "--by", "eve", "--data", ledger, *NOW)
    run("reconcile", "--data", ledger, *NOW, "--report", tmp_path / "r.json", "--report", tmp_path / "r.txt")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["totals"]["breaks_listed"], found["totals"]["breaks_open"]) == (5, 4)
    assert found["totals"]["points_at_risk"] == 420
    assert [row["order_id"] for row in found["breaks"]][-1] == "o-2"
    assert "resolved accepted, by eve: agreed" in (tmp_path / "r.txt").read_text()


def test_breaks_as_files(run: Run, ledger: Path, tmp_path: Path) -> None:
    """The breaks that are asked for are reported as the list has them, and the report says which were asked for."""
    run("reconcile", "--data", ledger, *NOW)
    for command in (["breaks"], ["breaks", "list"]):
        said = run(
            *command, "--account", "bob", "--report", tmp_path / "b.html", "--report", tmp_path / "b.json",
            "--data", ledger, "--json", "--now", "2026-05-12T00:00:00Z",
        )  # fmt: skip
        assert said.status == 1
        found = json.loads((tmp_path / "b.json").read_text())
        for name in ("by_code", "by_day", "by_account", "by_age", "read_until_at"):
            assert found[name] == said.document[name]
        assert found["totals"]["points_at_risk"] == said.document["points_at_risk"] == 200
        assert sorted(row["id"] for row in found["breaks"]) == [row["id"] for row in said.document["breaks"]]
        assert {row["age_seconds"] for row in found["breaks"]} == {172_800}
        assert found["asked"]["account"] == "bob"
        assert "account bob" in (tmp_path / "b.html").read_text()


def test_an_empty_report_says_what_it_does_not_know(run: Run, ledger: Path, tmp_path: Path) -> None:
    """Where nothing was ever reconciled the report is INCOMPLETE and says so."""
    said = run("breaks", "--data", ledger, "--report", tmp_path / "b.txt")
    assert said.status == 3
    text = (tmp_path / "b.txt").read_text()
    assert "INCOMPLETE: no break is open" in text
    assert "! nothing was reconciled as a whole yet" in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["reconcile", "--report", "r.pdf"], "there is no report of this ending"),
        (["breaks", "--report", "r"], "there is no report of this ending"),
        (["breaks", "--report", "r.txt", "--report", "r.txt"], "two things would be written to one file"),
        (["breaks", "--report", "r.json", "--output", "r.json"], "two things would be written to one file"),
        (["reconcile", "--watch", "--report", "r.txt"], "--report is about a single look"),
        (["breaks", "--report", "r.txt", "show", "1"], "--report is not about `show`"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_reported(run: Run, ledger: Path, tmp_path: Path, words: list[str], reason: str) -> None:
    """A report that cannot be is refused before any work, so that nothing is kept either."""
    named = [tmp_path / word if word.startswith("r.") or word == "r" else word for word in words]
    said = run(*named, "--data", ledger)
    assert (said.status, reason in said.err, said.out) == (2, True, "")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("r.")] == []
    assert run("breaks", "--status", "all", "--data", ledger, "--json").document["breaks"] == []
