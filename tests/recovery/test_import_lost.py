"""Events that were lost come back from an export, and only those that the hash chain proves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from imports import rejects_of
from ledgers import NOW, change_event, lose_event, lose_head, write_history
from samples import recorded
from sqlalchemy import delete, select

from ledger import Ledger, Store
from ledger.importing import Imported, events, export_events, import_events
from ledger.tables import EVENTS
from replay import balances
from schemas import encode

ACCOUNTS = 4
LAST = 8
LOSSES = {
    "a hole": {"acc-2": [3]},
    "the first": {"acc-2": [1]},
    "several in a row": {"acc-2": [3, 4, 5]},
    "holes": {"acc-1": [2, 4, 5], "acc-3": [7]},
    "the last": {"acc-2": [LAST]},
    "a tail": {"acc-2": [6, 7, LAST]},
    "a hole and a tail": {"acc-2": [2, 7, LAST]},
    "a whole account": {"acc-2": []},
    "several accounts": {"acc-1": [1, 2, 3], "acc-2": [], "acc-4": [LAST]},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a history of four accounts, exported to e.jsonl."""
    store = Store.at(tmp_path / "ledger")
    write_history(store, ACCOUNTS)
    export_events(store, tmp_path / "e.jsonl")
    yield store
    store.close()


def _bring(store: Store, path: Path, *, dry_run: bool = False) -> Imported:
    return import_events(store, path, rejects=path.with_suffix(".rejects.csv"), dry_run=dry_run)


def _lose(store: Store, loss: dict[str, list[int]]) -> int:
    before = _count(store)
    for account_id, versions in loss.items():
        lose_event(store, account_id, *versions)
    return before - _count(store)


def _count(store: Store) -> int:
    with store.snapshot() as connection:
        return len(connection.execute(select(EVENTS.c.id)).all())


@pytest.mark.parametrize("batch_lines", [1, 5, 50_000])
@pytest.mark.parametrize("kind", LOSSES)
def test_lost_events_come_back(
    kind: str, batch_lines: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever was lost, the export puts it back, replay has the digest of before, and a second import does nothing."""
    monkeypatch.setattr(events, "BATCH_LINES", batch_lines)
    before = balances(store, now=NOW)
    total = _count(store)
    lost = _lose(store, LOSSES[kind])
    assert balances(store, now=NOW).verdict == "INCOMPLETE"
    dry = _bring(store, tmp_path / "e.jsonl", dry_run=True)
    assert _count(store) == total - lost
    found = _bring(store, tmp_path / "e.jsonl")
    assert (found.restored, found.events, found.imported) == (lost, lost, 0)
    assert (found.unchanged, found.rejected) == (total - lost, 0)
    assert (dry.restored, dry.unchanged, dry.rejected) == (lost, total - lost, 0)
    after = balances(store, now=NOW)
    assert after.verdict == "COMPLETE"
    assert after.certificate.digest == before.certificate.digest
    assert after.rows.equals(before.rows)
    again = _bring(store, tmp_path / "e.jsonl")
    assert (again.restored, again.events, again.unchanged) == (0, 0, total)


def test_a_lost_tail_comes_back_with_what_follows_it(store: Store, tmp_path: Path):
    """A file that goes on after the lost tail restores the tail and appends the rest."""
    other = Store.at(tmp_path / "other")
    _bring(other, tmp_path / "e.jsonl")
    Ledger(other).credit("acc-2", "more", 5)
    export_events(other, tmp_path / "more.jsonl")
    _lose(store, {"acc-2": [LAST]})
    found = _bring(store, tmp_path / "more.jsonl")
    assert (found.restored, found.imported, found.events, found.rejected) == (1, 1, 2, 0)
    assert balances(store, now=NOW).certificate.digest == balances(other, now=NOW).certificate.digest
    other.close()


FORGED = encode(recorded("acc-2", 3, 77))


@pytest.mark.parametrize("lost", [3, LAST])
@pytest.mark.parametrize("dry_run", [True, False])
def test_another_event_is_not_taken_for_the_lost_one(dry_run: bool, lost: int, store: Store, tmp_path: Path):
    """An event that the hash chain does not prove is a reject, and the account stays as damaged as it was."""
    _lose(store, {"acc-2": [lost]})
    path = tmp_path / "forged.jsonl"
    path.write_bytes(encode(recorded("acc-2", lost, 77)) + b"\n")
    found = _bring(store, path, dry_run=dry_run)
    (reject,) = rejects_of(found)
    assert "conflicting: not the event that was appended" in reject["reason"]
    assert (found.restored, found.events, reject["line"]) == (0, 0, 1)
    assert balances(store, now=NOW).verdict == "INCOMPLETE"


@pytest.mark.parametrize(("lost", "brought", "named"), [([3, 4], 3, 4), ([3, 4], 4, 3), ([7, LAST], 7, LAST)])
def test_a_part_of_what_was_lost_proves_nothing(
    lost: list[int], brought: int, named: int, store: Store, tmp_path: Path
):
    """A file with some of the events that were lost in a row is told which one it lacks."""
    _lose(store, {"acc-2": lost})
    path = tmp_path / "part.jsonl"
    lines = (tmp_path / "e.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"event_id":"acc-2:%d"' % brought in line))
    (reject,) = rejects_of(_bring(store, path))
    assert f"version {named} of account 'acc-2' is lost too" in reject["reason"]


def test_a_lost_event_that_the_file_has_twice(store: Store, tmp_path: Path):
    """The same line twice restores one event; another content of the same version is a reject."""
    _lose(store, {"acc-2": [3]})
    lines = (tmp_path / "e.jsonl").read_bytes().splitlines(keepends=True)
    (line,) = [line for line in lines if b'"event_id":"acc-2:3"' in line]
    (tmp_path / "t.jsonl").write_bytes(line + line + FORGED + b"\n")
    found = _bring(store, tmp_path / "t.jsonl")
    assert (found.restored, found.unchanged, found.rejected) == (1, 1, 1)
    assert "the file has version 3 before" in rejects_of(found)[0]["reason"]


def test_an_event_whose_bytes_changed_is_not_written_over(store: Store, tmp_path: Path):
    """A stored event with other bytes is a conflict as ever: nothing that is stored is replaced."""
    change_event(store, "acc-2", 3, state=FORGED)
    (reject,) = rejects_of(_bring(store, tmp_path / "e.jsonl"))
    assert "version 3 of account 'acc-2' is stored with other bytes" in reject["reason"]


def test_events_without_a_head_are_told_so(store: Store, tmp_path: Path):
    """Lines about a stream whose head is gone are rejects that say so, not a failure of the database."""
    lose_head(store, "acc-2")
    found = _bring(store, tmp_path / "e.jsonl")
    reasons = {reject["reason"] for reject in rejects_of(found)}
    assert (found.rejected, found.events) == (LAST, 0)
    assert "version 1 of account 'acc-2' is stored, but its head says 0" in reasons


def test_an_empty_store_with_its_heads_comes_back(store: Store, tmp_path: Path):
    """A store that has lost every event, but no head, is whole again after the import of its export."""
    before = balances(store, now=NOW).certificate.digest
    with store.writing() as connection:
        connection.execute(delete(EVENTS))
    found = _bring(store, tmp_path / "e.jsonl")
    assert found.restored == ACCOUNTS * LAST + 1
    assert balances(store, now=NOW).certificate.digest == before
