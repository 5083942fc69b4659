"""An archiver that follows a store: it brings over what comes, moves its watermark, and heals with the store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from archives import archive_at, check_exactly_once, said, said_by_store
from followed import START, Script, Topic, check_as_topic, follow, follow_memory, nothing
from ledgers import append, put_back, take_event
from samples import account_stream
from topic_memory import Sent

from consumers.archiver import archive_store
from ledger import Store
from replay import StoreSource
from replay.archive.compaction import compact
from schemas.errors import BrokerError, BrokerRefused, RefusedError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of one account."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5))
    yield store
    store.close()


def test_a_follower_brings_over_what_comes(tmp_path, store):
    """What is appended while it follows is archived once, and counted."""
    script = Script(*[lambda n=n: append(store, *account_stream(f"new-{n}", 4)) for n in range(4)], nothing, nothing)
    found = follow(tmp_path, store, script)
    assert (found.verdict, found.appended, found.state.events) == ("COMPLETE", 21, 21)
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


def test_every_round_is_told(tmp_path, store):
    """Whoever follows hears of each round where the archive is then."""
    told: list[tuple[str, int, object]] = []
    script = Script(lambda: append(store, *account_stream("b", 4)), nothing, lambda: take_event(store, "b", 2), nothing)
    follow(tmp_path, store, script, lambda found: told.append((found.verdict, found.appended, found.state.position)))
    assert told[0] == ("COMPLETE", 5, 5)
    assert told[-1] == ("COMPLETE", 9, 9)


def test_a_quiet_store_moves_the_watermark_on(tmp_path, store):
    """While nothing happens the archive is known to hold all up to a newer moment."""
    script = Script(*[nothing] * 7)
    found = follow(tmp_path, store, script)
    assert found.state.watermark > START + timedelta(seconds=300)
    assert (found.appended, found.state.position) == (5, 5)


def test_a_follower_heals_with_the_store(tmp_path, store):
    """An account that lost its end while it was followed is whole again once the end is back."""
    lost = [take_event(store, "a", 3)]
    script = Script(
        nothing,
        lambda: append(store, *account_stream("b", 4)),
        lambda: compact(archive_at(tmp_path)),
        nothing,
    )
    # A compaction beside it moves the archive on: whoever follows goes on from there.
    follow(tmp_path, store, Script(nothing, lambda: compact_two_files(tmp_path, store), *[nothing] * 9))
    assert follow(tmp_path, store, script).state.parked[0].account_id == "a"
    found = follow(tmp_path, store, Script(nothing, lambda: put_back(store, lost.pop()), *[nothing] * 6))
    assert (found.verdict, found.state.parked) == ("COMPLETE", [])
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


def compact_two_files(folder: Path, store: Store) -> None:
    """Give the archive another file, and compact it."""
    append(store, *account_stream("a-new", 2))
    archive_store(archive_at(folder), store)
    compact(archive_at(folder))


def test_what_is_recorded_while_it_reads_is_not_vouched_for(tmp_path, store):
    """The watermark is a moment before the store was read, and never one that is still to come."""
    read: list[datetime] = []
    snapshot = StoreSource.snapshot

    def reading(*arguments: object, **options: object) -> object:
        read.append(datetime.now(UTC))
        return snapshot(*arguments, **options)

    with patch.object(StoreSource, "snapshot", reading):
        found = archive_store(archive_at(tmp_path), store)
    assert found.state.watermark <= read[0]
    ahead = archive_store(archive_at(tmp_path), store, now=lambda: datetime(2999, 1, 1, tzinfo=UTC))
    assert read[0] < ahead.state.watermark <= datetime.now(UTC)


FIRST = [Sent(0, "a", 1), Sent(1, "b", 1), Sent(0, "a", 2)]


def test_a_follower_of_a_topic_brings_over_what_comes(tmp_path):
    """What comes while it follows is archived once, repeats and what waits behind a hole too; each round is told."""
    topic = Topic(
        FIRST,
        lambda it: it.send(Sent(0, "a", 3), Sent(2, "c", 1), Sent(0, "a", 3)),
        lambda it: it.send(Sent(1, "b", 3), Sent(1, "b", 3), Sent(0, "a", 4)),
        lambda it: compact(archive_at(tmp_path)),
        lambda it: it.send(Sent(2, "c", 2)),
        lambda it: it.send(Sent(1, "b", 2), Sent(1, "b", 2)),
        lambda it: it.send(Sent(0, "a", 1, 11)),
        lambda it: it.send(Sent(0, "a", 5)),
    )
    found = follow_memory(tmp_path, topic)
    assert [each.verdict for each in topic.told] == ["COMPLETE"] * 2 + ["INCOMPLETE"] * 2 + ["COMPLETE"] + [
        "INCOMPLETE"
    ] * 2
    assert [each.appended for each in topic.told] == [3, 5, 6, 7, 9, 9, 10]
    assert [each.state.watermark for each in topic.told] == [START] * 2 + [None] * 2 + [START] + [None] * 2
    assert (found.appended, [each.account_id for each in found.state.parked]) == (10, ["a"])
    check_as_topic(tmp_path, topic)


def test_what_was_compared_is_not_read_again(tmp_path):
    """A follower reads a topic anew only where something came twice since."""
    topic = Topic(
        [*FIRST, Sent(0, "a", 2), Sent(0, "a", 2, 11)],
        *[lambda it, n=n: it.send(Sent(1, "b", n)) for n in (2, 3, 4)],
    )
    starts: list[int] = []
    read = topic.read

    def reading(partition: int, *, start: int, **options: Any) -> Any:
        starts.append(start)
        return read(partition, start=start, **options)

    topic.read = reading  # type: ignore[method-assign]
    follow_memory(tmp_path, topic)
    # Once to read it, once to compare it, in three partitions; then only what came.
    assert len(topic.told) == 4
    assert starts[3:6] == [0, 0, 0]
    assert starts[6:] == [4, 1, 0, 4, 2, 0, 4, 3, 0]
    check_as_topic(tmp_path, topic)


def test_an_open_transaction_does_not_stand_in_the_way(tmp_path):
    """What is committed is archived meanwhile; nothing is vouched for until all that was published is there."""

    def hold(topic: Topic) -> None:
        topic.held_at = 2
        topic.send(Sent(0, "a", 3), Sent(1, "b", 2))

    def let_go(topic: Topic) -> None:
        topic.held_at = None

    topic = Topic(FIRST, hold, let_go)
    found = follow_memory(tmp_path, topic)
    assert [each.appended for each in topic.told] == [3, 4, 5]
    assert [each.verdict for each in topic.told] == ["COMPLETE"] * 3
    assert [each.state.watermark for each in topic.told] == [START, None, START]
    assert found.state.position == {0: 3, 1: 2, 2: 0}
    check_as_topic(tmp_path, topic)


def test_a_watermark_that_moves_is_taken_over(tmp_path):
    """What the store says of the topic is news too, without one record more."""

    def know(topic: Topic) -> None:
        topic.mark, topic.watermark = 1, START + timedelta(hours=1)

    found = follow_memory(tmp_path, Topic(FIRST, know))
    assert found.state.watermark == START + timedelta(hours=1)


def test_a_partition_that_stops_is_named_and_read_later(tmp_path, monkeypatch):
    """While it cannot be read the others go on; it is tried again after a while."""
    monkeypatch.setattr("consumers.archiver.WATERMARK_SECONDS", 0)

    def stop(topic: Topic) -> None:
        topic.stop_at = (0, 2)
        topic.send(Sent(0, "a", 3), Sent(1, "b", 2))

    def go_on(topic: Topic) -> None:
        topic.stop_at = None

    topic = Topic(FIRST, stop, nothing_new, go_on)
    found = follow_memory(tmp_path, topic)
    assert [each.verdict for each in topic.told] == ["COMPLETE", "INCOMPLETE", "INCOMPLETE", "COMPLETE"]
    assert topic.told[1].unread == ["partition 0, offset 2: corrupt: the test says so"]
    assert found.appended == 5
    check_as_topic(tmp_path, topic)


def nothing_new(topic: Topic) -> None:
    """Let time pass."""


def test_brokers_that_do_not_answer_are_waited_for(tmp_path):
    """It says so and goes on; a refusal ends it, as does a topic that was made again."""

    def fail(topic: Topic) -> None:
        topic.fails = BrokerError("Kafka did not answer")
        topic.steps.insert(0, answer)

    def answer(topic: Topic) -> None:
        topic.fails = None
        topic.send(Sent(1, "b", 2))

    topic = Topic(FIRST, fail)
    assert follow_memory(tmp_path, topic).appended == 4
    assert topic.said == ["the topic cannot be looked at: Kafka did not answer"]

    def refuse(topic: Topic) -> None:
        topic.fails = BrokerRefused("Kafka refused")

    def make_again(topic: Topic) -> None:
        topic.topic_id = "other"

    with pytest.raises(BrokerRefused):
        follow_memory(tmp_path, Topic(topic.sent, refuse))
    with pytest.raises(RefusedError, match="was made again"):
        follow_memory(tmp_path, Topic(topic.sent, make_again))


def test_a_stop_ends_it_behind_the_batch_in_hand(tmp_path):
    """Told to stop while it reads it commits what it has, and says that nothing is missing up to there."""
    topic = Topic([Sent(0, "a", version) for version in range(1, 9)] + [Sent(1, "b", 1)])
    topic.stops = True
    found = follow_memory(tmp_path, topic)
    assert (found.verdict, found.appended, found.state.position) == ("COMPLETE", 3, {0: 2, 1: 1, 2: 0})
    assert found.state.watermark is None
    topic = Topic(topic.sent)
    found = follow_memory(tmp_path, topic)
    assert (found.appended, found.state.watermark) == (6, START)
    check_as_topic(tmp_path, topic)


def test_events_that_waited_too_long_are_read_again(tmp_path, monkeypatch):
    """Where more wait than are kept, the follower reads them again once what they waited for is there."""
    monkeypatch.setattr("replay.gate.WAITING_EVENTS_MAX", 1)
    late = [Sent(0, "a", version) for version in (2, 3, 4)]
    topic = Topic(late, lambda it: it.send(Sent(0, "a", 1)), lambda it: it.send(Sent(1, "b", 1)))
    assert follow_memory(tmp_path, topic).verdict == "COMPLETE"
    monkeypatch.undo()
    check_as_topic(tmp_path, topic)


def test_a_stop_while_it_reads_again_forgets_nothing(tmp_path):
    """What is known of a part that was to be read again still counts where the stop came before it."""
    sent = [Sent(0, "x", 0), *(Sent(0, "b", version) for version in (1, 2, 3)), Sent(0, "y", 0)]
    assert [each.account_id for each in follow_memory(tmp_path, Topic(sent)).state.parked] == ["x", "y"]
    topic = Topic(sent)
    topic.stops = True
    found = follow_memory(tmp_path, topic)
    assert [each.account_id for each in found.state.parked] == ["x", "y"]
    assert len(found.state.poison) == 2


def test_what_was_compared_once_is_not_doubted_later(tmp_path):
    """Where copies cannot be read any more, only those wait that came since."""

    def stop(topic: Topic) -> None:
        topic.stop_at = (0, 1)
        topic.send(Sent(1, "b", 1))

    topic = Topic([*FIRST, Sent(0, "a", 2)], stop)
    found = follow_memory(tmp_path, topic)
    assert topic.told[0].verdict == "COMPLETE"
    assert [(each.account_id, each.reason) for each in found.state.parked] == [("b", "repeat_not_compared")]
