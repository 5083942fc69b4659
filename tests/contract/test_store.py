"""What every event store does, whatever database it is on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from samples import account_stream, store_rows
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from ledger import GENESIS, Ledger, Store, chain
from ledger.tables import EVENTS, HEADS, IDENTITY
from schemas import RAW_SCHEMA, decode_batch, encode


def append(store: Store, *streams: list) -> None:
    """Append streams of accounts that are new to the store."""
    with store.appending() as connection:
        store.append_rows(connection, store_rows([event for stream in streams for event in stream]))


def read_all(store: Store, **bounds) -> pl.DataFrame:
    """Read all events within bounds."""
    with store.snapshot() as connection:
        return pl.concat([RAW_SCHEMA.to_frame(), *store.read(connection, **bounds)])


class StoreContract:
    def test_reads_back_in_position_order_what_was_appended(self, store):
        """Events come back in the order they were appended, with the same bytes and chain."""
        events = [*account_stream("b", 3), *account_stream("a", 2)]
        append(store, events)
        batch = read_all(store)
        assert batch.schema == RAW_SCHEMA
        assert batch["state"].to_list() == [encode(event) for event in events]
        assert batch.select("account_id", "version").rows() == [("b", 1), ("b", 2), ("b", 3), ("a", 1), ("a", 2)]
        assert batch["position"].is_sorted()
        assert not decode_batch(batch).poison

    def test_after_is_exclusive_and_until_inclusive(self, store):
        """A range holds what is after its first bound, up to and with its second, in batches of the size asked for."""
        append(store, account_stream("a", 10))
        positions = read_all(store)["position"].to_list()
        part = read_all(store, after=positions[2], until=positions[6])
        assert part["version"].to_list() == [4, 5, 6, 7]
        with store.snapshot() as connection:
            heights = [batch.height for batch in store.read(connection, batch_events=4)]
        assert heights == [4, 4, 2]

    def test_reads_only_the_accounts_asked_for(self, store):
        """Reading accounts gives their events and no others'."""
        append(store, account_stream("a", 2), account_stream("b", 2), account_stream("c", 1))
        with store.snapshot() as connection:
            batch = pl.concat(store.read_accounts(connection, ["c", "a", "nobody"]))
        assert sorted(batch.select("account_id", "version").rows()) == [("a", 1), ("a", 2), ("c", 1)]

    def test_reads_events_by_their_keys(self, store):
        """Of many keys those that are there come back whole, and those that are not are left out."""
        append(store, account_stream("a", 30), account_stream("b", 6_000))
        keys = [("a", 29), ("a", 31), ("nobody", 1), *(("b", version) for version in range(1, 6_001))]
        wanted = pl.DataFrame(keys, schema={"account_id": pl.String, "version": pl.Int64}, orient="row")
        with store.snapshot() as connection:
            found = store.read_keys(connection, wanted)
        expected = read_all(store).filter((pl.col("account_id") == "b") | (pl.col("version") == 29))
        assert found.sort("position").equals(expected)

    def test_reads_one_account_in_version_order_page_by_page(self, store):
        """A page has the next versions, whatever their positions, none after the bound, and no more than asked for."""
        append(store, account_stream("a", 6), account_stream("b", 2))
        with store.writing() as connection:
            # An event that was lost and put back has a position after those that follow it.
            connection.execute(update(EVENTS).where(EVENTS.c.id == 2).values(id=100))
        with store.snapshot() as connection:
            page = store.read_account(connection, "a", after_version=1, until=100, events=3)
            assert page["version"].to_list() == [2, 3, 4]
            assert store.read_account(connection, "a", after_version=1, until=99, events=3)["version"][0] == 3
            assert store.read_account(connection, "a", after_version=6, until=100, events=3).is_empty()

    def test_last_versions_are_those_at_or_before_a_position(self, store):
        """An account's last version at a position is the largest there is up to it, and none before its first."""
        append(store, account_stream("a", 3), account_stream("b", 2))
        with store.snapshot() as connection:
            assert store.last_versions(connection, ["a", "b"], until=2).rows() == [("a", 2)]
            assert sorted(store.last_versions(connection, ["a", "b"], until=9).rows()) == [("a", 3), ("b", 2)]
            assert store.last_versions(connection, ["b"], until=9).rows() == [("b", 2)]

    def test_lost_ends_are_the_heads_without_their_event(self, store):
        """An account whose last event, or whose every event, is gone is named with its head."""
        append(store, account_stream("a", 3), account_stream("b", 2), account_stream("c", 1))
        with store.snapshot() as connection:
            assert store.lost_ends(connection).is_empty()
        with store.writing() as connection:
            connection.execute(delete(EVENTS).where(EVENTS.c.originator_id == "c"))
            connection.execute(delete(EVENTS).where(EVENTS.c.id == 3))
        with store.snapshot() as connection:
            assert store.lost_ends(connection).select("account_id", "version").rows() == [("a", 3), ("c", 1)]

    def test_an_empty_store_has_position_zero_and_no_heads(self, store):
        """A new store is at position 0."""
        with store.snapshot() as connection:
            assert store.head(connection) == 0
            assert store.heads(connection).is_empty()
        assert read_all(store).is_empty()

    def test_heads_are_the_last_version_and_the_chain_to_it(self, store):
        """An append moves the head of each of its accounts to its last event."""
        append(store, account_stream("a", 3), account_stream("b", 1))
        with store.snapshot() as connection:
            heads = {row[0]: row[1:] for row in store.heads(connection).rows()}
            head = store.head(connection)
        link = GENESIS
        for event in account_stream("a", 3):
            link = chain(link, encode(event))
        assert heads["a"] == (3, link)
        assert heads["b"][0] == 1
        assert head == read_all(store)["position"].max()

    def test_a_snapshot_does_not_see_what_is_committed_after_it_began(self, store):
        """Every read of one snapshot sees one moment, while a writer goes on."""
        append(store, account_stream("a", 2))
        with store.snapshot() as connection:
            before = store.head(connection), store.heads(connection).rows()
            append(store, account_stream("b", 2))
            assert (store.head(connection), store.heads(connection).rows()) == before
            assert sum(batch.height for batch in store.read(connection)) == 2
        assert read_all(store).height == 4

    def test_a_transaction_that_fails_leaves_nothing(self, store):
        """An error in an append takes back both events and heads."""

        def append_and_fail() -> None:
            with store.appending() as connection:
                store.append_rows(connection, store_rows(account_stream("a", 2)))
                raise KeyError

        with pytest.raises(KeyError):
            append_and_fail()
        with store.snapshot() as connection:
            assert store.head(connection) == 0
            assert store.heads(connection).is_empty()

    def test_a_key_is_kept_once(self, store):
        """A second event of the same account and version is refused, with everything appended beside it."""
        append(store, account_stream("a", 2))
        with pytest.raises(IntegrityError):
            append(store, account_stream("b", 1), account_stream("a", 2))
        assert read_all(store)["account_id"].unique().to_list() == ["a"]

    def test_positions_of_a_deleted_tail_are_not_given_again(self, store):
        """An event that was deleted by hand leaves a gap of positions, never another event in its place."""
        append(store, account_stream("a", 3))
        last = read_all(store)["position"].max()
        with store.writing() as connection:
            connection.execute(delete(EVENTS).where(EVENTS.c.id == last))
        append(store, account_stream("b", 1))
        assert read_all(store)["position"].max() > last

    def test_position_order_is_commit_order(self, store):
        """Who appends while another holds the append lock waits, and gets later positions."""
        started = threading.Event()

        def second() -> None:
            started.set()
            append(store, account_stream("second", 1))

        with ThreadPoolExecutor(1) as pool, store.appending() as connection:
            waiting = pool.submit(second)
            started.wait()
            time.sleep(0.1)
            assert not waiting.done()
            store.append_rows(connection, store_rows(account_stream("first", 1)))
            connection.commit()
            waiting.result()
        assert read_all(store)["account_id"].to_list() == ["first", "second"]

    def test_a_reader_does_not_wait_for_a_writer(self, store):
        """A replay goes on while somebody holds the append lock."""
        append(store, account_stream("a", 1))
        with store.appending() as connection:
            store.append_rows(connection, store_rows(account_stream("b", 1)))
            assert read_all(store)["account_id"].to_list() == ["a"]

    def test_ids_of_any_alphabet_sort_by_code_point(self, store):
        """Account ids keep every character, and keys sort alike on every database."""
        ids = ["Z", "a", "\u00e9", "e\u0301", "日本", "😀", "a b\n", "'; DROP TABLE stored_events; --", "x" * 255]
        append(store, *(account_stream(account_id, 1) for account_id in ids))
        with store.snapshot() as connection:
            found = list(connection.execute(select(HEADS.c.account_id).order_by(HEADS.c.account_id)).scalars())
        assert found == sorted(ids)

    def test_opened_by_many_at_once_it_is_one_ledger(self, url):
        """Processes that open a new store at the same time agree on which ledger it is."""
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(Store, [url] * 4))
        assert len({store.ledger_id for store in stores}) == 1
        with stores[0].snapshot() as connection:
            assert len(connection.execute(select(IDENTITY)).all()) == 1
        for store in stores:
            store.close()

    def test_a_store_opened_again_is_the_same_ledger(self, url, store):
        """Identity and events stay when a store is closed and opened."""
        Ledger(store).open("a")
        store.close()
        again = Store(url)
        assert again.ledger_id == store.ledger_id
        assert read_all(again).height == 1
        again.close()


class TestSqliteStore(OnSqlite, StoreContract):
    pass


class TestPostgresStore(OnPostgres, StoreContract):
    pass
