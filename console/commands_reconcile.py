"""The command that holds orders against the transactions that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.commands_drift import Listen
from console.import_options import MapFile
from console.reports.writing import ReportFiles, need_report_files
from console.run import Run, command
from console.source import STORE_OR_TOPIC, ArchivePlace, Source, TopicName, Workers, need_source
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.reconcile_once import Options

__all__ = ["register"]

PipedFormat = Annotated[
    str | None,
    typer.Option("--input-format", metavar="FORMAT", help="What standard input (-) is: csv, jsonl or parquet."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "reconcile")(reconcile)


def reconcile(
    run: Run,
    *,
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="Orders placed at this moment or later.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="Orders placed at this moment or before.")
    ] = None,
    business_code: Annotated[
        str | None,
        typer.Option(
            "--business-code",
            metavar="CODE",
            help="By the scenario's plain rules: only transactions of this code, and those that were created between "
            "--start (default: 24 hours before now) and --end (default: now).",
        ),
    ] = None,
    orders: Annotated[
        str | None,
        typer.Option("--orders", metavar="FILE", help="CSV, JSON Lines or Parquet instead of the ledger's orders."),
    ] = None,
    transactions: Annotated[
        str | None,
        typer.Option("--transactions", metavar="FILE", help="The same instead of the ledger's transactions."),
    ] = None,
    input_format: PipedFormat = None,
    map: MapFile = None,
    source: Source = "store",
    topic: TopicName = None,
    workers: Workers = None,
    archive: ArchivePlace = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow both sides and judge for ever, until Ctrl-C or SIGTERM.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", min=1, help="End --watch after so many whole rounds.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Let --watch follow the ledger anew, from its beginning.")
    ] = False,
    listen: Listen = None,
    report: ReportFiles = None,
) -> Answer:
    """Hold orders against the transactions that name them, order by order.

    Orders are those of `import orders`. What is wrong is kept as a break, and `breaks` lists them; with files, or with
    --business-code, nothing is kept.
    """
    if watch:
        once: dict[str, object] = {"--start": start, "--end": end, "--business-code": business_code}
        once |= {"--orders": orders, "--transactions": transactions, "--workers": workers, "--archive": archive}
        _refuse(
            {**once, "--input-format": input_format, "--map": map, "--report": report or None},
            "a single look",
            "leave --watch away",
        )
        return _watch(run, source, topic, restart=restart, rounds=rounds, listen=listen)
    _refuse({"--rounds": rounds, "--restart": restart or None, "--listen": listen}, "--watch", "say --watch too")
    from console.reconcile_once import Options, reconcile_once

    need_report_files(report or [], output=run.options.output)
    need_source(source, archive=archive, topic=topic, workers=workers)
    options = Options(
        start=start,
        end=end,
        business_code=business_code,
        orders=orders,
        transactions=transactions,
        input_format=input_format,
        map=map,
        source=source,
        topic=topic,
        workers=workers,
        archive=archive,
        reports=report or [],
    )
    _need_sense(options)
    return reconcile_once(run, options)


def _watch(
    run: Run, source: str, topic: str | None, *, restart: bool, rounds: int | None, listen: str | None
) -> Answer:
    from console.reconciling import Ledger, reconcile_for_ever

    need_source(source, sources=STORE_OR_TOPIC, topic=topic)
    return reconcile_for_ever(run, Ledger(source, topic, restart), rounds=rounds, listen=listen)


def _need_sense(options: Options) -> None:
    """Raise UsageError where the options name no code, or say something of a file or a source that is not meant."""
    if options.business_code == "":
        raise UsageError("--business-code is empty", next_step="name a code, or leave it away for the full rules")
    files = [options.orders, options.transactions]
    if options.transactions is not None and options.source != "store":
        raise UsageError("--transactions stands in for the ledger, so --from has no effect", next_step="give one")
    if options.map is not None and files == [None, None]:
        raise UsageError("--map is about files", next_step="give --orders or --transactions too, or leave it away")
    piped = files.count("-")
    if piped > 1:
        raise UsageError("standard input cannot be both orders and transactions", next_step="name a file for one")
    if options.input_format is not None and not piped:
        raise UsageError("--input-format is about standard input", next_step="name - as a file, or leave it away")


def _refuse(given: Mapping[str, object], about: str, next_step: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} is about {about}", next_step=next_step)
