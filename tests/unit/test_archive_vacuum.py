"""A vacuum beside other processes: what they are about to commit stays, whatever age was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from archives import archive_at, check_exactly_once, commits_of, said, said_by_store
from ledgers import append
from samples import account_stream, opened
from topic_cases import history

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.compaction import compact
from replay.archive.files import Files
from replay.archive.rebuild import rebuild_from_archive
from replay.archive.table import Archive
from replay.archive.vacuuming import certified, cleaned
from schemas.errors import IncompleteError, PositionMoved


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of 60 events of eight accounts."""
    store = Store.at(tmp_path)
    append(store, *history(8, 60))
    yield store
    store.close()


def vacuumed(folder: Path) -> list[str]:
    """Delete whatever may be deleted, without regard to age."""
    return cleaned(archive_at(folder), keep_versions=[], retention_hours=0).deleted


@pytest.mark.parametrize("writer", ["archiver", "compaction"])
@pytest.mark.parametrize("moved_on", [False, True])
def test_a_vacuum_while_files_are_there_and_not_committed(tmp_path, store, writer, moved_on):
    """Files that another process is about to commit stay, whatever age was asked for, and count once they are."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    compact(archive_at(tmp_path), file_events=20)
    append(store, *account_stream("new", 9))
    real, deleted = Archive.commit, []

    def commit(archive: Archive, *words: Any, **options: Any) -> Any:
        with patch.object(Archive, "commit", real):
            if moved_on and writer == "compaction" and not deleted:
                archive_store(archive_at(tmp_path), store)
            deleted.append(vacuumed(tmp_path))
        return real(archive, *words, **options)

    with patch.object(Archive, "commit", commit):
        if writer == "compaction":
            compact(archive_at(tmp_path))
        else:
            archive_store(archive_at(tmp_path), store)
    assert deleted[0]
    archive_store(archive_at(tmp_path), store)
    assert said(archive_at(tmp_path)) == said_by_store(store)
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("writer", ["archiver", "compaction"])
@pytest.mark.parametrize("name", ["times", "log_times", "delete"])
def test_a_commit_while_a_vacuum_looks(tmp_path, store, writer, name):
    """Whatever another process writes and commits between two looks of a vacuum stays."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    compact(archive_at(tmp_path), file_events=20)
    append(store, *account_stream("new", 9))
    real = getattr(Files, name)

    def later(files: Files, *words: Any) -> Any:
        with patch.object(Files, name, real):
            archive_store(archive_at(tmp_path), store) if writer == "archiver" else compact(archive_at(tmp_path))
        return real(files, *words)

    with patch.object(Files, name, later):
        assert vacuumed(tmp_path)
    archive_store(archive_at(tmp_path), store)
    assert said(archive_at(tmp_path)) == said_by_store(store)
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("name", ["put before", "times", "log_times"])
def test_a_file_that_is_written_again_stays(tmp_path, store, name):
    """A file that was replaced, and comes into being again for another commit, is not deleted by its old removal."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    old = archive_at(tmp_path).snapshot().files[0].name
    file = tmp_path / "archive" / old
    data = file.read_bytes()
    compact(archive_at(tmp_path))
    if name == "put before":
        file.write_bytes(data)
        assert old not in vacuumed(tmp_path)
        assert file.exists()
        return
    real, works = getattr(Files, name), [lambda: file.write_bytes(data)]

    def look(files: Files) -> Any:
        found = real(files)
        if works:
            works.pop()()
        return found

    with patch.object(Files, name, look):
        assert old not in vacuumed(tmp_path)
    assert file.read_bytes() == data


def test_files_that_come_back_while_a_vacuum_looks(tmp_path, store):
    """Files that were replaced, were written again and are committed before the log was read stay: they are needed."""
    real, put, written = Files.log_times, Files.put, []

    def kept(files: Files, events: Any) -> Any:
        written.append(put(files, events))
        return written[-1]

    with commits_of(10), patch.object(Files, "put", kept):
        archive_store(archive_at(tmp_path), store)
    compact(archive_at(tmp_path))
    for each in written:
        path = tmp_path / "archive" / each.file.name
        path.write_bytes(path.read_bytes())

    def look(files: Files) -> Any:
        archive = archive_at(tmp_path)
        found = archive.snapshot()
        archive.commit(found, found.held, added=written, removed=found.files)
        return real(files)

    with patch.object(Files, "log_times", look):
        assert vacuumed(tmp_path) == []
    assert said(archive_at(tmp_path)) == said_by_store(store)


def test_what_was_committed_and_replaced_goes_at_once(tmp_path, store):
    """Of files that were part of the archive only the age that is asked for counts, however young they are."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    old = {file.name for file in archive_at(tmp_path).snapshot().files}
    compact(archive_at(tmp_path))
    version = archive_at(tmp_path).snapshot().version
    assert cleaned(archive_at(tmp_path), keep_versions=[], retention_hours=1) == ([], [])
    assert set(vacuumed(tmp_path)) == old
    assert archive_at(tmp_path).files.names() == {file.name for file in archive_at(tmp_path).snapshot().files}
    assert archive_at(tmp_path).snapshot().version == version, "a vacuum moves nobody's archive on"


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_compaction_whose_files_were_deleted(tmp_path, store, attempt):
    """Where another program deleted what a compaction wrote, it is told so instead of committing what is not there."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    truth = said_by_store(store)
    before = archive_at(tmp_path).files.names()
    real, sizes, calls = Archive.commit, Files.sizes, [0]

    def delete() -> None:
        for name in archive_at(tmp_path).files.names() - before:
            (tmp_path / "archive" / name).unlink()

    def commit(archive: Archive, *words: Any, **options: Any) -> Any:
        delete()
        raise PositionMoved("another")

    def looked(files: Files) -> Any:
        calls[0] += 1
        if calls[0] == attempt == 1:
            with patch.object(Files, "sizes", sizes):
                delete()
        return sizes(files)

    with (
        patch.object(Files, "sizes", looked),
        patch.object(Archive, "commit", commit if attempt == 2 else real),
        pytest.raises(PositionMoved, match="deleted"),
    ):
        compact(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == truth


def test_a_certificate_is_about_its_own_archive(tmp_path, store):
    """A generation keeps files of the archive that it was made from, and none of another at the same version."""
    archive_store(archive_at(tmp_path), store)
    other = archive_at(tmp_path / "other")
    archive_store(other, store)
    rebuilt = rebuild_from_archive(store, archive_at(tmp_path))
    own = archive_at(tmp_path).snapshot()
    assert [each.generation for each in certified(store, own.table_id)] == [rebuilt.generation]
    assert other.snapshot().version == own.version
    assert certified(store, other.snapshot().table_id) == []


def test_a_follower_adds_nothing_to_files_that_were_damaged_since(tmp_path, store):
    """What happens to a file while a follower runs ends it, as it ends any run that begins then."""
    rounds = []

    def told(found):
        rounds.append(found)
        path = next((tmp_path / "archive").glob("*.parquet"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        append(store, opened("later"))

    with pytest.raises(IncompleteError, match=r"nothing is added to the archive.* damaged"):
        archive_store(
            archive_at(tmp_path), store, follow=True, told=told, poll_seconds=0, should_stop=lambda: len(rounds) > 2
        )
    assert len(rounds) == 1
