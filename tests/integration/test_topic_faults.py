"""What brokers, producers and operators do to a topic: no replay takes less than everything for everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka_broker import Broker, OwnBroker
from ledgers import append
from samples import opened, recorded
from topic_cases import CLIENTS, connection_to, history, records_of
from topics import delete_records, delete_topic, ledger_topic, make_topic, read_records, send, send_transaction

from console.main import main
from ledger import Store, topics
from replay import balances, generations
from replay.topic import balances_from_topic, describe, rebuild_from_topic
from replay.topic.full_replay import Watch
from replay.topic.partition import State
from schemas.errors import RefusedError

pytestmark = pytest.mark.kafka

EVENTS = 4_000
ACCOUNTS = 60
PATIENCE_SECONDS = 2.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ledger of many events."""
    store = Store.at(tmp_path / "data")
    append(store, *history(ACCOUNTS, EVENTS))
    yield store
    store.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    """A ledger of no events, which knows nothing of any topic."""
    store = Store.at(tmp_path / "empty")
    yield store
    store.close()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Any, str]]:
    """A function that runs the command line and returns its status, its document and what it said on stderr."""
    monkeypatch.delenv("LEDGER_REPLAY_BOOTSTRAP_SERVERS", raising=False)

    def said(broker: Broker, data: Path, patience_seconds: float, *words: str) -> tuple[int, Any, str]:
        (data / "ledger-replay.toml").write_text(f"[kafka]\nstall_timeout_seconds = {patience_seconds}\n")
        shared = ["--data", str(data), "--bootstrap-servers", broker.bootstrap_servers, "--json"]
        status = main([*words, *shared])
        out, err = capfd.readouterr()
        assert out, err
        return status, msgspec.json.decode(out), err

    return said


def when_first(condition: Callable[[State], bool], act: Callable[[], None]) -> tuple[Watch, threading.Event]:
    """Return a watch that acts at the first state that meets a condition, and an event that says that it did."""
    done = threading.Event()

    def watch(states: dict[int, State]) -> None:
        if not done.is_set() and any(condition(state) for state in states.values()):
            done.set()
            act()

    return watch, done


# Transactions.


@pytest.mark.parametrize("client", CLIENTS)
def test_only_committed_events_are_seen(kafka_server, topic_name, store, client):
    """Aborted events are as if they had never been, whatever they say, and the replay ends behind their marks."""
    make_topic(kafka_server, topic_name, 3)
    records = records_of(history(ACCOUNTS, EVENTS))
    void = records_of(recorded(f"account-{number}", 2, 999) for number in range(ACCOUNTS))
    send_transaction(kafka_server, topic_name, records[:1_500], client="librdkafka")
    send_transaction(kafka_server, topic_name, void, end="abort", client="librdkafka")
    send(kafka_server, topic_name, records[1_500:])
    send_transaction(kafka_server, topic_name, void, end="abort", client="librdkafka")
    found = rebuild_from_topic(store, connection_to(kafka_server, client), topic_name)
    assert found.verdict == "COMPLETE"
    assert found.certificate.repeats == 0
    assert found.certificate.digest == balances(store).certificate.digest


@pytest.mark.parametrize("client", CLIENTS)
def test_an_open_transaction_is_stalled_and_never_the_end(kafka_server, topic_name, store, client):
    """It is INCOMPLETE from the offset that the transaction holds; once that is over the next run is whole."""
    ledger_topic(kafka_server, topic_name, store, 2)
    extra = records_of([opened("late")])
    connection = connection_to(kafka_server, client, PATIENCE_SECONDS)
    ends = {at: bounds.high for at, bounds in describe(connection, topic_name).partitions.items()}
    with send_transaction(kafka_server, topic_name, extra, end="open", partition=1) as transaction:
        send(kafka_server, topic_name, records_of([opened("later")]), partition=1)
        found = rebuild_from_topic(store, connection, topic_name, promote=True)
        assert (found.verdict, found.promoted) == ("INCOMPLETE", False)
        (unread,) = found.certificate.unread
        assert (unread.partition, unread.offset, unread.reason) == (1, ends[1], "stalled")
        assert unread.until == ends[1] + 2
        transaction.commit()
    whole = rebuild_from_topic(store, connection, topic_name)
    assert whole.verdict == "COMPLETE"
    assert whole.certificate.events == EVENTS + 2


@pytest.mark.parametrize("client", CLIENTS)
def test_a_transaction_that_ends_in_time_is_waited_for(kafka_server, topic_name, store, client):
    """The replay says that it waits, goes on when the transaction is committed, and is whole."""
    ledger_topic(kafka_server, topic_name, store, 2)
    with send_transaction(kafka_server, topic_name, records_of([opened("late")]), end="open") as transaction:
        watch, waited = when_first(lambda state: bool(state.note), transaction.commit)
        found = rebuild_from_topic(store, connection_to(kafka_server, client), topic_name, watch=watch)
    assert waited.is_set()
    assert found.verdict == "COMPLETE"
    assert found.certificate.events == EVENTS + 1


def test_stalled_on_the_command_line(kafka_server, topic_name, store, tmp_path, run):
    """Exit 3, and the offset in the document; `stalled` is said in so many words."""
    ledger_topic(kafka_server, topic_name, store, 1)
    with send_transaction(kafka_server, topic_name, records_of([opened("late")]), end="open") as transaction:
        status, document, _ = run(
            kafka_server, tmp_path / "data", 1.0, "rebuild", "--from", "topic", "--topic", topic_name
        )
        transaction.abort()
    assert (status, document["verdict"]) == (3, "INCOMPLETE")
    (unread,) = document["certificate"]["unread"]
    assert (unread["offset"], unread["reason"]) == (EVENTS, "stalled")


# Repeats, poison.


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_sent_twice_counts_once(kafka_server, topic_name, store, client):
    """Re-sent ranges, at once and much later, change nothing but the count of repeats."""
    records = records_of(history(ACCOUNTS, EVENTS))
    make_topic(kafka_server, topic_name, 3)
    again = [*records[:700], *records[500:], *records[100:400], *records[-1:]]
    send(kafka_server, topic_name, again, client=CLIENTS[-1])
    found = rebuild_from_topic(store, connection_to(kafka_server, client), topic_name)
    assert found.verdict == "COMPLETE"
    assert found.certificate.repeats == len(again) - len(records)
    assert found.certificate.events == EVENTS
    assert found.certificate.digest == balances(store).certificate.digest


def test_a_repeat_with_other_content_is_found(kafka_server, topic_name, store):
    """Its account is parked as a conflict, with its partition, and the others are certified."""
    ledger_topic(kafka_server, topic_name, store, 3)
    ((partition, _),) = send(kafka_server, topic_name, records_of([recorded("account-7", 3, 12_345)]))
    found = balances_from_topic(store, connection_to(kafka_server), topic_name)
    assert found.verdict == "INCOMPLETE"
    (parked,) = found.certificate.parked
    assert (parked.account_id, parked.version, parked.reason) == ("account-7", 3, "conflicting_repeat")
    assert parked.partition == partition
    assert found.certificate.repeats == 1
    expected = balances(store).rows.filter(account_id="account-7")
    assert found.rows.height == ACCOUNTS - expected.height


def test_poison_is_named_by_its_place(kafka_server, topic_name, store, tmp_path, run, capfd):  # noqa: PLR0917 - they are the fixtures of a test.
    """A payload that is no event and a tombstone park their accounts; document and text say partition and offset."""
    ledger_topic(kafka_server, topic_name, store, 2)
    bad = [(b"account-3", b'{"event":"account.vanished"}'), (b"account-4", None), (None, b"\xff")]
    placed = send(kafka_server, topic_name, bad, partition=1)
    words = ("rebuild", "--from", "topic", "--topic", topic_name)
    status, document, _ = run(kafka_server, tmp_path / "data", 5.0, *words)
    assert (status, document["verdict"]) == (3, "INCOMPLETE")
    certificate = document["certificate"]
    assert certificate["topic"] == topic_name
    assert [(each["partition"], each["position"]) for each in certificate["poison"]] == placed
    assert [each["account_id"] for each in certificate["poison"]] == ["account-3", "account-4", None]
    assert "tombstone" in certificate["poison"][1]["reason"]
    parked = {each["account_id"]: each for each in certificate["parked"]}
    assert {name: each["position"] for name, each in parked.items()} == {
        "account-3": placed[0][1],
        "account-4": placed[1][1],
    }
    assert {each["partition"] for each in parked.values()} == {1}
    more = ("--data", str(tmp_path / "data"), "--bootstrap-servers", kafka_server.bootstrap_servers)
    assert main([*words, *more]) == 3
    said = capfd.readouterr().out
    for account_id, (partition, offset) in zip(("account-3", "account-4"), placed, strict=False):
        line = next(line for line in said.splitlines() if account_id in line)
        assert f"partition {partition}" in line
        assert f"offset {offset}" in line or f"offset {offset:,}" in line


# Brokers that come and go.


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_is_killed_and_comes_back(own_kafka: OwnBroker, topic_name, store, client):
    """The replay waits, says so, goes on, and ends as if nothing had been."""
    ledger_topic(own_kafka, topic_name, store, 3)
    threads: list[threading.Thread] = []

    def hurt() -> None:
        own_kafka.kill()
        threads.append(threading.Timer(4.0, own_kafka.start))
        threads[0].start()

    watch, hit = when_first(lambda state: state.position == 0, hurt)
    notes = []

    def watching(states: dict[int, State]) -> None:
        notes.extend(state.note for state in states.values() if state.note)
        watch(states)

    found = rebuild_from_topic(store, connection_to(own_kafka, client, 60), topic_name, watch=watching)
    threads[0].join()
    assert hit.is_set()
    assert notes
    assert found.verdict == "COMPLETE"
    assert found.certificate.digest == balances(store).certificate.digest


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_is_paused(own_kafka: OwnBroker, topic_name, store, client):
    """A broker that answers nothing for a while is waited for in the same way."""
    ledger_topic(own_kafka, topic_name, store, 3)

    def hurt() -> None:
        own_kafka.pause()
        threading.Timer(5.0, own_kafka.resume).start()

    watch, hit = when_first(lambda state: state.position == 0, hurt)
    notes = []

    def watching(states: dict[int, State]) -> None:
        notes.extend(state.note for state in states.values() if state.note)
        watch(states)

    found = rebuild_from_topic(store, connection_to(own_kafka, client, 60), topic_name, watch=watching)
    assert hit.is_set()
    assert notes
    assert found.verdict == "COMPLETE"
    assert found.certificate.digest == balances(store).certificate.digest


def test_a_wait_is_said_on_stderr(own_kafka: OwnBroker, topic_name, store, tmp_path, run):
    """The command line says what it waits for while it waits, and its document is whole in the end."""
    ledger_topic(own_kafka, topic_name, store, 1)
    with send_transaction(own_kafka, topic_name, records_of([opened("late")]), end="open") as transaction:
        timer = threading.Timer(4.0, transaction.commit)
        timer.start()
        words = ("rebuild", "--from", "topic", "--topic", topic_name)
        status, document, err = run(own_kafka, tmp_path / "data", 30, *words)
        timer.join()
    assert (status, document["verdict"]) == (0, "COMPLETE")
    assert f"waits at offset {EVENTS:,}" in err


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_is_gone_for_good(own_kafka: OwnBroker, topic_name, store, tmp_path, client):
    """It ends INCOMPLETE, unreachable, within the patience; the next run goes on and ends with the same digest."""
    ledger_topic(own_kafka, topic_name, store, 3)
    folder = tmp_path / "checkpoints"
    watch, hit = when_first(lambda state: state.position > 0, own_kafka.kill)
    shared: dict[str, Any] = {"checkpoint_folder": folder, "promote": True}
    lost = rebuild_from_topic(
        store, connection_to(own_kafka, client, PATIENCE_SECONDS), topic_name, watch=watch, **shared
    )
    assert hit.is_set()
    assert (lost.verdict, lost.promoted) == ("INCOMPLETE", False)
    assert {unread.reason for unread in lost.certificate.unread} == {"unreachable"}
    assert lost.certificate.unread
    assert list(folder.glob("*.checkpoint"))
    own_kafka.start()
    found = rebuild_from_topic(store, connection_to(own_kafka, client), topic_name, **shared)
    assert (found.verdict, found.promoted) == ("COMPLETE", True)
    assert found.certificate.resumed_from
    assert found.certificate.digest == balances(store).certificate.digest
    assert not list(folder.iterdir())


# Topics that are not what they were.


def known_topic(store: Store, broker: Broker, name: str) -> Any:
    """Replay a whole topic, so that the store knows it; return the connection."""
    connection = connection_to(broker)
    assert rebuild_from_topic(store, connection, name).verdict == "COMPLETE"
    return connection


def check_refused(store: Store, connection: Any, name: str, *, why: str, accepted: str) -> None:
    """Check that a replay refuses, writes nothing, says how to go on, and goes on where that is accepted, each time."""
    before = generations(store)
    for ask in (rebuild_from_topic, balances_from_topic):
        with pytest.raises(RefusedError, match=why) as refused:
            ask(store, connection, name)
        assert "--accept-topic" in refused.value.next_step
    assert generations(store) == before
    found = rebuild_from_topic(store, connection, name, accept_topic=True)
    assert found.verdict == accepted
    with pytest.raises(RefusedError, match=why):
        rebuild_from_topic(store, connection, name)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_compacted_log_is_never_whole(kafka_server, topic_name, empty, client):
    """What compaction has taken out of batches that are still there is missed, though all their offsets are there."""
    cleaned = {"min_cleanable_dirty_ratio": "0.01", "delete_retention_ms": "0", "segment_ms": "200"}
    make_topic(kafka_server, topic_name, 1, cleanup_policy="compact", max_compaction_lag_ms="500", **cleaned)
    for version in (1, 2, 3):
        event = opened("alice") if version == 1 else recorded("alice", version)
        send(kafka_server, topic_name, records_of([event, opened(f"b{version}")]))
    send(kafka_server, topic_name, [(b"alice", None), *records_of([opened("b4")])])
    deadline = time.monotonic() + 60
    number = 5
    while any(record.key == b"alice" for record in read_records(kafka_server, topic_name)):
        assert time.monotonic() < deadline, "the broker did not compact the log"
        # Only what is behind the segment that is written to is compacted.
        send(kafka_server, topic_name, records_of([opened(f"b{number}")]))
        number += 1
        time.sleep(1)
    connection = connection_to(kafka_server, client, PATIENCE_SECONDS)
    found = balances_from_topic(empty, connection, topic_name)
    assert found.verdict == "INCOMPLETE"
    assert [(unread.offset, unread.reason) for unread in found.certificate.unread] == [(0, "corrupt")]


def test_deleted_records_are_refused(kafka_server, topic_name, store, tmp_path, run):
    """A first offset above zero is refused, exit 4, with nothing written."""
    ledger_topic(kafka_server, topic_name, store, 2)
    delete_records(kafka_server, topic_name, {1: 10})
    words = ("rebuild", "--from", "topic", "--topic", topic_name)
    status, document, _ = run(kafka_server, tmp_path / "data", 10, *words)
    assert (status, document["verdict"]) == (4, "REFUSED")
    assert "deleted" in str(document)
    assert generations(store) == []
    with pytest.raises(RefusedError, match="partition 1 begins at offset 10") as refused:
        rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    assert "store" in refused.value.next_step
    with pytest.raises(RefusedError):
        rebuild_from_topic(store, connection_to(kafka_server), topic_name, accept_topic=True)


def test_records_deleted_behind_a_checkpoint(kafka_server, topic_name, store, tmp_path):
    """What a checkpoint holds may be gone from the topic; what it does not hold may not."""
    ledger_topic(kafka_server, topic_name, store, 2)
    folder = tmp_path / "checkpoints"
    ends = {at: bounds.high for at, bounds in describe(connection_to(kafka_server), topic_name).partitions.items()}
    with send_transaction(kafka_server, topic_name, records_of([opened("late")]), end="open") as transaction:
        connection = connection_to(kafka_server, patience_seconds=1.0)
        assert rebuild_from_topic(store, connection, topic_name, checkpoint_folder=folder).verdict == "INCOMPLETE"
        transaction.commit()
    delete_records(kafka_server, topic_name, ends)
    with pytest.raises(RefusedError):
        rebuild_from_topic(store, connection_to(kafka_server), topic_name)
    found = rebuild_from_topic(store, connection_to(kafka_server), topic_name, checkpoint_folder=folder)
    assert found.verdict == "COMPLETE"
    assert found.certificate.events == EVENTS + 1


def test_a_topic_that_was_made_again(kafka_server, topic_name, store):
    """Another topic under the same name is refused, even with the same events in it."""
    ledger_topic(kafka_server, topic_name, store, 2)
    connection = known_topic(store, kafka_server, topic_name)
    delete_topic(kafka_server, topic_name)
    wait_until(lambda: describe(connection, topic_name) is None)
    ledger_topic(kafka_server, topic_name, store, 2)
    check_refused(store, connection, topic_name, why="made again", accepted="COMPLETE")


def test_a_topic_with_more_partitions(kafka_server, topic_name, store):
    """Another number of partitions is refused: keys go elsewhere since."""
    from kafka import KafkaAdminClient

    ledger_topic(kafka_server, topic_name, store, 2)
    connection = known_topic(store, kafka_server, topic_name)
    with KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap_servers) as admin:
        admin.create_partitions({topic_name: 4})
    wait_until(lambda: len(describe(connection, topic_name).partitions) == 4)
    send(kafka_server, topic_name, records_of(history(ACCOUNTS, EVENTS)[-500:]))
    check_refused(store, connection, topic_name, why="4 partitions, known are 2", accepted="COMPLETE")


def test_a_topic_that_ends_before_what_was_vouched_for(kafka_server, topic_name, store):
    """A topic that is shorter than it was is refused."""
    ledger_topic(kafka_server, topic_name, store, 2)
    connection = known_topic(store, kafka_server, topic_name)
    with store.writing() as session:
        known = topics.known(session, topic_name)
        topics.vouch(session, topic_name, known.topic_id, 2, {1: known.offsets[1] + 1})
    check_refused(store, connection, topic_name, why="partition 1 ends at offset", accepted="COMPLETE")


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until the brokers have done what they were told."""
    for _ in range(300):
        if is_so():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to pass")
