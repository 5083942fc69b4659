"""CSV to columns of text, with exact line numbers and field counts.

Two readers give the same rows. The fast one is polars', which pads short rows in silence, so it is used only for a
block whose every line was first found to be one whole row of the right width. Any other block (embedded line
breaks, a wrong number of fields, stray quotation marks, invalid UTF-8) goes through Python's csv module in strict
mode, row by row, which names what is wrong with which line. A stray quotation mark makes the lines after it look
like one long field, so where such a row is none, only its first line is rejected and reading goes on at the next.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

import polars as pl

from ledger.importing.batches import LINE, BadRow, Batch, bad_rows
from schemas.errors import UsageError

__all__ = ["read_csv"]

BLOCK_BYTES = 16 * 1024 * 1024
FIRST_BLOCK_BYTES = 64 * 1024
FIELD_CHARS_MAX = 64 * 1024 * 1024
SLICE_ROWS = 20_000
#: A row of more lines is taken for a quotation mark that was never closed, so that none costs more than this to see.
ROW_LINES_MAX = 1_000
#: From this width on, a line with as many fields as the header is hardly a line of text.
TELLING_WIDTH = 4
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(stream: BinaryIO, *, delimiter: str, where: str, block_bytes: int = BLOCK_BYTES) -> Iterator[Batch]:
    """Yield the rows of a CSV file with a header as batches; the first batch may be empty, to give the columns.

    Raises:
        UsageError: the file is empty, is UTF-16, or its header is unusable.
    """
    csv.field_size_limit(FIELD_CHARS_MAX)
    lines = _Lines(stream, block_bytes, where)
    header = _header(lines, delimiter, where)
    yield _batch(header, [], [], [])
    pattern = _whole_row(len(header), delimiter)
    while lines.has_block():
        batch = _fast(lines, header, delimiter, pattern)
        if batch is None:
            yield from _slow(lines, header, delimiter)
        else:
            yield batch


class _Lines:
    """The lines of a stream, block by block; iterating goes on into the next block when one is used up.

    `line` is how many lines were taken so far. A block ends with a line's end.
    """

    def __init__(self, stream: BinaryIO, block_bytes: int, where: str) -> None:
        self.line = 0
        self.block = b""
        self._stream, self._block_bytes, self._where = stream, block_bytes, where
        self._rest = b""
        self._texts: list[str] | None = None
        self._taken = 0
        self._back: deque[str] = deque()

    def has_block(self) -> bool:
        """Say whether there is anything left, with `block` holding what is left of the block or the next one."""
        if self.at_block_end():
            self._next_block()
        return bool(self.block)

    def at_block_end(self) -> bool:
        """Say whether every line of the block was taken."""
        is_taken = not self.block or (self._texts is not None and self._taken == len(self._texts))
        return is_taken and not self._back

    def drop_block(self, line_count: int) -> None:
        """Count the whole block, which someone else has read, as taken."""
        self.line += line_count
        self.block = b""

    def drop_lines(self) -> None:
        """Cut the lines that were taken off the block."""
        if self._texts is not None:
            taken = "".join(self._texts[: self._taken])
            self.block = self.block[len(taken.encode("utf-8", "surrogateescape")) :]
            self._texts = None

    def give_back(self, texts: list[str]) -> None:
        """Take back the last lines that were taken, to give them again."""
        self._back.extendleft(reversed(texts))
        self.line -= len(texts)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._back:
            self.line += 1
            return self._back.popleft()
        if not self.has_block():
            raise StopIteration
        if self._texts is None:
            # Like a file opened with newline="": lines end at \n, \r\n or \r and keep their end.
            self._texts = list(io.StringIO(self.block.decode("utf-8", "surrogateescape"), newline=""))
            self._taken = 0
        self._taken += 1
        self.line += 1
        return self._texts[self._taken - 1]

    def _next_block(self) -> None:
        # The header is read line by line, so the block that holds it is small.
        size = self._block_bytes if self.line else min(self._block_bytes, FIRST_BLOCK_BYTES)
        parts = [self._rest]
        while True:
            try:
                read = self._stream.read(size)
            except OSError as error:
                raise UsageError(f"cannot read the input: {error}", where=self._where) from error
            parts.append(read)
            if not read or b"\n" in read:
                break
        data = b"".join(parts)
        end = data.rfind(b"\n") + 1 if read else len(data)
        self.block, self._rest, self._texts = data[:end], data[end:], None
        if self.line == 0:
            if self.block.startswith(_UTF16):
                raise UsageError("the file is UTF-16", where=self._where, next_step="save it as UTF-8")
            self.block = self.block.removeprefix(_BOM)


def _header(lines: _Lines, delimiter: str, where: str) -> list[str]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if row), None)
    except csv.Error as error:
        raise UsageError(f"the header cannot be read: {error}", where=where) from error
    if header is None:
        raise UsageError("the file is empty", where=where, next_step="a CSV file needs a header at least")
    lines.drop_lines()
    names = [name.strip() for name in header]
    repeated = {name for name in names if names.count(name) > 1 or name == LINE}
    # A line column of their own would be mixed up with ours; it means nothing to an import.
    taken = [f"{name} (column {place})" if name in repeated else name for place, name in enumerate(names, start=1)]
    if not all(_is_text(name) for name in names):
        raise UsageError("the header is not valid UTF-8", where=where, next_step="save the file as UTF-8")
    return taken


def _is_text(value: str) -> bool:
    return not any("\udc80" <= char <= "\udcff" for char in value)


def _whole_row(width: int, delimiter: str) -> str:
    """A pattern for a line that is one whole row of so many fields, whichever CSV reader looks at it."""
    separator = f"\\x{ord(delimiter):02x}"
    field = rf'(?:[^"\r{separator}][^"\r{separator}]*|"(?:[^"\r]|"")*"|)'
    return rf"^{field}(?:{separator}{field}){{{width - 1}}}$"


def _fast(lines: _Lines, header: list[str], delimiter: str, pattern: str) -> Batch | None:
    """Return the block as a batch, or None where it is not plain to see that both readers would agree."""
    block = lines.block.replace(b"\r\n", b"\n") if b"\r" in lines.block else lines.block
    is_ambiguous = len(header) == 1 and (b"\n\n" in block or block.startswith(b"\n"))
    if b"\r" in block or block.startswith(_BOM) or is_ambiguous:
        return None
    try:
        texts = pl.read_lines(io.BytesIO(block))["line"]
        # The end of a pattern is the end of the text, and a text holds no line break.
        if not _are_whole_rows(texts, len(header), delimiter, pattern):
            return None
        rows = pl.read_csv(
            block,
            has_header=False,
            new_columns=header,
            separator=delimiter,
            infer_schema=False,
            empty_string_is_null=False,
        )
    except pl.exceptions.PolarsError:
        return None
    if rows.shape != (len(texts), len(header)):
        return None
    rows.insert_column(
        0, pl.int_range(lines.line + 1, lines.line + len(texts) + 1, dtype=pl.Int64, eager=True).alias(LINE)
    )
    lines.drop_block(len(texts))
    return Batch(rows, bad_rows([]), has_nul=b"\0" in block)


def _are_whole_rows(texts: pl.Series, width: int, delimiter: str, pattern: str) -> bool:
    """Say whether every line is one whole row; counting is enough for those without quotation marks."""
    has_quote = texts.str.contains('"', literal=True)
    is_plain = (texts.str.count_matches(delimiter, literal=True) == width - 1) & ~has_quote
    return bool((is_plain | has_quote).all()) and bool(texts.filter(has_quote).str.contains(pattern).all())


class _RowLines:
    """The lines of one row as a CSV reader takes them; `texts` are those so far."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self.texts: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.texts) >= ROW_LINES_MAX:
            raise StopIteration
        text = next(self._lines)
        self.texts.append(text)
        return text


def _slow(lines: _Lines, header: list[str], delimiter: str) -> Iterator[Batch]:
    """Yield the block, and what follows it in a row that goes on into the next block, row by row."""
    taken = _RowLines(lines)
    reader = csv.reader(taken, delimiter=delimiter, strict=True)
    while not lines.at_block_end():
        rows: list[list[str]] = []
        starts: list[int] = []
        bad: list[BadRow] = []
        while len(rows) < SLICE_ROWS and not lines.at_block_end():
            taken.texts = []
            start = lines.line + 1
            try:
                row = next(reader, [])
            except csv.Error as error:
                bad.append((start, _unreadable(error, taken.texts), taken.texts[0].rstrip("\r\n")))
                lines.give_back(taken.texts[1:])
                reader = csv.reader(taken, delimiter=delimiter, strict=True)
                continue
            if len(row) == len(header) and not _hides_rows(taken.texts, header, delimiter):
                rows.append(row)
                starts.append(start)
            elif len(row) == len(header):
                bad += _hidden(start, taken.texts)
            elif row:
                bad.append((start, _wrong_width(start, lines.line, len(row), len(header)), row))
                lines.give_back(taken.texts[1:])
        yield _batch(header, rows, starts, bad)


def _hides_rows(texts: list[str], header: list[str], delimiter: str) -> bool:
    """Say whether lines within a row's fields look like rows, as between two stray quotation marks."""
    separators = len(header) - 1
    return len(header) >= TELLING_WIDTH and any(
        text.count(delimiter) == separators and '"' not in text for text in texts[1:-1]
    )


def _hidden(start: int, texts: list[str]) -> list[BadRow]:
    # To take these lines as rows would let whoever writes a text write transactions; to take them as text would
    # lose rows. So each is named.
    last = start + len(texts) - 1
    reason = f"lines {start} to {last} are one quoted field, with lines that look like rows: a stray quotation mark?"
    return [(start + place, reason, text.rstrip("\r\n")) for place, text in enumerate(texts)]


def _batch(header: list[str], rows: list[list[str]], starts: list[int], bad: list[BadRow]) -> Batch:
    try:
        columns = _columns(header, rows)
    except UnicodeEncodeError:
        flags = [all(_is_text(value) for value in row) for row in rows]
        judged = list(zip(starts, rows, flags, strict=True))
        bad += [(start, "the row is not valid UTF-8", row) for start, row, ok in judged if not ok]
        starts = [start for start, ok in zip(starts, flags, strict=True) if ok]
        columns = _columns(header, [row for row, ok in zip(rows, flags, strict=True) if ok])
    return Batch(pl.DataFrame([pl.Series(LINE, starts, dtype=pl.Int64), *columns]), bad_rows(bad))


def _columns(header: list[str], rows: list[list[str]]) -> list[pl.Series]:
    values = list(zip(*rows, strict=True)) or [()] * len(header)
    return [pl.Series(name, column, dtype=pl.String) for name, column in zip(header, values, strict=True)]


def _wrong_width(first: int, last: int, found: int, expected: int) -> str:
    what = "too few" if found < expected else "too many"
    lines = f" (lines {first} to {last} as one row; the next line is read on its own)" if last > first else ""
    return f"{what} fields: {found}, the header has {expected}{lines}"


def _unreadable(error: csv.Error, texts: list[str]) -> str:
    if "unexpected end of data" in str(error):
        within = f" within {ROW_LINES_MAX} lines" if len(texts) == ROW_LINES_MAX else ""
        return f"a quotation mark is opened and never closed{within}; the next line is read on its own"
    after = "" if len(texts) == 1 else f" (in line {len(texts)} of a quoted field; the next line is read on its own)"
    return f"the row is not CSV: {error}{after}"
