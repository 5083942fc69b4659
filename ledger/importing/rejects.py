"""The rejects file: every row that was not imported, with its line and the reason."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import polars as pl

from schemas.errors import UsageError

__all__ = ["REJECT_SCHEMA", "Rejects", "RejectsLog", "as_rejects", "place_of", "place_text", "row_json"]

#: `line` is the row's first line in the file (its number in a table); `column` is ours; `row` is the row as JSON.
REJECT_SCHEMA = pl.Schema(
    {
        "line": pl.Int64(),
        "reason": pl.String(),
        "column": pl.String(),
        "transaction_id": pl.String(),
        "row": pl.String(),
    }
)

_HEADER_OF_PLACES = ",".join(["place", *list(REJECT_SCHEMA)[1:]]).encode()
_HEADERS = {",".join(REJECT_SCHEMA).encode(), _HEADER_OF_PLACES}

#: How a record's place is one number: its offset, and above these bits its partition.
OFFSET_BITS = 44


def place_of(partition: int, offset: int) -> int:
    """Return the number of a record that orders it by partition and offset, as rows have a line."""
    return (partition << OFFSET_BITS) | offset


def place_text(line: int) -> str:
    """Return `partition:offset` of the number of a record."""
    return f"{line >> OFFSET_BITS}:{line & ((1 << OFFSET_BITS) - 1)}"


def with_places(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rejects with `place`, partition and offset as text, instead of the number `line`."""
    places = pl.Series("place", [place_text(line) for line in rows["line"].to_list()], dtype=pl.String)
    return rows.select(places, *(name for name in REJECT_SCHEMA if name != "line"))


class RejectsLog:
    """Appends the rejects of records to a CSV file that stays from run to run, with `place` instead of `line`.

    A record is read once, so what is said about it must not be lost: `add` returns when it is on the disk. A record
    may stand there twice, where its reader was killed before it could move on. UsageError for a file that holds
    something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        try:
            first = _first_bytes(path, len(_HEADER_OF_PLACES) + 1)
        except OSError as error:
            raise UsageError(f"cannot read the rejects file of before: {error}", where=str(path)) from error
        # Less than the header is what a process left that was killed while it wrote it.
        if not (_HEADER_OF_PLACES + b"\n").startswith(first):
            raise UsageError(
                "the file holds something else than rejects of records",
                where=str(path),
                next_step="name another one with --rejects",
            )

    @property
    def file(self) -> Path | None:
        """Where the rejects are, None where this run has none."""
        return self.path if self.count else None

    def add(self, rows: pl.DataFrame) -> None:
        """Append rows that have at least the columns of `REJECT_SCHEMA`."""
        if rows.is_empty():
            return
        table = _clean(with_places(rows.select(REJECT_SCHEMA.names())))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                _drop_torn_line(file)
                table.write_csv(file, include_header=file.tell() == 0)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write the rejects file: {error}", where=str(self.path)) from error
        self.count += rows.height


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        return b""


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut off what a process that was killed while it wrote has left behind the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        place = file.read(end - start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    file.truncate(end)
    file.seek(0, os.SEEK_END)


class Rejects:
    """Writes rejects as CSV to a name beside `path`, which becomes `path` when the import has ended well.

    No file is made where no row was rejected, and one of an earlier import that is there by that name goes. Memory
    does not grow with rejects.
    """

    def __init__(self, path: Path, *, has_places: bool = False) -> None:
        self.path = path
        self.count = 0
        self._has_places = has_places
        self._partial = path.with_name(path.name + ".partial")

    @property
    def file(self) -> Path | None:
        """Where the rejects are, None where there are none."""
        return self.path if self.count else None

    def add(self, rows: pl.DataFrame) -> None:
        """Append rows that have at least the columns of `REJECT_SCHEMA`."""
        if rows.is_empty():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._partial.open("ab" if self.count else "wb") as file:
                table = _clean(rows.select(REJECT_SCHEMA.names()))
                table = with_places(table) if self._has_places else table
                table.write_csv(file, include_header=self.count == 0)
        except OSError as error:
            raise UsageError(f"cannot write the rejects file: {error}", where=str(self.path)) from error
        self.count += rows.height

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            if self.count:
                self._partial.unlink(missing_ok=True)
        elif self.count:
            self._partial.replace(self.path)
        else:
            self._remove_old()

    def _remove_old(self) -> None:
        """Remove a rejects file of before, which would pass for this import's; no other file."""
        try:
            with self.path.open("rb") as file:
                is_ours = file.readline().rstrip(b"\r\n") in _HEADERS
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise UsageError(f"cannot read the rejects file of before: {error}", where=str(self.path)) from error
        if is_ours:
            self.path.unlink(missing_ok=True)


def _clean(rows: pl.DataFrame) -> pl.DataFrame:
    # A spreadsheet program would not show a NUL, and some readers stop at one.
    return rows.with_columns(pl.col("reason", "column", "transaction_id").str.replace_all("\x00", "\\0", literal=True))


def row_json(names: list[str]) -> pl.Expr:
    """The named columns of a row as one JSON object."""
    return pl.struct(names).struct.json_encode() if names else pl.lit("{}")


def as_rejects(rows: pl.DataFrame, column: str, reason: pl.Expr) -> pl.DataFrame:
    """Return typed rows (`line` and any columns) as rejects, each shown as it was understood."""
    shown = [name for name in rows.columns if name not in ("line", "reason", "column")]
    times = [name for name in shown if isinstance(rows.schema[name], pl.Datetime)]
    texts = rows.with_columns(pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ") for name in times)
    return rows.select(
        line="line",
        reason=reason,
        column=pl.col("column") if "column" in rows.columns else pl.lit(column),
        transaction_id=pl.col("transaction_id") if "transaction_id" in rows.columns else pl.lit(None, pl.String),
        row=texts.select(row_json(shown)).to_series(),
    ).cast(REJECT_SCHEMA)
