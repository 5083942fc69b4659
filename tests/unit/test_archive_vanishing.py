"""Data files that are taken away between the check of their bytes and their being read: INCOMPLETE, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import archive_at, archived_topic
from ledgers import append
from samples import account_stream
from topic_memory import Sent

import replay.archive.appending
import replay.archive.exporting
import replay.archive.full_replay
from consumers.archiver import archive_store
from ledger import Store
from replay.archive.answers import balances_from_archive, graph_from_archive, history_from_archive
from replay.archive.checking import check
from replay.archive.compaction import compact
from replay.archive.exporting import export_from_archive
from replay.archive.files import Files
from schemas.errors import IncompleteError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with an archive of files whose accounts overlap, and an account that is not in it yet."""
    store = Store.at(tmp_path)
    for number in range(3):
        append(store, *account_stream(f"a{number}", 4), *account_stream(f"z{number}", 4))
        archive_store(archive_at(tmp_path), store)
    append(store, *account_stream("new", 4))
    yield store
    store.close()


def take_away(folder: Path) -> None:
    """Delete every data file, as a vacuum after a compaction may."""
    for file in (folder / "archive").glob("*.parquet"):
        file.unlink()


def vanishing(monkeypatch: pytest.MonkeyPatch, folder: Path, owner: Any, name: str, *, before: bool = False) -> None:
    """Let the data files go before or after a function is called."""
    called = getattr(owner, name)

    def took(*args: Any, **options: Any) -> Any:
        if before:
            take_away(folder)
        found = called(*args, **options)
        if not before:
            take_away(folder)
        return found

    monkeypatch.setattr(owner, name, took)


@pytest.mark.parametrize(
    "what",
    [
        lambda folder, _: balances_from_archive(archive_at(folder)),
        lambda folder, _: history_from_archive(archive_at(folder), "a1"),
        lambda folder, _: compact(archive_at(folder)),
        lambda folder, _: check(archive_at(folder)),
        lambda folder, _: export_from_archive(archive_at(folder), folder / "out.jsonl"),
        lambda folder, store: archive_store(archive_at(folder), store),
    ],
    ids=["balances", "history", "compact", "check", "export", "append"],
)
def test_files_that_vanish_after_their_check(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, what: Callable[[Path, Store], Any]
) -> None:
    """Whatever reads them says that the archive changed meanwhile, and never that it was used wrongly."""
    vanishing(monkeypatch, tmp_path, Files, "check")
    with pytest.raises(IncompleteError, match="cannot be read any more"):
        what(tmp_path, store)


@pytest.mark.parametrize(
    "what",
    [
        lambda folder: graph_from_archive(archive_at(folder), "a1-t2"),
        lambda folder: history_from_archive(archive_at(folder), "a1"),
    ],
    ids=["graph", "history"],
)
@pytest.mark.usefixtures("store")
def test_files_that_vanish_before_they_are_sliced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Callable[[Path], Any]
) -> None:
    """States that are folded anew, once the balances are there, are read under the same rule."""
    vanishing(monkeypatch, tmp_path, replay.archive.full_replay, "slices", before=True)
    with pytest.raises(IncompleteError, match="cannot be read any more"):
        what(tmp_path)


@pytest.mark.usefixtures("store")
def test_files_that_vanish_while_they_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is named and not the file that was to be written, of which nothing is left."""
    vanishing(monkeypatch, tmp_path, replay.archive.exporting, "slices", before=True)
    with pytest.raises(IncompleteError, match="cannot be read any more") as error:
        export_from_archive(archive_at(tmp_path), tmp_path / "out.jsonl")
    assert error.value.where == str(tmp_path / "archive")
    assert not list(tmp_path.glob("out*"))


def test_files_that_vanish_before_places_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of a topic that comes again is held against the one in the archive, which has to be readable too."""
    sent = [Sent(1, "a", 1), Sent(0, "b", 1)]
    archived_topic(archive_at(tmp_path), sent)
    vanishing(monkeypatch, tmp_path, replay.archive.appending, "_last")
    with pytest.raises(IncompleteError, match="cannot be read any more"):
        archived_topic(archive_at(tmp_path), [*sent, Sent(0, "a", 1)])
