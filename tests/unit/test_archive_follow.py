"""An archiver that follows a store: it brings over what comes, moves its watermark, and heals with the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from archives import archive_at, check_exactly_once, commits_of, said, said_by_store
from ledgers import append, put_back, take_event
from samples import account_stream

from consumers.archiver import archive_store
from ledger import Store
from replay import StoreSource
from replay.archive.compaction import compact

START = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of one account."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5))
    yield store
    store.close()


class Script:
    """What happens to a store while it is followed: a step each time that the follower asks whether to stop."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)
        self.moment = START

    def should_stop(self) -> bool:
        """Do the next step; stop where there is none."""
        if not self._steps:
            return True
        self._steps.pop(0)()
        self.moment += timedelta(seconds=100)
        return False


def follow(folder: Path, store: Store, script: Script):
    """Follow a store until the script ends."""
    with commits_of(3):
        return archive_store(
            archive_at(folder),
            store,
            follow=True,
            now=lambda: script.moment,
            should_stop=script.should_stop,
            poll_seconds=0.001,
        )


def nothing() -> None:
    """Let time pass."""


def test_a_follower_brings_over_what_comes(tmp_path, store):
    """What is appended while it follows is archived once, and counted."""
    script = Script(*[lambda n=n: append(store, *account_stream(f"new-{n}", 4)) for n in range(4)], nothing, nothing)
    found = follow(tmp_path, store, script)
    assert (found.verdict, found.appended, found.state.events) == ("COMPLETE", 21, 21)
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


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
