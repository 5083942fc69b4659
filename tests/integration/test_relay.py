"""The relay on a real broker: what is on the topic, whatever is done to relay, store, topic and broker."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from databases import OnPostgres, OnSqlite
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka_broker import Broker, OwnBroker
from ledgers import append, change_event, positions, put_back, take_event, write_history
from producers import CLIENTS
from relays import once, position, shuffled_history, stored, wait_for, written
from samples import account_stream, opened, recorded
from topics import make_topic, read_records, send

from consumers.delivery import partition_of
from consumers.relay import Published, publish
from ledger import Ledger, Store, topics
from replay.topic.connection import Connection
from replay.topic.metadata import describe
from schemas.errors import BrokerError, BrokerRefused, PositionMoved

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]


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


class Contract:
    def test_each_account_is_on_the_topic_in_order_byte_for_byte(self, store, kafka, kafka_server, topic_name):
        """The topic has the stored bytes of every event once, each account in one partition and in version order."""
        write_history(store, 9)
        append(store, *account_stream("Zoë 日本", 3))
        found = publish(store, kafka, topic_name, partitions=4, batch_events=7)
        assert (found.verdict, found.parked) == ("COMPLETE", [])
        assert written(kafka_server, topic_name) == stored(store)
        records = read_records(kafka_server, topic_name)
        assert found.published == len(records)
        assert len({record.partition for record in records}) > 1
        assert len({(record.key, record.partition) for record in records}) == len(stored(store))
        ends = {at: bounds.high for at, bounds in describe(kafka, topic_name).partitions.items() if bounds.high}
        assert found.offsets == ends
        with store.snapshot() as connection:
            known = topics.known(connection, topic_name)
            assert known == (topic_name, found.topic_id, 4, store.head(connection), ends, ends)

    def test_the_next_run_publishes_only_what_is_new(self, store, kafka, kafka_server, topic_name):
        """A run goes on from the position of the one before it, and one with nothing new sends nothing."""
        write_history(store)
        first = publish(store, kafka, topic_name)
        assert publish(store, kafka, topic_name).published == 0
        append(store, *account_stream("later", 3))
        Ledger(store).credit("acc-2", "later", 5)
        second = publish(store, kafka, topic_name)
        assert (second.published, second.position) == (4, first.position + 4)
        assert written(kafka_server, topic_name) == stored(store)

    def test_what_is_damaged_or_behind_a_hole_waits_until_it_is_repaired(self, store, kafka, kafka_server, topic_name):
        """Such accounts are named with their first unpublished version, the rest goes on, and repaired they follow."""
        append(store, *account_stream("whole", 6), *account_stream("damaged", 6), *account_stream("hole", 6))
        append(store, *account_stream("unreadable", 3), *account_stream("tail", 4), *account_stream("gone", 2))
        everything = stored(store)
        change_event(store, "damaged", 3, state=everything["damaged"][3])
        change_event(store, "unreadable", 2, state=b"{")
        hole = take_event(store, "hole", 4)
        tail = take_event(store, "tail", 4)
        gone = [take_event(store, "gone", version) for version in (1, 2)]
        append(store, *account_stream("other", 1))
        found = publish(store, kafka, topic_name, batch_events=5)
        assert found.verdict == "INCOMPLETE"
        assert {each.account_id: (each.version, each.reason) for each in found.parked} == {
            "damaged": (3, "poison_event"),
            "gone": (1, "head_mismatch"),
            "hole": (4, "version_gap"),
            "tail": (4, "head_mismatch"),
            "unreadable": (2, "poison_event"),
        }
        everything |= {"other": stored(store)["other"]}
        reached = {"whole": 6, "damaged": 2, "hole": 3, "unreadable": 1, "tail": 3, "other": 1}
        assert written(kafka_server, topic_name) == {name: everything[name][:end] for name, end in reached.items()}
        assert publish(store, kafka, topic_name).published == 0

        change_event(store, "damaged", 3, state=everything["damaged"][2])
        change_event(store, "unreadable", 2, state=everything["unreadable"][1])
        for row in (*reversed(gone), tail, hole):
            put_back(store, row)
        found = publish(store, kafka, topic_name, batch_events=5)
        assert (found.verdict, found.parked) == ("COMPLETE", [])
        assert written(kafka_server, topic_name) == everything

    def test_of_two_relays_at_once_one_is_told_and_nothing_is_lost(self, store, kafka, kafka_server, topic_name):
        """Both may send the same events, one hears that the position moved, and new events are in order."""
        shuffled_history(store, 3_000)
        make_topic(kafka_server, topic_name, 3)
        ready = threading.Barrier(2)

        def run(_: int) -> Published | PositionMoved:
            ready.wait()
            try:
                return publish(store, kafka, topic_name, batch_events=500)
            except PositionMoved as moved:
                return moved

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(run, range(2)))
        assert any(isinstance(each, Published) for each in found)
        assert publish(store, kafka, topic_name).verdict == "COMPLETE"
        assert once(written(kafka_server, topic_name)) == stored(store)


class TestOnSqlite(OnSqlite, Contract):
    pass


class TestOnPostgres(OnPostgres, Contract):
    pass


def start(store: Store, servers: str, topic: str) -> subprocess.Popen[str]:
    """Start a process that publishes in small batches, and wait until it begins."""
    url = store.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.integration.relayer", url, servers, topic, "100"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_relay_is_finished_by_the_same_command(store, kafka, kafka_server, topic_name, seed):
    """After kills at random moments the topic has every event in order, with repeats and with nothing else."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    shuffled_history(store, 12_000)
    reached = []
    for _ in range(5):
        with start(store, kafka.bootstrap_servers, topic_name) as process:
            time.sleep(chance.uniform(0.2, 1.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
        with store.snapshot() as connection:
            known = topics.known(connection, topic_name)
        reached.append(known.position if known else 0)
    assert reached == sorted(reached)
    assert any(0 < position < 12_000 for position in reached)
    with start(store, kafka.bootstrap_servers, topic_name) as process:
        assert process.stdout is not None
        assert process.stdout.read().split()[0] == "COMPLETE"
    assert once(written(kafka_server, topic_name)) == stored(store)


def test_a_follower_publishes_what_comes_until_it_is_told_to_stop(store, kafka, kafka_server, topic_name):
    """Events appended meanwhile are on the topic soon, and it ends in order after the batch in hand."""
    append(store, *account_stream("before", 3))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            publish, store, kafka, topic_name, follow=True, should_stop=stop.is_set, poll_seconds=0.02
        )
        try:
            wait_for(lambda: position(store, topic_name) == 3)
            for number in range(5):
                append(store, *account_stream(f"new-{number}", 10))
                wait_for(lambda expected=13 + 10 * number: position(store, topic_name) == expected)
        finally:
            stop.set()
        found = running.result()
    assert (found.verdict, found.published, found.position) == ("COMPLETE", 53, 53)
    assert written(kafka_server, topic_name) == stored(store)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_account_is_where_every_client_looks_for_it(kafka_server, topic_name, client):
    """The partition of an account is the one that a client chooses by itself for that key."""
    make_topic(kafka_server, topic_name, 5)
    accounts = [f"account {number} é日" for number in range(40)]
    placed = send(kafka_server, topic_name, [(name.encode(), b"{}") for name in accounts], client=client)
    assert [partition for partition, _ in placed] == [partition_of(name, 5) for name in accounts]


def test_events_too_large_for_one_request_go_in_several(store, kafka, kafka_server, topic_name):
    """Where many events at once are more than the broker takes, they come in parts, in order and once."""
    append(store, *(event for number in range(6) for event in account_stream(f"account-{number}", 300)))
    make_topic(kafka_server, topic_name, 2, max_message_bytes=4_000)
    assert publish(store, kafka, topic_name).published == 1_800
    assert written(kafka_server, topic_name) == stored(store)


def test_an_event_too_large_for_the_broker_ends_it_by_name(store, kafka, kafka_server, topic_name):
    """An event that the broker does not take is named, the position stays, and nothing of its account is lost."""
    text = random.Random(1).randbytes(20_000).hex()
    large = recorded("large", 2, metadata={"text": text})
    append(store, *account_stream("small", 2), opened("large"), large, recorded("large", 3))
    make_topic(kafka_server, topic_name, 1, max_message_bytes=4_000)
    with pytest.raises(BrokerError, match="'large'") as failed:
        publish(store, kafka, topic_name)
    assert "max.message.bytes" in failed.value.next_step
    assert position(store, topic_name) == 0
    with KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap_servers) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic_name, {"max.message.bytes": "100000"})])
    found = publish(store, kafka, topic_name)
    assert found.verdict == "COMPLETE"
    assert {name: sorted(stream) for name, stream in once(written(kafka_server, topic_name)).items()} == {
        name: sorted(stream) for name, stream in stored(store).items()
    }


def test_events_put_back_are_on_the_topic_at_most_again(store, kafka, kafka_server, topic_name):
    """An event that was published before the store lost it changes nothing of what is on the topic."""
    append(store, *account_stream("a", 6), *account_stream("b", 2))
    publish(store, kafka, topic_name)
    put_back(store, take_event(store, "a", 3))
    assert max(positions(store, "a").values()) == positions(store, "a")[3]
    found = publish(store, kafka, topic_name)
    assert (found.verdict, found.published) == ("COMPLETE", 0)
    assert written(kafka_server, topic_name) == stored(store)


def test_a_broker_that_is_gone_ends_it_in_time_and_the_next_run_goes_on(store, own_kafka: OwnBroker, topic_name):
    """A broker that stops answering ends the run with the place and what to do, in the time that was set."""
    shuffled_history(store, 3_000)
    kafka = Connection(bootstrap_servers=own_kafka.bootstrap_servers, stall_timeout_seconds=3)
    seen: list[int] = []

    def progress(done: int, _: int | None) -> None:
        if not seen:
            own_kafka.kill()
        seen.append(done)

    began = time.monotonic()
    with pytest.raises(BrokerError, match=topic_name) as failed:
        publish(store, kafka, topic_name, partitions=3, batch_events=500, progress=progress)
    assert time.monotonic() - began < 30
    assert "run it again" in failed.value.next_step
    assert position(store, topic_name) == seen[-1] < 3_000
    with pytest.raises(BrokerError):
        publish(store, kafka, topic_name)
    own_kafka.heal()
    assert publish(store, kafka, topic_name).verdict == "COMPLETE"
    assert once(written(own_kafka, topic_name)) == stored(store)


def test_a_broker_that_pauses_or_restarts_is_waited_for(store, own_kafka: OwnBroker, topic_name):
    """Within the time that was set the relay waits, and nothing is lost, written twice or moved."""
    shuffled_history(store, 3_000)
    kafka = Connection(bootstrap_servers=own_kafka.bootstrap_servers, stall_timeout_seconds=60)
    with ThreadPoolExecutor(1) as pool:

        def progress(done: int, _: int | None) -> None:
            if done == 500:
                own_kafka.pause()
                pool.submit(lambda: (time.sleep(2), own_kafka.resume()))
            if done == 2_000:
                own_kafka.kill()
                pool.submit(own_kafka.start)

        found = publish(store, kafka, topic_name, partitions=3, batch_events=500, progress=progress)
    assert (found.verdict, found.published) == ("COMPLETE", 3_000)
    assert written(own_kafka, topic_name) == stored(store)


def test_a_follower_outlasts_a_broker_that_is_gone_for_longer_than_its_patience(store, own_kafka, topic_name):
    """It says once that it waits, goes on by itself when the broker is back, and loses and reorders nothing."""
    kafka = Connection(bootstrap_servers=own_kafka.bootstrap_servers, stall_timeout_seconds=2)
    append(store, *account_stream("before", 3))
    stop, said = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            publish, store, kafka, topic_name, follow=True, should_stop=stop.is_set, waiting=said.append
        )
        try:
            wait_for(lambda: position(store, topic_name) == 3)
            own_kafka.kill()
            append(store, *account_stream("meanwhile", 40))
            wait_for(lambda: said)
            time.sleep(2 * kafka.stall_timeout_seconds)
            assert not running.done()
            own_kafka.start()
            wait_for(lambda: position(store, topic_name) == 43, seconds=60)
            append(store, *account_stream("after", 5))
            wait_for(lambda: position(store, topic_name) == 48)
        finally:
            stop.set()
        found = running.result()
    assert (found.verdict, found.published) == ("COMPLETE", 48)
    waits, goes_on = said
    assert re.search(r"waits at position 3 .*Kafka did not take", waits)
    assert not goes_on
    assert once(written(own_kafka, topic_name)) == stored(store)


def test_a_follower_that_waits_for_a_broker_ends_when_it_is_told_to(store, own_kafka, topic_name):
    """While the broker is gone it ends with what it had reached, and the next run does the rest."""
    kafka = Connection(bootstrap_servers=own_kafka.bootstrap_servers, stall_timeout_seconds=2)
    append(store, *account_stream("before", 3))
    stop, said = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            publish, store, kafka, topic_name, follow=True, should_stop=stop.is_set, waiting=said.append
        )
        try:
            wait_for(lambda: position(store, topic_name) == 3)
            own_kafka.kill()
            append(store, *account_stream("meanwhile", 4))
            wait_for(lambda: said)
        finally:
            stop.set()
        found = running.result(60)
    assert (found.position, found.published) == (3, 3)
    own_kafka.heal()
    assert publish(store, kafka, topic_name).published == 4


def test_a_follower_does_not_wait_for_what_waiting_does_not_mend(store, kafka, kafka_server, topic_name):
    """An event that the broker does not take ends a follower, which would send its neighbours for ever."""
    large = recorded("large", 2, metadata={"text": random.Random(1).randbytes(20_000).hex()})
    append(store, opened("large"), large)
    make_topic(kafka_server, topic_name, 1, max_message_bytes=4_000)
    with pytest.raises(BrokerRefused, match="'large'"):
        publish(store, kafka, topic_name, follow=True)
