"""A data file that is what was written, and holds a row twice or lacks one: no question is answered from it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from archives import archive_at
from ledgers import append
from samples import START, account_stream

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.answers import balances_from_archive, history_from_archive
from replay.archive.reading import scan
from schemas.errors import IncompleteError

LATER = START + timedelta(days=1)

QUESTIONS = {
    "all": {},
    "all at a moment": {"as_of": LATER},
    "all by when they were recorded": {"recorded_as_of": LATER},
    "one": {"account_ids": ["a"]},
    "one among others": {"account_ids": ["b", "a"]},
    "one at a moment": {"account_ids": ["a"], "as_of": LATER},
    "all at a position": {"at": 9},
    "one at a position": {"account_ids": ["a"], "at": 9},
    "all at a position and a moment": {"at": 9, "as_of": LATER},
}

HARMS = {
    "twice": [1, 2, 3, 3, 4, 5],
    "missing": [1, 2, 4, 5],
    "first missing": [2, 3, 4, 5],
    "one twice and one missing": [1, 2, 2, 4, 5],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of two accounts, and its archive."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 5), *account_stream("b", 5))
    archive_store(archive_at(tmp_path), store)
    yield store
    store.close()


def forge(folder: Path, versions: list[int]) -> None:
    """Put another file in the place of the archive's, with a hash and a log that are right."""
    archive = archive_at(folder)
    found = archive.snapshot()
    assert found is not None
    rows = scan(archive, found.files).collect()
    of_a = {version: rows.filter(account_id="a", version=version) for version in range(1, 6)}
    forged = pl.concat([*(of_a[version] for version in versions), rows.filter(account_id="b")])
    archive.commit(found, found.held, added=[archive.files.put(forged)], removed=found.files)


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each.startswith("one")])
@pytest.mark.parametrize("harm", HARMS)
def test_a_question_about_the_account(tmp_path, store, harm, question):
    """Whoever asks for the account has no number of it."""
    forge(tmp_path, HARMS[harm])
    check_no_number(tmp_path, question)


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each.startswith("all")])
@pytest.mark.parametrize("harm", ["twice", "missing", "first missing"])
def test_a_question_about_all(tmp_path, store, harm, question):
    """A row that is too many or too few is noticed among all accounts."""
    forge(tmp_path, HARMS[harm])
    check_no_number(tmp_path, question)


@pytest.mark.parametrize("question", ["all at a moment", "all at a position", "all at a position and a moment"])
def test_one_for_the_other(tmp_path, store, question):
    """Where accounts are counted anyway, one row for another is noticed too."""
    forge(tmp_path, HARMS["one twice and one missing"])
    check_no_number(tmp_path, question)


def check_no_number(folder: Path, question: str) -> None:
    """Check that there is no row of the account, by an error that names it or by the verdict."""
    try:
        found = balances_from_archive(archive_at(folder), **QUESTIONS[question], now=LATER)
    except IncompleteError as error:
        # A hole at a position is no error, but a verdict.
        words = str(error)
    else:
        words = ""
        assert found.verdict == "INCOMPLETE"
        assert [each.account_id for each in found.certificate.parked] == ["a"]
        assert "a" not in found.rows["account_id"]
    if words:
        assert "archive --check" in words
        assert "'a'" in words or question == "all"


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_whole_is_answered(tmp_path, store, question):
    """The file with every row once is COMPLETE, from one archive again and again."""
    archive = archive_at(tmp_path)
    for _ in range(2):
        found = balances_from_archive(archive, **QUESTIONS[question], now=LATER)
        assert found.verdict == "COMPLETE"
        assert dict(found.rows.select("account_id", "balance").iter_rows())["a"] == 40


def test_a_history_with_a_row_twice(tmp_path, store):
    """Nobody is shown a running balance over a row that is there twice."""
    forge(tmp_path, HARMS["twice"])
    with pytest.raises(IncompleteError, match="'a' has 6 events"):
        history_from_archive(archive_at(tmp_path), "a")
    assert history_from_archive(archive_at(tmp_path), "b").rows.height == 5


def test_other_accounts_are_answered(tmp_path, store):
    """Who asks for another account has it."""
    forge(tmp_path, HARMS["twice"])
    assert balances_from_archive(archive_at(tmp_path), ["b"]).verdict == "COMPLETE"
