"""Writers of the audit trail that are killed anywhere: the chain is whole, and the file outside is at most behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from audit_trails import AT, entry, heads_of, record, rows_of, verified
from databases import OnPostgres, OnSqlite

from ledger import Store
from ledger.audit_heads import HeadFile, keep

#: Seconds within which a writer is killed, many times those of a turn.
WITHIN_SECONDS = 0.1
ROUNDS = 3


def _start(url: str, path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.recovery.audit_writer", url, str(path), name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


class AuditKilled:
    """Subclasses give `url`."""

    def test_writers_that_are_killed_leave_a_chain_and_a_file_that_is_behind(self, url: str, tmp_path: Path) -> None:
        """Two writers at once, killed at any moment again and again: no fork, no head outside that is not inside."""
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        dice = random.Random(seed)
        with closing(Store(url)) as store:
            file = HeadFile(tmp_path / "heads.jsonl", store.ledger_id)
            for turn in range(ROUNDS):
                self._write_and_kill(url, file.path, turn, dice)
                known = file.heads()
                found = verified(store, known)
                assert found.first_bad is None
                assert 0 < len(set(known)) <= found.entries
            record(store, entry(0))
            keep(store, [file], AT)
            assert set(file.heads()) == set(heads_of(rows_of(store)))

    @staticmethod
    def _write_and_kill(url: str, path: Path, turn: int, dice: random.Random) -> None:
        with _start(url, path, f"one {turn}") as one, _start(url, path, f"two {turn}") as two:
            for each in (one, two):
                assert each.stdout is not None
                assert each.stdout.readline() == "done\n"
            for each in dice.sample((one, two), 2):
                time.sleep(dice.uniform(0, WITHIN_SECONDS))
                each.send_signal(signal.SIGKILL)
                assert each.wait() == -signal.SIGKILL


class TestOnSqlite(AuditKilled, OnSqlite):
    """SQLite."""


class TestOnPostgres(AuditKilled, OnPostgres):
    """PostgreSQL."""
