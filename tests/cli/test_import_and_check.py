"""From files to findings: generate, import, verify and drift by the command line."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import polars as pl
import pytest

from tests.cli.conftest import NOW, Run, Said

HEADER = "transaction_id,account_id,type,status,amount,related_transaction_id,business_code,metadata,created_at\n"


def generated(run: Run, folder: Path, *, accounts: int = 30, events: int = 400) -> Said:
    """Generate files with the tests' clock."""
    return run("generate", "--accounts", accounts, "--events", events, "--output", folder, "--now", NOW, "--json")


def test_generate_names_its_files(run: Run, tmp_path: Path) -> None:
    """The document names the three files, which are there."""
    said = generated(run, tmp_path / "files")
    assert said.status == 0
    assert said.document["verdict"] == "OK"
    assert sorted(said.document["files"]) == ["accounts", "orders", "transactions"]
    assert all(Path(path).is_file() for path in said.document["files"].values())


def test_generate_says_the_same_all_day(run: Run, tmp_path: Path) -> None:
    """Without --now two runs with one seed give the same bytes; another seed into the same folder is refused."""
    words = ["generate", "--accounts", "5", "--events", "50", "--seed", "3", "--output"]
    assert run(*words, tmp_path / "a").status == 0
    assert run(*words, tmp_path / "b").status == 0
    first, second = [(tmp_path / name / "transactions.csv").read_bytes() for name in "ab"]
    assert first == second
    assert run(*words, tmp_path / "a", "--seed", "4").status == 4


def test_undamaged_ledger_is_clean_and_equal(run: Run, tmp_path: Path) -> None:
    """What was generated imports whole, verifies CLEAN and compares EQUAL; importing again changes nothing."""
    generated(run, tmp_path / "files")
    first = run("import", "transactions", tmp_path / "files" / "transactions.csv", "--json")
    assert (first.status, first.document["verdict"]) == (0, "OK")
    assert first.document["imported"] == 400
    again = run("import", "transactions", tmp_path / "files" / "transactions.csv", "--json")
    assert [again.document[name] for name in ("imported", "unchanged", "rejected", "rejects")] == [0, 400, 0, None]
    assert run("import", "accounts", tmp_path / "files" / "accounts.csv").status == 0
    verified = run("verify", "--json", "--now", NOW)
    assert (verified.status, verified.document["verdict"]) == (0, "CLEAN")
    assert verified.document["findings_count"] == 0
    compared = run("drift", "--json")
    assert (compared.status, compared.document["verdict"]) == (0, "EQUAL")
    assert (compared.document["compared"], compared.document["drifted"]) == (30, 0)


def test_bad_rows_are_rejected_with_their_lines(run: Run, tmp_path: Path) -> None:
    """Good rows go in, bad ones are in the rejects file with line and reason; REJECTS, status 3."""
    (tmp_path / "rows.csv").write_text(
        HEADER
        + "t1,a,credit,completed,10,,,,2026-04-01T00:00:00Z\n"
        + "t2,a,gift,completed,10,,,,2026-04-01T00:00:00Z\n"
        + "t3,a,credit,completed,0,,,,2026-04-01T00:00:00Z\n"
        + "t4,a,debit,completed,4,,,,2026-04-02\n"
    )
    said = run("import", "transactions", "rows.csv", "--json")
    assert (said.status, said.document["verdict"]) == (3, "REJECTS")
    assert [said.document[name] for name in ("imported", "unchanged", "rejected")] == [2, 0, 2]
    assert said.document["rejects"] == "ledger-data/reports/rejects-rows.csv"
    assert pl.read_csv(said.document["rejects"])["line"].to_list() == [3, 4]
    chosen = run("import", "transactions", "rows.csv", "--rejects", "mine.csv")
    assert chosen.status == 3
    assert pl.read_csv("mine.csv").height == 2


def test_dry_run_changes_nothing_and_shows_a_profile(run: Run, tmp_path: Path) -> None:
    """--dry-run says what it would do; nothing is in the ledger afterwards, nor is there one where there was none."""
    generated(run, tmp_path / "files")
    said = run("import", "transactions", tmp_path / "files" / "transactions.csv", "--dry-run", "--json")
    assert said.document["imported"] == 400
    assert {each["column"] for each in said.document["profile"]} >= {"amount", "status", "type"}
    assert not Path("ledger-data").exists()
    run("import", "transactions", tmp_path / "files" / "transactions.csv")
    before = run("balances", "--json", "--now", NOW).document
    (tmp_path / "more.csv").write_text(HEADER + "more-1,more,credit,completed,10,,,,2026-04-01T00:00:00Z\n")
    assert run("import", "transactions", "more.csv", "--dry-run", "--json").document["imported"] == 1
    assert run("balances", "--json", "--now", NOW).document == before


def test_mapping_of_the_configuration_and_of_a_file(run: Run, tmp_path: Path) -> None:
    """[import] of the TOML file renames columns and maps values; --map FILE does so instead."""
    (tmp_path / "rows.csv").write_text("id,who,kind,state,points,at\n1,a,earn,done,10,2026-04-01T12:00:00\n")
    mapping = """[import]
timezone = "Europe/Berlin"
types = {earn = "credit"}
statuses = {done = "completed"}
[import.columns]
transaction_id = "id"
account_id = "who"
type = "kind"
status = "state"
amount = "points"
created_at = "at"
"""
    (tmp_path / "map.toml").write_text(mapping)
    said = run("import", "transactions", "rows.csv", "--map", "map.toml")
    assert said.status == 0
    assert said.err == "note: 1 time without a zone, taken in Europe/Berlin\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ledger-replay.toml").write_text(mapping)
    assert run("import", "transactions", "rows.csv", "--data", "other").status == 0
    for folder in ("ledger-data", "other"):
        event = run("history", "a", "--data", folder, "--json").document["events"][1]
        assert (event["amount"], event["effective_at"]) == (10, "2026-04-01T10:00:00.000000Z")


def test_findings_have_details_and_numbers(run: Run, tmp_path: Path) -> None:
    """The scenario's three findings: running balance as a number, details as an object, FINDINGS, status 1."""
    (tmp_path / "rows.csv").write_text(
        HEADER
        + "t1,a,credit,completed,10,,,,2026-04-01T00:00:00Z\n"
        + "t2,a,debit,completed,25,,,,2026-04-02T00:00:00Z\n"
        + "t3,a,credit,completed,50,gone,,,2026-04-03T00:00:00Z\n"
        + "t4,a,debit,pending,5,,,,2026-04-04T00:00:00Z\n"
    )
    run("import", "transactions", "rows.csv")
    said = run("verify", "--now", NOW, "--json")
    assert (said.status, said.document["verdict"]) == (1, "FINDINGS")
    by_code = {each["code"]: each for each in said.document["findings"]}
    assert said.document["findings_count"] == len(said.document["findings"]) == 3
    assert (by_code["negative_balance"]["actual"], by_code["negative_balance"]["position"]) == (-15, 1)
    assert by_code["missing_related_transaction"]["details"]["related_transaction_id"] == "gone"
    stale = by_code["stale_pending_transaction"]
    assert stale["details"]["created_at"] == "2026-04-04T00:00:00.000000Z"
    csv = run("verify", "--now", NOW, "--format", "csv")
    assert csv.status == 1
    assert csv.out.startswith("code,account_id,transaction_id,position,expected,actual,details\n")


@pytest.mark.parametrize(("how", "status"), [("complete", "completed"), ("cancel", "cancelled")])
def test_stale_transactions_are_settled_as_events(run: Run, tmp_path: Path, how: str, status: str) -> None:
    """--fix-stale settles what was pending too long, effective now, and looks again."""
    (tmp_path / "rows.csv").write_text(
        HEADER + "t1,a,credit,completed,10,,,,2026-04-01T00:00:00Z\n" + "t2,a,debit,pending,5,,,,2026-04-04T00:00:00Z\n"
    )
    run("import", "transactions", "rows.csv")
    assert run("verify", "--now", NOW).status == 1
    said = run("verify", "--now", NOW, "--fix-stale", how, "--json")
    assert (said.status, said.document["verdict"]) == (0, "CLEAN")
    assert said.document["settled"] == [{"account_id": "a", "transaction_id": "t2", "action": how}]
    last = run("history", "a", "--json").document["events"][-1]
    assert (last["to_status"], last["effective_at"]) == (status, "2026-05-01T00:00:00.000000Z")
    assert run("verify", "--fix-stale", "perhaps").status == 2


def test_verify_of_one_account(run: Run, data: Path) -> None:
    """--account narrows the findings; an unknown account is named, status 2."""
    assert run("verify", "--account", "alice", "--data", data).status == 0
    said = run("verify", "--account", "nobody", "--data", data)
    assert said.status == 2
    assert "nobody" in said.err


def test_drift_names_every_difference(run: Run, tmp_path: Path, data: Path) -> None:
    """A wrong balance, a lost row and a row too many: DRIFT, status 1, differences with sign and class."""
    (tmp_path / "live.csv").write_text(
        "account_id,balance,frozen_amount,status,locked_at\nalice,107,0,active,\nbob,100,20,active,\nzoe,5,0,active,\n"
    )
    assert run("import", "accounts", "live.csv", "--data", data).status == 0
    said = run("drift", "--data", data, "--json")
    assert (said.status, said.document["verdict"]) == (1, "DRIFT")
    assert (said.document["compared"], said.document["drifted"]) == (4, 3)
    found = {each["account_id"]: each for each in said.document["accounts"]}
    assert found["alice"]["field"] == "balance"
    assert (found["alice"]["live"], found["alice"]["replayed"], found["alice"]["difference"]) == (107, 100, 7)
    assert (found["carl"]["field"], found["carl"]["class"]) == ("row", "row_missing")
    assert (found["zoe"]["field"], found["zoe"]["class"]) == ("row", "row_extra")
    text = run("drift", "--data", data, "--explain").out
    assert "evidence" in text
    assert "foreign_write" in text


def test_drift_against_a_table_of_another_database(run: Run, data: Path, tmp_path: Path) -> None:
    """--against URL --table NAME compares a live table where it is."""
    url = f"sqlite:///{tmp_path}/live.db"
    connection = sqlite3.connect(tmp_path / "live.db")
    with connection:
        connection.execute("CREATE TABLE accounts (account_id, balance, frozen_amount, status, locked_at)")
        rows = [("alice", 100, 0), ("bob", 100, 20), ("carl", 99, 0)]
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?, 'active', NULL)", rows)
    connection.close()
    said = run("drift", "--data", data, "--against", url, "--table", "accounts", "--json")
    assert said.status == 1
    assert [each["account_id"] for each in said.document["accounts"]] == ["carl"]
    assert run("drift", "--data", data, "--against", url, "--table", "nothing").status == 2
    connection = sqlite3.connect(tmp_path / "live.db")
    with connection:
        connection.execute("UPDATE accounts SET balance = 'much' WHERE account_id = 'bob'")
    connection.close()
    unread = run("drift", "--data", data, "--against", url, "--table", "accounts", "--json")
    assert (unread.status, unread.document["verdict"], unread.document["rejected"]) == (3, "INCOMPARABLE", 1)
    assert unread.document["uncompared"] == ["bob"]
    assert [each["account_id"] for each in unread.document["accounts"]] == ["carl"]


def test_a_value_of_another_type_in_our_own_rows_is_drift(run: Run, data: Path) -> None:
    """The one look says of it what `drift --watch` says, and compares all others."""
    run("project", "--data", data)
    connection = sqlite3.connect(data / "ledger.db")
    with connection:
        connection.execute("UPDATE ledger_accounts SET balance = 'much' WHERE account_id = 'bob'")
    connection.close()
    once = run("drift", "--own", "--data", data, "--json")
    watched = run("drift", "--watch", "--rounds", 1, "--data", data, "--json")
    told = [("bob", "balance", "much", "foreign_write")]
    for said in (once, watched):
        found = said.document
        assert (said.status, found["verdict"], found["compared"]) == (1, "DRIFT", 3)
        assert [(each["account_id"], each["field"], each["live"], each["class"]) for each in found["accounts"]] == told


def test_opening_balances(run: Run, tmp_path: Path) -> None:
    """--as-opening-at makes events of live rows, for a ledger whose history is gone."""
    (tmp_path / "live.csv").write_text("account_id,balance,frozen_amount,status,locked_at\na,107,0,active,\n")
    assert run("import", "accounts", "live.csv", "--as-opening-at", "2026-01-01", "--json").document["events"] >= 2
    assert run("balances", "a", "--json").document["accounts"][0]["balance"] == 107


def test_accounts_of_earlier_imports_are_named_and_replaced(run: Run, tmp_path: Path) -> None:
    """Rows that a later accounts file has no more are counted as absent; --replace drops them, but not in a dry run."""
    header = "account_id,balance,frozen_amount,status,locked_at\n"
    (tmp_path / "first.csv").write_text(f"{header}a,1,0,active,\nb,2,0,active,\n")
    (tmp_path / "second.csv").write_text(f"{header}a,1,0,active,\n")
    assert run("import", "accounts", "first.csv", "--json").document["absent"] == 0
    kept = run("import", "accounts", "second.csv")
    assert "1 row of earlier imports is not in this one" in kept.out
    assert "--replace" in kept.out
    assert run("import", "accounts", "second.csv", "--replace", "--dry-run", "--json").document["absent"] == 1
    dropped = run("import", "accounts", "second.csv", "--replace", "--json").document
    assert (dropped["absent"], dropped["unchanged"], dropped["imported"]) == (1, 1, 0)
    assert run("import", "accounts", "second.csv", "--json").document["absent"] == 0
    assert run("import", "accounts", "first.csv", "--replace", "--as-opening-at", "2026-01-01").status == 2


def test_lost_events_are_put_back(run: Run, data: Path, tmp_path: Path) -> None:
    """An export that was made before the damage brings lost events back, and says how many."""
    before = run("rebuild", "--data", data, "--json").document["certificate"]["digest"]
    run("export", "events", "events.jsonl", "--data", data)
    connection = sqlite3.connect(data / "ledger.db")
    with connection:
        connection.execute("DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version > 2")
    connection.close()
    assert run("balances", "--data", data).status == 3
    said = run("import", "events", "events.jsonl", "--data", data, "--json")
    assert [said.document[name] for name in ("verdict", "imported", "restored", "rejected")] == ["OK", 0, 2, 0]
    assert run("rebuild", "--data", data, "--json").document["certificate"]["digest"] == before
    assert run("import", "events", "events.jsonl", "--data", data, "--json").document["restored"] == 0


def test_events_are_not_written_over_something_else(run: Run, data: Path, tmp_path: Path) -> None:
    """The export that a ledger was made from, and the ledger itself, are no place for its events."""
    (tmp_path / "legacy.csv").write_text("transaction_id,account_id\n")
    for file in (tmp_path / "legacy.csv", data / "ledger.db"):
        before = file.read_bytes()
        assert run("export", "events", file, "--data", data).status == 2
        assert file.read_bytes() == before


def test_export_and_import_of_events_keep_the_digest(run: Run, data: Path, tmp_path: Path) -> None:
    """Events exported and imported into a new ledger replay to the same digest."""
    said = run("export", "events", tmp_path / "events.jsonl", "--data", data, "--json")
    assert said.document["events"] == 9
    assert run("import", "events", tmp_path / "events.jsonl", "--data", "new", "--json").document["imported"] == 9
    digests = {run("rebuild", "--data", folder, "--json").document["certificate"]["digest"] for folder in (data, "new")}
    assert len(digests) == 1


def test_events_on_standard_output_stand_alone(run: Run, data: Path, tmp_path: Path) -> None:
    """Exported to -, stdout holds the events and nothing else; --json beside it is refused as bad usage."""
    piped = run("export", "events", "-", "--data", data)
    run("export", "events", "events.jsonl", "--data", data)
    assert piped.out == Path("events.jsonl").read_text()
    assert piped.err == "note: 9 events written\n"
    assert run("export", "events", "-", "--data", data, "--json").status == 2


@pytest.mark.parametrize(
    "words",
    [
        ["transactions"],
        ["transactions", "gone.csv"],
        ["transactions", "rows.xls"],
        ["transactions", "-"],
        ["transactions", "rows.csv", "--from-url", "sqlite:///x.db", "--table", "t"],
        ["transactions", "--from-url", "sqlite:///x.db"],
        ["transactions", "rows.csv", "--table", "t"],
        ["transactions", "empty.csv"],
        ["transactions", "rows.csv", "--map", "gone.toml"],
        ["accounts", "gone.csv"],
        ["events", "gone.jsonl"],
    ],
)
def test_unusable_input_is_a_usage_error(run: Run, tmp_path: Path, words: list[str]) -> None:
    """Input that cannot be read, or that is not said clearly, is one line and status 2."""
    (tmp_path / "rows.csv").write_text(HEADER)
    (tmp_path / "empty.csv").write_text("")
    said = run("import", *words)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
