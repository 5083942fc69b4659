"""An archiver or a compaction killed anywhere is finished by the same command, with every event exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import Said, archive_at, check_exactly_once, said, said_by_store
from ledgers import append, lose_event, positions
from samples import account_stream
from topic_cases import history

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.compaction import compact
from schemas.errors import IncompleteError, UsageError

ROOT = Path(__file__).parents[2]
EVENTS = 2_000
KILLS = 6
#: Times the kills, a hundred in all.
SEEDS = 17


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ledger of many events, one account of which lost its end."""
    store = Store.at(tmp_path)
    append(store, *history(100, EVENTS))
    lose_event(store, "account-7", max(positions(store, "account-7")))
    yield store
    store.close()


def start(store: Store, folder: Path, chance: random.Random) -> subprocess.Popen[str]:
    """Start a process that archives and compacts, and wait until it begins."""
    arguments = [f"sqlite:///{store.url.database}", str(folder), str(chance.randrange(20, 80)), "500"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.recovery.archive_runner", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    return process


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Return what a process says until its end."""
    with process:
        assert process.stdout is not None
        said_by_it = process.stdout.read().split()
        assert process.wait() == 0
    return said_by_it


def check_meanwhile(folder: Path, truth: Said) -> bool:
    """Check that what a kill left is nothing, or said to be unfinished, or right; return whether it is of use."""
    found = archive_at(folder).snapshot()
    if found is not None and found.state is not None:
        check_exactly_once(archive_at(folder))
    try:
        answer = said(archive_at(folder))
    except UsageError:
        return False
    except IncompleteError as error:
        assert "did not come to its end" in str(error)  # noqa: PT017 - it may just as well have come to it.
        return False
    # Of a run before this one, so of fewer accounts; or of this one.
    assert answer.rows.items() <= truth.rows.items()
    assert answer.parked == truth.parked
    return True


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_killed_archiver_is_finished_by_the_same_command(tmp_path, store, seed):
    """After kills at random moments of appending and compacting, the next run makes the archive what the store is."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    unbroken = start(store, tmp_path / "unbroken", chance)
    began = time.monotonic()
    assert finish(unbroken) == ["archived", "compacted"]
    took = time.monotonic() - began
    kills = 0
    for number in range(KILLS):
        # Something to do for each run, whether the one before it was finished or not.
        append(store, *(event for some in range(100) for event in account_stream(f"new-{number}-{some}", 5)))
        truth = said_by_store(store)
        with start(store, tmp_path, chance) as process:
            time.sleep(chance.uniform(0, 0.8) * took * (1 if number == 0 else 0.4))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        check_meanwhile(tmp_path, truth)
        if chance.random() < 0.5:
            # The next kill hits a run that goes on.
            continue
        if chance.random() < 0.5:
            assert finish(start(store, tmp_path, chance)) == ["archived", "compacted"]
        else:
            archive_store(archive_at(tmp_path), store)
        assert said(archive_at(tmp_path)) == truth
        check_exactly_once(archive_at(tmp_path))
    assert kills
    archive_store(archive_at(tmp_path), store)
    truth = said_by_store(store)
    assert truth.parked == ["account-7"]
    assert said(archive_at(tmp_path)) == truth
    compact(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == truth
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_archivers_of_which_one_is_killed(tmp_path, store, seed):
    """While one process is killed another goes on or is told, and what is there afterwards is there once."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    for number in range(3):
        first, second = start(store, tmp_path, chance), start(store, tmp_path, chance)
        time.sleep(chance.uniform(0, 0.5))
        first.kill()
        for process in (first, second):
            with process:
                process.wait()
        truth = said_by_store(store)
        check_meanwhile(tmp_path, truth)
        archive_store(archive_at(tmp_path), store)
        assert said(archive_at(tmp_path)) == truth
        check_exactly_once(archive_at(tmp_path))
        events = [event for some in range(100) for event in account_stream(f"new-{number}-{some}", 5)]
        append(store, *events)
