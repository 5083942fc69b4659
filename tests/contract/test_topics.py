"""What the store keeps of topics, whatever database it is on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from sqlalchemy import inspect, text

from ledger import Ledger, Store, topics
from schemas.errors import PositionMoved, RefusedError

NAME = "ledger-events"


def vouch(store: Store, topic_id: str = "one", partitions: int = 2, **offsets: int) -> None:
    """Vouch for a topic in a transaction of its own; offsets are given as p0=..., p1=..."""
    with store.writing() as connection:
        topics.vouch(connection, NAME, topic_id, partitions, {int(name[1:]): at for name, at in offsets.items()})


def claim(store: Store, topic_id: str = "one", partitions: int = 2, **own: int) -> None:
    """Claim a topic in a transaction of its own; offsets are given as p0=..., p1=..."""
    with store.writing() as connection:
        topics.claim(connection, NAME, topic_id, partitions, {int(name[1:]): at for name, at in own.items()})


def advance(store: Store, after: int, until: int, **offsets: int) -> None:
    """Advance the topic in a transaction of its own."""
    with store.writing() as connection:
        topics.advance(
            connection, NAME, after=after, until=until, offsets={int(name[1:]): at for name, at in offsets.items()}
        )


def known(store: Store) -> topics.KnownTopic | None:
    """Return what is known of the topic."""
    with store.snapshot() as connection:
        return topics.known(connection, NAME)


def waiting(*rows: tuple[str, int, str]) -> pl.DataFrame:
    """Return parked accounts as a frame."""
    return pl.DataFrame(rows, schema=topics.PARKED_SCHEMA, orient="row")


class TopicsContract:
    def test_nothing_is_known_of_a_topic_that_was_never_used(self, store):
        """A topic is unknown until somebody vouches for it."""
        assert known(store) is None

    def test_vouching_begins_at_position_zero_and_only_ever_raises_offsets(self, store):
        """Each offset is the largest that was vouched for, and the position stays."""
        vouch(store, p0=3)
        assert known(store) == (NAME, "one", 2, 0, {0: 3}, None)
        vouch(store, p0=2, p1=7)
        assert known(store) == (NAME, "one", 2, 0, {0: 3, 1: 7}, None)

    def test_what_a_replay_vouches_for_is_ours_only_once_it_is_claimed(self, store):
        """Vouching says nothing of whose events those are, a claim and what is delivered do, each only raised."""
        vouch(store, p0=9)
        claim(store)
        assert known(store) == (NAME, "one", 2, 0, {0: 9}, {})
        claim(store, p0=4)
        claim(store, p0=3, p1=1)
        vouch(store, p1=8)
        assert known(store) == (NAME, "one", 2, 0, {0: 9, 1: 8}, {0: 4, 1: 1})
        advance(store, 0, 10, p0=12)
        assert known(store) == (NAME, "one", 2, 10, {0: 12, 1: 8}, {0: 12, 1: 1})

    @pytest.mark.parametrize("other", [("two", 2), ("one", 3)], ids=["id", "partitions"])
    @pytest.mark.parametrize("change", [vouch, claim])
    def test_another_topic_under_the_name_is_refused(self, store, change, other):
        """A topic with another id or another number of partitions is refused, and nothing changes."""
        vouch(store, p0=3)
        with pytest.raises(RefusedError, match=r"known.*--accept-topic"):
            change(store, *other, p0=9)
        assert known(store) == (NAME, "one", 2, 0, {0: 3}, None)

    def test_a_forgotten_topic_is_unknown_and_may_be_another(self, store):
        """What was known, the accounts that waited too, is gone, and any topic of that name is taken."""
        vouch(store, p0=3)
        advance(store, 0, 10)
        with store.writing() as connection:
            topics.replace_parked(connection, NAME, [], waiting(("a", 2, "version_gap")))
            topics.forget(connection, NAME)
            assert topics.parked(connection, NAME).is_empty()
        assert known(store) is None
        vouch(store, "two", 5)
        assert known(store) == (NAME, "two", 5, 0, {}, None)

    def test_the_position_moves_by_compare_and_set(self, store):
        """It moves with its offsets from where it is, and from nowhere else."""
        vouch(store, p0=1)
        advance(store, 0, 10, p0=5, p1=2)
        assert known(store) == (NAME, "one", 2, 10, {0: 5, 1: 2}, {0: 5, 1: 2})
        with pytest.raises(PositionMoved, match="ledger-events"):
            advance(store, 0, 20, p0=9)
        assert known(store) == (NAME, "one", 2, 10, {0: 5, 1: 2}, {0: 5, 1: 2})

    def test_a_topic_that_was_forgotten_meanwhile_does_not_advance(self, store):
        """A relay whose topic was forgotten is told, not taken up anew."""
        with pytest.raises(PositionMoved):
            advance(store, 0, 10)
        assert known(store) is None

    def test_of_two_that_advance_at_once_one_is_told(self, store):
        """Two writers from the same position: one moves it, and the other hears of it."""
        vouch(store)
        ready = threading.Barrier(2)

        def run(until: int) -> str:
            ready.wait()
            try:
                advance(store, 0, until)
            except PositionMoved:
                return "moved"
            return "went"

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(run, [10, 20])) == ["moved", "went"]

    def test_two_that_vouch_for_a_new_topic_at_once_agree(self, store):
        """Both offsets are kept, whoever was first."""
        ready = threading.Barrier(2)

        def run(offsets: dict[str, int]) -> None:
            ready.wait()
            vouch(store, **offsets)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, [{"p0": 4}, {"p1": 6}]))
        found = known(store)
        assert found is not None
        assert found.offsets == {0: 4, 1: 6}

    def test_parked_accounts_are_replaced_account_by_account(self, store):
        """What waits among the accounts named is replaced, other accounts and other topics stay."""
        with store.writing() as connection:
            topics.replace_parked(connection, NAME, [], waiting(("b", 2, "poison_event"), ("a", 3, "version_gap")))
            topics.replace_parked(connection, "other", [], waiting(("a", 9, "version_gap")))
            topics.replace_parked(connection, NAME, ["a", "c"], waiting(("c", 1, "version_gap")))
        with store.snapshot() as connection:
            assert topics.parked(connection, NAME).rows() == [("b", 2, "poison_event"), ("c", 1, "version_gap")]
            assert topics.parked(connection, "other").rows() == [("a", 9, "version_gap")]

    @pytest.mark.parametrize("create", [True, False])
    def test_a_store_of_an_earlier_version_gets_the_tables_when_it_is_opened(self, store, url, create):
        """A ledger that was made before there were topics opens, keeps its events, and knows no topic."""
        Ledger(store).open("a")
        with store.writing() as connection:
            connection.execute(text("DROP TABLE ledger_topics"))
            connection.execute(text("DROP TABLE ledger_topic_parked"))
        store.close()
        again = Store(url, create=create)
        assert again.ledger_id == store.ledger_id
        assert {"ledger_topics", "ledger_topic_parked"} <= set(inspect(again.engine).get_table_names())
        assert known(again) is None
        with again.snapshot() as connection:
            assert again.head(connection) == 1
        again.close()


class TestSqliteTopics(OnSqlite, TopicsContract):
    pass


class TestPostgresTopics(OnPostgres, TopicsContract):
    pass
