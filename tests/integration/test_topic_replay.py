"""The same events give the same digest from the store and from a topic, however the topic is read and written."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from kafka_broker import Broker
from ledgers import NOW, account_rows, append, lose_event
from samples import opened, recorded
from topic_cases import CLIENTS, connection_to, history, records_of
from topics import ledger_topic, make_topic, send

from ledger import Ledger, Store, read_model
from projections import RELATIONS, TRANSACTIONS
from replay import balances, drift, promote_generation
from replay.full_replay import replayed
from replay.store_source import StoreSource
from replay.topic import balances_from_topic, describe, rebuild_from_topic, replayed_topic
from schemas.errors import RefusedError, UsageError

pytestmark = pytest.mark.kafka

EVENTS = 200_000
ACCOUNTS = 4_000


class Big(NamedTuple):
    """A ledger of many events, its digest, and the topic of six partitions that it is on."""

    store: Store
    digest: str
    broker: Broker
    topic: str


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, kafka_server: Broker) -> Iterator[Big]:
    """A ledger and its topic."""
    store = Store.at(tmp_path_factory.mktemp("big"))
    append(store, *history(ACCOUNTS, EVENTS))
    topic = ledger_topic(kafka_server, f"ledger-test-{uuid.uuid4().hex[:12]}", store, 6, compression="lz4")
    yield Big(store, balances(store).certificate.digest, kafka_server, topic)
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A small ledger."""
    store = Store.at(tmp_path / "data")
    append(store, *history(40, 2_000))
    yield store
    store.close()


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("client", CLIENTS)
def test_store_and_topic_agree(big: Big, client: str, workers: int) -> None:
    """200,000 events over six partitions: one digest, whichever client reads and by however many processes."""
    connection = connection_to(big.broker, client, 60)
    found = balances_from_topic(big.store, connection, big.topic, workers=workers)
    assert found.verdict == "COMPLETE"
    assert found.certificate.digest == big.digest
    assert (found.certificate.events, found.certificate.repeats) == (EVENTS, 0)
    assert found.certificate.position == {
        at: bounds.high
        for at, bounds in describe(connection, big.topic).partitions.items()  # type: ignore[union-attr]
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_projections_agree(big: Big, client: str) -> None:
    """Transactions and relations, spilled as they are, are the same from both, bucket by bucket."""
    connection = connection_to(big.broker, client, 60)
    topic = describe(connection, big.topic)
    assert topic is not None
    kinds = (TRANSACTIONS, RELATIONS)
    with (
        StoreSource.snapshot(big.store) as source,
        replayed(source, kinds) as expected,
        replayed_topic(connection, topic, kinds, ledger_id=big.store.ledger_id) as found,
    ):
        assert found.certificate.projections == expected.certificate.projections
        for kind in kinds:
            # Places in the source are its own; all else is of the events.
            frames = [each.states.value(kind).select(pl.exclude("^.*position$")) for each in (found, expected)]
            left, right = (frame.sort(frame.columns) for frame in frames)
            assert left.height > ACCOUNTS
            assert left.equals(right)


def test_spilled_states_agree(kafka_server, topic_name, store, monkeypatch):
    """Transactions that went to disk, in every partition and in the merge, are those that stayed in memory."""
    ledger_topic(kafka_server, topic_name, store, 3)
    connection = connection_to(kafka_server)
    with StoreSource.snapshot(store) as source, replayed(source, [TRANSACTIONS]) as replay:
        expected = replay.states.value(TRANSACTIONS).select(pl.exclude("^.*position$"))
    monkeypatch.setattr("replay.states.MEMORY_ROWS_MAX", 100)
    topic = describe(connection, topic_name)
    with replayed_topic(connection, topic, [TRANSACTIONS], ledger_id=store.ledger_id) as found:
        assert found.verdict == "COMPLETE"
        buckets = [bucket.select(pl.exclude("^.*position$")) for bucket in found.states.buckets(TRANSACTIONS)]
    assert len(buckets) > 1
    actual = pl.concat(buckets)
    assert actual.sort(actual.columns).equals(expected.sort(expected.columns))


def test_until_is_the_store_of_then(kafka_server, topic_name, store):
    """A replay up to some offsets is the fold of what came before them, and nothing after is looked at."""
    records = records_of(history(40, 2_000))
    make_topic(kafka_server, topic_name, 3)
    send(kafka_server, topic_name, records[:1_200])
    connection = connection_to(kafka_server)
    then = {at: bounds.high for at, bounds in describe(connection, topic_name).partitions.items()}
    first = rebuild_from_topic(store, connection, topic_name)
    send(kafka_server, topic_name, records[1_200:])
    assert rebuild_from_topic(store, connection, topic_name, until=then).certificate.digest == first.certificate.digest
    assert rebuild_from_topic(store, connection, topic_name).certificate.digest == balances(store).certificate.digest
    with pytest.raises(UsageError):
        rebuild_from_topic(store, connection, topic_name, until={0: 1})
    with pytest.raises(UsageError):
        rebuild_from_topic(store, connection, topic_name, until={at: high + 5_000 for at, high in then.items()})


@pytest.mark.parametrize("client", CLIENTS)
def test_a_topic_with_nothing(kafka_server, topic_name, tmp_path, client):
    """A topic of no events is read to its end, and so are empty partitions beside full ones."""
    make_topic(kafka_server, topic_name, 6)
    connection = connection_to(kafka_server, client)
    nothing = Store.at(tmp_path)
    found = rebuild_from_topic(nothing, connection, topic_name)
    assert (found.verdict, found.certificate.events, found.certificate.accounts) == ("COMPLETE", 0, 0)
    send(kafka_server, topic_name, records_of([opened("only"), recorded("only", 2)]))
    assert rebuild_from_topic(nothing, connection, topic_name).certificate.events == 2
    nothing.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_accounts_in_several_partitions(kafka_server, topic_name, store, client):
    """Where producers disagree about partitions, with repeats among them, the digest is still the store's."""
    make_topic(kafka_server, topic_name, 4)
    chance = random.Random(3)
    records = records_of(history(40, 2_000))
    mixed: dict[int, list] = {partition: [] for partition in range(4)}
    for record in records:
        # Some accounts stay where they are, others are anywhere, and some events are in two places.
        home = record[0][-1] % 4
        places = [home] if record[0][-1] % 2 else chance.sample(range(4), chance.choice([1, 1, 1, 2]))
        for place in places:
            mixed[place].append(record)
    for partition, its in mixed.items():
        chance.shuffle(its)
        send(kafka_server, topic_name, its, partition=partition)
    found = rebuild_from_topic(store, connection_to(kafka_server, client), topic_name, promote=True)
    assert (found.verdict, found.promoted) == ("COMPLETE", True)
    assert found.certificate.digest == balances(store).certificate.digest
    assert found.certificate.events == 2_000
    assert found.certificate.repeats == sum(map(len, mixed.values())) - 2_000
    assert drift(store).verdict == "EQUAL"


def test_trouble_across_partitions(kafka_server, topic_name, store):
    """Other content, poison and a gap in another partition park their accounts, and only those."""
    ledger_topic(kafka_server, topic_name, store, 3)
    for partition in range(3):
        send(kafka_server, topic_name, records_of([recorded("account-1", 5, 77_777)]), partition=partition)
        send(kafka_server, topic_name, [(b"account-2", b"no event")], partition=partition)
        send(kafka_server, topic_name, records_of([recorded("account-3", 900)]), partition=partition)
    found = balances_from_topic(store, connection_to(kafka_server), topic_name)
    assert found.verdict == "INCOMPLETE"
    parked = {each.account_id: each.reason for each in found.certificate.parked}
    assert parked == {
        "account-1": "conflicting_repeat",
        "account-2": "poison_event",
        "account-3": "version_gap",
    }
    assert found.rows.height == 40 - len(parked)
    expected = balances(store).rows
    assert found.rows.sort("account_id").equals(
        expected.filter(~expected["account_id"].is_in(list(parked))).sort("account_id")
    )


# A topic's generation in a store that went on, or that lost something.


@pytest.mark.parametrize("lost", ["tail", "account"])
def test_a_topic_that_lost_what_was_published(kafka_server, topic_name, store, lost):
    """What the store published and the topic does not hold is missed: heads know where every account ended."""
    events = history(40, 2_000)
    gone = [event for event in events if event.account_id == "account-5"]
    gone = gone if lost == "account" else gone[-2:]
    ledger_topic(kafka_server, topic_name, [event for event in events if event not in gone], 2)
    published(store, connection_to(kafka_server), topic_name)
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name, promote=True)
    assert (found.verdict, found.promoted) == ("INCOMPLETE", False)
    (parked,) = found.certificate.parked
    assert (parked.account_id, parked.reason, parked.version) == ("account-5", "head_mismatch", gone[0].version)


def test_a_topic_that_holds_other_events(kafka_server, topic_name, store):
    """As many events with other content in one of them: the chain is not that of the store's head."""
    events = history(40, 2_000)
    place = next(at for at, event in enumerate(events) if (event.account_id, event.version) == ("account-5", 4))
    events[place] = recorded("account-5", 4, 55_555)
    ledger_topic(kafka_server, topic_name, events, 2)
    published(store, connection_to(kafka_server), topic_name)
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    assert found.verdict == "INCOMPLETE"
    assert [(each.account_id, each.reason) for each in found.certificate.parked] == [("account-5", "head_mismatch")]


def test_a_foreign_generation_is_not_promoted(kafka_server, topic_name, store):
    """With nothing published, another history is COMPLETE for itself; to serve it for this ledger is refused."""
    events = history(40, 2_000)
    place = next(at for at, event in enumerate(events) if (event.account_id, event.version) == ("account-5", 4))
    events[place] = recorded("account-5", 4, 55_555)
    ledger_topic(kafka_server, topic_name, events, 2)
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    assert found.verdict == "COMPLETE"
    with pytest.raises(RefusedError) as refused:
        promote_generation(store, found.generation)
    assert refused.value.next_step
    with store.snapshot() as session:
        assert read_model.live(session) is None


def test_promote_brings_a_generation_to_the_head(kafka_server, topic_name, store):
    """Events that the store has and the topic has not yet are folded when the generation is made live."""
    ledger_topic(kafka_server, topic_name, store, 2)
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    ledger = Ledger(store, clock=lambda: NOW)
    for number in range(5):
        ledger.credit(f"account-{number}", f"later-{number}", 1_000 + number)
    ledger.open("new")
    position = promote_generation(store, found.generation)
    assert position == 2_006
    assert drift(store).verdict == "EQUAL"
    assert account_rows(store).height == 41


def test_promote_where_the_store_has_lost_events(kafka_server, topic_name, store):
    """A store that lost the events which its heads know cannot bring a generation forward past the loss."""
    ledger_topic(kafka_server, topic_name, store, 2)
    with store.snapshot() as session:
        end = dict(store.heads(session, ["account-5"]).select("account_id", "version").iter_rows())["account-5"]
    lose_event(store, "account-5", end - 1, end)
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name, promote=True)
    assert (found.verdict, found.promoted) == ("COMPLETE", True)
    live = account_rows(store).filter(account_id="account-5")
    assert live["version"].to_list() == [end]
    assert balances(store).verdict == "INCOMPLETE"


def test_promote_where_the_topic_is_ahead(kafka_server, topic_name, store):
    """Events that no head of the store knows are not served as if they were its own."""
    ledger_topic(kafka_server, topic_name, store, 2)
    (event,) = [event for event in history(40, 2_000) if event.account_id == "account-5"][-1:]
    send(kafka_server, topic_name, records_of([recorded("account-5", event.version + 1, 7)]))
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    assert found.verdict == "COMPLETE"
    with pytest.raises(RefusedError):
        promote_generation(store, found.generation)


def published(store: Store, connection, name: str) -> None:
    """Have the store believe that all of it was published to a topic."""
    from ledger import topics

    topic = describe(connection, name)
    with store.writing() as session:
        topics.vouch(session, name, topic.topic_id, len(topic.partitions), {})
        topics.advance(session, name, after=0, until=store.head(session), offsets={})
