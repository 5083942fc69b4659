"""The command `publish`, as a process of its own, on a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka_broker import Broker
from ledgers import append, change_event
from relays import position, wait_for
from samples import account_stream
from topics import make_topic, read_records

from ledger import Store

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]


def command(folder: Path, broker: Broker, topic: str, *words: str) -> list[str]:
    """Return the command line that publishes a folder's store to a topic."""
    where = ("--data", str(folder), "--bootstrap-servers", broker.bootstrap_servers)
    return [sys.executable, "-m", "console.main", *where, "publish", "--topic", topic, "--json", *words]


def run(folder: Path, broker: Broker, topic: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Run it to its end, and return its exit status and its document."""
    done = subprocess.run(command(folder, broker, topic, *words), cwd=ROOT, capture_output=True, check=False)
    return done.returncode, msgspec.json.decode(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger with two accounts."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5), *account_stream("b", 3))
    store.close()
    return tmp_path


def test_it_makes_the_topic_and_says_how_far_it_is(folder, kafka_server, topic_name):
    """A first run makes the topic as asked and publishes everything, a second has nothing to do."""
    status, document = run(folder, kafka_server, topic_name, "--partitions", "2")
    assert status == 0
    assert document["topic_id"]
    assert sum(document["offsets"].values()) == 8
    expected = {"verdict": "COMPLETE", "published": 8, "position": 8, "topic": topic_name, "parked": []}
    assert {name: document[name] for name in expected} == expected
    assert run(folder, kafka_server, topic_name)[1] == document | {"published": 0}
    assert len(read_records(kafka_server, topic_name)) == 8


def test_what_is_held_back_is_named_and_status_3(folder, kafka_server, topic_name):
    """A damaged account is named with its first unpublished version, and the run is INCOMPLETE."""
    store = Store.at(folder)
    change_event(store, "a", 3, state=b"{}")
    store.close()
    status, document = run(folder, kafka_server, topic_name)
    assert (status, document["verdict"], document["published"]) == (3, "INCOMPLETE", 5)
    assert document["parked"] == [{"account_id": "a", "version": 3, "reason": "poison_event"}]


def test_a_refusal_is_status_4_and_its_option_overrides_it(folder, kafka_server, topic_name):
    """A topic that expires is refused with what to do next, and taken with the option that is named."""
    make_topic(kafka_server, topic_name, 2, retention_ms=60_000)
    status, document = run(folder, kafka_server, topic_name)
    assert (status, document["verdict"]) == (4, "REFUSED")
    assert "--accept-retention" in document["error"]["next_step"]
    assert run(folder, kafka_server, topic_name, "--accept-retention")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_follower_ends_with_its_answer_when_it_is_told_to(folder, kafka_server, topic_name, number):
    """Ctrl-C or SIGTERM end it after the batch in hand, in order and with status 0."""
    process = subprocess.Popen(
        command(folder, kafka_server, topic_name, "--follow"), cwd=ROOT, stdout=subprocess.PIPE, env=os.environ
    )
    store = Store.at(folder)
    wait_for(lambda: position(store, topic_name) == 8, seconds=60)
    assert process.poll() is None
    store.close()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert msgspec.json.decode(out)["position"] == 8


def test_a_follower_says_that_it_waits_for_a_broker(folder, own_kafka, topic_name):
    """A follower whose broker is gone says so on stderr and goes on waiting, until it is told to end."""
    (folder / "ledger-replay.toml").write_text("[kafka]\nstall_timeout_seconds = 2\n")
    process = subprocess.Popen(
        command(folder, own_kafka, topic_name, "--follow"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = Store.at(folder)
    wait_for(lambda: position(store, topic_name) == 8)
    own_kafka.kill()
    append(store, *account_stream("c", 2))
    store.close()
    assert process.stderr is not None
    assert process.stderr.readline().startswith("note: publishing waits at position 8 of the store: ")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert msgspec.json.decode(out)["position"] == 8
