"""What an archive of a store does on every database, and that every database's archive says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from archives import archive_at, check_exactly_once, commits_of, keys_of, said, said_by_store
from databases import OnPostgres, OnSqlite
from ledgers import append, change_event, lose_event, positions, put_back, take_event, write_history
from samples import account_stream, recorded

from consumers.archiver import archive_store
from ledger import Ledger, Store
from schemas import AMOUNT_MAX
from schemas.errors import RefusedError


class ArchiveContract:
    def test_store_and_archive_agree(self, store, tmp_path):
        """Through commits, compaction and what comes later, digest and rows are those of the store."""
        write_history(store)
        with commits_of(5):
            assert archive_store(archive_at(tmp_path), store).appended == 33
        assert said(archive_at(tmp_path), is_compacted=True) == said_by_store(store)
        Ledger(store).credit("acc-2", "later", 5)
        append(store, *account_stream("Zoë 😀", 4), *account_stream("a\n|:", 2), *account_stream("zoë", 3))
        assert archive_store(archive_at(tmp_path), store).appended == 10
        assert said(archive_at(tmp_path)) == said_by_store(store)
        assert said(archive_at(tmp_path), is_compacted=True) == said_by_store(store)
        check_exactly_once(archive_at(tmp_path))

    def test_an_empty_ledger_has_an_archive(self, store, tmp_path):
        """Of nothing at all there is an archive, which says so and takes what comes."""
        found = archive_store(archive_at(tmp_path), store)
        assert (found.verdict, found.appended, found.state.position) == ("COMPLETE", 0, 0)
        assert said(archive_at(tmp_path), is_compacted=True) == said_by_store(store)
        write_history(store)
        archive_store(archive_at(tmp_path), store)
        assert said(archive_at(tmp_path)) == said_by_store(store)

    def test_what_is_damaged_is_named_and_mended(self, store, tmp_path):
        """A hole, a lost end and bytes that changed park their accounts in the archive until they are mended."""
        write_history(store)
        hole, end = take_event(store, "acc-1", 4), take_event(store, "acc-3", 8)
        good = take_event(store, "acc-2", 2)
        put_back(store, good)
        change_event(store, "acc-2", 2, state=b"{}")
        with commits_of(4):
            assert archive_store(archive_at(tmp_path), store).verdict == "INCOMPLETE"
        answer = said(archive_at(tmp_path))
        assert answer == said_by_store(store)
        assert answer.parked == ["acc-1", "acc-2", "acc-3"]
        put_back(store, hole)
        put_back(store, end)
        change_event(store, "acc-2", 2, state=good["state"])
        with commits_of(4):
            assert archive_store(archive_at(tmp_path), store).verdict == "COMPLETE"
        for at in range(0, max(positions(store, "acc-3").values()) + 1, 3):
            assert said(archive_at(tmp_path), at=at) == said_by_store(store, at)
        assert said(archive_at(tmp_path), is_compacted=True) == said_by_store(store)
        check_exactly_once(archive_at(tmp_path))

    def test_a_sum_past_int64_parks_its_account(self, store, tmp_path):
        """The events are archived, and the account is parked in every replay, until the sum is back."""
        append(store, recorded("big", 1, AMOUNT_MAX), recorded("big", 2, 5), *account_stream("small", 3))
        assert archive_store(archive_at(tmp_path), store).verdict == "COMPLETE"
        assert said(archive_at(tmp_path)) == said_by_store(store)
        assert said(archive_at(tmp_path)).parked == ["big"]
        Ledger(store).record([recorded("big", 3, 6, type="debit")])
        archive_store(archive_at(tmp_path), store)
        assert said(archive_at(tmp_path)) == said_by_store(store)
        assert said(archive_at(tmp_path)).parked == []

    def test_a_store_that_lost_its_newest_events_is_refused(self, store, tmp_path):
        """A head before the archive's position is no reason to write anything."""
        write_history(store)
        archive_store(archive_at(tmp_path), store)
        keys = keys_of(archive_at(tmp_path))
        with store.snapshot() as connection:
            head = store.head(connection)
        for account_id in ("acc-1", "acc-2", "acc-3", "acc-4"):
            last = [version for version, at in positions(store, account_id).items() if at >= head - 1]
            if last:
                lose_event(store, account_id, *last)
        with pytest.raises(RefusedError, match="lost events"):
            archive_store(archive_at(tmp_path), store)
        assert keys_of(archive_at(tmp_path)).equals(keys)


class TestSqliteArchive(OnSqlite, ArchiveContract):
    pass


class TestPostgresArchive(OnPostgres, ArchiveContract):
    pass


def everything(url: str, folder: Path) -> list[Any]:
    """Archive one damaged history and return all that the archive says, at several positions of its own."""
    store = Store(url)
    write_history(store)
    append(store, *account_stream("Zoë 😀", 4), *account_stream("zoë", 3))
    lose_event(store, "acc-2", 4)
    change_event(store, "acc-3", 5, state=b"[]")
    archive_store(archive_at(folder), store)
    end = archive_at(folder).snapshot().state.position
    store.close()
    return [said(archive_at(folder), at=at) for at in range(end + 1)]


@pytest.mark.postgres
def test_sqlite_and_postgresql_archive_the_same(tmp_path: Path, postgres_url: str):
    """The same events, damaged in the same way, are the same archive from both databases."""
    left = everything(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "left")
    assert left == everything(postgres_url, tmp_path / "right")
    assert left[-1].parked == ["acc-2", "acc-3"]
    assert keys_of(archive_at(tmp_path / "left")).equals(keys_of(archive_at(tmp_path / "right")))
