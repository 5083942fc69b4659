"""Accounts that an archive holds back: named as the source names them, and whole once the source is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from archives import archive_at, archived_topic, check_exactly_once, commits_of, keys_of, said, said_by_store
from ledgers import append, change_event, lose_head, positions, put_back, take_event, write_history
from samples import account_stream
from sqlalchemy import insert, select
from topic_memory import Sent, replay

from consumers.archiver import archive_store
from ledger import Store
from ledger.tables import EVENTS, HEADS
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive
from replay.topic.client import PartitionStopped
from replay.topic.source import PartitionSource

#: The account that is hurt: it has eight events, as every other one.
HURT = "acc-2"
LAST = 8
HEALERS = ("in its place", "at the end")


class Damage(NamedTuple):
    """Versions that are taken away or spoilt, and what must be said of the account."""

    lost: tuple[int, ...]
    spoilt: tuple[int, ...]
    reason: str
    version: int


DAMAGES = {
    "hole": Damage((4,), (), "version_gap", 4),
    "holes": Damage((2, 3, 6), (), "version_gap", 2),
    "first": Damage((1,), (), "version_gap", 1),
    "tail": Damage((LAST,), (), "head_mismatch", LAST),
    "long tail": Damage((6, 7, LAST), (), "head_mismatch", 6),
    "all": Damage(tuple(range(1, LAST + 1)), (), "head_mismatch", 1),
    "poison": Damage((), (3,), "poison_event", 3),
    "last poison": Damage((), (LAST,), "poison_event", LAST),
    "two poisons": Damage((), (2, 6), "poison_event", 2),
    "hole before poison": Damage((3,), (5,), "poison_event", 5),
    "poison before hole": Damage((6,), (2,), "poison_event", 2),
    "poison before lost tail": Damage((LAST,), (5,), "poison_event", 5),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a history of two accounts."""
    store = Store.at(tmp_path)
    write_history(store, accounts=2)
    yield store
    store.close()


def hurt(store: Store, damage: Damage) -> Callable[[str], None]:
    """Do the damage, and return what mends it: with lost rows in their places, or appended at the end."""
    rows = [take_event(store, HURT, version) for version in damage.lost]
    states: dict[int, bytes] = {}
    for version in damage.spoilt:
        with store.snapshot() as connection:
            is_it = (EVENTS.c.originator_id == HURT) & (EVENTS.c.originator_version == version)
            states[version] = connection.execute(select(EVENTS.c.state).where(is_it)).scalar_one()
        change_event(store, HURT, version, state=b"\xff" + states[version][1:])

    def heal(how: str) -> None:
        for version, state in states.items():
            change_event(store, HURT, version, state=state)
        for row in rows:
            if how == "at the end":
                put_back(store, row)
            else:
                with store.appending() as connection:
                    connection.execute(insert(EVENTS).values(row))

    return heal


def run(folder: Path, store: Store, append_events: int) -> Any:
    """Bring the archive up to date as a process of its own would."""
    with commits_of(append_events):
        return archive_store(archive_at(folder), store)


def check_as_store(folder: Path, store: Store) -> None:
    """Check that the archive says what the store says, compacted or not."""
    assert said(archive_at(folder)) == said_by_store(store)
    check_exactly_once(archive_at(folder))


def check_healed(folder: Path, store: Store) -> None:
    """Check that the archive is whole, and is what a fresh archive is."""
    check_as_store(folder, store)
    assert said(archive_at(folder)).verdict == "COMPLETE"
    archive_store(archive_at(folder / "fresh"), store)
    assert keys_of(archive_at(folder / "fresh")).equals(keys_of(archive_at(folder)))
    assert archive_at(folder).snapshot().state.parked == []
    assert archive_at(folder).snapshot().state.repeats == {}


@pytest.mark.parametrize("how", HEALERS)
@pytest.mark.parametrize("what", DAMAGES)
def test_a_hurt_account_is_named_and_healed(tmp_path, store, what, how):
    """Over runs with compaction and new events between, the archive parks what the store parks, and heals with it."""
    damage, append_events = DAMAGES[what], 2
    heal = hurt(store, damage)
    for number in range(3):
        found = run(tmp_path, store, append_events)
        assert found.verdict == "INCOMPLETE"
        (parked,) = found.state.parked
        assert (parked.account_id, parked.version, parked.reason) == (HURT, damage.version, damage.reason)
        check_as_store(tmp_path, store)
        if number == 1:
            compact(archive_at(tmp_path), file_events=9)
            check_as_store(tmp_path, store)
        append(store, *account_stream(f"new-{number}", 4))
    heal(how)
    assert run(tmp_path, store, append_events).verdict == "COMPLETE"
    check_healed(tmp_path, store)
    compact(archive_at(tmp_path), file_events=9)
    check_healed(tmp_path, store)


@pytest.mark.parametrize("how", HEALERS)
def test_healed_while_nothing_else_happened(tmp_path, store, how):
    """Mended without one new event after it, the next run makes the archive whole."""
    heal = hurt(store, DAMAGES["hole"])
    run(tmp_path, store, 1_000)
    heal(how)
    assert run(tmp_path, store, 1_000).verdict == "COMPLETE"
    check_healed(tmp_path, store)


def test_a_mended_account_that_is_hurt_again(tmp_path, store):
    """Mended in part, the account is archived as far as it goes, and named where it stops now."""
    rows = {version: take_event(store, HURT, version) for version in (2, 5, LAST)}
    for version, reason in ((2, "version_gap"), (5, "version_gap"), (LAST, "head_mismatch")):
        (parked,) = run(tmp_path, store, 2).state.parked
        assert (parked.version, parked.reason) == (version, reason)
        check_as_store(tmp_path, store)
        put_back(store, rows[version])
    run(tmp_path, store, 2)
    check_healed(tmp_path, store)


def test_an_event_damaged_after_it_was_archived(tmp_path, store):
    """What the archive has is not lost with the store, and is vouched for as long as it is where its head says."""
    run(tmp_path, store, 1_000)
    truth = said_by_store(store)
    change_event(store, HURT, 3, state=b"{}")
    append(store, *account_stream("new", 3))
    assert run(tmp_path, store, 1_000).verdict == "COMPLETE"
    answer = said(archive_at(tmp_path))
    assert answer.rows == {**truth.rows, "new": answer.rows["new"]}
    assert said_by_store(store).parked == [HURT]


def test_a_lost_head_is_named_and_comes_back(tmp_path, store):
    """An account without a head is parked, though nothing of it is missing, until the head is there again."""
    with store.snapshot() as connection:
        row = dict(connection.execute(select(HEADS).where(HEADS.c.account_id == HURT)).mappings().one())
    lose_head(store, HURT)
    run(tmp_path, store, 3)
    assert said(archive_at(tmp_path)).parked == [HURT]
    check_as_store(tmp_path, store)
    with store.writing() as connection:
        connection.execute(insert(HEADS).values(row))
    run(tmp_path, store, 3)
    check_healed(tmp_path, store)


def test_more_events_wait_than_are_kept(tmp_path, store, monkeypatch):
    """Events that were too many to be kept while they waited are read again, and archived once the gap is filled."""
    monkeypatch.setattr("replay.gate.WAITING_EVENTS_MAX", 2)
    heal = hurt(store, DAMAGES["first"])
    assert run(tmp_path, store, 5).state.parked[0].account_id == HURT
    assert said(archive_at(tmp_path)).parked == [HURT]
    heal("in its place")
    run(tmp_path, store, 5)
    check_healed(tmp_path, store)


@pytest.mark.parametrize("what", DAMAGES)
def test_a_hurt_account_at_every_position(tmp_path, store, what):
    """At any position, hurt and mended, the archive parks whom the store parks, and gives the same rows."""
    heal = hurt(store, DAMAGES[what])
    append(store, *account_stream("later", 3))
    run(tmp_path, store, 4)
    end = archive_at(tmp_path).snapshot().state.position
    for at in range(end + 1):
        assert said(archive_at(tmp_path), at=at) == said_by_store(store, at), at
    heal("at the end")
    run(tmp_path, store, 4)
    end = archive_at(tmp_path).snapshot().state.position
    assert end >= max(positions(store, HURT).values())
    for at in range(end + 1):
        assert said(archive_at(tmp_path), at=at) == said_by_store(store, at), at


def test_asking_for_some_accounts(tmp_path, store):
    """Of some accounts only those are read, parked and counted, at any position."""
    hurt(store, DAMAGES["hole"])
    run(tmp_path, store, 4)
    truth = said_by_store(store)
    assert said(archive_at(tmp_path), account_ids=["acc-1"]).rows == {"acc-1": truth.rows["acc-1"]}
    assert said(archive_at(tmp_path), account_ids=["acc-1"]).verdict == "COMPLETE"
    assert said(archive_at(tmp_path), account_ids=["acc-1", HURT]).parked == [HURT]
    hole = positions(store, HURT)[3]
    assert said(archive_at(tmp_path), account_ids=[HURT], at=hole - 1).parked == []
    assert said(archive_at(tmp_path), account_ids=[HURT], at=hole).parked == [HURT]


def topic_says(sent: list[Sent]) -> tuple[str, str, list[str]]:
    """Verdict, digest and parked accounts of a replay of a topic."""
    with replay(sent) as found:
        return found.verdict, found.certificate.digest, found.parked_ids


def archive_says(folder: Path) -> tuple[str, str, list[str]]:
    """Verdict, digest and parked accounts of a replay of an archive."""
    answer = said(archive_at(folder))
    return answer.verdict, answer.digest, answer.parked


@pytest.mark.parametrize("append_events", [1, 100])
@pytest.mark.parametrize(
    "runs",
    [
        # Another content of an event, in the same run and in a later one.
        [[Sent(0, "a", 1), Sent(0, "a", 1, 11), Sent(0, "b", 1)], [Sent(0, "a", 2)]],
        [[Sent(0, "a", 1), Sent(0, "b", 1)], [Sent(0, "a", 1, 11)], [Sent(0, "a", 2)], [Sent(1, "c", 1)]],
        # The same content is no finding.
        [[Sent(0, "a", 1), Sent(0, "b", 1)], [Sent(0, "a", 1)], [Sent(0, "a", 2), Sent(0, "a", 2)]],
        # A gap hides the other content, and is filled later.
        [[Sent(0, "a", 1), Sent(0, "a", 1, 11), Sent(0, "a", 3)], [Sent(0, "a", 2)], [Sent(0, "b", 1)]],
        [
            [Sent(0, "a", 1), Sent(0, "a", 1), Sent(0, "a", 3), Sent(0, "a", 3, 11)],
            [Sent(0, "b", 1)],
            [Sent(0, "a", 2)],
        ],
        # What waits is in another partition than what is read first.
        [[Sent(1, "b", 1), Sent(1, "b", 3), Sent(1, "b", 4)], [*(Sent(0, "a", v) for v in (1, 2, 3)), Sent(1, "b", 2)]],
        [[Sent(2, "b", 3)], [Sent(0, "b", 1)], [Sent(1, "b", 2)], [Sent(0, "b", 4)]],
        # What is no event, of an account and of nobody.
        [[Sent(0, "a", 1), Sent(0, "a", 0), Sent(1, "b", 1)], [Sent(0, "a", 2)], [Sent(1, "b", 2)]],
        [[Sent(2, "a", 1), Sent(2, "a", -1), Sent(1, "b", 2)], [Sent(1, "b", 1)], [Sent(0, "c", 1), Sent(2, "a", 2)]],
    ],
)
def test_a_topic_that_is_not_whole(tmp_path, runs, append_events):
    """After every run, with commits of any size, the archive says what a replay of the whole topic says."""
    sent: list[Sent] = []
    for number, some in enumerate(runs):
        sent += some
        with commits_of(append_events):
            archived_topic(archive_at(tmp_path), sent, chunk_records=1)
        assert archive_says(tmp_path) == topic_says(sent), number
        compact(archive_at(tmp_path), file_events=3)
        assert archive_says(tmp_path) == topic_says(sent), number
        check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("stop", [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1)])
def test_a_partition_that_cannot_be_read_again(tmp_path, stop):
    """Accounts that waited stay parked while their partition cannot be read, and are whole once it can."""
    sent = [Sent(0, "a", 1), Sent(0, "a", 3), Sent(1, "b", 1), Sent(1, "b", 1, 11), Sent(0, "c", 1), Sent(1, "d", 2)]
    archived_topic(archive_at(tmp_path), sent)
    sent += [Sent(0, "a", 2), Sent(1, "d", 1), Sent(2, "e", 1), Sent(2, "e", 2)]
    for append_events in (1, 100):
        with commits_of(append_events):
            found = archived_topic(archive_at(tmp_path), sent, chunk_records=1, stop=stop)
        assert (found.verdict, len(found.unread)) == ("INCOMPLETE", 1)
        assert found.unread[0].startswith(f"partition {stop[0]}, offset ")
        check_exactly_once(archive_at(tmp_path))
        parked = {parked.account_id for parked in archive_at(tmp_path).snapshot().state.parked}
        # Only an account whose partition was read to its end may be whole now.
        assert parked >= {"b"} | ({"a"} if stop[0] == 0 else {"d"})
    archived_topic(archive_at(tmp_path), sent)
    assert archive_says(tmp_path) == topic_says(sent)
    assert archive_says(tmp_path)[2] == ["b"]


def test_who_is_parked_at_a_place_in_a_topic(tmp_path):
    """Partitions have no order among each other, so whoever is parked now is parked at every offset."""
    sent = [Sent(0, "a", 1), Sent(1, "b", 1), Sent(0, "a", 2), Sent(0, "a", 4), Sent(1, "b", 2)]
    archived_topic(archive_at(tmp_path), sent)
    with replayed_archive(archive_at(tmp_path), at={0: 1, 1: 1, 2: 0}) as found:
        assert found.parked_ids == ["a"]
        assert found.rows["account_id"].to_list() == ["b"]
        assert found.rows["version"].to_list() == [1]


def test_what_came_twice_and_cannot_be_compared(tmp_path, monkeypatch):
    """An account waits, with the partition named, until the copies of its event can be read again."""
    sent = [Sent(0, "a", 1), Sent(0, "b", 1), Sent(0, "a", 1, 11), Sent(1, "c", 1), Sent(1, "c", 1), Sent(1, "d", 1)]
    compare = PartitionSource.copies

    def stops(source: PartitionSource, keys: pl.DataFrame) -> pl.DataFrame:
        if source.identity.endswith("-0"):
            raise PartitionStopped(0, 1, "corrupt", "the test says so")
        return compare(source, keys)

    archived_topic(archive_at(tmp_path), sent[:2])
    with monkeypatch.context() as patched:
        patched.setattr(PartitionSource, "copies", stops)
        found = archived_topic(archive_at(tmp_path), sent, chunk_records=1)
    assert [(each.account_id, each.reason) for each in found.state.parked] == [
        ("a", "repeat_not_compared"),
        ("c", "repeat_not_compared"),
    ]
    assert "partition 0, offset 1: corrupt" in found.state.parked[0].details
    (words,) = found.unread
    assert words.startswith("partition 0, offset 1: corrupt")
    assert words.endswith("what came more than once could not be compared")
    answer = said(archive_at(tmp_path))
    assert (answer.verdict, answer.parked, list(answer.rows)) == ("INCOMPLETE", ["a", "c"], ["b", "d"])
    again = archived_topic(archive_at(tmp_path), sent)
    assert [(each.account_id, each.reason) for each in again.state.parked] == [("a", "conflicting_repeat")]
