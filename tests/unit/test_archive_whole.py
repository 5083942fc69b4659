"""An archive of a whole ledger: one digest, however it was appended and compacted, and readable by anybody."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from archives import archive_at, archived_topic, check_exactly_once, commits_of, keys_of, said, said_by_store
from ledgers import append, positions, put_back, take_event, write_history
from samples import account_stream, recorded
from topic_cases import history
from topic_memory import Sent, replay

from consumers.archiver import archive_store
from ledger import GENESIS, Ledger, Store, chain
from projections import RELATIONS, TRANSACTIONS
from replay import StoreSource, replayed
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive
from replay.archive.reading import scan
from replay.archive.schema import ARCHIVE_SCHEMA
from replay.archive.table import Archive
from schemas.errors import RefusedError, UsageError

EVENTS = 600
#: Of a topic in memory: three accounts, each in a partition of its own.
SENT = [Sent(number % 3, f"account-{number % 3}", 1 + number // 3, 10 + number) for number in range(30)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of 600 events of 40 accounts."""
    store = Store.at(tmp_path)
    append(store, *history(40, EVENTS))
    yield store
    store.close()


def back_up(store: Store, path: Path) -> None:
    """Copy the database of a store."""
    with closing(sqlite3.connect(str(store.url.database))) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)


def test_one_digest_before_and_after_compaction(tmp_path, store):
    """Store and archive agree on digest, rows and events, sorted by account or not."""
    found = archive_store(archive_at(tmp_path), store)
    assert (found.verdict, found.appended, found.state.position) == ("COMPLETE", EVENTS, EVENTS)
    expected = said_by_store(store)
    assert said(archive_at(tmp_path)) == expected
    assert said(archive_at(tmp_path), is_compacted=True) == expected
    check_exactly_once(archive_at(tmp_path))


@pytest.mark.parametrize("append_events", [4, 50, EVENTS])
def test_one_digest_after_many_commits(tmp_path, store, append_events):
    """Commits of any size, compaction between them and appending after it give the store's digest."""
    with commits_of(append_events):
        archive_store(archive_at(tmp_path), store)
    versions = [archive_at(tmp_path).snapshot().version]
    files = len(archive_at(tmp_path).snapshot().files)
    assert files >= EVENTS // (append_events + 3)
    assert said(archive_at(tmp_path)) == said_by_store(store)
    compact(archive_at(tmp_path), file_events=100)
    if files > 1:
        assert len(archive_at(tmp_path).snapshot().files) < files
    append(store, *account_stream("later", 9), *account_stream("account-0-later", 5))
    with commits_of(append_events):
        again = archive_store(archive_at(tmp_path), store)
    assert again.appended == 14
    expected = said_by_store(store)
    assert said(archive_at(tmp_path)) == expected
    assert said(archive_at(tmp_path), is_compacted=True) == expected
    check_exactly_once(archive_at(tmp_path))
    assert archive_at(tmp_path).snapshot().version > versions[0]


def test_compaction_puts_each_account_in_one_file(tmp_path, store):
    """Afterwards no two files share an account, each is sorted, and a second compaction finds nothing to do."""
    with commits_of(30):
        archive_store(archive_at(tmp_path), store)
    found = compact(archive_at(tmp_path), file_events=100)
    bounds = sorted((file.first_account, file.last_account) for file in found.files)
    assert len(bounds) > 2
    assert all(left[1] < right[0] for left, right in pairwise(bounds))
    for file in found.files:
        rows = pl.read_parquet(tmp_path / "archive" / file.name)
        assert rows.equals(rows.sort("account_id", "version"))
        chained = rows.filter(pl.col("chain").is_not_null())["account_id"]
        assert chained.to_list() == rows["account_id"].unique().sort().to_list()
    assert compact(archive_at(tmp_path), file_events=100).version == found.version


def ends_of(archive: Archive) -> dict[str, tuple[int, bytes]]:
    """Return the last version of each account and the chain that the archive has beside it."""
    rows = scan(archive, archive.snapshot().files).sort("account_id", "version").collect()
    last = rows.group_by("account_id", maintain_order=True).agg(pl.col("version", "chain").last())
    return {account_id: (version, link) for account_id, version, link in last.iter_rows()}


@pytest.mark.parametrize("append_events", [10, EVENTS])
def test_the_chain_of_every_account_is_its_head(tmp_path, store, append_events):
    """Beside an account's last event is the chain of its head, however often it was appended to and compacted."""
    for number in range(2):
        with commits_of(append_events):
            archive_store(archive_at(tmp_path), store)
        with store.snapshot() as connection:
            heads = {account_id: (version, link) for account_id, version, link in store.heads(connection).iter_rows()}
        assert ends_of(archive_at(tmp_path)) == heads
        compact(archive_at(tmp_path), file_events=100)
        assert ends_of(archive_at(tmp_path)) == heads
        append(store, *account_stream(f"later-{number}", 9))


def test_the_chain_of_a_topic_is_made_of_its_bytes(tmp_path):
    """An archive of a topic has the chain that a store of the same events would have, over runs and commits."""
    expected: dict[str, tuple[int, bytes]] = {}
    for record in SENT:
        before = expected.get(record.account_id, (0, GENESIS))[1]
        expected[record.account_id] = (record.version, chain(before, record.value or b""))
    for end in (7, 19, 30):
        with commits_of(3):
            archived_topic(archive_at(tmp_path), SENT[:end])
        compact(archive_at(tmp_path), file_events=4)
    assert ends_of(archive_at(tmp_path)) == expected


def test_a_file_that_compaction_makes_again_stays(tmp_path):
    """A file that comes out of a compaction as it went in is part of the archive afterwards, for every reader."""
    store = Store.at(tmp_path)
    append(store, recorded("m", 1), recorded("m", 2))
    archive_store(archive_at(tmp_path), store)
    append(store, recorded("a", 1), recorded("z", 1))
    before = {file.name for file in archive_store_files(tmp_path, store)}
    found = compact(archive_at(tmp_path), file_events=1)
    assert len(before & {file.name for file in found.files}) == 1
    assert len(found.files) == 3
    check_exactly_once(archive_at(tmp_path))
    assert said(archive_at(tmp_path)) == said_by_store(store)
    assert pl.scan_delta(str(tmp_path / "archive")).select(pl.len()).collect().item() == 4
    store.close()


def archive_store_files(folder: Path, store: Store) -> list:
    """Bring an archive up to date and return its files."""
    archive_store(archive_at(folder), store)
    return archive_at(folder).snapshot().files


def test_a_run_with_nothing_new_changes_nothing(tmp_path, store):
    """At the same moment of the clock the second run makes no commit and no file."""
    now = datetime(2024, 5, 1, tzinfo=UTC)
    first = archive_store(archive_at(tmp_path), store, now=lambda: now)
    files = sorted(path.name for path in (tmp_path / "archive").rglob("*"))
    again = archive_store(archive_at(tmp_path), store, now=lambda: now)
    assert (again.appended, again.version) == (0, first.version)
    assert sorted(path.name for path in (tmp_path / "archive").rglob("*")) == files


def test_projections_agree(tmp_path, store):
    """Transactions and relations of the archive are those of the store."""
    archive_store(archive_at(tmp_path), store)
    compact(archive_at(tmp_path), file_events=100)
    kinds = (TRANSACTIONS, RELATIONS)
    with (
        StoreSource.snapshot(store) as source,
        replayed(source, kinds) as expected,
        replayed_archive(archive_at(tmp_path), kinds) as found,
    ):
        for kind in kinds:
            frames = [pl.concat(each.states.buckets(kind)) for each in (found, expected)]
            left, right = (frame.sort(frame.columns) for frame in frames)
            assert left.equals(right)
            assert left.height > 0


def test_an_old_log_that_was_cleaned_up_is_not_missed(tmp_path):
    """After more commits than a checkpoint is made of, the old log files are of no need."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 120))
    with commits_of(1, batch_events=1):
        archive_store(archive_at(tmp_path), store)
    log = tmp_path / "archive" / "_delta_log"
    checkpoint = max(int(path.name.split(".")[0]) for path in log.glob("*.checkpoint*.parquet"))
    assert checkpoint > 90
    for version in range(checkpoint):
        (log / f"{version:020}.json").unlink()
    assert said(archive_at(tmp_path)) == said_by_store(store)
    append(store, *account_stream("b", 5))
    assert archive_store(archive_at(tmp_path), store).appended == 5
    assert said(archive_at(tmp_path), is_compacted=True) == said_by_store(store)
    check_exactly_once(archive_at(tmp_path))
    store.close()


def test_a_topic_has_the_same_digest(tmp_path):
    """The topic in memory and its archive agree, whatever the commits, and with what comes later."""
    for append_events in (1, 4, 100):
        archive = archive_at(tmp_path / str(append_events))
        with commits_of(append_events):
            assert archived_topic(archive, SENT[:17]).verdict == "COMPLETE"
            found = archived_topic(archive_at(tmp_path / str(append_events)), SENT, chunk_records=2)
        assert (found.verdict, found.appended, found.state.position) == ("COMPLETE", 13, {0: 10, 1: 10, 2: 10})
        with replay(SENT) as expected:
            for is_compacted in (False, True):
                answer = said(archive_at(tmp_path / str(append_events)), is_compacted=is_compacted)
                assert (answer.digest, answer.events) == (expected.certificate.digest, 30)
                assert list(answer.rows.values()) == expected.rows.to_dicts()
        check_exactly_once(archive)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_every_position_is_the_store_of_then(tmp_path, is_compacted):
    """Up to any position the archive says what the store says of the same position."""
    store = Store.at(tmp_path)
    write_history(store)
    with commits_of(5):
        archive_store(archive_at(tmp_path), store)
    archive = archive_at(tmp_path)
    answers = [said(archive, is_compacted=is_compacted, at=at) for at in range(34)]
    assert answers == [said_by_store(store, at) for at in range(34)]
    assert len({answer.digest for answer in answers}) > 20
    with pytest.raises(UsageError, match="position 34 is not in the archive"):
        said(archive, at=34)
    store.close()


def test_an_event_brought_back_is_not_counted_before_it_was_there(tmp_path):
    """An event that stands behind its successors parks its account at the positions between them, as in the store."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5), *account_stream("b", 3))
    put_back(store, take_event(store, "a", 2))
    end = max(positions(store, "a").values())
    assert archive_store(archive_at(tmp_path), store).verdict == "COMPLETE"
    answers = [said(archive_at(tmp_path), at=at) for at in range(end + 1)]
    assert answers == [said_by_store(store, at) for at in range(end + 1)]
    assert [answer.parked for answer in answers] == [[]] * 3 + [["a"]] * (end - 3) + [[]]
    store.close()


def test_a_place_in_a_topic(tmp_path):
    """Up to some offsets the archive says what a topic of only those records says."""
    archive = archive_at(tmp_path)
    archived_topic(archive, SENT)
    for at in ({0: 0, 1: 0, 2: 0}, {0: 10, 1: 3, 2: 0}, {0: 1, 1: 10, 2: 7}):
        some = [record for record in SENT if record.version <= at[record.partition]]
        with replay(some) as expected:
            answer = said(archive, at=at)
            assert (answer.digest, answer.events) == (expected.certificate.digest, len(some))
    with pytest.raises(UsageError, match="is not in the archive"):
        said(archive, at={0: 11, 1: 0, 2: 0})


def test_other_readers_find_every_event_with_the_documented_types(tmp_path, store):
    """A reader that knows nothing but Delta Lake counts the same events and the same points, and no null in a key."""
    with commits_of(100):
        archive_store(archive_at(tmp_path), store)
    compact(archive_at(tmp_path), file_events=100)
    table = pl.scan_delta(str(tmp_path / "archive")).collect()
    assert table.schema == ARCHIVE_SCHEMA
    assert (table.height, table["position"].sort().to_list()) == (EVENTS, list(range(1, EVENTS + 1)))
    assert table.select("account_id", "version").is_duplicated().sum() == 0
    keys = ("account_id", "version", "position", "event", "effective_at", "recorded_at", "event_id")
    assert all(table[name].null_count() == 0 for name in keys)
    completed = table.filter(pl.col("to_status") == "completed")
    signed = completed.select(pl.when(pl.col("type") == "debit").then(-pl.col("amount")).otherwise("amount").sum())
    assert signed.item() == sum(row["balance"] for row in said_by_store(store).rows.values())


def test_statistics_of_the_table_are_those_of_the_files(tmp_path, store):
    """What the log says of a file, for whoever wants to skip some, is true of its rows."""
    with commits_of(100):
        archive_store(archive_at(tmp_path), store)
    logged = {}
    for entry in sorted((tmp_path / "archive" / "_delta_log").glob("*.json")):
        for line in entry.read_text().splitlines():
            if add := json.loads(line).get("add"):
                logged[add["path"]] = json.loads(add["stats"])
    assert len(logged) > 4
    for name, stats in logged.items():
        rows = pl.read_parquet(tmp_path / "archive" / name)
        assert stats["numRecords"] == rows.height
        for column in ("account_id", "version", "position", "amount"):
            edges = stats["minValues"][column], stats["maxValues"][column]
            assert edges == (rows[column].min(), rows[column].max())
        for column in ("effective_at", "recorded_at"):
            edges = [datetime.fromisoformat(stats[edge][column]) for edge in ("minValues", "maxValues")]
            assert edges == [rows[column].min(), rows[column].max()]


def test_a_store_that_was_put_back_is_refused(tmp_path, store):
    """A store whose head is before the archive's position is refused, and nothing is written."""
    back_up(store, tmp_path / "backup.db")
    append(store, *account_stream("later", 5))
    archive_store(archive_at(tmp_path), store)
    expected = said(archive_at(tmp_path))
    there = {path: path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file()}
    backup = Store(f"sqlite:///{tmp_path}/backup.db")
    with pytest.raises(RefusedError, match="put back from a backup"):
        archive_store(archive_at(tmp_path), backup)
    backup.close()
    assert {path: path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file()} == there
    assert said(archive_at(tmp_path)) == expected


def test_a_store_that_went_another_way_is_not_vouched_for(tmp_path, store):
    """A backup that has gone on past the archive's position with other events parks every account that differs."""
    back_up(store, tmp_path / "backup.db")
    Ledger(store).credit("account-1", "lost", 5)
    archive_store(archive_at(tmp_path), store)
    before = said(archive_at(tmp_path)).rows
    backup = Store(f"sqlite:///{tmp_path}/backup.db")
    for number in range(3):
        Ledger(backup).credit("account-1", f"other-{number}", 7)
        Ledger(backup).credit("account-2", f"other-{number}", 7)
    found = archive_store(archive_at(tmp_path), backup)
    assert found.verdict == "INCOMPLETE"
    answer, truth = said(archive_at(tmp_path)), said_by_store(backup)
    assert answer.parked[0] == "account-1"
    assert {name: row for name, row in truth.rows.items() if name in answer.rows} == answer.rows
    assert set(before) - set(answer.rows) == set(answer.parked)
    backup.close()


def test_an_archive_of_another_ledger_is_refused(tmp_path, store):
    """Neither another ledger nor a topic is appended to it, and nothing is written."""
    archive_store(archive_at(tmp_path), store)
    other = Store.at(tmp_path / "other")
    append(other, *account_stream("a", 700))
    keys = keys_of(archive_at(tmp_path))
    with pytest.raises(RefusedError, match="another source"):
        archive_store(archive_at(tmp_path), other)
    with pytest.raises(RefusedError, match="another source"):
        archived_topic(archive_at(tmp_path), SENT)
    assert keys_of(archive_at(tmp_path)).equals(keys)
    other.close()
