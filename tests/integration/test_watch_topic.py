"""`drift --watch --from topic`, as a process of its own, on a real broker."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka_broker import Broker
from ledgers import append
from samples import account_stream

from ledger import Store

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger with two accounts."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5), *account_stream("b", 3))
    store.close()
    return tmp_path


def run(folder: Path, broker: Broker, *words: str) -> tuple[int, dict[str, Any]]:
    """Run a command to its end, and return its exit status and its document."""
    where = ("--data", str(folder), "--bootstrap-servers", broker.bootstrap_servers, "--json")
    command = [sys.executable, "-m", "console.main", *where, *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_REPLAY_")}
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, check=False)
    return done.returncode, msgspec.json.decode(done.stdout)


def test_our_own_read_model_is_compared_with_a_shadow_of_the_topic(folder, kafka_server, topic_name):
    """A shadow that follows the topic finds the read model equal, and after a hand-made change what was changed."""
    assert run(folder, kafka_server, "publish", "--topic", topic_name, "--partitions", "2")[0] == 0
    assert run(folder, kafka_server, "project")[0] == 0
    watched = ("drift", "--watch", "--rounds", "1", "--from", "topic", "--topic", topic_name)
    status, document = run(folder, kafka_server, *watched)
    assert (status, document["verdict"], document["events"]) == (0, "EQUAL", 8)
    assert sum(document["position"].values()) == 8
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        connection.execute("UPDATE ledger_accounts SET balance = balance + 1 WHERE account_id = 'b' AND generation > 0")
    connection.close()
    status, document = run(folder, kafka_server, *watched)
    assert (status, [each["account_id"] for each in document["accounts"]]) == (1, ["b"])
    status, document = run(folder, kafka_server, "drift", "--watch", "--rounds", "1")
    assert (status, document["error"]["kind"]) == (4, "RefusedError")
    status, document = run(folder, kafka_server, "drift", "--watch", "--rounds", "1", "--shadow", "of the store")
    assert (status, document["comparison"]) == (1, "read_model, shadow of the store")


def test_a_live_table_elsewhere_is_compared_with_a_shadow_of_the_topic(folder, kafka_server, topic_name, tmp_path):
    """A foreign table is held against the topic: what differs settles as drift, and equal rows are equal."""
    assert run(folder, kafka_server, "publish", "--topic", topic_name, "--partitions", "2")[0] == 0
    said = {each["account_id"]: each for each in run(folder, kafka_server, "balances")[1]["accounts"]}
    connection = sqlite3.connect(tmp_path / "live.db")
    with connection:
        connection.execute("CREATE TABLE points (account_id TEXT, balance INT, frozen_amount INT, status TEXT)")
        rows = [(name, each["balance"], each["frozen"], each["status"]) for name, each in said.items()]
        connection.executemany("INSERT INTO points VALUES (?, ?, ?, ?)", rows)
    live = f'[live]\nurl = "sqlite:///{tmp_path}/live.db"\ntable = "points"\nsettle_seconds = 0.3\n'
    (folder / "ledger-replay.toml").write_text(live)
    watched = ("drift", "--watch", "--live", "--rounds", "1", "--from", "topic", "--topic", topic_name)
    status, document = run(folder, kafka_server, *watched)
    assert (status, document["compared"]) == (0, 2)
    with connection:
        connection.execute("UPDATE points SET balance = balance + 100000 WHERE account_id = 'a'")
    connection.close()
    status, document = run(folder, kafka_server, *watched)
    assert (status, [each["account_id"] for each in document["accounts"]]) == (1, ["a"])


def test_a_missed_tail_of_a_quiet_topic_is_drift(folder, kafka_server, topic_name, tmp_path):
    """What lag could explain is drift once an account of the same partition shows that live is past it."""
    store = Store.at(folder)
    append(store, *(event for number in range(12) for event in account_stream(f"later-{number}", 4)))
    store.close()
    assert run(folder, kafka_server, "publish", "--topic", topic_name, "--partitions", "2")[0] == 0
    said = {each["account_id"]: each for each in run(folder, kafka_server, "balances")[1]["accounts"]}
    connection = sqlite3.connect(tmp_path / "live.db")
    with connection:
        connection.execute("CREATE TABLE points (account_id TEXT, balance INT, frozen_amount INT, status TEXT)")
        rows = [(name, each["balance"], each["frozen"], each["status"]) for name, each in said.items()]
        connection.executemany("INSERT INTO points VALUES (?, ?, ?, ?)", rows)
        connection.execute("DELETE FROM points WHERE account_id = 'a'")
        connection.execute("UPDATE points SET balance = 10 WHERE account_id = 'b'")
    connection.close()
    live = f'[live]\nurl = "sqlite:///{tmp_path}/live.db"\ntable = "points"\nsettle_seconds = 0.3\n'
    (folder / "ledger-replay.toml").write_text(live)
    watched = ("drift", "--watch", "--live", "--rounds", "1", "--from", "topic", "--topic", topic_name)
    status, document = run(folder, kafka_server, *watched)
    assert {each["account_id"]: each["class"] for each in document["accounts"]} == {
        "a": "row_missing",
        "b": "missed_event",
    }
    assert status == 1
