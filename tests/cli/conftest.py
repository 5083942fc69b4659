"""A small ledger, and the command line run inside this process or as a process of its own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from console.main import main
from ledger import Ledger
from ledger.store import Store

NOW = "2026-05-01T00:00:00Z"
START = datetime(2026, 4, 1, tzinfo=UTC)
COMMAND = (sys.executable, "-m", "console.main")


@dataclass(frozen=True)
class Said:
    """What one run of the command line left."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; fails where there is anything else."""
        found: dict[str, Any] = msgspec.json.decode(self.out)
        return found


Run = Callable[..., Said]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Return a function that runs the command line in this process, in an empty folder."""
    for name in [name for name in os.environ if name.startswith("LEDGER_REPLAY_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def said(*words: object) -> Said:
        capfd.readouterr()
        status = main([str(word) for word in words])
        return Said(status, *capfd.readouterr())

    return said


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a ledger: alice paid 30 and got it back, bob has 20 frozen, carl has nothing but 100."""
    folder = tmp_path / "ledger-data"
    store = Store.at(folder)
    ledger = Ledger(store, clock=lambda: START)
    for name in ("alice", "bob", "carl"):
        ledger.open(name, effective_at=START)
        ledger.credit(name, f"{name}-1", 100, effective_at=START)
    ledger.debit("alice", "alice-2", 30, order_id="order-1", effective_at=START)
    ledger.reverse("alice", "alice-2", "alice-3", effective_at=START)
    ledger.freeze("bob", "bob-2", 20, effective_at=START)
    store.close()
    return folder


@contextmanager
def ledger_of(data: Path) -> Iterator[Ledger]:
    """Open the ledger of a folder to append to it."""
    store = Store.at(data)
    yield Ledger(store, clock=lambda: START)
    store.close()


def damage(data: Path, sql: str) -> None:
    """Change the database behind the ledger's back."""
    connection = sqlite3.connect(data / "ledger.db")
    with connection:
        connection.execute(sql)
    connection.close()


@pytest.fixture
def archived(run: Run, data: Path) -> Path:
    """The ledger with an archive of two data files: one of alice, bob and carl, one of zoe."""
    assert run("archive", "--data", data, "--now", NOW).status == 0
    with ledger_of(data) as ledger:
        ledger.open("zoe", effective_at=START)
        ledger.credit("zoe", "zoe-1", 5, related_transaction_id="zoe-0", effective_at=START)
    assert run("archive", "--data", data, "--now", NOW).status == 0
    return data


def as_process(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_REPLAY_")}
    root = str(Path(__file__).parents[2])
    environment = kept | {"PYTHONPATH": root, "COLUMNS": "100"}
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, check=False, env=environment, **more
    )
