"""An import that is killed anywhere is finished by the same command: the end is that of an import that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from imports import row, streams_of, write_csv

from ledger import Store

ROWS = 4_000
KILLS = 15
#: One account group is far smaller than the file, so that an import is many transactions.
GROUP_ROWS = 250

PROGRAM = f"""
import sys
from datetime import UTC, datetime
from pathlib import Path
from ledger import Store
from ledger.importing import FileSource, import_transactions, staging
staging.GROUP_ROWS_MAX = {GROUP_ROWS}
folder, path = Path(sys.argv[1]), Path(sys.argv[2])
store = Store.at(folder)
print("began", flush=True)
now = datetime(2025, 1, 2, tzinfo=UTC)
found = import_transactions(store, FileSource(path), now=now, rejects=folder / "rejects.csv")
print(found.imported + found.unchanged, found.rejected, flush=True)
"""


def _file(tmp_path: Path, seed: int) -> Path:
    """Rows with holds that are settled later in the file, conflicts, and plain bad rows."""
    dice = random.Random(seed)
    rows = []
    for number in range(ROWS):
        account = f"a{int(200 * dice.random() ** 2)}"
        status = dice.choice(["completed", "completed", "frozen", "pending"])
        rows.append(row(number, account_id=account, amount=str(dice.randint(1, 99)), status=status))
        if dice.random() < 0.2:
            earlier = dice.choice(rows)
            rows.append(earlier | {"status": dice.choice(["completed", "cancelled"])})
        if dice.random() < 0.02:
            rows.append(dice.choice(rows) | {"account_id": "elsewhere"})
        if dice.random() < 0.02:
            rows.append(row(number, amount="none"))
    return write_csv(tmp_path / "t.csv", rows)


def _start(folder: Path, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(path)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )


def _finish(folder: Path, path: Path) -> tuple[str, float]:
    """Run an import to its end; return what it said and how long it took from where it began."""
    with _start(folder, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        began = time.monotonic()
        said = process.stdout.read()
        assert process.wait() == 0
    return said, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_import_is_finished_by_the_same_command(seed: int, tmp_path: Path):
    """After kills at random moments the streams, the counts and the rejects are those of an unbroken import."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    dice = random.Random(seed)
    path = _file(tmp_path, seed)
    said, took = _finish(tmp_path / "unbroken", path)
    killed_midway = 0
    for _ in range(KILLS):
        with _start(tmp_path / "broken", path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "began\n"
            time.sleep(dice.uniform(0, took))
            process.send_signal(signal.SIGKILL)
            killed_midway += process.wait() == -signal.SIGKILL
    assert killed_midway
    assert _finish(tmp_path / "broken", path)[0] == said
    unbroken, broken = Store.at(tmp_path / "unbroken"), Store.at(tmp_path / "broken")
    assert streams_of(broken) == streams_of(unbroken)
    assert (tmp_path / "broken" / "rejects.csv").read_bytes() == (tmp_path / "unbroken" / "rejects.csv").read_bytes()
    unbroken.close()
    broken.close()
