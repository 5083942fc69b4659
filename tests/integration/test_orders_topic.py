"""Orders of a real topic are kept once each, whoever reads them and whenever a reader dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_broker import Broker
from order_samples import Facts, completed, facts_of, histories, placed, wire
from samples import account_stream
from topic_cases import connection_to, records_of
from topics import bury, delete_topic, make_topic, send, send_transaction

from console.main import main
from consumers.orders_topic import OrdersTopic
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.topic_shadow import TopicShadow
from ledger import Store, orders, shadows
from ledger.order_transactions import FOLLOWER

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
READER = Path(__file__).with_name("orders_reader.py")
PARTITIONS = 3
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
#: Kills of one run: at each place that a batch passes, then at moments of chance.
PLACES = ("read", "write", "commit", "committed")
RANDOM_KILLS = 12 if FULL else 2

Open = Callable[..., OrdersTopic]


@pytest.fixture
def opened(kafka_server: Broker, topic_name: str) -> Iterator[Open]:
    """Opens readers of the topic, which are closed at the end."""
    readers: list[OrdersTopic] = []

    def open_one(store: Store, **options: Any) -> OrdersTopic:
        patient = connection_to(kafka_server)
        sizes = {"batch_records": 100, "poll_seconds": 0.1} | options
        readers.append(OrdersTopic(store, patient, topic_name, **sizes))
        return readers[-1]

    yield open_one
    for reader in readers:
        reader.close()


def until(happened: Callable[[], bool], *readers: OrdersTopic | TopicShadow) -> None:
    """Step the readers in turn until something has happened."""
    ends_at = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends_at, "it does not happen"
        for reader in readers:
            reader.step()


def to_end(reader: OrdersTopic) -> None:
    """Step until all is read."""
    until(lambda: reader.step().lag_events == 0)


def read_alone(opened: Open, folder: Path) -> Facts:
    """Return what one reader, that nothing happens to, makes of the topic."""
    store = Store.at(folder)
    to_end(opened(store, batch_records=10_000))
    found = facts_of(store)
    store.close()
    return found


def untidy(seed: int) -> list[tuple[bytes | None, bytes | None]]:
    """Records of orders with copies, contradictions, poison and tombstones between them."""
    chance = random.Random(seed)
    found: list[tuple[bytes | None, bytes | None]] = [*wire(histories(seed, 300))]
    found += [*chance.sample(found, 40), *wire([placed(f"order-{number}", 101) for number in range(5)])]
    found += [(b"order-7", b"{"), (None, b"nobody's"), (b"order-8", None)]
    chance.shuffle(found)
    return found


def ran(capsys: pytest.CaptureFixture[str], store: Store, broker: Broker, *words: str) -> tuple[int, Any]:
    """Run a command on the ledger; return its exit status and its document."""
    place = ["--data", str(Path(str(store.url.database)).parent), "--bootstrap-servers", broker.bootstrap_servers]
    status = main([*place, "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def test_the_command_reads_to_the_end_once(kafka_server, topic_name, store, capsys):
    """It answers with what it took and what is parked, and the next run goes on from there."""
    make_topic(kafka_server, topic_name, PARTITIONS)
    send(kafka_server, topic_name, [*wire([placed("a"), completed("a"), placed("b")]), (b"c", b"nonsense")])
    status, answer = ran(capsys, store, kafka_server, "import", "orders", "--from-topic", topic_name)
    assert (status, answer["verdict"], answer["imported"], answer["rejected"]) == (3, "REJECTS", 3, 1)
    [parked] = answer["parked"]
    assert (parked["order_id"], "malformed" in parked["reason"]) == ("c", True)
    assert sum(answer["offsets"].values()) == 4
    with store.snapshot() as connection:
        first = orders.read_until(connection).orders_at
    assert first is not None
    status, answer = ran(capsys, store, kafka_server, "import", "orders", "--from-topic", topic_name)
    assert (status, answer["verdict"], answer["imported"], answer["parked"]) == (0, "OK", 0, [])
    with store.snapshot() as connection:
        second = orders.read_until(connection).orders_at
    assert second is not None
    assert second > first


def test_what_is_open_is_held_back_and_what_was_aborted_never_comes(kafka_server, topic_name, store, capsys):
    """Only committed records are orders; while a transaction is open the import is not whole."""
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, wire([placed("a")]))
    send_transaction(kafka_server, topic_name, wire([placed("b")]), end="abort")
    with send_transaction(kafka_server, topic_name, wire([placed("c")]), end="open") as held:
        status, answer = ran(capsys, store, kafka_server, "import", "orders", "--from-topic", topic_name)
        assert (status, answer["verdict"], answer["imported"], answer["held_back"]) == (3, "INCOMPLETE", 1, 1)
        held.commit()
    status, answer = ran(capsys, store, kafka_server, "import", "orders", "--from-topic", topic_name)
    assert (status, answer["verdict"], answer["imported"]) == (0, "OK", 1)
    assert [row[0] for row in facts_of(store).events] == ["a", "c"]


def test_two_instances_share_the_partitions(kafka_server, topic_name, store, opened, tmp_path):
    """Each reads some, one that leaves gives its own back, and together they keep what one alone would."""
    records = untidy(1)
    make_topic(kafka_server, topic_name, PARTITIONS)
    send(kafka_server, topic_name, records[:300])
    first, second = opened(store), opened(store)

    def shared() -> bool:
        return bool(first._group.assigned) and bool(second._group.assigned)

    until(shared, first, second)
    assert first._group.assigned | second._group.assigned == set(range(PARTITIONS))
    assert not first._group.assigned & second._group.assigned
    send(kafka_server, topic_name, records[300:600])
    until(lambda: first.step().lag_events == 0 and second.step().lag_events == 0, first, second)
    second.close()
    send(kafka_server, topic_name, records[600:])
    to_end(first)
    assert facts_of(store) == read_alone(opened, tmp_path / "alone")


def test_one_process_reads_the_ledger_and_the_orders(kafka_server, topic_name, store, opened):
    """The shadow of the reconciliation and the reader of orders go on beside each other, each with its own topic."""
    ledger_topic = f"{topic_name}-ledger"
    make_topic(kafka_server, topic_name, PARTITIONS)
    make_topic(kafka_server, ledger_topic, 2)
    try:
        send(kafka_server, topic_name, wire([placed("a"), placed("b")]))
        send(kafka_server, ledger_topic, records_of(account_stream("x", 5)))
        reader = opened(store)
        options = {"name": FOLLOWER, "beside": OrderTransactions(), "poll_seconds": 0.1}
        shadow = TopicShadow(store, connection_to(kafka_server), ledger_topic, **options)
        try:

            def is_whole() -> bool:
                with store.snapshot() as connection:
                    followed = shadows.positions(connection, shadow.shadow)
                    return sum(orders.positions(connection).values()) == 2 and sum(followed.values()) == 5

            until(is_whole, reader, shadow)
            assert (len(reader._group.assigned), len(shadow._batches.group.assigned)) == (PARTITIONS, 2)
        finally:
            shadow.close()
    finally:
        delete_topic(kafka_server, ledger_topic)


class _Process:
    """A reader in a process of its own."""

    def __init__(self, store: Store, broker: Broker, topic: str) -> None:
        command = [sys.executable, str(READER), str(store.url), broker.bootstrap_servers, topic]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.pipes = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)

    def wait_for(self, says: str) -> None:
        """Wait until it says something that begins so."""
        for line in self.pipes.stdout or ():
            if line.startswith(says):
                return
        raise AssertionError(f"it ended with status {self.pipes.wait()}")

    def kill(self) -> None:
        """End it where it is."""
        self.pipes.send_signal(signal.SIGKILL)
        self.pipes.wait()
        if self.pipes.stdout is not None:
            self.pipes.stdout.close()


def test_killed_anywhere_each_record_counts_once(kafka_server, topic_name, store, opened, tmp_path):
    """A reader that is killed at a place that a batch passes, or at any moment, is followed without a gap."""
    seed = random.randrange(10_000)
    chance = random.Random(seed)
    make_topic(kafka_server, topic_name, PARTITIONS)
    records = untidy(seed)
    group = f"ledger-replay-{store.ledger_id}-reconciliation"
    kills = [*PLACES, *([""] * RANDOM_KILLS)]
    for number, place in enumerate(kills):
        send(kafka_server, topic_name, records[number :: len(kills)])
        process = _Process(store, kafka_server, topic_name)
        try:
            process.wait_for(f"at {place}" if place else "step")
            if not place:
                time.sleep(chance.random() / 2)
        finally:
            process.kill()
        # The broker would wait for the dead as long as a session lasts.
        bury(kafka_server, group)
    to_end(opened(store))
    assert facts_of(store) == read_alone(opened, tmp_path / "alone"), f"seed {seed}"


def test_following_ends_with_its_answer(kafka_server, topic_name, store):
    """SIGTERM ends a follower after the batch in hand, and it says what it took."""
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, wire([placed("a")]))
    place = ["--data", str(Path(str(store.url.database)).parent), "--bootstrap-servers", kafka_server.bootstrap_servers]
    words = [sys.executable, "-m", "console.main", *place, "--json"]
    words += ["import", "orders", "--from-topic", topic_name, "--follow"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        for count in (1, 2):
            ends_at = time.monotonic() + 60
            while len(facts_of(store).events) < count:
                assert time.monotonic() < ends_at, "it does not follow"
                time.sleep(0.1)
            send(kafka_server, topic_name, wire([placed("b")]))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    answer = json.loads(out)
    assert (answer["verdict"], answer["imported"]) == ("OK", 2)
