"""The rejects file: every row that was not imported, with its line and the reason."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import polars as pl

from schemas.errors import UsageError

__all__ = ["REJECT_SCHEMA", "Rejects", "as_rejects", "row_json"]

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


class Rejects:
    """Writes rejects as CSV to a name beside `path`, which becomes `path` when the import has ended well.

    No file is made where no row was rejected, and one of an earlier import that is there by that name goes. Memory
    does not grow with rejects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
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
                # A spreadsheet program would not show a NUL, and some readers stop at one.
                text = pl.col("reason", "column", "transaction_id").str.replace_all("\x00", "\\0", literal=True)
                table = rows.select(REJECT_SCHEMA.names()).with_columns(text)
                table.write_csv(file, include_header=self.count == 0)
        except OSError as error:
            raise UsageError(f"cannot write the rejects file: {error}", where=str(self.path)) from error
        self.count += rows.height

    def __enter__(self) -> Rejects:
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
                is_ours = file.readline().rstrip(b"\r\n") == ",".join(REJECT_SCHEMA).encode()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise UsageError(f"cannot read the rejects file of before: {error}", where=str(self.path)) from error
        if is_ours:
            self.path.unlink(missing_ok=True)


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
