"""The system's check with a real topic: whole, behind, cut, gone, made again, down, and what it would bring back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import Broker
from ledgers import NOW, lose_event, write_history
from sqlalchemy import delete
from topic_cases import connection_to
from topics import delete_records, delete_topic, make_topic

from consumers.healing import heal_from_topic
from consumers.relay import publish
from ledger import Ledger, Store
from ledger.tables import EVENTS
from replay.recovery.check import Places, SystemState, check_system
from replay.recovery.topic_check import topic_check
from replay.topic.connection import Connection
from schemas.errors import StoreError

pytestmark = pytest.mark.kafka


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a small history."""
    store = Store.at(tmp_path / "ledger")
    write_history(store)
    yield store
    store.close()


@pytest.fixture
def name() -> str:
    """The name of a topic that is not there yet."""
    return f"ledger-test-{uuid.uuid4().hex[:12]}"


def check(store: Store | None, connection: Connection, name: str, folder: Path) -> SystemState:
    """Check a store beside a topic, from which it may be healed."""

    def ask(lacking: Store) -> object:
        return heal_from_topic(lacking, connection, name, dry_run=True, skip_conflicts=True)

    gone = StoreError("the store is gone") if store is None else None
    places = Places(folder=folder, store_error=gone, topic=topic_check(connection, name), copies={f"topic {name}": ask})
    return check_system(store, places=places, now=NOW)


def test_a_topic_is_a_copy_to_heal_from(store: Store, kafka_server: Broker, name: str, tmp_path: Path) -> None:
    """It is none before it is made, whole after it was published, and gives back what the store then loses."""
    connection = connection_to(kafka_server)
    assert check(store, connection, name, tmp_path).part("topic").state == "none"
    make_topic(kafka_server, name, 3)
    publish(store, connection, name)
    found = check(store, connection, name, tmp_path)
    assert (found.severity, found.part("topic").state) == ("ok", "ok")
    assert found.part("topic").details["behind_store"] == 0
    Ledger(store).credit("acc-2", "new", 5)
    assert check(store, connection, name, tmp_path).part("topic").details["behind_store"] == 1
    lose_event(store, "acc-3", 2, 5)
    found = check(store, connection, name, tmp_path)
    assert (found.severity, found.loss.events_missing, found.loss.events_healable) == ("major", 2, 2)
    assert found.loss.healable_from == [f"topic {name}"]


def test_without_a_store_the_topic_is_all_there_is(
    store: Store, kafka_server: Broker, name: str, tmp_path: Path
) -> None:
    """A topic that can be replayed makes it major, with a store that is empty and with none; without it, critical."""
    connection = connection_to(kafka_server)
    make_topic(kafka_server, name, 3)
    publish(store, connection, name)
    assert check(None, connection, name, tmp_path).severity == "major"
    with store.writing() as session:
        session.execute(delete(EVENTS))
    found = check(store, connection, name, tmp_path)
    assert (found.severity, found.part("store").state, found.part("topic").state) == ("major", "lost", "ok")
    assert found.loss.events_healable == found.loss.events_missing == 8 * 4 + 1
    delete_topic(kafka_server, name)
    assert check(store, connection, name, tmp_path).severity == "critical"
    assert check(None, connection, name, tmp_path).severity == "critical"


def test_a_topic_that_is_not_whole_is_said(store: Store, kafka_server: Broker, name: str, tmp_path: Path) -> None:
    """One that lost its beginning, is gone though the store knows it, or does not answer is no copy, and says why."""
    connection = connection_to(kafka_server)
    make_topic(kafka_server, name)
    publish(store, connection, name)
    delete_records(kafka_server, name, {0: 3})
    found = check(store, connection, name, tmp_path)
    assert (found.severity, found.part("topic").state) == ("minor", "degraded")
    assert found.part("topic").next_step
    delete_topic(kafka_server, name)
    found = check(store, connection, name, tmp_path)
    assert (found.severity, found.part("topic").state) == ("minor", "degraded")
    down = Connection(bootstrap_servers="127.0.0.1:1", client="kafka-python", stall_timeout_seconds=2)
    found = check(store, down, name, tmp_path)
    assert (found.severity, found.part("topic").state) == ("minor", "unknown")
    assert "Kafka did not answer" in found.part("topic").words
