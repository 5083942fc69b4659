"""A rebuild from a topic that is killed anywhere is finished by the same command, with an unbroken run's digest."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kafka_broker import Broker
from ledgers import append
from topic_cases import CLIENTS, connection_to, history
from topics import delete_topic, ledger_topic

from ledger import Store
from replay import balances, drift, generations
from replay.topic import describe, rebuild_from_topic

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
#: More than worker processes are started from.
EVENTS = 120_000
ACCOUNTS = 2_000
KILLS = 4


class Ready(NamedTuple):
    """A ledger, its digest, and the topic that it is on."""

    database: Path
    digest: str
    broker: Broker
    topic: str


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, kafka_server: Broker) -> Ready:
    """A ledger of many events, and its topic of four partitions."""
    store = Store.at(tmp_path_factory.mktemp("ready"))
    append(store, *history(ACCOUNTS, EVENTS))
    topic = ledger_topic(kafka_server, f"ledger-test-{uuid.uuid4().hex[:12]}", store, 4)
    digest = balances(store).certificate.digest
    store.close()
    return Ready(Path(str(store.url.database)), digest, kafka_server, topic)


@pytest.fixture
def folder(tmp_path: Path, ready: Ready) -> Path:
    """A folder with a copy of that ledger, and another in a folder `elsewhere` in it."""
    for name in (tmp_path, tmp_path / "elsewhere"):
        name.mkdir(exist_ok=True)
        shutil.copy(ready.database, name)
    return tmp_path


def start(ready: Ready, folder: Path, client: str, workers: int) -> subprocess.Popen[str]:
    """Start a process that rebuilds, and wait until it begins."""
    arguments = [f"sqlite:///{folder}/ledger.db", str(folder), ready.broker.bootstrap_servers, ready.topic, client]
    command = [sys.executable, "-m", "tests.recovery.topic_rebuilder", *arguments, str(workers)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    return process


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Return what a process said at its end."""
    with process:
        assert process.stdout is not None
        said = process.stdout.read().split()
        assert process.wait() == 0
    return said


def children(process: subprocess.Popen[Any]) -> list[int]:
    """Return the processes that a process has started."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def timed(ready: Ready, folder: Path, client: str, workers: int) -> float:
    """Rebuild without a kill, and return how long it took from where it began."""
    process = start(ready, folder / "elsewhere", client, workers)
    began = time.monotonic()
    said = finish(process)
    assert said == ["COMPLETE", ready.digest, "False"]
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("client", CLIENTS[::-1])
def test_a_killed_rebuild_from_a_topic_is_finished_by_the_same_command(ready, folder, client, seed):
    """After kills at random moments the digest is that of an unbroken run, which went on where it was."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    took = timed(ready, folder, client, 2)
    kills, resumed = 0, []
    for _ in range(KILLS):
        with start(ready, folder, client, 2) as process:
            time.sleep(chance.uniform(0.2, 0.9) * took)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        if chance.random() < 0.5:
            said = finish(start(ready, folder, client, 2))
            assert said[:2] == ["COMPLETE", ready.digest]
            resumed.append(said[2] == "True")
    # Once more where there is something to go on from, since no kill by the clock is sure to come that late.
    with start(ready, folder, client, 2) as process:
        while not list(folder.rglob("*.checkpoint")) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += (was_killed := process.wait() == -signal.SIGKILL)
    said = finish(start(ready, folder, client, 2))
    assert said[:2] == ["COMPLETE", ready.digest]
    resumed.append(said[2] == "True")
    assert kills
    assert any(resumed) or not was_killed
    assert not list(folder.glob("*.checkpoint"))
    store = Store.at(folder)
    assert {found.certificate is not None and ready.digest in found.certificate for found in generations(store)} == {
        True
    }
    assert drift(store).verdict == "EQUAL"
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_worker_is_made_up_for(ready, folder, seed):
    """The partition of a worker that is killed is finished in the same run, with nothing lost and nothing twice."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    took = timed(ready, folder, "kafka-python", 2)
    hit = 0
    for _ in range(KILLS):
        process = start(ready, folder, "kafka-python", 2)
        time.sleep(chance.uniform(0.1, 0.6) * took)
        workers = children(process)
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            hit += 1
        assert finish(process)[:2] == ["COMPLETE", ready.digest]
    assert hit


def stopped_half_way(ready: Ready, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Leave the checkpoints of a finished replay of every partition, as a kill just before the end does."""
    store = Store.at(folder)
    module = "replay.topic.rebuild.write_generation"
    with monkeypatch.context() as patched:
        patched.setattr(module, _killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild_from_topic(store, connection_to(ready.broker, CLIENTS[-1]), ready.topic, checkpoint_folder=folder)
    store.close()
    return sorted(folder.glob("*.checkpoint"))


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_damaged_checkpoint_is_not_used(ready, folder, monkeypatch):
    """Of damaged files, whatever is wrong with them, the partition is read anew; the digest is the same."""
    files = stopped_half_way(ready, folder, monkeypatch)
    assert len(files) == 4
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1])
    files[1].write_bytes(bytes([files[1].read_bytes()[0] ^ 1]) + files[1].read_bytes()[1:])
    files[2].write_bytes(b"")
    store = Store.at(folder)
    found = rebuild_from_topic(store, connection_to(ready.broker, CLIENTS[-1]), ready.topic, checkpoint_folder=folder)
    assert (found.verdict, found.certificate.digest) == ("COMPLETE", ready.digest)
    assert isinstance(found.certificate.resumed_from, dict)
    assert list(found.certificate.resumed_from) == [3]
    store.close()


def test_a_checkpoint_of_another_partition_is_not_used(ready, folder, monkeypatch):
    """A file under the name of another partition is seen and not used."""
    files = stopped_half_way(ready, folder, monkeypatch)
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    store = Store.at(folder)
    found = rebuild_from_topic(store, connection_to(ready.broker, CLIENTS[-1]), ready.topic, checkpoint_folder=folder)
    assert (found.verdict, found.certificate.digest) == ("COMPLETE", ready.digest)
    assert isinstance(found.certificate.resumed_from, dict)
    assert list(found.certificate.resumed_from) == [2, 3]
    store.close()


def test_a_checkpoint_of_a_topic_that_was_made_again_is_not_used(kafka_server, topic_name, tmp_path, monkeypatch):
    """Checkpoints belong to the topic by its identity: another one of the same name is read from zero."""
    store = Store.at(tmp_path)
    append(store, *history(20, 500))
    ledger_topic(kafka_server, topic_name, store, 2)
    connection = connection_to(kafka_server)
    with monkeypatch.context() as patched:
        patched.setattr("replay.topic.rebuild.write_generation", _killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild_from_topic(store, connection, topic_name, checkpoint_folder=tmp_path)
    assert len(list(tmp_path.glob("*.checkpoint"))) == 2
    delete_topic(kafka_server, topic_name)
    for _ in range(100):
        if describe(connection, topic_name) is None:
            break
        time.sleep(0.1)
    other = history(20, 400, seed=2)
    ledger_topic(kafka_server, topic_name, other, 2)
    found = rebuild_from_topic(store, connection, topic_name, checkpoint_folder=tmp_path)
    assert found.certificate.resumed_from is None
    assert found.certificate.events == 400
    store.close()
