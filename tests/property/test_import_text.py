"""Whatever stands in a file: both CSV readers agree, ids of any Unicode go through, nothing ends in a traceback."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import HEADER, bring, rejects_of, row, streams_of, write_csv

from ledger import Ledger, Store
from ledger.importing import csv_reader
from schemas.errors import UsageError

# Mostly the characters that CSV, JSON and readers of lines stumble over.
ODD = list(",;\"'\n\r\t \0\x0b\x0c\x1c\x85\u2028\ufeff\\{}#aé\U0001f600")
HEAVY = settings(max_examples=settings.default.max_examples // 4)
CELL = st.text(ODD, max_size=4)
ANY_CHARACTER = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def _both(data: bytes, block_bytes: int) -> list[tuple[list[tuple[object, ...]], list[tuple[object, ...]]]]:
    fast = csv_reader._fast
    answers = []
    for reader in (fast, lambda *_: None):
        csv_reader._fast = reader
        try:
            batches = list(csv_reader.read_csv(io.BytesIO(data), delimiter=",", where="x", block_bytes=block_bytes))
        finally:
            csv_reader._fast = fast
        rows = pl.concat([batch.rows for batch in batches]).rows()
        answers.append((rows, sorted(pl.concat([batch.bad for batch in batches]).rows())))
    return answers


@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block_bytes=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_both_csv_readers_give_the_same_rows_of_written_csv(rows, end, quoting, block_bytes):
    """For any cells in any shape the columnar reader and the csv module give the same rows, lines and rejects."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerow(["x", "y", "z"])
    writer.writerows(rows)
    fast, slow = _both(text.getvalue().encode(), block_bytes)
    assert fast == slow
    whole = [tuple(cells) for cells in rows if len(cells) == 3]
    if not any("\r" in cell or "\n" in cell for cells in rows for cell in cells):
        assert [found[1:] for found in slow[0]] == whole


@given(
    data=st.lists(st.sampled_from([*ODD, '""', "\r\n", "x,y,z\n", "1,2,3\n"]), max_size=40),
    block_bytes=st.sampled_from([1, 9, 1 << 20]),
)
def test_both_csv_readers_agree_on_any_bytes(data, block_bytes):
    """For any text after a header, well formed or not, both readers agree."""
    fast, slow = _both(("x,y,z\n" + "".join(data)).encode(), block_bytes)
    assert fast == slow


@HEAVY
@given(data=st.binary(max_size=80) | st.text(ODD, max_size=60).map(str.encode))
def test_any_bytes_are_an_answer_and_no_traceback(data):
    """Any bytes as a CSV, JSON Lines or Parquet file give a result or one clear error."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.at(folder)
        for name, start in (
            ("t.csv", b""),
            ("t.csv", ",".join(HEADER).encode() + b"\n"),
            ("t.jsonl", b""),
            ("t.parquet", b""),
        ):
            path = Path(folder) / name
            path.write_bytes(start + data)
            try:
                found = bring(store, path)
            except UsageError as error:
                answer = str(error)
            else:
                answer = f"{name}: {found.imported} imported"
            assert answer.endswith("0 imported") or name in answer
        store.close()


@HEAVY
@given(
    ids=st.lists(
        st.tuples(*[st.text(ANY_CHARACTER, min_size=1, max_size=30)] * 2), unique_by=lambda pair: pair[0], max_size=8
    )
)
def test_ids_of_any_unicode_go_through(ids):
    """Transaction and account ids of any characters come back from the library as they were in the file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.at(folder)
        rows = [row(1, transaction_id=transaction, account_id=account) for transaction, account in ids]
        path = write_csv(Path(folder) / "t.csv", rows, is_quoted=True)
        found = bring(store, path)
        assert rejects_of(found) == []
        assert set(streams_of(store)) == {account for _, account in ids}
        ledger = Ledger(store)
        for transaction, account in ids:
            assert transaction in ledger.account(account).transactions
        assert bring(store, path).unchanged == len(ids)
        store.close()
