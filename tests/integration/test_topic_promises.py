"""What a store that publishes knows of its topic: no replay passes over what it can disprove."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from kafka_broker import Broker
from ledgers import append
from samples import opened, recorded
from topic_cases import connection_to, records_of
from topics import delete_topic, make_topic, send

from consumers.relay import publish
from ledger import Store
from replay import balances
from replay.topic import balances_from_topic, describe, rebuild_from_topic
from schemas import encode

pytestmark = pytest.mark.kafka

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ALICE = [opened("alice"), recorded("alice", 2, 300), recorded("alice", 3, 50), recorded("alice", 4, 150)]
BOB = [opened("bob"), recorded("bob", 2, 80), recorded("bob", 3, 5)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ledger of two accounts."""
    store = Store.at(tmp_path / "data")
    append(store, *ALICE, *BOB)
    yield store
    store.close()


def made_again(broker: Broker, name: str, events: list) -> None:
    """Delete a topic and make it again with some events."""
    delete_topic(broker, name)
    make_topic(broker, name, 2)
    send(broker, name, records_of(events))


def test_a_topic_accepted_as_it_is_is_still_held_against_what_was_published(kafka_server, topic_name, store):
    """A topic that was made again without an account's last events is INCOMPLETE, accepted or not, every time."""
    connection = connection_to(kafka_server)
    publish(store, connection, topic_name, partitions=2)
    made_again(kafka_server, topic_name, [*ALICE[:2], *BOB])
    for _ in range(2):
        found = rebuild_from_topic(store, connection, topic_name, accept_topic=True)
        assert found.verdict == "INCOMPLETE"
        (parked,) = found.certificate.parked
        assert (parked.account_id, parked.version, parked.reason) == ("alice", 3, "head_mismatch")


@pytest.mark.parametrize("is_cut", [False, True])
def test_other_content_is_found_by_every_command(kafka_server, topic_name, store, is_cut):
    """An event with another amount is no COMPLETE replay: not up to some offsets, and not for balances either."""
    connection = connection_to(kafka_server)
    publish(store, connection, topic_name, partitions=2)
    other = msgspec.structs.replace(ALICE[3], amount=1_000)
    made_again(kafka_server, topic_name, [*ALICE[:3], other, *BOB])
    topic = describe(connection, topic_name)
    until = {partition: bounds.high for partition, bounds in topic.partitions.items()} if is_cut else None
    # Its identity is another concern, so the store is told that this is its topic.
    with store.writing() as session:
        session.exec_driver_sql("UPDATE ledger_topics SET topic_id = ?", (topic.topic_id,))
    rebuilt = rebuild_from_topic(store, connection, topic_name, until=until)
    asked = balances_from_topic(store, connection, topic_name, at=until)
    for found in (rebuilt, asked):
        assert found.verdict == "INCOMPLETE"
        assert [parked.account_id for parked in found.certificate.parked] == ["alice"]
    assert asked.rows["account_id"].to_list() == ["bob"]


def test_events_that_the_store_has_not_are_counted(kafka_server, topic_name, store):
    """Accounts that go on after the store's head are counted, be it that the store lost events or another wrote."""
    connection = connection_to(kafka_server)
    publish(store, connection, topic_name, partitions=2)
    assert rebuild_from_topic(store, connection, topic_name).certificate.beyond_store == 0
    send(kafka_server, topic_name, records_of([recorded("alice", 5, 1_000_000), opened("carol")]))
    found = rebuild_from_topic(store, connection, topic_name)
    assert (found.verdict, found.certificate.beyond_store) == ("COMPLETE", 2)


@pytest.mark.parametrize("key", [None, b"bob", b"alice"], ids=["none", "its", "other"])
@pytest.mark.parametrize("damage", ["schema_version", "amount"])
def test_a_poison_payload_parks_the_account_that_it_names(kafka_server, topic_name, store, key, damage):
    """Whose event a value is it says itself, whatever the key is and though it is no event."""
    broken = encode(BOB[2]).replace(
        *{
            "schema_version": (b'"schema_version":1', b'"schema_version":9'),
            "amount": (b'"amount":5', b'"amount":-5'),
        }[damage]
    )
    make_topic(kafka_server, topic_name, 1)
    send(kafka_server, topic_name, [*records_of([*ALICE, *BOB[:2]]), (key, broken)])
    found = balances_from_topic(store, connection_to(kafka_server), topic_name)
    assert found.verdict == "INCOMPLETE"
    (parked,) = found.certificate.parked
    assert (parked.account_id, parked.version, parked.reason) == ("bob", 3, "poison_event")
    assert (parked.partition, parked.position) == (0, 6)
    assert found.rows["account_id"].to_list() == ["alice"]


def test_the_watermark_is_only_of_what_is_whole(kafka_server, topic_name, store):
    """It is now where the topic has all of the store, just before what it misses otherwise, and else nothing."""
    connection = connection_to(kafka_server)
    make_topic(kafka_server, topic_name, 2)
    assert balances_from_topic(store, connection, topic_name, now=NOW).watermark is None
    publish(store, connection, topic_name)
    found = balances_from_topic(store, connection, topic_name, now=NOW)
    assert found.watermark == NOW
    assert found.rows.equals(balances(store).rows)
    nothing = dict.fromkeys(range(2), 0)
    assert balances_from_topic(store, connection, topic_name, at=nothing, now=NOW).watermark is None
    append(store, late := recorded("bob", 4, 1))
    before = late.recorded_at - timedelta(microseconds=1)
    assert balances_from_topic(store, connection, topic_name, now=NOW).watermark == before
    send(kafka_server, topic_name, [(b"bob", None)])
    assert balances_from_topic(store, connection, topic_name, now=NOW).watermark is None
