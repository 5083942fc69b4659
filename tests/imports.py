"""Small files to import, and what a store holds after it, for the tests of imports."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from ledger import GENESIS, Store, chain
from ledger.importing import FileSource, Imported, Mapping, import_transactions
from schemas import Event, PoisonEvent, decode

__all__ = ["HEADER", "NOW", "bring", "events_of", "rejects_of", "row", "streams_of", "write_csv"]

NOW = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HEADER = [
    "transaction_id",
    "account_id",
    "type",
    "status",
    "amount",
    "related_transaction_id",
    "business_code",
    "metadata",
    "created_at",
]


def row(number: int = 1, **fields: str) -> dict[str, str]:
    """A good row: a completed credit of 10 points in an account of its own, unless `fields` say otherwise."""
    good = {
        "transaction_id": f"t{number}",
        "account_id": f"a{number}",
        "type": "credit",
        "status": "completed",
        "amount": "10",
        "created_at": "2024-03-01T12:00:00Z",
    }
    return good | fields


def write_csv(
    path: Path, rows: Iterable[dict[str, str]], header: Sequence[str] = HEADER, *, is_quoted: bool = False
) -> Path:
    """Write rows as CSV, with every field quoted or only those that must be, and return the path."""
    quoting = csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(header), restval="", lineterminator="\n", quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode())
    return path


def bring(store: Store, path: Path, *, dry_run: bool = False, mapping: Mapping | None = None) -> Imported:
    """Import a file of transactions at `NOW`, its rejects beside it."""
    rejects = path.with_name(path.name + ".rejects.csv")
    return import_transactions(
        store, FileSource(path), mapping=mapping or Mapping(), now=NOW, dry_run=dry_run, rejects=rejects
    )


def rejects_of(found: Imported) -> list[dict[str, Any]]:
    """Return the rejects of an import, in the order of their lines."""
    if found.rejects is None:
        return []
    return pl.read_csv(found.rejects, infer_schema=False).with_columns(pl.col("line").cast(int)).sort("line").to_dicts()


def streams_of(store: Store) -> dict[str, list[bytes]]:
    """Return every account's wire bytes in version order, having checked versions, hash chain and heads."""
    streams: dict[str, list[bytes]] = {}
    chains: dict[str, bytes] = {}
    with store.snapshot() as connection:
        for batch in store.read(connection):
            for _, account_id, version, state, link in batch.iter_rows():
                stream = streams.setdefault(account_id, [])
                stream.append(state)
                assert version == len(stream)
                chains[account_id] = chain(chains.get(account_id, GENESIS), state)
                assert link == chains[account_id]
        heads = store.heads(connection)
    found = {account: (version, link) for account, version, link in heads.iter_rows()}
    assert found == {account: (len(stream), chains[account]) for account, stream in streams.items()}
    return streams


def events_of(store: Store, account_id: str) -> list[Event]:
    """Return the events of one account, none of which is poison."""
    events = [decode(state) for state in streams_of(store).get(account_id, [])]
    assert not any(isinstance(event, PoisonEvent) for event in events)
    return [event for event in events if not isinstance(event, PoisonEvent)]
