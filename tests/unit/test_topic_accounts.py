"""Accounts of a topic replayed alone: the same as in a replay of the whole topic, wherever their events are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import polars as pl
import pytest
from samples import account_stream, recorded
from topic_cases import history, records_of
from topic_groups import NOWHERE, MemoryTopic, replayed_memory, said_by_topic

from replay.steps import Steps, steps
from replay.topic.accounts import RECORDS_PER_LOOK, TopicAccounts, accounts_between
from replay.topic.client import Chunk, PartitionStopped
from schemas import encode
from schemas.errors import BrokerError, RefusedError


@contextmanager
def opened(reader: object) -> Iterator[object]:
    """A reader as `open_reader` gives it."""
    yield reader


def asked(topic: object, until: dict[int, int], *account_ids: str) -> Steps:
    """Replay some accounts of a topic in memory alone."""
    with patch("replay.topic.accounts.open_reader", lambda *_: opened(topic)):
        return steps(TopicAccounts(NOWHERE, "events", until=until), account_ids, until=until)


@pytest.mark.parametrize("seed", range(5))
def test_accounts_alone_are_as_in_the_whole_topic(seed):
    """Rows and parked accounts are those of a replay, for accounts in one partition, in two, with repeats and gaps."""
    chance = random.Random(seed)
    topic = MemoryTopic(3)
    for record in records_of(history(9, 200, seed=seed)):
        if chance.random() < 0.995:
            home = int(record[0][-1:]) % 3
            topic.logs[home if chance.random() < 0.8 else chance.randrange(3)] += [record] * chance.choice([1, 1, 1, 2])
    topic.logs[0].append((b"account-1", b"{}"))
    with replayed_memory(topic) as replay:
        whole = said_by_topic(replay)
    account_ids = ["account-1", "account-4", "account-7", "account-8", "nobody"]
    found = asked(topic, whole.positions, *account_ids)
    wanted = pl.col("account_id").is_in(account_ids)
    is_whole = ~pl.col("account_id").is_in(list(found.parked))
    assert found.rows().filter(is_whole).equals(whole.rows.filter(wanted))
    assert {name: (each.version, each.reason) for name, each in found.parked.items()} == {
        name: each for name, each in whole.parked.items() if name in account_ids
    }


def test_it_ends_where_it_is_asked_to():
    """Nothing behind the offsets counts, and a conflict is seen whichever partitions the two are in."""
    topic = MemoryTopic(2)
    topic.logs[0] = records_of(account_stream("a", 4))
    topic.logs[1] = [(b"a", encode(recorded("a", 2, 11)))]
    assert asked(topic, {0: 3, 1: 0}, "a").rows()["version"].to_list() == [3]
    assert asked(topic, {0: 3, 1: 1}, "a").parked["a"].reason == "conflicting_repeat"
    assert asked(topic, {0: 3, 1: 1}).frame.is_empty()


@pytest.mark.parametrize(("reason", "error"), [("corrupt", RefusedError), ("unreachable", BrokerError)])
def test_a_partition_that_cannot_be_read_is_an_error(reason, error):
    """Nobody gets an opinion from half of the events: the error says where and why."""

    class Stopped(MemoryTopic):
        def read(self, partition: int, **_: object) -> Iterator[Chunk]:
            yield self.chunk(partition, 0, 1)
            raise PartitionStopped(partition, 1, reason, "the test says so")

    topic = Stopped()
    topic.logs[0] = records_of(account_stream("a", 4))
    with pytest.raises(error, match=reason) as caught:
        asked(topic, {0: 3}, "a")
    assert "partition 0, offset 1" in caught.value.where


def test_where_accounts_are_is_known_once_they_were_replayed() -> None:
    """An account is in the partition of all of its events, and in none where these are in several."""
    topic = MemoryTopic(2)
    topic.logs[0] = records_of(account_stream("a", 3))
    topic.logs[1] = records_of([*account_stream("b", 2), recorded("c", 2)])
    topic.logs[0] += records_of([*account_stream("c", 1)])
    homes: dict[str, int | None] = {}
    accounts = TopicAccounts(NOWHERE, "events", until={0: 4, 1: 3}, homes=homes)
    with patch("replay.topic.accounts.open_reader", lambda *_: opened(topic)):
        steps(accounts, ["a", "c", "nobody"], until={0: 4, 1: 3})
        assert homes == {"a": 0, "c": None}
        steps(accounts, ["b"], until={0: 4, 1: 3})
    assert homes == {"a": 0, "b": 1, "c": None}


def test_accounts_of_the_last_records_come_first() -> None:
    """Those of the newest records, some from further back, and none of records that are not asked for."""
    topic = MemoryTopic(1)
    names = [f"a{number:04}" for number in range(1_000)]
    topic.logs[0] = [record for name in names for record in records_of(account_stream(name, 1))]
    with patch("replay.topic.accounts.open_reader", lambda *_: opened(topic)):
        found = accounts_between(NOWHERE, "events", 0, 99, 900)
        assert found[:RECORDS_PER_LOOK] == names[900 - RECORDS_PER_LOOK : 900][::-1]
        assert set(found) <= set(names[100:900])
        assert min(found) < names[450]
        assert accounts_between(NOWHERE, "events", 0, 897, 900) == names[898:900][::-1]
        assert accounts_between(NOWHERE, "events", 0, 899, 900) == []
