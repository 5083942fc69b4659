"""What the database keeps of orders, the same on every database, with its writers one after the other."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from order_samples import completed, facts_of, placed, refunded
from sqlalchemy import update

from ledger import orders
from ledger.order_tables import ORDER_EVENTS
from ledger.orders import Added, ReadUntil, Source
from schemas import PoisonOrder, order_rows
from schemas.errors import PositionMoved, RefusedError

NOW = datetime(2024, 6, 1, tzinfo=UTC)


def poison(partition: int, position: int, order_id: str | None, reason: str = "bad") -> PoisonOrder:
    """A record that is no event."""
    return PoisonOrder(partition=partition, position=position, order_id=order_id, version=None, reason=reason)


class OrdersContract:
    """Subclasses give `store`."""

    def test_events_come_back_as_they_were(self, store):
        """Every column of an event, absent ones and times included, by order and version."""
        frame = order_rows(
            [
                completed("b\u00e9", points=0),
                placed("b\u00e9", 2**63 - 1, account_id="x"),
                placed("a", direction="earn"),
            ],
            [(0, 5), (0, 1), (3, 2**60)],
        )
        with store.writing() as connection:
            orders.lock(connection)
            assert orders.add_events(connection, frame) == Added(3, 0, 0)
        with store.snapshot() as connection:
            assert orders.events(connection).equals(frame[[2, 1, 0]])
            assert orders.events(connection, ["a", "no"]).equals(frame[[2]])
            assert orders.events(connection, []).is_empty()
            assert orders.of_accounts(connection, ["x", "y"]) == ["b\u00e9"]

    def test_a_known_event_changes_nothing_and_another_one_is_parked(self, store):
        """A copy keeps the earliest place; another content of that version withholds the order."""
        with store.writing() as connection:
            orders.lock(connection)
            orders.add_events(connection, order_rows([placed("a", 5)], [(0, 7)]))
            orders.untouch(connection, ["a"])
            assert orders.add_events(connection, order_rows([placed("a", 5)], [(0, 9)])) == Added(0, 1, 0)
            assert orders.touched(connection, 9) == []
            assert orders.add_events(connection, order_rows([placed("a", 5)], [(0, 3)])) == Added(0, 1, 0)
            assert orders.events(connection)["position"].to_list() == [3]
            assert orders.add_events(connection, order_rows([placed("a", 4)], [(1, 1)])) == Added(0, 0, 1)
            assert orders.add_events(connection, order_rows([placed("a", 5)], [(0, 2)])) == Added(0, 0, 1)
            orders.untouch(connection, ["a"])
            # Of each content the earliest place, whatever of it came first.
            assert orders.add_events(connection, order_rows([placed("a", 5)], [(0, 1)])) == Added(0, 0, 1)
        facts = facts_of(store)
        assert [row[4] for row in facts.events] == [4]
        assert [row[:4] for row in facts.parked] == [(0, 1, "a", 1)]
        assert '"points":5' in facts.parked[0][4]
        assert facts.touched == ["a"]

    def test_rows_without_a_place_do_not_contradict(self, store):
        """What files say is compared before it becomes events, so a contradiction is refused."""
        with store.writing() as connection:
            orders.lock(connection)
            orders.add_events(connection, order_rows([placed("a", 5)]))
            other = order_rows([placed("a", 4)])
            with pytest.raises(RefusedError, match="order 'a' has another event of version 1"):
                orders.add_events(connection, other)
        assert [row[4] for row in facts_of(store).events] == [5]

    def test_parked_records_name_their_orders(self, store):
        """Every parked record is kept once; an order is withheld for the first of its own."""
        said = [poison(1, 5, "a", "late"), poison(0, 9, "a", "b\0d"), poison(0, 3, None)]
        for _ in range(2):
            with store.writing() as connection:
                orders.lock(connection)
                orders.add_parked(connection, said)
        with store.snapshot() as connection:
            assert orders.parked(connection).rows() == [
                (0, 3, None, None, "bad"),
                (0, 9, "a", None, "b\\0d"),
                (1, 5, "a", None, "late"),
            ]
            assert orders.conflicts(connection).rows() == [("a", "partition 0, offset 9: b\\0d")]
            assert orders.conflicts(connection, ["b"]).is_empty()
            assert orders.touched(connection, 9) == ["a"]

    @pytest.mark.parametrize("is_poison_first", [True, False])
    def test_a_good_event_of_its_version_releases_a_record(self, store, is_poison_first):
        """Whichever of the two came first, and however often: its order can be judged, others not."""
        at = {"reason": "bad", "partition": 0}
        said = [
            PoisonOrder(order_id="a", version=1, position=1, **at),
            PoisonOrder(order_id="a", version=1, position=2, **at),
            PoisonOrder(order_id="b", version=2, position=3, **at),
            PoisonOrder(order_id="c", version=None, position=4, **at),
            PoisonOrder(order_id=None, version=1, position=5, **at),
        ]
        good = order_rows([placed(each) for each in "abc"], [(1, number) for number in range(3)])
        steps = [lambda it: orders.add_parked(it, said), lambda it: orders.add_events(it, good)]
        for step in steps if is_poison_first else steps[::-1]:
            with store.writing() as connection:
                orders.lock(connection)
                step(connection)
        assert [row[:3] for row in facts_of(store).parked] == [(0, 3, "b"), (0, 4, "c"), (0, 5, None)]

    @pytest.mark.parametrize("is_poison_first", [True, False])
    def test_two_good_events_are_not_released(self, store, is_poison_first):
        """What contradicts an event stays, though a record of that version that cannot be read goes."""
        bad = [PoisonOrder(partition=0, position=9, order_id="a", version=1, reason="bad")]
        rivals = [order_rows([placed("a", points)], [(0, points)]) for points in (4, 5)]
        with store.writing() as connection:
            orders.lock(connection)
            if is_poison_first:
                orders.add_parked(connection, bad)
            for rival in rivals:
                orders.add_events(connection, rival)
            orders.add_parked(connection, bad)
            orders.add_events(connection, rivals[0])
        assert [row[:4] for row in facts_of(store).parked] == [(0, 5, "a", 1)]

    def test_rejected_rows_are_kept_until_their_orders_are_told_well(self, store):
        """An order has the rows of its last import; those of others stay, and what is the same touches nothing."""
        with store.writing() as connection:
            orders.lock(connection)
            told = pl.DataFrame({"order_id": ["b", "a"], "reason": ["line 2: bad", "line 3: worse"]})
            orders.replace_rejected(connection, ["a", "b", "c"], told)
            assert orders.parked(connection).rows() == [
                (None, None, "b", None, "line 2: bad"),
                (None, None, "a", None, "line 3: worse"),
            ]
            assert orders.conflicts(connection).rows()[0] == ("b", "a row of it was rejected: line 2: bad")
            before = orders.facts_count(connection)
            orders.untouch(connection, ["a", "b"])
            orders.replace_rejected(connection, ["a"], told[1:])
            assert (orders.touched(connection, 9), orders.facts_count(connection)) == ([], before)
            orders.replace_rejected(connection, ["a"], told[1:].with_columns(reason=pl.lit("line 4: bad")))
            assert orders.facts_count(connection) != before
            orders.replace_rejected(connection, ["b"], told.clear())
            assert orders.conflicts(connection)["order_id"].to_list() == ["a"]
            assert orders.touched(connection, 9) == ["a", "b"]

    def test_thousands_of_rejected_rows_go_in_and_out(self, store):
        """As many as an import brings at once."""
        names = [f"order-{number:05}" for number in range(6_000)]
        with store.writing() as connection:
            orders.lock(connection)
            told = pl.DataFrame({"order_id": names, "reason": ["bad"] * len(names)})
            orders.replace_rejected(connection, names, told)
            assert orders.parked(connection).height == 6_000
            orders.replace_rejected(connection, names, told.clear())
            assert orders.parked(connection).is_empty()

    def test_touched_orders_are_taken_in_parts(self, store):
        """Thousands of ids go in once each, come in order, and go one part at a time."""
        names = [f"order-{number:05}" for number in range(6_000)]
        with store.writing() as connection:
            orders.lock(connection)
            orders.touch(connection, names[::-1])
            orders.touch(connection, names[:10])
            orders.touch(connection, [])
            assert orders.touched_count(connection) == 6_000
            assert orders.touched(connection, 3) == names[:3]
            orders.untouch(connection, names[1:])
            assert orders.touched(connection, 3) == names[:1]

    def test_positions_move_by_compare_and_set(self, store):
        """A reader that is not where the ledger is writes nothing."""
        with store.writing() as connection:
            orders.lock(connection)
            orders.add_partitions(connection, [1, 0])
            orders.advance(connection, 1, after=0, until=5)
            orders.add_partitions(connection, [0, 1, 2])
            assert orders.positions(connection) == {0: 0, 1: 5, 2: 0}
        for partition, after in ((1, 4), (7, 0)):
            with store.writing() as connection, pytest.raises(PositionMoved, match=f"partition {partition}"):
                orders.advance(connection, partition, after=after, until=9)
        assert facts_of(store).positions == {0: 0, 1: 5, 2: 0}

    def test_orders_have_one_source(self, store):
        """Files and a topic are not mixed, nor are two topics, nor two topics of one name."""
        topic = Source("topic", "orders", "id")
        with store.writing() as connection:
            orders.lock(connection)
            assert orders.source(connection) is None
            orders.set_source(connection, topic)
            orders.set_source(connection, topic)
            for other in (Source("files"), Source("topic", "orders", "di"), Source("topic", "others", "id")):
                with pytest.raises(RefusedError, match="one source of orders"):
                    orders.set_source(connection, other)
            assert orders.source(connection) == topic

    def test_moments_only_go_on(self, store):
        """Each side has its own moment, and both together the earlier one."""
        with store.writing() as connection:
            assert orders.read_until(connection) == ReadUntil(None, None)
            orders.lock(connection)
            assert orders.read_until(connection).both_at is None
            orders.set_read_until(connection, "orders", NOW)
            orders.set_read_until(connection, "orders", NOW - timedelta(microseconds=1))
            assert orders.read_until(connection) == ReadUntil(NOW, None)
            assert orders.read_until(connection).both_at is None
            orders.set_read_until(connection, "ledger", NOW + timedelta(microseconds=1))
            assert orders.read_until(connection).both_at == NOW
            orders.set_read_until(connection, "orders", NOW - timedelta(days=1), may_go_back=True)
            assert orders.read_until(connection).both_at == NOW - timedelta(days=1)

    def test_what_is_forgotten_is_judged_again(self, store):
        """Nothing of the order side is left but which orders it was about."""
        with store.writing() as connection:
            orders.lock(connection)
            orders.set_source(connection, Source("topic", "orders", "id"))
            orders.add_partitions(connection, [0])
            orders.add_events(connection, order_rows([placed("a"), refunded("a", 2)], [(0, 0), (0, 1)]))
            orders.add_parked(connection, [poison(0, 2, "b")])
            orders.set_read_until(connection, "orders", NOW)
            orders.set_read_until(connection, "ledger", NOW)
            orders.untouch(connection, ["a", "b"])
            orders.forget(connection)
            assert orders.source(connection) is None
            assert orders.read_until(connection) == ReadUntil(None, NOW)
        assert facts_of(store) == ([], [], {}, ["a", "b"])

    def test_writers_are_one_after_the_other(self, store):
        """Eight threads that read and write under the lock lose nothing of each other."""
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(5):
                    with store.writing() as connection:
                        orders.lock(connection)
                        version = orders.events(connection).height + 1
                        event = placed("a") if version == 1 else refunded("a", version, number * 10 + turn + 1)
                        orders.add_events(connection, order_rows([event], [(0, version)]))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test says it.
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        facts = facts_of(store)
        assert [row[1] for row in facts.events] == list(range(1, 41))
        assert facts.parked == []

    def test_a_row_that_a_hand_wrote_is_named(self, store):
        """A time that is none is no reason for a traceback."""
        with store.writing() as connection:
            orders.add_events(connection, order_rows([placed("a")]))
            connection.execute(update(ORDER_EVENTS).values(effective_at="yesterday"))
        with pytest.raises(RefusedError, match="'effective_at' has a value that the ledger never writes"):
            facts_of(store)


class TestOrdersOnSqlite(OrdersContract, OnSqlite):
    """SQLite."""


class TestOrdersOnPostgres(OrdersContract, OnPostgres):
    """PostgreSQL."""
