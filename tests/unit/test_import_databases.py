"""An import gives the same streams on every database that a ledger runs on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from databases import OnPostgres, OnSqlite
from imports import NOW, bring, streams_of, write_csv
from imports import row as good_row

from ledger import Ledger, Store
from ledger.importing import FileSource, TableSource, export_events, import_accounts, import_events, import_transactions


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
