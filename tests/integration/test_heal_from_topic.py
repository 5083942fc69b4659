"""A store that lost events, or everything, is healed from the topic that the relay wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from copies import everything
from imports import bring
from kafka_broker import Broker, OwnBroker
from ledgers import NOW, append, lose_event, write_history
from samples import account_stream
from sqlalchemy import delete
from topics import delete_records, delete_topic, ledger_topic, make_topic, read_records, send, send_transaction

from console.generate import generate
from console.main import main
from consumers import healing
from consumers.healing import heal_from_topic
from consumers.relay import publish
from ledger import Ledger, Store, topics
from ledger.importing import Healed, heal
from ledger.tables import EVENTS, HEADS
from replay import balances
from replay.topic.connection import Connection
from schemas.errors import BrokerError, RefusedError, UsageError

pytestmark = pytest.mark.kafka

ACCOUNTS, LAST = 5, 8
CLIENTS = ["kafka-python", "librdkafka"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a history of five accounts."""
    store = Store.at(tmp_path / "ledger")
    write_history(store, ACCOUNTS)
    yield store
    store.close()


def _connection(broker: Broker, client: Any = "kafka-python", patience: float = 20) -> Connection:
    return Connection(bootstrap_servers=broker.bootstrap_servers, client=client, stall_timeout_seconds=patience)


def _heal(store: Store, broker: Broker, name: str, **options: Any) -> Healed:
    return heal_from_topic(store, _connection(broker), name, **options)


def _digest(store: Store) -> tuple[str, str]:
    certificate = balances(store, now=NOW).certificate
    return certificate.verdict, certificate.digest


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_lost_comes_back(client: str, store: Store, kafka_server: Broker, topic_name: str):
    """Holes, a tail and a whole account come back from what the relay published, and the digest is that of before."""
    publish(store, _connection(kafka_server), topic_name, partitions=3)
    before = _digest(store)
    lose_event(store, "acc-1", 2, 5)
    lose_event(store, "acc-2", LAST)
    lose_event(store, "acc-3")
    dry = heal_from_topic(store, _connection(kafka_server, client), topic_name, dry_run=True)
    assert dry.plan is not None
    assert sorted(dry.plan["why"]) == ["account"] * LAST + ["hole"] * 2 + ["tail"]
    found = heal_from_topic(store, _connection(kafka_server, client), topic_name)
    assert (found.verdict, found.restored, found.imported) == ("OK", LAST + 3, 0)
    assert _digest(store) == before
    assert _heal(store, kafka_server, topic_name).restored == 0


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_many_events_come_back(client: str, kafka_server: Broker, topic_name: str, tmp_path: Path):
    """Of 200 thousand events over six partitions any tenth is lost, and all: the digest is that of before."""
    generate(accounts=2_000, events=200_000, seed=3, folder=tmp_path, now=NOW)
    store = Store.at(tmp_path / "ledger")
    bring(store, tmp_path / "transactions.csv")
    ledger_topic(kafka_server, topic_name, store, 6)
    before = _digest(store)
    for losses in (EVENTS.delete().where(EVENTS.c.id % 10 == 3), EVENTS.delete()):
        with store.writing() as connection:
            connection.execute(losses)
        found = heal_from_topic(store, _connection(kafka_server, client), topic_name)
        assert (found.verdict, found.imported) == ("OK", 0)
        assert found.restored + found.unchanged == found.records > 200_000
        assert _digest(store) == before
    store.close()
    other = Store.at(tmp_path / "other")
    assert heal_from_topic(other, _connection(kafka_server, client), topic_name).imported == found.records
    assert _digest(other) == before
    other.close()


def _on_topic(broker: Broker, name: str) -> list[bytes]:
    return [record.value for record in read_records(broker, name)]


def test_a_lost_database_is_back_and_goes_on(store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path):
    """A new store beside the topic is the same ledger after the healing, and publishing goes on where that ends."""
    publish(store, _connection(kafka_server), topic_name, partitions=3)
    publish(store, _connection(kafka_server), topic_name, partitions=3)
    before = _on_topic(kafka_server, topic_name)
    other = Store.at(tmp_path / "other")
    assert _heal(other, kafka_server, topic_name, dry_run=True).imported == ACCOUNTS * LAST + 1
    assert _known(other, topic_name) is None
    assert _heal(other, kafka_server, topic_name).imported == ACCOUNTS * LAST + 1
    assert _digest(other) == _digest(store)
    again = publish(other, _connection(kafka_server), topic_name)
    assert (again.verdict, again.published) == ("COMPLETE", 0)
    assert _on_topic(kafka_server, topic_name) == before
    Ledger(other, clock=lambda: NOW).credit("acc-2", "later", 5)
    assert publish(other, _connection(kafka_server), topic_name).published == 1
    assert len(_on_topic(kafka_server, topic_name)) == len(before) + 1
    # What the other store appended is new to the first one.
    found = _heal(store, kafka_server, topic_name)
    assert (found.verdict, found.imported, found.restored) == ("OK", 1, 0)
    assert _digest(store) == _digest(other)
    other.close()


def _known(store: Store, name: str) -> topics.KnownTopic | None:
    with store.snapshot() as connection:
        return topics.known(connection, name)


def test_a_store_that_others_append_to_is_not_taken_for_published(
    store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An event that somebody appends while a store is healed, before or after, is not on the topic: none is noted."""
    ledger_topic(kafka_server, topic_name, store, 2)
    for is_early in (True, False):
        other = Store.at(tmp_path / f"other-{is_early}")
        monkeypatch.setattr(healing, "heal", _heal_beside(Ledger(other, clock=lambda: NOW), is_early=is_early))
        found = _heal(other, kafka_server, topic_name)
        assert (found.verdict, found.imported) == ("OK", ACCOUNTS * LAST + 1)
        assert _known(other, topic_name) is None
        other.close()


def _heal_beside(theirs: Ledger, *, is_early: bool) -> Callable[..., Healed]:
    """Return a healing before or after which somebody else appends."""

    def healed(*words: Any, **options: Any) -> Healed:
        if is_early:
            theirs.open("mine")
        found = heal(*words, **options)
        if not is_early:
            theirs.open("mine")
        return found

    return healed


def test_a_topic_that_is_not_whole_is_not_noted_as_published(
    store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path
):
    """An empty store that is healed with a finding knows nothing of the topic, so `publish` asks."""
    ledger_topic(kafka_server, topic_name, store)
    send(kafka_server, topic_name, [(b"x", b"no event")])
    other = Store.at(tmp_path / "other")
    assert _heal(other, kafka_server, topic_name).verdict == "INCOMPLETE"
    assert _known(other, topic_name) is None
    other.close()


def test_a_contradiction_writes_nothing(store: Store, kafka_server: Broker, topic_name: str):
    """One record with other content, after thousands of good ones, and not even the good ones are taken."""
    ledger_topic(kafka_server, topic_name, store, 3)
    lose_event(store, "acc-1")
    stored = everything(store)
    with store.snapshot() as connection:
        (raw,) = list(store.read_accounts(connection, ["acc-2"]))
    forged = raw["state"][4][:-1] + b',"forged":1}'
    send(kafka_server, topic_name, [(b"acc-2", forged)])
    found = _heal(store, kafka_server, topic_name)
    assert (found.verdict, found.restored, found.conflicts_count) == ("REFUSED", 0, 1)
    assert (found.conflicts[0].account_id, found.conflicts[0].version) == ("acc-2", 5)
    assert everything(store) == stored


def test_aborted_records_are_no_events_and_poison_is_named(store: Store, kafka_server: Broker, topic_name: str):
    """What was never committed heals nothing; tombstones and foreign records are named and the rest comes back."""
    ledger_topic(kafka_server, topic_name, store, 2)
    lose_event(store, "acc-1", 3)
    forged = [(b"acc-1", b'{"account_id":"acc-1","version":3}'), (b"x", b"\xff")]
    send_transaction(kafka_server, topic_name, forged, end="abort")
    send(kafka_server, topic_name, [(b"acc-4", None), (b"x", b"hello")])
    found = _heal(store, kafka_server, topic_name)
    assert (found.verdict, found.restored, found.poison_count) == ("INCOMPLETE", 1, 2)
    assert {one.account_id for one in found.poison} == {"acc-4", "x"}
    assert _digest(store)[0] == "COMPLETE"


def test_an_open_transaction_is_waited_for_and_then_said(store: Store, kafka_server: Broker, topic_name: str):
    """What an open transaction holds back is not read for its end: it is INCOMPLETE, stalled, with its offset."""
    ledger_topic(kafka_server, topic_name, store)
    records = ACCOUNTS * LAST + 1
    with send_transaction(kafka_server, topic_name, [(b"x", b"{}")], end="open"):
        found = heal_from_topic(store, _connection(kafka_server, patience=3), topic_name)
    assert (found.verdict, found.unchanged) == ("INCOMPLETE", records)
    assert [(part.partition, part.offset, part.reason) for part in found.unread] == [(0, records, "stalled")]


def test_a_topic_that_lost_its_beginning_heals_what_it_has(store: Store, kafka_server: Broker, topic_name: str):
    """Deleted first records make it INCOMPLETE and are said; what is still there comes back."""
    ledger_topic(kafka_server, topic_name, store)
    lose_event(store, "acc-1", 1)
    lose_event(store, "acc-5", LAST)
    delete_records(kafka_server, topic_name, {0: 3})
    found = _heal(store, kafka_server, topic_name)
    assert (found.verdict, found.restored) == ("INCOMPLETE", 1)
    assert [(part.partition, part.offset, part.reason) for part in found.unread] == [(0, 3, "deleted")]
    assert _digest(store)[0] == "INCOMPLETE"


def test_a_topic_made_again_is_refused(store: Store, kafka_server: Broker, topic_name: str):
    """A topic of the known name that is not the known topic heals nothing, and one that is not there is bad usage."""
    publish(store, _connection(kafka_server), topic_name, partitions=1)
    delete_topic(kafka_server, topic_name)
    with pytest.raises(UsageError, match="there is no topic"):
        _heal(store, kafka_server, topic_name)
    make_topic(kafka_server, topic_name)
    with pytest.raises(RefusedError, match="made again"):
        _heal(store, kafka_server, topic_name)


def test_no_broker_is_said_in_time(store: Store, own_kafka: OwnBroker, topic_name: str):
    """With the broker gone the healing ends with an error of the broker, and nothing is written."""
    own_kafka.kill()
    lose_event(store, "acc-1", 2)
    stored = everything(store)
    with pytest.raises(BrokerError):
        heal_from_topic(store, _connection(own_kafka, patience=2), topic_name)
    assert everything(store) == stored


def test_a_topic_of_another_ledger_is_refused(store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path):
    """A topic that is not known here, and has nothing of what is here, is taken only when it is accepted."""
    other = Store.at(tmp_path / "other")
    append(other, *account_stream("elsewhere", 3))
    ledger_topic(kafka_server, topic_name, store)
    stored = everything(other)
    with pytest.raises(RefusedError, match="may be another ledger's"):
        _heal(other, kafka_server, topic_name)
    assert everything(other) == stored
    assert _heal(other, kafka_server, topic_name, accept_topic=True).imported == ACCOUNTS * LAST + 1
    other.close()


def test_the_command_line(
    store: Store, kafka_server: Broker, topic_name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """The plan is a table in every form, the healing one document, and an empty folder becomes the ledger."""
    ledger_topic(kafka_server, topic_name, store, 3)
    before = _digest(store)
    with store.writing() as connection:
        connection.execute(delete(EVENTS).where(EVENTS.c.originator_id == "acc-2"))
        connection.execute(delete(EVENTS).where(EVENTS.c.id == 2))
    words = ["--data", str(tmp_path / "ledger"), "--bootstrap-servers", kafka_server.bootstrap_servers]
    words += ["import", "events", "--from", "topic", "--topic", topic_name]
    assert main([*words, "--dry-run", "--output", str(tmp_path / "plan.csv")]) == 0
    lines = (tmp_path / "plan.csv").read_text().splitlines()
    assert lines[0] == "account_id,version,event,transaction_id,partition,offset,why"
    assert len(lines) == LAST + 2
    capfd.readouterr()
    assert main([*words, "--dry-run", "--json"]) == 0
    dry = msgspec.json.decode(capfd.readouterr().out)
    assert (len(dry["plan"]), dry["restored"], dry["dry_run"]) == (LAST + 1, LAST + 1, True)
    assert main([*words, "--json"]) == 0
    real = msgspec.json.decode(capfd.readouterr().out)
    assert (real["verdict"], real["restored"], real["events"], real["conflicts"]) == ("OK", LAST + 1, LAST + 1, [])
    assert _digest(store) == before
    shutil.rmtree(tmp_path / "empty", ignore_errors=True)
    words[1] = str(tmp_path / "empty")
    assert main(words) == 0
    assert "41 appended that the ledger does not have" in capfd.readouterr().out
    other = Store.at(tmp_path / "empty")
    assert _digest(other) == before
    with other.writing() as connection:
        connection.execute(delete(HEADS).where(HEADS.c.account_id == "acc-3"))
        connection.execute(EVENTS.update().where(EVENTS.c.originator_id == "acc-4").values(state=b"{}", chain=b"-"))
    other.close()
    capfd.readouterr()
    assert main([*words, "--json"]) == 4
    refused = msgspec.json.decode(capfd.readouterr().out)
    assert (refused["verdict"], refused["conflicts_count"], refused["events"]) == ("REFUSED", LAST, 0)
    assert main(words) == 4
    assert "--skip-conflicts leaves 1 account out whole" in capfd.readouterr().out
    assert main([*words, "--skip-conflicts", "--json"]) == 3
    skipped = msgspec.json.decode(capfd.readouterr().out)
    assert (skipped["verdict"], skipped["restored"], skipped["skipped"]) == ("INCOMPLETE", 1, ["acc-4"])
    assert main(["--data", str(tmp_path / "empty"), "import", "events", "file.jsonl", "--skip-conflicts"]) == 2
