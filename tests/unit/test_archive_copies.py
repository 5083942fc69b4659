"""An archive of a topic on which events came more than once: how often, and what it can tell at offsets between."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from archives import archive_at, archived_topic, commits_of, said
from topic_memory import Sent, replay

from replay.archive.answers import balances_from_archive
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive


def before(sent: list[Sent], at: dict[int, int]) -> list[Sent]:
    """Return the records before some offsets."""
    seen = dict.fromkeys(at, 0)
    found = []
    for record in sent:
        if seen[record.partition] < at[record.partition]:
            found.append(record)
        seen[record.partition] += 1
    return found


def check_every_place(folder: Path, sent: list[Sent]) -> set[str]:
    """Hold the archive at all offsets against the topic; return who was parked though the topic knows them."""
    ends = {partition: sum(record.partition == partition for record in sent) for partition in range(3)}
    doubted: set[str] = set()
    for offsets in product(*(range(end + 1) for end in ends.values())):
        at = dict(enumerate(offsets))
        answer = said(archive_at(folder), at=at)
        with replay(before(sent, at)) as expected:
            rows = {row["account_id"]: row for row in expected.rows.to_dicts()}
            assert answer.rows == {key: row for key, row in rows.items() if key not in answer.parked}, at
            assert set(expected.parked_ids) <= set(answer.parked), at
            assert answer.verdict == ("INCOMPLETE" if answer.parked else "COMPLETE")
            doubted |= set(answer.parked) - set(expected.parked_ids)
    return doubted


def test_two_places_in_one_partition(tmp_path):
    """The first one stands for both, so every offset is answered, also over runs with a hole that was filled."""
    sent = [Sent(0, "a", 1), Sent(0, "a", 1), Sent(0, "a", 3), Sent(0, "b", 1), Sent(0, "a", 3), Sent(0, "a", 2)]
    for end in (2, 4, 5, 6):
        with commits_of(1):
            archived_topic(archive_at(tmp_path), sent[:end], chunk_records=1)
    assert archive_at(tmp_path).snapshot().held.elsewhere == {}
    assert check_every_place(tmp_path, sent) == set()


def test_two_places_in_two_partitions(tmp_path):
    """Between them only the account is not answered; once both are read, and before, all are."""
    sent = [Sent(1, "a", 1), Sent(0, "b", 1), Sent(0, "a", 1), Sent(1, "a", 2), Sent(1, "a", 3), Sent(1, "c", 1)]
    archived_topic(archive_at(tmp_path), sent)
    assert archive_at(tmp_path).snapshot().held.elsewhere == {"a": 1}
    assert check_every_place(tmp_path, sent) == {"a"}
    compact(archive_at(tmp_path), file_events=2)
    assert check_every_place(tmp_path, sent) == {"a"}
    between = balances_from_archive(archive_at(tmp_path), ["a"], at={0: 0, 1: 1, 2: 0})
    (parked,) = between.certificate.parked
    assert (parked.account_id, parked.version, parked.reason) == ("a", 1, "place_unknown")
    for at in ({0: 2, 1: 1, 2: 0}, {0: 2, 1: 3, 2: 0}):
        assert balances_from_archive(archive_at(tmp_path), ["a"], at=at).verdict == "COMPLETE"
    assert balances_from_archive(archive_at(tmp_path), ["c"], at={0: 0, 1: 4, 2: 0}).verdict == "COMPLETE"


def test_the_later_place_was_read_first(tmp_path):
    """An event that waited, and came in another partition meanwhile, is taken from there: between them nobody knows."""
    sent = [Sent(1, "a", 2), Sent(0, "b", 1)]
    archived_topic(archive_at(tmp_path), sent)
    sent += [Sent(0, "a", 1), Sent(0, "a", 2)]
    archived_topic(archive_at(tmp_path), sent)
    assert archive_at(tmp_path).snapshot().held.elsewhere == {"a": 2}
    assert check_every_place(tmp_path, sent) == {"a"}


def test_an_event_that_waited_gives_way_to_another_place(tmp_path):
    """Where the gate takes a copy of another partition for one that waited, the place that it left counts too."""
    sent = [*(Sent(0, "b", version) for version in (1, 2, 3)), Sent(0, "a", 2), Sent(1, "a", 2), Sent(2, "a", 1)]
    archived_topic(archive_at(tmp_path), sent)
    assert archive_at(tmp_path).snapshot().held.elsewhere == {"a": 2}
    assert check_every_place(tmp_path, sent) == {"a"}


def test_a_partition_that_could_not_be_read_first(tmp_path):
    """What was taken from one partition, as another could not be read, is doubted at offsets between the two."""
    sent = [Sent(0, "a", 1), Sent(0, "b", 1), Sent(1, "b", 1), Sent(1, "c", 1)]
    archived_topic(archive_at(tmp_path), sent, stop=(1, 0))
    archived_topic(archive_at(tmp_path), sent)
    assert check_every_place(tmp_path, sent) == {"b"}


def test_the_first_place_was_let_go(tmp_path, monkeypatch):
    """Of events that were too many to be kept while they waited a later place may be taken, in the same partition."""
    monkeypatch.setattr("replay.gate.WAITING_EVENTS_MAX", 1)
    sent = [*(Sent(0, "a", version) for version in (2, 3, 4, 1, 2, 3, 4)), Sent(0, "b", 1)]
    archived_topic(archive_at(tmp_path), sent, chunk_records=1)
    found = archived_topic(archive_at(tmp_path), sent, chunk_records=1)
    assert found.verdict == "COMPLETE"
    monkeypatch.undo()
    assert check_every_place(tmp_path, sent) == {"a"}


def test_more_accounts_than_are_named(tmp_path, monkeypatch):
    """Where they are too many it may be any: who has more than was told is doubted, and nobody else."""
    monkeypatch.setattr("replay.archive.copies.ACCOUNTS_MAX", 1)
    sent = [Sent(place, name, 1) for place in (0, 1) for name in "ab"] + [Sent(2, "c", 1), Sent(2, "c", 2)]
    archived_topic(archive_at(tmp_path), sent)
    assert archive_at(tmp_path).snapshot().held.elsewhere is None
    assert check_every_place(tmp_path, sent) == {"a", "b", "c"}
    ends = archive_at(tmp_path).snapshot().held.position
    assert said(archive_at(tmp_path), at=ends).verdict == "COMPLETE"
    archived_topic(archive_at(tmp_path), [*sent, Sent(2, "d", 1)])
    assert archive_at(tmp_path).snapshot().held.elsewhere is None


REPEATS = [
    [Sent(0, "a", 1), Sent(0, "a", 1), Sent(0, "b", 1), Sent(1, "a", 1)],
    [Sent(0, "a", 3), Sent(0, "a", 3), Sent(1, "a", 3), Sent(0, "b", 1)],
    [Sent(0, "a", 3), Sent(0, "c", 2)],
    [Sent(1, "a", 2), Sent(0, "a", 2), Sent(0, "c", 2)],
    [Sent(0, "c", 1), Sent(0, "c", 1)],
]


@pytest.mark.parametrize("append_events", [1, 100])
def test_how_many_repeats_there_were(tmp_path, append_events):
    """A replay of all of the archive says what the topic says, over runs with holes; in parts it is not known."""
    sent: list[Sent] = []
    for some in REPEATS:
        sent += some
        with commits_of(append_events):
            archived_topic(archive_at(tmp_path), sent, chunk_records=1)
        for _ in range(2):
            with replayed_archive(archive_at(tmp_path)) as found, replay(sent) as expected:
                assert found.certificate.repeats == expected.certificate.repeats > 0
            compact(archive_at(tmp_path), file_events=3)
    for question in ({"account_ids": ["a"]}, {"at": archive_at(tmp_path).snapshot().held.position}):
        with replayed_archive(archive_at(tmp_path), **question) as found:
            assert found.certificate.repeats is None


def test_repeats_are_not_known_while_a_partition_cannot_be_read_again(tmp_path):
    """What waited in it may be a repeat or not, and is counted once it can be read."""
    sent = [Sent(0, "a", 2), Sent(0, "a", 2), Sent(1, "b", 1)]
    archived_topic(archive_at(tmp_path), sent, stop=None)
    archived_topic(archive_at(tmp_path), sent, stop=(0, 0))
    with replayed_archive(archive_at(tmp_path)) as found:
        assert found.certificate.repeats is None
    archived_topic(archive_at(tmp_path), sent)
    with replayed_archive(archive_at(tmp_path)) as found:
        assert found.certificate.repeats == 1
