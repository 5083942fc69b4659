"""An archive of a topic is held against what the store published there, and says what it could not read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from archives import archive_at, archived_topic, commits_of, said
from topic_memory import Sent, replay

from replay.archive.full_replay import replayed_archive
from replay.topic.full_replay import Published

WATERMARK = datetime(2026, 1, 1, tzinfo=UTC)
SENT = [Sent(number % 2, f"account-{number % 2}", 1 + number // 2, 10 + number) for number in range(10)]


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """Where the accounts ended, and their chains, when all of it was published."""
    with replay(SENT) as found:
        ends = found.gate.last.select("account_id", "version", "chain")
    assert ends["chain"].null_count() == 0
    return Published(ends, ends)


DAMAGE = {
    "changed": [*SENT[:4], Sent(0, "account-0", 3, 999), *SENT[5:]],
    "end lost": SENT[:8] + SENT[9:],
    "account lost": [each for each in SENT if each.partition],
}


@pytest.mark.parametrize("append_events", [2, 1_000])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_differs_from_what_was_published_is_parked(tmp_path, published, damage, append_events):
    """A digit that was changed on the topic, an end or an account that it lost: named, and nothing is vouched for."""
    with commits_of(append_events):
        found = archived_topic(archive_at(tmp_path), DAMAGE[damage], published=published, watermark=lambda: WATERMARK)
    assert (found.verdict, found.state.watermark) == ("INCOMPLETE", None)
    assert [(each.account_id, each.reason) for each in found.state.parked] == [("account-0", "head_mismatch")]
    answer = said(archive_at(tmp_path))
    assert (answer.verdict, answer.parked, list(answer.rows)) == ("INCOMPLETE", ["account-0"], ["account-1"])


def test_what_was_published_is_whole(tmp_path, published):
    """The same events are COMPLETE, in one run or in two, and known up to the watermark."""
    for part in (SENT[:6], SENT):
        found = archived_topic(archive_at(tmp_path), part, watermark=lambda: WATERMARK)
    again = archived_topic(archive_at(tmp_path), SENT, published=published, watermark=lambda: WATERMARK)
    assert (found.verdict, again.verdict, again.state.watermark) == ("COMPLETE", "COMPLETE", WATERMARK)


def test_a_partition_that_could_not_be_read_withholds_its_accounts(tmp_path):
    """What they did later is not known, until it is read; up to a position it is."""
    found = archived_topic(archive_at(tmp_path), SENT, stop=(0, 3))
    assert found.verdict == "INCOMPLETE"
    answer = said(archive_at(tmp_path))
    assert (answer.verdict, list(answer.rows)) == ("INCOMPLETE", ["account-1"])
    with replayed_archive(archive_at(tmp_path)) as replayed_:
        assert [(each.partition, each.offset) for each in replayed_.certificate.unread] == [(0, 3)]
    at = said(archive_at(tmp_path), at=found.state.position)
    assert (at.verdict, at.rows["account-0"]["version"]) == ("COMPLETE", 3)
    archived_topic(archive_at(tmp_path), SENT)
    assert said(archive_at(tmp_path)).verdict == "COMPLETE"


def test_a_file_that_changes_under_an_open_archive_is_looked_at_again(tmp_path):
    """Whoever keeps an archive open does not answer from a file that was written to since, or is gone."""
    archived_topic(archive_at(tmp_path), SENT)
    opened = archive_at(tmp_path)
    assert said(opened).verdict == "COMPLETE"
    (path,) = (tmp_path / "archive").glob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert said(opened).verdict == "INCOMPLETE"
    path.write_bytes(whole)
    assert said(opened).verdict == "COMPLETE"
    path.unlink()
    assert said(opened).verdict == "INCOMPLETE"
