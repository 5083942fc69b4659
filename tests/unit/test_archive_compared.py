"""What comes more than once from a topic is compared with all that came before it, whenever that was read."""

from __future__ import annotations

from typing import Any

import pytest
from archives import archive_at, archived_topic
from followed import Topic, check_as_topic, follow_memory
from topic_memory import Sent

FIRST = [Sent(0, "a", 1), Sent(1, "b", 1), Sent(0, "a", 2)]


@pytest.mark.parametrize("partition", [0, 2])
@pytest.mark.parametrize("version", [1, 2])
def test_a_third_copy_is_compared_too(tmp_path, version, partition):
    """After a copy that was the same a follower finds the next one that is not, wherever it comes."""
    topic = Topic(
        FIRST,
        lambda it: it.send(Sent(0, "a", version)),
        lambda it: it.send(Sent(partition, "a", version, 11)),
        lambda it: it.send(Sent(1, "b", 2)),
    )
    follow_memory(tmp_path, topic)
    assert [each.verdict for each in topic.told] == ["COMPLETE"] * 2 + ["INCOMPLETE"] * 2
    assert [(each.account_id, each.reason) for each in topic.told[2].state.parked] == [("a", "conflicting_repeat")]
    check_as_topic(tmp_path, topic)
    # Nor does a run of its own forget it.
    assert archived_topic(archive_at(tmp_path), topic.sent).verdict == "INCOMPLETE"


def test_a_run_of_its_own_compares_a_third_copy(tmp_path):
    """What an earlier run compared and found the same is compared with what the next one reads."""
    sent = list(FIRST)
    verdicts = []
    for more in (Sent(0, "a", 2), Sent(2, "a", 2), Sent(1, "a", 2, 11), Sent(1, "b", 2)):
        sent.append(more)
        verdicts.append(archived_topic(archive_at(tmp_path), sent).verdict)
    assert verdicts == ["COMPLETE", "COMPLETE", "INCOMPLETE", "INCOMPLETE"]
    check_as_topic(tmp_path, Topic(sent))


def test_what_is_compared_is_not_read_again_while_nothing_comes_twice(tmp_path):
    """Where one account is not whole and another's copies were the same, a follower does not read it all again."""
    topic = Topic(
        [*FIRST, Sent(0, "a", 2, 11), Sent(1, "b", 1)],
        *[lambda it, n=n: it.send(Sent(1, "b", n)) for n in (2, 3)],
    )
    starts: list[int] = []
    read = topic.read

    def reading(partition: int, *, start: int, **options: Any) -> Any:
        starts.append(start)
        return read(partition, start=start, **options)

    topic.read = reading  # type: ignore[method-assign]
    follow_memory(tmp_path, topic)
    assert starts == [0, 0, 0] * 2 + [3, 2, 0] + [3, 3, 0]
    check_as_topic(tmp_path, topic)


@pytest.mark.parametrize("cause", ["told to stop", "stopped"])
def test_a_copy_is_compared_with_what_was_read_before(tmp_path, cause):
    """A run that reads a partition again from where an account waits, and ends early, compares with all of it."""
    sent = [Sent(0, "b", 2), Sent(0, "b", 3), Sent(0, "a", 1), Sent(0, "a", 2)]
    follow_memory(tmp_path, Topic(sent))
    sent.append(Sent(1, "a", 2, 11))
    if cause == "stopped":
        archived_topic(archive_at(tmp_path), sent, stop=(0, 2), chunk_records=2)
    else:
        topic = Topic(sent)
        topic.stops = True
        follow_memory(tmp_path, topic)
    sent.append(Sent(1, "b", 1))
    found = archived_topic(archive_at(tmp_path), sent)
    assert [(each.account_id, each.reason) for each in found.state.parked] == [("a", "conflicting_repeat")]
    check_as_topic(tmp_path, Topic(sent))
