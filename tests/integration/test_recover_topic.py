"""A recovery whose lost events come back from a topic of a real Kafka, and whose trail has its heads there."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledgers import write_history

from console.main import main
from ledger import Store
from replay import rebuild

pytestmark = pytest.mark.kafka


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], kafka_server, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Return a function that runs a command on the ledger and the broker, and gives its status and its document."""

    def said(*words: object) -> tuple[int, dict[str, Any]]:
        places = ("--data", tmp_path / "data", "--bootstrap-servers", kafka_server.bootstrap_servers)
        capsys.readouterr()
        status = main([str(word) for word in (*words, *places, "--json")])
        return status, msgspec.json.decode(capsys.readouterr().out)

    return said


def test_lost_events_come_back_from_the_topic(
    store: Store, run: Callable[..., tuple[int, dict[str, Any]]], topic_name: str, tmp_path: Path
) -> None:
    """The check says what the topic would bring back, the plan lists it, and `apply` heals from what the plan names."""
    write_history(store)
    rebuild(store, promote=True)
    heads = f"ledger-test-{uuid.uuid4().hex[:12]}"
    settings = f'[kafka]\ntopic = "{topic_name}"\n[audit]\ntopic = "{heads}"\n'
    (tmp_path / "data" / "ledger-replay.toml").write_text(settings)
    assert run("publish")[0] == 0
    assert run("recover", "check")[1]["severity"] == "ok"
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.db")) as connection, connection:
        connection.execute("DELETE FROM stored_events WHERE originator_id = 'acc-1' AND originator_version = 3")
    status, found = run("recover", "check")
    assert (status, found["severity"]) == (1, "major")
    assert (found["loss"]["events_healable"], found["loss"]["healable_from"][0]) == (1, "the topic")
    plan = tmp_path / "plan.json"
    status, found = run("recover", "plan", "--output", plan, "--heal-from", "topic")
    assert [(each["account_id"], each["version"]) for each in found["heal"]] == [("acc-1", 3)], found
    assert run("recover", "approve", plan, "--reason", "seen")[0] == 0
    status, found = run("recover", "apply", plan, "--execute", "--yes")
    assert (status, found["verdict"], found["healed"]) == (0, "COMPLETE", 1), found
    assert run("verify", "--now", "2024-01-01")[1]["certificate"]["parked"] == []
    (outside,) = run("audit", "verify")[1]["outside"]
    assert (outside["place"], outside["behind"]) == (f"topic {heads}", 0)
