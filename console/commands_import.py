"""Commands that bring data in: rows of another system, and events of an export or of a topic."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from console.answer import Answer
from console.import_answers import absent_rows, healed_answer, imported_answer, orders_answer, taken_answer
from console.import_options import (
    DryRun,
    File,
    FromUrl,
    InputFormat,
    MapFile,
    Query,
    RejectsFile,
    Table,
    mapping_from,
    name_of,
    source_from,
    waiting_words,
)
from console.run import FORMATS, NO_TABLE, Run, command
from console.stopping import stopped_by_signals
from console.words import count
from schemas.errors import UsageError

if TYPE_CHECKING:
    from ledger.importing import Mapping

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    imports = typer.Typer(
        no_args_is_help=True, help="Bring rows of another system, or exported events, into the ledger."
    )
    command(imports, "transactions", formats=_import_formats)(import_transactions)
    command(imports, "accounts", formats=_import_formats)(import_accounts)
    command(imports, "orders", formats=_import_formats)(import_orders)
    command(imports, "events", formats=_event_formats)(import_events)
    app.add_typer(imports, name="import")


def _import_formats(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Only the profile of a dry run is a table."""
    return FORMATS if arguments["dry_run"] else NO_TABLE


def _event_formats(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Only the plan of a dry run from the topic is a table."""
    return FORMATS if arguments["dry_run"] and arguments["source"] else NO_TABLE


def import_transactions(
    run: Run,
    *,
    file: File = None,
    input_format: InputFormat = None,
    from_url: FromUrl = None,
    table: Table = None,
    query: Query = None,
    from_topic: Annotated[
        str | None,
        typer.Option("--from-topic", metavar="NAME", help="Read a topic of rows, from where the last import ended."),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option("--codec", metavar="CODEC", help="What its records are: json (rows) or debezium (changes)."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with the topic for ever, until Ctrl-C or SIGTERM.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Read the topic from its first offset again; known rows change nothing.")
    ] = False,
    map: MapFile = None,
    dry_run: DryRun = False,
    rejects: RejectsFile = None,
) -> Answer:
    """Turn rows of a transactions table into events; what is known already changes nothing.

    From a topic each record is taken once: its place moves with the events. A row that Debezium says was deleted is
    named, and its events stay.
    """
    from ledger.importing import import_transactions as bring

    mapping = mapping_from(run, map)
    if from_topic is not None:
        if file or from_url or table or query or input_format:
            raise UsageError("--from-topic excludes a FILE and --from-url", next_step="leave one of them away")
        options = _TopicOptions(from_topic, codec, follow, restart, dry_run, rejects)
        return _take_from_topic(run, options, mapping)
    if codec or follow or restart:
        raise UsageError("--codec, --follow and --restart belong to --from-topic", next_step="name the topic")
    source, name = source_from(file, input_format, from_url, table, query)
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
    return imported_answer(run, found, dry_run=dry_run, timezone=mapping.timezone)


class _TopicOptions(NamedTuple):
    """What the options say about a topic of rows."""

    name: str
    codec: str | None
    follow: bool
    restart: bool
    dry_run: bool
    rejects: Path | None


def _take_from_topic(run: Run, options: _TopicOptions, mapping: Mapping) -> Answer:
    from consumers.intake import TopicRows, dry_import, import_from_topic, topic_of_rows
    from ledger.importing.codecs import CODECS

    if options.codec not in CODECS:
        wrong = "--from-topic needs --codec" if options.codec is None else f"there is no codec {options.codec!r}"
        raise UsageError(wrong, next_step="say --codec json for rows, --codec debezium for change events")
    if options.follow and options.dry_run:
        raise UsageError("--follow and --dry-run exclude each other", next_step="leave one of the two away")
    stop = threading.Event()
    rows = TopicRows(run.kafka(), options.name, options.codec, waiting=waiting_words(run), should_stop=stop.is_set)
    # A dry run has a file of its own: the other one is a log that stays.
    name = f"rejects-{options.name}{'-dry-run' if options.dry_run else ''}.csv"
    rejects = options.rejects or run.reports / name
    imported = None
    # Before there is a ledger to bring anything into: a wrong name must not leave an empty one.
    topic_of_rows(rows.connection, rows.name)
    with (
        run.ledger_to_fill(dry_run=options.dry_run) as store,
        stopped_by_signals(stop, only_if=options.follow),
        run.progress("importing", unit="rows") as progress,
    ):
        if options.dry_run:
            imported, ended = dry_import(
                store, rows, mapping=mapping, now=run.now, rejects=rejects, restart=options.restart
            )
        else:
            ended = import_from_topic(
                store,
                rows,
                mapping=mapping,
                now=lambda: run.now,
                rejects=rejects,
                follow=options.follow,
                restart=options.restart,
                progress=progress,
            )
    return taken_answer(run, ended, rejects=rejects, topic=options.name, timezone=mapping.timezone, dry=imported)


def import_accounts(
    run: Run,
    *,
    file: File = None,
    input_format: InputFormat = None,
    from_url: FromUrl = None,
    table: Table = None,
    query: Query = None,
    map: MapFile = None,
    as_opening_at: Annotated[
        str | None,
        typer.Option(
            "--as-opening-at", metavar="TIME", help="Make opening balances of them, as events at this moment."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the rows of earlier imports that are not among these.")
    ] = False,
    dry_run: DryRun = False,
    rejects: RejectsFile = None,
) -> Answer:
    """Keep rows of a live accounts table for `drift` to compare; they become no events."""
    from ledger.importing import import_accounts as bring

    if replace and as_opening_at:
        raise UsageError("--replace and --as-opening-at exclude each other", next_step="events are never replaced")

    mapping = mapping_from(run, map)
    source, name = source_from(file, input_format, from_url, table, query)
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
    absent = absent_rows(found.absent, is_replaced=replace, dry_run=dry_run)
    more = {"absent": found.absent}
    return imported_answer(run, found, dry_run=dry_run, timezone=mapping.timezone, fields=more, notes=absent)


def import_orders(
    run: Run,
    *,
    file: File = None,
    input_format: InputFormat = None,
    from_url: FromUrl = None,
    table: Table = None,
    query: Query = None,
    from_topic: Annotated[
        str | None,
        typer.Option("--from-topic", metavar="NAME", help="Read a topic of order events, from where it was read to."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with the topic for ever, until Ctrl-C or SIGTERM.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Forget all orders, whatever their source, and read the topic from its start."),
    ] = False,
    map: MapFile = None,
    dry_run: DryRun = False,
    rejects: RejectsFile = None,
) -> Answer:
    """Bring orders in, for `reconcile`: rows of a table or file, or the events of a topic.

    A row says how an order is now; one that is known may go on from there, and anything else is a reject. Several rows
    of one order are followed in the order of the input; where the last is a reject, `reconcile` withholds the order
    until a good row of it comes. Rows are taken to be all that there was at the time of the import: --now says when
    they were exported. One ledger has its orders from rows or from one topic.
    """
    from ledger.importing import import_orders as bring

    if from_topic is not None:
        if file or from_url or table or query or input_format:
            raise UsageError("--from-topic excludes a FILE and --from-url", next_step="leave one of them away")
        if map or dry_run or rejects:
            raise UsageError("--map, --dry-run and --rejects are for rows", next_step="a topic has events: leave it")
        return _orders_from_topic(run, from_topic, follow=follow, restart=restart)
    if follow or restart:
        raise UsageError("--follow and --restart belong to --from-topic", next_step="name the topic")
    mapping = mapping_from(run, map)
    source, name = source_from(file, input_format, from_url, table, query)
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
    return imported_answer(run, found, dry_run=dry_run, timezone=mapping.timezone)


def _orders_from_topic(run: Run, name: str, *, follow: bool, restart: bool) -> Answer:
    from consumers.orders_import import import_orders_from_topic
    from replay.topic.refusals import topic_named

    stop = threading.Event()
    connection = run.kafka()
    # Before there is a ledger to bring anything into: a wrong name must not leave an empty one.
    topic_named(connection, name, next_step="check the name given with --from-topic")
    with (
        run.ledger_to_fill(dry_run=False) as store,
        stopped_by_signals(stop, only_if=follow),
        run.progress("importing", unit="records") as progress,
    ):
        taken = import_orders_from_topic(
            store,
            connection,
            name,
            now=lambda: run.now,
            follow=follow,
            restart=restart,
            waiting=waiting_words(run),
            progress=progress,
            should_stop=stop.is_set,
        )
    return orders_answer(taken, topic=name)


def import_events(
    run: Run,
    *,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="JSON Lines of events, as `export events` writes them.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="SOURCE", help="topic: bring back from the topic what the ledger has lost."),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option("--topic", metavar="NAME", help="The topic (default: that of the TOML file, else ledger-events)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would do; with --from topic, as a plan.")
    ] = False,
    skip_conflicts: Annotated[
        bool,
        typer.Option("--skip-conflicts", help="With --from topic: leave accounts in conflict out, take all others."),
    ] = False,
    accept_topic: Annotated[
        bool,
        typer.Option("--accept-topic", help="With --from topic: take one of which the ledger has no event at all."),
    ] = False,
    rejects: RejectsFile = None,
) -> Answer:
    """Append events to the ledger as they were, from an export or from the topic; what is known changes nothing.

    Lost and damaged events come back where the hash chain proves them. From the topic it is all or nothing: one
    conflict between it and the ledger, and the answer is REFUSED, unless --skip-conflicts leaves its account out.
    """
    from ledger.importing import import_events as bring

    if source is not None:
        return _import_from_topic(
            run, file, source, topic, rejects, dry_run=dry_run, skip_conflicts=skip_conflicts, accept_topic=accept_topic
        )
    if skip_conflicts or accept_topic:
        raise UsageError("--skip-conflicts and --accept-topic belong to --from topic", next_step="leave them away")
    if file is None or topic is not None:
        raise UsageError("say what to import", next_step="give a FILE, or --from topic with or without --topic NAME")
    chosen = rejects or run.reports / f"rejects-{name_of(file)}.csv"
    with run.ledger_to_fill(dry_run=dry_run) as store, run.progress("importing", unit="rows") as progress:
        found = bring(store, file, rejects=chosen, dry_run=dry_run, progress=progress)
    did = "would be put back" if dry_run else "put back"
    restored = [f"{count(found.restored, 'lost event')} {did}"] if found.restored else []
    return imported_answer(run, found, dry_run=dry_run, fields={"restored": found.restored}, notes=restored)


def _import_from_topic(
    run: Run,
    file: str | None,
    source: str,
    topic: str | None,
    rejects: Path | None,
    *,
    dry_run: bool,
    skip_conflicts: bool,
    accept_topic: bool,
) -> Answer:
    from consumers.healing import heal_from_topic, topic_of_events

    if source != "topic":
        raise UsageError(f"events are not imported from {source!r}", next_step="give a FILE, or --from topic")
    if file is not None:
        raise UsageError("a FILE and --from topic exclude each other", next_step="leave one of the two away")
    if rejects is not None:
        raise UsageError("--rejects is for a FILE", next_step="what is not taken from a topic is in the answer")
    name = topic or run.settings.kafka.topic
    connection = run.kafka()
    # Before there is a ledger to bring anything into: a wrong name must not leave an empty one.
    topic_of_events(connection, name)
    with run.ledger_to_fill(dry_run=dry_run) as store, run.progress("comparing", unit="records") as progress:
        found = heal_from_topic(
            store,
            connection,
            name,
            dry_run=dry_run,
            skip_conflicts=skip_conflicts,
            accept_topic=accept_topic,
            progress=progress,
            waiting=waiting_words(run),
        )
    return healed_answer(found, topic=name, dry_run=dry_run)
