"""What the write model does on every database: commit whole, keep order, lose nothing, name what is damaged."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from databases import OnPostgres, OnSqlite
from eventsourcing.persistence import IntegrityError
from samples import START, account_stream, opened, recorded, store_rows
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from ledger import GENESIS, Account, Ledger, Store, chain
from ledger.tables import EVENTS, HEADS, LIVE
from schemas import decode, encode
from schemas.errors import IncompleteError, PoisonEventError, StoreError

ROOT = Path(__file__).parents[2]


def start_writer(url: str, name: str, commands: int, *account_ids: str) -> subprocess.Popen[str]:
    """Start a process that credits accounts in turn."""
    command = [sys.executable, "-m", "tests.contract.writer", url, name, str(commands), *account_ids]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def check_store(store: Store) -> dict[str, int]:
    """Check every account against its head, and return account to version."""
    with store.snapshot() as connection:
        rows = connection.execute(select(EVENTS).order_by(EVENTS.c.id)).all()
        heads = {row.account_id: (row.version, bytes(row.chain)) for row in connection.execute(select(HEADS))}
    found: dict[str, tuple[int, bytes]] = {}
    for row in rows:
        version, link = found.get(row.originator_id, (0, GENESIS))
        assert row.originator_version == version + 1
        found[row.originator_id] = (version + 1, chain(link, bytes(row.state)))
        assert bytes(row.chain) == found[row.originator_id][1]
    assert found == heads
    return {account_id: version for account_id, (version, _) in found.items()}


class LedgerContract:
    def test_a_stored_state_is_exactly_the_wire_bytes(self, store, ledger):
        """What is stored is what `encode` gives, under the event's own tag as topic."""
        ledger.open("a", effective_at=START)
        ledger.credit("a", "t1", 5, metadata={"k": [1, "é", None]}, order_id="o1")
        with store.snapshot() as connection:
            rows = connection.execute(select(EVENTS).order_by(EVENTS.c.id)).all()
        assert [row.topic for row in rows] == ["account.opened", "transaction.recorded"]
        for row in rows:
            state = bytes(row.state)
            assert encode(decode(state, account_id=row.originator_id, version=row.originator_version)) == state

    def test_commands_move_chain_and_head_with_the_event(self, store, ledger):
        """After every command, each account's chain runs from its first event to its head."""
        for account_id in ("a", "b"):
            ledger.open(account_id)
            ledger.credit(account_id, "t1", 10)
        ledger.debit("a", "t2", 3)
        assert check_store(store) == {"a": 3, "b": 2}

    def test_the_library_reads_what_was_appended_in_bulk_and_goes_on_from_there(self, store, ledger):
        """An account that came in bulk is one to the library's repository and takes commands."""
        with store.appending() as connection:
            store.append_rows(connection, store_rows(account_stream("a", 5)))
        account = ledger.repository.get("a", projector_func=Account.project)
        assert (account.version, account.balance) == (5, 40)
        assert ledger.debit("a", "mine", 15) == 6
        assert ledger.account("a").balance == 25
        assert check_store(store) == {"a": 6}

    def test_record_gives_the_positions_of_many_events_of_many_accounts(self, store, ledger):
        """Ready events of several accounts go in with one call, in order, with their positions."""
        events = [*account_stream("a", 30), *account_stream("b", 1_500)]
        positions = ledger.record(events)
        assert positions == sorted(positions)
        with store.snapshot() as connection:
            rows = connection.execute(select(EVENTS.c.id, EVENTS.c.state).order_by(EVENTS.c.id)).all()
        assert [(row.id, bytes(row.state)) for row in rows] == list(zip(positions, map(encode, events), strict=True))
        assert check_store(store) == {"a": 30, "b": 1_500}

    def test_record_is_whole_or_nothing(self, store, ledger):
        """One event that is not next in its account takes back all that came with it."""
        with pytest.raises(StoreError, match="'b' is at version 0, so 2 is not next"):
            ledger.record([opened("a"), recorded("b", 2)])
        assert check_store(store) == {}

    def test_recording_nothing_is_fine(self, store, ledger):
        """No events are no positions."""
        assert ledger.record([]) == []

    def test_the_second_of_two_writers_of_one_version_conflicts(self, store, ledger):
        """Two that read the same version cannot both append to it."""
        ledger.open("a")
        first, second = ledger.account("a"), ledger.account("a")
        for account, name in ((first, "t1"), (second, "t2")):
            account.pending_events.append(recorded("a", 2, transaction_id=name))
        ledger.save(first)
        with pytest.raises(IntegrityError):
            ledger.save(second)
        assert list(ledger.account("a").transactions) == ["t1"]

    def test_a_command_that_others_beat_decides_again(self, store, ledger):
        """However often another writer is first, the command is decided on what is there then."""
        other = Ledger(store)

        class Beaten(Ledger):
            name = "stored"
            times = 0

            def _load(self, account_id: str) -> Account:
                account = super()._load(account_id)
                if self.times < 3:
                    self.times += 1
                    other.credit(account_id, f"other-{self.times}", 1)
                return account

        ledger.open("a")
        beaten = Beaten(store)
        assert beaten.credit("a", "mine", 1) == 5
        assert beaten.times == 3
        assert ledger.account("a").balance == 4

    def test_threads_on_one_account_lose_nothing(self, store, ledger):
        """Commands of several threads on the same account all go in, once each."""
        ledger.open("a")
        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(lambda number: ledger.credit("a", f"t{number}", 1), range(40)))
        assert sorted(versions) == list(range(2, 42))
        assert ledger.account("a").balance == 40
        assert check_store(store) == {"a": 41}

    def test_threads_with_one_command_do_it_once(self, store, ledger):
        """The same command from several threads at once appends one event and answers all alike."""
        ledger.open("a")
        with ThreadPoolExecutor(4) as pool:
            versions = set(pool.map(lambda _: ledger.credit("a", "t1", 7), range(8)))
        assert versions == {2}
        assert ledger.account("a").balance == 7

    def test_processes_on_shared_accounts_lose_nothing(self, url, store, ledger):
        """Commands of several processes all go in, and each account's stream is whole."""
        for account_id in ("a", "b"):
            ledger.open(account_id)
        writers = [start_writer(url, name, 20, "a", "b") for name in ("w1", "w2", "w3")]
        for writer in writers:
            writer.communicate(timeout=60)
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        assert check_store(store) == {"a": 31, "b": 31}
        assert ledger.account("a").balance == 30

    def test_a_killed_writer_leaves_whole_commits(self, url, store, ledger):
        """After a kill -9, every event that was answered for is there, and events and heads agree."""
        ledger.open("a")
        writer = start_writer(url, "w", 1_000_000, "a")
        answered = [int(writer.stdout.readline()) for _ in range(25)][-1]
        writer.kill()
        answered = max([answered, *map(int, writer.communicate(timeout=60)[0].split())])
        version = check_store(store)["a"]
        assert version - 2 in (answered, answered + 1)
        assert ledger.credit("a", f"w-{answered}", 1) == answered + 2

    def test_a_save_in_the_callers_session_commits_with_it(self, store, ledger):
        """With `session=`, the events and the caller's own rows are one transaction."""
        for fails in (True, False):
            with Session(store.engine.execution_options(ledger_write=True)) as session, session.begin() as transaction:
                session.execute(insert(LIVE).values(id=1, generation=7))
                ledger.save(opened("a"), session=session)
                if fails:
                    transaction.rollback()
            with store.snapshot() as connection:
                assert len(connection.execute(select(LIVE)).all()) == (0 if fails else 1)
            assert check_store(store) == ({} if fails else {"a": 1})

    def test_saves_in_one_transaction_of_the_store_are_one(self, store, ledger):
        """Commands within a transaction of the recorder commit together or not at all."""

        def open_two_and_fail() -> None:
            with ledger.recorder.transaction(commit=True):
                ledger.open("a")
                ledger.open("b")
                raise KeyError

        with pytest.raises(KeyError):
            open_two_and_fail()
        assert check_store(store) == {}

    def test_a_save_inside_another_stores_transaction_goes_to_its_own(self, tmp_path, store, ledger):
        """A transaction in progress on one store takes in nothing of another store."""
        elsewhere = Store.at(tmp_path / "elsewhere")

        def open_within_another_and_fail() -> None:
            with Ledger(elsewhere).recorder.transaction(commit=True) as session:
                session.connection()
                ledger.open("a")
                raise KeyError

        with pytest.raises(KeyError):
            open_within_another_and_fail()
        assert check_store(store) == {"a": 1}
        assert check_store(elsewhere) == {}
        elsewhere.close()

    @pytest.mark.parametrize(
        ("missing", "said"),
        [((2,), "event 2 is missing"), ((4,), "says version 4, but its events end at 3"), ((1, 2, 3, 4), "end at 0")],
        ids=["hole", "tail", "all"],
    )
    def test_an_account_with_events_missing_is_refused_by_name(self, store, ledger, missing, said):
        """A hole, a lost tail and a lost account are each named, and the account neither answers nor takes commands."""
        ledger.record([*account_stream("damaged", 4), *account_stream("whole", 2)])
        with store.writing() as connection:
            connection.execute(
                delete(EVENTS).where(EVENTS.c.originator_id == "damaged", EVENTS.c.originator_version.in_(missing))
            )
        for ask in (ledger.account, lambda account_id: ledger.credit(account_id, "new", 1)):
            with pytest.raises(IncompleteError, match=said) as refused:
                ask("damaged")
            assert "'damaged'" in refused.value.where
        assert ledger.account("whole").balance == 10

    @pytest.mark.parametrize("damage", [b"\xff\x00garbage", None], ids=["unreadable", "another amount"])
    def test_an_event_that_is_not_what_was_recorded_is_named_with_its_position(self, store, ledger, damage):
        """Changed bytes are named with account, version and position, whether or not they can still be read."""
        positions = ledger.record([*account_stream("damaged", 3), *account_stream("whole", 2)])
        state = damage or encode(recorded("damaged", 2, amount=9_999))
        with store.writing() as connection:
            connection.execute(update(EVENTS).where(EVENTS.c.id == positions[1]).values(state=state))
        with pytest.raises(PoisonEventError) as refused:
            ledger.account("damaged")
        assert refused.value.where == f"account 'damaged' version 2 at position {positions[1]}"
        assert ledger.account("whole").balance == 10

    def test_a_lost_head_is_not_taken_for_a_new_account(self, store, ledger):
        """Events without their head are refused, since nothing vouches for their end."""
        ledger.record(account_stream("a", 2))
        with store.writing() as connection:
            connection.execute(delete(HEADS))
        with pytest.raises(IncompleteError, match="says version 0"):
            ledger.account("a")

    def test_notifications_are_in_position_order(self, store, ledger):
        """The library's notification log gives every event in the order it was appended."""
        positions = ledger.record([*account_stream("a", 2), *account_stream("b", 2)])
        found = ledger.recorder.select_notifications(start=None, limit=10)
        assert [notification.id for notification in found] == positions
        assert ledger.recorder.max_notification_id() == positions[-1]

    def test_part_of_a_stream_can_be_read(self, store, ledger):
        """The recorder reads versions above, up to, newest first and a few, as the library asks for them."""
        ledger.record(account_stream("a", 6))
        select_events = ledger.recorder.select_events
        assert [event.originator_version for event in select_events("a", gt=2, lte=5)] == [3, 4, 5]
        assert [event.originator_version for event in select_events("a", desc=True, limit=2)] == [6, 5]
        assert select_events("nobody") == []


class TestSqliteLedger(OnSqlite, LedgerContract):
    def test_a_database_that_is_gone_is_a_store_error(self, store, ledger):
        """A table that is not there is an error of ours that names the account."""
        ledger.open("a")
        with store.writing() as connection:
            connection.exec_driver_sql("DROP TABLE ledger_heads")
        with pytest.raises(StoreError, match="no such table") as failed:
            ledger.credit("a", "t", 1)
        assert failed.value.where == "account 'a'"


class TestPostgresLedger(OnPostgres, LedgerContract):
    def test_an_append_notifies_listeners(self, url, ledger):
        """Whoever listens on the library's channel is told of each append."""
        given = make_url(url)
        conninfo = psycopg.conninfo.make_conninfo(
            host=given.query.get("host", given.host),
            port=given.port,
            user=given.username,
            password=given.password,
            dbname=given.database,
        )
        with psycopg.connect(conninfo, autocommit=True) as listener:
            listener.execute("LISTEN stored_events")
            ledger.open("a")
            assert [told.channel for told in listener.notifies(timeout=10, stop_after=1)] == ["stored_events"]
