"""States with a row a transaction are folded slice by slice: the same states, whichever the slices are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from archives import archive_at, commits_of
from ledgers import append, write_history
from polars.testing import assert_frame_equal
from samples import opened, recorded
from topic_cases import history

import replay.archive.full_replay
import replay.states
from consumers.archiver import archive_store
from ledger import Store
from projections import INTEGRITY, RELATIONS, TRANSACTIONS, Projection
from replay import StoreSource, replayed, verify
from replay.archive.answers import balances_from_archive
from replay.archive.compaction import compact
from replay.archive.full_replay import replayed_archive
from replay.archive.reading import scan, slices
from replay.archive.rebuild import rebuild_from_archive
from replay.verify import integrity_findings

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of many accounts, with holds, reversals and what else a ledger has."""
    store = Store.at(tmp_path)
    write_history(store)
    append(store, *history(25, 400))
    yield store
    store.close()


@pytest.fixture(params=["sorted", "unsorted"])
def folder(tmp_path: Path, store: Store, request: pytest.FixtureRequest) -> Path:
    """Where its archive is, of many files, whose accounts overlap unless they are sorted."""
    with commits_of(40):
        archive_store(archive_at(tmp_path), store)
    if request.param == "sorted":
        compact(archive_at(tmp_path), file_events=60)
    return tmp_path


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of some accounts, and states that go to disk after a few rows."""
    monkeypatch.setattr(replay.archive.full_replay, "SLICE_EVENTS", 50)
    monkeypatch.setattr(replay.states, "MEMORY_ROWS_MAX", 30)


def rows_of(frame: pl.DataFrame, projection: Projection) -> pl.DataFrame:
    """Return a state in the order of its keys."""
    return frame.sort(projection.key)


@pytest.mark.usefixtures("small_slices")
def test_states_are_those_of_the_store(store, folder):
    """Transactions and relations of every slice together are those of a replay of the store."""
    kinds = [TRANSACTIONS, RELATIONS]
    with StoreSource.snapshot(store) as source, replayed(source, kinds) as expected:
        wanted = {kind.name: rows_of(expected.states.value(kind), kind) for kind in kinds}
    with replayed_archive(archive_at(folder), kinds) as found:
        assert found.certificate.projections == expected.certificate.projections
        for kind in kinds:
            assert len(list(found.states.buckets(kind))) > 1
            assert_frame_equal(rows_of(found.states.value(kind), kind), wanted[kind.name])


@pytest.mark.usefixtures("small_slices")
def test_findings_are_those_of_the_store(store, folder):
    """Every finding, within accounts and across them, is found over slices too."""
    expected = verify(store, now=NOW).findings
    assert expected.height
    with replayed_archive(archive_at(folder), [INTEGRITY]) as replayed_:
        found = integrity_findings(replayed_, NOW)
    assert_frame_equal(found.sort(pl.all()), expected.sort(pl.all()))


def test_no_account_is_in_two_slices(folder):
    """All events are in the slices, and each account's are in one of them."""
    archive = archive_at(folder)
    found = archive.snapshot()
    parts = [part.collect() for part in slices(archive, found.files, 50)]
    assert len(parts) > 1
    accounts = [set(part["account_id"]) for part in parts]
    assert sum(map(len, accounts)) == len(set().union(*accounts))
    assert sum(part.height for part in parts) == scan(archive, found.files).collect().height


def test_a_projection_of_ones_own_sees_plain_columns(tmp_path):
    """Amounts of 32 bits add up past them, and types are texts, whether all accounts are asked for or one."""
    store = Store.at(tmp_path)
    append(store, opened("a"), *(recorded("a", version, 2_000_000_000) for version in range(2, 6)))
    archive_store(archive_at(tmp_path), store)
    turnover = Projection(
        name="turnover",
        version=1,
        key=("account_id",),
        schema=pl.Schema(
            {"account_id": pl.String(), "order_id": pl.String(), "type": pl.String(), "amount": pl.Int64()}
        ),
        fold=lambda events: events.group_by("account_id").agg(
            pl.col("order_id", "type").last(), pl.col("amount").sum()
        ),
        merge=lambda left, right: pl.concat([left, right]),
        details=("order_id",),
    )
    for account_ids in ((), ("a",)):
        with replayed_archive(archive_at(tmp_path), [turnover], account_ids=account_ids) as replay:
            assert replay.states.value(turnover).rows() == [("a", None, "credit", 8_000_000_000)]
    store.close()


def test_a_rebuild_folds_what_its_certificate_names(store, folder):
    """Projections beside the balances are folded over every event, although nothing of them is kept."""
    seen = []
    fold = RELATIONS.fold
    spied = dataclasses.replace(RELATIONS, fold=lambda events: (seen.append(events), fold(events))[1])
    rebuilt = rebuild_from_archive(store, archive_at(folder), [spied])
    assert rebuilt.certificate.projections["relations"] == RELATIONS.version
    assert sum(events.select(pl.len()).collect().item() for events in seen) == rebuilt.certificate.events


def test_busy_accounts_are_not_read_into_memory(folder, monkeypatch):
    """Accounts that have more events than may be in memory are scanned, with the same answer."""
    account_ids = balances_from_archive(archive_at(folder)).rows["account_id"].to_list()[:3]
    expected = balances_from_archive(archive_at(folder), account_ids)
    monkeypatch.setattr(replay.archive.full_replay, "IN_MEMORY_EVENTS_MAX", 1)
    found = balances_from_archive(archive_at(folder), account_ids)
    assert_frame_equal(found.rows, expected.rows)
    assert found.certificate.digest == expected.certificate.digest
