"""Several processes at one archive: one wins or all in turn, and none corrupts it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest.mock import patch

import pytest
from archives import archive_at, archived_topic, check_exactly_once, commits_of, said, said_by_store, topics_in_memory
from deltalake import DeltaTable
from ledgers import append
from samples import account_stream
from topic_cases import history
from topic_memory import Sent, replay

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.answers import balances_from_archive
from replay.archive.appending import Appending, Origin
from replay.archive.compaction import compact
from replay.archive.table import Archive
from schemas.errors import PositionMoved

ROUNDS = 6


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of 60 events of eight accounts."""
    store = Store.at(tmp_path)
    append(store, *history(8, 60))
    yield store
    store.close()


def together(*works: Callable[[], Any]) -> list[Any]:
    """Do all at once, and return what each gave or PositionMoved; anything else that is raised is raised."""
    barrier = Barrier(len(works))

    def do(work: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return work()
        except PositionMoved as error:
            return error

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(do, works))


@pytest.mark.parametrize("append_events", [3, 1_000])
def test_archivers_at_once(tmp_path, store, append_events):
    """In every round at least one comes to its end or goes on later, and each event is there once."""
    with commits_of(append_events):
        for number in range(ROUNDS):
            outcomes = together(*[lambda: archive_store(archive_at(tmp_path), store)] * 3)
            moved = [outcome for outcome in outcomes if isinstance(outcome, PositionMoved)]
            assert all("run it again" in str(error) for error in moved)
            archive_store(archive_at(tmp_path), store)
            check_exactly_once(archive_at(tmp_path))
            assert said(archive_at(tmp_path)) == said_by_store(store)
            append(store, *account_stream(f"new-{number}", 9))


def test_one_of_two_that_began_together_is_told(tmp_path, store):
    """Both read the same position; the second to commit is told so, and nothing of it counts."""
    origin = Origin("store", store.ledger_id, store.ledger_id)
    archive_store(archive_at(tmp_path), store)
    append(store, *account_stream("new", 9))
    late = Appending(archive_at(tmp_path), origin)
    assert archive_store(archive_at(tmp_path), store).appended == 9
    truth = said_by_store(store)
    with pytest.raises(PositionMoved, match="run it again"):
        conclude(late, store)
    assert said(archive_at(tmp_path)) == truth
    check_exactly_once(archive_at(tmp_path))


def conclude(target: Appending, store: Store) -> None:
    """Read a store to its head into a target."""
    from replay.engine import run
    from replay.store_source import StoreSource

    with StoreSource.snapshot(store, batch_events=2) as source:
        target.passed()
        run(source, target, after=target.start(), until=source.head())
        target.conclude(target.judged(source.ends(source.head()), source.copies), watermark=None)


def test_two_that_both_begin_an_archive(tmp_path, store):
    """Where there is none yet, one makes it, and the other is told."""
    late = Appending(archive_at(tmp_path), Origin("store", store.ledger_id, store.ledger_id))
    archive_store(archive_at(tmp_path), store)
    with pytest.raises(PositionMoved):
        conclude(late, store)
    assert said(archive_at(tmp_path)) == said_by_store(store)


@pytest.mark.parametrize("rival", ["archiver", "compaction"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_rival_between_a_commit_and_the_look_at_it(tmp_path, store, rival, number):
    """Whoever comes in right after a commit is noticed, and what was appended is not appended again."""
    archive_store(archive_at(tmp_path), store)
    append(store, *account_stream("b", 6), *account_stream("c", 6))
    mine, calls = archive_at(tmp_path), [0]
    real = Archive.snapshot

    def snapshot(archive: Archive) -> Any:
        if archive is mine:
            calls[0] += 1
            if calls[0] == 1 + number:
                other = archive_at(tmp_path)
                archive_store(other, store) if rival == "archiver" else compact(other)
        return real(archive)

    with commits_of(4), patch.object(Archive, "snapshot", snapshot), pytest.raises(PositionMoved):
        archive_store(mine, store)
    assert calls[0] == 1 + number
    check_exactly_once(archive_at(tmp_path))
    archive_store(archive_at(tmp_path), store)
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


@pytest.mark.parametrize("seed", range(3))
def test_archiver_against_compaction(tmp_path, store, seed):
    """In many rounds of both at once the loser is told, and digest and rows stay those of the store."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    outcomes = []
    for number in range(ROUNDS):
        append(store, *account_stream(f"account-{number}-new", chance.randrange(1, 12)))
        with commits_of(chance.choice([1, 3, 50])):
            outcomes += together(
                lambda: archive_store(archive_at(tmp_path), store),
                lambda: compact(archive_at(tmp_path), file_events=chance.choice([1, 20, 1_000])),
                lambda: archive_store(archive_at(tmp_path), store),
            )
            archive_store(archive_at(tmp_path), store)
        check_exactly_once(archive_at(tmp_path))
        assert said(archive_at(tmp_path)) == said_by_store(store)
    assert any(not isinstance(outcome, PositionMoved) for outcome in outcomes)


def test_a_compaction_goes_on_over_what_was_appended_meanwhile(tmp_path, store):
    """Events that came while it sorted are kept, and its own files still take the place of the old ones."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    old = {file.name for file in archive_at(tmp_path).snapshot().files}
    append(store, *account_stream("meanwhile", 5))
    compact(archive_at(tmp_path), progress=once(lambda: archive_store(archive_at(tmp_path), store)))
    names = {file.name for file in archive_at(tmp_path).snapshot().files}
    assert len(names) == 2
    assert not old & names
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


def test_two_compactions(tmp_path, store):
    """A compaction whose files were replaced meanwhile is told, and changes nothing."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    with pytest.raises(PositionMoved):
        compact(archive_at(tmp_path), progress=once(lambda: compact(archive_at(tmp_path), file_events=20)))
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)


def once(work: Callable[[], Any]) -> Callable[[int, int | None], None]:
    """Return what does some work the first time that progress is told."""
    works = [work]

    def progress(*_: object) -> None:
        if works:
            works.pop()()

    return progress


def test_archivers_of_a_topic_at_once(tmp_path):
    """Of a topic too: whoever wins, each event is there once."""
    sent = [Sent(number % 3, f"account-{number % 3}", 1 + number // 3) for number in range(30)]
    # Held here, as threads that end would put back what others still need.
    with commits_of(4), topics_in_memory():
        for end in (10, 20, 30):
            together(*[lambda end=end: archived_topic(archive_at(tmp_path), sent[:end])] * 3)
            archived_topic(archive_at(tmp_path), sent[:end])
            check_exactly_once(archive_at(tmp_path))
    with replay(sent) as expected:
        assert said(archive_at(tmp_path)).digest == expected.certificate.digest


@pytest.mark.parametrize("rival", ["archiver", "compaction"])
def test_a_reader_beside_a_writer(tmp_path, store, rival):
    """A commit between opening the table and reading what it says is no damage: the answer is that of before."""
    with commits_of(10):
        archive_store(archive_at(tmp_path), store)
    truth = said_by_store(store)
    append(store, *account_stream("new", 9))
    works = [
        lambda: archive_store(archive_at(tmp_path), store) if rival == "archiver" else compact(archive_at(tmp_path))
    ]

    def opened(*words: Any, **options: Any) -> DeltaTable:
        table = DeltaTable(*words, **options)
        if works:
            works.pop()()
        return table

    reader = archive_at(tmp_path)
    with patch("replay.archive.files.DeltaTable", opened):
        assert said(reader) == truth
    assert not works
    assert said(archive_at(tmp_path)) == (said_by_store(store) if rival == "archiver" else truth)


def test_the_memory_of_the_version_never_goes_back(tmp_path, store):
    """A process that comes late to write down its version leaves the newer one there."""
    late = archive_at(tmp_path)
    first = archive_store(late, store)
    found = late.snapshot()
    append(store, *account_stream("new", 5))
    assert archive_store(archive_at(tmp_path), store).version > first.version
    newest = (tmp_path / "archive.json").read_bytes()
    late._expect(found)
    assert (tmp_path / "archive.json").read_bytes() == newest


@pytest.mark.parametrize("remembers", [True, False])
def test_an_archive_that_was_made_anew_while_open(tmp_path, store, remembers):
    """Whoever has an archive open sees the one that was made in its place, even at the same version."""
    append(store, *account_stream("first", 5))
    archive_store(archive_at(tmp_path), store)
    reader = archive_at(tmp_path)
    if not remembers:
        reader._expected = None
    assert balances_from_archive(reader, ["first"]).rows.height == 1
    version = reader.snapshot().version
    shutil.rmtree(tmp_path / "archive")
    (tmp_path / "archive.json").unlink()
    append(store, *account_stream("second", 5))
    archive_store(archive_at(tmp_path), store)
    assert archive_at(tmp_path).snapshot().version == version
    answer = balances_from_archive(reader, ["second"])
    assert (answer.verdict, answer.rows.height) == ("COMPLETE", 1)
