"""The broker under test does what the other tests take for granted."""

from __future__ import annotations

from itertools import groupby

import pytest
from kafka_broker import SASL_PASSWORD, SASL_USER, Broker, OwnBroker
from ledgers import append
from producers import CLIENTS, COMPRESSIONS
from samples import account_stream
from topics import (
    delete_records,
    ledger_topic,
    make_topic,
    read_records,
    segment_files,
    send,
    send_transaction,
)

from ledger import Store
from schemas import encode

pytestmark = pytest.mark.kafka

RECORDS = [(f"key-{number % 7}".encode(), f"value {number} ".encode() * 20) for number in range(200)]


def content(broker: Broker, topic: str, **options: bool) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of all that a reader gets."""
    return [(record.key, record.value) for record in read_records(broker, topic, **options)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("client", CLIENTS)
def test_records_come_back(kafka_server: Broker, topic_name: str, client: str, compression: str) -> None:
    """What any client writes with any compression comes back whole, at the offsets that it was told."""
    make_topic(kafka_server, topic_name, 3)
    headers = [("trace", b"\x00\xff"), ("empty", b"")]
    placed = send(kafka_server, topic_name, RECORDS, client=client, compression=compression, headers=headers)
    found = {(record.partition, record.offset): record for record in read_records(kafka_server, topic_name)}
    assert [(found[place].key, found[place].value) for place in placed] == RECORDS
    assert len(found) == len(placed)
    assert all(list(record.headers) == headers for record in found.values())


def test_clients_agree_on_partitions(kafka_server: Broker, topic_name: str) -> None:
    """The same key goes to the same partition, whoever writes it."""
    make_topic(kafka_server, topic_name, 5)
    chosen = [[partition for partition, _ in send(kafka_server, topic_name, RECORDS, client=name)] for name in CLIENTS]
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(set(chosen[0])) > 1


@pytest.mark.parametrize("client", CLIENTS)
def test_null_is_not_empty(kafka_server: Broker, topic_name: str, client: str) -> None:
    """A tombstone and a record without a key come back as they are, and are not the same as empty ones."""
    make_topic(kafka_server, topic_name)
    records = [(b"key", None), (None, b"value"), (b"", b""), (b"key", b"value")]
    send(kafka_server, topic_name, records, partition=0, client=client)
    assert content(kafka_server, topic_name) == records


@pytest.mark.parametrize("client", CLIENTS)
def test_transactions(kafka_server: Broker, topic_name: str, client: str) -> None:
    """Committed records are seen, aborted ones are not, and an open transaction hides all after it until its end."""
    make_topic(kafka_server, topic_name)
    send_transaction(kafka_server, topic_name, [(b"a", b"committed")], client=client)
    send_transaction(kafka_server, topic_name, [(b"a", b"aborted")], end="abort", client=client)
    with send_transaction(kafka_server, topic_name, [(b"a", b"open")], end="open", client=client) as transaction:
        send(kafka_server, topic_name, [(b"a", b"after")])
        assert content(kafka_server, topic_name) == [(b"a", b"committed")]
        assert len(content(kafka_server, topic_name, committed=False)) == 4
        transaction.commit()
    assert [value for _, value in content(kafka_server, topic_name)] == [b"committed", b"open", b"after"]


@pytest.mark.parametrize("client", CLIENTS)
def test_abandoned_transaction_stays_open(kafka_server: Broker, topic_name: str, client: str) -> None:
    """A producer that goes away without an end leaves its transaction open."""
    make_topic(kafka_server, topic_name)
    send_transaction(kafka_server, topic_name, [(b"a", b"open")], end="open", client=client).close()
    send(kafka_server, topic_name, [(b"a", b"after")])
    assert content(kafka_server, topic_name) == []


def test_delete_records_moves_the_beginning(kafka_server: Broker, topic_name: str) -> None:
    """After delete-records the first offset is above zero."""
    make_topic(kafka_server, topic_name)
    send(kafka_server, topic_name, RECORDS)
    delete_records(kafka_server, topic_name, {0: 50})
    assert [record.offset for record in read_records(kafka_server, topic_name)] == list(range(50, 200))


def test_small_segments(own_kafka: OwnBroker, topic_name: str) -> None:
    """Segments may be small, and their files hold what was written."""
    make_topic(own_kafka, topic_name, segment_bytes=8192)
    for at in range(0, len(RECORDS), 20):
        send(own_kafka, topic_name, RECORDS[at : at + 20])
    files = segment_files(own_kafka, topic_name)
    assert len(files) > 3
    assert b"value 3 value 3 " in files[0].read_bytes()
    assert b"value 199 " in files[-1].read_bytes()


def test_ledger_topic(kafka_server: Broker, topic_name: str, tmp_path) -> None:
    """A store's events are on the topic in the order of each account, and so are events that are given."""
    events = [event for number in range(5) for event in account_stream(f"acc-{number}", 30)]
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    append(store, *events)
    expected = {event.account_id: [] for event in events}
    for event in events:
        expected[event.account_id].append(encode(event))
    for name, source in ((f"{topic_name}-store", store), (f"{topic_name}-events", events)):
        ledger_topic(kafka_server, name, source, 3)
        records = sorted(read_records(kafka_server, name), key=lambda record: record.key)
        found = {key.decode(): list(group) for key, group in groupby(records, key=lambda record: record.key)}
        assert {key: [record.value for record in group] for key, group in found.items()} == expected
    store.close()


def test_kill_keeps_data(own_kafka: OwnBroker, topic_name: str) -> None:
    """A broker that was killed comes back on the same address with all that it had acknowledged."""
    make_topic(own_kafka, topic_name, 2)
    placed = send(own_kafka, topic_name, RECORDS)
    before = own_kafka.pid
    own_kafka.kill()
    assert not own_kafka.is_running
    own_kafka.start()
    assert own_kafka.pid != before
    assert {(record.partition, record.offset) for record in read_records(own_kafka, topic_name)} == set(placed)


def test_pause_and_resume(own_kafka: OwnBroker, topic_name: str) -> None:
    """A paused broker does not answer, and goes on where it was when it is resumed."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    make_topic(own_kafka, topic_name)
    send(own_kafka, topic_name, RECORDS)
    own_kafka.pause()
    with pytest.raises(KafkaError):
        KafkaAdminClient(
            bootstrap_servers=own_kafka.bootstrap_servers, bootstrap_timeout_ms=500, request_timeout_ms=500
        )
    own_kafka.resume()
    assert content(own_kafka, topic_name) == RECORDS


def test_a_hurt_broker_is_healed(own_kafka: OwnBroker, topic_name: str) -> None:
    """Whatever was done to it, it answers again after it was healed."""
    own_kafka.pause()
    own_kafka.heal()
    make_topic(own_kafka, f"{topic_name}-paused")
    own_kafka.kill()
    own_kafka.heal()
    make_topic(own_kafka, f"{topic_name}-killed")
    own_kafka.stop()
    own_kafka.heal()
    make_topic(own_kafka, f"{topic_name}-stopped")


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_guarded_listeners_ask_for_the_password(own_kafka: OwnBroker, protocol: str) -> None:
    """The listeners with a login, with and without TLS, take the right password only."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    options = {"security_protocol": protocol, "sasl_mechanism": "PLAIN", "sasl_plain_username": SASL_USER}
    if protocol == "SASL_SSL":
        options |= {"bootstrap_servers": own_kafka.tls_bootstrap_servers, "ssl_cafile": str(own_kafka.certificate)}
    else:
        options |= {"bootstrap_servers": own_kafka.sasl_bootstrap_servers}
    with KafkaAdminClient(**options, sasl_plain_password=SASL_PASSWORD) as admin:
        assert admin.describe_cluster()["brokers"]
    with pytest.raises(KafkaError):
        KafkaAdminClient(**options, sasl_plain_password="another", bootstrap_timeout_ms=1_500)  # noqa: S106 - is refused


def test_tls_is_checked(own_kafka: OwnBroker) -> None:
    """A client that does not know the certificate does not connect."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    options = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": SASL_USER}
    options |= {"bootstrap_servers": own_kafka.tls_bootstrap_servers, "bootstrap_timeout_ms": 1_500}
    with pytest.raises(KafkaError):
        KafkaAdminClient(**options, sasl_plain_password=SASL_PASSWORD)
