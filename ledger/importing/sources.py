"""Where rows come from: a file, standard input, or a table or query of another database."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

import msgspec
import polars as pl

from ledger.importing.batches import LINE, BadRow, Batch, bad_rows
from ledger.importing.csv_reader import read_csv
from ledger.importing.json_keys import repeated_key
from ledger.importing.mapping import Mapping
from schemas.errors import UsageError

__all__ = [
    "FORMATS",
    "FileSource",
    "Source",
    "as_text",
    "column_name",
    "object_batch",
    "read_object",
    "reading_parquet",
    "require_columns",
    "text_rows",
]

#: Format to the endings of its files.
FORMATS = {"csv": (".csv",), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}
BATCH_ROWS = 50_000
_NAMES = "csv, jsonl or parquet"
_decode = msgspec.json.Decoder().decode


class Source(Protocol):
    """Something that yields rows; `where` names it in messages."""

    @property
    def where(self) -> str:
        """The name for messages, without secrets."""
        ...

    @property
    def has_header(self) -> bool:
        """Whether the first batch has every column that there is, so that a missing one can be told at once."""
        ...

    def batches(self, *, delimiter: str = ",") -> Iterator[Batch]:
        """Yield the rows in order."""
        ...


class FileSource:
    """A CSV, JSON Lines or Parquet file, by its ending or by `format`; "-" is standard input.

    Raises:
        UsageError: from the constructor when the format is not known; while reading when the file is unreadable.
    """

    def __init__(self, path: Path | str, format: str | None = None) -> None:
        self.path = path
        self.where = "standard input" if str(path) == "-" else str(path)
        self.format = format or self._by_ending()
        if self.format not in FORMATS:
            raise UsageError(f"unknown format {self.format!r}", where=self.where, next_step=f"use {_NAMES}")
        self.has_header = self.format != "jsonl"

    def batches(self, *, delimiter: str = ",") -> Iterator[Batch]:
        """Yield the rows in order; UsageError where the file cannot be read or is empty."""
        with self.open() as stream:
            if self.format == "csv":
                yield from read_csv(stream, delimiter=delimiter, where=self.where)
            elif self.format == "jsonl":
                yield from _read_jsonl(stream, self.where)
            else:
                yield from _read_parquet(stream, self.where)

    def _by_ending(self) -> str:
        if str(self.path) == "-":
            raise UsageError("standard input has no ending to tell its format by", next_step=f"say which: {_NAMES}")
        ending = Path(self.path).suffix.lower()
        for name, endings in FORMATS.items():
            if ending in endings:
                return name
        raise UsageError(
            f"unknown ending {ending!r}", where=self.where, next_step=f"rename the file or say its format: {_NAMES}"
        )

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Yield the file's bytes; UsageError where there is no such file."""
        if str(self.path) == "-":
            yield sys.stdin.buffer
            return
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(Path(self.path).open("rb"))
            except OSError as error:
                raise UsageError(f"cannot open the file: {error.strerror}", where=self.where) from error
            yield stream


def _read_jsonl(stream: BinaryIO, where: str) -> Iterator[Batch]:
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    number = 0
    for number, data in enumerate(stream, start=1):
        text = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        if not text.strip():
            continue
        try:
            objects.append(read_object(text))
            lines.append(number)
        except ValueError as error:
            bad.append((number, f"the line {error}", text.decode("utf-8", "surrogateescape")))
        if len(objects) + len(bad) >= BATCH_ROWS:
            yield object_batch(lines, objects, bad)
            lines, objects, bad = [], [], []
    if number == 0:
        raise UsageError("the file is empty", where=where, next_step="check that it was written whole")
    yield object_batch(lines, objects, bad)


def read_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a text is; ValueError says what the text is or has instead, without its subject."""
    try:
        value = _decode(text)
        key = repeated_key(text, value) if isinstance(value, dict) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        # The caller says of what: to it, any text that is no row is the same kind of wrong.
        raise ValueError("is no JSON object")  # noqa: TRY004 - the reason is data, not a caller's mistake.
    if key is not None:
        raise ValueError(f"has the key {key!r} twice")
    return value


def object_batch(lines: list[int], objects: list[dict[str, Any]], bad: list[BadRow]) -> Batch:
    """Return JSON objects as a batch of rows, `lines` being their numbers, with the rows that could not be read."""
    names = dict.fromkeys(name for value in objects for name in value)
    columns = [
        pl.Series(column_name(name), [as_text(value.get(name)) for value in objects], dtype=pl.String) for name in names
    ]
    return Batch(pl.DataFrame([pl.Series(LINE, lines, dtype=pl.Int64), *columns]), bad_rows(bad))


def column_name(name: str) -> str:
    """Return a column's name, changed where it is that of our line numbers."""
    return f"{name} (column)" if name == LINE else name


def as_text(value: object) -> str | None:
    """Return a value of a JSON document or of a database as the text that a CSV file would hold."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return msgspec.json.encode(value).decode()


def _read_parquet(stream: BinaryIO, where: str) -> Iterator[Batch]:
    with _seekable(stream) as file, reading_parquet(where):
        total = pl.scan_parquet(file).select(pl.len()).collect().item()
        number = 0
        while number == 0 or number < total:
            file.seek(0)
            rows = pl.scan_parquet(file).slice(number, BATCH_ROWS).collect()
            lines = pl.int_range(number + 1, number + rows.height + 1, dtype=pl.Int64, eager=True)
            yield Batch(text_rows(rows, lines), bad_rows([]))
            number += max(rows.height, 1)


@contextmanager
def reading_parquet(where: str) -> Iterator[None]:
    """Read a Parquet file: UsageError where it is none, or is damaged."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise _not_parquet(where, error) from error
    except BaseException as error:
        # The engine's panic on a damaged file is no Exception, and escapes every other handler.
        if type(error).__name__ != "PanicException":
            raise
        raise _not_parquet(where, error) from None


def _not_parquet(where: str, error: BaseException) -> UsageError:
    reason = str(error).splitlines()[0] if str(error) else "unknown damage"
    return UsageError(f"not a readable Parquet file: {reason}", where=where, next_step="write it again")


@contextmanager
def _seekable(stream: BinaryIO) -> Iterator[IO[bytes]]:
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        while block := stream.read(1 << 20):
            copy.write(block)
        copy.seek(0)
        yield copy


def text_rows(rows: pl.DataFrame, lines: pl.Series) -> pl.DataFrame:
    """Return typed rows as columns of text, as a batch has them; `lines` are their numbers."""
    columns = [_text(column).alias(column_name(column.name)) for column in rows.get_columns()]
    return pl.DataFrame([lines.alias(LINE), *columns])


def _text(column: pl.Series) -> pl.Series:
    kind = column.dtype
    if isinstance(kind, pl.Datetime):
        # Nanoseconds would be cut off by any clock of ours, and text shows the rest of a zone as an offset.
        moments = column.cast(pl.Datetime("us", kind.time_zone))
        return moments.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f" + ("%:z" if kind.time_zone else ""))
    if isinstance(kind, pl.Struct):
        return (
            column.to_frame("s")
            .select(pl.when(pl.col("s").is_not_null()).then(pl.col("s").struct.json_encode()))
            .to_series()
        )
    if isinstance(kind, pl.List | pl.Array | pl.Object):
        return pl.Series([as_text(value) for value in column.to_list()], dtype=pl.String)
    return column.cast(pl.String, strict=False)


def require_columns(
    present: list[str],
    required: tuple[str, ...],
    optional: tuple[str, ...],
    mapping: Mapping,
    where: str,
    *,
    next_step: str = "map its name under [import.columns], and check the delimiter",
) -> None:
    """Raise UsageError if the input lacks a column that every row must have, or that the mapping names."""
    wanted = [mapping.source_name(column) for column in required if not (column == "type" and mapping.signed_amounts)]
    # A name that was mapped is meant to be there: a slip of the pen must not drop a column of every row.
    wanted += [mapping.columns[column] for column in optional if column in mapping.columns]
    missing = [name for name in wanted if name not in present]
    if missing:
        found = ", ".join(name for name in present if name != LINE)
        raise UsageError(
            f"column {missing[0]!r} is missing; there are {found}",
            where=where,
            next_step=next_step,
        )
