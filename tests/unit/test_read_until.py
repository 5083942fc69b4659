"""Up to when a side was read: everything that was there at that moment, and never more than that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledgers import append
from order_streams import orders_in_memory, record
from samples import account_stream
from shadows import to_head
from topic_groups import NOWHERE, MemoryTopic, in_memory

from consumers.orders_topic import OrdersTopic
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.read_until import Reading, ReadUntil, StoreReading, TopicOfLedger, TopicOfOrders
from consumers.shadow import StoreShadow
from consumers.topic_shadow import TopicShadow
from ledger import Store, orders, topics
from ledger.order_transactions import FOLLOWER
from schemas.errors import BrokerError, BrokerRefused, StoreError
from schemas.orders import OrderPlaced

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with two accounts."""
    with closing(Store.at(tmp_path)) as store:
        append(store, *account_stream("a", 3), *account_stream("b", 3))
        yield store


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> datetime:
        """Let some time pass, and return what time it is then."""
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at noon."""
    return Clock()


def until(store: Store, side: str = "ledger") -> datetime | None:
    """Return up to when a side was read."""
    with store.snapshot() as connection:
        found = orders.read_until(connection)
    return found.ledger_at if side == "ledger" else found.orders_at


def keeping(store: Store, reading: Reading, clock: Clock, look_seconds: float = 0) -> ReadUntil:
    """Keep up to when a side was read, looking at each step."""
    return ReadUntil(store, reading, now=clock, look_seconds=look_seconds)


def test_it_is_the_moment_of_the_look_once_all_is_read_that_was_there(store, clock):
    """A moment counts when the follower is where the store ended then, however much came since."""
    with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions(), batch_events=2, catch_up_events=2)) as shadow:
        kept = keeping(store, StoreReading(store, lambda: shadow.shadow), clock)
        for _ in range(2):
            assert not kept.step()
            shadow.step()
            append(store, *account_stream(f"new-{clock.move(1).second}", 1))
            assert until(store) is None
        shadow.step()
        assert kept.step()
        assert until(store) == NOON
        # What came meanwhile is not read, so the next look is not done yet.
        assert not kept.step()
        assert until(store) == NOON
        looked_at = clock.now
        clock.move(60)
        to_head(shadow)
        assert kept.step()
        assert until(store) == looked_at


def test_an_idle_side_goes_on_by_the_clock(store, clock):
    """Where nothing happens, each look counts at once."""
    with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions())) as shadow:
        to_head(shadow)
        kept = keeping(store, StoreReading(store, lambda: shadow.shadow), clock)
        for _ in range(3):
            now = clock.move(3_600)
            assert kept.step()
            assert until(store) == now


def test_between_two_looks_nothing_is_asked(store, clock):
    """The ends of a source are looked at no more often than asked for."""
    looks = []

    class Counting(StoreReading):
        def ends(self) -> dict[int, int]:
            looks.append(clock.now)
            return super().ends()

    with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions())) as shadow:
        to_head(shadow)
        kept = keeping(store, Counting(store, lambda: shadow.shadow), clock, look_seconds=3_600)
        assert [kept.step() for _ in range(3)] == [True, False, False]
    assert len(looks) == 1


def test_a_side_that_is_begun_anew_was_read_until_never(store, clock):
    """A look that an older follower made says nothing once that is gone."""
    with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions())) as shadow:
        to_head(shadow)
        old = shadow.shadow
        kept = keeping(store, StoreReading(store, lambda: old), clock)
        with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions(), restart=True)):
            assert not kept.step()
    assert until(store) is None


def ends_of(topic: MemoryTopic):
    """Return what gives the id and all ends of a topic in memory."""
    return lambda _: (str(topic.topic_id), {at: len(log) for at, log in topic.logs.items()})


def test_what_a_transaction_holds_back_is_there(store, clock):
    """Records behind a transaction that is open on the topic were there at the moment, so it does not count."""
    topic = MemoryTopic()
    placed = OrderPlaced(event_id="1", order_id="o", version=1, points=1, effective_at=NOON)
    topic.logs[0].append(record(placed))
    topic.open_from[0] = 0
    with orders_in_memory(topic), closing(OrdersTopic(store, NOWHERE, "orders", poll_seconds=0)) as orders_topic:
        kept = keeping(store, TopicOfOrders("orders", ends_of(topic)), clock)
        orders_topic.step()
        assert not kept.step()
        clock.move(3_600)
        assert not kept.step()
        topic.open_from.clear()
        orders_topic.step()
        assert kept.step()
    assert until(store, "orders") == NOON


def test_of_orders_that_come_from_elsewhere_a_topic_says_nothing(store, clock):
    """A topic that is not the one that orders come from was never read."""
    topic, other = MemoryTopic(), MemoryTopic()
    other.topic_id = "another"
    with orders_in_memory(topic), closing(OrdersTopic(store, NOWHERE, "orders", poll_seconds=0)):
        assert not keeping(store, TopicOfOrders("orders", ends_of(other)), clock).step()
        assert keeping(store, TopicOfOrders("orders", ends_of(topic)), clock).step()


@pytest.fixture
def followed(store: Store) -> Iterator[tuple[MemoryTopic, TopicShadow]]:
    """An empty topic of the ledger, and its follower."""
    topic = MemoryTopic()
    with in_memory(topic):
        shadow = TopicShadow(store, NOWHERE, "events", name=FOLLOWER, beside=OrderTransactions(), poll_seconds=0)
        with closing(shadow):
            yield topic, shadow


def test_a_topic_that_our_relay_publishes_counts_once_that_is_where_the_store_was(store, clock, followed):
    """What is in the store and not on the topic yet was there, though the topic was read to its end."""
    topic, shadow = followed
    with store.writing() as connection:
        topics.claim(connection, "events", "id", 1, {0: 0})
        head = store.head(connection)
    kept = keeping(store, TopicOfLedger(store, lambda: shadow.shadow, ends_of(topic)), clock)
    shadow.step()
    assert not kept.step()
    clock.move(60)
    append(store, *account_stream("c", 1))
    topic.logs[0] += [None] * head
    with store.writing() as connection:
        topics.advance(connection, "events", after=0, until=head, offsets={0: head})
    # The relay is where the store was at noon, and what it published until now is not read yet.
    assert not kept.step()
    shadow.step()
    assert kept.step()
    assert until(store) == NOON


def test_a_topic_that_others_publish_counts_by_its_own_ends(store, clock, followed):
    """A store beside it, or a replay that has vouched for the topic, is no reason to wait."""
    topic, shadow = followed
    with store.writing() as connection:
        topics.vouch(connection, "events", "id", 1, {0: 0})
    shadow.step()
    assert keeping(store, TopicOfLedger(store, lambda: shadow.shadow, ends_of(topic)), clock).step()
    assert until(store) == NOON


@pytest.mark.parametrize("topic_id", [None, "another"], ids=["gone", "made again"])
def test_a_topic_that_is_not_the_one_that_is_followed_says_nothing(store, clock, followed, topic_id):
    """The ends of another topic are not those that the follower reads to."""
    _, shadow = followed
    described = (lambda _: None) if topic_id is None else (lambda _: (topic_id, {0: 0}))
    assert not keeping(store, TopicOfLedger(store, lambda: shadow.shadow, described), clock).step()


def test_brokers_that_do_not_answer_leave_it_where_it_is(store, clock, followed):
    """A look that fails counts for nothing and is made again; brokers that say no are told."""
    topic, shadow = followed
    answers: list[Exception] = [BrokerError("down"), BrokerError("down")]

    def described(name: str) -> tuple[str, dict[int, int]]:
        if answers:
            raise answers.pop()
        return ends_of(topic)(name)

    kept = keeping(store, TopicOfLedger(store, lambda: shadow.shadow, described), clock)
    shadow.step()
    assert [kept.step() for _ in range(2)] == [False, False]
    late = clock.move(60)
    assert kept.step()
    # What is there now was all that was there when it was asked first.
    assert until(store) == NOON
    assert kept.step()
    assert until(store) == late
    answers.append(BrokerRefused("no"))
    with pytest.raises(BrokerRefused):
        kept.step()


@pytest.mark.parametrize("error", [BrokerError("down"), StoreError("gone")], ids=["brokers", "store"])
def test_a_look_that_failed_leaves_no_older_head_behind(store, clock, followed, error):
    """After an outage a moment counts where the relay is where the store was then, not where it was before."""
    topic, shadow = followed
    with store.writing() as connection:
        head = store.head(connection)
        topics.claim(connection, "events", "id", 1, {0: 0})
        topics.advance(connection, "events", after=0, until=head, offsets={0: 0})
    answers: list[Exception] = [error]

    def described(name: str) -> tuple[str, dict[int, int]]:
        if answers:
            raise answers.pop()
        return ends_of(topic)(name)

    kept = keeping(store, TopicOfLedger(store, lambda: shadow.shadow, described), clock)
    shadow.step()
    with suppress(StoreError):
        assert not kept.step()
    # The ledger goes on, and the relay has published nothing of it when the topic can be asked again.
    append(store, *account_stream("c", 1))
    clock.move(3_600)
    assert kept.step()
    assert until(store) == NOON
    assert not kept.step()
    assert until(store) == NOON
