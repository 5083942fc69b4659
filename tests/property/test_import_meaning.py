"""The columnar import against a plain reading of the contract, row by row, for random files in any cut."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import NOW, bring, rejects_of, streams_of, write_csv
from msgspec.json import decode, encode

from ledger import Store
from ledger.importing import Mapping, staging
from ledger.importing.codecs import Message
from ledger.importing.intake import RowImport
from ledger.importing.rejects import RejectsLog, place_of
from ledger.rules import is_legal

STATUSES = ("pending", "frozen", "completed", "cancelled")
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "transaction_id": st.sampled_from(["t1", "t2", "t3", "t4"]),
            "account_id": st.sampled_from(["a", "a", "a", "b"]),
            "type": st.sampled_from(["credit", "credit", "debit"]),
            "status": st.sampled_from(STATUSES),
            "amount": st.sampled_from(["1", "1", "1", "2"]),
            "business_code": st.sampled_from(["", "", "x"]),
            "metadata": st.sampled_from(["", "", '{"n":1}', '{"n": 1}', '{"n":1.0}']),
            "created_at": st.sampled_from(["2024-01-01", "2024-01-01", "2024-01-02"]),
        }
    ),
    max_size=14,
)
HEADER = ["transaction_id", "account_id", "type", "status", "amount", "business_code", "metadata", "created_at"]


def _oracle(parts: list[list[dict[str, str]]]) -> tuple[dict[str, list[tuple[Any, ...]]], list[int]]:
    """Return each account's (transaction, from, to) in stream order, and the places of the rejected rows."""
    known: dict[str, dict[str, Any]] = {}
    streams: dict[str, list[tuple[Any, ...]]] = {}
    rejected, place = [], 0
    for rows in parts:
        new: dict[str, list[tuple[Any, ...]]] = {}
        moments: dict[str, str] = {}
        for row in rows:
            place += 1
            said = (row["business_code"], decode(row["metadata"] or "null"))
            identity = (row["account_id"], row["type"], row["amount"])
            before = known.get(row["transaction_id"])
            status = row["status"]
            if before is None:
                first = (row["created_at"], *said)
                known[row["transaction_id"]] = {
                    "id": identity,
                    "first": first,
                    "said": {status: [first]},
                    "now": status,
                }
                moments[row["transaction_id"]] = row["created_at"]
                new.setdefault(row["account_id"], []).append(
                    (row["created_at"], place, row["transaction_id"], None, status)
                )
                continue
            same = before["id"] == identity
            contents = before["said"].get(status, [])
            is_of_then = row["created_at"] == before["first"][0]
            contents = [*contents, before["first"]] if contents else []
            if same and ((row["created_at"], *said) in contents or (is_of_then and said in contents)):
                continue
            if same and not contents and is_legal(before["now"], status):
                moment = max(row["created_at"], moments.get(row["transaction_id"], ""))
                moments[row["transaction_id"]] = moment
                change = (moment, place, row["transaction_id"], before["now"], status)
                new.setdefault(row["account_id"], []).append(change)
                before["said"][status] = [said]
                before["now"] = status
            else:
                rejected.append(place)
        for account, changes in new.items():
            streams.setdefault(account, []).extend(change[2:] for change in sorted(changes, key=lambda each: each[:2]))
    return streams, rejected


def _changes(streams: dict[str, list[bytes]]) -> dict[str, list[tuple[Any, ...]]]:
    """Return each account's (transaction, from, to) of wire bytes."""
    return {
        account: [
            (event["transaction_id"], event["from_status"], event["to_status"])
            for event in map(decode, stream)
            if event["event"] != "account.opened"
        ]
        for account, stream in streams.items()
    }


@settings(max_examples=settings.default.max_examples // 2)
@given(rows=ROWS, cut=st.integers(0, 14), group_rows=st.sampled_from([1, 1000]))
def test_an_import_means_what_the_contract_says(rows, cut, group_rows):
    """Events, their order and the rejects are those of a row-by-row reading, in one file or two, and again nothing."""
    parts = [rows[:cut], rows[cut:]]
    expected, rejected = _oracle(parts)
    before = staging.GROUP_ROWS_MAX
    staging.GROUP_ROWS_MAX = group_rows
    try:
        with tempfile.TemporaryDirectory() as folder:
            store = Store.at(folder)
            lines = []
            for number, part in enumerate(parts):
                found = bring(store, write_csv(Path(folder) / f"{number}.csv", part, HEADER))
                lines += [reject["line"] - 1 + cut * number for reject in rejects_of(found)]
                assert found.imported + found.unchanged + found.rejected == len(part)
            streams = streams_of(store)
            assert _changes(streams) == expected
            assert sorted(lines) == rejected
            for number, part in enumerate(parts):
                assert bring(store, write_csv(Path(folder) / f"{number}.csv", part, HEADER)).imported == 0
            assert streams_of(store) == streams
            store.close()
    finally:
        staging.GROUP_ROWS_MAX = before


@settings(max_examples=settings.default.max_examples // 4)
@given(parts=st.lists(st.tuples(ROWS, st.booleans()), max_size=4))
def test_records_mean_what_rows_mean(parts):
    """Rows of a topic, batch by batch and process by process, mean what the same rows in so many files mean."""
    expected, rejected = _oracle([rows for rows, _ in parts])
    with tempfile.TemporaryDirectory() as folder:
        store = Store.at(folder)
        log = Path(folder) / "rejects.csv"
        taking, offset, counted = None, 0, 0
        for rows, is_new in parts:
            if taking is None or is_new:
                taking = RowImport(store, codec="json", mapping=Mapping(), now=lambda: NOW, rejects=RejectsLog(log))
            before = taking.taken.imported + taking.taken.unchanged + taking.taken.rejected
            messages = [Message(place_of(0, offset + at), None, encode(row)) for at, row in enumerate(rows)]
            taking.take(messages, lambda _: None)
            counted += taking.taken.imported + taking.taken.unchanged + taking.taken.rejected - before
            offset += len(rows)
        assert counted == offset
        assert _changes(streams_of(store)) == expected
        places = pl.read_csv(log, infer_schema=False)["place"].to_list() if log.exists() else []
        assert places == [f"0:{place - 1}" for place in rejected]
        store.close()
