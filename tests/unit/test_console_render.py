"""An answer reads the same as text, CSV, one JSON document and Parquet, and nothing is cut off in silence."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import msgspec
import polars as pl
import pytest

from console.answer import EXIT_STATUS, Answer
from console.render import document, emit, need_place, text
from schemas.errors import UsageError

TABLE = pl.DataFrame(
    {
        "account_id": ["a,b", 'c"d', "e\x1b[2Jf"],
        "balance": [2**63 - 1, -5, None],
        "at": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None, datetime(2026, 1, 1, 0, 0, 0, 7, tzinfo=UTC)],
    },
    schema_overrides={"at": pl.Datetime("us", "UTC")},
)
ANSWER = Answer(verdict="COMPLETE", fields={"watermark": 5}, table=TABLE, table_name="accounts")


def test_document_has_verdict_first_and_times_with_microseconds() -> None:
    """The JSON document holds verdict, fields and rows; whole int64 and times in ISO 8601 UTC."""
    fields = msgspec.json.decode(document(ANSWER))
    assert list(fields) == ["verdict", "watermark", "accounts"]
    assert fields["accounts"][0] == {
        "account_id": "a,b",
        "balance": 2**63 - 1,
        "at": "2026-01-02T03:04:05.000000Z",
    }
    assert [row["at"] for row in fields["accounts"]][1:] == [None, "2026-01-01T00:00:00.000007Z"]


def test_plain_text_aligns_and_shows_control_characters_as_escapes() -> None:
    """Text for a pipe has numbers to the right, and an id cannot move the cursor."""
    lines = text(ANSWER).splitlines()
    assert lines[0].split() == ["account_id", "balance", "at"]
    assert "\x1b" not in text(ANSWER)
    assert "e\\x1b[2Jf" in lines[3]


def test_long_table_says_how_many_rows_are_not_shown() -> None:
    """What is left out is counted."""
    shown = text(Answer(verdict="OK", table=pl.DataFrame({"n": range(1_045)})))
    assert "1,005 more rows of 1,045" in shown
    assert "more rows" not in text(Answer(verdict="OK", table=pl.DataFrame({"n": range(40)})))


@pytest.mark.parametrize("ending", ["csv", "parquet", "json", "txt"])
def test_output_file_by_ending(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], ending: str) -> None:
    """The ending of --output chooses the form; nothing but a note on stderr is printed."""
    path = tmp_path / "deep" / f"rows.{ending}"
    emit(ANSWER, as_json=False, format=None, output=path)
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert str(path).encode() in err
    if ending == "csv":
        assert pl.read_csv(path)["account_id"].to_list() == TABLE["account_id"].to_list()
    elif ending == "parquet":
        assert pl.read_parquet(path).equals(TABLE)
    elif ending == "json":
        assert msgspec.json.decode(path.read_bytes())["verdict"] == "COMPLETE"
    else:
        assert "account_id" in path.read_text()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_json_and_file_together(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """With --json and --output the table goes to the file and the one document to stdout."""
    emit(ANSWER, as_json=True, format="csv", output=tmp_path / "rows.csv")
    assert msgspec.json.decode(capsysbinary.readouterr().out)["verdict"] == "COMPLETE"
    assert (tmp_path / "rows.csv").read_text().startswith("account_id,balance,at\n")


def test_csv_on_stdout_keeps_the_verdict_on_stderr(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Rows alone carry no verdict, so it is said beside them."""
    emit(Answer(verdict="INCOMPLETE", table=TABLE), as_json=False, format="csv", output=None)
    out, err = capsysbinary.readouterr()
    assert pl.read_csv(BytesIO(out)).height == 3
    assert b"INCOMPLETE" in err


@pytest.mark.parametrize(("format", "answer"), [("parquet", ANSWER), ("dot", ANSWER), ("csv", Answer(verdict="OK"))])
def test_form_that_an_answer_does_not_have(format: str, answer: Answer) -> None:
    """A form that cannot be given is a usage error, not an empty file."""
    with pytest.raises(UsageError):
        emit(answer, as_json=False, format=format, output=None)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    """A path below a file is named in the error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/rows"):
        emit(ANSWER, as_json=False, format=None, output=tmp_path / "file" / "rows.csv")


def test_nested_columns_become_json_text_in_csv(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A struct or list column is one JSON cell."""
    rows = pl.DataFrame({"details": [{"a": 1, "b": "x"}]})
    emit(Answer(verdict="OK", table=rows), as_json=False, format="csv", output=None)
    assert capsysbinary.readouterr().out == b'details\n"{""a"":1,""b"":""x""}"\n'


def test_exit_status_is_the_highest_that_holds() -> None:
    """Several verdicts give the highest status; an unknown one is an error of ours."""
    assert Answer(verdict="FINDINGS", also=["INCOMPLETE"]).exit_status == 3
    assert Answer(verdict="EQUAL").exit_status == 0
    assert {EXIT_STATUS[verdict] for verdict in ("DRIFT", "FINDINGS")} == {1}
    with pytest.raises(KeyError):
        _ = Answer(verdict="FINE").exit_status


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal", "ledger.db-shm"])
def test_a_database_is_never_the_output(tmp_path, name):
    """An output that is an SQLite file, or belongs to one, is refused before anything is done."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute("CREATE TABLE t (n)")
    with pytest.raises(UsageError, match="overwrite a database"):
        need_place(tmp_path / name)
    need_place(tmp_path / "rows.csv")


def test_a_pipe_gets_every_row(capsys):
    """Where no terminal is, no row of a long table is left out."""
    emit(Answer(verdict="OK", table=pl.DataFrame({"n": range(1_045)})), as_json=False, format=None, output=None)
    shown = capsys.readouterr().out
    assert "1044" in shown
    assert "more rows" not in shown
