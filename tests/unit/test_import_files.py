"""Files as they come: empty, with a BOM, with CRLF, cut off, in the wrong encoding, in three formats."""

from __future__ import annotations

import io
import sqlite3
import sys
from pathlib import Path

import msgspec
import polars as pl
import pytest
from imports import HEADER, NOW, bring, events_of, rejects_of, row, streams_of, write_csv

from ledger import Store
from ledger.importing import FileSource, Mapping, TableSource, csv_reader, import_transactions, sources
from schemas.errors import UsageError

HEAD = ",".join(HEADER).encode()
LINE = b"t1,a1,credit,completed,10,,,,2024-03-01T12:00:00Z"


def _file(tmp_path: Path, data: bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_an_empty_file_is_said_to_be_empty_or_unreadable(name: str, store: Store, tmp_path: Path):
    """An empty file of any format is bad usage in one line that names it."""
    with pytest.raises(UsageError, match=r"empty|not a readable Parquet file") as caught:
        bring(store, _file(tmp_path, b"", name))
    assert name in str(caught.value)


@pytest.mark.parametrize("data", [b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_of_nothing_visible_is_empty(data: bytes, store: Store, tmp_path: Path):
    """Blank lines or a byte order mark alone are an empty file."""
    with pytest.raises(UsageError, match="the file is empty"):
        bring(store, _file(tmp_path, data))


@pytest.mark.parametrize("data", [HEAD, HEAD + b"\n", b"\xef\xbb\xbf" + HEAD + b"\r\n"])
def test_a_header_only_is_an_import_of_nothing(data: bytes, store: Store, tmp_path: Path):
    """A header without rows is fine: nothing is imported and nothing rejected."""
    found = bring(store, _file(tmp_path, data))
    assert (found.imported, found.rejected, found.rejects) == (0, 0, None)
    assert not (tmp_path / "t.csv.rejects.csv").exists()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b""])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_a_byte_order_mark_change_nothing(mark: bytes, end: bytes, store: Store, tmp_path: Path):
    """LF, CRLF, CR and no end at all, with or without a BOM, give the same row."""
    found = bring(store, _file(tmp_path, mark + HEAD + (end or b"\n") + LINE + end))
    assert rejects_of(found) == []
    assert [event.account_id for event in events_of(store, "a1")] == ["a1", "a1"]


def test_rows_are_counted_by_their_first_line(store: Store, tmp_path: Path):
    """Blank lines and line breaks inside fields count, so a reject has the line where its row begins."""
    inside = b't2,a2,credit,completed,10,,"two\nlines",,2024-03-01T12:00:00Z'
    data = b"\n".join([HEAD, LINE, b"", inside, b"t3,a3,gift,completed,10,,,,2024-03-01", b"t4,a4"])
    found = bring(store, _file(tmp_path, data))
    assert [(reject["line"], reject["column"]) for reject in rejects_of(found)] == [(6, "type"), (7, None)]
    assert events_of(store, "a2")[1].business_code == "two\nlines"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"t2,a2,credit", "too few fields: 3, the header has 9"),
        (LINE + b",more", "too many fields: 10, the header has 9"),
        (b"t2,a2,credit,completed,10,,\xff\xfe,,2024-03-01", "not valid UTF-8"),
        (b't2,a2,credit,completed,10,,"x"y,,2024-03-01', "the row is not CSV"),
        (b't2,a2,credit,completed,10,,"x,,2024-03-01', "never closed"),
    ],
)
def test_a_row_that_is_no_row_is_rejected(line: bytes, reason: str, store: Store, tmp_path: Path):
    """A wrong number of fields, bytes that are no UTF-8 or stray quotes reject that row and no other."""
    found = bring(store, _file(tmp_path, b"\n".join([HEAD, LINE, line]) + b"\n"))
    (reject,) = rejects_of(found)
    assert reason in reject["reason"]
    assert reject["line"] == 3
    assert sorted(streams_of(store)) == ["a1"]


def test_a_quote_that_is_never_closed_takes_no_other_row(store: Store, tmp_path: Path):
    """Behind an open quotation mark every line is read on its own."""
    found = bring(store, _file(tmp_path, b"\n".join([HEAD, LINE, b't2,"a2', LINE.replace(b"t1", b"t3"), LINE])))
    (reject,) = rejects_of(found)
    assert (found.imported, found.unchanged, reject["line"]) == (2, 1, 3)
    assert "never closed" in reject["reason"]
    assert reject["row"] == '"t2,\\"a2"'


STRAY = b'st,ast,credit,completed,10,,"x,,2024-03-01'
CLOSING = {
    "quoted field": b't501,a501,credit,completed,10,,"code",,2024-03-01',
    "empty quoted field": b't501,a501,credit,completed,10,,"",,2024-03-01',
    "stray close in another column": b't501,a501",credit,completed,10,,,,2024-03-01',
    "nothing": b"t501,a501,credit,completed,10,,,,2024-03-01",
}


@pytest.mark.parametrize("rows_max", [10, 1000])
@pytest.mark.parametrize("closing", CLOSING)
def test_a_stray_quote_takes_no_good_row(
    closing: str, rows_max: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One stray quotation mark among a thousand rows rejects its own line, whatever comes hundreds of lines later."""
    monkeypatch.setattr(csv_reader, "ROW_LINES_MAX", rows_max)
    monkeypatch.setattr(
        sources, "read_csv", lambda stream, **options: csv_reader.read_csv(stream, block_bytes=9_999, **options)
    )
    lines = [b"t%d,a%d,credit,completed,10,,,,2024-03-01" % (number, number % 9) for number in range(1000)]
    lines[11], lines[501] = STRAY, CLOSING[closing]
    found = bring(store, _file(tmp_path, b"\n".join([HEAD, *lines])))
    assert (found.imported, [reject["line"] for reject in rejects_of(found)]) == (999, [13])


def test_lines_between_two_stray_quotes_are_all_named(store: Store, tmp_path: Path):
    """Lines that look like rows within one well-formed field are rejected one by one, neither taken nor lost."""
    lines = [LINE, STRAY, LINE, LINE.replace(b"t1", b"t3"), b'y,a,credit,completed,10,,y",,2024-03-01']
    found = bring(store, _file(tmp_path, b"\n".join([HEAD, *lines, LINE])))
    rejects = rejects_of(found)
    assert [reject["line"] for reject in rejects] == [3, 4, 5, 6]
    assert all("lines 3 to 6 are one quoted field" in reject["reason"] for reject in rejects)
    assert (found.imported, found.unchanged) == (1, 1)


def test_a_very_long_line_is_read(store: Store, tmp_path: Path):
    """A field of megabytes is a field."""
    note = "x" * 3_000_000
    rows = [row(1, metadata=f'{{"note":"{note}"}}'), row(2)]
    found = bring(store, write_csv(tmp_path / "t.csv", rows))
    assert (found.imported, found.rejected) == (2, 0)
    assert events_of(store, "a1")[1].metadata == {"note": note}


def test_another_encoding_is_named(store: Store, tmp_path: Path):
    """A UTF-16 file is refused as such."""
    with pytest.raises(UsageError, match="UTF-16"):
        bring(store, _file(tmp_path, (HEAD + b"\n" + LINE).decode().encode("utf-16")))


@pytest.mark.parametrize("missing", ["transaction_id", "account_id", "type", "status", "amount", "created_at"])
def test_a_missing_column_is_bad_usage(missing: str, store: Store, tmp_path: Path):
    """A file without a required column imports nothing and the message names the column."""
    header = [name for name in HEADER if name != missing]
    rows = [{name: value for name, value in row(1).items() if name != missing}]
    with pytest.raises(UsageError, match=f"column '{missing}' is missing"):
        bring(store, write_csv(tmp_path / "t.csv", rows, header))


def test_a_mapped_column_that_is_not_there_is_bad_usage(store: Store, tmp_path: Path):
    """A slip in the name of an optional column is an error, since it would drop the column of every row."""
    path = write_csv(tmp_path / "rows.csv", [row()])
    with pytest.raises(UsageError, match="'relatd'"):
        bring(store, path, mapping=Mapping(columns={"related_transaction_id": "relatd"}))
    assert not streams_of(store)


def test_unknown_columns_are_named(store: Store, tmp_path: Path):
    """Columns that mean nothing here are ignored, and the result says which."""
    rows = [row(1, shoe_size="42", line="7")]
    found = bring(store, write_csv(tmp_path / "t.csv", rows, [*HEADER, "shoe_size", "line"]))
    assert found.imported == 1
    assert found.ignored_columns == ["line (column 11)", "shoe_size"]


@pytest.mark.parametrize(("name", "match"), [("t.xlsx", "unknown ending"), ("-", "no ending")])
def test_an_unknown_format_is_bad_usage(name: str, match: str):
    """An ending that says nothing, or standard input without a format, is bad usage that lists the formats."""
    with pytest.raises(UsageError, match=match) as caught:
        FileSource(name)
    assert "csv, jsonl or parquet" in str(caught.value)


def test_a_file_that_is_not_there_is_bad_usage(store: Store, tmp_path: Path):
    """A missing file is one line that names it."""
    with pytest.raises(UsageError, match="cannot open the file"):
        bring(store, tmp_path / "none.csv")


def test_a_delimiter_can_be_mapped(store: Store, tmp_path: Path):
    """Files with semicolons are read by saying so."""
    data = (HEAD + b"\n" + LINE).replace(b",", b";")
    assert bring(store, _file(tmp_path, data), mapping=Mapping(delimiter=";")).imported == 1


def test_json_lines_give_what_csv_gives(store: Store, tmp_path: Path):
    """JSON Lines with numbers and objects give the same events as the CSV that says the same."""
    fields = {"metadata": '{"order_id":"o1","n":[1,{}]}', "business_code": "x"}
    bring(store, write_csv(tmp_path / "t.csv", [row(1, **fields)]))
    line = row(1, **fields) | {"amount": 10, "metadata": {"order_id": "o1", "n": [1, {}]}, "related": None}
    other = Store.at(tmp_path / "other")
    found = bring(other, _file(tmp_path, msgspec.json.encode(line) + b"\n", "t.jsonl"))
    assert found.ignored_columns == ["related"]
    assert streams_of(other) == streams_of(store)
    other.close()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{oops", "the line is not JSON"),
        (b"[1]", "the line is no JSON object"),
        (b'{"transaction_id":"t2"}', "account_id is missing"),
        (msgspec.json.encode(row(2))[:-1] + b',"amount":"11"}', "the line has the key 'amount' twice"),
        (msgspec.json.encode(row(2))[:-1] + b',"metadata":{"a":1,"a":2}}', "the line has the key 'a' twice"),
        (b'{"transaction_id":"\xff"}', "the line is not JSON"),
        (msgspec.json.encode(row(2) | {"amount": 10.0}), "amount_scale"),
        (msgspec.json.encode(row(2) | {"amount": True}), "an integer above zero: 'true'"),
        (msgspec.json.encode(row(2) | {"metadata": [1]}), "not a JSON object"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "the line is not JSON"),
    ],
)
def test_a_bad_line_of_json_is_rejected(line: bytes, reason: str, store: Store, tmp_path: Path):
    """A line that is no JSON object, or says something impossible, is a reject with its line."""
    good = msgspec.json.encode(row(1))
    found = bring(store, _file(tmp_path, b"\n".join([good, b"", line, b""]), "t.jsonl"))
    (reject,) = rejects_of(found)
    assert reject["line"] == 3
    assert reason in reject["reason"]
    assert found.imported == 1


def test_parquet_gives_what_csv_gives(store: Store, tmp_path: Path):
    """Typed Parquet columns (integers, moments, structs) give the same events as the CSV that says the same."""
    bring(store, write_csv(tmp_path / "t.csv", [row(1, metadata='{"order_id":"o1"}'), row(2)]))
    frame = pl.DataFrame([row(1), row(2)]).with_columns(
        pl.col("amount").cast(pl.Int64),
        pl.col("created_at").str.to_datetime(time_zone="UTC").dt.convert_time_zone("Asia/Tokyo"),
        metadata=pl.Series([{"order_id": "o1"}, None]),
    )
    frame.write_parquet(tmp_path / "t.parquet")
    other = Store.at(tmp_path / "other")
    found = bring(other, tmp_path / "t.parquet")
    assert (found.imported, found.naive_times) == (2, 0)
    assert streams_of(other) == streams_of(store)
    other.close()


@pytest.mark.parametrize("keep", [4, 100, -9])
def test_a_truncated_parquet_file_is_bad_usage(keep: int, store: Store, tmp_path: Path):
    """A Parquet file that was cut off is one line that says so, whatever the reader does with it."""
    pl.DataFrame([row(number) for number in range(1000)]).write_parquet(tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()[:keep]
    with pytest.raises(UsageError, match="not a readable Parquet file"):
        bring(store, _file(tmp_path, data, "t.parquet"))


def test_parquet_floats_are_rejected_like_any(store: Store, tmp_path: Path):
    """A float column is no column of whole points."""
    pl.DataFrame([row(1)]).with_columns(pl.col("amount").cast(pl.Float64)).write_parquet(tmp_path / "t.parquet")
    found = bring(store, tmp_path / "t.parquet")
    assert "amount_scale" in rejects_of(found)[0]["reason"]


def test_standard_input_is_read_by_its_format(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a format, "-" is standard input, for Parquet too."""
    pl.DataFrame([row(1)]).write_parquet(tmp_path / "t.parquet")
    for name, data in (("csv", HEAD + b"\n" + LINE), ("parquet", (tmp_path / "t.parquet").read_bytes())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        found = import_transactions(store, FileSource("-", name), now=NOW, rejects=tmp_path / "r.csv")
        assert found.imported + found.unchanged == 1


def _foreign(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/foreign.db"
    rows = pl.DataFrame([row(1, metadata='{"order_id":"o1"}'), row(2, amount="-3")])
    with sqlite3.connect(tmp_path / "foreign.db") as connection:
        connection.execute(f"CREATE TABLE points ({', '.join(rows.columns)})")
        connection.executemany(f"INSERT INTO points VALUES ({', '.join('?' * rows.width)})", rows.rows())
    connection.close()
    return url


@pytest.mark.parametrize("what", [{"table": "points"}, {"query": "SELECT * FROM points ORDER BY transaction_id"}])
def test_a_table_or_query_of_another_database_is_read(what: dict[str, str], store: Store, tmp_path: Path):
    """Rows of a foreign table are read by URL, a bad one is named by its number, and nothing there changes."""
    url = _foreign(tmp_path)
    before = (tmp_path / "foreign.db").read_bytes()
    found = import_transactions(store, TableSource(url, **what), now=NOW, rejects=tmp_path / "r.csv")
    assert (found.imported, [reject["line"] for reject in rejects_of(found)]) == (1, [2])
    assert events_of(store, "a1")[1].order_id == "o1"
    assert (tmp_path / "foreign.db").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda tmp_path: TableSource(f"sqlite:///{tmp_path}/none.db", table="t"), "no such SQLite file"),
        (lambda tmp_path: TableSource(_foreign(tmp_path), table="absent"), "no such table"),
        (lambda tmp_path: TableSource(_foreign(tmp_path), query="SELEC"), "syntax error"),
        (lambda tmp_path: TableSource("nonsense", table="t"), "not a database URL"),
        (lambda tmp_path: TableSource("oracle://h/x", table="t"), "no driver"),
        (lambda tmp_path: TableSource("sqlite://", table="t", query="q"), "only one of them"),
    ],
)
def test_an_unusable_foreign_database_is_bad_usage(make, match: str, store: Store, tmp_path: Path):
    """A wrong URL, a missing table or a bad query is one line that names it."""
    with pytest.raises(UsageError, match=match):
        import_transactions(store, make(tmp_path), now=NOW, rejects=tmp_path / "r.csv")
    assert not (tmp_path / "none.db").exists()


def test_the_rejects_file_that_cannot_be_written_is_bad_usage(store: Store, tmp_path: Path):
    """Where rejects cannot be written, the import ends with one line instead of losing them."""
    _file(tmp_path, b"", "taken")
    path = write_csv(tmp_path / "t.csv", [row(1, amount="0")])
    with pytest.raises(UsageError, match="cannot write the rejects file"):
        import_transactions(store, FileSource(path), now=NOW, rejects=tmp_path / "taken" / "r.csv")


def test_an_old_rejects_file_does_not_outlive_a_clean_import(store: Store, tmp_path: Path):
    """After an import without rejects there is no rejects file of its name, but a file of another kind stays."""
    path = write_csv(tmp_path / "t.csv", [row(1), row(2, amount="0")])
    rejects = tmp_path / "t.csv.rejects.csv"
    assert bring(store, path).rejects == rejects
    assert rejects.exists()
    write_csv(path, [row(1)])
    assert bring(store, path).rejects is None
    assert not rejects.exists()
    rejects.write_text("a note\n")
    bring(store, path)
    assert rejects.read_text() == "a note\n"


def test_progress_counts_rows_read_and_then_done(store: Store, tmp_path: Path):
    """Progress is called while reading without a total, and while appending up to it."""
    calls: list[tuple[int, int | None]] = []
    path = write_csv(tmp_path / "t.csv", [row(number) for number in range(5)])
    import_transactions(
        store,
        FileSource(path),
        now=NOW,
        rejects=tmp_path / "r",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (5, None) in calls
    assert calls[-1] == (5, 5)
