"""The databases that a contract is run on: a contract test class inherits one of these beside the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import Ledger, Store

__all__ = ["OnPostgres", "OnSqlite"]


class _Database:
    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """A store with no events."""
        store = Store(url)
        yield store
        store.close()

    @pytest.fixture
    def ledger(self, store: Store) -> Ledger:
        """A ledger on the store."""
        return Ledger(store)


class OnSqlite(_Database):
    """SQLite in a file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ledger.db"


@pytest.mark.postgres
class OnPostgres(_Database):
    """A PostgreSQL server, a database a test."""

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url
