"""Rows of a real topic become events once each, whoever wrote them and whenever their reader dies."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from imports import NOW, bring, row, streams_of
from kafka_broker import Broker, OwnBroker
from topics import delete_records, delete_topic, make_topic, send, send_transaction

from console.main import main
from consumers.intake import Ended, TopicRows, import_from_topic
from ledger import Store
from ledger.importing import Mapping
from replay.topic.connection import Connection
from schemas.errors import RefusedError, UsageError

pytestmark = pytest.mark.kafka

INTAKER = Path(__file__).with_name("intaker.py")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with no events."""
    store = Store.at(tmp_path / "ledger")
    yield store
    store.close()


def _records(rows: list[dict[str, Any]]) -> list[tuple[bytes, bytes]]:
    return [(one["account_id"].encode(), json.dumps(one).encode()) for one in rows]


def _rows(count: int, *, after: int = 0) -> list[dict[str, Any]]:
    return [row(number, account_id=f"a{number % 11}") for number in range(after, after + count)]


def _import(store: Store, broker: Broker, name: str, **options: Any) -> Ended:
    codec = options.pop("codec", "json")
    connection = Connection(bootstrap_servers=broker.bootstrap_servers, stall_timeout_seconds=20)
    rows = TopicRows(connection, name, codec)
    rejects = Path(str(store.url.database)).with_name("rejects.csv")
    return import_from_topic(store, rows, mapping=Mapping(), now=lambda: NOW, rejects=rejects, **options)


def _counts(ended: Ended) -> tuple[str, int, int, int]:
    return ended.verdict, ended.taken.imported, ended.taken.unchanged, ended.taken.rejected


def test_each_run_goes_on_where_the_last_one_ended(store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path):
    """Runs read only what came since, control records and all; the events are those of the same rows in a file."""
    make_topic(kafka_server, topic_name, 3)
    assert _counts(_import(store, kafka_server, topic_name)) == ("OK", 0, 0, 0)
    rows = _rows(300)
    send(kafka_server, topic_name, _records(rows[:200]))
    first = _import(store, kafka_server, topic_name, batch_records=32)
    assert (_counts(first), first.taken.records) == (("OK", 200, 0, 0), 200)
    send_transaction(kafka_server, topic_name, _records(_rows(5, after=900)), end="abort")
    send_transaction(kafka_server, topic_name, _records(rows[200:]))
    second = _import(store, kafka_server, topic_name)
    assert (_counts(second), second.taken.records) == (("OK", 100, 0, 0), 100)
    third = _import(store, kafka_server, topic_name)
    assert (_counts(third), third.taken.records, third.offsets) == (("OK", 0, 0, 0), 0, second.offsets)
    other = Store.at(tmp_path / "other")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(value for _, value in _records(rows)) + b"\n")
    bring(other, path)
    assert {account: len(events) for account, events in streams_of(store).items()} == {
        account: len(events) for account, events in streams_of(other).items()
    }
    other.close()


def _change(op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, *, is_wrapped: bool) -> bytes:
    event = {"op": op, "before": before, "after": after, "source": {"connector": "postgresql"}, "ts_ms": 1}
    if not is_wrapped:
        return json.dumps(event).encode()
    columns = [
        {"field": "created_at", "type": "int64", "name": "io.debezium.time.MicroTimestamp"},
        {"field": "amount", "type": "int64"},
    ]
    fields = [{"field": side, "type": "struct", "fields": columns} for side in ("before", "after")]
    return json.dumps({"schema": {"type": "struct", "fields": fields}, "payload": event}).encode()


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_debezium_changes_become_events(is_wrapped: bool, store: Store, kafka_server: Broker, topic_name: str):
    """A row that was read, created, updated and deleted is a record and a change; its deletion is a finding."""
    made = row(1, account_id="a", status="pending") | {"amount": 10}
    if is_wrapped:
        made["created_at"] = 1_709_294_400_000_000
    done = made | {"status": "completed"}
    make_topic(kafka_server, topic_name)
    changes = [
        _change("r", None, made, is_wrapped=is_wrapped),
        _change("u", made, done, is_wrapped=is_wrapped),
        _change("c", None, done, is_wrapped=is_wrapped),
        _change("d", done, None, is_wrapped=is_wrapped),
        None,
        _change("c", None, made | {"transaction_id": "t2", "amount": 0}, is_wrapped=is_wrapped),
    ]
    send(kafka_server, topic_name, [(b"1", change) for change in changes])
    ended = _import(store, kafka_server, topic_name, codec="debezium")
    assert _counts(ended) == ("REJECTS", 2, 1, 1)
    assert (ended.taken.deletions_count, ended.taken.tombstones) == (1, 1)
    (deletion,) = ended.taken.deletions
    assert (deletion.place, deletion.transaction_id, deletion.account_id) == ("0:3", "t1", "a")
    events = [json.loads(event) for event in streams_of(store)["a"]]
    assert [(event["event"], event.get("to_status")) for event in events] == [
        ("account.opened", None),
        ("transaction.recorded", "pending"),
        ("transaction.status_changed", "completed"),
    ]
    assert events[1]["effective_at"] == "2024-03-01T12:00:00.000000Z"
    with Path(str(store.url.database)).with_name("rejects.csv").open(newline="") as file:
        assert [one["place"] for one in csv.DictReader(file)] == ["0:3", "0:5"]


def test_a_topic_that_is_not_the_one_that_was_read_is_refused(store: Store, kafka_server: Broker, topic_name: str):
    """Made again under its name, or read by another codec: REFUSED, and --restart reads it from its beginning."""
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, _records(_rows(20)))
    _import(store, kafka_server, topic_name)
    with pytest.raises(RefusedError, match="by codec json until now"):
        _import(store, kafka_server, topic_name, codec="debezium")
    delete_topic(kafka_server, topic_name)
    with pytest.raises(UsageError, match="there is no topic"):
        _import(store, kafka_server, topic_name)
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, _records(_rows(25)))
    with pytest.raises(RefusedError, match="made again") as refused:
        _import(store, kafka_server, topic_name)
    assert "--restart" in refused.value.next_step
    assert _counts(_import(store, kafka_server, topic_name, restart=True)) == ("OK", 5, 20, 0)
    assert _counts(_import(store, kafka_server, topic_name)) == ("OK", 0, 0, 0)


def test_records_that_were_deleted_unread_are_refused(store: Store, kafka_server: Broker, topic_name: str):
    """Deleted before the first run they make it INCOMPLETE; between two runs they are REFUSED with how many."""
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, _records(_rows(20)))
    delete_records(kafka_server, topic_name, {0: 5})
    ended = _import(store, kafka_server, topic_name)
    assert (_counts(ended), ended.began_at) == (("INCOMPLETE", 15, 0, 0), {0: 5})
    assert [(part.partition, part.offset, part.reason) for part in ended.unread] == [(0, 5, "deleted")]
    assert _counts(_import(store, kafka_server, topic_name)) == ("OK", 0, 0, 0)
    send(kafka_server, topic_name, _records(_rows(20, after=20)))
    delete_records(kafka_server, topic_name, {0: 30})
    with pytest.raises(RefusedError, match="begins at offset 30, and was read up to 20") as refused:
        _import(store, kafka_server, topic_name)
    assert "get the 10 rows elsewhere" in refused.value.next_step
    assert _counts(_import(store, kafka_server, topic_name, restart=True))[:2] == ("INCOMPLETE", 10)


def test_an_open_transaction_is_said_and_read_later(store: Store, kafka_server: Broker, topic_name: str):
    """What an open transaction holds back makes the run INCOMPLETE, and the next one reads it."""
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, _records(_rows(3)))
    with send_transaction(kafka_server, topic_name, _records(_rows(4, after=3)), end="open") as transaction:
        ended = _import(store, kafka_server, topic_name)
        assert _counts(ended) == ("INCOMPLETE", 3, 0, 0)
        assert [(part.offset, part.reason) for part in ended.unread] == [(3, "stalled")]
        transaction.commit()
    assert _counts(_import(store, kafka_server, topic_name)) == ("OK", 4, 0, 0)


def _start(folder: Path, broker: Broker, name: str, follow: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, str(INTAKER), str(folder), broker.bootstrap_servers, name, "json", follow]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _event_count(store: Store) -> int:
    with store.snapshot() as connection:
        return store.head(connection)


def _wait_for(store: Store, events: int) -> None:
    until = time.monotonic() + 60
    while _event_count(store) < events:
        assert time.monotonic() < until, "the events did not come"
        time.sleep(0.02)


def test_a_killed_import_takes_each_record_once(store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path):
    """After kills in the middle the next run goes on, finds no row taken before, and every row is an event."""
    count = 6_000
    make_topic(kafka_server, topic_name, 2)
    send(kafka_server, topic_name, _records(_rows(count)))
    dice = random.Random(7)
    kills = 0
    while kills < 4:
        with _start(tmp_path / "ledger", kafka_server, topic_name) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "began\n"
            _wait_for(store, _event_count(store) + dice.randint(1, 800))
            process.kill()
        kills += 1
    taken = _event_count(store)
    assert 4 <= taken < count
    ended = _import(store, kafka_server, topic_name)
    verdict, imported, unchanged, rejected = _counts(ended)
    assert (verdict, unchanged, rejected) == ("OK", 0, 0)
    streams = streams_of(store)
    assert sum(map(len, streams.values())) == count + len(streams)
    assert imported == ended.taken.records
    assert ended.taken.events == count + len(streams) - taken


def test_a_follower_takes_what_comes_and_stops_when_told(
    store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path
):
    """With follow rows become events as they come, from new partitions too, and SIGTERM ends it with its answer."""
    make_topic(kafka_server, topic_name, 2)
    with _start(tmp_path / "ledger", kafka_server, topic_name, "follow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        for number in range(3):
            send(kafka_server, topic_name, _records(_rows(11, after=11 * number)))
            _wait_for(store, 11 + 11 * (number + 1))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "OK 33 0 0\n"
        assert process.wait() == 0
    assert _counts(_import(store, kafka_server, topic_name)) == ("OK", 0, 0, 0)


def test_a_follower_waits_for_its_broker(store: Store, own_kafka: OwnBroker, topic_name: str, tmp_path: Path):
    """A broker that dies and comes back is waited for, and what comes then is taken, once."""
    make_topic(own_kafka, topic_name)
    with _start(tmp_path / "ledger", own_kafka, topic_name, "follow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        send(own_kafka, topic_name, _records(_rows(11)))
        _wait_for(store, 22)
        own_kafka.kill()
        time.sleep(1)
        own_kafka.start()
        send(own_kafka, topic_name, _records(_rows(11, after=11)))
        _wait_for(store, 33)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "OK 22 0 0\n"
        assert process.wait() == 0


def test_the_command_line(kafka_server: Broker, topic_name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """A dry run says what a run does, and writes nothing; the answer of the run has its place in the topic."""
    make_topic(kafka_server, topic_name)
    rows = [*_rows(4), row(9, type="?")]
    send(kafka_server, topic_name, _records(rows))
    words = ["--data", str(tmp_path / "data"), "--bootstrap-servers", kafka_server.bootstrap_servers, "--json"]
    words += ["import", "transactions", "--from-topic", topic_name, "--codec", "json"]
    answers = []
    for more, status in ((["--dry-run"], 3), ([], 3), ([], 0)):
        capfd.readouterr()
        assert main([*words, *more]) == status
        answers.append(msgspec.json.decode(capfd.readouterr().out))
    dry, real, again = answers
    for key in ("verdict", "imported", "unchanged", "rejected", "events", "records", "deletions", "offsets"):
        assert dry[key] == real[key], key
    assert (real["verdict"], real["imported"], real["rejected"], real["events"]) == ("REJECTS", 4, 1, 8)
    assert (real["offsets"], real["rejects"]) == ({"0": 5}, str(tmp_path / f"data/reports/rejects-{topic_name}.csv"))
    assert (again["verdict"], again["records"], again["rejects"]) == ("OK", 0, None)
    assert dry["profile"][0]["rows"] == 5
    assert "0:4" in Path(dry["rejects"]).read_text()


@pytest.mark.parametrize("servers", ["kafka", "127.0.0.1:1"])
def test_a_topic_that_is_not_there_leaves_no_ledger(
    servers: str, kafka_server: Broker, topic_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Without the topic, or its broker, neither import makes a ledger, and the next step names the right option."""
    config = tmp_path / "settings.toml"
    config.write_text("[kafka]\nstall_timeout_seconds = 1\n" if servers != "kafka" else "")
    servers = kafka_server.bootstrap_servers if servers == "kafka" else servers
    words = ["--data", str(tmp_path / "data"), "--config", str(config), "--bootstrap-servers", servers, "import"]
    for more, option in (
        (["transactions", "--from-topic", topic_name, "--codec", "json"], "--from-topic"),
        (["events", "--from", "topic", "--topic", topic_name], "--topic"),
    ):
        status = main([*words, *more])
        said = capsys.readouterr().err
        assert (status, f"check the name given with {option}" in said) in ((2, True), (5, False))
        assert (status == 5) == (servers == "127.0.0.1:1")
        assert not (tmp_path / "data").exists()
