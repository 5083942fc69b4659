"""What recovery runs are on every database: kept as events, and changed whole or not at all, one at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from databases import OnPostgres, OnSqlite
from sqlalchemy import insert, select, update

from ledger import Ledger, Store
from ledger.recovery_runs import Runs
from ledger.recovery_tables import AUDIT_HEAD, RECOVERY_EVENTS
from schemas.errors import RunRefused, StoreError

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
RUN = "recovery-0123456789abcdef"


def approve(runs: Runs, run: str = RUN) -> None:
    """Approve the plan of a run."""
    with runs.changing(run) as (found, _):
        found.approve(plan_hash="h", by="ann", reason="seen", at=NOW, expires_at=NOW + timedelta(days=1))


def start(runs: Runs, by: str) -> str:
    """Start a run; return who did, or that it was refused."""
    try:
        with runs.changing(RUN) as (found, _):
            found.start(by=by, at=NOW)
    except RunRefused:
        return "refused"
    return by


def mark(connection, number: int) -> None:
    """Write something beside a run."""
    connection.execute(insert(AUDIT_HEAD).values(id=1, number=number, hash=b""))


class RunsContract:
    @pytest.fixture
    def runs(self, store: Store) -> Runs:
        """The runs of an empty store."""
        return Runs(store)

    def test_a_run_is_what_its_stored_events_say(self, store, runs):
        """A run that was approved, started and worked on reads the same in another process's hands."""
        assert runs.get(RUN) is None
        approve(runs)
        with runs.changing(RUN) as (run, _):
            run.start(by="bob", at=NOW)
            run.complete_step("check", {"severity": "minor", "accounts": 2**53}, NOW)
            run.note_progress(100, 400, NOW)
        again = Runs(store).get(RUN)
        assert again == run
        assert (again.status, again.version, again.started_by) == ("running", 4, "bob")
        assert again.steps == {"check": {"severity": "minor", "accounts": 2**53}}
        assert again.progress == (100, 400)
        with store.snapshot() as connection:
            topics = connection.execute(select(RECOVERY_EVENTS.c.topic).order_by(RECOVERY_EVENTS.c.id)).scalars().all()
        assert topics == ["run.approved", "run.started", "run.step_completed", "run.progress"]

    def test_runs_are_listed_in_the_order_that_they_began_in(self, runs):
        """Later events of a run do not move it."""
        assert runs.listed() == []
        for run in ("recovery-b", "recovery-a", "recovery-b"):
            approve(runs, run)
        assert [(run.id, len(run.approvals)) for run in runs.listed()] == [("recovery-b", 2), ("recovery-a", 1)]

    def test_events_and_the_writes_beside_them_are_committed_together(self, store, runs):
        """What the caller writes on the connection, and commands of a ledger on the store, are there with the event."""
        ledger = Ledger(store)
        with runs.changing(RUN) as (run, connection):
            run.approve(plan_hash="h", by="ann", reason="seen", at=NOW, expires_at=NOW)
            mark(connection, 7)
            ledger.open("a")
        with store.snapshot() as connection:
            assert connection.execute(select(AUDIT_HEAD.c.number)).scalars().all() == [7]
        assert runs.get(RUN).version == ledger.account("a").version == 1

    def test_an_error_leaves_neither_event_nor_write(self, store, runs):
        """Whatever ends the block with an error takes the run's events and the caller's writes with it."""
        ledger = Ledger(store)

        def change_and_fail() -> None:
            with runs.changing(RUN) as (run, connection):
                run.approve(plan_hash="h", by="ann", reason="seen", at=NOW, expires_at=NOW)
                mark(connection, 7)
                ledger.open("a")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            change_and_fail()
        with store.snapshot() as connection:
            assert connection.execute(select(AUDIT_HEAD)).all() == []
            assert store.head(connection) == 0
        assert runs.get(RUN) is None

    def test_a_refused_command_leaves_nothing(self, store, runs):
        """A run that is refused what it was asked for is as it was, and so is what stood beside it."""
        approve(runs)

        def start_twice() -> None:
            with runs.changing(RUN) as (run, connection):
                mark(connection, 7)
                run.start(by="bob", at=NOW)
                run.start(by="bob", at=NOW)

        with pytest.raises(RunRefused, match="resume"):
            start_twice()
        assert runs.get(RUN).status == "approved"
        with store.snapshot() as connection:
            assert connection.execute(select(AUDIT_HEAD)).all() == []

    def test_of_many_who_start_a_run_one_does(self, url, runs):
        """Each of several at once decides on what the one before it left: one starts, the others are refused."""
        approve(runs)
        stores = [Store(url) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda number: start(Runs(stores[number]), f"operator {number}"), range(4)))
        for each in stores:
            each.close()
        assert said.count("refused") == 3
        assert runs.get(RUN).started_by in said
        assert runs.get(RUN).version == 2

    @pytest.mark.parametrize("state", [b"{", b'{"type":"run.unknown"}', b"\xff\xfe"])
    def test_an_event_that_cannot_be_read_is_named(self, store, runs, state):
        """A damaged event is an error that names run and event, not a run without it."""
        approve(runs)
        with store.writing() as connection:
            connection.execute(update(RECOVERY_EVENTS).values(state=state))
        with pytest.raises(StoreError, match=f"{RUN}' event 1"):
            runs.get(RUN)


class TestSqliteRuns(OnSqlite, RunsContract):
    pass


class TestPostgresRuns(OnPostgres, RunsContract):
    pass
