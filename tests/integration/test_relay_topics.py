"""Which topics the relay publishes to, on a real broker, and which it refuses before anything is sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaAdminClient
from kafka_broker import Broker
from ledgers import append, lose_event
from relays import once, position, stored, wait_for, written
from samples import account_stream
from topics import delete_records, delete_topic, ledger_topic, make_topic, send, send_transaction

from consumers.claim import claimed_topic
from consumers.delivery import Delivery
from consumers.healing import heal_from_topic
from consumers.relay import publish
from ledger import Ledger, Store, topics
from replay.topic.connection import Connection
from replay.topic.metadata import describe
from replay.topic.rebuild import rebuild_from_topic
from schemas.errors import BrokerError, RefusedError

pytestmark = pytest.mark.kafka


@pytest.fixture
def kafka(kafka_server: Broker) -> Connection:
    """How to reach the broker under test."""
    return Connection(bootstrap_servers=kafka_server.bootstrap_servers, stall_timeout_seconds=30)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with no events."""
    store = Store.at(tmp_path)
    yield store
    store.close()


@pytest.mark.parametrize(
    "setting",
    [
        {"cleanup_policy": "compact"},
        {"cleanup_policy": "compact,delete"},
        {"retention_ms": 60_000},
        {"retention_bytes": 1 << 20},
    ],
    ids=str,
)
def test_a_topic_that_does_not_keep_everything_is_refused(store, kafka, kafka_server, topic_name, setting):
    """A compacted or expiring topic is refused with nothing written, and taken where that is accepted."""
    append(store, *account_stream("a", 3))
    make_topic(kafka_server, topic_name, 2, **setting)
    with pytest.raises(RefusedError, match="--accept-retention"):
        publish(store, kafka, topic_name)
    assert written(kafka_server, topic_name) == {}
    assert publish(store, kafka, topic_name, accept_retention=True).published == 3
    assert written(kafka_server, topic_name) == stored(store)


def test_a_topic_that_it_makes_keeps_everything(store, kafka, topic_name):
    """A topic that is not there is made with as many partitions as asked for, and never drops a record."""
    append(store, *account_stream("a", 3))
    publish(store, kafka, topic_name, partitions=5)
    topic = describe(kafka, topic_name)
    assert topic is not None
    assert len(topic.partitions) == 5
    assert topic.settings == {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def test_a_topic_that_kafka_does_not_make_is_refused(store, kafka):
    """A name or a number of copies that the broker does not take is refused with its reason."""
    with pytest.raises(RefusedError, match="replicat"):
        publish(store, kafka, "ledger-test-copies", replication=3)
    with pytest.raises(RefusedError, match="not a name!"):
        publish(store, kafka, "not a name!")


def test_a_topic_that_was_made_again_is_refused_until_it_is_accepted(store, kafka, kafka_server, topic_name):
    """Another topic under the name is refused; accepted, it gets every event from the first on."""
    append(store, *account_stream("a", 3), *account_stream("b", 3))
    publish(store, kafka, topic_name)
    delete_topic(kafka_server, topic_name)
    wait_for(lambda: describe(kafka, topic_name) is None)
    with pytest.raises(RefusedError, match=r"gone.*--accept-topic"):
        publish(store, kafka, topic_name)
    make_topic(kafka_server, topic_name, 6)
    with pytest.raises(RefusedError, match=r"made again.*--accept-topic"):
        publish(store, kafka, topic_name)
    assert written(kafka_server, topic_name) == {}
    assert publish(store, kafka, topic_name, accept_topic=True).published == 6
    assert written(kafka_server, topic_name) == stored(store)


def test_a_topic_that_is_made_again_meanwhile_is_refused(store, kafka, kafka_server, topic_name):
    """A run whose topic is replaced under it ends refused, with its position where the old topic was left."""
    append(store, *account_stream("a", 30))

    def progress(done: int, _: int | None) -> None:
        if done == 20:
            delete_topic(kafka_server, topic_name)
            wait_for(lambda: describe(kafka, topic_name) is None)
            make_topic(kafka_server, topic_name, 1)

    with pytest.raises(RefusedError, match=r"made again.*--accept-topic"):
        publish(store, kafka, topic_name, partitions=1, batch_events=10, progress=progress)
    assert position(store, topic_name) == 20
    assert publish(store, kafka, topic_name, accept_topic=True).published == 30
    assert once(written(kafka_server, topic_name)).keys() == {"a"}


def test_a_topic_with_other_partitions_is_refused(store, kafka, kafka_server, topic_name):
    """Partitions that were added move accounts, so the topic is refused and nothing is written."""
    append(store, *account_stream("a", 3))
    publish(store, kafka, topic_name, partitions=2)
    with KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap_servers) as admin:
        admin.create_partitions({topic_name: 3})
    wait_for(lambda: len(describe(kafka, topic_name).partitions) == 3)
    with pytest.raises(RefusedError, match="3 partitions, known are 2"):
        publish(store, kafka, topic_name)


def test_a_topic_that_lost_its_tail_gets_it_again_when_accepted(store, kafka, kafka_server, topic_name):
    """A topic that ends before what was delivered is refused; accepted, every event is published again."""
    append(store, *account_stream("a", 4))
    found = publish(store, kafka, topic_name, partitions=1)
    with store.writing() as connection:
        topics.vouch(connection, topic_name, found.topic_id, 1, {0: 9})
    with pytest.raises(RefusedError, match=r"ends at offset 4, known are 9.*--accept-topic"):
        publish(store, kafka, topic_name)
    assert publish(store, kafka, topic_name, accept_topic=True).published == 4
    assert written(kafka_server, topic_name) == {"a": stored(store)["a"] * 2}


def test_a_topic_that_lost_its_first_records_is_refused(store, kafka, kafka_server, topic_name):
    """Deleted records leave a topic that is no copy of the store, and that is said."""
    append(store, *account_stream("a", 4))
    publish(store, kafka, topic_name, partitions=1)
    delete_records(kafka_server, topic_name, {0: 2})
    with pytest.raises(RefusedError, match="begins at offset 2"):
        publish(store, kafka, topic_name)


def test_a_strangers_topic_is_refused_until_it_is_accepted(store, kafka, kafka_server, topic_name):
    """A topic with records that this store knows nothing of may be another ledger's."""
    append(store, *account_stream("a", 2))
    make_topic(kafka_server, topic_name, 2)
    send(kafka_server, topic_name, [(b"b", b"something")])
    with pytest.raises(RefusedError, match="knows nothing of it"):
        publish(store, kafka, topic_name)
    assert publish(store, kafka, topic_name, accept_topic=True).published == 2
    assert written(kafka_server, topic_name) == stored(store) | {"b": [b"something"]}


def test_a_strangers_topic_stays_one_after_a_replay_of_it(store, kafka, kafka_server, topic_name):
    """A rebuild from a topic says that it is whole, and not whose events are in it."""
    append(store, *account_stream("ours", 2))
    ledger_topic(kafka_server, topic_name, account_stream("theirs", 3))
    assert rebuild_from_topic(store, kafka, topic_name).verdict == "COMPLETE"
    assert position(store, topic_name) == 0
    with pytest.raises(RefusedError, match="knows nothing of it"):
        publish(store, kafka, topic_name)
    assert written(kafka_server, topic_name).keys() == {"theirs"}


def restored(store: Store, folder: Path) -> Store:
    """Return a second store that is a copy of this one as it is now."""
    folder.mkdir()
    with (
        closing(sqlite3.connect(str(store.url.database))) as live,
        closing(sqlite3.connect(folder / "ledger.db")) as to,
    ):
        live.backup(to)
    return Store.at(folder)


def test_a_restored_store_does_not_publish_beside_what_it_has_lost(store, kafka, kafka_server, topic_name, tmp_path):
    """A topic that is ahead by events of the store that was lost is refused by name, until they are brought back."""
    append(store, *account_stream("alice", 4), *account_stream("bob", 3))
    publish(store, kafka, topic_name, partitions=1)
    backup = restored(store, tmp_path / "backup")
    Ledger(store).credit("alice", "lost", 11)
    publish(store, kafka, topic_name)
    before = written(kafka_server, topic_name)

    with pytest.raises(
        RefusedError, match=r"has not .*partition 0, offset 7, account 'alice', version 5.*import events"
    ):
        publish(backup, kafka, topic_name)
    other = restored(backup, tmp_path / "other")
    Ledger(other).credit("alice", "made after the backup", 22)
    with pytest.raises(RefusedError, match=r"another event .*account 'alice', version 5.*--accept-topic"):
        publish(other, kafka, topic_name)
    other.close()
    # Nor does a replay make it ours: it says that the topic is whole.
    rebuild_from_topic(backup, kafka, topic_name)
    with pytest.raises(RefusedError, match="'alice', version 5"):
        publish(backup, kafka, topic_name)
    assert written(kafka_server, topic_name) == before

    assert heal_from_topic(backup, kafka, topic_name).verdict == "OK"
    assert publish(backup, kafka, topic_name).verdict == "COMPLETE"
    assert once(written(kafka_server, topic_name)) == stored(backup) == stored(store)
    backup.close()


def test_what_a_first_run_sent_before_it_crashed_is_told_from_what_others_sent(store, kafka, kafka_server, topic_name):
    """Behind a run that noted nothing its own events are repeats, and anything else is refused by its place."""
    append(store, *account_stream("a", 3))
    topic = claimed_topic(store, kafka, topic_name, partitions=1, replication=-1)
    with Delivery(kafka, topic) as delivery:
        delivery.deliver(["a", "a"], stored(store)["a"][:2])
    assert publish(store, kafka, topic_name).published == 3
    assert once(written(kafka_server, topic_name)) == stored(store)
    send(kafka_server, topic_name, [(b"a", stored(store)["a"][0]), (b"b", b"something")])
    with pytest.raises(RefusedError, match=r"no event.*partition 0, offset 6, account 'b'.*--accept-topic"):
        publish(store, kafka, topic_name)
    assert publish(store, kafka, topic_name, accept_topic=True).verdict == "COMPLETE"
    assert publish(store, kafka, topic_name).published == 0


def test_what_cannot_be_seen_to_be_its_own_is_not_published_to(store, kafka, kafka_server, topic_name):
    """A tail held back by an open transaction ends the run with the place, and the next one goes on."""
    append(store, *account_stream("a", 3))
    publish(store, kafka, topic_name, partitions=1)
    hasty = msgspec.structs.replace(kafka, stall_timeout_seconds=2)
    with send_transaction(kafka_server, topic_name, [(b"b", b"something")], end="open") as transaction:
        with pytest.raises(BrokerError, match=r"stalled.*partition 0, offset 3.*run it again"):
            publish(store, hasty, topic_name)
        transaction.abort()
    assert publish(store, kafka, topic_name).published == 0


def test_a_store_that_ends_before_what_was_published_is_refused(store, kafka, topic_name):
    """A store that lost its newest events, or another one in its place, publishes nothing."""
    append(store, *account_stream("a", 4))
    publish(store, kafka, topic_name)
    lose_event(store, "a", 3, 4)
    with pytest.raises(RefusedError, match="ends at position 2, published was up to 4"):
        publish(store, kafka, topic_name)
