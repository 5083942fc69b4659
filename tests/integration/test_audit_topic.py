"""Heads of the audit trail on a topic of a real Kafka: the same as in a file."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from audit_trails import AT, bad_of, cut_off, entry, heads_of, record, rows_of, set_head
from topic_cases import CLIENTS, connection_to
from topics import send

from console.main import main
from consumers.audit_topic import AuditTopic
from ledger import Store
from ledger.audit import Head
from ledger.audit_heads import keep

pytestmark = pytest.mark.kafka


@pytest.fixture
def topic() -> str:
    """The name of a topic that there is not yet."""
    return f"ledger-test-{uuid.uuid4().hex[:12]}"


@pytest.mark.parametrize("client", CLIENTS)
def test_heads_on_a_topic_show_a_cut_tail(store: Store, kafka_server, topic: str, client: str) -> None:
    """Every head is on the topic once, beside those of another ledger; behind is no damage, and a cut tail is found."""
    connection = connection_to(kafka_server, client)
    outside, other = (AuditTopic(connection, topic, name) for name in (store.ledger_id, "another"))
    assert outside.heads() == []
    other.write([Head(1, "0" * 64)], AT)
    for numbers in ((1, 2, 3), (), (4,)):
        record(store, *(entry(number) for number in numbers))
        assert bad_of(store, outside.heads()) is None
        keep(store, [outside], AT)
    assert outside.heads() == heads_of(rows_of(store))
    assert other.heads() == [Head(1, "0" * 64)]
    cut_off(store, 3)
    set_head(store, 2, rows_of(store)[1].hash)
    assert bad_of(store) is None
    assert bad_of(store, outside.heads()) == 3


def test_the_topic_of_the_configuration_is_verified(
    store: Store, kafka_server, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`audit verify` says what the topic has; a record that is no head is named by its offset."""
    folder = tmp_path / "data"
    (folder / "ledger-replay.toml").write_text(f'[audit]\ntopic = "{topic}"\n')
    record(store, entry(1), entry(2))
    connection = connection_to(kafka_server)
    keep(store, [AuditTopic(connection, topic, store.ledger_id)], AT)
    record(store, entry(3))
    command = ["audit", "verify", "--data", str(folder), "--bootstrap-servers", kafka_server.bootstrap_servers]
    assert main(command) == 0
    assert f"topic {topic}: 2 heads, the last of entry 2: 1 behind" in capsys.readouterr().out
    assert main(["audit", "verify", "--data", str(folder)]) == 2
    assert "no Kafka brokers are named" in capsys.readouterr().err
    send(kafka_server, topic, [(b"k", None)])
    assert main(command) == 2
    assert (
        f"tombstone is no head of the audit trail (topic {topic!r}, partition 0, offset 2)" in capsys.readouterr().err
    )
