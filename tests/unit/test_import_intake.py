"""Rows of a topic taken batch by batch: the same events as from a file, each record once, nothing lost unsaid."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imports import NOW, bring, events_of, row, streams_of, write_csv
from ledgers import change_event, lose_event

from ledger import Store, intakes
from ledger.importing import Mapping
from ledger.importing import resident as resident_module
from ledger.importing.codecs import Message
from ledger.importing.intake import RowImport
from ledger.importing.rejects import RejectsLog, place_of, place_text
from ledger.intakes import Intake
from schemas.errors import PositionMoved, UsageError


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with no events."""
    is_sqlite = request.param == "sqlite"
    store = Store.at(tmp_path / "ledger") if is_sqlite else Store(request.getfixturevalue("postgres_url"))
    yield store
    store.close()


class _Topic:
    """One partition of rows, and an import that reads it from where the ledger says."""

    def __init__(self, store: Store, folder: Path, codec: str = "json") -> None:
        self._store, self._codec = store, codec
        self.rejects = folder / "rejects.csv"
        self.import_ = self._new()

    def _new(self) -> RowImport:
        log = RejectsLog(self.rejects)
        return RowImport(self._store, codec=self._codec, mapping=Mapping(), now=lambda: NOW, rejects=log)

    def restart(self) -> None:
        """Go on as a new process would."""
        self.import_ = self._new()

    def take(self, *values: Any, offset: int, partition: int = 0) -> None:
        """Take some values as one batch, moving on from what the ledger knows."""
        with self._store.snapshot() as connection:
            before = intakes.known(connection, "rows")
        raw = [None if value is None else json.dumps(value).encode() for value in values]
        messages = [Message(place_of(partition, offset + at), None, value) for at, value in enumerate(raw)]
        after = Intake("rows", "id", self._codec, {partition: offset + len(values)})
        self.import_.take(messages, lambda connection: intakes.move(connection, before, after))

    def rejected(self) -> list[dict[str, str]]:
        """Return what is in the rejects file."""
        if not self.rejects.exists():
            return []
        with self.rejects.open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def topic(store: Store, tmp_path: Path) -> _Topic:
    """A topic of plain rows."""
    return _Topic(store, tmp_path)


ROWS = [
    row(1, account_id="a", status="pending", created_at="2024-03-01T12:00:05Z"),
    row(2, account_id="a", amount="7", type="debit"),
    row(3, account_id="b", metadata='{"order_id": "o1"}'),
    row(1, account_id="a", status="completed", created_at="2024-03-01T12:00:05Z"),
    row(2, account_id="a", amount="7", type="debit"),
    row(2, account_id="a", amount="8", type="debit"),
    row(3, account_id="c"),
    row(4, account_id="c", type="earn"),
]


def test_one_batch_is_an_import_of_a_file(store: Store, topic: _Topic, tmp_path: Path):
    """The rows of one batch give the bytes that a file of them gives, and the same counts and rejects."""
    other = Store.at(tmp_path / "other")
    header = ["transaction_id", "account_id", "type", "status", "amount", "metadata", "created_at"]
    found = bring(other, write_csv(tmp_path / "rows.csv", ROWS, header))
    topic.take(*ROWS, offset=0)
    taken = topic.import_.taken
    assert streams_of(store) == streams_of(other)
    assert (taken.imported, taken.unchanged, taken.rejected, taken.events) == (
        found.imported,
        found.unchanged,
        found.rejected,
        found.events,
    )
    assert [(one["place"], one["transaction_id"]) for one in topic.rejected()] == [
        ("0:5", "t2"),
        ("0:6", "t3"),
        ("0:7", "t4"),
    ]
    other.close()


@pytest.mark.parametrize("recent_min", [0, 200_000])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_row_by_row_knows_what_came_before(
    is_restarted: bool, recent_min: int, store: Store, topic: _Topic, monkeypatch: pytest.MonkeyPatch
):
    """Batches of one row decide by what earlier batches, or earlier processes, have appended."""
    monkeypatch.setattr(resident_module, "RECENT_MIN", recent_min)
    totals = [0, 0, 0]
    for offset, value in enumerate(ROWS):
        if is_restarted:
            topic.restart()
        topic.take(value, offset=offset)
        if is_restarted:
            taken = topic.import_.taken
            totals = [a + b for a, b in zip(totals, (taken.imported, taken.unchanged, taken.rejected), strict=True)]
    taken = topic.import_.taken
    assert (totals if is_restarted else [taken.imported, taken.unchanged, taken.rejected]) == [4, 1, 3]
    changes = [(event.transaction_id, event.to_status) for event in events_of(store, "a")[1:]]
    assert changes == [("t1", "pending"), ("t2", "completed"), ("t1", "completed")]
    reasons = {one["place"]: one["reason"] for one in topic.rejected()}
    assert "known with amount 7, not 8" in reasons["0:5"]
    assert "belongs to account 'b'" in reasons["0:6"]


def test_what_others_append_is_known(store: Store, topic: _Topic, tmp_path: Path):
    """Rows that a file brought in between batches are known to the next one."""
    topic.take(ROWS[0], offset=0)
    bring(store, write_csv(tmp_path / "t.csv", [row(9, account_id="a"), row(2, account_id="a", type="debit")]))
    topic.take(row(9, account_id="a"), row(2, account_id="z"), offset=1)
    assert (topic.import_.taken.unchanged, topic.import_.taken.rejected) == (1, 1)
    assert len(streams_of(store)["a"]) == 4


def test_another_reader_gets_nothing_in(store: Store, topic: _Topic):
    """Of two readers of one place the slower one appends nothing, and says nothing about its rows."""
    topic.take(row(1), offset=0)
    with store.snapshot() as connection:
        before = intakes.known(connection, "rows")
    topic.take(row(2), offset=1)
    message = Message(place_of(0, 1), None, json.dumps(row(3, type="?")).encode())
    after = Intake("rows", "id", "json", {0: 2})
    with pytest.raises(PositionMoved, match="another import"):
        topic.import_.take([message], lambda connection: intakes.move(connection, before, after))
    with pytest.raises(PositionMoved, match="another import"):
        topic.import_.take([message], lambda connection: intakes.move(connection, None, after))
    assert set(streams_of(store)) == {"a1", "a2"}
    assert topic.rejected() == []


def test_a_damaged_account_takes_no_rows(store: Store, topic: _Topic):
    """Rows of accounts whose stream has a hole or other bytes are rejects that say so; the others go in."""
    topic.take(row(1, account_id="a"), row(2, account_id="a"), row(3, account_id="b"), offset=0)
    lose_event(store, "a", 2)
    change_event(store, "b", 2, state=b"{}")
    topic.restart()
    topic.take(row(4, account_id="a"), row(5, account_id="b"), row(6, account_id="c"), offset=3)
    assert (topic.import_.taken.imported, topic.import_.taken.rejected) == (1, 2)
    reasons = {one["place"]: one["reason"] for one in topic.rejected()}
    assert "version 2 is missing" in reasons["0:3"]
    assert "unreadable" in reasons["0:4"] or "hash chain" in reasons["0:4"]


def test_deletions_are_counted_listed_and_kept(store: Store, tmp_path: Path):
    """A row that its source deleted stays in the ledger, and stands in the rejects file with its place."""
    topic = _Topic(store, tmp_path, codec="debezium")
    topic.take({"op": "c", "after": row(1)}, {"op": "d", "before": row(1)}, None, {"op": "d"}, offset=40, partition=3)
    taken = topic.import_.taken
    assert (taken.imported, taken.rejected, taken.deletions_count, taken.tombstones) == (1, 0, 2, 1)
    assert [(one.place, one.transaction_id) for one in taken.deletions] == [("3:41", "t1"), ("3:43", None)]
    assert len(streams_of(store)["a1"]) == 2
    assert [(one["place"], one["transaction_id"]) for one in topic.rejected()] == [("3:41", "t1"), ("3:43", "")]


def test_the_rejects_log_stays_and_mends_itself(store: Store, topic: _Topic):
    """Rejects of later runs follow those before, and a line that a killed process left torn goes."""
    topic.rejects.write_bytes(b"place,rea")
    topic.take(row(1, type="?"), offset=0)
    with topic.rejects.open("ab") as file:
        file.write(b'0:1,"torn')
    topic.restart()
    topic.take(row(2, type="?"), offset=1)
    assert [(one["place"], one["transaction_id"]) for one in topic.rejected()] == [("0:0", "t1"), ("0:1", "t2")]
    assert topic.rejects.read_bytes().count(b"torn") == 0


@pytest.mark.parametrize("content", [b"my notes\n", b"line,reason,column,transaction_id,row\n", b"places"])
def test_no_other_file_is_written_into(content: bytes, tmp_path: Path):
    """A file by the name of the rejects that holds something else is left as it is."""
    path = tmp_path / "rejects.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="something else"):
        RejectsLog(path)
    assert path.read_bytes() == content
    with pytest.raises(UsageError, match="cannot read"):
        RejectsLog(tmp_path)


def test_places_are_ordered_by_partition_and_offset():
    """The number of a record orders as its place does, and says it again."""
    places = [(0, 0), (0, 2**43), (1, 0), (7, 5), (2**18, 2**44 - 1)]
    numbers = [place_of(*place) for place in places]
    assert numbers == sorted(numbers)
    assert max(numbers) < 2**63
    assert [place_text(number) for number in numbers] == [f"{partition}:{offset}" for partition, offset in places]


def test_an_intake_is_forgotten(store: Store):
    """What is forgotten is read as a topic never seen."""
    with store.writing() as connection:
        intakes.move(connection, None, Intake("rows", "id", "json", {0: 5, 1: 0}))
    with store.writing() as connection:
        assert intakes.known(connection, "rows") == Intake("rows", "id", "json", {0: 5, 1: 0})
        intakes.forget(connection, "rows")
        assert intakes.known(connection, "rows") is None
