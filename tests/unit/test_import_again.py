"""Rows about what the ledger knows already: repeats, changes of status, conflicts; order; broken streams; dry runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from imports import HEADER, NOW, bring, events_of, rejects_of, row, streams_of, write_csv
from samples import account_stream, store_rows

from ledger import Ledger, Store
from ledger.importing import FileSource, Mapping, import_transactions
from ledger.tables import EVENTS, HEADS
from schemas import TransactionStatusChanged, encode

FULL = [*HEADER, "updated_at"]


def _rows(count: int) -> list[dict[str, str]]:
    codes = ("", "promo")
    return [
        row(
            number,
            account_id=f"a{number % 7}",
            amount=str(number + 1),
            metadata=f'{{"order_id": "o{number}", "n": 1.50}}' if number % 3 else "",
            business_code=codes[number % 2],
            created_at=f"2024-03-{1 + number % 28:02}T00:00:00Z",
        )
        for number in range(count)
    ]


def test_the_same_file_again_changes_nothing(store: Store, tmp_path: Path):
    """The second import of a file finds every row unchanged, on another day too."""
    path = write_csv(tmp_path / "t.csv", _rows(100))
    bring(store, path)
    before = streams_of(store)
    later = NOW + timedelta(days=1)
    found = import_transactions(store, FileSource(path), mapping=Mapping(), now=later, rejects=tmp_path / "r.csv")
    assert (found.imported, found.unchanged, found.rejected, found.events) == (0, 100, 0, 0)
    assert streams_of(store) == before


def test_overlapping_files_bring_each_row_once(store: Store, tmp_path: Path):
    """Of two overlapping files the second brings only what is new, after what is there."""
    rows = _rows(100)
    bring(store, write_csv(tmp_path / "1.csv", rows[:60]))
    before = streams_of(store)
    found = bring(store, write_csv(tmp_path / "2.csv", rows[40:]))
    assert (found.imported, found.unchanged) == (40, 20)
    after = streams_of(store)
    assert all(after[account][: len(stream)] == stream for account, stream in before.items())
    assert bring(store, write_csv(tmp_path / "3.csv", rows)).unchanged == 100


def test_the_library_reads_what_was_imported_and_goes_on(store: Store, tmp_path: Path):
    """The write model on the library's own repository sees the imported account, and import sees what it does."""
    rows = [row(1, account_id="a", status="pending"), row(2, account_id="a", amount="5")]
    bring(store, write_csv(tmp_path / "t.csv", rows))
    ledger = Ledger(store)
    assert (ledger.account("a").balance, ledger.account("a").pending_credit) == (5, 10)
    ledger.complete("a", "t1", effective_at=datetime(2024, 4, 1, tzinfo=UTC))
    ledger.credit("a", "t3", 7, effective_at=datetime(2024, 4, 2, tzinfo=UTC))
    assert ledger.account("a").balance == 22
    found = bring(store, write_csv(tmp_path / "2.csv", [*rows, row(4, account_id="a")]))
    assert (found.imported, found.unchanged) == (1, 2)
    assert ledger.account("a").balance == 32


def test_rows_are_ordered_by_creation_and_then_by_place(store: Store, tmp_path: Path):
    """An account's events are in the order of created_at, and of the file where that is the same."""
    moments = {"c": "03", "b2": "02", "a": "01", "b1": "02"}
    rows = [row(1, transaction_id=name, created_at=f"2024-03-{day}") for name, day in moments.items()]
    bring(store, write_csv(tmp_path / "t.csv", rows))
    assert [event.transaction_id for event in events_of(store, "a1")[1:]] == ["a", "b2", "b1", "c"]
    bring(store, write_csv(tmp_path / "2.csv", [row(1, transaction_id="d", created_at="2024-02-01")]))
    assert events_of(store, "a1")[-1].transaction_id == "d"


@pytest.mark.parametrize("in_one_file", [True, False])
def test_a_known_transaction_in_a_legal_new_status_changes(in_one_file: bool, store: Store, tmp_path: Path):
    """Later rows of a transaction are changes of its status, effective at updated_at or else now."""
    rows = [
        row(1, status="pending"),
        row(1, status="frozen", updated_at="2024-03-02T00:00:00Z"),
        row(1, status="completed", metadata='{"done":true}'),
    ]
    for number, part in enumerate([rows] if in_one_file else [[each] for each in rows]):
        bring(store, write_csv(tmp_path / f"{number}.csv", part, FULL))
    changes = [event for event in events_of(store, "a1") if isinstance(event, TransactionStatusChanged)]
    assert [(event.from_status, event.to_status) for event in changes] == [
        ("pending", "frozen"),
        ("frozen", "completed"),
    ]
    assert [event.effective_at for event in changes] == [datetime(2024, 3, 2, tzinfo=UTC), NOW]
    before = streams_of(store)
    again = bring(store, write_csv(tmp_path / "again.csv", rows, FULL))
    assert (again.imported, again.unchanged, again.rejected) == (0, 3, 0)
    assert streams_of(store) == before


def test_a_change_never_stands_before_its_record(store: Store, tmp_path: Path):
    """A change whose row claims an earlier creation still follows the record that it changes."""
    rows = [
        row(1, status="pending", created_at="2024-03-05"),
        row(2, account_id="a1", created_at="2024-03-03"),
        row(1, status="completed", created_at="2024-03-01"),
    ]
    bring(store, write_csv(tmp_path / "t.csv", rows, FULL))
    assert [event.transaction_id for event in events_of(store, "a1")[1:]] == ["t2", "t1", "t1"]


CONFLICTS = {
    "another amount": ({"amount": "11"}, "amount", "known with amount 10, not 11"),
    "another type": ({"type": "debit"}, "type", "known with type credit, not debit"),
    "another account": ({"account_id": "b"}, "transaction_id", "belongs to account 'a1'"),
    "another content": ({"business_code": "x"}, "business_code", "with another business_code"),
    "other metadata": ({"metadata": '{"a":2}'}, "metadata", "with another metadata"),
    "another moment": ({"created_at": "2024-03-09"}, "created_at", "with another created_at"),
    "an illegal status": ({"status": "pending"}, "status", "is completed, which cannot become pending"),
}


@pytest.mark.parametrize("in_one_file", [True, False])
@pytest.mark.parametrize("kind", CONFLICTS)
def test_a_conflicting_duplicate_is_rejected(kind: str, in_one_file: bool, store: Store, tmp_path: Path):
    """Anything else about a known transaction is a reject that says what conflicts; the first row stands."""
    fields, column, reason = CONFLICTS[kind]
    first, second = row(1, metadata='{"a":1}'), row(1, **{"metadata": '{"a":1}'} | fields)
    if not in_one_file:
        bring(store, write_csv(tmp_path / "1.csv", [first]))
    found = bring(store, write_csv(tmp_path / "2.csv", [first, second]))
    (reject,) = rejects_of(found)
    assert (reject["line"], reject["column"], reject["transaction_id"]) == (3, column, "t1")
    assert "conflicting duplicate" in reject["reason"]
    assert reason in reject["reason"]
    assert list(streams_of(store)) == ["a1"]
    assert len(events_of(store, "a1")) == 2


def test_metadata_written_in_another_way_is_the_same(store: Store, tmp_path: Path):
    """Key order and the spelling of numbers and letters make no conflict."""
    bring(store, write_csv(tmp_path / "1.csv", [row(1, metadata='{"a": 1.50, "b": "\\u00e9"}')]))
    assert bring(store, write_csv(tmp_path / "2.csv", [row(1, metadata='{"b":"é","a":1.5}')])).unchanged == 1


def test_a_row_of_a_known_status_may_repeat_what_the_change_said(store: Store, tmp_path: Path):
    """A row that brought a change is unchanged later, and so is one with the first content and that status."""
    change = row(1, status="completed", business_code="late")
    bring(store, write_csv(tmp_path / "1.csv", [row(1, status="pending"), change]))
    rows = [change, row(1, status="completed"), row(1, status="pending")]
    assert bring(store, write_csv(tmp_path / "2.csv", rows)).unchanged == 3


@pytest.mark.parametrize("in_one_file", [True, False])
@pytest.mark.parametrize("code", ["", "late"])
def test_another_moment_of_creation_is_a_conflict_after_a_change_too(
    code: str, in_one_file: bool, store: Store, tmp_path: Path
):
    """A row in the status of now is unchanged only with the created_at of the transaction's record."""
    change = row(1, status="completed", business_code=code)
    rows = [row(1, status="pending"), change]
    other = change | {"created_at": "2024-03-09"}
    if in_one_file:
        found = bring(store, write_csv(tmp_path / "1.csv", [*rows, change, other]))
    else:
        bring(store, write_csv(tmp_path / "1.csv", rows))
        found = bring(store, write_csv(tmp_path / "2.csv", [*rows, change, other]))
    (reject,) = rejects_of(found)
    assert (reject["line"], reject["column"]) == (5, "created_at")
    assert "another created_at" in reject["reason"]


def test_rejected_duplicates_do_not_depend_on_where_the_import_was_killed(store: Store, tmp_path: Path):
    """A transaction in two accounts belongs to the first row's account, now and at the next import."""
    rows = [row(number, transaction_id="t", account_id=f"a{number}") for number in range(20)]
    path = write_csv(tmp_path / "t.csv", rows)
    for imported in (1, 0):
        found = bring(store, path)
        assert (found.imported, found.unchanged, found.rejected) == (imported, 1 - imported, 19)
    assert list(streams_of(store)) == ["a0"]


def _damage(store: Store, kind: str) -> None:
    stream = account_stream("a1", 4)
    with store.appending() as connection:
        store.append_rows(connection, store_rows(stream))
        if kind == "no head":
            connection.execute(HEADS.delete())
        elif kind == "no events":
            connection.execute(EVENTS.delete())
        elif kind == "hole":
            connection.execute(EVENTS.delete().where(EVENTS.c.originator_version == 2))
        elif kind == "lost end":
            connection.execute(EVENTS.delete().where(EVENTS.c.originator_version == 4))
        elif kind == "poison":
            connection.execute(EVENTS.update().where(EVENTS.c.originator_version == 3).values(state=b"{"))
        elif kind == "flip":
            state = encode(stream[1]).replace(b"a1-t2", b"a9-t2")
            connection.execute(EVENTS.update().where(EVENTS.c.originator_version == 2).values(state=state))
        if kind in ("chain", "both chains"):
            connection.execute(EVENTS.update().where(EVENTS.c.originator_version == 4).values(chain=b"x" * 32))
        if kind in ("head's chain", "both chains"):
            connection.execute(HEADS.update().values(chain=b"x" * 32))


DAMAGES = {
    "no head": "it has events but no head",
    "no events": "it has a head but no events",
    "hole": "version 2 is missing, but there is a version 3",
    "lost end": "its last event has version 3, its head says 4",
    "poison": "event at position 3 is unreadable",
    "chain": "the event at position 4 is not the one that was appended (hash chain)",
    "both chains": "the event at position 4 is not the one that was appended (hash chain)",
    "head's chain": "the hash chain of its last event is not its head's",
    "flip": "the event at position 2 is not the one that was appended (hash chain)",
}


@pytest.mark.parametrize("batch_events", [1, 3, 50_000])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_stream_takes_no_rows(
    kind: str, batch_events: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Rows of an account whose stream cannot be continued are rejected with what is broken; others go in."""
    _damage(store, kind)
    monkeypatch.setattr(store, "read", partial(store.read, batch_events=batch_events))
    found = bring(store, write_csv(tmp_path / "t.csv", [row(1), row(2)]))
    (reject,) = rejects_of(found)
    assert (found.imported, reject["line"]) == (1, 2)
    assert f"the stream of account 'a1' cannot be continued: {DAMAGES[kind]}" in reject["reason"]


@pytest.mark.parametrize("batch_events", [1, 3, 50_000])
def test_a_stream_whose_events_stand_in_another_order_is_whole(
    batch_events: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An event that was put back at the end of the store leaves a stream that goes on, and a transaction as it was."""
    rows = [row(1, status="pending"), row(1), row(2, account_id="a1")]
    bring(store, write_csv(tmp_path / "1.csv", rows[:2]))
    with store.writing() as connection:
        connection.execute(EVENTS.update().where(EVENTS.c.originator_version == 2).values(id=9))
    monkeypatch.setattr(store, "read", partial(store.read, batch_events=batch_events))
    found = bring(store, write_csv(tmp_path / "2.csv", rows))
    assert (found.imported, found.unchanged, found.rejected) == (1, 2, 0)


def test_a_dry_run_says_what_would_happen_and_does_not_do_it(store: Store, tmp_path: Path):
    """A dry run counts as the import would, profiles the columns, and leaves the store as it is."""
    bring(store, write_csv(tmp_path / "1.csv", _rows(10)))
    before = streams_of(store)
    path = write_csv(tmp_path / "2.csv", [*_rows(20), row(99, amount="0"), row(98, type="")])
    dry = bring(store, path, dry_run=True)
    assert (dry.imported, dry.unchanged, dry.rejected, dry.events) == (10, 10, 2, 10)
    assert [reject["line"] for reject in rejects_of(dry)] == [22, 23]
    assert streams_of(store) == before
    profile = {column.column: column for column in dry.profile or []}
    assert list(profile) == HEADER
    assert (profile["type"].rows, profile["type"].empty, profile["type"].values) == (22, 1, {"credit": 21})
    assert (profile["transaction_id"].distinct, profile["created_at"].min) == (22, "2024-03-01T00:00:00Z")
    real = bring(store, path)
    assert (real.imported, real.unchanged, real.rejected, real.events) == (10, 10, 2, 10)
    assert real.profile is None


def test_what_others_append_meanwhile_is_seen(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An append between the look at the store and the import's own is read before anything is decided."""
    rows = [row(1, account_id="a"), row(2, account_id="a")]
    ledger = Ledger(store)
    ledger.open("a", effective_at=datetime(2024, 1, 1, tzinfo=UTC))
    appending = store.appending

    def late():
        monkeypatch.undo()
        ledger.credit("a", "t1", 10, effective_at=datetime(2024, 3, 1, 12, tzinfo=UTC))
        ledger.open("b")
        ledger.credit("b", "t2", 10)
        return appending()

    monkeypatch.setattr(store, "appending", late)
    found = bring(store, write_csv(tmp_path / "t.csv", rows))
    assert (found.imported, found.unchanged, found.rejected) == (0, 1, 1)
    assert "belongs to account 'b'" in rejects_of(found)[0]["reason"]
    assert len(streams_of(store)["a"]) == 2
