"""Commands that move data: generate files, import them, export the event stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.answer import Answer
from console.run import FORMATS, NO_TABLE, Run, command
from console.settings import FILE_NAME
from console.words import count
from schemas.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

    from ledger.importing import ColumnProfile, Imported, Mapping, Source

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "generate", is_rendered=False, formats=NO_TABLE)(generate)
    imports = typer.Typer(
        no_args_is_help=True, help="Bring rows of another system, or exported events, into the ledger."
    )
    command(imports, "transactions", formats=_import_formats)(import_transactions)
    command(imports, "accounts", formats=_import_formats)(import_accounts)
    command(imports, "events", formats=NO_TABLE)(import_events)
    app.add_typer(imports, name="import")
    exports = typer.Typer(no_args_is_help=True, help="Write what the ledger holds into a file.")
    command(exports, "events", formats=NO_TABLE)(export_events)
    app.add_typer(exports, name="export")


def _import_formats(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Only the profile of a dry run is a table."""
    return FORMATS if arguments["dry_run"] else NO_TABLE


_File = Annotated[
    str | None, typer.Argument(metavar="[FILE]", help="CSV, JSON Lines or Parquet by its ending; - is standard input.")
]
_InputFormat = Annotated[
    str | None, typer.Option("--input-format", metavar="FORMAT", help="csv, jsonl or parquet, whatever the ending.")
]
_FromUrl = Annotated[
    str | None, typer.Option("--from-url", metavar="URL", help="Read from another database, by SQLAlchemy URL.")
]
_Table = Annotated[str | None, typer.Option("--table", metavar="NAME", help="The table there.")]
_Query = Annotated[str | None, typer.Option("--query", metavar="SQL", help="A query there, instead of a table.")]
_Map = Annotated[
    Path | None, typer.Option("--map", metavar="FILE", help="TOML mapping (default: [import] of the configuration).")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do, with a profile of the columns.")]
_Rejects = Annotated[
    Path | None,
    typer.Option("--rejects", metavar="FILE", help="Where bad rows go (default: reports/rejects-NAME.csv)."),
]


def generate(
    run: Run,
    *,
    accounts: Annotated[int, typer.Option("--accounts", metavar="N", help="How many accounts.")] = 1_000,
    events: Annotated[int, typer.Option("--events", metavar="M", help="How many transaction rows.")] = 100_000,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="The same seed gives the same files.")] = 1,
) -> Answer:
    """Write realistic transactions.csv, accounts.csv and orders.csv into the folder that --output names.

    Rows are from the 90 days before --now, by default the last UTC midnight.
    """
    from console.generate import generate as write_files

    folder = run.options.output
    if folder is None:
        raise UsageError("no folder to write to", next_step="name one with --output DIR")
    now = run.now
    if run.options.now is None:
        # A moving clock would give other bytes each time; the day's beginning gives the same ones all day.
        now = now.replace(hour=0, minute=0, second=0, microsecond=0)
    with run.progress("generating", unit="rows") as progress:
        made = write_files(accounts=accounts, events=events, seed=seed, folder=Path(folder), now=now, progress=progress)
    counts = {"transactions": made.transactions, "accounts": made.accounts, "orders": made.orders}
    return Answer(
        verdict="OK",
        fields={"files": made.files, "rows": counts, "seed": seed, "now": now},
        summary=[f"{made.files[name]}: {rows:,} rows" for name, rows in counts.items()],
    )


def import_transactions(
    run: Run,
    *,
    file: _File = None,
    input_format: _InputFormat = None,
    from_url: _FromUrl = None,
    table: _Table = None,
    query: _Query = None,
    map: _Map = None,
    dry_run: _DryRun = False,
    rejects: _Rejects = None,
) -> Answer:
    """Turn rows of a transactions table into events; what is known already changes nothing."""
    from ledger.importing import import_transactions as bring

    mapping = _mapping(run, map)
    source, name = _source(file, input_format, from_url, table, query)
    with run.ledger_to_fill(dry_run=dry_run) as store, run.progress("importing", unit="rows") as progress:
        found = bring(
            store,
            source,
            mapping=mapping,
            now=run.now,
            dry_run=dry_run,
            rejects=rejects or run.reports / f"rejects-{name}.csv",
            progress=progress,
        )
    return _imported(run, found, dry_run=dry_run, timezone=mapping.timezone)


def import_accounts(
    run: Run,
    *,
    file: _File = None,
    input_format: _InputFormat = None,
    from_url: _FromUrl = None,
    table: _Table = None,
    query: _Query = None,
    map: _Map = None,
    as_opening_at: Annotated[
        str | None,
        typer.Option(
            "--as-opening-at", metavar="TIME", help="Make opening balances of them, as events at this moment."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the rows of earlier imports that are not among these.")
    ] = False,
    dry_run: _DryRun = False,
    rejects: _Rejects = None,
) -> Answer:
    """Keep rows of a live accounts table for `drift` to compare; they become no events."""
    from ledger.importing import import_accounts as bring

    if replace and as_opening_at:
        raise UsageError("--replace and --as-opening-at exclude each other", next_step="events are never replaced")

    mapping = _mapping(run, map)
    source, name = _source(file, input_format, from_url, table, query)
    with run.ledger_to_fill(dry_run=dry_run) as store, run.progress("importing", unit="rows") as progress:
        found = bring(
            store,
            source,
            mapping=mapping,
            now=run.now,
            as_opening_at=run.moment(as_opening_at, "--as-opening-at") if as_opening_at else None,
            replace=replace,
            dry_run=dry_run,
            rejects=rejects or run.reports / f"rejects-{name}.csv",
            progress=progress,
        )
    absent = _absent(found.absent, is_replaced=replace, dry_run=dry_run)
    more = {"absent": found.absent}
    return _imported(run, found, dry_run=dry_run, timezone=mapping.timezone, fields=more, notes=absent)


def import_events(
    run: Run,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines of events, as `export events` writes them.")],
    dry_run: _DryRun = False,
    rejects: _Rejects = None,
) -> Answer:
    """Append exported events to the ledger, as they were; what is known already changes nothing."""
    from ledger.importing import import_events as bring

    chosen = rejects or run.reports / f"rejects-{_name(file)}.csv"
    with run.ledger_to_fill(dry_run=dry_run) as store, run.progress("importing", unit="rows") as progress:
        found = bring(store, file, rejects=chosen, dry_run=dry_run, progress=progress)
    did = "would be put back" if dry_run else "put back"
    restored = [f"{count(found.restored, 'lost event')} {did}"] if found.restored else []
    return _imported(run, found, dry_run=dry_run, fields={"restored": found.restored}, notes=restored)


def _refuse_other_content(file: Path) -> None:
    """Refuse to write events over a file that holds something else, such as the export that they were made from."""
    if file.is_file():
        with file.open("rb") as opened:
            first = opened.read(1)
        if first not in (b"", b"{"):
            raise UsageError(
                "the file holds something else than events", where=str(file), next_step="name another file"
            )


def export_events(
    run: Run, *, file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines; - is standard output.")]
) -> Answer:
    """Write every event in stream order as JSON Lines, the bytes that the topic would carry.

    Accounts that a replay cannot vouch for are left out and named: INCOMPLETE, exit status 3.
    """
    from console.render import need_place
    from console.words import missing_lines
    from ledger.importing import export_events as write_events
    from replay import balances

    is_stdout = file == "-"
    if not is_stdout:
        need_place(Path(file))
        _refuse_other_content(Path(file))
    is_document = run.options.as_json or (run.options.format == "json" and run.options.output is None)
    if is_stdout and is_document:
        raise UsageError(
            "the JSON document and the events would share standard output",
            next_step="name a file for the events, or for the document with --output",
        )
    with run.ledger() as store:
        with run.progress("checking") as progress:
            certificate = balances(store, progress=progress).certificate
        with run.progress("exporting") as progress:
            without = sorted({found.account_id for found in certificate.parked})
            events = write_events(store, file, progress, without=without)
    verdict = "OK" if certificate.verdict == "COMPLETE" else certificate.verdict
    left_out = [f"{count(len(without), 'account')} left out"] if without else []
    missing = [*left_out, *missing_lines(certificate)]
    answer = Answer(
        verdict=verdict,
        fields={"events": events, "file": file, "parked": certificate.parked, "poison": certificate.poison},
        summary=[f"{count(events, 'event')} in {file}"],
        notes=missing,
    )
    if not is_stdout:
        return answer
    # Nothing but events may stand in the stream that is being piped.
    for line in (f"{count(events, 'event')} written", *missing):
        run.warn(line)
    return answer if run.options.output else Answer(verdict=verdict)


def _source(
    file: str | None, format: str | None, url: str | None, table: str | None, query: str | None
) -> tuple[Source, str]:
    """Return what is to be read and a name for it, from the options that say so."""
    from ledger.importing import FileSource

    if (file is None) == (url is None):
        raise UsageError("say what to import", next_step="give a FILE, or --from-url with --table or --query")
    if file is not None:
        if table or query:
            raise UsageError("--table and --query belong to --from-url", next_step="leave them away for a file")
        return FileSource(file, format=format), _name(file)
    if (table is None) == (query is None):
        raise UsageError("--from-url needs --table or --query, and only one of them", next_step="name a table")
    from ledger.importing import TableSource

    return TableSource(str(url), table=table, query=query), table or "query"


def _absent(rows: int, *, is_replaced: bool, dry_run: bool) -> list[str]:
    """What became of the rows of earlier imports that were not in this one."""
    if not rows:
        return []
    earlier = f"{count(rows, 'row')} of earlier imports {'is' if rows == 1 else 'are'} not in this one"
    if is_replaced:
        return [f"{earlier}: {'would be ' if dry_run else ''}dropped"]
    return [f"{earlier} and stay for `drift` to compare; --replace drops them"]


def _imported(
    run: Run,
    found: Imported,
    *,
    dry_run: bool,
    timezone: str = "UTC",
    fields: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Answer:
    if found.naive_times:
        run.warn(f"{count(found.naive_times, 'time')} without a zone, taken in {timezone}")
    if found.ignored_columns:
        run.warn(f"columns that mean nothing here: {', '.join(found.ignored_columns)}")
    did = "would be imported" if dry_run else "imported"
    summary = [f"{count(found.imported, 'row')} {did}, {found.unchanged:,} unchanged, {found.rejected:,} rejected"]
    if found.events:
        summary.append(f"{count(found.events, 'event')} {'would be ' if dry_run else ''}appended")
    rejects = [f"the rejected rows, with line and reason: {found.rejects}"] if found.rejects else []
    document: dict[str, Any] = {
        "imported": found.imported,
        "restored": found.restored,
        "unchanged": found.unchanged,
        "rejected": found.rejected,
        "rejects": str(found.rejects) if found.rejects else None,
        "events": found.events,
        **(fields or {}),
        "dry_run": dry_run,
    }
    table = None
    if found.profile is not None:
        document["profile"] = found.profile
        table = _profile(found.profile)
    verdict = "REJECTS" if found.rejected else "OK"
    return Answer(verdict=verdict, fields=document, table=table, summary=summary, notes=[*notes, *rejects])


def _profile(columns: list[ColumnProfile]) -> pl.DataFrame:
    import polars as pl

    rows = [
        {
            "column": each.column,
            "rows": each.rows,
            "empty": each.empty,
            "distinct": each.distinct,
            "min": each.min,
            "max": each.max,
            "values": ", ".join(f"{value} {times:,}" for value, times in (each.values or {}).items()),
        }
        for each in columns
    ]
    return pl.DataFrame(rows)


def _name(file: str) -> str:
    return "stdin" if file == "-" else Path(file).stem


def _mapping(run: Run, file: Path | None) -> Mapping:
    from ledger.importing import load_mapping, mapping_of

    if file is not None:
        return load_mapping(file)
    return mapping_of(run.settings.imports, where=str(run.options.config or run.data / FILE_NAME))
