"""An archiver or a compaction that stops between any two steps is finished by the next run, exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import obstore
import pytest
from archives import archive_at, archived_topic, check_exactly_once, commits_of, said, said_by_store
from deltalake import DeltaTable
from ledgers import append, lose_event
from topic_cases import history
from topic_memory import Sent, replay

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.compaction import compact
from schemas.errors import IncompleteError, UsageError

EVENTS = 60
SENT = [Sent(number % 3, f"account-{number % 3}", 1 + number // 3, 10 + number) for number in range(30)]


class Crash(BaseException):
    """The process ends here."""


class Step(NamedTuple):
    """A call that makes something last: where it is looked up, and whether the crash comes before or after it."""

    owner: Any
    name: str
    is_after: bool


STEPS = {
    f"{'after' if is_after else 'before'} {name}": Step(owner, name, is_after)
    for owner, name in (
        (obstore, "put"),
        (DeltaTable, "create"),
        (DeltaTable, "create_write_transaction"),
        (Path, "write_bytes"),
        (Path, "replace"),
    )
    for is_after in (False, True)
}


@contextmanager
def crashing(step: Step, number: int) -> Iterator[list[int]]:
    """Crash at the call of that number, from 1; yields how many calls there were."""
    real, calls = getattr(step.owner, step.name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not step.is_after:
            raise Crash
        result = real(*arguments, **options)
        if calls[0] == number:
            raise Crash
        return result

    with patch.object(step.owner, step.name, call):
        yield calls


def crashed_everywhere(run: Callable[[], Any], step: Step, check: Callable[[], None]) -> int:
    """Run again and again, each time crashing one call later, until a run comes to its end; return the crashes."""
    for number in range(1, 100):
        try:
            with crashing(step, number):
                run()
        except Crash:
            check()
            continue
        return number - 1
    raise AssertionError("no run came to its end")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of 60 events of eight accounts."""
    store = Store.at(tmp_path)
    append(store, *history(8, EVENTS))
    yield store
    store.close()


def check_between(folder: Path) -> None:
    """Check that what is there after a crash is nothing, or unfinished and said to be so, or right."""
    found = archive_at(folder).snapshot()
    if found is not None and found.state is not None:
        check_exactly_once(archive_at(folder))
    try:
        answer = said(archive_at(folder))
    except (IncompleteError, UsageError) as error:
        assert "did not come to its end" in str(error) or "there is no archive" in str(error)  # noqa: PT017 - it may be whole.
    else:
        assert answer.verdict == "COMPLETE"


@pytest.mark.parametrize("step", STEPS)
def test_an_archiver_that_stops_at_any_step(tmp_path, store, step):
    """Crashed at every step of every commit in turn, the next run goes on, and each event is there once."""

    def run() -> None:
        with commits_of(7):
            archive_store(archive_at(tmp_path), store)

    crashes = crashed_everywhere(run, STEPS[step], lambda: check_between(tmp_path))
    # Whatever is made once for a table is crashed at once; a crash after a commit leaves less to do.
    assert crashes >= 1
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


@pytest.mark.parametrize("step", [step for step in STEPS if not step.endswith("create")])
def test_a_compaction_that_stops_at_any_step(tmp_path, store, step):
    """Crashed at every step, the archive is what it was or compacted, and the next compaction finishes it."""
    with commits_of(7):
        archive_store(archive_at(tmp_path), store)
    truth = said_by_store(store)

    def check() -> None:
        assert said(archive_at(tmp_path)) == truth
        check_exactly_once(archive_at(tmp_path))

    crashes = crashed_everywhere(lambda: compact(archive_at(tmp_path), file_events=20), STEPS[step], check)
    assert crashes >= 1
    check()
    bounds = sorted((file.first_account, file.last_account) for file in archive_at(tmp_path).snapshot().files)
    assert all(left[1] < right[0] for left, right in pairwise(bounds))
    assert archive_store(archive_at(tmp_path), store).appended == 0
    check()


@pytest.mark.parametrize("step", STEPS)
def test_an_archiver_of_a_topic_that_stops_at_any_step(tmp_path, step):
    """Of a topic too: crashed at every step in turn, with accounts waiting, each event is there once."""
    # The first event of each account comes last.
    sent = [*SENT[3:], *SENT[:3]]

    crashes = 0
    for some in (sent[:20], sent):

        def run(some: list[Sent] = some) -> None:
            with commits_of(4):
                archived_topic(archive_at(tmp_path), some, chunk_records=2)

        crashes += crashed_everywhere(run, STEPS[step], lambda: check_parts(tmp_path))
    assert crashes >= 1
    check_exactly_once(archive_at(tmp_path))
    with replay(sent) as expected:
        assert said(archive_at(tmp_path)).digest == expected.certificate.digest


def check_parts(folder: Path) -> None:
    """Check that no event is there twice after a crash."""
    found = archive_at(folder).snapshot()
    if found is not None and found.state is not None:
        check_exactly_once(archive_at(folder))


def test_an_unfinished_run_vouches_for_nothing(tmp_path, store):
    """An account whose end is lost is not vouched for by a run that stopped before it came to look at the ends."""
    lost = {row["account_id"]: row["version"] for row in said_by_store(store).rows.values()}["account-1"]
    lose_event(store, "account-1", lost)
    with commits_of(7), patch("replay.archive.appending.Appending.conclude", side_effect=Crash), pytest.raises(Crash):
        archive_store(archive_at(tmp_path), store)
    assert archive_at(tmp_path).snapshot().state.parked == []
    for at in (None, 5):
        with pytest.raises(IncompleteError, match="did not come to its end"):
            said(archive_at(tmp_path), at=at)
    compact(archive_at(tmp_path), file_events=20)
    with pytest.raises(IncompleteError, match="did not come to its end"):
        said(archive_at(tmp_path))
    assert archive_store(archive_at(tmp_path), store).verdict == "INCOMPLETE"
    assert said(archive_at(tmp_path)) == said_by_store(store)
    assert said(archive_at(tmp_path)).parked == ["account-1"]
