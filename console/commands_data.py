"""Commands that move data: generate files, export the event stream; `commands_import` has those that bring it in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console import commands_import
from console.answer import Answer
from console.run import NO_TABLE, Run, command
from console.words import count
from schemas.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "generate", is_rendered=False, formats=NO_TABLE)(generate)
    commands_import.register(app)
    exports = typer.Typer(no_args_is_help=True, help="Write what the ledger holds into a file.")
    command(exports, "events", formats=NO_TABLE)(export_events)
    app.add_typer(exports, name="export")


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
