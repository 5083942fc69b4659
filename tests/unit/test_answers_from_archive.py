"""Answers from an archive: those of the store, at every position and moment, and none where a file is damaged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import replay
from consumers.archiver import archive_store
from ledger import Ledger
from ledger.store import Store
from replay import balances, graph, history, rebuild
from replay.archive.answers import balances_from_archive, graph_from_archive, history_from_archive
from replay.archive.checking import check
from replay.archive.compaction import compact
from replay.archive.files import Location
from replay.archive.full_replay import replayed_archive
from replay.archive.rebuild import rebuild_from_archive
from replay.archive.table import Archive
from replay.certificate import Unread
from schemas.errors import IncompleteError, UsageError

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

Open = Callable[[], Archive]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A ledger whose events were recorded an hour apart, some of them long after they happened."""
    opened = Store.at(tmp_path / "ledger")
    hours = iter(range(100))
    ledger = Ledger(opened, clock=lambda: START + next(hours) * HOUR)
    for name in ("anna", "bert", "zoe"):
        ledger.open(name, effective_at=START)
        ledger.credit(name, f"{name}-1", 100, effective_at=START + HOUR)
    ledger.debit("anna", "anna-2", 30, effective_at=START + 2 * HOUR)
    ledger.reverse("anna", "anna-2", "anna-3", effective_at=START + 9 * HOUR)
    ledger.freeze("bert", "bert-2", 20, effective_at=START - HOUR)
    ledger.lock("bert", effective_at=START + 3 * HOUR)
    ledger.credit("zoe", "zoe-2", 1, related_transaction_id="nowhere", effective_at=START + HOUR)
    yield opened
    opened.close()


@pytest.fixture
def archive(tmp_path: Path, store: Store) -> Open:
    """The archive of that ledger, opened anew each time; its watermark is 50 hours after the start."""

    def opened() -> Archive:
        return Archive(Location(str(tmp_path / "archive")), expected=tmp_path / "archive.json")

    archive_store(opened(), store, now=lambda: START + 50 * HOUR)
    return opened


def assert_same(found: Any, expected: Any) -> None:
    """Hold an answer of an archive against that of the store: rows, verdict and what was counted."""
    assert_frame_equal(found.rows, expected.rows)
    assert found.verdict == expected.verdict
    for name in ("digest", "events", "accounts", "position", "as_of", "recorded_as_of"):
        assert getattr(found.certificate, name) == getattr(expected.certificate, name), name


@pytest.mark.parametrize("account_ids", [(), ("anna",), ("bert", "zoe")])
@pytest.mark.parametrize("at", [None, 6, 9])
@pytest.mark.parametrize(
    "moment",
    [
        {},
        {"as_of": START + HOUR},
        {"as_of": START - HOUR},
        {"recorded_as_of": START + 4 * HOUR},
        {"as_of": START, "recorded_as_of": START + 8 * HOUR},
    ],
)
def test_balances_are_those_of_the_store(store: Store, archive: Open, account_ids, at, moment) -> None:
    """For some accounts or all, at any position and moment of either clock, before and after a compaction."""
    asked = {"at": at, "now": START + 50 * HOUR, **moment}
    expected = balances(store, account_ids, **asked)
    assert_same(balances_from_archive(archive(), account_ids, **asked), expected)
    compact(archive())
    found = balances_from_archive(archive(), account_ids, **asked)
    assert_same(found, expected)
    assert found.watermark == expected.watermark


def test_an_account_without_events_at_the_moment_is_no_error(archive: Open) -> None:
    """It has no row; one that the archive has never seen is named with what to do."""
    found = balances_from_archive(archive(), ["zoe"], as_of=START - HOUR)
    assert (found.verdict, found.rows.height) == ("COMPLETE", 0)
    with pytest.raises(UsageError, match=r"no account 'carl', 'nobody' in the archive.*bring the archive up to date"):
        balances_from_archive(archive(), ["zoe", "nobody", "carl"], as_of=START - HOUR)
    with pytest.raises(UsageError, match="'zzz'"):
        history_from_archive(archive(), "zzz")


def test_a_moment_past_the_watermark_has_no_answer(store: Store, archive: Open) -> None:
    """INCOMPLETE and no row after the moment up to which the archive is whole, or after `now`; up to it, an answer."""
    watermark = START + 50 * HOUR
    for clock in ("as_of", "recorded_as_of"):
        found = balances_from_archive(archive(), **{clock: watermark})
        assert (found.verdict, found.rows.height, found.watermark) == ("COMPLETE", 3, watermark)
        found = balances_from_archive(archive(), **{clock: watermark + timedelta(microseconds=1)})
        assert (found.verdict, found.rows.height, found.watermark) == ("INCOMPLETE", 0, watermark)
        found = balances_from_archive(archive(), now=watermark - HOUR, **{clock: watermark})
        assert (found.verdict, found.watermark) == ("INCOMPLETE", watermark - HOUR)
    assert balances_from_archive(archive()).verdict == "COMPLETE"
    archive_store(archive(), store, now=lambda: watermark + HOUR)
    assert balances_from_archive(archive(), as_of=watermark + HOUR).verdict == "COMPLETE"


@pytest.mark.parametrize("account_id", ["anna", "bert", "zoe"])
def test_history_is_that_of_the_store(store: Store, archive: Open, account_id: str) -> None:
    """Every column of every event, with the running sums."""
    assert_same(history_from_archive(archive(), account_id), history(store, account_id))


@pytest.mark.parametrize("transaction_id", ["anna-2", "anna-3", "bert-2", "zoe-2"])
def test_a_graph_is_that_of_the_store(store: Store, archive: Open, transaction_id: str) -> None:
    """Transactions, links and what is missing."""
    found, expected = graph_from_archive(archive(), transaction_id), graph(store, transaction_id)
    assert_frame_equal(found.transactions, expected.transactions)
    assert_frame_equal(found.edges, expected.edges)
    assert (found.missing, found.verdict) == (expected.missing, expected.verdict)
    with pytest.raises(UsageError, match="nothing"):
        graph_from_archive(archive(), "nothing")


@pytest.fixture
def torn(tmp_path: Path, store: Store, archive: Open) -> Open:
    """The archive with anna's and bert's last events in a second file, and that file damaged."""
    ledger = Ledger(store, clock=lambda: START + 40 * HOUR)
    ledger.credit("anna", "anna-4", 7, effective_at=START)
    ledger.unlock("bert", effective_at=START)
    first = set((tmp_path / "archive").glob("*.parquet"))
    archive_store(archive(), store, now=lambda: START + 50 * HOUR)
    (second,) = set((tmp_path / "archive").glob("*.parquet")) - first
    content = bytearray(second.read_bytes())
    content[len(content) // 3] ^= 1
    second.write_bytes(content)
    return archive


def test_an_account_of_a_damaged_file_has_no_number(store: Store, torn: Open) -> None:
    """What the file that is whole has of it is the middle of its history, so nothing is shown; others are as ever."""
    found = balances_from_archive(torn())
    assert (found.verdict, found.rows["account_id"].to_list()) == ("INCOMPLETE", ["zoe"])
    assert_frame_equal(found.rows, balances(store).rows.filter(pl.col("account_id") == "zoe"))
    assert [(each.first_account, each.last_account) for each in found.certificate.damaged] == [("anna", "bert")]
    assert balances_from_archive(torn(), ["zoe"]).verdict == "COMPLETE"
    for account_ids in (["anna"], ["azzz"]):
        alone = balances_from_archive(torn(), account_ids, as_of=START + 9 * HOUR)
        assert (alone.verdict, alone.rows.height) == ("INCOMPLETE", 0)
    told = history_from_archive(torn(), "anna")
    assert (told.verdict, told.rows.height) == ("INCOMPLETE", 0)
    assert history_from_archive(torn(), "zoe").verdict == "COMPLETE"
    for transaction_id in ("anna-2", "nothing"):
        drawn = graph_from_archive(torn(), transaction_id)
        assert (drawn.verdict, drawn.transactions.height, drawn.edges.height) == ("INCOMPLETE", 0, 0)
    assert graph_from_archive(torn(), "zoe-2").transactions["transaction_id"].to_list() == ["zoe-2"]


def test_a_check_sees_versions_that_are_there_twice_or_not_at_all(tmp_path: Path, store: Store, archive: Open) -> None:
    """Files that are what was written, and yet do not make whole accounts, are told by account."""
    opened = archive()
    before = opened.snapshot()
    assert check(opened).verdict == "COMPLETE"
    with replayed_archive(opened) as replay:
        assert replay.verdict == "COMPLETE"
    rows = pl.read_parquet(tmp_path / "archive" / before.files[0].name)
    keys = pl.struct("account_id", "version")
    lost, twice = [("anna", 2)], [("anna", 3), ("bert", 4)]
    wrong = pl.concat([rows.filter(~keys.is_in(_keys(lost))), rows.filter(keys.is_in(_keys(twice)))])
    is_first = (pl.col("account_id") == "zoe") & (pl.col("version") == 1)
    version = pl.when(is_first).then(0).otherwise("version")
    wrong = wrong.with_columns(version=version.cast(pl.Int64)).sort("account_id", "version")
    written = opened.files.put(wrong)
    opened.commit(before, before.held, added=[written], removed=before.files)
    found = check(archive())
    assert (found.verdict, found.damaged) == ("INCOMPLETE", [])
    assert [tuple(each) for each in found.miscounted] == [
        ("anna", 4, 3, 1, 4),
        ("bert", 5, 4, 1, 4),
        ("zoe", 3, 3, 0, 3),
    ]


def _keys(wanted: list[tuple[str, int]]) -> pl.Series:
    dtype = pl.Struct({"account_id": pl.String(), "version": pl.Int64()})
    return pl.Series(
        [{"account_id": account_id, "version": version} for account_id, version in wanted], dtype=dtype
    ).implode()


def test_a_check_looks_at_every_file_again(tmp_path: Path, archive: Open) -> None:
    """A file that was whole when it was read before is hashed all the same."""
    opened = archive()
    assert check(opened).verdict == "COMPLETE"
    (file,) = (tmp_path / "archive").glob("*.parquet")
    file.write_bytes(bytes(file.stat().st_size))
    assert [each.file for each in check(opened).damaged] == [file.name]


def test_a_rebuild_has_the_chains_of_the_store(store: Store, archive: Open) -> None:
    """The generation's rows are those of a rebuild from the store, chain by chain, in a compacted archive too."""
    expected = rebuild(store)
    for _ in range(2):
        found = rebuild_from_archive(store, archive(), now=START)
        assert found.certificate.digest == expected.certificate.digest
        with store.snapshot() as connection:
            heads = store.heads(connection).sort("account_id")
        with replayed_archive(archive(), links=True) as replay:
            assert_frame_equal(replay.gate.last.sort("account_id"), heads)
        compact(archive())


@pytest.mark.parametrize("name", ["as_of", "recorded_as_of", "now"])
def test_times_may_be_text(store: Store, archive: Open, name: str) -> None:
    """ISO 8601 gives what the datetime gives, and a date its UTC midnight; what is no time, or has no zone, is told."""
    moments: dict[str, datetime | str] = {"as_of": START, "now": START + 50 * HOUR, name: START + 4 * HOUR}
    asks = (lambda **asked: balances(store, **asked), lambda **asked: balances_from_archive(archive(), **asked))
    for ask in asks:
        expected = ask(**moments)
        for text in ("2026-03-01T04:00:00Z", "2026-03-01T12:00:00.000000+08:00"):
            found = ask(**moments | {name: text})
            assert_same(found, expected)
            assert (found.watermark, found.moment) == (expected.watermark, expected.moment)
        assert (
            ask(**moments | {name: "2026-03-02"}).certificate == ask(**moments | {name: START + 24 * HOUR}).certificate
        )
        for wrong in ("2026-03-01T04:00:00", "yesterday", "", "0001-01-01T00:00:00+10:00", 5, (START + HOUR).date()):
            with pytest.raises(UsageError, match=f"^{name} "):
                ask(**moments | {name: wrong})


def test_one_account_may_be_named_by_itself(store: Store, archive: Open) -> None:
    """A string is one id, not its letters; what is no text is told."""
    for ask in (lambda ids: balances(store, ids), lambda ids: balances_from_archive(archive(), ids)):
        assert_same(ask("anna"), ask(["anna"]))
        assert ask("anna").rows["account_id"].to_list() == ["anna"]
        with pytest.raises(UsageError, match="no account 'carl'"):
            ask("carl")
        with pytest.raises(UsageError, match="None is no account id"):
            ask([None])


def test_an_archive_is_opened_from_python(tmp_path: Path, store: Store, archive: Open) -> None:
    """The public names open it by its folder, notice a lost end by the file beside it, ask it and rebuild from it."""
    archive()
    for place in (
        tmp_path / "archive",
        str(tmp_path / "archive"),
        f"{tmp_path / 'archive'}/",
        (tmp_path / "archive").as_uri(),
    ):
        assert_same(replay.balances_from_archive(replay.open_archive(place), "anna"), balances(store, "anna"))
    assert_same(replay.history_from_archive(replay.open_archive(tmp_path / "archive"), "anna"), history(store, "anna"))
    rebuilt = replay.rebuild_from_archive(store, replay.open_archive(tmp_path / "archive"), promote=True)
    assert (rebuilt.verdict, rebuilt.promoted) == ("COMPLETE", True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="place is a file"):
        replay.open_archive(tmp_path / "file")
    archive_store(archive(), store, now=lambda: START + 60 * HOUR)
    max((tmp_path / "archive" / "_delta_log").glob("*.json")).unlink()
    with pytest.raises(IncompleteError, match="lost its newest entries"):
        replay.balances_from_archive(replay.open_archive(tmp_path / "archive"))


def test_what_a_check_leaves_out_is_not_counted(torn: Open) -> None:
    """Events are those of the files that are whole, and an account of a damaged file is not judged by the others."""
    found = check(torn())
    assert (found.verdict, found.files, found.events, len(found.damaged)) == ("INCOMPLETE", 2, 11, 1)
    assert found.state.events == 13
    assert found.miscounted == []


def test_a_check_of_an_archive_that_has_not_all_of_a_topic_is_not_whole(archive: Open) -> None:
    """Files that are what was written do not make up for a partition that could not be read to its end."""
    opened = archive()
    before = opened.snapshot()
    unread = Unread(partition=0, offset=3, until=5, reason="stalled", details="waits")
    opened.commit(before, msgspec.structs.replace(before.held, unread=[unread]))
    found = check(archive())
    assert (found.verdict, found.damaged, found.miscounted) == ("INCOMPLETE", [], [])
