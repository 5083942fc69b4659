"""What is measured on a topic: publish, replay and healing, and the empty loops of the clients that replay is held to.

Besides `ours/ledger.db`, a folder holds `topic.json`: bootstrap servers and name of the topic that has its events.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ledger.store import Store

if TYPE_CHECKING:
    # Loaded on use: the memory of tasks without a topic is measured too.
    from replay.topic.connection import Client, Connection

__all__ = ["CLIENTS", "GIVEN", "PROCESSES", "TASKS", "Place", "kafka", "place_of", "use"]

ROOT = Path(__file__).parents[1]
PARTITIONS = 6
PROCESSES = (1, 2)
#: The broker that the caller named, as the tests call it: `make` keeps the product's own variable from every run.
GIVEN = "LEDGER_REPLAY_TEST_BOOTSTRAP_SERVERS"
CLIENTS: tuple[Client, ...] = ("kafka-python", "librdkafka")[: 1 + bool(importlib.util.find_spec("confluent_kafka"))]
Measured = dict[str, Any]
#: `bootstrap_servers`, `prefix` of the names of this run's topics, and in a folder's file the name, `topic`.
Place = dict[str, str]


@contextmanager
def kafka() -> Iterator[Place]:
    """Yield the broker that the caller named, or one that runs for as long as this; topics are gone afterwards.

    BrokerUnavailableError where there is neither; its message says what to install.
    """
    from tests.kafka_broker import resolve_jars, running

    prefix = f"ledger-bench-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        if servers := os.environ.get(GIVEN):
            stack.callback(_delete_topics, servers, prefix)
        else:
            servers = stack.enter_context(running(resolve_jars())).bootstrap_servers
        yield {"bootstrap_servers": servers, "prefix": prefix}


def use(place: Place, folder: Path) -> None:
    """Say where the events of a folder's ledger go: to a topic that is not there yet."""
    place = place | {"topic": f"{place['prefix']}-{uuid.uuid4().hex[:8]}"}
    (folder / "topic.json").write_text(json.dumps(place))


def publish(folder: Path) -> Measured:
    """Publish the store to a new topic, which the later tasks read."""
    from consumers.relay import publish as relay

    use(json.loads((folder / "topic.json").read_text()), folder)
    connection, name = place_of(folder)
    store = Store.at(folder / "ours")
    start = perf_counter()
    done = relay(store, connection, name, partitions=PARTITIONS)
    seconds = perf_counter() - start
    store.close()
    assert done.verdict == "COMPLETE", f"{done.verdict} from a whole ledger"
    return {"seconds": seconds, "events": done.published, "check": done.published, "settings": {}}


def drain(folder: Path, *, client: Client, processes: int) -> Measured:
    """Take every record in empty loops, the partitions being divided among the processes."""
    from replay.topic.client import CHUNK_RECORDS

    connection, name = place_of(folder, client)
    settings = json.dumps(_settings(connection, name))
    shares = [",".join(str(number) for number in range(PARTITIONS)[first::processes]) for first in range(processes)]
    command = [sys.executable, "-m", "benchmarks.drain", client, name, str(CHUNK_RECORDS)]
    start = perf_counter()
    children = [
        subprocess.Popen([*command, share, settings], cwd=ROOT, stdout=subprocess.PIPE, text=True) for share in shares
    ]
    counts = [int(child.communicate()[0]) for child in children]
    seconds = perf_counter() - start
    return {"seconds": seconds, "events": sum(counts), "check": sum(counts), "settings": {}, "processes": processes}


def replay(folder: Path, *, client: Client, processes: int, links: bool) -> Measured:
    """Replay the whole topic up to its certificate; with links as `rebuild` does, without as `balances` does."""
    from replay.topic import describe, replayed_topic
    from replay.topic.workers import WORKERS_EVENTS_MIN

    connection, name = place_of(folder, client)
    start = perf_counter()
    topic = describe(connection, name)
    assert topic is not None, "the topic is gone"
    with replayed_topic(connection, topic, ledger_id="bench", links=links, workers=processes) as done:
        seconds = perf_counter() - start
        certificate, verdict = done.certificate, done.verdict
    assert verdict == "COMPLETE", f"{verdict} on a whole topic"
    others = processes if topic.events >= WORKERS_EVENTS_MIN else 0
    events = certificate.events
    return {"seconds": seconds, "events": events, "check": events, "settings": {}, "processes": others}


def heal(folder: Path) -> Measured:
    """Compare every record of the topic with a store that has lost nothing."""
    from consumers.healing import heal_from_topic

    connection, name = place_of(folder, CLIENTS[-1])
    store = Store.at(folder / "ours")
    start = perf_counter()
    done = heal_from_topic(store, connection, name)
    seconds = perf_counter() - start
    store.close()
    assert (done.restored, done.imported) == (0, 0), "a whole store was healed"
    return {"seconds": seconds, "events": done.records, "check": done.records, "settings": {}}


def place_of(folder: Path, client: Client = "kafka-python") -> tuple[Connection, str]:
    """Return how to reach the brokers, and the topic that has a folder's events."""
    from replay.topic.connection import Connection

    place = json.loads((folder / "topic.json").read_text())
    return Connection(bootstrap_servers=place["bootstrap_servers"], client=client), place["topic"]


def _settings(connection: Connection, topic: str) -> dict[str, Any]:
    """Return the settings that our own reader makes its client with, so that both sides fetch alike."""
    from replay.topic.client import open_reader

    module, made = {
        "kafka-python": ("reader_python", "KafkaConsumer"),
        "librdkafka": ("reader_librdkafka", "Consumer"),
    }[connection.client]
    with patch(f"replay.topic.{module}.{made}") as asked, open_reader(connection, topic):
        positional, named = asked.call_args
    found: dict[str, Any] = {**(positional[0] if positional else {}), **named}
    found.pop("logger", None)
    return found


def _delete_topics(bootstrap_servers: str, prefix: str) -> None:
    from kafka import KafkaAdminClient

    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        if names := [name for name in admin.list_topics() if name.startswith(prefix)]:
            admin.delete_topics(names)


def _tasks() -> dict[str, Callable[[Path], Measured]]:
    found: dict[str, Callable[[Path], Measured]] = {"publish": publish, "heal": heal}
    for client in CLIENTS:
        for processes in PROCESSES:
            shared: dict[str, Any] = {"client": client, "processes": processes}
            found[f"drain {client} {processes}"] = partial(drain, **shared)
            found[f"replay {client} {processes}"] = partial(replay, links=False, **shared)
            found[f"replay {client} {processes} links"] = partial(replay, links=True, **shared)
    return found


TASKS = _tasks()
