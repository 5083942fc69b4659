"""Rebuild, project, generations and questions by the command line, on whole and on damaged stores."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def damage(data: Path, sql: str) -> None:
    """Change the database behind the ledger's back."""
    connection = sqlite3.connect(data / "ledger.db")
    with connection:
        connection.execute(sql)
    connection.close()


def test_rebuild_and_promote(run: Run, data: Path) -> None:
    """A rebuild writes a generation; promoted, it is the live one; the one before is the way back."""
    first = run("rebuild", "--data", data, "--json").document
    assert (first["verdict"], first["generation"], first["promoted"]) == ("COMPLETE", 1, False)
    second = run("rebuild", "--promote", "--data", data, "--json").document
    assert (second["generation"], second["promoted"]) == (2, True)
    certificate = second["certificate"]
    assert (certificate["source"], certificate["events"], certificate["accounts"]) == ("store", 9, 3)
    assert certificate["digest"] == first["certificate"]["digest"]
    assert run("generations", "promote", "1", "--data", data).status == 0
    listed = run("generations", "list", "--data", data, "--json").document["generations"]
    assert [(each["generation"], each["is_live"]) for each in listed] == [(1, True), (2, False)]
    for words in (["generations", "--data", data], ["--data", data, "generations"]):
        assert run(*words, "--json").document["generations"] == listed
    assert run("generations", "--data", "nowhere", "list", "--data", data).status == 0
    assert run("generations", "--data", data, "--format", "csv").out.count("\n") == 3


def test_rebuild_until_a_position_with_all_projections(run: Run, data: Path) -> None:
    """--until stops there; --projections names more projections in the certificate."""
    said = run("rebuild", "--until", "4", "--projections", "--data", data, "--json").document
    assert (said["certificate"]["position"], said["certificate"]["events"]) == (4, 4)
    assert set(said["certificate"]["projections"]) == {"balances", "account_status", "transactions", "relations"}


def test_project_brings_the_read_model_to_the_head(run: Run, data: Path) -> None:
    """Project says its position; compared with a replay there, nothing differs."""
    said = run("project", "--data", data, "--json")
    assert (said.status, said.document["position"]) == (0, 9)
    assert run("drift", "--data", data, "--json").document["verdict"] == "EQUAL"
    damage(data, "UPDATE ledger_accounts SET balance = balance + 1 WHERE account_id = 'carl'")
    said = run("drift", "--data", data, "--json")
    assert said.status == 1
    assert [(each["account_id"], each["difference"]) for each in said.document["accounts"]] == [("carl", 1)]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version = 2", "version_gap"),
        ("DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version = 4", "head_mismatch"),
        ("DELETE FROM stored_events WHERE originator_id = 'alice'", "head_mismatch"),
        (
            "UPDATE stored_events SET state = 'x' WHERE originator_id = 'alice' AND originator_version = 2",
            "poison_event",
        ),
    ],
)
def test_damaged_store_is_incomplete_and_serves_the_others(run: Run, data: Path, sql: str, reason: str) -> None:
    """Whatever is lost or damaged is named; INCOMPLETE, status 3, not promoted; other accounts are served."""
    damage(data, sql)
    said = run("rebuild", "--promote", "--data", data, "--json")
    assert (said.status, said.document["verdict"], said.document["promoted"]) == (3, "INCOMPLETE", False)
    parked = said.document["certificate"]["parked"]
    assert [(each["account_id"], each["reason"]) for each in parked] == [("alice", reason)]
    projected = run("project", "--data", data, "--json")
    assert (projected.status, projected.document["verdict"]) == (3, "INCOMPLETE")
    assert projected.document["parked"] == ["alice"]
    assert "not certified: alice" in run("project", "--data", data).out
    served = run("balances", "--data", data, "--json")
    assert served.status == 3
    assert [each["account_id"] for each in served.document["accounts"]] == ["bob", "carl"]
    exported = run("export", "events", "events.jsonl", "--data", data, "--json")
    assert (exported.status, exported.document["verdict"], exported.document["events"]) == (3, "INCOMPLETE", 5)
    assert [each["account_id"] for each in exported.document["parked"]] == ["alice"]
    lines = Path("events.jsonl").read_text()
    assert (lines.count("\n"), lines.count("alice")) == (5, 0)
    piped = run("export", "events", "-", "--data", data)
    assert (piped.status, piped.out) == (3, lines)
    assert "alice" in piped.err
    alone = run("balances", "alice", "--data", data, "--json")
    assert (alone.status, alone.document["accounts"]) == (3, [])
    checked = run("verify", "--data", data, "--json")
    assert (checked.status, checked.document["verdict"]) == (3, "INCOMPLETE")
    assert reason in {each["code"] for each in checked.document["findings"]}
    told = run("rebuild", "--data", data).out
    assert "alice" in told
    assert "makes it live" not in told
    assert "cannot be promoted" in told
    assert run("generations", "promote", said.document["generation"], "--data", data).status == 4


def test_history_has_the_state_after_each_event(run: Run, data: Path) -> None:
    """History gives the contract's columns in stream order, with running balance and frozen points."""
    events = run("history", "bob", "--data", data, "--json").document["events"]
    assert list(events[0]) == [
        "version",
        "effective_at",
        "recorded_at",
        "event",
        "transaction_id",
        "type",
        "from_status",
        "to_status",
        "amount",
        "balance",
        "frozen",
    ]
    assert [(each["version"], each["balance"], each["frozen"]) for each in events] == [
        (1, 0, 0),
        (2, 100, 0),
        (3, 100, 20),
    ]


def test_graph_in_every_form(run: Run, data: Path) -> None:
    """Graph follows links both ways and draws them as a table, JSON, DOT and Mermaid."""
    document = run("graph", "alice-2", "--data", data, "--json").document
    assert [each["transaction_id"] for each in document["transactions"]] == ["alice-2", "alice-3"]
    assert document["edges"] == [{"transaction_id": "alice-3", "related_transaction_id": "alice-2"}]
    assert document["missing"] == []
    assert run("graph", "alice-3", "--data", data, "--format", "dot").out.startswith("digraph")
    assert run("graph", "alice-3", "--data", data, "--format", "mermaid").out.startswith("flowchart")
    assert "2 transactions, 1 link" in run("graph", "alice-3", "--data", data).out
    assert run("balances", "--data", data, "--format", "dot").status == 2


def test_balances_at_a_position(run: Run, data: Path) -> None:
    """--at gives the state as it was at a position of the store."""
    document = run("balances", "alice", "--at", "7", "--data", data, "--json").document
    assert document["certificate"]["position"] == 7
    assert document["accounts"][0]["balance"] == 70
    assert (
        run("balances", "alice", "--at", "7", "--from", "store", "--data", data, "--json").document["accounts"]
        == (document["accounts"])
    )
