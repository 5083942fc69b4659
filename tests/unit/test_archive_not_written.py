"""A commit that fails: only where the archive moved on it says so, else what the matter is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from archives import archive_at, check_exactly_once, said, said_by_store
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from ledgers import append
from obstore.exceptions import GenericError
from samples import account_stream

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.compaction import compact
from schemas.errors import ArchiveError, PositionMoved

CAUSES = [
    (
        OSError("Generic LocalFileSystem error\n \x1b[31m↳\x1b[0m Unable to copy\n ↳ No space left on device"),
        "No space",
    ),
    (CommitFailedError("Transaction failed: the disk says no"), "the disk says no"),
    (DeltaError("Kernel error: something else\nand very much of it"), "something else"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of one account."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5))
    yield store
    store.close()


@pytest.mark.parametrize("reason", CAUSES)
@pytest.mark.parametrize("name", ["create", "create_write_transaction"])
def test_a_commit_that_cannot_be_written(tmp_path, store, monkeypatch, name, reason):
    """The cause is named in one line, nobody is said to have been faster, and the next run makes it good."""
    if name == "create_write_transaction":
        archive_store(archive_at(tmp_path), store)
        append(store, *account_stream("b", 5))

    error, named = reason

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, name, fails)
        with pytest.raises(ArchiveError) as raised:
            archive_store(archive_at(tmp_path), store)
    assert named in raised.value.what
    assert "\n" not in str(raised.value)
    assert "very much" not in str(raised.value)
    assert archive_store(archive_at(tmp_path), store).verdict == "COMPLETE"
    assert said(archive_at(tmp_path)) == said_by_store(store)
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("name", ["create", "create_write_transaction"])
def test_another_was_faster(tmp_path, store, monkeypatch, name):
    """Where another process made the archive, or moved it on, between looking and writing, that is what is said."""
    if name == "create_write_transaction":
        archive_store(archive_at(tmp_path), store)
        append(store, *account_stream("b", 5))
    write = getattr(DeltaTable, name)

    def slower(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(DeltaTable, name, write)
        archive_store(archive_at(tmp_path), store)
        return write(*arguments, **options)

    monkeypatch.setattr(DeltaTable, name, slower)
    with pytest.raises(PositionMoved, match="another process moved the archive on"):
        archive_store(archive_at(tmp_path), store)
    assert said(archive_at(tmp_path)) == said_by_store(store)
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("reason", [GenericError(str(CAUSES[0][0])), OSError(28, "No space left on device")])
def test_a_data_file_that_cannot_be_written(tmp_path, store, monkeypatch, reason):
    """A full disk is named in one line with the place, the archive is as it was, and the next run goes on."""
    archive_store(archive_at(tmp_path), store)
    truth = said_by_store(store)
    append(store, *account_stream("b", 5))

    def fails(*_: object, **__: object) -> None:
        raise reason

    with monkeypatch.context() as patched:
        patched.setattr(obstore, "put", fails)
        with pytest.raises(ArchiveError, match=r"cannot be written.*No space left") as raised:
            archive_store(archive_at(tmp_path), store)
    assert "\n" not in str(raised.value)
    assert raised.value.where == str(tmp_path / "archive")
    assert "run it again" in raised.value.next_step
    assert said(archive_at(tmp_path)) == truth
    assert archive_store(archive_at(tmp_path), store).appended == 5


@pytest.mark.parametrize("reason", [OSError("connection reset"), CommitFailedError("version 1 already exists")])
@pytest.mark.parametrize("what", ["append", "compaction"])
def test_a_commit_whose_answer_was_lost(tmp_path, store, monkeypatch, reason, what):
    """Where the commit is there, whatever was answered, it counts, and nobody is said to have been faster."""
    archive_store(archive_at(tmp_path), store)
    append(store, *account_stream("b", 5))
    if what == "compaction":
        archive_store(archive_at(tmp_path), store)
    write = DeltaTable.create_write_transaction

    def unheard(*arguments: object, **options: object) -> None:
        write(*arguments, **options)  # type: ignore[arg-type]
        raise reason

    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "create_write_transaction", unheard)
        if what == "append":
            assert archive_store(archive_at(tmp_path), store).appended == 5
        else:
            assert len(compact(archive_at(tmp_path)).files) == 1
    assert said(archive_at(tmp_path)) == said_by_store(store)
    check_exactly_once(archive_at(tmp_path))
