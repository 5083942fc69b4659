"""The shadow of a topic on a real broker: whatever happens to its instances, each event counts once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka_broker import Broker, OwnBroker
from ledgers import append
from shadows import Stored, fresh, stored
from topic_cases import connection_to, history, records_of
from topic_groups import said_by_topic
from topics import (
    Record,
    bury,
    delete_records,
    delete_topic,
    ledger_topic,
    make_topic,
    segment_files,
    send,
    send_transaction,
)

from consumers import topic_group, topic_shadow
from consumers.shadow import Start, Step
from consumers.topic_shadow import TopicShadow
from ledger import Store
from replay.digest import digest
from replay.topic import describe, rebuild_from_topic, replayed_topic
from schemas.errors import RefusedError

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
EVENTS = 2_000
PARTITIONS = 3
POINTS = ("read", "fold", "write", "commit", "committed")
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
#: Kills at random moments of each seed; those of the store's shadow are in tests/recovery.
RANDOM_KILLS = 4 if FULL else 1

Open = Callable[..., TopicShadow]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A small ledger."""
    store = Store.at(tmp_path / "data")
    append(store, *history(40, EVENTS))
    yield store
    store.close()


@pytest.fixture
def opened(store: Store, kafka_server: Broker, topic_name: str) -> Iterator[Open]:
    """Opens instances of the shadow of the topic, which are closed at the end."""
    instances: list[TopicShadow] = []

    def open_one(**options: object) -> TopicShadow:
        patient = connection_to(kafka_server)
        instances.append(
            TopicShadow(store, patient, topic_name, **{"batch_events": 100, "poll_seconds": 0.1} | options)
        )
        return instances[-1]

    yield open_one
    for instance in instances:
        instance.close()


def check(store: Store, broker: Broker, topic: str, name: str = "shadow") -> Stored:
    """Compare what is stored with a replay of the topic up to the same offsets: rows, digest, who is parked and why."""
    found, connection = stored(store, name), connection_to(broker)
    described = describe(connection, topic)
    assert described is not None
    options = {"ledger_id": store.ledger_id, "until": found.positions, "links": True}
    with replayed_topic(connection, described, **options) as replay:
        expected = said_by_topic(replay)
        balances = found.rows.with_columns(available=found.rows["balance"] - found.rows["frozen"])
        assert replay.certificate.digest == digest(balances)
    assert found.parked == expected.parked
    assert found.rows.equals(expected.rows)
    return found


def check_whole(store: Store, broker: Broker, topic: str) -> None:
    """Compare with the topic and with the store, all of whose events are on it."""
    rows = check(store, broker, topic).rows
    assert rows.equals(fresh(store, EVENTS).rows)


def until(happened: Callable[[], bool], *instances: TopicShadow) -> None:
    """Step the instances in turn until something has happened."""
    ends_at = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends_at, "it does not happen"
        for instance in instances:
            instance.step()


def is_level(step: Step) -> bool:
    """Whether a shadow is where its topic ends."""
    return step.lag_events == 0


def to_end(shadow: TopicShadow) -> None:
    """Step until all is applied."""
    until(lambda: is_level(shadow.step()))


def test_one_instance_comes_to_what_a_replay_says(kafka_server, topic_name, store, opened):
    """At any offset the rows are those of a replay of the topic up to there, and at the end those of the store."""
    ledger_topic(kafka_server, topic_name, store, PARTITIONS, compression="lz4")
    shadow = opened(batch_events=333)
    for _ in range(3):
        until(lambda: shadow.step().events == 333)
        check(store, kafka_server, topic_name)
    to_end(shadow)
    check_whole(store, kafka_server, topic_name)


def test_two_instances_share_the_partitions(kafka_server, topic_name, store, opened):
    """Each reads some of them, one that leaves gives its own back at once, and they come to the same rows together."""
    records = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, PARTITIONS)
    send(kafka_server, topic_name, records[:500])
    first, second = opened(), opened()

    def shared() -> bool:
        return bool(first._batches.group.assigned) and bool(second._batches.group.assigned)

    until(shared, first, second)
    assert first._batches.group.assigned | second._batches.group.assigned == set(range(PARTITIONS))
    assert not first._batches.group.assigned & second._batches.group.assigned
    send(kafka_server, topic_name, records[500:1_500])
    until(lambda: is_level(first.step()) and is_level(second.step()), first, second)
    check(store, kafka_server, topic_name)
    second.close()
    send(kafka_server, topic_name, records[1_500:])
    to_end(first)
    assert len(first._batches.group.assigned) == PARTITIONS
    check_whole(store, kafka_server, topic_name)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the group give up a member as soon as brokers let it."""
    monkeypatch.setattr(topic_group, "POLL_INTERVAL_MS_MAX", 6_000)
    monkeypatch.setattr(topic_group, "SESSION_MS", 6_000)


@pytest.mark.parametrize("point", ["read", "fold"])
@pytest.mark.usefixtures("impatient")
def test_an_instance_that_lost_its_partitions_with_a_batch_in_its_hands(kafka_server, topic_name, store, opened, point):
    """It was kept from asking so long that others have its partitions: the batch is void, and it goes on with them."""
    ledger_topic(kafka_server, topic_name, store, PARTITIONS)
    second = opened(name="shadow")
    passed, is_over = [0], list[bool]()

    def at(reached: str) -> None:
        passed[0] += reached == point
        if reached == point and passed[0] == 3:
            passed[0] += 1
            before = stored(store).positions
            until(lambda: stored(store).positions != before, second)
            until(lambda: sum(stored(store).positions.values()) > 1_200, second)
            is_over.append(True)

    first = opened(at=at)
    # It may have been reading ahead, and is only then asked for what it had.
    until(lambda: bool(is_over), first)
    first.step()
    # Whatever it had read was applied by the other one meanwhile.
    check(store, kafka_server, topic_name)
    second.close()
    to_end(first)
    check_whole(store, kafka_server, topic_name)


class Process:
    """An instance in a process of its own."""

    def __init__(self, store: Store, broker: Broker, topic: str, *words: str) -> None:
        program = str(Path(__file__).with_name("topic_shadower.py"))
        command = [sys.executable, program, str(store.url), broker.bootstrap_servers, topic, *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.pipes = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def wait_for(self, says: str) -> None:
        """Wait until it says something that begins so."""
        for line in self.pipes.stdout:
            if line.startswith(says):
                return
        raise AssertionError(f"it ended with status {self.pipes.wait()}")

    def next_line(self) -> str:
        """Return what it says next."""
        return self.pipes.stdout.readline()

    def kill(self) -> None:
        """End it where it is."""
        self.pipes.kill()
        self.pipes.wait()
        for pipe in (self.pipes.stdin, self.pipes.stdout):
            pipe.close()


@contextmanager
def processes() -> Iterator[list[Process]]:
    """A list of processes that are gone at the end."""
    found: list[Process] = []
    try:
        yield found
    finally:
        for process in found:
            process.kill()


def test_a_zombie_that_wakes_is_fenced(kafka_server, topic_name, store, opened):
    """A stopped process is given up by the group; when it wakes with its old batch, nothing of that is applied."""
    ledger_topic(kafka_server, topic_name, store, PARTITIONS)
    with processes() as running:
        running.append(zombie := Process(store, kafka_server, topic_name, "50", "fold", "4"))
        said: list[str] = []
        # The fourth batch is made while the third is written.
        while "at fold\n" not in said or sum(line.startswith("step ") and line[5] != "0" for line in said) < 3:
            said.append(zombie.next_line())
            assert said[-1], "it has ended"
        zombie.pipes.send_signal(signal.SIGSTOP)
        before = stored(store).positions
        other = opened()
        # Whichever partition its batch is of.
        until(lambda: all(reached > before[at] for at, reached in stored(store).positions.items()), other)
        zombie.pipes.send_signal(signal.SIGCONT)
        zombie.pipes.stdin.write("\n")
        zombie.pipes.stdin.flush()
        # What it held was taken by the other one, and it says that it applied nothing.
        assert zombie.next_line().startswith("step 0 ")
        check(store, kafka_server, topic_name)
        until(lambda: sum(stored(store).positions.values()) == EVENTS, other)
    check_whole(store, kafka_server, topic_name)


def test_an_untidy_topic(kafka_server, topic_name, store, opened):
    """Poison, tombstones, repeats, aborted records, gaps filled from another partition: always as a replay says."""
    records: list[Record] = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, PARTITIONS)
    late = [records.pop(place) for place in (700, 600, 500)]
    shadow = opened()
    for start in range(0, len(records), 400):
        send(kafka_server, topic_name, records[max(0, start - 50) : start + 400])
        send_transaction(kafka_server, topic_name, records[:5], end="abort")
        send_transaction(kafka_server, topic_name, [(b"none", b"{}"), (None, b"nobody's"), (b"gone", None)])
        to_end(shadow)
        found = check(store, kafka_server, topic_name)
    assert {"none", "gone", ""} < set(found.parked)
    assert len(found.parked) == 3 + len({key for key, _ in late})
    for partition, record in enumerate(late):
        send(kafka_server, topic_name, [record], partition=partition)
    to_end(shadow)
    assert check(store, kafka_server, topic_name).parked.keys() == {"none", "gone", ""}


def test_an_open_transaction_is_no_lag(kafka_server, topic_name, store, opened, monkeypatch):
    """What is not committed is not applied, nor what comes after it; a restarted shadow too says so until it ends."""
    monkeypatch.setattr(topic_shadow, "LOOK_SECONDS", 0.2)
    records = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, 1)
    send(kafka_server, topic_name, records[:100])
    with send_transaction(kafka_server, topic_name, records[100:110], end="open") as transaction:
        send(kafka_server, topic_name, records[110:])
        for _ in range(2):
            shadow = opened()
            until(lambda: shadow.step().held_back_events == EVENTS - 100)  # noqa: B023 - it is called at once.
            until(lambda: shadow.step().position == {0: 100})  # noqa: B023 - it is called at once.
            step = shadow.step()
            assert (step.events, step.position, step.head, step.lag_events) == (0, {0: 100}, {0: 100}, 0)
            shadow.close()
        transaction.commit()
    to_end(opened())
    check_whole(store, kafka_server, topic_name)


def test_partitions_that_a_topic_is_given_are_followed(kafka_server, topic_name, store, opened):
    """They are read from their beginning, accounts that moved to them included."""
    records = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, 2)
    send(kafka_server, topic_name, records[:1_000])
    shadow = opened()
    to_end(shadow)
    with KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap_servers) as admin:
        admin.create_partitions({topic_name: 4})
    until(lambda: len(shadow.step().position) == 4)
    send(kafka_server, topic_name, records[1_000:])
    until(lambda: sum(stored(store).positions.values()) == EVENTS, shadow)
    check_whole(store, kafka_server, topic_name)


def test_a_topic_that_lost_records_or_was_made_again_is_refused(kafka_server, topic_name, store, opened):
    """What was deleted unread, and another topic of the same name, stop it while it runs and when it is opened."""
    ledger_topic(kafka_server, topic_name, store, 1)
    shadow = opened()
    until(lambda: sum(shadow.step().position.values()) >= 300)
    reached = stored(store)
    delete_records(kafka_server, topic_name, {0: 1_500})
    shadow.close()
    with pytest.raises(RefusedError, match="begins at offset 1,500"):
        opened()
    delete_topic(kafka_server, topic_name)
    make_again(kafka_server, topic_name)
    with pytest.raises(RefusedError, match="was made again"):
        opened()
    assert stored(store).rows.equals(reached.rows)
    again = opened(restart=True)
    send(kafka_server, topic_name, records_of(history(40, EVENTS)))
    to_end(again)
    check_whole(store, kafka_server, topic_name)
    delete_topic(kafka_server, topic_name)
    with pytest.raises(RefusedError, match="the topic is gone"):
        until(lambda: False, again)
    make_again(kafka_server, topic_name)
    with pytest.raises(RefusedError, match="was made again"):
        until(lambda: False, again)


def make_again(broker: Broker, topic: str) -> None:
    """Make a topic under the name of one that was just deleted."""
    ends_at = time.monotonic() + 30
    while describe(connection_to(broker), topic) is not None:
        assert time.monotonic() < ends_at, "it is still there"
        time.sleep(0.1)
    make_topic(broker, topic, 1)


def test_records_deleted_while_it_runs(kafka_server, topic_name, store, opened):
    """It stops where it was once what comes next is gone, and says so."""
    ledger_topic(kafka_server, topic_name, store, 1)
    shadow = opened()
    to_end(shadow)
    send(kafka_server, topic_name, [(b"none", b"{}")])
    ends = describe(connection_to(kafka_server), topic_name).partitions[0].high
    delete_records(kafka_server, topic_name, {0: ends})
    with pytest.raises(RefusedError, match="begins at offset"):
        until(lambda: False, shadow)


def test_it_starts_from_a_rebuild_of_the_topic(kafka_server, topic_name, store, opened):
    """Rows of a generation are taken over at the offsets of its certificate, and only what comes later is read."""
    records = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, PARTITIONS)
    send(kafka_server, topic_name, records[:1_500])
    rebuilt = rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    send(kafka_server, topic_name, records[1_500:])
    shadow = opened(start=Start(generation=rebuilt.generation))
    assert stored(store).positions == rebuilt.certificate.position
    assert check(store, kafka_server, topic_name).rows.height == 40
    to_end(shadow)
    check_whole(store, kafka_server, topic_name)


def test_a_broker_that_pauses_is_waited_for(own_kafka: OwnBroker, topic_name, store):
    """It says so once, and goes on by itself."""
    ledger_topic(own_kafka, topic_name, store, PARTITIONS)
    said: list[str] = []
    options = {"batch_events": 50, "poll_seconds": 0.1, "waiting": said.append}
    with closing(TopicShadow(store, connection_to(own_kafka), topic_name, **options)) as shadow:
        until(lambda: sum(shadow.step().position.values()) >= 200)
        own_kafka.pause()
        until(lambda: bool(said), shadow)
        shadow.step()
        own_kafka.resume()
        to_end(shadow)
    assert len(said) == 2
    assert "waits" in said[0]
    assert said[1] == ""
    check_whole(store, own_kafka, topic_name)


def test_a_damaged_batch_stops_it_where_that_is(own_kafka: OwnBroker, topic_name, store):
    """What is before the damage is applied, nothing behind it is, and the error names partition and offset."""
    ledger_topic(own_kafka, topic_name, store, 1, segment_bytes=65_536, client="kafka-python")
    file = segment_files(own_kafka, topic_name)[1]
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with closing(TopicShadow(store, connection_to(own_kafka), topic_name, poll_seconds=0.1)) as shadow:
        for _ in range(2):
            with pytest.raises(RefusedError, match="corrupt") as caught:
                until(lambda: False, shadow)
            reached = stored(store).positions[0]
            assert f"partition 0, offset {reached:,}" in caught.value.where
    assert int(file.stem) < reached < EVENTS
    with replayed_until(store, own_kafka, topic_name, reached) as expected:
        assert stored(store).rows.equals(expected.rows)


@contextmanager
def replayed_until(store: Store, broker: Broker, topic: str, offset: int) -> Iterator[Stored]:
    """What a replay of a topic of one partition says up to an offset."""
    described = describe(connection_to(broker), topic)
    assert described is not None
    options = {"ledger_id": store.ledger_id, "until": {0: offset}, "links": True}
    with replayed_topic(connection_to(broker), described, **options) as replay:
        yield said_by_topic(replay)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_anywhere_its_rows_are_those_of_a_replay(kafka_server, topic_name, store, seed):
    """Each time that it is killed, at a named step or any moment, rows and positions belong together."""
    chance = random.Random(seed)
    records = iter(records_of(history(40, EVENTS)))
    make_topic(kafka_server, topic_name, PARTITIONS)
    send(kafka_server, topic_name, islice(records, 300))
    moments = [*POINTS, *[""] * RANDOM_KILLS]
    chance.shuffle(moments)
    for point in moments:
        send(kafka_server, topic_name, islice(records, (EVENTS - 400) // len(moments)))
        words = (point, str(chance.randrange(1, 6))) if point else ()
        with processes() as running:
            running.append(process := Process(store, kafka_server, topic_name, "20", *words))
            if point:
                process.wait_for(f"at {point}")
            else:
                process.wait_for(chance.choice(["began", "step 20"]))
                time.sleep(chance.random() / 10)
        check(store, kafka_server, topic_name)
        bury(kafka_server, f"ledger-replay-{store.ledger_id}-shadow")
    send(kafka_server, topic_name, records)
    with closing(TopicShadow(store, connection_to(kafka_server), topic_name)) as last:
        to_end(last)
    check_whole(store, kafka_server, topic_name)
