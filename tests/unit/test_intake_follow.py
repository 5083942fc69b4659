"""A follower of a topic of rows says what it cannot read, waits for what comes back, and ends where nothing will."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from imports import NOW

from consumers import intake
from consumers.intake import Ended, TopicRows, import_from_topic
from ledger import Store
from ledger.importing import Mapping
from replay.topic.client import Chunk, PartitionStopped, Reason
from replay.topic.connection import Connection
from replay.topic.metadata import Bounds, Topic

#: After so many rounds the follower is told to stop.
ROUNDS = 6


class _Stopping:
    """A reader that gives nothing but the next of some reasons, round by round, the last of them for ever."""

    def __init__(self, reasons: list[Reason]) -> None:
        self.reasons = reasons
        self.rounds = 0

    def read(self, partition: int, *, start: int, until: int, waiting: Any = None) -> Iterator[Chunk]:
        """Stop at the first offset."""
        reason = self.reasons[min(self.rounds, len(self.reasons) - 1)]
        self.rounds += 1
        raise PartitionStopped(partition, start, reason, f"it is {reason}")
        yield  # What makes it a generator, as readers are.


def _follow(
    store: Store, monkeypatch: pytest.MonkeyPatch, reasons: list[Reason], *, first: int = 0, quiet_seconds: float = 0.0
) -> tuple[Ended, list[str], int]:
    """Follow a topic of one partition that is never read; return the end, what was said, and how many rounds."""
    reader, said = _Stopping(reasons), []
    topic = Topic(name="rows", topic_id="id", partitions={0: Bounds(first, 9, 9)}, settings={})

    def opened(connection: Connection, name: str) -> AbstractContextManager[_Stopping]:
        return nullcontext(reader)

    monkeypatch.setattr(intake, "topic_of_rows", lambda connection, name: topic)
    monkeypatch.setattr(intake, "open_reader", opened)
    monkeypatch.setattr(intake, "QUIET_SECONDS", quiet_seconds)
    rows = TopicRows(
        Connection(bootstrap_servers="nowhere:1"),
        "rows",
        "json",
        waiting=said.append,
        should_stop=lambda: reader.rounds >= ROUNDS,
    )
    ended = import_from_topic(
        store,
        rows,
        mapping=Mapping(),
        now=lambda: NOW,
        rejects=Path(str(store.url.database)).with_name("rejects.csv"),
        follow=True,
        poll_seconds=0.0,
    )
    return ended, said, reader.rounds


@pytest.mark.parametrize("reason", ["unreadable", "corrupt", "gone"])
def test_what_does_not_mend_itself_ends_a_follower(
    reason: Reason, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that this client may not read, or that is damaged, ends it at once and is named: INCOMPLETE."""
    ended, _, rounds = _follow(store, monkeypatch, [reason])
    assert (ended.verdict, rounds) == ("INCOMPLETE", 1)
    assert [(part.reason, part.details) for part in ended.unread] == [(reason, f"it is {reason}")]


def test_what_a_follower_waits_for_is_said_once_for_as_long_as_it_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason to wait is said in the round in which it comes up, and again only where it was gone between."""
    reasons: list[Reason] = ["unreachable", "unreachable", "stalled", "unreachable"]
    ended, said, rounds = _follow(store, monkeypatch, reasons)
    assert rounds == ROUNDS
    assert [words.partition("it is ")[2] for words in said] == ["unreachable", "stalled", "unreachable"]
    assert said[0].startswith("not read: partition 0 at offset 0")
    assert ended.verdict == "INCOMPLETE"


def test_a_short_transaction_is_not_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an open transaction holds is said only once that has lasted."""
    ended, said, _ = _follow(store, monkeypatch, ["stalled"], quiet_seconds=60.0)
    assert (said, ended.verdict) == ([], "OK")


def test_a_follower_says_that_the_first_records_are_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that begins above its first offset does not end a follower; it is said, and in its end."""
    ended, said, rounds = _follow(store, monkeypatch, ["unreachable"], first=4)
    assert rounds == ROUNDS
    assert any("the records before it were deleted" in words for words in said)
    assert [(part.offset, part.reason) for part in ended.unread] == [(4, "deleted"), (4, "unreachable")]
