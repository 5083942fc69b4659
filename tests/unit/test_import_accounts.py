"""Account rows: the live table as it is, or opening balances as events."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from imports import NOW, bring, events_of, rejects_of, row, streams_of, write_csv
from sqlalchemy import select

from ledger import Ledger, Store
from ledger.importing import FileSource, Imported, Mapping, import_accounts
from ledger.tables import IMPORTED_ACCOUNTS
from replay import drift
from schemas.errors import UsageError

HEADER = ["account_id", "balance", "frozen_amount", "status", "locked_at"]
T = datetime(2024, 1, 1, tzinfo=UTC)


def _row(
    account: str, balance: object = 0, frozen: object = 0, status: str = "active", locked: str = ""
) -> dict[str, str]:
    values = (account, str(balance), str(frozen), status, locked)
    return dict(zip(HEADER, values, strict=True))


def _bring(store: Store, tmp_path: Path, rows: list[dict[str, str]], **options: Any) -> Imported:
    path = write_csv(tmp_path / "accounts.csv", rows, HEADER)
    return import_accounts(store, FileSource(path), now=NOW, rejects=tmp_path / "rejects.csv", **options)


def _kept(store: Store) -> list[tuple[Any, ...]]:
    with store.snapshot() as connection:
        return sorted(tuple(each) for each in connection.execute(select(*IMPORTED_ACCOUNTS.columns)))


def test_rows_are_kept_as_the_live_table_has_them(store: Store, tmp_path: Path):
    """Account rows become rows to compare with, damaged values included, and no events."""
    rows = [_row("a", -(2**63), 2**63 - 1, "locked", "2024-03-01T12:00:00Z"), _row("b", 5)]
    found = _bring(store, tmp_path, rows)
    assert (found.imported, found.unchanged, found.rejected, found.events) == (2, 0, 0, 0)
    assert _kept(store) == [
        ("a", -(2**63), 2**63 - 1, "locked", "2024-03-01T12:00:00.000000Z"),
        ("b", 5, 0, "active", None),
    ]
    assert streams_of(store) == {}


def test_the_same_rows_again_are_unchanged_and_others_replace(store: Store, tmp_path: Path):
    """A second import writes only what differs."""
    _bring(store, tmp_path, [_row("a", 1), _row("b", 2)])
    found = _bring(store, tmp_path, [_row("a", 1), _row("b", 3), _row("c", 4), _row("c", 4)])
    assert (found.imported, found.unchanged) == (2, 2)
    assert [each[:2] for each in _kept(store)] == [("a", 1), ("b", 3), ("c", 4)]


@pytest.mark.parametrize(
    ("bad", "column", "reason"),
    [
        (_row(""), "account_id", "account_id is missing"),
        (_row("x" * 256), "account_id", "longer than 255"),
        (_row("b", ""), "balance", "balance is missing"),
        (_row("b", "1.5"), "balance", "balance must be an integer of 64 bits: '1.5'"),
        (_row("b", 2**63), "balance", "integer of 64 bits"),
        (_row("b", 1, "x"), "frozen_amount", "frozen_amount must be an integer"),
        (_row("b", 1, 0, "sleeping"), "status", "unknown status 'sleeping'"),
        (_row("b", 1, 0, "locked", "then"), "locked_at", "locked_at is no time"),
        (_row("a", 2), "account_id", "conflicting duplicate"),
        (_row("b\0"), "", "NUL"),
    ],
)
def test_a_bad_row_is_rejected(bad, column: str, reason: str, store: Store, tmp_path: Path):
    """A bad account row is named with line, column and reason, opening or not; the others go in."""
    for opening in (None, T):
        found = _bring(store, tmp_path, [_row("a", 1), bad], as_opening_at=opening)
        (reject,) = rejects_of(found)
        assert (found.imported, reject["line"], reject["column"] or "") == (1, 3, column)
        assert reason in reject["reason"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("replace", [True, False])
def test_rows_that_the_file_lacks_are_counted_and_removed_on_request(
    replace: bool, dry_run: bool, store: Store, tmp_path: Path
):
    """Rows of earlier imports that are not in the file are counted, and go with `replace`; a rejected row is in it."""
    assert _bring(store, tmp_path, [_row(name, 1) for name in "abcd"]).absent == 0
    rows = [_row("a", 1), _row("b", "x"), _row("e", 5)]
    found = _bring(store, tmp_path, rows, replace=replace, dry_run=dry_run)
    assert (found.imported, found.unchanged, found.rejected, found.absent) == (1, 1, 1, 2)
    gone = "cd" if replace and not dry_run else ""
    new = "" if dry_run else "e"
    assert [each[0] for each in _kept(store)] == [name for name in "abcd" if name not in gone] + list(new)


def test_openings_replace_nothing(store: Store, tmp_path: Path):
    """Opening balances are events, so a request to replace rows with them is bad usage."""
    with pytest.raises(UsageError, match="replace nothing"):
        _bring(store, tmp_path, [_row("a", 1)], as_opening_at=T, replace=True)


def test_a_missing_column_is_bad_usage(store: Store, tmp_path: Path):
    """A file without balances is no accounts table."""
    path = write_csv(tmp_path / "t.csv", [{"account_id": "a"}], ["account_id"])
    with pytest.raises(UsageError, match="column 'balance' is missing"):
        import_accounts(store, FileSource(path), now=NOW, rejects=tmp_path / "r.csv")


def test_a_dry_run_keeps_nothing(store: Store, tmp_path: Path):
    """A dry run counts and profiles, and keeps no row and no event."""
    for opening in (None, T):
        found = _bring(store, tmp_path, [_row("a", 1), _row("b", 0)], as_opening_at=opening, dry_run=True)
        assert found.imported == 2
        assert [column.column for column in found.profile or []] == HEADER
    assert found.events == 3
    assert (_kept(store), streams_of(store)) == ([], {})


def test_openings_are_events_with_the_rows_balances(store: Store, tmp_path: Path):
    """An opening gives the account its balance, its hold and its status at one moment."""
    rows = [
        _row("plus", 100, 30),
        _row("minus", -40),
        _row("nothing"),
        _row("locked", 7, 0, "locked"),
        _row("closed", 0, 0, "closed"),
    ]
    found = _bring(store, tmp_path, rows, as_opening_at=T)
    assert (found.imported, found.events, found.rejected) == (5, 11, 0)
    ledger = Ledger(store)
    accounts = {each["account_id"]: ledger.account(each["account_id"]) for each in rows}
    assert {name: (account.balance, account.frozen, account.status) for name, account in accounts.items()} == {
        "plus": (100, 30, "active"),
        "minus": (-40, 0, "active"),
        "nothing": (0, 0, "active"),
        "locked": (7, 0, "locked"),
        "closed": (0, 0, "closed"),
    }
    events = events_of(store, "plus")
    assert [event.transaction_id for event in events[1:]] == ["opening:plus", "opening-hold:plus"]
    assert {(event.business_code, event.to_status) for event in events[1:]} == {
        ("opening", "completed"),
        ("opening", "frozen"),
    }
    assert {event.effective_at for event in events} == {T}


def test_openings_again_change_nothing(store: Store, tmp_path: Path):
    """The same openings again are unchanged, also after the ledger has gone on; others conflict."""
    rows = [_row("a", 100, 30), _row("b", 0), _row("c", 1, 0, "locked")]
    _bring(store, tmp_path, rows, as_opening_at=T)
    ledger = Ledger(store)
    ledger.credit("a", "t1", 5)
    ledger.unlock("c")
    before = streams_of(store)
    found = _bring(store, tmp_path, rows, as_opening_at=T)
    assert (found.imported, found.unchanged, found.rejected) == (0, 3, 0)
    for other, at in (([_row("a", 101, 30)], T), ([_row("a", 100, 31)], T), ([_row("a", 100, 30)], NOW)):
        (reject,) = rejects_of(_bring(store, tmp_path, other, as_opening_at=at))
        assert "conflicting duplicate" in reject["reason"]
    assert streams_of(store) == before


def test_an_opening_never_counts_history_twice(store: Store, tmp_path: Path):
    """An account with transactions before the opening's moment is refused, one with later ones is not."""
    old, new = row(1, account_id="old", created_at="2023-12-31"), row(2, account_id="new", created_at="2024-01-01")
    bring(store, write_csv(tmp_path / "t.csv", [old, new]))
    found = _bring(store, tmp_path, [_row("old", 10), _row("new", 10)], as_opening_at=T)
    (reject,) = rejects_of(found)
    assert "count them twice" in reject["reason"]
    assert Ledger(store).account("new").balance == 20


@pytest.mark.parametrize(("balance", "frozen"), [(100, 0), (0, 5), (0, 0)])
def test_a_row_before_the_opening_balance_is_rejected(balance: int, frozen: int, store: Store, tmp_path: Path):
    """What happened before an opening balance is in it, so a later import of such rows is refused; others go in."""
    _bring(store, tmp_path, [_row("a", balance, frozen), _row("b", 7)], as_opening_at=T)
    early = row(1, account_id="a", created_at="2023-12-31T23:59:59.999999Z")
    at, other = row(2, account_id="a", created_at="2024-01-01"), row(3, account_id="c", created_at="2023-12-01")
    found = bring(store, write_csv(tmp_path / "t.csv", [early, at, other]))
    (reject,) = rejects_of(found)
    assert (found.imported, reject["line"], reject["column"]) == (2, 2, "created_at")
    assert "before the opening balance of account 'a' at 2024-01-01T00:00:00Z" in reject["reason"]
    assert Ledger(store).account("a").balance == balance + 10
    assert bring(store, write_csv(tmp_path / "t.csv", [early, at, other])).unchanged == 2


def test_an_account_that_history_opened_takes_older_rows(store: Store, tmp_path: Path):
    """Without an opening balance a later import may bring older rows."""
    bring(store, write_csv(tmp_path / "1.csv", [row(1, account_id="a")]))
    old = row(2, account_id="a", created_at="2020-01-01")
    assert bring(store, write_csv(tmp_path / "2.csv", [old])).imported == 1


def test_a_locked_opening_is_what_the_live_table_has(store: Store, tmp_path: Path):
    """An opening's lock is effective when the row says, else at the opening, so that the same rows do not drift."""
    rows = [_row("a", 5, 0, "locked", "2023-11-05T01:02:03.000004Z"), _row("b", 5, 0, "locked"), _row("c", 1, 1)]
    _bring(store, tmp_path, rows, as_opening_at=T)
    assert [event.effective_at for event in events_of(store, "a")] == [
        T,
        T,
        datetime(2023, 11, 5, 1, 2, 3, 4, tzinfo=UTC),
    ]
    assert {event.effective_at for event in events_of(store, "b")} == {T}
    _bring(store, tmp_path, rows)
    assert drift(store).verdict == "EQUAL"
    again = _bring(store, tmp_path, rows, as_opening_at=T)
    assert (again.unchanged, again.events) == (3, 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (_row("a", 1, -1), "there is no such hold"),
        (_row("a", -(2**63)), "past what one transaction may hold"),
        (_row("x" * 250, 1), "opening's own id would be too long"),
    ],
)
def test_what_no_event_can_say_is_rejected(bad, reason: str, store: Store, tmp_path: Path):
    """A live row that no transaction could open is a reject, not a wrong event."""
    (reject,) = rejects_of(_bring(store, tmp_path, [bad], as_opening_at=T))
    assert reason in reject["reason"]
    assert streams_of(store) == {}


def test_points_and_statuses_are_mapped(store: Store, tmp_path: Path):
    """Decimal scale and status names of a foreign table become ours."""
    mapping = Mapping(amount_scale=2, statuses={"ok": "active", "done": "completed"})
    assert _bring(store, tmp_path, [_row("a", "-12.34", "0.5", "ok")], mapping=mapping).rejected == 0
    assert _kept(store) == [("a", -1234, 50, "active", None)]
