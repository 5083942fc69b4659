"""What lease and fence are on every database: one operator has the one, and nobody gets past the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from copies import ListCopy
from databases import OnPostgres, OnSqlite
from imports import bring, row, write_csv
from samples import account_stream, recorded, store_rows
from sqlalchemy import func, select

from consumers.projector import project
from ledger import Ledger, Store, fence
from ledger.importing import FileSource, import_accounts, import_events
from ledger.importing.healing import heal
from ledger.recovery_runs import Runs
from ledger.tables import EVENTS, IMPORTED_ACCOUNTS
from replay.rebuild import promote_generation, rebuild
from schemas import encode
from schemas.errors import CommandRefused, LedgerFenced, PositionMoved, RefusedError

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
LEASE = timedelta(minutes=5)
WRITERS = 3


def take(store: Store, run: str, holder: str, now: datetime = NOW) -> fence.Fence:
    """Take the lease in a transaction of its own."""
    with store.writing() as connection:
        return fence.take(connection, run, holder, now=now, lease=LEASE)


def renew(store: Store, run: str, holder: str, now: datetime = NOW) -> fence.Fence:
    """Renew the lease in a transaction of its own."""
    with store.writing() as connection:
        return fence.renew(connection, run, holder, now=now, lease=LEASE)


def release(store: Store, run: str, holder: str) -> None:
    """Give the lease back in a transaction of its own."""
    with store.writing() as connection:
        fence.release(connection, run, holder)


def raise_fence(store: Store, run: str = "r") -> int:
    """Take the lease and raise the fence; return the head of the store in that transaction."""
    with store.writing() as connection:
        fence.take(connection, run, "h", now=NOW, lease=LEASE)
        assert fence.raise_fence(connection, run, "ann", NOW)
        return store.head(connection)


def lift(store: Store, run: str = "r") -> bool:
    """Lift the fence and give the lease back."""
    with store.writing() as connection:
        is_lifted = fence.lift(connection, run)
        fence.release(connection, run, "h")
        return is_lifted


def state(store: Store) -> fence.Fence | None:
    """Return who has the lease and whether a fence stands."""
    with store.snapshot() as connection:
        return fence.state(connection)


def write_until_fenced(url: str, name: str, began: Callable[[], None], stop: threading.Event) -> int:
    """Credit an account until the fence says no, or `stop`; return how many were taken."""
    store = Store(url)
    ledger = Ledger(store)
    taken = 0
    try:
        while not stop.is_set():
            ledger.credit("a", f"{name}-{taken}", 1)
            taken += 1
            began()
        raise AssertionError("no fence said no")
    except LedgerFenced:
        return taken
    finally:
        store.close()


class LeaseContract:
    def test_one_operator_has_the_lease(self, store):
        """Whoever comes second is refused and told who has it, of the same run and of another one."""
        assert take(store, "r", "ann on db1") == ("r", "ann on db1", "2026-05-01T03:05:00.000000Z", None, None)
        for run in ("r", "other"):
            with pytest.raises(RefusedError, match="ann on db1 has the lease until 2026-05-01T03:05") as refused:
                take(store, run, "bob on db2")
            assert refused.value.where == "run 'r'"
        assert state(store).holder == "ann on db1"

    def test_of_many_at_once_one_gets_it(self, url):
        """However many ask at the same moment of an empty store, exactly one has the lease."""
        stores = [Store(url) for _ in range(5)]

        def wins(number: int) -> bool:
            try:
                return take(stores[number], f"r{number}", f"h{number}").holder == f"h{number}"
            except RefusedError:
                return False

        with ThreadPoolExecutor(5) as pool:
            won = list(pool.map(wins, range(5)))
        assert won.count(True) == 1
        assert state(stores[0]).holder == f"h{won.index(True)}"
        for each in stores:
            each.close()

    def test_an_expired_lease_can_be_taken_and_who_lost_it_notices(self, store):
        """Until its last moment a lease holds; after it another takes it, and the first one's next renewal fails."""
        take(store, "r", "ann")
        with pytest.raises(RefusedError):
            take(store, "r", "bob", NOW + LEASE)
        assert take(store, "r", "bob", NOW + LEASE + timedelta(microseconds=1)).holder == "bob"
        with pytest.raises(PositionMoved, match="bob goes on with run 'r'"):
            renew(store, "r", "ann")
        release(store, "r", "ann")
        assert state(store).holder == "bob"

    def test_a_renewed_lease_lasts(self, store):
        """Each renewal counts from its own moment; one that was released is nobody's."""
        take(store, "r", "ann")
        assert renew(store, "r", "ann", NOW + LEASE).held_until == "2026-05-01T03:10:00.000000Z"
        with pytest.raises(RefusedError):
            take(store, "r", "bob", NOW + 2 * LEASE)
        release(store, "r", "ann")
        assert state(store) is None
        with pytest.raises(PositionMoved, match="nobody has it now"):
            renew(store, "r", "ann")
        assert take(store, "other", "bob").run == "other"

    def test_a_lease_of_a_store_is_not_one_of_another_run(self, store):
        """A holder who goes on to another run has lost the lease of the one before."""
        take(store, "r", "ann")
        take(store, "other", "ann")
        with pytest.raises(PositionMoved, match="ann goes on with run 'other'"):
            renew(store, "r", "ann")

    def test_only_its_own_run_gets_past_a_fence(self, store):
        """When the process is gone and its lease has expired, its run can be resumed, and no other begun."""
        raise_fence(store)
        later = NOW + 2 * LEASE
        with pytest.raises(RefusedError, match="its fence stands since 2026-05-01T03:00") as refused:
            take(store, "other", "bob", later)
        assert "recover abort" in refused.value.next_step
        assert take(store, "r", "bob", later) == (
            "r",
            "bob",
            "2026-05-01T03:15:00.000000Z",
            "2026-05-01T03:00:00.000000Z",
            "ann",
        )

    def test_a_fence_needs_the_lease(self, store):
        """A run without the lease raises no fence; raised again by its own run, it stays as it was."""
        for _ in range(2):
            with pytest.raises(RefusedError, match="does not have the lease"), store.writing() as connection:
                fence.raise_fence(connection, "other", "bob", NOW)
            take(store, "r", "h")
        raise_fence(store)
        with store.writing() as connection:
            assert not fence.raise_fence(connection, "r", "bob", NOW + LEASE)
        assert state(store).fenced_by == "ann"

    def test_a_fence_outlives_the_lease_and_only_its_own_run_lifts_it(self, store):
        """Giving the lease back, or lifting for another run, leaves the fence; lifting it leaves nothing."""
        raise_fence(store)
        release(store, "r", "h")
        assert not lift(store, "other")
        found = state(store)
        assert (found.run, found.holder, found.is_up) == ("r", None, True)
        assert lift(store)
        assert not lift(store)
        assert state(store) is None


class FenceContract:
    def test_no_command_is_taken_while_fenced(self, store, ledger):
        """Every command that would append is refused by name and leaves nothing; once lifted it is taken."""
        ledger.open("a")
        ledger.credit("a", "t", 5)
        head = raise_fence(store)
        refused = [
            lambda: ledger.open("b"),
            lambda: ledger.credit("a", "t2", 5),
            lambda: ledger.lock("a"),
            lambda: ledger.record([recorded("a", 3)]),
        ]
        for command in refused:
            with pytest.raises(LedgerFenced, match=r"fenced since 2026-05-01T03:00:00\.000000Z by ann") as failed:
                command()
            assert failed.value.where == "run 'r'"
            assert isinstance(failed.value, CommandRefused)
        with pytest.raises(LedgerFenced), ledger.together():
            pass
        with store.snapshot() as connection:
            assert store.head(connection) == head
        lift(store)
        assert ledger.credit("a", "t2", 5) == 3

    def test_a_repeated_command_is_answered_while_fenced(self, store, ledger):
        """What appends nothing is answered as before."""
        ledger.open("a")
        ledger.credit("a", "t", 5)
        raise_fence(store)
        assert ledger.credit("a", "t", 5) == 2

    def test_the_run_itself_appends(self, store):
        """A store opened for the run is let through, by command and in bulk, and one for another run is not."""
        raise_fence(store)
        own, other = store.for_run("r"), store.for_run("other")
        assert Ledger(own).open("a") == 1
        with own.appending() as connection:
            own.append_rows(connection, store_rows(account_stream("b", 3)))
        with pytest.raises(LedgerFenced):
            Ledger(other).open("c")
        with pytest.raises(LedgerFenced), other.appending():
            pass
        lift(store)
        assert Ledger(other).open("c") == 1

    def test_commands_of_a_run_are_part_of_what_changes_it(self, store):
        """Runs and ledger of one store for a run share a transaction, fenced as the ledger is."""
        raise_fence(store)
        own = store.for_run("r")

        def change_and_fail() -> None:
            with Runs(own).changing("r") as (run, _):
                run.approve(plan_hash="h", by="ann", reason="seen", at=NOW, expires_at=NOW)
                Ledger(own).open("a")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            change_and_fail()
        with store.snapshot() as connection:
            assert store.head(connection) == 0
        assert Runs(own).get("r") is None

    def test_no_generation_is_promoted_while_fenced(self, store, ledger):
        """A rebuild beside a recovery is written, but does not go live before the end, unless it is the run's own."""
        ledger.open("a")
        raise_fence(store)
        generation = rebuild(store).generation
        with pytest.raises(LedgerFenced):
            promote_generation(store, generation)
        assert promote_generation(store.for_run("r"), generation) == 1

    @pytest.mark.parametrize("bring_in", ["transactions", "events", "heal", "accounts"])
    def test_nothing_is_imported_while_fenced(self, store, tmp_path, bring_in):
        """Rows, events, lost events and copied accounts are refused and leave nothing; the run's own heal goes on."""
        events = [encode(event) for event in account_stream("a", 3)]
        copy, lines = ListCopy([events], size=3), tmp_path / "events.jsonl"
        lines.write_bytes(b"\n".join(events))
        transactions = write_csv(tmp_path / "rows.csv", [row()])
        account = {"account_id": "a", "balance": "5", "frozen_amount": "0", "status": "active"}
        accounts = write_csv(tmp_path / "accounts.csv", [account], list(account))
        rejects = tmp_path / "rejects.csv"
        importing = {
            "transactions": lambda: bring(store, transactions),
            "events": lambda: import_events(store, lines, rejects=rejects),
            "heal": lambda: heal(store, copy),
            "accounts": lambda: import_accounts(store, FileSource(accounts), now=NOW, rejects=rejects),
        }[bring_in]
        raise_fence(store)
        with pytest.raises(LedgerFenced):
            importing()
        with store.snapshot() as connection:
            assert store.head(connection) == 0
            assert connection.execute(select(func.count()).select_from(IMPORTED_ACCOUNTS)).scalar_one() == 0
        assert heal(store.for_run("r"), copy).imported == 3
        lift(store)
        importing()

    def test_the_read_model_follows_while_fenced(self, store, ledger):
        """What only reads events goes on."""
        ledger.open("a")
        raise_fence(store)
        found = project(store)
        assert (found.verdict, found.position) == ("COMPLETE", 1)

    def test_whoever_appends_is_waited_for(self, url, store, ledger):
        """A fence is raised after the append that had begun, and finds what that one wrote."""
        ledger.open("a")
        order: list[str] = []
        heads: list[int] = []

        def fenced() -> None:
            own = Store(url)
            heads.append(raise_fence(own))
            order.append("fenced")
            own.close()

        thread = threading.Thread(target=fenced)
        with store.appending() as connection:
            thread.start()
            # Time for a fence that does not wait.
            time.sleep(0.3)
            store.append_rows(connection, store_rows(account_stream("b", 3)))
            order.append("appended")
        thread.join()
        assert order == ["appended", "fenced"]
        assert heads == [4]

    def test_nothing_slips_behind_the_fence(self, url, store, ledger):
        """However many commands are under way when it is raised, none is committed after it, and none is lost."""
        ledger.open("a")
        expected = 1
        for number in range(4):
            begun, stop = threading.Semaphore(0), threading.Event()
            with ThreadPoolExecutor(WRITERS) as pool:
                names = [f"{number}-{each}" for each in range(WRITERS)]
                writers = [pool.submit(write_until_fenced, url, name, begun.release, stop) for name in names]
                try:
                    for _ in range(2 * WRITERS):
                        assert begun.acquire(timeout=60), "nobody writes"
                    head = raise_fence(store)
                    expected += sum(writer.result(timeout=60) for writer in writers)
                finally:
                    stop.set()
            with store.snapshot() as connection:
                assert store.head(connection) == head
                assert connection.execute(select(func.count()).select_from(EVENTS)).scalar_one() == expected
            assert lift(store)


class TestSqliteFence(OnSqlite, LeaseContract, FenceContract):
    pass


class TestPostgresFence(OnPostgres, LeaseContract, FenceContract):
    pass
