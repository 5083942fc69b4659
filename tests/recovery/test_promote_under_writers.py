"""A rebuild is promoted while others append at full speed, and nothing that is live is stale."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from databases import OnPostgres, OnSqlite
from ledgers import NOW, account_rows, append
from samples import account_stream

from consumers import project
from ledger import Store, read_model
from replay import balances, drift, rebuild
from schemas.errors import PositionMoved

ROOT = Path(__file__).parents[2]
ACCOUNTS = [f"account-{number}" for number in range(20)]
ROUNDS_MAX = 8


@contextmanager
def writers(url: str, count: int = 2) -> Iterator[None]:
    """Processes that credit accounts as fast as they can, from before the block begins until it ends."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.contract.writer", url]
    processes = [
        subprocess.Popen(
            [*command, f"writer-{number}", "1000000", *ACCOUNTS], stdout=subprocess.PIPE, cwd=ROOT, env=environment
        )
        for number in range(count)
    ]
    outputs = [process.stdout for process in processes if process.stdout is not None]
    with ThreadPoolExecutor(count) as pool:
        try:
            for output in outputs:
                assert output.readline() == b"0\n"
            # What they say is read away, so that they never wait for us.
            for output in outputs:
                pool.submit(output.read)
            yield
            assert [process.poll() for process in processes] == [None] * count
        finally:
            for process in processes:
                process.kill()
                process.wait()
    for output in outputs:
        output.close()


def live_of(store: Store) -> read_model.Generation:
    """The live generation."""
    with store.snapshot() as connection:
        live = read_model.live(connection)
    assert live is not None
    return live


def is_fresh(store: Store) -> bool:
    """Whether the live rows are what a replay says at their position."""
    live, position = account_rows(store), live_of(store).position
    fresh = balances(store, at=position, now=NOW)
    assert fresh.verdict == "COMPLETE"
    names = [name for name in live.columns if name in fresh.rows.columns]
    return live.select(names).equals(fresh.rows.select(names))


class PromoteContract:
    def test_what_is_promoted_is_a_fresh_replay_at_its_position(self, store, url):
        """With two writers going on, each promoted generation has every event up to the moment it went live."""
        append(store, *(event for account_id in ACCOUNTS for event in account_stream(account_id, 30)))
        caught_up, positions = 0, []
        with writers(url):
            for _ in range(ROUNDS_MAX):
                built = rebuild(store, promote=True, now=NOW)
                assert (built.verdict, built.promoted) == ("COMPLETE", True)
                live = live_of(store)
                assert live.generation == built.generation
                assert is_fresh(store)
                caught_up += live.position > built.certificate.position
                positions.append(live.position)
                if caught_up and len(positions) > 2:
                    break
        assert caught_up
        assert positions == sorted(set(positions))
        assert project(store).verdict == "COMPLETE"
        with store.snapshot() as connection:
            assert live_of(store).position == store.head(connection)
        assert is_fresh(store)
        assert drift(store).verdict == "EQUAL"

    def test_a_projector_goes_on_through_a_promote(self, store, url):
        """A projector that follows while generations change under it loses nothing and applies nothing twice."""
        append(store, *(event for account_id in ACCOUNTS for event in account_stream(account_id, 10)))
        done = Event()

        def follow() -> None:
            while not done.is_set():
                try:
                    project(store, follow=True, should_stop=done.is_set, poll_seconds=0.01, batch_events=20)
                except PositionMoved:
                    continue

        with ThreadPoolExecutor(1) as pool, writers(url):
            following = pool.submit(follow)
            try:
                for _ in range(3):
                    assert rebuild(store, promote=True, now=NOW).promoted
                    assert drift(store).verdict == "EQUAL"
            finally:
                done.set()
            following.result()
        assert project(store).verdict == "COMPLETE"
        assert is_fresh(store)


class TestSqlitePromote(OnSqlite, PromoteContract):
    pass


@pytest.mark.postgres
class TestPostgresPromote(OnPostgres, PromoteContract):
    pass
