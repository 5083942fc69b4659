"""The options that imports of rows share, and what they mean: what is read, by which mapping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.run import Run
from console.settings import FILE_NAME
from schemas.errors import UsageError

if TYPE_CHECKING:
    from ledger.importing import Mapping, Source

__all__ = [
    "DryRun",
    "File",
    "FromUrl",
    "InputFormat",
    "MapFile",
    "Query",
    "RejectsFile",
    "Table",
    "mapping_from",
    "name_of",
    "source_from",
    "waiting_words",
]

File = Annotated[
    str | None, typer.Argument(metavar="[FILE]", help="CSV, JSON Lines or Parquet by its ending; - is standard input.")
]
InputFormat = Annotated[
    str | None, typer.Option("--input-format", metavar="FORMAT", help="csv, jsonl or parquet, whatever the ending.")
]
FromUrl = Annotated[
    str | None, typer.Option("--from-url", metavar="URL", help="Read from another database, by SQLAlchemy URL.")
]
Table = Annotated[str | None, typer.Option("--table", metavar="NAME", help="The table there.")]
Query = Annotated[str | None, typer.Option("--query", metavar="SQL", help="A query there, instead of a table.")]
MapFile = Annotated[
    Path | None,
    typer.Option("--map", metavar="FILE", help="TOML mapping (default: what the configuration says under import)."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do, with a profile of the columns.")]
RejectsFile = Annotated[
    Path | None,
    typer.Option("--rejects", metavar="FILE", help="Where bad rows go (default: reports/rejects-NAME.csv)."),
]


def waiting_words(run: Run) -> Callable[[str], None]:
    """Return what says once for each place that a reader waits there, however long it takes."""
    return lambda words: run.warn(words.partition(" since ")[0]) if words else None


def name_of(file: str) -> str:
    """Return what the rejects of a file are named after."""
    return "stdin" if file == "-" else Path(file).stem


def mapping_from(run: Run, file: Path | None) -> Mapping:
    """Return the mapping of a file, or what the configuration says."""
    from ledger.importing import load_mapping, mapping_of

    if file is not None:
        return load_mapping(file)
    return mapping_of(run.settings.imports, where=str(run.options.config or run.data / FILE_NAME))


def source_from(
    file: str | None, format: str | None, url: str | None, table: str | None, query: str | None
) -> tuple[Source, str]:
    """Return what is to be read and a name for it, from the options that say so."""
    from ledger.importing import FileSource

    if (file is None) == (url is None):
        raise UsageError("say what to import", next_step="give a FILE, or --from-url with --table or --query")
    if file is not None:
        if table or query:
            raise UsageError("--table and --query belong to --from-url", next_step="leave them away for a file")
        return FileSource(file, format=format), name_of(file)
    if (table is None) == (query is None):
        raise UsageError("--from-url needs --table or --query, and only one of them", next_step="name a table")
    from ledger.importing import TableSource

    return TableSource(str(url), table=table, query=query), table or "query"
