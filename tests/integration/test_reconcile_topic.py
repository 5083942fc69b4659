"""A reconciliation that takes the ledger's side from a topic of a real Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from kafka_broker import Broker
from ledgers import lose_event
from reconcile_rows import LATER, bring, codes, kept, order, payment, told
from topic_cases import CLIENTS, connection_to
from topics import ledger_topic

from consumers.relay import publish
from ledger import Store
from replay.reconcile import ask_for
from replay.reconcile_sides import LedgerSide, ledger_of_topic

pytestmark = pytest.mark.kafka

ACCOUNTS = [f"account-{number}" for number in range(8)]
#: Each account has one order that is paid, one that never was, and a payment for one that nobody knows.
ORDERS = [order(f"{kind}-{name}", account_id=name) for name in ACCOUNTS for kind in ("paid", "unpaid")]
TRANSACTIONS = [
    payment(f"{kind}-{name}", f"{kind}-{name}", account_id=name) for name in ACCOUNTS for kind in ("paid", "orphan")
]
PLACES = ["ledger_partition", "ledger_position"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ledger with orders."""
    store = Store.at(tmp_path / "data")
    bring(store, ORDERS, TRANSACTIONS)
    yield store
    store.close()


@pytest.fixture
def topic() -> str:
    """The name of a topic that there is not yet."""
    return f"ledger-test-{uuid.uuid4().hex[:12]}"


def side_of(store: Store, broker: Broker, topic: str, client: str = CLIENTS[-1]) -> LedgerSide:
    """Return the ledger's side from a topic."""
    return ledger_of_topic(store, connection_to(broker, client), topic, ask_for(), now=LATER, workers=2)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_topic_gives_what_the_store_gives(store, kafka_server, topic, client):
    """The same mismatches of the same orders, from a topic of three partitions; a foreign one is whole by now."""
    ledger_topic(kafka_server, topic, store, 3)
    found = told(store, ledger=side_of(store, kafka_server, topic, client))
    expected = told(store)
    assert found.mismatches.drop(PLACES).equals(expected.mismatches.drop(PLACES))
    assert found.mismatches["ledger_position"].null_count() == found.mismatches.height
    assert (found.until, found.verdicts, len(codes(found.mismatches))) == (LATER, ["FINDINGS"], 16)
    assert found.certificate.source == "topic"


def test_what_is_not_published_yet_is_no_missing_payment(store, kafka_server, topic):
    """Our own topic is known up to the first event that it lacks: what was paid after that is no break."""
    publish(store, connection_to(kafka_server), topic, partitions=3)
    now = LATER + timedelta(hours=1)
    late = order("late", account_id=ACCOUNTS[0], created_at=LATER)
    bring(store, [late], [payment("late", "late", account_id=ACCOUNTS[0], created_at=LATER)], now=now)
    side = ledger_of_topic(store, connection_to(kafka_server), topic, ask_for(), now=now)
    assert side.until == now - timedelta(microseconds=1)
    found = kept(store, now=now, ledger=side._replace(until=LATER)).found
    assert codes(found.pending) == [("late", "missing_credit_transaction")]
    publish(store, connection_to(kafka_server), topic)
    side = ledger_of_topic(store, connection_to(kafka_server), topic, ask_for(), now=now)
    found = kept(store, now=now, ledger=side).found
    assert (side.until, codes(found.pending), len(codes(found.mismatches))) == (now, [], 16)


def test_accounts_that_the_relay_holds_back_are_withheld(store, kafka_server, topic):
    """An account that cannot be published whole is unknown, and nothing is said of its orders."""
    lose_event(store, ACCOUNTS[3], 2)
    assert publish(store, connection_to(kafka_server), topic, partitions=3).verdict == "INCOMPLETE"
    found = told(store, ledger=side_of(store, kafka_server, topic))
    assert found.withheld["order_id"].to_list() == sorted(f"{kind}-{ACCOUNTS[3]}" for kind in ("paid", "unpaid"))
    assert found.verdicts == ["INCOMPLETE", "FINDINGS"]
    assert not [order_id for order_id, _ in codes(found.mismatches) if order_id.endswith(ACCOUNTS[3])]
    assert len(codes(found.mismatches)) == 14
