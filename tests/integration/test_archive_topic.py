"""An archive of a topic on a real broker: one digest with store and topic, over runs, repeats and what is not whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from archives import archive_at, check_exactly_once, commits_of, keys_of, said, said_by_store
from kafka_broker import Broker
from ledgers import append
from topic_cases import CLIENTS, connection_to, history, records_of
from topics import delete_records, delete_topic, ledger_topic, make_topic, send, send_transaction

from consumers.archiver import Archived, archive_topic
from ledger import Store
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive
from replay.archive.table import Archive
from replay.topic import balances_from_topic, describe
from schemas.errors import PositionMoved, RefusedError

pytestmark = pytest.mark.kafka

EVENTS = 2_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A small ledger."""
    store = Store.at(tmp_path / "data")
    append(store, *history(40, EVENTS))
    yield store
    store.close()


def archived(archive: Archive, broker: Broker, topic: str, client: str = "kafka-python") -> Archived:
    """Bring an archive up to date from a topic."""
    connection = connection_to(broker, client)
    described = describe(connection, topic)
    assert described is not None
    return archive_topic(archive, connection, described, ledger_id="ledger")


@pytest.mark.parametrize("client", CLIENTS)
def test_store_topic_and_archive_agree(kafka_server, topic_name, tmp_path, store, client):
    """One digest of all three, before and after compaction, with commits in the middle of partitions."""
    ledger_topic(kafka_server, topic_name, store, 4, compression="lz4")
    with commits_of(300):
        found = archived(archive_at(tmp_path), kafka_server, topic_name, client)
    assert (found.verdict, found.appended, found.unread) == ("COMPLETE", EVENTS, [])
    answer, truth = said(archive_at(tmp_path)), said_by_store(store)
    from_topic = balances_from_topic(store, connection_to(kafka_server, client), topic_name)
    assert answer == truth
    assert answer.digest == from_topic.certificate.digest
    assert found.state.position == from_topic.certificate.position
    compact(archive_at(tmp_path), file_events=500)
    assert said(archive_at(tmp_path)) == truth
    assert archived(archive_at(tmp_path), kafka_server, topic_name, client).appended == 0
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("client", CLIENTS)
def test_runs_go_on_where_the_last_one_was(kafka_server, topic_name, tmp_path, store, client):
    """Over runs with repeats, transactions that were aborted and an event that came late, each event is there once."""
    records = records_of(history(40, EVENTS))
    late = records.pop(700)
    make_topic(kafka_server, topic_name, 3)
    for start in range(0, EVENTS, 500):
        # What is sent again, and what never counts, takes offsets too.
        send(kafka_server, topic_name, records[max(0, start - 100) : start + 500])
        send_transaction(kafka_server, topic_name, records[:5], end="abort")
        with commits_of(150):
            found = archived(archive_at(tmp_path), kafka_server, topic_name, client)
        check_exactly_once(archive_at(tmp_path))
        if start >= 500:
            assert (found.verdict, len(found.state.parked)) == ("INCOMPLETE", 1)
        from_topic = balances_from_topic(store, connection_to(kafka_server, client), topic_name)
        parked = [each.account_id for each in from_topic.certificate.parked if each.reason != "head_mismatch"]
        assert said(archive_at(tmp_path)).parked == parked
    send(kafka_server, topic_name, [late])
    assert archived(archive_at(tmp_path), kafka_server, topic_name, client).verdict == "COMPLETE"
    assert said(archive_at(tmp_path)) == said_by_store(store)
    assert keys_of(archive_at(tmp_path)).height == EVENTS
    check_exactly_once(archive_at(tmp_path))


def test_a_topic_that_lost_records_is_refused(kafka_server, topic_name, tmp_path, store):
    """Records deleted past the archive's position, and a topic made again under the name, are refused."""
    records = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, 1)
    send(kafka_server, topic_name, records[:500])
    archived(archive_at(tmp_path), kafka_server, topic_name)
    before = keys_of(archive_at(tmp_path))
    delete_records(kafka_server, topic_name, {0: 400})
    assert archived(archive_at(tmp_path), kafka_server, topic_name).appended == 0
    send(kafka_server, topic_name, records[500:900])
    delete_records(kafka_server, topic_name, {0: 600})
    with pytest.raises(RefusedError, match="begins at offset 600"):
        archived(archive_at(tmp_path), kafka_server, topic_name)
    delete_topic(kafka_server, topic_name)
    make_topic(kafka_server, f"{topic_name}-again", 1)
    with pytest.raises(RefusedError, match="another source"):
        archived(archive_at(tmp_path), kafka_server, f"{topic_name}-again")
    assert keys_of(archive_at(tmp_path)).equals(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_follows_a_topic(kafka_server, topic_name, tmp_path, store, number):
    """It takes in what comes, an open transaction meanwhile or not, and a signal ends it tidily with its answer."""
    records = records_of(history(40, EVENTS))
    make_topic(kafka_server, topic_name, 3)
    send(kafka_server, topic_name, records[:500])
    alone = tmp_path / "alone"
    words = ["archive", "--from", "topic", "--follow", "--topic", topic_name, "--data", str(alone), "--json"]
    command = [sys.executable, "-m", "console.main", *words, "--bootstrap-servers", kafka_server.bootstrap_servers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for start in range(500, EVENTS, 500):
                wait_for(alone, start)
                send_transaction(kafka_server, topic_name, records[:5], end="abort")
                send(kafka_server, topic_name, records[start - 50 : start + 500])
            wait_for(alone, EVENTS)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    answer = msgspec.json.decode(out)
    assert (answer["verdict"], answer["appended"], answer["events"]) == ("COMPLETE", EVENTS, EVENTS)
    assert said(archive_at(alone)) == said_by_store(store)
    with replayed_archive(archive_at(alone)) as found:
        assert found.certificate.repeats == 150
    check_exactly_once(archive_at(alone))


def wait_for(folder: Path, events: int) -> None:
    """Wait until the archive in a folder holds so many events, at the end of a round."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = archive_at(folder).snapshot() if (folder / "archive" / "_delta_log").exists() else None
        if found is not None and found.state is not None and found.state.concluded and found.state.events >= events:
            return
        time.sleep(0.1)
    raise AssertionError(f"the archive does not get to {events} events")


def test_two_archivers_of_a_topic(kafka_server, topic_name, tmp_path, store):
    """Whoever wins, each event is there once, and the loser is told."""
    ledger_topic(kafka_server, topic_name, store, 3)
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(archived(archive_at(tmp_path), kafka_server, topic_name).verdict)
        except PositionMoved as error:
            outcomes.append(type(error))

    with commits_of(200):
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 2
        assert archived(archive_at(tmp_path), kafka_server, topic_name).verdict == "COMPLETE"
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)
