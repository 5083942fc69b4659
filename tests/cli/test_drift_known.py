"""Drift that is known already in a table of another system: what changes of it is seen, and it stays DRIFT."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from webhooks import until

from tests.cli.conftest import Run
from tests.cli.processes import configure, running

WATCH = ("drift", "--live", "--watch", "--rounds", 1, "--json")


@pytest.fixture
def change(run: Run, data: Path, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Changes a foreign live table, in which carl has 99 where the log says 100, by a statement."""
    connection = sqlite3.connect(tmp_path / "live.db")
    with connection:
        connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY, balance INT, frozen_amount INT, status TEXT)")
        rows = [("alice", 100, 0), ("bob", 100, 20), ("carl", 99, 0)]
        connection.executemany("INSERT INTO points VALUES (?, ?, ?, 'active')", rows)
    live = f'url = "sqlite:///{tmp_path}/live.db"\ntable = "points"\ncolumns = {{ account_id = "id" }}\n'
    configure(data, more=f"[live]\n{live}settle_seconds = 0.3\n")

    def changed(statement: str) -> None:
        with connection:
            connection.execute(statement)

    yield changed
    connection.close()


def test_each_watch_says_that_it_is_drift(run: Run, data: Path, change: Callable[[str], None]) -> None:
    """A watch that begins with known drift looks at it itself: DRIFT again, with what live has by now."""
    said = [run(*WATCH, "--data", data) for _ in range(2)]
    assert [(each.status, each.document["verdict"]) for each in said] == [(1, "DRIFT")] * 2
    change("UPDATE points SET balance = 97 WHERE id = 'carl'")
    found = run(*WATCH, "--data", data)
    assert (found.status, found.document["verdict"]) == (1, "DRIFT")
    assert [(each["account_id"], each["live"]) for each in found.document["accounts"]] == [("carl", 97)]
    change("DELETE FROM points WHERE id = 'carl'")
    found = run(*WATCH, "--data", data)
    assert {(each["account_id"], each["class"], each["live"]) for each in found.document["accounts"]} == {
        ("carl", "row_missing", None)
    }


def test_a_running_watch_sees_what_becomes_of_it(run: Run, data: Path, change: Callable[[str], None]) -> None:
    """While it runs, another difference of a known account is looked at until it holds still, and is then told."""

    def live_now() -> list[str | int | None]:
        found = run("drift", "--findings", "--data", data, "--json").document["findings"]
        return [each["live"] for each in found if each["field"] == "balance"]

    with running("watch", "--data", data, "--json") as process:
        process.wait_for("drift found")
        until(lambda: [str(each) for each in live_now()] == ["99"])
        change("UPDATE points SET balance = 97 WHERE id = 'carl'")
        until(lambda: [str(each) for each in live_now()] == ["97"])
        change("UPDATE points SET balance = 100 WHERE id = 'carl'")
        process.wait_for("healed")
        assert process.end()[0] == 0
