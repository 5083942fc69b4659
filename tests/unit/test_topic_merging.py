"""A topic's replay put together from its partitions: what is not there is never taken for nothing."""

from __future__ import annotations

import pytest
from topic_memory import PARTITIONS, FakeReader, Sent, replay

from replay.topic.client import PartitionStopped
from replay.topic.workers import replay_partitions

SENT = [Sent(number % PARTITIONS, f"account-{number % PARTITIONS}", 1 + number // PARTITIONS) for number in range(30)]


@pytest.mark.parametrize("what", ["removed", "damaged", "of another partition"])
def test_a_checkpoint_that_is_taken_away_meanwhile(tmp_path, monkeypatch, what):
    """A partition whose result another run took away is unread, never a partition of nothing."""

    def replay_and_lose(*words, **options):
        outcomes = replay_partitions(*words, **options)
        files = sorted(tmp_path.glob("*.checkpoint"))
        assert len(files) == PARTITIONS
        if what == "removed":
            files[1].unlink()
        else:
            files[1].write_bytes(files[0].read_bytes() if what == "of another partition" else b"nothing")
        return outcomes

    monkeypatch.setattr("replay.topic.full_replay.replay_partitions", replay_and_lose)
    with replay(SENT, folder=tmp_path) as found:
        assert found.verdict == "INCOMPLETE"
        (unread,) = found.certificate.unread
        assert (unread.partition, unread.offset, unread.until) == (1, 0, 10)
        assert "again" in unread.details
        assert found.rows["account_id"].to_list() == ["account-0", "account-2"]
    monkeypatch.undo()
    with replay(SENT, folder=tmp_path) as found:
        assert found.verdict == "COMPLETE"
        assert found.rows.height == PARTITIONS


def test_no_checkpoint_folder_is_needed():
    """Without a folder nothing is kept, and the replay is the same."""
    with replay(SENT) as found:
        assert found.verdict == "COMPLETE"
        assert found.certificate.events == len(SENT)
        assert found.certificate.resumed_from is None


def test_a_second_run_goes_on_from_the_first(tmp_path):
    """Checkpoints stay until they are cleared, and say from where each partition went on."""
    with replay(SENT, folder=tmp_path, stop=(1, 6), chunk_records=2) as found:
        assert found.certificate.position == {0: 10, 1: 6, 2: 10}
    with replay(SENT, folder=tmp_path, stop=(1, 8), chunk_records=2) as found:
        assert found.certificate.resumed_from == {0: 10, 1: 6, 2: 10}
        assert found.certificate.position == {0: 10, 1: 8, 2: 10}
        assert found.verdict == "INCOMPLETE"
    with replay(SENT, folder=tmp_path) as found:
        assert (found.verdict, found.certificate.events) == ("COMPLETE", len(SENT))


def test_repeats_are_compared_as_far_as_a_partition_was_read(tmp_path):
    """Behind what stopped a partition nothing is looked at again: there is nothing to wait for a second time."""
    with replay([*SENT, SENT[1], SENT[4], SENT[7]], stop=(1, 12), folder=tmp_path, chunk_records=4) as found:
        (unread,) = found.certificate.unread
        assert (unread.partition, unread.offset, unread.until) == (1, 12, 13)
        assert found.certificate.repeats == 2
        assert found.rows["account_id"].to_list() == ["account-0", "account-2"]


def test_the_second_reading_stops_where_the_first_did(monkeypatch):
    """Comparing repeats asks for no offset that was not read."""
    asked = []
    read = FakeReader.read

    def noted(self, partition, *, start, until, waiting=None):
        asked.append((partition, start, until))
        return read(self, partition, start=start, until=until, waiting=waiting)

    monkeypatch.setattr(FakeReader, "read", noted)
    with replay([*SENT, SENT[1], SENT[4]], stop=(1, 11)):
        pass
    assert [each for each in asked if each[0] == 1] == [(1, 0, 12), (1, 0, 11)]


def test_repeats_that_cannot_be_compared_vouch_for_nothing(monkeypatch):
    """A partition that cannot be read a second time has no row, and the others have theirs."""
    read = FakeReader.read
    seen = set()

    def once(self, partition, *, start, until, waiting=None):
        if partition == 1 and partition in seen:
            raise PartitionStopped(partition, start, "gone", "the test says so")
        seen.add(partition)
        return read(self, partition, start=start, until=until, waiting=waiting)

    monkeypatch.setattr(FakeReader, "read", once)
    with replay([*SENT, SENT[1]]) as found:
        (unread,) = found.certificate.unread
        assert (unread.partition, unread.reason) == (1, "gone")
        assert found.verdict == "INCOMPLETE"
        assert found.rows["account_id"].to_list() == ["account-0", "account-2"]
