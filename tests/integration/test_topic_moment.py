"""A topic as of a moment on a real broker, replayed by worker processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledgers import append
from samples import START
from topic_cases import CLIENTS, connection_to, history

from consumers.relay import publish
from ledger import Store
from replay import balances
from replay.topic import balances_from_topic

pytestmark = pytest.mark.kafka

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("client", CLIENTS)
def test_workers_fold_only_what_is_of_the_moment(kafka_server, topic_name, tmp_path: Path, monkeypatch, client) -> None:
    """Every worker is told the moment: by either clock and by both the rows and the digest are those of the store."""

    def never(*_: object) -> None:
        pytest.fail("a worker failed, and this process would have hidden it")

    monkeypatch.setattr("replay.topic.workers.WORKERS_EVENTS_MIN", 0)
    monkeypatch.setattr("replay.topic.workers.replay_partition", never)
    connection = connection_to(kafka_server, client, 60)
    store = Store.at(tmp_path / "data")
    append(store, *history(40, 2_000))
    publish(store, connection, topic_name, partitions=3)
    middle = START + timedelta(minutes=20)
    for asked in ({"as_of": middle}, {"recorded_as_of": middle}, {"as_of": NOW, "recorded_as_of": middle}):
        found = balances_from_topic(store, connection, topic_name, workers=2, now=NOW, **asked)
        expected = balances(store, now=NOW, **asked)
        assert (found.verdict, found.watermark) == ("COMPLETE", NOW)
        assert found.rows.equals(expected.rows)
        assert found.certificate.digest == expected.certificate.digest
        assert found.certificate.digest != balances(store, now=NOW).certificate.digest
        assert found.certificate.events == 2_000
    store.close()
