"""`archive --check` where it is needed most: after a run that was killed, and beside one that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import replay.archive.checking
from consumers.archiver import archive_store
from ledger.store import Store
from replay.archive.appending import Appending
from replay.archive.opening import open_archive
from tests.cli.conftest import NOW, START, Run, ledger_of


@pytest.fixture
def killed(archived: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive after a run that was killed when it had committed once."""
    with ledger_of(archived) as ledger:
        ledger.credit("zoe", "zoe-2", 5, effective_at=START)
    with monkeypatch.context() as patched:
        patched.setitem(Appending.__init__.__kwdefaults__, "append_events", 1)
        patched.setattr(Appending, "conclude", _die)
        store = Store.at(archived)
        with pytest.raises(KeyboardInterrupt):
            archive_store(open_archive(archived / "archive"), store)
        store.close()
    return archived


def _die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_check_after_a_run_that_was_killed_names_every_damaged_file(run: Run, killed: Path) -> None:
    """What `archive` refuses to go on with is named in full, and what to do after it is mended."""
    files = sorted((killed / "archive").glob("*.parquet"))
    assert len(files) == 3
    kept = {file: file.read_bytes() for file in files[:2]}
    for file in kept:
        file.write_bytes(b"x" * file.stat().st_size)
    assert "`archive --check`" in run("archive", "--data", killed, "--now", NOW).err
    checked = run("archive", "--check", "--data", killed, "--json")
    assert (checked.status, checked.document["verdict"], checked.document["checked"]) == (3, "INCOMPLETE", 3)
    assert {each["file"] for each in checked.document["damaged"]} == {file.name for file in kept}
    told = run("archive", "--check", "--data", killed).out
    assert "put the damaged files back from a copy" in told
    assert "the last run did not come to its end: run `archive` again once that is mended\n" in told
    for file, content in kept.items():
        file.write_bytes(content)
    assert run("archive", "--data", killed, "--now", NOW).status == 0
    assert run("archive", "--check", "--data", killed).status == 0


def test_a_check_of_whole_files_after_a_run_that_was_killed(run: Run, killed: Path) -> None:
    """All its files are whole and all its events there, and still it is INCOMPLETE until `archive` comes to its end."""
    checked = run("archive", "--check", "--data", killed)
    assert checked.status == 3
    assert checked.out.startswith("INCOMPLETE: 3 data files checked, 0 of them damaged; 12 of 12 events in them\n")
    assert checked.out.endswith("\nthe last run did not come to its end: run `archive` again\n")
    assert run("archive", "--data", killed, "--now", NOW).status == 0
    assert run("archive", "--check", "--data", killed).status == 0


def test_a_check_speaks_of_one_version(run: Run, archived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a run that appends, what it holds and where it is are those of the files that were checked."""
    before = run("archive", "--status", "--data", archived, "--json").document
    check = replay.archive.checking.check

    def overtaken(*args: Any, **options: Any) -> Any:
        found = check(*args, **options)
        with ledger_of(archived) as ledger:
            ledger.credit("zoe", "zoe-2", 5, effective_at=START)
        store = Store.at(archived)
        archive_store(open_archive(archived / "archive"), store)
        store.close()
        return found

    monkeypatch.setattr(replay.archive.checking, "check", overtaken)
    said = run("archive", "--check", "--data", archived, "--json").document
    assert said["checked"] == said["files"] == before["files"]
    for name in ("bytes", "events", "position", "table_version"):
        assert said[name] == before[name]
    assert run("archive", "--status", "--data", archived, "--json").document["position"] == 12
