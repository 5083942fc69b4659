"""Archives for tests: made from stores and from topics in memory, what they hold, and what a replay of them says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import polars as pl
from topic_memory import FakeReader, Sent

from consumers.archiver import Archived, archive_topic
from ledger import Store
from replay import StoreSource, replayed
from replay.archive.appending import Appending
from replay.archive.compaction import compact
from replay.archive.files import Location
from replay.archive.full_replay import replayed_archive
from replay.archive.reading import scan
from replay.archive.table import Archive
from replay.topic import Connection

__all__ = [
    "Said",
    "archive_at",
    "archived_topic",
    "check_exactly_once",
    "commits_of",
    "keys_of",
    "said",
    "said_by_store",
]


class Said(NamedTuple):
    """What a replay says, less what names the source."""

    verdict: str
    digest: str
    events: int
    accounts: int
    parked: list[str]
    poison: list[tuple[str | None, int | None]]
    rows: dict[str, dict[str, Any]]


def archive_at(folder: Path) -> Archive:
    """Return the archive in a folder as a process that starts now sees it."""
    return Archive(Location(str(folder / "archive")), expected=folder / "archive.json")


@contextmanager
def commits_of(events: int, *, batch_events: int = 3) -> Iterator[None]:
    """Let an archiver commit whenever it has gathered so many events, reading a store in small batches."""
    snapshot: Any = StoreSource.snapshot
    with (
        patch.dict(Appending.__init__.__kwdefaults__, append_events=events),
        patch.dict(snapshot.__wrapped__.__kwdefaults__, batch_events=batch_events),
    ):
        yield


class _Opened:
    """A context that gives a reader of records in memory."""

    def __init__(self, reader: FakeReader) -> None:
        self._reader = reader

    def __enter__(self) -> FakeReader:
        return self._reader

    def __exit__(self, *_: object) -> None:
        """Let go of nothing."""


class _Remembered(Connection, frozen=True):
    """A connection to a topic in memory: it carries its reader, so that several may be used at once."""

    reader: Any = None


@contextmanager
def topics_in_memory() -> Iterator[None]:
    """Let archivers read the topics that `archived_topic` gives them."""
    with patch("consumers.archiver.open_reader", lambda connection, _: _Opened(connection.reader)):
        yield


def archived_topic(
    archive: Archive,
    sent: Sequence[Sent],
    *,
    chunk_records: int = 3,
    stop: tuple[int, int] | None = None,
    **options: Any,
) -> Archived:
    """Bring an archive up to date from a topic in memory, which holds these records."""
    reader = FakeReader(list(sent), chunk_records, stop)
    connection = _Remembered(bootstrap_servers="nowhere:1", reader=reader)
    with topics_in_memory():
        return archive_topic(archive, connection, reader.topic, ledger_id="ledger", **options)


def keys_of(archive: Archive) -> pl.DataFrame:
    """Return account, version and amount of every event in the archive, in that order."""
    found = archive.snapshot()
    assert found is not None
    return scan(archive, found.files).select("account_id", "version", "amount").collect().sort("account_id", "version")


def check_exactly_once(archive: Archive) -> None:
    """Check that the versions of every account run from 1, each once, and that every file is what was written."""
    found = archive.snapshot()
    assert found is not None
    archive.files.forget()
    assert archive.files.check(found.files) == {}
    counts = keys_of(archive).group_by("account_id").agg(
        pl.len(), pl.col("version").min().alias("first"), pl.col("version").max().alias("last"),
        pl.col("version").n_unique().alias("different"),
    )  # fmt: skip
    wrong = counts.filter(
        (pl.col("first") != 1) | (pl.col("last") != pl.col("len")) | (pl.col("different") != pl.col("len"))
    )
    assert wrong.rows() == []
    assert found.state is None or found.state.events == counts["len"].sum()


def said(archive: Archive, *, is_compacted: bool = False, **options: Any) -> Said:
    """Return what a replay of the archive says, compacted before if asked."""
    if is_compacted:
        compact(archive, file_events=20)
    with replayed_archive(archive, **options) as found:
        return _said(found)


def said_by_store(store: Store, until: int | None = None) -> Said:
    """Return what a replay of the store says."""
    with StoreSource.snapshot(store) as source, replayed(source, until=until) as found:
        return _said(found)


def _said(found: Any) -> Said:
    certificate = found.certificate
    rows = {row["account_id"]: row for row in found.rows.to_dicts()}
    poison = sorted((each.account_id, each.version) for each in certificate.poison)
    counts = certificate.events, certificate.accounts
    return Said(certificate.verdict, certificate.digest, *counts, found.parked_ids, poison, rows)
