"""The event stream out of one store and into another."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import bring, rejects_of, row, streams_of, write_csv
from samples import account_stream, opened, recorded, store_rows

from ledger import Store
from ledger.importing import Imported, events, export_events, import_events
from ledger.tables import EVENTS
from schemas import Event, encode
from schemas.errors import PoisonEventError, UsageError


def _lines(tmp_path: Path, lines: list[Event | bytes], name: str = "events.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join((line if isinstance(line, bytes) else encode(line)) + b"\n" for line in lines))
    return path


def _bring(store: Store, path: Path, *, dry_run: bool = False) -> Imported:
    return import_events(store, path, rejects=path.with_suffix(".rejects.csv"), dry_run=dry_run)


@pytest.mark.parametrize("batch_lines", [1, 3, 50_000])
def test_out_and_in_gives_the_same_bytes_and_heads(
    batch_lines: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An exported stream makes the same ledger again, whatever the batches, and again changes nothing."""
    monkeypatch.setattr(events, "BATCH_LINES", batch_lines)
    rows = [row(number, account_id=f"a{number % 3}", metadata='{"x": 1.0}') for number in range(10)]
    bring(store, write_csv(tmp_path / "t.csv", rows))
    assert export_events(store, tmp_path / "e.jsonl") == 13
    other = Store.at(tmp_path / "other")
    for imported in (13, 0):
        found = _bring(other, tmp_path / "e.jsonl")
        assert (found.imported, found.unchanged, found.rejected) == (imported, 13 - imported, 0)
        assert streams_of(other) == streams_of(store)
    export_events(other, tmp_path / "e2.jsonl")
    assert (tmp_path / "e2.jsonl").read_bytes() == (tmp_path / "e.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    other.close()


def test_unknown_fields_survive(store: Store, tmp_path: Path):
    """What a newer writer added is kept to the byte."""
    state = encode(opened("a"))[:-1] + b', "new": [1.0, "x"]}'
    assert _bring(store, _lines(tmp_path, [state])).imported == 1
    assert streams_of(store) == {"a": [state]}


BAD = {
    "no JSON": (b"{", "the line is no event"),
    "no object": (b"[]", "the line is no event"),
    "unknown event": (encode(recorded("a", 4)).replace(b"transaction.recorded", b"transaction.lost"), "unknown event"),
    "no account": (b'{"event":"account.opened","version":4}', "the line is no event"),
    "no version": (encode(recorded("a", 4)).replace(b'"version":4', b'"version":"4"'), "the line is no event"),
    "bad UTF-8": (encode(recorded("a", 4)).replace(b"credit", b"\xff"), "the line is no event"),
    "a key twice": (encode(recorded("a", 4))[:-1] + b',"amount":1}', "the line has the key 'amount' twice"),
    "a key twice with spaces": (
        encode(recorded("a", 4))[:-1] + b', "\\u0061mount" : 1}',
        "the line has the key 'amount' twice",
    ),
    "an inner key twice": (
        encode(recorded("a", 4, metadata={"x": 1})).replace(b'{"x":1}', b'{"x":[{"y":1,"y":1}]}'),
        "the line has the key 'y' twice",
    ),
    "a key twice in metadata": (
        encode(recorded("a", 4, metadata={"x": 1})).replace(b'{"x":1}', b'{"x":1,"x":1}'),
        "the line has the key 'x' twice",
    ),
    "gap": (encode(recorded("a", 5)), "would leave a gap: 4 is expected"),
    "gap at the start": (encode(recorded("b", 2)), "would leave a gap: 1 is expected"),
    "conflict": (encode(recorded("a", 2, 11)), "version 2 of account 'a' is stored with other bytes"),
}


@pytest.mark.parametrize("in_one_file", [True, False])
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_rejected(kind: str, dry_run: bool, in_one_file: bool, store: Store, tmp_path: Path):
    """A line that is no event, leaves a gap or contradicts the store is a reject with its line; the rest goes in."""
    line, reason = BAD[kind]
    stream: list[Event | bytes] = [*account_stream("a", 3)]
    if not in_one_file:
        _bring(store, _lines(tmp_path, stream, "first.jsonl"))
    found = _bring(store, _lines(tmp_path, [*stream, b"", line]), dry_run=dry_run)
    (reject,) = rejects_of(found)
    assert reject["line"] == 5
    assert reason in reject["reason"]
    assert found.imported == (3 if in_one_file else 0)
    assert len(streams_of(store).get("a", [])) == (0 if dry_run and in_one_file else 3)


def test_a_repeat_inside_the_file_is_unchanged(store: Store, tmp_path: Path):
    """The same line twice is one event, in a dry run too, over batches too."""
    path = _lines(tmp_path, [*account_stream("a", 3), recorded("a", 2), recorded("a", 2, 11)])
    for dry_run in (True, False):
        found = _bring(store, path, dry_run=dry_run)
        assert (found.imported, found.unchanged, found.rejected) == (3, 1, 1)


def test_an_event_that_is_no_line_is_not_exported(store: Store, tmp_path: Path):
    """Damaged bytes with a line break end the export with the position, and no half file is left."""
    with store.appending() as connection:
        store.append_rows(connection, store_rows(account_stream("a", 2)))
        connection.execute(EVENTS.update().where(EVENTS.c.id == 2).values(state=b"{\n}"))
    with pytest.raises(PoisonEventError, match="position 2"):
        export_events(store, tmp_path / "e.jsonl")
    assert not list(tmp_path.glob("e.jsonl*"))


def test_accounts_can_be_left_out_of_an_export(store: Store, tmp_path: Path):
    """Events of the named accounts are not exported, whatever their bytes are, and are not counted."""
    with store.appending() as connection:
        store.append_rows(connection, store_rows([*account_stream("a", 2), *account_stream("b", 3)]))
        connection.execute(EVENTS.update().where(EVENTS.c.id == 2).values(state=b"{\n}"))
    assert export_events(store, tmp_path / "e.jsonl", without=["a", "none"]) == 3
    assert (tmp_path / "e.jsonl").read_bytes().splitlines() == [encode(event) for event in account_stream("b", 3)]
    assert export_events(store, tmp_path / "e.jsonl", without={"a", "b"}) == 0
    assert (tmp_path / "e.jsonl").read_bytes() == b""


def test_files_that_cannot_be_used_are_bad_usage(store: Store, tmp_path: Path):
    """An empty or missing file, or a folder that is not there, is one line."""
    with pytest.raises(UsageError, match="the file is empty"):
        _bring(store, _lines(tmp_path, []))
    with pytest.raises(UsageError, match="cannot open the file"):
        _bring(store, tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="cannot write the events"):
        export_events(store, tmp_path / "none" / "e.jsonl")


def test_what_goes_wrong_with_the_source_is_not_said_of_the_file(tmp_path: Path):
    """An error of reading passes through as it is, and nothing is left of the file; one of writing names the file."""
    unread = OSError("no answer")

    def write_and_fail() -> None:
        with events.lines_to(tmp_path / "e.jsonl") as output:
            output.write(b"{}\n")
            raise unread

    with pytest.raises(OSError, match="no answer") as error:
        write_and_fail()
    assert error.value is unread
    assert not list(tmp_path.glob("e.jsonl*"))
    (tmp_path / "e.jsonl.partial").symlink_to("/dev/full")
    for size in (1, 1_000_000):
        with (
            pytest.raises(UsageError, match=r"cannot write the events: No space left on device \(.*/e.jsonl\)"),
            events.lines_to(tmp_path / "e.jsonl") as output,
        ):
            output.write(b"x" * size)
        assert not list(tmp_path.glob("e.jsonl"))
        (tmp_path / "e.jsonl.partial").symlink_to("/dev/full")
