"""The command that holds orders against the transactions that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from console.answer import Answer
from console.commands_drift import Listen
from console.import_options import MapFile
from console.reports.writing import ReportFiles, need_report_files
from console.run import Run, command
from console.source import STORE_OR_TOPIC, ArchivePlace, Source, TopicName, Workers, need_source
from schemas.errors import UsageError

__all__ = ["register"]


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
            "--start (default: 24 hours before --end) and --end (default: now).",
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
        _refuse({**once, "--map": map, "--report": report or None}, "a single look", "leave --watch away")
        return _watch(run, source, topic, restart=restart, rounds=rounds, listen=listen)
    _refuse({"--rounds": rounds, "--restart": restart or None, "--listen": listen}, "--watch", "say --watch too")
    from console.reconcile_once import Options, reconcile_once

    need_report_files(report or [], output=run.options.output)
    need_source(source, archive=archive, topic=topic, workers=workers)
    if transactions is not None and source != "store":
        raise UsageError("--transactions stands in for the ledger, so --from has no effect", next_step="give one")
    if map is not None and orders is None and transactions is None:
        raise UsageError("--map is about files", next_step="give --orders or --transactions too, or leave it away")
    options = Options(
        start=start,
        end=end,
        business_code=business_code,
        orders=orders,
        transactions=transactions,
        map=map,
        source=source,
        topic=topic,
        workers=workers,
        archive=archive,
        reports=report or [],
    )
    return reconcile_once(run, options)


def _watch(
    run: Run, source: str, topic: str | None, *, restart: bool, rounds: int | None, listen: str | None
) -> Answer:
    from console.reconciling import Ledger, reconcile_for_ever

    need_source(source, sources=STORE_OR_TOPIC, topic=topic)
    return reconcile_for_ever(run, Ledger(source, topic, restart), rounds=rounds, listen=listen)


def _refuse(given: Mapping[str, object], about: str, next_step: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} is about {about}", next_step=next_step)
