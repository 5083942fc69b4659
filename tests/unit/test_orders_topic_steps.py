"""The topic of orders, step by step, over a topic and a group in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from order_samples import Facts, completed, facts_of, histories, placed, wire
from topic_groups import NOWHERE, MemoryTopic
from topic_orders import orders_in_memory
from topics import Record

from consumers import orders_topic
from consumers.orders_import import TakenOrders, import_orders_from_topic
from consumers.orders_topic import OrdersTopic
from ledger import Store, orders
from ledger.orders import Source
from replay.topic import Connection, Topic
from schemas.errors import BrokerError, RefusedError
from schemas.orders import order_rows

NOW = datetime(2024, 6, 1, tzinfo=UTC)
POISON = b'{"event":"order.vanished","order_id":"%s","version":3}'

Open = Callable[..., OrdersTopic]


@pytest.fixture
def topic() -> Iterator[MemoryTopic]:
    """A topic of three partitions."""
    with orders_in_memory(MemoryTopic(3)) as topic:
        yield topic


@pytest.fixture
def opened(store: Store, topic: MemoryTopic) -> Iterator[Open]:
    """Opens readers, which are closed at the end."""
    readers: list[OrdersTopic] = []

    def open_one(**options: object) -> OrdersTopic:
        readers.append(OrdersTopic(store, NOWHERE, "events", **{"batch_records": 4, "poll_seconds": 0.0} | options))
        return readers[-1]

    yield open_one
    for reader in readers:
        reader.close()


def to_end(reader: OrdersTopic) -> TakenOrders:
    """Step until all is read, and count."""
    taken = TakenOrders()
    while True:
        step = reader.step()
        taken.add(step)
        if not step.lag_events:
            return taken


def brought(store: Store, **options: object) -> TakenOrders:
    """Import the topic to its end."""
    patient = Connection(bootstrap_servers="nowhere:1", stall_timeout_seconds=0.01)
    return import_orders_from_topic(store, patient, "events", now=lambda: NOW, **options)


def test_events_are_kept_with_their_places(store, topic, opened):
    """Each event is a row with its partition and offset, whatever is between the records."""
    topic.logs = {0: [None, *wire([placed("a"), completed("a")])], 1: wire([placed("b")]), 2: []}
    taken = to_end(opened())
    found = facts_of(store)
    assert [(*row[:3], *row[-2:]) for row in found.events] == [
        ("a", 1, "order.placed", 0, 1),
        ("a", 2, "order.completed", 0, 2),
        ("b", 1, "order.placed", 1, 0),
    ]
    assert (taken.imported, taken.rejected, taken.verdict) == (3, 0, "OK")
    assert (found.positions, found.touched) == ({0: 3, 1: 1, 2: 0}, ["a", "b"])
    with store.snapshot() as connection:
        assert orders.source(connection) == Source("topic", "events", "id")


def test_bad_records_are_parked_and_the_rest_goes_on(store, topic, opened):
    """What is no event is named with its place and reason, and its order as far as that can be read."""
    negative = wire([placed("d")])[0][1].replace(b'"points":10', b'"points":-10')
    nobody = wire([placed("d")])[0][1].replace(b'"order_id":"d",', b"")
    topic.logs[1] = [(b"k", b"nonsense"), (None, POISON % b"c"), (None, negative), (None, nobody), (b"t", None)]
    topic.logs[1] += wire([placed("a")])
    taken = to_end(opened())
    found = facts_of(store)
    assert [row[:4] for row in found.parked] == [
        (1, 0, "k", None),
        (1, 1, "c", 3),
        (1, 2, "d", 1),
        (1, 3, None, 1),
        (1, 4, "t", None),
    ]
    reasons = [row[4] for row in found.parked]
    assert "malformed" in reasons[0]
    assert reasons[1] == "unknown event 'order.vanished'"
    assert "points" in reasons[2]
    assert "order_id" in reasons[3]
    assert reasons[4] == "the record has no value (a tombstone), which deletes no order"
    assert found.touched == ["a", "c", "d", "k", "t"]
    assert (taken.imported, taken.rejected, taken.verdict) == (1, 5, "REJECTS")
    assert [each.position for each in taken.parked] == [0, 1, 2, 3, 4]
    with store.snapshot() as connection:
        withheld = orders.conflicts(connection)
    assert withheld["order_id"].to_list() == ["k", "c", "d", "t"]
    assert withheld["reason"][1] == "partition 1, offset 1: unknown event 'order.vanished'"


def test_two_events_of_one_version_withhold_their_order(store, topic, opened):
    """Neither of them is believed: the order is named, with what the other one says."""
    topic.logs[0] = wire([placed("a", 5), placed("a", 5), placed("a", 6), placed("b")])
    taken = to_end(opened())
    assert (taken.imported, taken.unchanged, taken.conflicts, taken.verdict) == (2, 1, 1, "REJECTS")
    with store.snapshot() as connection:
        assert orders.conflicts(connection)["order_id"].to_list() == ["a"]


class _Killed(Exception):
    """The process ends here."""


def _happening(chance: random.Random, topic: MemoryTopic) -> None:
    """Write orders as an untidy world does: anywhere, twice, late, damaged, between records that do not count."""
    records: list[Record | None] = list(wire(histories(chance.randrange(1_000), 8)))
    late = [records.pop(chance.randrange(len(records))) for _ in range(3)]
    poison: list[Record] = [(b"order-1", b"{"), (b"order-2", None), (None, b"nobody's"), (None, POISON % b"order-3")]
    for record in chance.sample(poison, chance.randrange(len(poison))) + late:
        records.insert(chance.randrange(len(records)), record)
    for record in records:
        if chance.random() < 0.1:
            topic.logs[chance.randrange(3)].append(None)
        for _ in range(1 if chance.random() < 0.9 else 2):
            topic.logs[chance.randrange(3)].append(record)


def _without_instances(topic: MemoryTopic, tmp_path: Path) -> Facts:
    store = Store.at(tmp_path / "alone")
    reader = OrdersTopic(store, NOWHERE, "events", batch_records=1_000, poll_seconds=0.0)
    to_end(reader)
    reader.close()
    found = facts_of(store)
    store.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_the_facts_are_those_of_one_reader(store, topic, opened, tmp_path, seed):
    """Instances that share partitions, lose them, are killed anywhere or sleep over one: each record counts once."""
    chance = random.Random(seed)
    _happening(chance, topic)
    logs = {partition: list(log) for partition, log in topic.logs.items()}
    topic.logs = {partition: [] for partition in logs}
    sleeping: list[int] = []

    def at(number: int) -> Callable[[str], None]:
        def point(name: str) -> None:
            if chance.random() < 0.05:
                raise _Killed
            if name == "read" and not sleeping and number == 0 and chance.random() < 0.2:
                # Another instance has its partitions, and goes on, while this one sleeps with a batch in its hands.
                sleeping.append(number)
                step(1)
                sleeping.clear()

        return point

    instances = [opened(at=at(number)) for number in range(2)]

    def step(number: int) -> None:
        try:
            instances[number].step()
        except _Killed:
            sleeping.clear()
            instances[number] = opened(at=at(number))

    for _ in range(80):
        for partition, log in logs.items():
            topic.logs[partition] = log[: len(topic.logs[partition]) + chance.randrange(4)]
        if chance.random() < 0.2:
            instances[chance.randrange(2)]._group.give(*chance.sample(range(3), chance.randrange(4)))
        step(chance.randrange(2))
    topic.logs = logs
    to_end(opened())
    assert facts_of(store) == _without_instances(topic, tmp_path), f"seed {seed}"


def test_of_two_instances_one_writes_a_batch(store, topic, opened):
    """The one that was too slow finds the position moved, forgets its batch, and goes on from where the other is."""
    topic.logs[0] = wire(histories(1))
    other = opened()
    slow = opened(at=lambda name: other.step() if name == "read" else None)
    assert slow.step().events == 0
    assert facts_of(store).positions[0] == 4
    to_end(other)
    assert slow.step().position == facts_of(store).positions


def test_silent_brokers_are_waited_for(topic, opened):
    """While nobody answers nothing is read, which is said once, and that it goes on too."""
    said: list[str] = []
    topic.logs[0] = wire([placed("a")])
    reader = opened(waiting=said.append)
    topic.is_down = True
    assert [reader.step().events for _ in range(3)] == [0, 0, 0]
    topic.is_down = False
    assert to_end(reader).imported == 1
    assert said == ["the orders wait: Kafka did not answer: it is down", ""]


def test_another_topic_of_that_name_is_refused_until_it_is_read_anew(store, topic, opened):
    """A topic that was made again says other things; with a restart what the old one said is forgotten."""
    topic.logs[0] = wire([placed("a"), placed("b")])
    to_end(opened())
    topic.topic_id = "other"
    topic.logs[0] = wire([placed("a", 7)])
    with pytest.raises(RefusedError, match="made again"):
        opened()
    assert to_end(opened(restart=True)).imported == 1
    found = facts_of(store)
    assert [row[:2] for row in found.events] == [("a", 1)]
    assert found.touched == ["a", "b"]
    with store.snapshot() as connection:
        assert orders.source(connection) == Source("topic", "events", "other")


def test_a_topic_that_is_made_again_stops_its_readers(topic, opened, monkeypatch):
    """It is seen while it is read, before anything of it is kept, and so is that it is gone."""
    monkeypatch.setattr(orders_topic, "LOOK_SECONDS", 0.0)
    reader = opened()
    topic.topic_id = "other"
    with pytest.raises(RefusedError, match="made again"):
        reader.step()
    topic.topic_id = None
    with pytest.raises(RefusedError, match="is gone"):
        reader.step()


@pytest.mark.parametrize("before", [Source("files"), Source("topic", "wrong", "id-9")], ids=["files", "topic"])
def test_only_a_restart_takes_the_place_of_another_source(store, topic, opened, before):
    """Orders that come from elsewhere are refused; with a restart they are forgotten, and have to be judged again."""
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_source(connection, before)
        orders.add_events(connection, order_rows([placed("old")]))
        orders.untouch(connection, ["old"])
    topic.logs[0] = wire([placed("new")])
    with pytest.raises(RefusedError, match="not from the topic 'events'"):
        opened()
    topic.members.clear()
    taken = brought(store, restart=True)
    assert (taken.imported, taken.replaced) == (1, before)
    found = facts_of(store)
    assert ([row[0] for row in found.events], found.touched) == (["new"], ["new", "old"])
    with store.snapshot() as connection:
        assert orders.source(connection) == Source("topic", "events", "id")
    assert brought(store, restart=True).replaced is None


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        (lambda topic: topic.first.update({0: 2}), "partition 0 begins at offset 2, orders were read to 1"),
        (lambda topic: topic.logs[0].clear(), "partition 0 ends at offset 0, orders were read to 1"),
        (lambda topic: topic.logs.pop(2), "has 2 partitions, and was read from 3"),
    ],
)
def test_lost_records_stop_it(topic, opened, monkeypatch, lose, why):
    """It jumps over nothing: what comes next must be there, and what was read must still be."""
    monkeypatch.setattr(orders_topic, "LOOK_SECONDS", 0.0)
    topic.logs[0] = wire([placed("a")])
    reader = opened()
    to_end(reader)
    topic.logs[0] = wire([placed("a"), placed("b"), placed("c")])
    lose(topic)
    with pytest.raises(RefusedError, match=why):
        reader.step()
    with pytest.raises(RefusedError, match=why):
        opened()


def test_a_damaged_partition_stops_it_after_what_is_before(topic, opened):
    """All before the damage is kept; then it says where that is."""
    topic.logs[0] = wire([placed("a"), placed("b")])
    topic.damaged[0] = 1
    reader = opened()
    assert reader.step().added.new == 1
    with pytest.raises(RefusedError, match="cannot be read on: corrupt"):
        reader.step()


def test_new_partitions_are_read_from_their_beginning(store, topic, opened, monkeypatch):
    """A topic that is given partitions is followed on them."""
    monkeypatch.setattr(orders_topic, "LOOK_SECONDS", 0.0)
    reader = opened()
    to_end(reader)
    topic.logs[3] = wire([placed("a")])
    reader.step()
    to_end(reader)
    assert facts_of(store).positions == {0: 0, 1: 0, 2: 0, 3: 1}


def test_an_import_reads_to_the_end_and_notes_up_to_when(store, topic):
    """What was there at the beginning of the import has been read; doing it again changes nothing."""
    topic.logs[0] = wire(histories(2))
    first = brought(store)
    assert first.imported == len(topic.logs[0])
    found = facts_of(store)
    again = brought(store)
    assert (again.imported, again.unchanged, again.offsets) == (0, 0, {0: len(topic.logs[0]), 1: 0, 2: 0})
    assert facts_of(store) == found
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at == NOW


def test_what_an_open_transaction_holds_back_makes_it_incomplete(store, topic):
    """The import ends where the committed records do, says so, and claims no moment."""
    topic.logs[0] = wire([placed("a"), placed("b")])
    topic.open_from[0] = 1
    taken = brought(store)
    assert (taken.imported, taken.held_back, taken.verdict) == (1, 1, "INCOMPLETE")
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at is None


def test_an_import_gives_up_on_brokers_that_stay_silent(store, topic):
    """Without `follow` an import ends: here with what the brokers did not give."""
    topic.logs[0] = wire([placed("a")])

    def silent(_: str) -> None:
        raise AssertionError("nothing was read")

    def stop() -> bool:
        topic.is_down = True
        return False

    with pytest.raises(BrokerError, match="gave nothing"):
        brought(store, should_stop=stop)
    assert facts_of(store).events == []


def test_following_goes_on_until_it_should_stop(store, topic):
    """A follower takes what comes after the end that it began with, and notes later moments."""
    topic.logs[0] = wire([placed("a")])
    seen: list[int] = []

    def stop() -> bool:
        seen.append(len(seen))
        if len(seen) == 4:
            topic.logs[1] = wire([placed("b")])
        return len(seen) > 8

    taken = brought(store, follow=True, should_stop=stop)
    assert taken.imported == 2


def test_moments_never_go_back(store, topic):
    """An import with an earlier clock leaves what was noted before."""
    brought(store)
    earlier = NOW - timedelta(days=1)
    import_orders_from_topic(store, NOWHERE, "events", now=lambda: earlier)
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at == NOW


class _Growing(MemoryTopic):
    """A topic that is written to between two looks."""

    looks = 0

    def describe(self, *words: object) -> Topic | None:
        self.looks += 1
        if self.looks == 2:
            # More than one step reads.
            self.logs[0] += wire([placed("late")]) * 6_000
        return super().describe(*words)


def test_what_came_while_an_import_began_is_read_before_its_moment_is_noted(store):
    """An import ends with a moment up to which all was read, though the topic grew since its end was looked at."""
    with orders_in_memory(_Growing(1)):
        taken = brought(store)
    assert (taken.imported, taken.unchanged, taken.verdict) == (1, 5_999, "OK")
    with store.snapshot() as connection:
        assert orders.read_until(connection).orders_at == NOW
