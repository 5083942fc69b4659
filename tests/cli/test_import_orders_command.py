"""Orders by the command line: from files, in a dry run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import NOW, Run

HEADER = "order_id,account_id,points_amount,status,created_at\n"
GOOD = "o1,a1,10,completed,2026-04-01T00:00:00Z\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a good and a bad order."""
    path = tmp_path / "shop.csv"
    path.write_text(f"{HEADER}{GOOD}o2,a1,-5,completed,2026-04-01T00:00:00Z\n")
    return path


def test_generated_orders_go_in_once(run: Run, tmp_path: Path) -> None:
    """What `generate` writes are good orders, and importing them twice changes nothing."""
    words = ["--accounts", 20, "--events", 400, "--output", tmp_path / "files", "--now", NOW, "--json"]
    rows = run("generate", *words).document["rows"]["orders"]
    first = run("--data", "data", "--json", "import", "orders", tmp_path / "files" / "orders.csv")
    again = run("--data", "data", "--json", "import", "orders", tmp_path / "files" / "orders.csv")
    assert (first.status, first.document["verdict"], first.document["imported"]) == (0, "OK", rows)
    assert (again.status, again.document["imported"], again.document["unchanged"]) == (0, 0, rows)


def test_bad_orders_go_to_the_rejects(run: Run, file: Path) -> None:
    """The good row goes in, the bad one is named with its line and reason."""
    said = run("--data", "data", "--json", "import", "orders", file)
    assert (said.status, said.document["verdict"]) == (3, "REJECTS")
    assert [said.document[name] for name in ("imported", "rejected", "events")] == [1, 1, 2]
    assert "3,points_amount must not be negative: '-5'" in Path(said.document["rejects"]).read_text()


def test_a_dry_run_makes_no_ledger(run: Run, file: Path) -> None:
    """It says what it would do, with a profile of the columns, and leaves nothing behind."""
    said = run("--data", "data", "--json", "import", "orders", file, "--dry-run")
    assert (said.document["imported"], said.document["dry_run"]) == (1, True)
    assert [column["column"] for column in said.document["profile"]] == HEADER.strip().split(",")
    assert not Path("data/ledger.db").exists()


@pytest.mark.parametrize("words", [[], ["--watch", "--rounds", 1]], ids=["once", "watch"])
def test_an_order_of_a_rejected_row_has_no_false_break(
    run: Run, data: Path, tmp_path: Path, words: list[object]
) -> None:
    """Its payment is no orphan: nothing can be said of it, by either way to reconcile, until a good row comes."""
    path = tmp_path / "shop.csv"
    path.write_text(f"{HEADER}order-1,alice,30,given back,2026-04-01T00:00:00Z\n")
    assert run("--data", data, "import", "orders", path, "--now", NOW).status == 3
    said = run("reconcile", *words, "--data", data, "--now", NOW, "--json")
    assert (said.status, said.document["verdict"]) == (3, "INCOMPLETE")
    listed = run("breaks", "--data", data, "--now", NOW, "--json")
    assert (listed.status, listed.document["breaks"]) == (3, [])
    (parked,) = listed.document["parked_orders"]
    assert (parked["partition"], parked["order_id"]) == (None, "order-1")
    assert "a row of order order-1 was rejected: line 2: unknown status" in run("breaks", "--data", data).out
    path.write_text(f"{HEADER}order-1,alice,30,cancelled,2026-04-01T00:00:00Z\n")
    assert run("--data", data, "import", "orders", path, "--now", NOW).status == 0
    said = run("reconcile", *words, "--data", data, "--now", NOW, "--json")
    assert (said.status, said.document["verdict"]) == (0, "CLEAN")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "say what to import"),
        (["shop.csv", "--from-topic", "orders"], "--from-topic excludes a FILE"),
        (["shop.csv", "--follow"], "--follow and --restart belong to --from-topic"),
        (["shop.csv", "--restart"], "--follow and --restart belong to --from-topic"),
        (["--from-topic", "orders", "--dry-run"], "--map, --dry-run and --rejects are for rows"),
        (["--from-topic", "orders", "--rejects", "r.csv"], "--map, --dry-run and --rejects are for rows"),
        (["missing.csv"], "missing.csv"),
    ],
)
def test_words_that_do_not_go_together_are_bad_usage(run: Run, file: Path, words: list[str], why: str) -> None:
    """One line says what is wrong, and nothing is made."""
    assert file.exists()
    said = run("--data", "data", "import", "orders", *words)
    assert said.status == 2
    assert why in said.err
    assert "Traceback" not in said.err
