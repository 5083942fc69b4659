"""A real Apache Kafka for the tests: the broker in LEDGER_REPLAY_BOOTSTRAP_SERVERS, or one that the suite starts.

Each test process that asks for one starts its own (Java 17 or newer and Maven are needed), and stops it at the end
by its own process id. Tests of one process run one after the other, so one of them may hurt the broker: `own_kafka`
has it healed after the test.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import GIVEN, Broker, BrokerUnavailableError, OwnBroker, resolve_jars, running

__all__ = ["kafka_jars", "kafka_server", "own_kafka", "started_kafka", "topic_name"]

#: Where the name of the given broker is kept: it is for this suite, and must not reach the command line under test.
KEPT = "LEDGER_REPLAY_TEST_BOOTSTRAP_SERVERS"

if named := os.environ.pop(GIVEN, None):
    os.environ[KEPT] = named


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """Return the folder with the jars of the broker under test, or skip and say why there are none."""
    try:
        return resolve_jars()
    except BrokerUnavailableError as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture(scope="session")
def started_kafka(kafka_jars: Path) -> Iterator[OwnBroker]:
    """Return the broker that this test process starts; tests ask for `kafka_server` or `own_kafka`."""
    with running(kafka_jars) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_server(request: pytest.FixtureRequest) -> Broker:
    """Return a broker to write to and read from, which others use too, so that it must not be hurt."""
    if given := os.environ.get(KEPT):
        return Broker(given)
    broker: OwnBroker = request.getfixturevalue("started_kafka")
    return broker


@pytest.fixture
def own_kafka(started_kafka: OwnBroker) -> Iterator[OwnBroker]:
    """Return a broker of our own, even where one is given, which the test may pause, kill, and change on disk."""
    yield started_kafka
    started_kafka.heal()


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a name that no topic has; on a given broker, topics that begin with it are deleted after the test."""
    name = f"ledger-test-{uuid.uuid4().hex[:12]}"
    yield name
    if given := os.environ.get(KEPT):
        from topics import delete_topics

        delete_topics(Broker(given), prefix=name)
