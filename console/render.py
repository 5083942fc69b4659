"""The one place where an answer becomes bytes: text for people, CSV, one JSON document, Parquet.

Text on a terminal is drawn by rich; anywhere else it is plain aligned columns. Both show the first rows of a
long table and say how many more there are. Times are ISO 8601 in UTC with microseconds, except in Parquet,
which has a type for them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import msgspec
import polars as pl

from console.answer import Answer
from schemas import format_time
from schemas.errors import UsageError

__all__ = [
    "ROWS_SHOWN_MAX",
    "document",
    "emit",
    "form_of",
    "need_place",
    "plain_table",
    "printable",
    "text",
    "write_file",
]

ROWS_SHOWN_MAX = 40

#: The lowest exit status of an answer that leaves something out.
NOT_WHOLE = 3

#: Forms that have no place for words: whoever reads them sees only what is there.
_WITHOUT_WORDS = ("csv", "dot", "mermaid")

_SQLITE_HEADER = b"SQLite format 3\0"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"
ENDINGS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid"}


def emit(answer: Answer, *, as_json: bool, format: str | None, output: Path | None) -> None:
    """Show an answer on stdout, or write it to `output` and its JSON document (`as_json`) to stdout.

    UsageError if the answer has no such form or the file cannot be written.
    """
    chosen = form_of(format, output, as_json=as_json)
    if output is not None:
        write_file(output, lambda file: _render(answer, chosen, file, is_terminal=False))
        sys.stderr.write(f"written to {output}\n")
        if as_json:
            _to_stdout(document(answer))
        else:
            _say_verdict(answer, is_always=False)
    elif as_json:
        _to_stdout(document(answer))
    else:
        if chosen in _WITHOUT_WORDS:
            _say_verdict(answer, is_always=chosen == "csv")
        buffer = BytesIO()
        _render(answer, chosen, buffer, is_terminal=sys.stdout.isatty())
        _to_stdout(buffer.getvalue())


def _say_verdict(answer: Answer, *, is_always: bool) -> None:
    """Say on stderr what rows alone do not: the verdict, and of an answer that is not whole what is missing and why."""
    if is_always or answer.exit_status != 0:
        sys.stderr.write(f"verdict {answer.verdict}\n")
    if answer.exit_status >= NOT_WHOLE:
        sys.stderr.write("".join(f"{line}\n" for line in (*answer.summary, *answer.notes)))


def form_of(format: str | None, output: Path | None, *, as_json: bool, formats: Sequence[str] = ()) -> str:
    """Return the format that the options ask for; UsageError if it is none of `formats` or cannot be shown so."""
    by_ending = ENDINGS.get(output.suffix.lower()) if output is not None else None
    chosen = format or by_ending or ("json" if as_json and output is None else "table")
    if formats and chosen not in formats:
        where = str(output) if format is None else ""
        raise UsageError(f"there is no format {chosen!r} here", where=where, next_step=f"use {' or '.join(formats)}")
    if chosen == "parquet" and output is None:
        raise UsageError("Parquet does not go to a terminal or a pipe", next_step="name a file with --output")
    return chosen


def need_place(output: Path) -> None:
    """Let a file pass that can be written where it is named; UsageError for any other, before work is done for it."""
    nearest = next(place for place in output.absolute().parents if place.exists())
    if not nearest.is_dir():
        raise UsageError(f"cannot write the output: {nearest} is no folder", where=str(output))
    if output.is_dir():
        raise UsageError("cannot write the output: it is a folder", where=str(output), next_step="name a file in it")
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"cannot write the output: {nearest} is not writable", where=str(output))
    if _is_database(output):
        raise UsageError("the output would overwrite a database", where=str(output), next_step="name another file")


def _is_database(file: Path) -> bool:
    """Whether a file is an SQLite database or the log or index that one keeps beside itself."""
    main = file.with_name(re.sub(r"-(wal|shm|journal)$", "", file.name))
    try:
        with main.open("rb") as opened:
            return opened.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    except OSError:
        return False


def document(answer: Answer) -> bytes:
    """Return the one JSON document of an answer, indented, with a newline at its end."""
    fields: dict[str, object] = {"verdict": answer.verdict, **answer.fields}
    if answer.table is not None and answer.table_name is not None:
        fields[answer.table_name] = answer.table
    fields = {name: _json_value(value) for name, value in fields.items()}
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


def text(answer: Answer, *, is_terminal: bool = False, rows_max: int = ROWS_SHOWN_MAX) -> str:
    """Return an answer in words: summary, the first rows of the table, and notes."""
    blocks = ["\n".join(answer.summary)] if answer.summary else []
    table = answer.table if answer.shown is None else answer.shown
    if table is not None and table.height:
        blocks.append(_table(table, is_terminal=is_terminal, rows_max=rows_max))
    if answer.notes:
        blocks.append("\n".join(answer.notes))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _json_value(value: object) -> object:
    if isinstance(value, pl.DataFrame):
        # Polars writes the rows, which is many times faster than a dictionary a row.
        return msgspec.Raw(_times_as_text(value).write_json().encode())
    return format_time(value) if isinstance(value, datetime) else value


def _render(answer: Answer, format: str, file: BinaryIO, *, is_terminal: bool) -> None:
    if format in answer.texts:
        file.write(answer.texts[format].encode())
    elif format == "table":
        # A terminal shows the beginning; a file or a pipe gets all of it, since nobody scrolls there.
        height = answer.table.height if answer.table is not None else 0
        rows_max = ROWS_SHOWN_MAX if is_terminal else height
        file.write(text(answer, is_terminal=is_terminal, rows_max=rows_max).encode())
    elif format == "json":
        file.write(document(answer))
    elif answer.table is None:
        raise UsageError(f"this answer is no table, so it has no {format} form", next_step="use --json")
    elif format == "csv":
        _nested_as_text(_times_as_text(answer.table)).write_csv(file)
    elif format == "parquet":
        answer.table.write_parquet(file)
    else:
        raise UsageError(f"this answer has no {format} form", next_step="use table, csv or json")


def _table(frame: pl.DataFrame, *, is_terminal: bool, rows_max: int) -> str:
    shown = _nested_as_text(_times_as_text(frame.head(rows_max)))
    draw = _rich_table if is_terminal else plain_table
    drawn = draw(shown)
    if frame.height > rows_max:
        more = f"... and {frame.height - rows_max:,} more rows of {frame.height:,}"
        drawn += f"\n{more}: --format csv --output FILE gives all"
    return drawn


def _cells(frame: pl.DataFrame) -> list[list[str]]:
    return [[printable(value) for value in row] for row in frame.iter_rows()]


def printable(value: object) -> str:
    """Return a value as people read it, on one line and without a character that is not to be seen."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    # Control characters in somebody's id must neither move the cursor nor break a row.
    words = str(value)
    return words if words.isprintable() else words.encode("unicode_escape").decode()


def plain_table(frame: pl.DataFrame) -> str:
    """Return a table in aligned columns, its names first; nothing in it is a list or a time."""
    from rich.cells import cell_len

    rows = [frame.columns, *_cells(frame)]
    # A wide character takes two places on the screen.
    widths = [max(cell_len(row[index]) for row in rows) for index in range(frame.width)]
    is_number = [dtype.is_numeric() for dtype in frame.dtypes]
    lines = []
    for row in rows:
        blanks = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            blank + cell if right else cell + blank for cell, blank, right in zip(row, blanks, is_number, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _rich_table(frame: pl.DataFrame) -> str:
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", no_wrap=True)
    for row in _cells(frame):
        table.add_row(*(Text(cell) for cell in row))
    plain = plain_table(frame)
    widest = max(cell_len(line) for line in plain.splitlines())
    # The drawn table needs one more column of blanks a column, and one at its edge.
    if widest + frame.width + 1 > console.width:
        # Whole cells on lines that the terminal wraps read better than cells broken into pieces or cut off.
        return plain
    with console.capture() as capture:
        console.print(table)
    return capture.get().strip("\n")


def _times_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.Datetime).dt.strftime(TIME_FORMAT))


def _nested_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    texts = [
        pl.Series(
            name, [None if value is None else msgspec.json.encode(value).decode() for value in frame[name].to_list()]
        )
        for name in nested
    ]
    return frame.with_columns(texts)


def write_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write beside the target and rename, so that a reader never sees half a file; UsageError if it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            Path(scratch).chmod(0o666 & ~_umask())
            Path(scratch).replace(path)
        finally:
            Path(scratch).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write the output: {error.strerror}", where=str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _to_stdout(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
