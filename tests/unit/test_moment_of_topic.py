"""A topic as of a moment: checkpoints, accounts in several partitions, and the watermark."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from ledgers import append
from samples import START, opened, recorded
from topic_asked import CONNECTION, ask, held, publish_to, replay
from topic_memory import FakeReader

from ledger import Store
from replay import balances
from replay.moment import Moment
from replay.topic.partition import Assignment
from schemas import Event
from schemas.errors import UsageError

NOW = datetime(2026, 2, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: Version n happened and was recorded n minutes after the start.
EVENTS: list[Event] = [
    opened("alice"),
    opened("bob"),
    recorded("alice", 2, 100),
    recorded("bob", 2, 5),
    recorded("alice", 3, 7),
]
SECOND = START + timedelta(minutes=2)
MOMENTS = [None, Moment(effective=SECOND), Moment(recorded=SECOND), Moment(effective=SECOND, recorded=SECOND)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of two accounts that published all that it has."""
    store = Store.at(tmp_path / "data")
    append(store, *EVENTS)
    publish_to(store, len(EVENTS))
    yield store
    store.close()


@pytest.mark.parametrize("is_split", [False, True])
def test_a_topic_of_a_moment_is_the_store_of_it(store, is_split):
    """By each clock, for all accounts or one, also where an account is in several partitions."""
    for options in ({"as_of": SECOND}, {"recorded_as_of": SECOND}, {"as_of": SECOND, "recorded_as_of": NOW}):
        found = ask(store, held(EVENTS, is_split=is_split), now=NOW, **options)
        assert (found.verdict, found.watermark, found.certificate.events) == ("COMPLETE", NOW, len(EVENTS))
        assert found.rows["balance"].to_list() == [100, 5]
        expected = balances(store, now=NOW, **options)
        assert found.rows.equals(expected.rows)
        assert found.certificate.digest == expected.certificate.digest
        assert found.certificate.as_of == expected.certificate.as_of
    found = ask(store, held(EVENTS, is_split=is_split), ["alice"], now=NOW, as_of=START)
    assert (found.verdict, found.rows.height) == ("COMPLETE", 0)
    with pytest.raises(UsageError, match="nobody"):
        ask(store, held(EVENTS), ["nobody"], now=NOW, as_of=START)


@pytest.mark.parametrize("other", MOMENTS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_checkpoint_of_another_moment_is_not_taken(tmp_path, moment, other):
    """A run goes on only from a checkpoint of its own moment, though others are in the same folder."""
    with replay(held(EVENTS), moment=moment) as fresh:
        expected = fresh.certificate
    with replay(held(EVENTS), moment=other, folder=tmp_path):
        pass
    with replay(held(EVENTS), moment=moment, folder=tmp_path) as found:
        assert found.certificate.digest == expected.digest
        assert (found.certificate.resumed_from is not None) == (moment == other)


def test_an_interrupted_run_of_a_moment_goes_on(tmp_path):
    """What a partition's checkpoint holds back waits with the time that it was recorded at, and is counted by it."""
    late = [*EVENTS[:2], EVENTS[4], EVENTS[3]]
    moment = Moment(recorded=SECOND)
    with replay(held(late), moment=moment, folder=tmp_path) as found:
        assert [parked.account_id for parked in found.certificate.parked] == ["alice"]
    with replay(held([*late, EVENTS[2]]), moment=moment, folder=tmp_path) as found:
        assert found.certificate.resumed_from
        assert found.rows["balance"].to_list() == [100, 5]


def test_a_worker_is_told_the_moment():
    """An assignment is the same after its way to a worker process, to the microsecond."""
    moment = Moment(effective=SECOND + MICROSECOND, recorded=NOW)
    place = {"topic": "events", "topic_id": "id", "partition": 0, "first": 0, "until": 9}
    asked = Assignment(connection=CONNECTION, projections=[], folder="x", moment=moment, **place)
    assert msgspec.json.decode(msgspec.json.encode(asked), type=Assignment) == asked


@pytest.mark.parametrize("clock", ["as_of", "recorded_as_of"])
def test_what_is_not_published_yet_ends_the_watermark(store, clock):
    """The topic answers up to just before the first event that it misses was recorded, whatever place that has."""
    later = [msgspec.structs.replace(recorded("bob", 3), recorded_at=NOW - timedelta(days=1))]
    later += [msgspec.structs.replace(recorded("alice", 4), recorded_at=NOW - timedelta(days=2))]
    append(store, *later)
    missed = NOW - timedelta(days=2)
    for moment, verdict in ((missed - MICROSECOND, "COMPLETE"), (missed, "INCOMPLETE"), (NOW, "INCOMPLETE")):
        found = ask(store, held(EVENTS), now=NOW, **{clock: moment})
        assert (found.verdict, found.watermark) == (verdict, missed - MICROSECOND)
        assert found.rows.height == (2 if verdict == "COMPLETE" else 0)
    assert ask(store, held(EVENTS), now=NOW).verdict == "COMPLETE"


def test_a_quiet_topic_is_whole_until_now(store):
    """Where the topic has all that the store has, the moment now has an answer, and one after it has none."""
    assert ask(store, held(EVENTS), now=NOW, as_of=NOW).verdict == "COMPLETE"
    found = ask(store, held(EVENTS), now=NOW, as_of=NOW + MICROSECOND)
    assert (found.verdict, found.rows.height, found.watermark) == ("INCOMPLETE", 0, NOW)


def test_no_watermark_no_answer_as_of_a_moment(store, tmp_path):
    """Where nothing was published, something is lost, or a position cuts it off, no moment has an answer."""
    empty = Store.at(tmp_path / "empty")
    ends = FakeReader(held(EVENTS), 3, None).topic.partitions
    cut = {partition: bounds.high for partition, bounds in ends.items()}
    for found in (
        ask(empty, held(EVENTS), now=NOW, as_of=START),
        ask(store, held(EVENTS[:-1]), now=NOW, as_of=START),
        ask(store, held(EVENTS), now=NOW, as_of=START, at=cut),
    ):
        assert (found.verdict, found.rows.height, found.watermark) == ("INCOMPLETE", 0, None)
    assert ask(empty, held(EVENTS), now=NOW).verdict == "COMPLETE"
    empty.close()
