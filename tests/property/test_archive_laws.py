"""However a source is cut into runs and commits, damaged, mended and compacted, its archive says what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from archives import archive_at, archived_topic, check_exactly_once, commits_of, keys_of, said, said_by_store
from histories import examples, histories
from hypothesis import event, example, given
from hypothesis import strategies as st
from ledgers import change_event
from samples import store_rows
from sqlalchemy import delete, insert, select
from topic_memory import PARTITIONS, Sent, replay

from consumers.archiver import archive_store
from ledger import Store
from ledger.tables import EVENTS
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive
from schemas import Event


class Life:
    """A store and its archive, and what is done to them step by step."""

    def __init__(self, folder: Path, events: list[Event]) -> None:
        self.folder = folder
        self.store = Store.at(folder)
        self._rows = store_rows(events)
        self._next = 0
        self._archived = 0
        self._lost: list[dict[str, Any]] = []
        self._spoilt: dict[tuple[str, int], bytes] = {}

    def append(self, number: int) -> None:
        """Append the next events of the stream."""
        with self.store.appending() as connection:
            self.store.append_rows(connection, self._rows.slice(self._next, number))
        self._next = min(self._next + number, self._rows.height)

    def lose(self, number: int) -> None:
        """Take an event away that is not in the archive yet: of what is there, the store cannot take anything."""
        if row := self._picked(number):
            self._lost.append(row)
            with self.store.writing() as connection:
                connection.execute(delete(EVENTS).where(EVENTS.c.id == row["id"]))

    def spoil(self, number: int) -> None:
        """Change a bit of an event that is not in the archive yet."""
        row = self._picked(number)
        if row and (key := (row["originator_id"], row["originator_version"])) not in self._spoilt:
            self._spoilt[key] = row["state"]
            place = number % len(row["state"])
            state = row["state"][:place] + bytes([row["state"][place] ^ 1 << number % 7]) + row["state"][place + 1 :]
            change_event(self.store, *key, state=state)

    def mend(self, number: int) -> None:
        """Bring an event back, in its place or at the end, or its bytes."""
        if self._spoilt and number % 3 == 0:
            key, state = self._spoilt.popitem()
            change_event(self.store, *key, state=state)
        elif self._lost:
            row = self._lost.pop(number % len(self._lost))
            with self.store.appending() as connection:
                is_taken = connection.execute(select(EVENTS.c.id).where(EVENTS.c.id == row["id"])).first()
                at_the_end = number % 2 or is_taken
                connection.execute(
                    insert(EVENTS).values({name: row[name] for name in row if name != "id" or not at_the_end})
                )

    def mend_all(self) -> None:
        """Bring everything back."""
        while self._spoilt or self._lost:
            self.mend(0 if self._spoilt else 1)

    def archive(self, number: int) -> None:
        """Bring the archive up to date, and hold it against the store."""
        with commits_of(1 + number % 9, batch_events=1 + number % 4):
            found = archive_store(archive_at(self.folder), self.store)
        assert isinstance(found.state.position, int)
        self._archived = found.state.position
        self.check()

    def compact(self, number: int) -> None:
        """Sort the archive into files of a few events."""
        compact(archive_at(self.folder), file_events=1 + number % 12)

    def check(self) -> None:
        """Hold the archive against the store."""
        assert said(archive_at(self.folder)) == said_by_store(self.store)
        check_exactly_once(archive_at(self.folder))

    def _picked(self, number: int) -> dict[str, Any] | None:
        with self.store.snapshot() as connection:
            newer = select(EVENTS).where(EVENTS.c.id > self._archived).order_by(EVENTS.c.id)
            rows = connection.execute(newer).mappings().all()
        return dict(rows[number % len(rows)]) if rows else None


@contextmanager
def life(events: list[Event]) -> Iterator[Life]:
    """A life that is over afterwards."""
    with TemporaryDirectory() as folder:
        found = Life(Path(folder), events)
        yield found
        found.store.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "lose", "spoil", "mend", "archive", "archive", "compact"]),
        st.integers(0, 40),
    ),
    max_size=14,
)


@examples(15)
@given(events=histories(40), steps=STEPS, places=st.lists(st.integers(0, 60), max_size=4))
def test_an_archive_of_a_store_is_the_store(events, steps, places):
    """After each run, at its end and at any position before it, archive and store say the same, hurt or mended."""
    with life(events) as it:
        for name, number in steps:
            getattr(it, name)(number)
        it.archive(3)
        answer = said(archive_at(it.folder))
        event(f"parked: {len(answer.parked)}")
        end = archive_at(it.folder).snapshot().state.position
        for place in places:
            at = place % (end + 1)
            assert said(archive_at(it.folder), at=at) == said_by_store(it.store, at), at
        it.mend_all()
        it.archive(5)
        it.compact(7)
        it.check()
        archive_store(archive_at(it.folder / "fresh"), it.store)
        assert keys_of(archive_at(it.folder / "fresh")).equals(keys_of(archive_at(it.folder)))
        assert archive_at(it.folder).snapshot().state.poison == []


@st.composite
def topics(draw: st.DrawFn) -> list[Sent]:
    """Streams of a few accounts over partitions in any order, some events lost, repeated, changed or unreadable."""
    places = st.integers(0, PARTITIONS - 1)
    sent = []
    for account in range(draw(st.integers(1, 4))):
        home, is_mixed = draw(places), draw(st.booleans())
        for version in range(1, draw(st.integers(1, 7)) + 1):
            for _ in range(draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2, 2, 0]))):
                amount = draw(st.sampled_from([10] * 15 + [11])) + version
                sent.append(Sent(draw(places) if is_mixed else home, f"account-{account}", version, amount))
        if draw(st.sampled_from([False] * 9 + [True])):
            sent.append(Sent(draw(places), f"account-{account}", draw(st.sampled_from([0, -1]))))
    return draw(st.permutations(sent)) if draw(st.booleans()) else sent


RUNS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6), st.integers(1, 4), st.booleans()), max_size=5)


@examples(20)
@given(sent=topics(), runs=RUNS)
@example([Sent(1, "a", 2), Sent(1, "a", 1), Sent(0, "b", 1), Sent(0, "b", 1, 11)], [(1, 1, 1, True), (3, 1, 1, False)])
def test_an_archive_of_a_topic_is_the_topic(sent, runs):
    """After each run of any length, with commits of any size, archive and topic say the same, event by event."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        ends = sorted(min(end, len(sent)) for end, *_ in runs)
        sizes = [(append_events, chunk, is_compacted) for _, append_events, chunk, is_compacted in runs]
        for end, (append_events, chunk, is_compacted) in zip([*ends, len(sent)], [*sizes, (2, 2, True)], strict=True):
            some = sent[:end]
            with commits_of(append_events):
                found = archived_topic(archive_at(folder), some, chunk_records=chunk)
            answer = said(archive_at(folder), is_compacted=is_compacted)
            with replay(some) as expected:
                assert (answer.verdict, answer.digest) == (expected.verdict, expected.certificate.digest)
                assert answer.parked == expected.parked_ids
                assert list(answer.rows.values()) == expected.rows.to_dicts()
                assert len(found.state.poison) == len(expected.certificate.poison)
                if not expected.parked_ids:
                    assert answer.events == expected.certificate.events
                assert repeats_of(folder) == expected.certificate.repeats
            check_exactly_once(archive_at(folder))
            check_contents(folder, some)
        for numerator in range(3):
            check_places(folder, sent, numerator)


def check_contents(folder: Path, sent: list[Sent]) -> None:
    """Check that the archive has, of each account, what a gate lets through: all before its first hole."""
    held = {(record.account_id, record.version) for record in sent if record.version > 0}
    expected = sorted(
        (account_id, version)
        for account_id, version in held
        if all((account_id, before) in held for before in range(1, version))
    )
    found = keys_of(archive_at(folder))
    assert found.select("account_id", "version").rows() == expected
    amounts = {(record.account_id, record.version, record.amount) for record in sent}
    opened = {(record.account_id, record.version, None) for record in sent}
    assert set(found.rows()) <= amounts | opened


def check_places(folder: Path, sent: list[Sent], numerator: int) -> None:
    """Check the archive at offsets in the middle: the rows are those of a topic of only these records.

    An event that came in two partitions is in the archive with one of its places, so at offsets between them the
    archive cannot tell: such an account is parked, or what is said of it is right.
    """
    ends = archive_at(folder).snapshot().state.position
    at = {partition: (partition + 1) * (numerator + 1) * 7 % (end + 1) for partition, end in ends.items()}
    before: list[Sent] = []
    seen = dict.fromkeys(ends, 0)
    for record in sent:
        if seen[record.partition] < at[record.partition]:
            before.append(record)
        seen[record.partition] += 1
    places: dict[tuple[str, int], set[int]] = {}
    for record in sent:
        places.setdefault((record.account_id, record.version), set()).add(record.partition)
    twice = {account_id for (account_id, _), partitions in places.items() if len(partitions) > 1}
    answer = said(archive_at(folder), at=at)
    parked_now = set(said(archive_at(folder)).parked)
    with replay(before) as expected:
        rows = {row["account_id"]: row for row in expected.rows.to_dicts()}
        assert answer.rows == {key: row for key, row in rows.items() if key not in answer.parked}
        assert set(answer.parked) >= set(expected.parked_ids)
        assert set(answer.parked) <= set(expected.parked_ids) | parked_now | twice


def repeats_of(folder: Path) -> int | None:
    """Return how many repeats a replay of the archive says that there were."""
    with replayed_archive(archive_at(folder)) as found:
        return found.certificate.repeats


@examples(10)
@given(
    sent=topics(), partition=st.integers(0, PARTITIONS - 1), offset=st.integers(0, 6), append_events=st.integers(1, 4)
)
def test_a_partition_that_stops_is_made_up_for(sent, partition, offset, append_events):
    """Whatever was archived while a partition could not be read, the next run that can read it makes it whole."""
    half = sent[: len(sent) // 2]
    with TemporaryDirectory() as name:
        folder = Path(name)
        with commits_of(append_events):
            archived_topic(archive_at(folder), half)
            archived_topic(archive_at(folder), sent, stop=(partition, offset))
            archived_topic(archive_at(folder), sent)
        answer = said(archive_at(folder))
        with replay(sent) as expected:
            assert (answer.verdict, answer.digest) == (expected.verdict, expected.certificate.digest)
            assert answer.parked == expected.parked_ids
            assert repeats_of(folder) == expected.certificate.repeats
        check_exactly_once(archive_at(folder))
        for numerator in range(3):
            check_places(folder, sent, numerator)


def test_the_oracle_can_fail(tmp_path):
    """An archive that lacks an event does not pass for its topic."""
    sent = [Sent(0, "a", 1), Sent(0, "a", 2)]
    archived_topic(archive_at(tmp_path), sent[:1])
    with pytest.raises(AssertionError):
        check_contents(tmp_path, sent)
