"""Stuck locks on every database: which accounts they are, what stands in the way, and unlocking them as events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from ledgers import append, lose_event
from samples import opened, recorded
from sqlalchemy import Connection, delete, insert, select, update

from ledger import Ledger, Store, audit
from ledger.read_model import ROW_SCHEMA
from ledger.tables import IMPORTED_ACCOUNTS
from replay import drift
from replay.locks import LIVE_REASON, REASON, Lock, fix_locks, stuck_locks, unlock
from schemas import AMOUNT_MAX, AccountClosed, AccountLocked, AccountUnlocked, decode, event_id, format_time
from schemas.errors import IncompleteError, RefusedError

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
DAY, HOUR, INSTANT = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)
LONG_AGO = NOW - 3 * DAY


def locked(ledger: Ledger, account_id: str, at: datetime = LONG_AGO, **pending: timedelta) -> None:
    """Open an account with some transactions pending for so long, and lock it."""
    ledger.open(account_id, effective_at=LONG_AGO - DAY)
    for name, age in pending.items():
        ledger.credit(account_id, name, 5, status="pending", effective_at=NOW - age)
    ledger.lock(account_id, effective_at=at)


def live_row(store: Store, account_id: str, status: str = "locked", at: datetime | None = LONG_AGO) -> None:
    """Write an imported row with nothing in it."""
    row = {"account_id": account_id, "balance": 0, "frozen_amount": 0, "status": status}
    with store.writing() as connection:
        connection.execute(insert(IMPORTED_ACCOUNTS).values(**row, locked_at=None if at is None else format_time(at)))


def live_rows(store: Store) -> dict[str, tuple[str, str | None]]:
    """Status and time of the imported rows."""
    table = IMPORTED_ACCOUNTS.c
    with store.snapshot() as connection:
        found = connection.execute(select(table.account_id, table.status, table.locked_at)).all()
    return {row.account_id: (row.status, row.locked_at) for row in found}


def head(store: Store) -> int:
    """The position of the newest event."""
    with store.snapshot() as connection:
        return store.head(connection)


def actions(found: list[Lock]) -> dict[str, tuple[str, list[str]]]:
    """What is to be done with each, and what stands in the way."""
    return {lock.account_id: (lock.action, lock.pending_transactions) for lock in found}


def last_events(store: Store, account_id: str, count: int) -> list[Any]:
    """The last events of an account, as structs."""
    with store.snapshot() as connection:
        (found,) = store.read_accounts(connection, [account_id])
    return [decode(state) for state in found["state"].to_list()[-count:]]


def change_live(store: Store, change: str) -> None:
    """Let somebody else change the only imported row."""
    statements = {
        "active": update(IMPORTED_ACCOUNTS).values(status="active", locked_at=None),
        "later": update(IMPORTED_ACCOUNTS).values(locked_at=format_time(NOW)),
        "gone": delete(IMPORTED_ACCOUNTS),
    }
    with store.writing() as connection:
        connection.execute(statements[change])


def imported_frame(account_id: str) -> pl.DataFrame:
    """The rows of a live table in which one account is locked."""
    row = {"account_id": account_id, "balance": 0, "frozen": 0, "status": "locked", "locked_at": LONG_AGO}
    schema = {name: ROW_SCHEMA[name] for name in row}
    return pl.DataFrame([row], schema=schema)


def status_event(cls: Any, account_id: str, version: int, at: datetime) -> Any:
    """An event that is about the account itself."""
    return cls(
        event_id=event_id(account_id, version), account_id=account_id, version=version, effective_at=at, recorded_at=at
    )


class LocksContract:
    """What holds on every database."""

    @pytest.fixture
    def ledger(self, store: Store) -> Ledger:
        """A ledger whose clock stands."""
        return Ledger(store, clock=lambda: NOW)

    def test_a_lock_is_stuck_after_more_than_a_day(self, store: Store, ledger: Ledger) -> None:
        """A lock of exactly a day is not yet stuck; one that is a microsecond older is, and says how old it is."""
        locked(ledger, "young", NOW - DAY)
        locked(ledger, "old", NOW - DAY - INSTANT)
        (found,) = stuck_locks(store, now=NOW).found
        assert (found.account_id, found.action, found.locked_at) == ("old", "unlocked", NOW - DAY - INSTANT)
        assert (found.locked_seconds, found.in_log) == (86_400, True)

    def test_what_is_pending_for_more_than_an_hour_needs_a_person(self, store: Store, ledger: Ledger) -> None:
        """Exactly an hour waits, naming all that is pending; more does not, naming just those that are too old."""
        locked(ledger, "waits", t1=HOUR, t2=timedelta(), t3=-HOUR)
        locked(ledger, "stuck", t1=HOUR, t2=HOUR + INSTANT, t3=2 * HOUR)
        assert actions(stuck_locks(store, now=NOW).found) == {
            "stuck": ("manual_intervention_required", ["t3", "t2"]),
            "waits": ("waiting", ["t1", "t2", "t3"]),
        }

    def test_only_pending_transactions_stand_in_the_way(self, store: Store, ledger: Ledger) -> None:
        """Frozen points and transactions that are settled keep no account locked."""
        ledger.open("a", effective_at=LONG_AGO)
        ledger.credit("a", "t1", 50, effective_at=LONG_AGO)
        ledger.freeze("a", "t2", 20, effective_at=LONG_AGO)
        ledger.credit("a", "t3", 5, status="pending", effective_at=LONG_AGO)
        ledger.lock("a", effective_at=LONG_AGO)
        assert actions(stuck_locks(store, now=NOW).found)["a"] == ("manual_intervention_required", ["t3"])
        ledger.cancel("a", "t3")
        assert actions(stuck_locks(store, now=NOW).found)["a"] == ("unlocked", [])

    def test_the_last_lock_counts(self, store: Store, ledger: Ledger) -> None:
        """An account that was unlocked is none of them, and one that was locked again is as old as its last lock."""
        locked(ledger, "unlocked")
        ledger.unlock("unlocked", effective_at=LONG_AGO + HOUR)
        locked(ledger, "again")
        ledger.unlock("again", effective_at=LONG_AGO + HOUR)
        ledger.lock("again", effective_at=NOW - HOUR)
        ledger.open("closed", effective_at=LONG_AGO)
        ledger.close("closed", effective_at=LONG_AGO)
        assert stuck_locks(store, now=NOW).found == []

    def test_an_account_that_was_closed_is_not_brought_back(self, store: Store) -> None:
        """One that was closed and locked after that is not unlocked: it would be open again."""
        ends = [status_event(AccountClosed, "a", 2, LONG_AGO), status_event(AccountLocked, "a", 3, LONG_AGO)]
        append(store, opened("a"), *ends)
        (found,) = stuck_locks(store, now=NOW).found
        assert found.action == "failed"
        assert "closed (version 2)" in found.words

    def test_a_live_row_counts_where_the_log_says_nothing(self, store: Store, ledger: Ledger) -> None:
        """Of an account without a status event the imported row counts, by the same rules; otherwise the log does."""
        for name in ("quiet", "pending", "told", "active"):
            ledger.open(name, effective_at=LONG_AGO)
            live_row(store, name, "active" if name == "active" else "locked")
        ledger.credit("pending", "t1", 5, status="pending", effective_at=NOW - 2 * HOUR)
        ledger.lock("told", effective_at=LONG_AGO)
        ledger.unlock("told", effective_at=LONG_AGO + HOUR)
        live_row(store, "unheard of")
        found = stuck_locks(store, now=NOW).found
        assert actions(found) == {
            "pending": ("manual_intervention_required", ["t1"]),
            "quiet": ("unlocked", []),
            "unheard of": ("failed", []),
        }
        assert not any(lock.in_log for lock in found)
        assert stuck_locks(store, now=NOW, live=None).found == []

    def test_a_live_lock_without_a_time_is_named(self, store: Store, ledger: Ledger) -> None:
        """A row that is locked since nobody knows when is no stuck lock, and not passed over in silence."""
        ledger.open("a", effective_at=LONG_AGO)
        live_row(store, "a", at=None)
        found = stuck_locks(store, now=NOW)
        assert (found.found, found.without_time) == ([], ["a"])

    def test_a_parked_account_is_not_unlocked(self, store: Store, ledger: Ledger) -> None:
        """Of an account whose stream is not whole nothing is known, whichever side says that it is locked."""
        locked(ledger, "log", t1=HOUR)
        locked(ledger, "lost its lock")
        ledger.cancel("log", "t1")
        ledger.open("live", effective_at=LONG_AGO)
        ledger.credit("live", "t1", 5, effective_at=LONG_AGO)
        live_row(store, "live")
        live_row(store, "lost its lock")
        lose_event(store, "log", 4)
        lose_event(store, "live", 2)
        lose_event(store, "lost its lock", 2)
        found = stuck_locks(store, now=NOW)
        assert actions(found.found) == dict.fromkeys(("live", "log", "lost its lock"), ("failed", []))
        assert all("its stream is not whole" in lock.words for lock in found.found)
        assert found.certificate.verdict == "INCOMPLETE"
        before = head(store)
        assert [each.success for each in fix_locks(ledger, found.found, by="ada")] == [False, False, False]
        assert head(store) == before

    def test_unlocking_appends_an_event_with_its_reason(self, store: Store, ledger: Ledger) -> None:
        """An account that only the log locked has one event more, and once unlocked nothing is done again."""
        locked(ledger, "a")
        written: list[str] = []

        def beside(connection: Connection) -> None:
            written.append(str(store.head(connection)))

        assert unlock(ledger, "a", locked_at=LONG_AGO, reason="why", beside=beside)
        (event,) = last_events(store, "a", 1)
        assert isinstance(event, AccountUnlocked)
        assert (event.reason, event.effective_at) == ("why", NOW)
        after = head(store)
        assert not unlock(ledger, "a", locked_at=LONG_AGO, reason="why", beside=beside)
        assert (head(store), written) == (after, [str(after)])

    def test_a_lock_that_only_live_knew_comes_into_the_log_first(self, store: Store, ledger: Ledger) -> None:
        """The lock is appended effective when the row says, then the unlock, and the row is active: live is EQUAL."""
        ledger.open("a", effective_at=LONG_AGO)
        live_row(store, "a")
        (done,) = fix_locks(ledger, stuck_locks(store, now=NOW).found, by="ada", reason="why")
        assert (done.action, done.success) == ("unlocked", True)
        lock, unlocking = last_events(store, "a", 2)
        assert (type(lock), lock.effective_at, lock.reason) == (AccountLocked, LONG_AGO, LIVE_REASON)
        assert (type(unlocking), unlocking.effective_at, unlocking.reason) == (AccountUnlocked, NOW, "why")
        assert live_rows(store) == {"a": ("active", None)}
        assert drift(store).verdict == "EQUAL"

    def test_an_imported_row_that_agreed_still_does(self, store: Store, ledger: Ledger) -> None:
        """Where log and imported row were locked at one time, both are active after it; another row stays as it is."""
        for name in ("same", "other"):
            locked(ledger, name)
        live_row(store, "same")
        live_row(store, "other", at=LONG_AGO + HOUR)
        assert [each.success for each in fix_locks(ledger, stuck_locks(store, now=NOW).found, by="ada")] == [True, True]
        assert live_rows(store) == {"same": ("active", None), "other": ("locked", format_time(LONG_AGO + HOUR))}

    @pytest.mark.parametrize("change", ["active", "later", "gone"])
    def test_a_live_row_that_moved_on_keeps_the_log_as_it_is(self, store: Store, ledger: Ledger, change: str) -> None:
        """Where only the row was locked, and says something else by now, nothing is appended and nothing written."""
        ledger.open("a", effective_at=LONG_AGO)
        live_row(store, "a")
        found = stuck_locks(store, now=NOW).found
        change_live(store, change)
        before = head(store), live_rows(store)
        (done,) = fix_locks(ledger, found, by="ada")
        assert (done.action, done.success) == ("failed", False)
        assert "says something else by now" in done.words
        assert (head(store), live_rows(store)) == before

    def test_an_account_that_moved_on_stays_locked(self, store: Store, ledger: Ledger) -> None:
        """One that was locked again since, or has a pending transaction by now, is refused, and the others are done."""
        for name in ("again", "pending", "fine"):
            locked(ledger, name)
        found = stuck_locks(store, now=NOW).found
        ledger.unlock("again", effective_at=NOW - HOUR)
        ledger.lock("again", effective_at=NOW - HOUR)
        ledger.unlock("pending", effective_at=NOW - HOUR)
        ledger.credit("pending", "t1", 5, status="pending", effective_at=NOW)
        ledger.lock("pending", effective_at=LONG_AGO)
        done = {each.lock.account_id: each for each in fix_locks(ledger, found, by="ada")}
        assert [done[name].action for name in ("again", "pending", "fine")] == ["failed", "failed", "unlocked"]
        assert "locked again" in done["again"].words
        assert "has a pending transaction" in done["pending"].words

    def test_what_fails_beside_it_takes_the_unlock_back(self, store: Store, ledger: Ledger) -> None:
        """Events, the imported row and what is written beside them are one transaction."""
        ledger.open("a", effective_at=LONG_AGO)
        live_row(store, "a")
        before = head(store), live_rows(store)

        def fails(connection: Connection) -> None:
            raise RefusedError("no")

        with pytest.raises(RefusedError, match="no"):
            unlock(ledger, "a", locked_at=LONG_AGO, reason="why", beside=fails)
        assert (head(store), live_rows(store)) == before

    def test_what_is_done_about_locks_is_in_the_audit_trail(
        self, store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unlock and its entry are one transaction; who needs a person stands there with what is pending."""
        locked(ledger, "a")
        locked(ledger, "b")
        locked(ledger, "c", old=2 * HOUR)
        real = audit.append

        def append_but_a(connection: Connection, ledger_id: str, entries: Sequence[audit.Entry]) -> audit.Head:
            if [(each.action, each.account_id) for each in entries] == [("account.unlocked", "a")]:
                raise RefusedError("no")
            return real(connection, ledger_id, entries)

        monkeypatch.setattr(audit, "append", append_but_a)
        fix_locks(ledger, stuck_locks(store, now=NOW).found, by="ada")
        assert [ledger.account(name).status for name in ("a", "b", "c")] == ["locked", "active", "locked"]
        with store.snapshot() as connection:
            found = audit.entries(connection)
            assert audit.verify(connection, store.ledger_id).first_bad is None
        since = {"locked_at": format_time(LONG_AGO), "locked_seconds": 3 * 24 * 3_600}
        assert [(each.action, each.by, each.account_id) for each in found] == [
            ("account.unlocked", "ada", "b"),
            ("account.not_unlocked", "ada", "a"),
            ("account.not_unlocked", "ada", "c"),
        ]
        assert found[0].details == {**since, "reason": REASON}
        assert found[1].details == {**since, "reason": "no", "pending_transactions": []}
        assert found[2].details["pending_transactions"] == ["old"]

    def test_an_account_that_was_damaged_since_ends_nothing(self, store: Store, ledger: Ledger) -> None:
        """What cannot be read by now is told as failed, with its reason, and the next account is unlocked."""
        for name in ("a", "b"):
            locked(ledger, name)
        found = stuck_locks(store, now=NOW).found
        lose_event(store, "a", 1)
        with pytest.raises(IncompleteError):
            unlock(ledger, "a", locked_at=LONG_AGO, reason="why")
        assert [each.action for each in fix_locks(ledger, found, by="ada")] == ["failed", "unlocked"]

    def test_a_sum_past_int64_leaves_the_lock_to_a_person(self, store: Store, ledger: Ledger) -> None:
        """An account that is parked for its sums is not unlocked by itself."""
        lock = status_event(AccountLocked, "a", 4, LONG_AGO)
        append(store, opened("a"), recorded("a", 2, AMOUNT_MAX), recorded("a", 3, AMOUNT_MAX), lock)
        (found,) = stuck_locks(store, now=NOW).found
        assert found.action == "failed"
        assert "overflow" in found.words

    def test_of_another_live_table_only_the_log_is_written(self, store: Store, ledger: Ledger) -> None:
        """Locks of given rows are judged in the same way, and the imported copy is left alone."""
        ledger.open("a", effective_at=LONG_AGO)
        live_row(store, "a", "active", None)
        rows = imported_frame("a")
        (found,) = stuck_locks(store, now=NOW, live=rows).found
        assert (found.action, found.in_log) == ("unlocked", False)
        assert unlock(ledger, "a", locked_at=LONG_AGO, reason="why", is_imported=False)
        assert [type(event) for event in last_events(store, "a", 2)] == [AccountLocked, AccountUnlocked]
        assert live_rows(store) == {"a": ("active", None)}

    def test_any_moment_can_be_now(self, store: Store, ledger: Ledger) -> None:
        """At the beginning of time nothing is stuck; at its end everything is."""
        locked(ledger, "a")
        assert stuck_locks(store, now=datetime(1, 1, 1, tzinfo=UTC)).found == []
        assert len(stuck_locks(store, now=datetime(9999, 12, 31, tzinfo=UTC)).found) == 1


class TestLocksOnSqlite(LocksContract, OnSqlite):
    """On SQLite."""


class TestLocksOnPostgres(LocksContract, OnPostgres):
    """On PostgreSQL."""
