"""Commands that move data: generate files, export the event stream; `commands_import` has those that bring it in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from console import commands_import
from console.answer import Answer
from console.archive_place import archive_to_ask
from console.run import NO_TABLE, Run, command
from console.source import STORE_OR_ARCHIVE, ArchivePlace, StoreOrArchive, need_source
from console.words import count, first_few, missing_lines
from schemas.errors import UsageError

if TYPE_CHECKING:
    from replay.certificate import Certificate

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
    run: Run,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines; - is standard output.")],
    source: StoreOrArchive = "store",
    archive: ArchivePlace = None,
) -> Answer:
    """Write every event as JSON Lines, the bytes that the topic would carry; of the store in stream order.

    Accounts that a replay cannot vouch for are left out and named: INCOMPLETE, exit status 3. What the store
    has lost, `import events` brings back from the export of an archive.
    """
    need_source(source, sources=STORE_OR_ARCHIVE, archive=archive)
    is_stdout = _need_output(run, file)
    found = _from_archive(run, archive, file) if source == "archive" else _from_store(run, file)
    certificate = found.certificate
    is_whole = certificate.verdict == "COMPLETE" and not found.unproved
    left_out = [f"{count(len(found.without), 'account')} left out"] if found.without else []
    missing = [*left_out, *missing_lines(certificate), *_unproved_lines(found.unproved)]
    fields = {"events": found.events, "file": file, "parked": certificate.parked, "poison": certificate.poison}
    if source == "archive":
        fields |= {"damaged": certificate.damaged, "unproved": found.unproved}
    answer = Answer(
        verdict="OK" if is_whole else "INCOMPLETE",
        fields=fields,
        summary=[f"{count(found.events, 'event')} in {file}"],
        notes=missing,
    )
    if not is_stdout:
        return answer
    # Nothing but events may stand in the stream that is being piped.
    for line in (f"{count(found.events, 'event')} written", *missing):
        run.warn(line)
    return answer if run.options.output else Answer(verdict=answer.verdict)


class _Exported(NamedTuple):
    """What was written, the accounts that are known by name to be left out, and those of which no chain proves them."""

    events: int
    certificate: Certificate
    without: list[str]
    unproved: list[str]


def _need_output(run: Run, file: str) -> bool:
    """Say whether events go to standard output; UsageError where they cannot be written as was asked."""
    from console.render import need_place

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
    return is_stdout


def _from_store(run: Run, file: str) -> _Exported:
    from ledger.importing import export_events as write_events
    from replay import balances

    with run.ledger() as store:
        with run.progress("checking") as progress:
            certificate = balances(store, progress=progress).certificate
        with run.progress("exporting") as progress:
            without = sorted({found.account_id for found in certificate.parked})
            events = write_events(store, file, progress, without=without)
    return _Exported(events, certificate, without, [])


def _from_archive(run: Run, archive: str | None, file: str) -> _Exported:
    from replay.archive.exporting import export_from_archive

    with run.progress("exporting") as progress:
        found = export_from_archive(archive_to_ask(run, archive), file, progress=progress)
    parked = {each.account_id for each in found.certificate.parked}
    return _Exported(found.events, found.certificate, sorted(parked | set(found.unproved)), found.unproved)


def _unproved_lines(account_ids: list[str]) -> list[str]:
    lines = [f"left out: {each}, since its events do not come out as they were appended" for each in account_ids]
    return first_few(lines, "accounts")
