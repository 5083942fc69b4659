"""A rebuild or a projector that is killed anywhere is finished by the same command, and nothing half is ever seen."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from ledgers import NOW, account_rows, append
from samples import opened, recorded

from consumers import project
from ledger import Store, read_model
from replay import balances, digest, drift, generations, rebuild

ROOT = Path(__file__).parents[2]
ACCOUNTS = 120
EVENTS = 12_000
KILLS = 4


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a ledger with many events in a shuffled order of accounts, to be copied."""
    store = Store.at(tmp_path_factory.mktemp("ready"))
    chance = random.Random(20240301)
    versions: dict[str, int] = {}
    events = []
    for _ in range(EVENTS):
        account_id = f"account-{chance.randrange(ACCOUNTS)}"
        version = versions[account_id] = versions.get(account_id, 0) + 1
        kind = {
            "type": chance.choice(["credit", "credit", "debit"]),
            "to_status": chance.choice(["completed", "frozen"]),
        }
        events.append(
            opened(account_id) if version == 1 else recorded(account_id, version, chance.randrange(1, 99), **kind)
        )
    append(store, *events)
    store.close()
    return Path(str(store.url.database))


@pytest.fixture
def folder(tmp_path: Path, ready: Path) -> Path:
    """A folder with a copy of that ledger, and another in a folder `elsewhere` in it."""
    # Copied before anybody opens it: to close any handle of a SQLite file gives up the process's locks on it.
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(ready, tmp_path)
    shutil.copy(ready, tmp_path / "elsewhere")
    return tmp_path


def start(what: str, folder: Path) -> subprocess.Popen[str]:
    """Start a process that rebuilds or projects, and wait until it begins."""
    command = [sys.executable, "-m", "tests.recovery.rebuilder", what, f"sqlite:///{folder}/ledger.db", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    return process


def finish(what: str, folder: Path) -> tuple[list[str], float]:
    """Run to the end; return what was said and how long it took."""
    with start(what, folder) as process:
        began = time.monotonic()
        assert process.stdout is not None
        said = process.stdout.read().split()
        assert process.wait() == 0
    return said, time.monotonic() - began


def kill_after(what: str, folder: Path, seconds: float) -> bool:
    """Start, and kill after a while; return whether it was still running."""
    with start(what, folder) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def check_generations(store: Store) -> None:
    """Check that every generation that anybody can see is whole: its rows have the digest of its certificate."""
    for found in generations(store):
        assert found.certificate is not None
        rows = account_rows(store, found.generation)
        written = digest(rows.with_columns(available=pl.col("balance") - pl.col("frozen")))
        assert f'"digest":"{written}"' in found.certificate
    with store.snapshot() as connection:
        live = read_model.live(connection)
    assert live is None or live.generation in {found.generation for found in generations(store)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_rebuild_is_finished_by_the_same_command(folder, seed):
    """After kills at random moments the digest and the rows are those of an unbroken run, which went on, not anew."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    store = Store.at(folder)
    unbroken = balances(store, now=NOW)
    _, took = finish("rebuild", folder / "elsewhere")
    kills, resumed = 0, []
    for _ in range(KILLS):
        kills += kill_after("rebuild", folder, chance.uniform(0.1, 0.9) * took)
        check_generations(store)
        found = [path.name for path in folder.glob("*.checkpoint")]
        resumed.append(bool(found))
        if not found:
            continue
        said, _ = finish("rebuild", folder)
        assert said[0] == unbroken.certificate.digest
        assert said[1] != "None"
        check_generations(store)
    said, _ = finish("rebuild", folder)
    assert said[0] == unbroken.certificate.digest
    assert kills
    assert any(resumed)
    assert not list(folder.glob("*.checkpoint"))
    fresh = rebuild(store, now=NOW)
    assert account_rows(store).equals(account_rows(store, fresh.generation))
    assert drift(store).verdict == "EQUAL"
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_projector_goes_on_where_it_was(folder, seed):
    """Killed in the middle, rows and position agree, and the next run applies what is left, every event once."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    store = Store.at(folder)
    _, took = finish("project", folder / "elsewhere")
    reached = []
    for _ in range(KILLS):
        kill_after("project", folder, chance.uniform(0.05, 0.4) * took)
        with store.snapshot() as connection:
            live = read_model.live(connection)
        if live is None:
            continue
        reached.append(live.position)
        compared = drift(store)
        assert (compared.verdict, compared.certificate.position) == ("EQUAL", live.position)
    assert reached == sorted(reached)
    assert any(0 < position < EVENTS for position in reached)
    assert project(store).verdict == "COMPLETE"
    fresh = rebuild(store, now=NOW)
    assert account_rows(store).equals(account_rows(store, fresh.generation))
    store.close()
