"""Followers go on after the archive's place did not answer for a while, and end where it says no."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import obstore.exceptions
import pytest
from archives import archive_at, check_exactly_once, commits_of, said, said_by_store
from followed import START, Script, Topic, check_as_topic, follow, follow_memory, nothing
from ledgers import append
from samples import account_stream
from topic_memory import Sent

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.files import Files
from replay.archive.object_store import reaching
from replay.archive.table import Archive
from schemas.errors import ArchiveError

SENT = [Sent(number % 3, f"account-{number % 3}", 1 + number // 3) for number in range(12)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of one account."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5))
    yield store
    store.close()


class Outage:
    """An archive's place that fails at some of the calls of a method, counted from 1, before it does it or behind."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        where: tuple[type, str],
        at: Collection[int],
        *,
        is_done: bool = False,
        says_no: bool = False,
    ) -> None:
        self.calls = 0
        method: Callable[..., Any] = getattr(*where)

        def called(*given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls not in at:
                return method(*given, **named)
            if is_done:
                method(*given, **named)
            raise ArchiveError("the archive's object store failed: 503 Service Unavailable", says_no=says_no)

        monkeypatch.setattr(*where, called)


PLACES = {
    "read": ((Archive, "snapshot"), False),
    "file": ((Files, "put"), False),
    "commit": ((Archive, "commit"), False),
    "answer lost": ((Archive, "commit"), True),
}


@pytest.mark.parametrize("at", [range(2, 3), range(3, 6), range(4, 5)], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_follower_of_a_store_goes_on(tmp_path, store, monkeypatch, place, at):
    """Whatever fails, for once or for a while, everything is archived once in the end."""
    where, is_done = PLACES[place]
    outage = Outage(monkeypatch, where, at, is_done=is_done)
    steps = [lambda n=n: append(store, *account_stream(f"new-{n}", 4)) for n in range(4)]
    found = follow(tmp_path, store, Script(*steps, *[nothing] * 20))
    assert outage.calls > at.stop
    assert (found.verdict, found.state.events) == ("COMPLETE", 21)
    monkeypatch.undo()
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


@pytest.mark.parametrize("at", [range(2, 3), range(3, 6), range(4, 5)], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_follower_of_a_topic_goes_on(tmp_path, monkeypatch, place, at):
    """The same of a topic; it is said why it waits, and that it goes on."""
    where, is_done = PLACES[place]
    outage = Outage(monkeypatch, where, at, is_done=is_done)
    topic = Topic(SENT, *[lambda it, n=n: it.send(Sent(1, "b", n), Sent(0, "b", n)) for n in (1, 2, 3)])
    found = follow_memory(tmp_path, topic)
    assert outage.calls > at.stop
    assert (found.verdict, found.state.events) == ("COMPLETE", 15)
    words = "the archive is waited for: the archive's object store failed: 503 Service Unavailable"
    assert [each for each in topic.said if each] == [words] * len(at)
    assert topic.said[-1] == ""
    monkeypatch.undo()
    check_as_topic(tmp_path, topic)


class Clock:
    """A clock that only goes on where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def test_the_pauses_grow_and_begin_anew(tmp_path, store, monkeypatch):
    """Each in a row is twice the one before, up to half a minute; after a round that went well they begin anew."""
    clock = Clock()
    monkeypatch.setattr("consumers.archiver.time", clock)
    at: list[float] = []

    def waiting(words: str) -> None:
        if words:
            at.append(clock.now)

    failed = {*range(2, 11), 12, 13}
    outage = Outage(monkeypatch, (Archive, "commit"), failed)
    archive_store(
        archive_at(tmp_path),
        store,
        follow=True,
        now=lambda: datetime.fromtimestamp(START.timestamp() + 100 * clock.now, UTC),
        should_stop=lambda: outage.calls > 14,
        waiting=waiting,
        poll_seconds=0.5,
    )
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(at)]
    assert pauses[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    # Between the two there was a round that went well, with its own time.
    assert pauses[9:] == [0.5]
    assert len(at) == len(failed)


def test_a_stop_ends_the_waiting(tmp_path, store, monkeypatch):
    """Told to stop while it waits it does so in the middle of a pause, and says why nothing was archived."""
    clock = Clock()
    monkeypatch.setattr("consumers.archiver.time", clock)
    outage = Outage(monkeypatch, (Archive, "commit"), range(1, 1_000))
    with pytest.raises(ArchiveError, match="503"):
        archive_store(archive_at(tmp_path), store, follow=True, should_stop=lambda: clock.now >= 20, poll_seconds=0.5)
    assert 20 <= clock.now <= 20.5
    assert outage.calls == 6


def test_a_place_that_says_no_ends_a_follower(tmp_path, store, monkeypatch):
    """Waiting does not help there; nor is a run waited that does not follow, nor one that cannot begin."""
    outage = Outage(monkeypatch, (Archive, "commit"), range(2, 3), says_no=True)
    script = Script(*[lambda n=n: append(store, *account_stream(f"new-{n}", 4)) for n in range(4)])
    with pytest.raises(ArchiveError):
        follow(tmp_path, store, script)
    assert outage.calls == 2
    monkeypatch.undo()
    Outage(monkeypatch, (Archive, "commit"), range(2, 3), says_no=True)
    topic = Topic(SENT)
    with pytest.raises(ArchiveError):
        follow_memory(tmp_path / "topic", topic)
    assert topic.said == []
    monkeypatch.undo()
    outage = Outage(monkeypatch, (Archive, "commit"), range(1, 2))
    append(store, *account_stream("last", 2))
    with commits_of(3), pytest.raises(ArchiveError):
        archive_store(archive_at(tmp_path), store)
    monkeypatch.undo()
    Outage(monkeypatch, (Archive, "snapshot"), range(1, 2))
    with pytest.raises(ArchiveError):
        follow(tmp_path, store, Script(nothing))


@pytest.mark.parametrize(
    ("words", "says_no"),
    [
        (
            "Generic S3 error: Error performing PUT http://x in 1s - Server returned non-2xx status code: 503 Busy: ",
            False,
        ),
        ("Generic S3 error: Error performing GET http://x in 1s - HTTP error: error sending request", False),
        ("Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>", True),
        ("Server returned non-2xx status code: 401 Unauthorized: ", True),
        ("Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>", True),
        ("Error performing PUT http://169.254.169.254/latest/api/token in 1s", True),
    ],
)
def test_what_says_no_is_told_apart(words, says_no):
    """A place that is busy or away may be back; what is forbidden, or has no bucket or credentials, stays so."""
    with pytest.raises(ArchiveError) as raised, reaching("s3://bucket/archive", {}):
        raise obstore.exceptions.GenericError(words)
    assert raised.value.says_no is says_no
