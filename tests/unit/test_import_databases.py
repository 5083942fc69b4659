"""An import gives the same streams on every database that a ledger runs on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from databases import OnPostgres, OnSqlite
from imports import NOW, bring, streams_of, write_csv
from imports import row as good_row
from ledgers import lose_event

from ledger import Ledger, Store
from ledger.importing import FileSource, TableSource, export_events, import_accounts, import_events, import_transactions
from replay import balances


class _Import:
    """The contract of imports."""

    def test_rows_events_and_accounts_come_in_once(self, store: Store, ledger: Ledger, tmp_path: Path):
        """Transactions, exported events and accounts come in, are read by the library, and change nothing again."""
        rows = [good_row(number, account_id=f"a{number % 5}é", status="pending") for number in range(40)]
        rows += [rows[3] | {"status": "completed"}, rows[4] | {"amount": "11"}]
        path = write_csv(tmp_path / "t.csv", rows)
        for imported in (41, 0):
            found = bring(store, path)
            assert (found.imported, found.unchanged, found.rejected) == (imported, 41 - imported, 1)
        assert ledger.account("a3é").balance == 10
        export_events(store, tmp_path / "e.jsonl")
        again = import_events(store, tmp_path / "e.jsonl", rejects=tmp_path / "r.csv")
        assert (again.imported, again.unchanged, again.rejected) == (0, 46, 0)
        assert import_events(store, tmp_path / "e.jsonl", rejects=tmp_path / "r.csv", dry_run=True).unchanged == 46
        other = Store.at(tmp_path / "other")
        import_events(other, tmp_path / "e.jsonl", rejects=tmp_path / "r.csv")
        assert streams_of(other) == streams_of(store)
        other.close()

    def test_accounts_are_kept_or_opened_once(self, store: Store, ledger: Ledger, tmp_path: Path):
        """Account rows are kept, or make openings, and again change nothing."""
        header = ["account_id", "balance", "frozen_amount", "status"]
        lines = [
            dict(zip(header, each, strict=True)) for each in (("a", "5", "2", "active"), ("b", "-7", "0", "locked"))
        ]
        source = FileSource(write_csv(tmp_path / "a.csv", lines, header))
        for opening in (None, datetime(2024, 1, 1, tzinfo=UTC)):
            for unchanged in (0, 2):
                found = import_accounts(store, source, now=NOW, as_opening_at=opening, rejects=tmp_path / "r.csv")
                assert (found.unchanged, found.rejected) == (unchanged, 0)
        assert (ledger.account("a").balance, ledger.account("a").frozen, ledger.account("b").status) == (5, 2, "locked")

    def test_lost_events_and_rows_gone_from_a_file(self, store: Store, tmp_path: Path):
        """A hole, a tail and a whole account come back from an export; account rows that a file lacks go."""
        bring(store, write_csv(tmp_path / "t.csv", [good_row(n, account_id=f"a{n % 3}") for n in range(12)]))
        export_events(store, tmp_path / "e.jsonl")
        before = balances(store, now=NOW).certificate.digest
        for account_id, versions in (("a0", [2, 3]), ("a1", [5]), ("a2", [])):
            lose_event(store, account_id, *versions)
        for dry_run in (True, False):
            found = import_events(store, tmp_path / "e.jsonl", rejects=tmp_path / "r.csv", dry_run=dry_run)
            assert (found.restored, found.unchanged, found.rejected) == (8, 7, 0)
        assert balances(store, now=NOW).certificate.digest == before
        header = ["account_id", "balance", "frozen_amount", "status"]
        for names, replace, absent in (("ab", False, 0), ("b", True, 1), ("b", True, 0)):
            lines = [dict(zip(header, (name, "5", "2", "active"), strict=True)) for name in names]
            source = FileSource(write_csv(tmp_path / "a.csv", lines, header))
            assert import_accounts(store, source, now=NOW, replace=replace, rejects=tmp_path / "r.csv").absent == absent

    def test_its_own_tables_can_be_read_as_a_foreign_database(self, store: Store, url: str, tmp_path: Path):
        """A query of this database, in its own snapshot, is a source like any other."""
        query = (
            "SELECT 't1' AS transaction_id, 'a' AS account_id, 'credit' AS type, 'completed' AS status,"
            " CAST(12 AS NUMERIC) AS amount, '2024-01-01T00:00:00Z' AS created_at"
        )
        source = TableSource(store.url if url.startswith("postgresql") else url, query=query)
        assert import_transactions(store, source, now=NOW, rejects=tmp_path / "r.csv").imported == 1


class TestOnSqlite(OnSqlite, _Import):
    """On SQLite."""


class TestOnPostgres(OnPostgres, _Import):
    """On PostgreSQL."""
