"""A recovery where the ledger, or the live table, is in PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from ledger import Ledger
from ledger.store import Store
from replay.recovery.failpoints import set_failpoints
from schemas.errors import StoreError
from tests.cli.conftest import NOW, START, Run
from tests.cli.recover_scenes import RIGHT, approved_plan, damaged_rows, foreign_table, recover

pytestmark = pytest.mark.postgres

WORD = "se-cret-word"


def test_imported_rows_in_postgres(run: Run, tmp_path: Path, postgres_url: str) -> None:
    """All of it in one database: a run that failed half way is resumed, its report is what the trail says."""
    with closing(Store(postgres_url)) as store:
        ledger = Ledger(store, clock=lambda: START)
        for name, (balance, frozen) in RIGHT.items():
            ledger.open(name, effective_at=START)
            ledger.credit(name, f"{name}-1", balance, effective_at=START)
            if frozen:
                ledger.freeze(name, f"{name}-2", frozen, effective_at=START)
        ledger.lock("carl", effective_at=START + timedelta(days=1))
    (tmp_path / "accounts.csv").write_text(damaged_rows())
    data, words = tmp_path / "data", ("--store", postgres_url)
    assert run("import", "accounts", tmp_path / "accounts.csv", *words, "--data", data, "--now", NOW).status == 0
    plan = tmp_path / "plan.json"
    assert recover(run, data, "plan", "--output", plan, *words).status == 1
    assert recover(run, data, "decide", plan, "--all", "--accept", "--reason", "r", *words).status == 0
    assert recover(run, data, "approve", plan, "--reason", "seen", *words).status == 0

    def reached(name: str) -> None:
        if name == "batch:written":
            set_failpoints(None)
            raise StoreError("the database went away", where="live", next_step="bring it back")

    set_failpoints(reached)
    assert recover(run, data, "apply", plan, "--execute", "--yes", *words).status == 5
    said = recover(run, data, "resume", "--yes", "--json", *words)
    assert (said.status, said.document["outcomes"]["corrected"], said.document["unlocked"]) == (0, 3, 1), said.out
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT account_id, balance, frozen_amount, status FROM imported_accounts")
        ).all()
    engine.dispose()
    assert {row[0]: (row[1], row[2]) for row in rows} == RIGHT
    assert {row[3] for row in rows} == {"active"}
    for file in said.document["report"]:
        assert recover(run, data, "report", "verify", file, *words).status == 0
    audit = run("audit", "verify", "--data", data, "--json", *words)
    assert (audit.status, audit.document["runs"], len(audit.document["reports"])) == (0, [], 1), audit.out


def test_a_live_table_in_postgres_with_a_password(run: Run, data: Path, tmp_path: Path, postgres_url: str) -> None:
    """The plan has no password; the options of `apply` or the TOML file say it, and it is in no file of the run."""
    url = make_url(postgres_url)
    secret = url.set(password=WORD).render_as_string(hide_password=False)
    engine = foreign_table(postgres_url)
    (data / "ledger-replay.toml").write_text(
        f'[live]\nurl = "{secret}"\ntable = "wallets"\nsettle_seconds = 0\nlooks_min = 1\n'
        'columns = { account_id = "owner", balance = "coins", frozen_amount = "held", status = "state" }\n'
        'statuses = { OPEN = "active" }\n'
    )
    plan = approved_plan(run, data, tmp_path, "--live")
    said = recover(run, data, "apply", plan, "--execute", "--yes", "--json")
    assert (said.status, said.document["outcomes"]["corrected"]) == (1, 2), said.err
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT owner, coins, held FROM wallets")).all()
    engine.dispose()
    assert {row[0]: (row[1], row[2]) for row in rows} == {**RIGHT, "bob": (113, 20)}
    for path in [plan, *data.rglob("*.*")]:
        if path.suffix != ".toml" and path.is_file():
            assert WORD.encode() not in path.read_bytes(), path
