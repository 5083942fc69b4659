"""Damage done to an archive behind its back: named, and never a different number."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from archives import Said, archive_at, check_exactly_once, commits_of, said, said_by_store
from ledgers import append
from samples import account_stream
from topic_cases import history

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive
from replay.archive.schema import ARCHIVE_SCHEMA, CODED
from schemas.errors import IncompleteError, LedgerReplayError

EVENTS = 400
ACCOUNTS = 20


class Ready(NamedTuple):
    """A folder with a store and its archive of some files that overlap, some sorted, and what the store says."""

    folder: Path
    truth: Said


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """An archive of several commits, one compaction and a commit after it."""
    folder = tmp_path_factory.mktemp("ready")
    store = Store.at(folder)
    append(store, *history(ACCOUNTS, EVENTS))
    with commits_of(120):
        archive_store(archive_at(folder), store)
    compact(archive_at(folder), file_events=100)
    append(store, *account_stream("account-10-later", 30), *account_stream("account-4-later", 30))
    archive_store(archive_at(folder), store)
    truth = said_by_store(store)
    assert said(archive_at(folder)) == truth
    store.close()
    return Ready(folder, truth)


@pytest.fixture
def folder(tmp_path: Path, ready: Ready) -> Path:
    """A copy of it."""
    shutil.copytree(ready.folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    """The store of the copy."""
    store = Store.at(folder, create=False)
    yield store
    store.close()


def data_files(folder: Path) -> list[Path]:
    """The data files that belong to the archive."""
    return [folder / "archive" / file.name for file in archive_at(folder).snapshot().files]


def log_file(folder: Path, back: int = 0) -> Path:
    """The newest file of the table's log, or one before it."""
    return sorted((folder / "archive" / "_delta_log").glob("*.json"))[-1 - back]


def check_named(folder: Path, truth: Said, *damaged: Path) -> None:
    """Check that a replay names the files, and gives right rows of exactly the accounts that cannot be in them."""
    ranges = {file.name: (file.first_account, file.last_account) for file in archive_at(folder).snapshot().files}
    with replayed_archive(archive_at(folder)) as found:
        assert found.verdict == "INCOMPLETE"
        assert {each.file for each in found.certificate.damaged} == {path.name for path in damaged}
        hurt = [ranges[path.name] for path in damaged]
        expected = {
            account_id: row
            for account_id, row in truth.rows.items()
            if not any(first <= account_id <= last for first, last in hurt)
        }
        assert {row["account_id"]: row for row in found.rows.to_dicts()} == expected


@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_bit_in_any_data_file(folder, ready, seed):
    """Wherever in whichever file it is, the file is named, its accounts are withheld, and all other rows are right."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    paths = data_files(folder)
    assert len(paths) > 3
    for path in paths:
        content = path.read_bytes()
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        check_named(folder, ready.truth, path)
        path.write_bytes(content)
    assert said(archive_at(folder)) == ready.truth


@pytest.mark.parametrize("what", ["missing", "empty", "cut", "longer", "another's", "other rows"])
def test_a_data_file_that_is_not_what_was_written(folder, ready, what):
    """A file that is gone, has another length or other content, valid Parquet or not, is named."""
    paths = data_files(folder)
    path, other = paths[0], paths[-1]
    if what == "missing":
        path.unlink()
    elif what == "other rows":
        rows = pl.read_parquet(path).with_columns(pl.col("amount") + 1)
        rows.write_parquet(path, compression="zstd", compression_level=1)
        assert pl.read_parquet(path).schema == {**ARCHIVE_SCHEMA, **CODED}
    else:
        content = path.read_bytes()
        new = {"empty": b"", "cut": content[:-9], "longer": content + b"\0", "another's": other.read_bytes()}
        path.write_bytes(new[what])
    check_named(folder, ready.truth, path)


def test_no_file_is_whole(folder, ready):
    """Of an archive with nothing but damaged files no row is given."""
    paths = data_files(folder)
    for path in paths:
        path.write_bytes(path.read_bytes()[::-1])
    check_named(folder, ready.truth, *paths)


@pytest.mark.parametrize("at", [1, 100, EVENTS])
def test_damage_at_a_position(folder, store, at):
    """At an earlier position the rows that are given are those of then, and the file is named."""
    path = data_files(folder)[0]
    path.unlink()
    answer, truth = said(archive_at(folder), at=at), said_by_store(store, at)
    assert answer.verdict == "INCOMPLETE"
    assert answer.rows.items() <= truth.rows.items()


@pytest.mark.parametrize("what", [archive_store, compact])
def test_nothing_is_written_to_a_damaged_archive(folder, ready, store, what):
    """Archiver and compaction name the damaged file and leave everything as it is."""
    path = data_files(folder)[0]
    content = path.read_bytes()
    path.write_bytes(content[:50] + bytes([content[50] ^ 4]) + content[51:])
    append(store, *account_stream("more", 4))
    names = sorted(found.name for found in (folder / "archive").rglob("*"))
    with pytest.raises(IncompleteError, match=path.name):
        what(archive_at(folder), *([store] if what is archive_store else []))
    assert sorted(found.name for found in (folder / "archive").rglob("*")) == names
    path.write_bytes(content)
    assert said(archive_at(folder)) == ready.truth


@pytest.mark.parametrize(
    ("what", "back"),
    [*((what, back) for what in ("lost", "cut", "garbage") for back in (0, 1, 2, 3, 5)), ("empty", 0), ("empty", 1)],
)
def test_a_damaged_log_file_is_named(folder, store, what, back):
    """A log file that is lost, empty, short or no log at all stops every replay and every writer with one line."""
    path = log_file(folder, back)
    new = {"empty": b"", "cut": path.read_bytes()[:-40], "garbage": b"\xff{"}
    path.unlink() if what == "lost" else path.write_bytes(new[what])
    names = sorted(found.name for found in (folder / "archive").rglob("*"))
    for ask in (lambda: said(archive_at(folder)), lambda: archive_store(archive_at(folder), store)):
        with pytest.raises(IncompleteError, match="log of the archive") as raised:
            ask()
        assert "\n" not in str(raised.value)
        # What a library says is there in a few words, not as it prints itself.
        assert len(raised.value.what) < 150
        assert "ParsedLogPath" not in str(raised.value)
        assert raised.value.where == str(folder / "archive")
        assert "from a copy" in raised.value.next_step
    assert sorted(found.name for found in (folder / "archive").rglob("*")) == names


def test_an_older_log_file_that_was_emptied(folder, ready):
    """What is left is named, or is the whole truth where nothing of that entry is part of the archive any more."""
    outcomes = set()
    for back in range(2, 7):
        path = log_file(folder, back)
        content = path.read_bytes()
        path.write_bytes(b"")
        try:
            assert said(archive_at(folder)) == ready.truth
            outcomes.add("right")
        except IncompleteError:
            outcomes.add("named")
        path.write_bytes(content)
    assert outcomes == {"right", "named"}


def test_a_lost_archive_is_not_begun_again(folder, store):
    """Where an archive was and is no more, nothing is taken for an empty one, neither is another in its place."""
    shutil.rmtree(folder / "archive")
    for ask in (lambda: said(archive_at(folder)), lambda: archive_store(archive_at(folder), store)):
        with pytest.raises(IncompleteError, match="is gone"):
            ask()
    other = Store.at(folder / "other")
    archive_store(archive_at(folder / "other"), other)
    shutil.copytree(folder / "other" / "archive", folder / "archive")
    with pytest.raises(IncompleteError, match="another table"):
        said(archive_at(folder))
    other.close()


def info(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The information of a commit."""
    return next(row["commitInfo"] for row in rows if "commitInfo" in row)


def change_state(**fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    """Return what changes fields of our state in a commit."""

    def change(rows: list[dict[str, Any]]) -> None:
        state = json.loads(info(rows)["ledgerReplay"])
        assert state.keys() >= fields.keys()
        info(rows)["ledgerReplay"] = json.dumps(state | fields)

    return change


def change_add(**fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    """Return what changes fields of an added file in a commit."""
    return lambda rows: next(row["add"] for row in rows if "add" in row).update(fields)


def change_stats(change: Callable[[dict[str, Any]], None]) -> Callable[[list[dict[str, Any]]], None]:
    """Return what changes the statistics of an added file."""

    def do(rows: list[dict[str, Any]]) -> None:
        add = next(row["add"] for row in rows if "add" in row)
        stats = json.loads(add["stats"])
        change(stats)
        add["stats"] = json.dumps(stats)

    return do


def leave_out(kind: str) -> Callable[[list[dict[str, Any]]], None]:
    """Return what removes the entries of a kind from a commit."""

    def do(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if kind not in row]

    return do


def garble(value: Any) -> Callable[[list[dict[str, Any]]], None]:
    """Return what writes something else over our state."""
    return lambda rows: info(rows).update(ledgerReplay=value)


EDITS = {
    "path": change_add(path="0" * 40 + ".parquet"),
    "size": change_add(size=17),
    "size of no number": change_add(size="x"),
    "no statistics": lambda rows: next(row["add"] for row in rows if "add" in row).pop("stats"),
    "broken statistics": change_add(stats="{"),
    "events of a file": change_stats(lambda stats: stats.update(numRecords=1)),
    "first account": change_stats(lambda stats: stats["minValues"].update(account_id="account-5")),
    "last account": change_stats(lambda stats: stats["maxValues"].update(account_id="account-10-later")),
    "largest amount": change_stats(lambda stats: stats["maxValues"].update(amount=1)),
    "no bounds": change_stats(lambda stats: stats.pop("minValues")),
    "bounds of other columns": change_stats(lambda stats: stats.update(minValues={}, maxValues={})),
    "no file": leave_out("add"),
    "no information": leave_out("commitInfo"),
    "position": change_state(position=3),
    "position ahead": change_state(position=10_000),
    "watermark": change_state(watermark="2030-01-01T00:00:00Z"),
    "parked": change_state(parked=[{"account_id": "account-1", "version": 1, "reason": "version_gap"}]),
    "concluded": change_state(concluded=False),
    "commits": change_state(commits=99),
    "source": change_state(source_id="another"),
    "state cut": garble('{"commits":'),
    "state of no text": garble(5),
    "state of a wrong type": garble('{"commits":"many"}'),
    "state gone": lambda rows: info(rows).pop("ledgerReplay"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_changed_log_entry_is_named(folder, store, what):
    """A log that says something else of a file or of the archive is not read, whatever it says."""
    path = log_file(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    EDITS[what](rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert text != path.read_text()
    path.write_text(text)
    for ask in (lambda: said(archive_at(folder)), lambda: archive_store(archive_at(folder), store)):
        with pytest.raises(IncompleteError, match="log of the archive"):
            ask()


@pytest.mark.parametrize("what", ["changed", "removed"])
def test_the_transactions_of_the_log_are_for_others(folder, ready, store, what):
    """Application transactions that are changed or lost mislead nobody here: our state says where the archive is."""
    path = log_file(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if what == "removed":
        leave_out("txn")(rows)
    for row in rows:
        if "txn" in row:
            row["txn"]["version"] = 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert said(archive_at(folder)) == ready.truth
    append(store, *account_stream("more", 4))
    assert archive_store(archive_at(folder), store).appended == 4
    check_exactly_once(archive_at(folder))
    assert said(archive_at(folder)) == said_by_store(store)


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"[]", b'{"table_id":1,"version":2}'])
def test_an_unreadable_memory_of_the_version_is_named(folder, store, content):
    """The file beside the archive that cannot be read is named, with what to do."""
    (folder / "archive.json").write_bytes(content)
    for ask in (lambda: said(archive_at(folder)), lambda: archive_store(archive_at(folder), store)):
        with pytest.raises(LedgerReplayError, match=r"archive\.json"):
            ask()


def test_a_table_that_another_program_changed_is_named(folder):
    """A program that rewrites the files of the table, as Delta Lake lets it, is noticed."""
    from deltalake import DeltaTable

    table = DeltaTable(str(folder / "archive"))
    table.delete("version = 3")
    with pytest.raises(IncompleteError, match="not what was committed"):
        said(archive_at(folder))
