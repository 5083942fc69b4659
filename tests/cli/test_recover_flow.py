"""A recovery by the command line from check to report: imported rows, our own read model, a table of another system."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from webhooks import webhook

from tests.cli.conftest import START, Run, damage, ledger_of
from tests.cli.recover_scenes import (
    DAMAGED,
    RIGHT,
    approved_plan,
    bytes_of,
    foreign_table,
    import_damaged,
    recover,
    rows_of,
)

LIVE = """
[live]
url = "{url}"
table = "wallets"
columns = {{ account_id = "owner", balance = "coins", frozen_amount = "held", status = "state" }}
statuses = {{ OPEN = "active", SHUT = "closed" }}
settle_seconds = 0
looks_min = 1
"""


@pytest.fixture
def damaged(run: Run, data: Path, tmp_path: Path) -> Path:
    """A ledger whose imported live rows are damaged."""
    import_damaged(run, data, tmp_path)
    return data


def changes_of(document: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """From, to, basis and class of each change of a document, by account and field."""
    return {
        (each["account_id"], each["field"]): (each["from"], each["to"], each["basis"], each["class"])
        for each in document["changes"]
    }


def test_check_says_how_bad_it_is(run: Run, damaged: Path) -> None:
    """Live rows that are wrong are minor; every part has its words, and nothing is written."""
    before = bytes_of(damaged)
    said = recover(run, damaged, "check", "--json")
    document = said.document
    assert (said.status, document["verdict"], document["severity"]) == (1, "FINDINGS", "minor")
    assert not document["manual_intervention_required"]
    parts = {each["name"]: each["state"] for each in document["parts"]}
    assert (parts["store"], parts["live"], parts["topic"]) == ("ok", "degraded", "none")
    assert document["loss"]["drifted"] == 3
    words = recover(run, damaged, "check").out
    assert "3 accounts that live has wrong" in words
    assert "live: `recover plan` corrects them" in words
    assert bytes_of(damaged) == before


def test_nothing_to_do_is_clean(run: Run, data: Path, tmp_path: Path) -> None:
    """A read model that is right gives a CLEAN check and a CLEAN plan."""
    assert run("rebuild", "--promote", "--data", data).status == 0
    check = recover(run, data, "check", "--json")
    assert (check.status, check.document["verdict"], check.document["severity"]) == (0, "CLEAN", "ok")
    plan = recover(run, data, "plan", "--output", tmp_path / "plan.json", "--json")
    assert (plan.status, plan.document["verdict"], plan.document["changes"]) == (0, "CLEAN", [])


def test_critical_is_refused_and_somebody_is_told(run: Run, data: Path) -> None:
    """Where nothing is left to replay from, a person is needed: REFUSED, and an alert that says which part is lost."""
    damage(data, "DELETE FROM ledger_heads")
    with webhook() as server:
        (data / "ledger-replay.toml").write_text(f'[alerts]\nwebhook = "{server.url}"\n')
        said = recover(run, data, "check", "--json")
    assert (said.status, said.document["verdict"], said.document["severity"]) == (4, "REFUSED", "critical")
    assert said.document["manual_intervention_required"]
    assert server.kinds == ["manual_intervention_required"]
    assert server.requests[0].document["severity"] == "critical"


def test_an_alert_that_fails_is_said(run: Run, data: Path) -> None:
    """A webhook that says no changes neither the answer nor its status, and is named in it."""
    damage(data, "DELETE FROM ledger_heads")
    with webhook(410) as server:
        (data / "ledger-replay.toml").write_text(f'[alerts]\nwebhook = "{server.url}"\n')
        said = recover(run, data, "check")
    assert said.status == 4
    assert "the webhook was not told: " in said.out


def test_the_plan_writes_nothing_but_its_files(run: Run, damaged: Path, tmp_path: Path) -> None:
    """Plan and SQL are written, and the summary says what it would do, what waits, and what to run next."""
    before = bytes_of(damaged)
    plan, sql = tmp_path / "out" / "plan.json", tmp_path / "out" / "plan.sql"
    assert recover(run, damaged, "plan", "--output", plan).status == 2
    plan.parent.mkdir()
    said = recover(run, damaged, "plan", "--output", plan, "--sql", sql, "--json")
    document = said.document
    assert (said.status, document["verdict"]) == (1, "FINDINGS")
    assert changes_of(document) == {
        ("alice", "balance"): (70, 100, "log", "missed_event"),
        ("bob", "balance"): (113, None, "unknown", "foreign_write"),
        ("carl", "row"): (None, document["changes"][2]["to"], "log", "row_missing"),
    }
    assert (document["undecided"], document["plan"]["file"], document["sql"]) == (1, str(plan), str(sql))
    assert (document["certificate"]["accounts"], document["certificate"]["position"]) == (
        3,
        document["plan"]["position"],
    )
    assert [path.name for path in sorted(plan.parent.iterdir())] == ["plan.json", "plan.sql"]
    assert "UNDECIDED account bob" in sql.read_text()
    assert bytes_of(damaged) == before
    words = recover(run, damaged, "plan", "--output", plan).out
    assert "balances would rise by 130 points and sink by 0 points" in words
    assert "1 account waits for a person: `recover decide" in words


def test_a_plan_of_some_accounts(run: Run, damaged: Path, tmp_path: Path) -> None:
    """Accounts come by comma or again, and one that nobody knows is bad usage."""
    words = ("--output", tmp_path / "plan.json", "--json")
    some = recover(run, damaged, "plan", "--accounts", "alice,bob", "--accounts", "carl", *words).document
    assert {each["account_id"] for each in some["changes"]} == {"alice", "bob", "carl"}
    one = recover(run, damaged, "plan", "--accounts", "alice", *words).document
    assert {each["account_id"] for each in one["changes"]} == {"alice"}
    assert recover(run, damaged, "plan", "--accounts", "nobody", *words).status == 2


def test_a_dry_run_writes_nothing(run: Run, damaged: Path, tmp_path: Path) -> None:
    """Without --execute the database and every file stay as they are, and the answer says all that would be done."""
    plan = approved_plan(run, damaged, tmp_path)
    before = bytes_of(tmp_path)
    said = recover(run, damaged, "apply", plan, "--json")
    document = said.document
    assert (said.status, document["verdict"], document["dry_run"], document["approved"]) == (1, "FINDINGS", True, True)
    assert document["fingerprints"] == {"moved_since": 0, "changed_since": 0, "already": 0}
    assert "correct 2 accounts" in document["steps"]["correct"]
    assert "1 account waits" in document["steps"]["correct"]
    assert bytes_of(tmp_path) == before
    assert "--execute" in recover(run, damaged, "apply", plan).out


def test_from_plan_to_report(run: Run, damaged: Path, tmp_path: Path) -> None:
    """What the log explains is corrected, what waits stays, and a second plan with a decision does the rest."""
    plan = approved_plan(run, damaged, tmp_path)
    said = recover(run, damaged, "apply", plan, "--execute", "--json")
    document = said.document
    assert (said.status, document["verdict"]) == (1, "FINDINGS")
    assert (document["status"], document["verified"]) == ("manual_intervention_required", "EQUAL")
    assert document["manual_intervention_required"]
    assert (document["outcomes"]["corrected"], document["outcomes"]["waiting"]) == (2, 1)
    assert document["success_rate"] == pytest.approx(2 / 3)
    assert document["balance"] == {"before": 70, "after": 200, "added": 130, "taken": 0}
    assert rows_of(damaged / "ledger.db") == {**RIGHT, "bob": DAMAGED["bob"]}
    assert "about to apply plan" in said.err
    assert [Path(file).suffix for file in document["report"]] == [".html", ".json", ".txt"]
    assert all(Path(file).is_file() for file in document["report"])
    again = tmp_path / "again.json"
    assert recover(run, damaged, "plan", "--output", again).status == 1
    decided = recover(run, damaged, "decide", again, "bob", "--adjust", "--reason", "counted", "--by", "ada", "--json")
    assert (decided.status, decided.document["decided"], decided.document["undecided"]) == (0, 1, 0)
    assert recover(run, damaged, "approve", again, "--reason", "seen").status == 0
    done = recover(run, damaged, "apply", again, "--execute", "--yes", "--json")
    assert (done.status, done.document["verdict"], done.document["adjusted"]) == (0, "COMPLETE", 1)
    assert run("drift", "--data", damaged, "--json").document["verdict"] == "EQUAL"
    assert rows_of(damaged / "ledger.db")["bob"] == DAMAGED["bob"]
    assert run("audit", "verify", "--data", damaged).status == 0
    last = run("history", "bob", "--data", damaged, "--json").document["events"][-1]
    assert (last["type"], last["amount"]) == ("credit", 13)


def test_decisions_of_a_class_with_their_sql(run: Run, damaged: Path, tmp_path: Path) -> None:
    """All that are undecided of a class are accepted, and the SQL then corrects them too."""
    plan, sql = tmp_path / "plan.json", tmp_path / "plan.sql"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    before = plan.read_bytes()
    words = ("--accept", "--reason", "the log is right", "--sql", sql)
    said = recover(run, damaged, "decide", plan, "--class", "foreign_write", *words)
    assert (said.status, "1 account decided: accept" in said.out) == (0, True)
    assert plan.read_bytes() != before
    statements = sql.read_text()
    assert "UNDECIDED" not in statements
    assert "bob" in statements
    assert recover(run, damaged, "decide", plan, "--all", *words).status == 2


def test_our_own_read_model(run: Run, data: Path, tmp_path: Path) -> None:
    """A changed row of ours is put right by a new generation that goes live."""
    assert run("rebuild", "--promote", "--data", data).status == 0
    damage(data, "UPDATE ledger_accounts SET balance = 5 WHERE account_id = 'alice'")
    assert recover(run, data, "check", "--own").status == 1
    plan = approved_plan(run, data, tmp_path, "--own")
    assert recover(run, data, "plan", "--own", "--output", plan, "--sql", tmp_path / "no.sql").status == 2
    said = recover(run, data, "apply", plan, "--execute", "--json")
    assert (said.status, said.document["verdict"]) == (0, "COMPLETE")
    assert said.document["outcomes"]["corrected"] == 1
    assert run("drift", "--own", "--data", data, "--json").document["verdict"] == "EQUAL"


def test_a_table_of_another_system(run: Run, data: Path, tmp_path: Path) -> None:
    """A table with names and words of its own is corrected where it is; `apply` finds it in the plan."""
    url = f"sqlite:///{tmp_path}/theirs.db"
    engine = foreign_table(url)
    (data / "ledger-replay.toml").write_text(LIVE.format(url=url))
    assert recover(run, data, "check", "--live", "--json").document["loss"]["drifted"] == 3
    plan, sql = tmp_path / "plan.json", tmp_path / "plan.sql"
    assert recover(run, data, "plan", "--output", plan, "--sql", sql, "--live").status == 1
    assert "UPDATE wallets" in sql.read_text()
    assert recover(run, data, "decide", plan, "--all", "--accept", "--reason", "sure").status == 0
    assert recover(run, data, "approve", plan, "--reason", "seen").status == 0
    said = recover(run, data, "apply", plan, "--execute", "--json")
    assert (said.status, said.document["outcomes"]["corrected"]) == (0, 3), said.err
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT owner, coins, held, state FROM wallets ORDER BY owner")).all()
    engine.dispose()
    assert {row[0]: (row[1], row[2]) for row in rows} == RIGHT
    assert {row[3] for row in rows} <= {"OPEN", "active"}


def test_lost_events_come_back_from_an_export(run: Run, damaged: Path, tmp_path: Path) -> None:
    """Without a copy the account waits and the plan is INCOMPLETE; with an export its events come back first."""
    export, plan = tmp_path / "events.jsonl", tmp_path / "plan.json"
    assert run("export", "events", export, "--data", damaged).status == 0
    damage(damaged, "DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version = 2")
    without = recover(run, damaged, "plan", "--output", plan, "--json")
    assert (without.status, without.document["verdict"]) == (3, "INCOMPLETE")
    assert changes_of(without.document)["alice", "balance"][2:] == ("unknown", "log_damaged")
    with_export = recover(run, damaged, "plan", "--output", plan, "--heal-from", export, "--json")
    assert (with_export.status, len(with_export.document["heal"])) == (1, 1)
    assert recover(run, damaged, "approve", plan, "--reason", "seen").status == 0
    said = recover(run, damaged, "apply", plan, "--execute", "--json")
    assert (said.document["healed"], said.document["outcomes"]["corrected"]) == (1, 2)
    assert run("verify", "--data", damaged).status == 0
    assert recover(run, damaged, "plan", "--output", plan, "--heal-from", tmp_path / "none").status == 2


def test_stale_transactions_and_stuck_locks(run: Run, data: Path, tmp_path: Path) -> None:
    """--settle settles what is stale, and what was locked for it is unlocked once it is equal to the log."""
    with ledger_of(data) as ledger:
        ledger.credit("bob", "bob-9", 5, status="pending", effective_at=START + timedelta(days=1))
        ledger.lock("bob", effective_at=START + timedelta(days=1))
    assert run("rebuild", "--promote", "--data", data).status == 0
    plan = approved_plan(run, data, tmp_path, "--settle", "cancel")
    said = recover(run, data, "apply", plan, "--execute", "--json")
    assert (said.status, said.document["settled"], said.document["unlocked"]) == (0, 1, 1), said.out
    events = run("history", "bob", "--data", data, "--json").document["events"]
    assert [each["event"] for each in events[-2:]] == ["transaction.status_changed", "account.unlocked"]
    assert run("drift", "--own", "--data", data, "--json").document["verdict"] == "EQUAL"
