"""A live table of another system that is wrong, unreadable in part, or taken away and brought back under a watch."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from webhooks import until

from tests.cli.conftest import Run
from tests.cli.processes import asked, configure, running

RIGHT = [("alice", 100, 0, "active"), ("bob", 100, 20, "active"), ("carl", 100, 0, "active")]
PHRASE = "see the rejects that `drift --live` writes"


@pytest.fixture
def live(data: Path, tmp_path: Path) -> Callable[[str], None]:
    """What runs statements in the database of a live table, which the TOML file names."""

    def write(script: str) -> None:
        with closing(sqlite3.connect(tmp_path / "live.db")) as connection:
            connection.executescript(script)

    write("CREATE TABLE accounts (account_id TEXT PRIMARY KEY, balance INTEGER, frozen_amount INTEGER, status TEXT)")
    with closing(sqlite3.connect(tmp_path / "live.db")) as connection, connection:
        connection.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?)", RIGHT)
    configure(data, more=said(tmp_path))
    return write


def said(tmp_path: Path, more: str = "") -> str:
    """What the TOML file says of the live table."""
    table = f'[live]\nurl = "sqlite:///{tmp_path}/live.db"\ntable = "accounts"\nsettle_seconds = 0.1\n'
    return table + more


@pytest.mark.parametrize(
    ("away", "back", "named"),
    [
        (
            "ALTER TABLE accounts RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO accounts",
            "no such table",
        ),
        (
            "ALTER TABLE accounts RENAME COLUMN frozen_amount TO held",
            "ALTER TABLE accounts RENAME COLUMN held TO frozen_amount",
            "frozen_amount",
        ),
    ],
    ids=["table", "column"],
)
def test_a_table_that_is_swapped_is_waited_for(
    data: Path, live: Callable[[str], None], away: str, back: str, named: str
) -> None:
    """Read once and then gone, it is said, nobody is told to rely on it, and it goes on once the table is back."""
    with running("drift", "--watch", "--live", "--listen", "0", "--data", data, "--json") as process:
        address = process.wait_for("listening")["address"]
        process.wait_for("round finished")
        live(away)
        assert named in str(process.wait_for("does not answer", 2))
        assert asked(address, "/readyz")[0] == 503
        live(back)
        process.wait_for("goes on")
        until(lambda: asked(address, "/readyz")[0] == 200)
        assert process.end()[0] == 0


@pytest.mark.parametrize("words", [["--live"], ["--live", "--watch", "--rounds", "1"]])
def test_one_column_of_theirs_is_not_two_of_ours(
    run: Run, data: Path, tmp_path: Path, live: Callable[[str], None], words: list[str]
) -> None:
    """A mapping that takes two columns from one is bad usage that names both, and what to do."""
    configure(data, more=said(tmp_path, 'columns = { frozen_amount = "status" }\n'))
    answer = run("drift", *words, "--data", data)
    assert answer.status == 2
    for part in ("[live] columns", "'frozen_amount'", "'status'", "a column of its own"):
        assert part in answer.err


def test_a_watch_says_how_to_get_the_rejects(run: Run, data: Path, live: Callable[[str], None]) -> None:
    """It writes no file of rows that cannot be read: its answer and the findings name the command that does."""
    live("UPDATE accounts SET balance = 'many' WHERE account_id = 'bob'")
    watched = run("drift", "--live", "--watch", "--rounds", 1, "--data", data)
    assert watched.status == 3
    assert f"1 live row could not be read: {PHRASE}" in watched.out
    assert f"not compared: bob: its live row cannot be read, or it has several: {PHRASE}" in watched.out
    listed = run("drift", "--findings", "--data", data, "--json").document["findings"]
    assert [(each["account_id"], PHRASE in each["evidence"]) for each in listed] == [("bob", True)]
    once = run("drift", "--live", "--data", data, "--json").document
    assert "many" in Path(once["rejects"]).read_text()
