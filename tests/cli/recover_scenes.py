"""A small ledger with damaged live rows, and the commands of a recovery of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text

from tests.cli.conftest import NOW, Run, Said

__all__ = ["approved_plan", "bytes_of", "damaged_rows", "foreign_table", "import_damaged", "recover", "rows_of"]

#: What is right, and what live has: alice lost points, bob has more than the log explains, carl has no row.
RIGHT = {"alice": (100, 0), "bob": (100, 20), "carl": (100, 0)}
DAMAGED = {"alice": (70, 0), "bob": (113, 20)}


def recover(run: Run, data: Path, *words: object, now: str = NOW) -> Said:
    """Run a command of `recover`."""
    return run("recover", *words, "--data", data, "--now", now)


def damaged_rows() -> str:
    """The damaged live rows as CSV."""
    rows = [f"{name},{balance},{frozen},active,\n" for name, (balance, frozen) in DAMAGED.items()]
    return "".join(["account_id,balance,frozen_amount,status,locked_at\n", *rows])


def import_damaged(run: Run, data: Path, folder: Path) -> None:
    """Import the damaged live rows."""
    (folder / "accounts.csv").write_text(damaged_rows(), encoding="utf-8")
    assert run("import", "accounts", folder / "accounts.csv", "--data", data, "--now", NOW).status == 0


def approved_plan(run: Run, data: Path, folder: Path, *words: object) -> Path:
    """Make a plan and have it approved."""
    plan = folder / "plan.json"
    assert recover(run, data, "plan", "--output", plan, "--by", "ada", *words).status in (1, 3)
    said = recover(run, data, "approve", plan, "--reason", "seen", "--by", "eve")
    assert said.status == 0, said.err
    return plan


def rows_of(database: Path, table: str = "imported_accounts") -> dict[str, tuple[int, int]]:
    """The rows of a live table: balance and frozen, by account."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(f"SELECT account_id, balance, frozen_amount FROM {table}").fetchall()
    return {name: (balance, frozen) for name, balance, frozen in found}


def bytes_of(folder: Path) -> dict[str, Any]:
    """Everything in a folder: each file with its bytes, of a database all of its rows."""
    found: dict[str, Any] = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                found[str(path)] = list(connection.iterdump())
        elif not path.name.endswith(("-wal", "-shm")):
            found[str(path)] = path.read_bytes()
    return found


def foreign_table(url: str) -> Engine:
    """Make a damaged live table with names and words of its own; the caller disposes of the engine."""
    engine = create_engine(url)
    with engine.begin() as connection:
        columns = "owner VARCHAR(40) PRIMARY KEY, coins BIGINT, held BIGINT, state VARCHAR(9)"
        connection.execute(text(f"CREATE TABLE wallets ({columns})"))
        rows = [{"owner": name, "coins": row[0], "held": row[1], "state": "OPEN"} for name, row in DAMAGED.items()]
        connection.execute(text("INSERT INTO wallets VALUES (:owner, :coins, :held, :state)"), rows)
    return engine
