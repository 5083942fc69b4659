"""The system's check of an SQLite file that is damaged in every way: named, judged, and never an exception."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import NOW, append
from samples import account_stream

from ledger import Store
from replay import rebuild
from replay.comparison.live_table import LiveTable
from replay.recovery.check import Places, SystemState, check_system
from replay.recovery.copy_parts import foreign_live, foreign_open, own_live
from schemas.errors import LedgerReplayError, StoreError

ACCOUNTS, EVENTS = 300, 12
PAGE = 4_096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a store with a few hundred pages and a live read model, closed and without a log beside it."""
    store = Store.at(tmp_path / "data")
    append(store, *(event for number in range(ACCOUNTS) for event in account_stream(f"a{number:03}", EVENTS)))
    rebuild(store, promote=True)
    store.close()
    found = tmp_path / "data" / "ledger.db"
    with sqlite3.connect(found) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return found


def check(file: Path) -> SystemState:
    """Open a store as the command line does, and check whatever comes of it."""
    store, error = None, None
    try:
        store = Store.at(file.parent, create=False)
    except LedgerReplayError as raised:
        error = raised
    places = Places(folder=file.parent, store_error=error, live=own_live)
    found = check_system(store, places=places, now=NOW)
    if store is not None:
        store.close()
    return found


def pages_of(file: Path, name: str) -> list[int]:
    """The root page of a table or index; SQLite counts from one."""
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchall()
    connection.close()
    return [page for (page,) in rows]


def overwrite(file: Path, page: int, content: bytes) -> None:
    """Write over the beginning of a page."""
    with file.open("r+b") as opened:
        opened.seek((page - 1) * PAGE)
        opened.write(content)


def no_database(file: Path) -> None:
    """Leave bytes that are no database."""
    file.write_bytes(b"these are no pages of a database" * 1_000)


def truncated(file: Path) -> None:
    """Cut the file in the middle."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2 // PAGE * PAGE)


def emptied(file: Path) -> None:
    """Leave a file with nothing in it."""
    file.write_bytes(b"")


def gone(file: Path) -> None:
    """Take the file away."""
    file.unlink()


def folder(file: Path) -> None:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()


def events_overwritten(file: Path) -> None:
    """Write over the root page of the events."""
    (page,) = pages_of(file, "stored_events")
    overwrite(file, page, b"\xff" * PAGE)


@pytest.mark.parametrize("damage", [no_database, truncated, emptied, gone, folder, events_overwritten])
def test_a_file_that_cannot_be_read_is_critical(file: Path, damage: Callable[[Path], None]) -> None:
    """Whatever happened to it, the store's part says so, and what hangs on it is unknown; nothing else can help."""
    damage(file)
    found = check(file)
    assert found.severity == "critical"
    assert found.part("store").state in ("lost", "unknown")
    assert found.part("store").words
    assert found.part("store").next_step
    assert [found.part(name).state for name in ("heads", "accounts", "live")] == ["unknown"] * 3


def test_a_page_of_events_that_was_written_over_is_found(file: Path) -> None:
    """Whether it can still be read in part or not, it is never whole."""
    page = file.read_bytes().index(b'"account_id":"a150"') // PAGE + 1
    overwrite(file, page, b"\x00" * 64)
    found = check(file)
    assert found.severity in ("major", "critical")
    assert found.part("store").state in ("degraded", "lost")
    assert "backup" in found.part("store").next_step


def test_a_server_that_does_not_answer_is_unknown(tmp_path: Path) -> None:
    """A database that cannot be reached may be whole; nobody knows, and nothing can be replayed until it answers."""
    with pytest.raises(StoreError) as raised:
        Store("postgresql://nobody@127.0.0.1:1/nothing")
    found = check_system(None, places=Places(folder=tmp_path, store_error=raised.value), now=NOW)
    assert (found.severity, found.part("store").state) == ("critical", "unknown")
    assert "127.0.0.1" in found.part("store").words


def test_one_byte_of_an_event_parks_its_account(file: Path) -> None:
    """A byte that flips within an event leaves the file in order for SQLite, and the chain names the account."""
    content = bytearray(file.read_bytes())
    content[content.index(b'"account_id":"a150"') + 15] ^= 1
    file.write_bytes(content)
    found = check(file)
    assert (found.severity, found.part("store").state) == ("major", "degraded")
    assert (found.loss.parked, found.loss.events_damaged) == (1, 1)
    assert found.part("accounts").details["named"] == ["a150"]


def test_an_index_that_is_damaged_is_no_lost_event(file: Path) -> None:
    """Every event reads, and SQLite's own check says what is wrong with the file: the store is not whole as it is."""
    (page,) = pages_of(file, "ledger_audit_account")
    overwrite(file, page, b"\xff" * 8)
    found = check(file)
    assert (found.severity, found.part("store").state) == ("major", "degraded")
    assert "the file is damaged" in found.part("store").words
    assert (found.loss.parked, found.loss.events_missing) == (0, 0)


def dropped(file: Path, table: str) -> None:
    """Drop a table behind the ledger's back."""
    with sqlite3.connect(file) as connection:
        connection.execute(f"DROP TABLE {table}")
    connection.close()


@pytest.mark.parametrize(("table", "lost"), [("stored_events", ACCOUNTS * EVENTS), ("ledger_heads", 0)])
def test_a_table_that_was_dropped_is_critical(file: Path, table: str, lost: int) -> None:
    """Opening makes an empty one in its place; heads without events, and events without heads, are nothing whole."""
    dropped(file, table)
    found = check(file)
    assert (found.severity, found.part("store").state) == ("critical", "lost")
    assert found.loss.events_missing == lost


def test_a_live_table_that_was_dropped_leaves_the_log_whole(file: Path) -> None:
    """Without rows of the read model every account is missing in live: that is minor."""
    dropped(file, "ledger_accounts")
    found = check(file)
    assert (found.severity, found.part("store").state) == ("minor", "ok")
    assert found.loss.drifted == ACCOUNTS
    assert found.loss.points_wrong == ACCOUNTS * (EVENTS - 1) * 10


def test_a_foreign_table_that_is_not_there_is_named(file: Path, tmp_path: Path) -> None:
    """A live table that cannot be reached is no reason to call the log lost, and what is wrong with it is said."""
    live = LiveTable(url=f"sqlite:///{tmp_path}/nowhere.db", table="accounts")
    store = Store.at(file.parent, create=False)
    places = Places(folder=tmp_path, live=foreign_live(live), live_open=foreign_open(live))
    found = check_system(store, places=places, now=NOW)
    store.close()
    assert (found.severity, found.part("live").state) == ("minor", "unknown")
    assert "no such SQLite file" in found.part("live").words
    without = check_system(None, places=places, now=NOW)
    assert "no such SQLite file" in without.part("live").words
