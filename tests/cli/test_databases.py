"""The same commands give the same answers on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import NOW, Run


@pytest.mark.postgres
def test_both_databases_answer_alike(run: Run, tmp_path: Path, postgres_url: str) -> None:
    """Import, verify, rebuild and drift by --store URL: one digest, one set of findings, one set of rows."""
    files = tmp_path / "files"
    run("generate", "--accounts", 30, "--events", 400, "--output", files, "--now", NOW)
    answers = []
    for url in (f"sqlite:///{tmp_path}/ledger.db", postgres_url):
        where = ("--store", url, "--json", "--now", NOW)
        assert run("import", "transactions", files / "transactions.csv", *where).document["imported"] == 400
        assert run("import", "accounts", files / "accounts.csv", *where).status == 0
        rebuilt = run("rebuild", "--promote", *where).document
        assert (rebuilt["verdict"], rebuilt["promoted"]) == ("COMPLETE", True)
        checked, compared = run("verify", *where).document, run("drift", *where).document
        rows = run("balances", *where).document["accounts"]
        assert (checked["verdict"], compared["verdict"]) == ("CLEAN", "EQUAL")
        assert run("drift", "--own", *where).document["verdict"] == "EQUAL"
        assert run("project", *where).document["position"] == rebuilt["certificate"]["position"]
        exported = tmp_path / "events.jsonl"
        assert run("export", "events", exported, *where).document["events"] == rebuilt["certificate"]["events"]
        answers.append((rebuilt["certificate"]["digest"], rows))
    assert answers[0] == answers[1]
