"""Heads of the audit trail in a file: what is written when, and what one that is behind or unwritable gives."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from audit_trails import AT, bad_of, cut_off, entry, heads_of, record, rows_of, set_head, verified

from ledger import Store
from ledger.audit import Head
from ledger.audit_heads import HeadFile, keep
from schemas.errors import StoreError, UsageError


@pytest.fixture
def file(tmp_path: Path, store: Store) -> HeadFile:
    """A place for the heads of the store, where no file is yet."""
    return HeadFile(tmp_path / "heads.jsonl", store.ledger_id)


def test_every_entry_has_its_head_in_the_file(store, file):
    """What is kept are all heads that the file lacks, in order; kept again, nothing is added."""
    keep(store, [file], AT)
    assert file.heads() == []
    assert not file.path.exists()
    record(store, entry(1), entry(2))
    keep(store, [file], AT)
    record(store, entry(3))
    keep(store, [file], AT)
    keep(store, [file], AT)
    assert file.heads() == heads_of(rows_of(store))
    assert bad_of(store, file.heads()) is None
    line = msgspec.json.decode(file.path.read_bytes().splitlines()[2])
    head = heads_of(rows_of(store))[2]
    assert line == {"number": 3, "hash": head.hash, "at": "2026-05-01T03:00:00.000000Z", "ledger": store.ledger_id}


def test_a_file_that_is_behind_is_no_damage_and_is_brought_up(store, file):
    """Whoever was killed after the commit leaves the file behind, and the next one writes what is missing."""
    record(store, entry(1))
    keep(store, [file], AT)
    record(store, entry(2), entry(3))
    assert bad_of(store, file.heads()) is None
    assert [head.number for head in file.heads()] == [1]
    record(store, entry(4))
    keep(store, [file], AT)
    assert file.heads() == heads_of(rows_of(store))


def test_a_torn_line_is_not_counted_and_goes_away(store, file):
    """A last line without its end is what a process left that was killed, wherever it was cut."""
    record(store, entry(1), entry(2))
    keep(store, [file], AT)
    whole = file.path.read_bytes()
    second = whole.index(b"\n") + 1
    for end in (second + 1, second + 40, len(whole) - 1):
        file.path.write_bytes(whole[:end])
        assert [head.number for head in file.heads()] == [1]
        keep(store, [file], AT)
        assert file.path.read_bytes() == whole
    file.path.write_bytes(whole[: second - 5])
    assert file.heads() == []
    keep(store, [file], AT)
    assert file.path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff",
        b'{"number":0,"hash":"%s","at":"","ledger":""}' % (b"0" * 64),
        b'{"number":1,"hash":"%s","at":"","ledger":""}' % (b"0" * 63),
        b'{"number":1}',
    ],
)
def test_a_line_that_is_no_head_is_named(store, file, line):
    """Somebody wrote into the file, so it is said where, and nothing is added to it."""
    record(store, entry(1))
    keep(store, [file], AT)
    content = file.path.read_bytes() + line + b"\n"
    file.path.write_bytes(content)
    record(store, entry(2))
    for ask in (file.heads, lambda: keep(store, [file], AT)):
        with pytest.raises(UsageError, match=r"heads\.jsonl:2"):
            ask()
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("content", [b"x" * 10_000, b"notes", b"{}", b'{"number":' + b"1" * 10_000])
def test_a_file_of_something_else_is_left_as_it_is(store, file, content):
    """What is no torn line of ours is neither cut off nor written behind."""
    file.path.write_bytes(content)
    record(store, entry(1))
    for ask in (file.heads, lambda: keep(store, [file], AT), lambda: file.write([Head(1, "0" * 64)], AT)):
        with pytest.raises(UsageError, match=r"does not end with a head.*heads\.jsonl"):
            ask()
    assert file.path.read_bytes() == content


def test_ledgers_can_share_a_file(store, file):
    """Lines of another ledger are neither heads of this one nor damage."""
    other = HeadFile(file.path, "another")
    theirs = [Head(1, "0" * 64)]
    other.write(theirs, AT)
    assert file.heads() == []
    record(store, entry(1))
    keep(store, [file], AT)
    assert file.heads() == heads_of(rows_of(store))
    assert other.heads() == theirs


def test_entries_that_were_taken_away_are_told_by_the_file(store, file):
    """A file that knows more than the database goes on with the newest head, and what it knows stays in it."""
    record(store, *(entry(number) for number in range(1, 6)))
    keep(store, [file], AT)
    known = file.heads()
    cut_off(store, 3)
    set_head(store, 2, rows_of(store)[1].hash)
    keep(store, [file], AT)
    record(store, entry(9), entry(10))
    keep(store, [file], AT)
    assert bad_of(store) is None
    assert bad_of(store, file.heads()) == 3
    now = heads_of(rows_of(store))
    assert file.heads() == [*known, now[1], *now[2:]]


@pytest.mark.parametrize("name", ["missing/heads.jsonl", ".", "ledger.db/heads.jsonl"])
def test_a_file_that_cannot_be_written_is_named(store, tmp_path, name):
    """A folder that is not there, or a folder in the file's place, is an error that names the file, before or after."""
    (tmp_path / "ledger.db").touch()
    file = HeadFile(tmp_path / name, store.ledger_id)
    record(store, entry(1))
    with pytest.raises((StoreError, UsageError)) as caught:
        keep(store, [file], AT)
    assert caught.value.where == str(file.path)
    assert "[audit] file" in caught.value.next_step
    assert verified(store).entries == 1


def test_a_full_disk_is_named_and_mended_later(store, file):
    """Where the disk takes only a part, that is an error; the part is no head, and the next one writes it all."""
    record(store, entry(1))
    keep(store, [file], AT)
    record(store, entry(2), entry(3))
    with _files_end_at(file.path.stat().st_size + 250), pytest.raises(StoreError, match="cannot write") as caught:
        keep(store, [file], AT)
    assert caught.value.where == str(file.path)
    assert [head.number for head in file.heads()] == [1, 2]
    assert not file.path.read_bytes().endswith(b"\n")
    assert bad_of(store, file.heads()) is None
    keep(store, [file], AT)
    assert file.heads() == heads_of(rows_of(store))


@contextmanager
def _files_end_at(size: int) -> Iterator[None]:
    """Let no file grow over a size, as a disk that is full would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
