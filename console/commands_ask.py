"""Commands that ask the events: balances, history, graph. They only read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from console.answer import Answer
from console.archive_place import archive_to_ask
from console.run import FORMATS, Run, command
from console.source import (
    STORE_OR_ARCHIVE,
    ArchivePlace,
    Source,
    StoreOrArchive,
    TopicName,
    Workers,
    archive_position,
    need_source,
    store_position,
    topic_position,
)
from schemas import format_time

if TYPE_CHECKING:
    import polars as pl

    from replay import Balances, Certificate, Graph, History
    from replay.certificate import Position

__all__ = ["register"]

_BALANCE_COLUMNS = (
    "account_id",
    "balance",
    "frozen",
    "available",
    "pending_credit",
    "pending_debit",
    "status",
    "version",
    "last_effective_at",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "balances")(balances)
    command(app, "history")(history)
    command(app, "graph", formats=(*FORMATS, "dot", "mermaid"))(graph)


def balances(
    run: Run,
    *,
    accounts: Annotated[list[str] | None, typer.Argument(metavar="[ACCOUNT]...", help="Only these accounts.")] = None,
    source: Source = "store",
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="POS", help="As of a position: of the store 1200, of a topic 0:120,1:98."),
    ] = None,
    topic: TopicName = None,
    workers: Workers = None,
    archive: ArchivePlace = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Count what happened up to then; a date is its UTC midnight."),
    ] = None,
    recorded_as_of: Annotated[
        str | None,
        typer.Option("--recorded-as-of", metavar="TIME", help="Count what was recorded up to then."),
    ] = None,
) -> Answer:
    """Replay the events and show the balances of some accounts or all, now or as of a moment."""
    need_source(source, archive=archive, topic=topic, workers=workers)
    moments = _moments(run, as_of, recorded_as_of)
    if source == "topic":
        offsets = topic_position(at, "--at")
        found = _from_topic(run, accounts or (), moments, topic=topic, at=offsets, workers=workers)
    elif source == "archive":
        place = archive_position(at, "--at")
        found = _from_archive(run, accounts or (), moments, archive=archive, at=place)
    else:
        found = _from_store(run, accounts or (), moments, at=store_position(at, "--at"))
    return _balances_answer(found, at)


class _Moments(TypedDict):
    as_of: datetime | None
    recorded_as_of: datetime | None


def _moments(run: Run, as_of: str | None, recorded_as_of: str | None) -> _Moments:
    return {
        "as_of": None if as_of is None else run.moment(as_of, "--as-of"),
        "recorded_as_of": None if recorded_as_of is None else run.moment(recorded_as_of, "--recorded-as-of"),
    }


def _from_store(run: Run, accounts: Sequence[str], moments: _Moments, *, at: int | None) -> Balances:
    from replay import balances as ask

    with run.ledger_with_events() as store, run.progress("replaying") as progress:
        return ask(store, accounts, at=at, progress=progress, now=run.now, **moments)


def _from_topic(
    run: Run,
    accounts: Sequence[str],
    moments: _Moments,
    *,
    topic: str | None,
    at: dict[int, int] | None,
    workers: int | None,
) -> Balances:
    from replay.topic import balances_from_topic

    workers = workers or run.settings.kafka.workers
    kafka, name = run.kafka(), run.topic(topic)
    # Where there is no ledger the topic alone answers, and an empty one that goes away stands in.
    with run.ledger_to_fill(dry_run=True) as store, run.watch() as watch:
        return balances_from_topic(
            store, kafka, name, accounts, at=at, workers=workers, watch=watch, now=run.now, **moments
        )


def _from_archive(
    run: Run, accounts: Sequence[str], moments: _Moments, *, archive: str | None, at: Position | None
) -> Balances:
    from replay.archive.answers import balances_from_archive

    # The archive knows of itself up to when it is whole, so only a clock that was given says anything more.
    now = run.now if run.options.now else None
    return balances_from_archive(archive_to_ask(run, archive), accounts, at=at, now=now, **moments)


def _balances_answer(found: Balances, at: str | None) -> Answer:
    reason = {"reason": _past_watermark(found)} if found.is_past_watermark else {}
    return Answer(
        verdict=found.verdict,
        fields={"watermark": found.watermark, "certificate": found.certificate, **reason},
        table=found.rows.select(_BALANCE_COLUMNS),
        table_name="accounts",
        summary=_balances_summary(found, at),
    )


def _balances_summary(found: Balances, at: str | None) -> list[str]:
    """Return what the answer is worth: of which moment it is, or why that moment has none."""
    from console.words import certificate_lines, missing_lines

    certificate = found.certificate
    if found.is_past_watermark:
        return [_past_watermark(found), *missing_lines(certificate)]
    lines = certificate_lines(certificate)
    watermark = "not known" if found.watermark is None else format_time(found.watermark)
    among = "" if at is None else f", of the events up to position {at} alone"
    counted = "" if found.moment is None else f"counted is what {_asked_text(certificate)}{among}; "
    return [*lines, f"{counted}the watermark is {watermark}"]


def _asked_text(certificate: Certificate) -> str:
    happened = f"happened up to {certificate.as_of}" if certificate.as_of else ""
    recorded = f"was recorded up to {certificate.recorded_as_of}" if certificate.recorded_as_of else ""
    return " and ".join(words for words in (happened, recorded) if words)


#: How a source comes to have a watermark.
_UP_TO_DATE = {
    "topic": "`publish` the whole ledger to it and ask without --at",
    "archive": "bring it up to date with `archive` while the store is there",
}

#: How the watermark of a source is moved on.
_LATER = {
    "store": "",
    "topic": ", or bring it up to date first with `publish`",
    "archive": ", or bring it up to date first with `archive`",
}


def _past_watermark(found: Balances) -> str:
    """Say in one sentence that the moment is past the watermark, and what to do."""
    source, asked = found.certificate.source, _asked_text(found.certificate)
    if found.watermark is None:
        why = f"up to which moment the {source} is whole is not known"
        step = f"{_UP_TO_DATE[source]}, or ask --from store"
    else:
        why = f"the {source} is known to be whole only up to the watermark {format_time(found.watermark)}"
        step = f"ask for a moment up to then{_LATER[source]}"
    return f"INCOMPLETE: no balance is given for what {asked}, since {why}: {step}"


def history(
    run: Run,
    *,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    source: StoreOrArchive = "store",
    archive: ArchivePlace = None,
) -> Answer:
    """Show one account's events in stream order, with balance and frozen points after each."""
    from console.words import certificate_lines

    need_source(source, sources=STORE_OR_ARCHIVE, archive=archive)
    found = _history(run, account, source=source, archive=archive)
    return Answer(
        verdict=found.verdict,
        fields={"certificate": found.certificate},
        table=found.rows,
        table_name="events",
        summary=certificate_lines(found.certificate),
    )


def _history(run: Run, account: str, *, source: str, archive: str | None) -> History:
    if source == "archive":
        from replay.archive.answers import history_from_archive

        return history_from_archive(archive_to_ask(run, archive), account)
    from replay import history as ask

    with run.ledger_with_events() as store:
        return ask(store, account)


def graph(
    run: Run,
    *,
    transaction: Annotated[str, typer.Argument(metavar="TRANSACTION", help="The transaction's id.")],
    source: StoreOrArchive = "store",
    archive: ArchivePlace = None,
) -> Answer:
    """Show all transactions reachable through related ids, both ways.

    --format dot or --format mermaid draws them.
    """
    from console.words import certificate_lines, count

    need_source(source, sources=STORE_OR_ARCHIVE, archive=archive)
    found = _graph(run, transaction, source=source, archive=archive)
    missing = [f"missing: {name} is named as related and is no transaction here" for name in found.missing]
    fields = {
        "transactions": found.transactions,
        "edges": found.edges,
        "missing": found.missing,
        "certificate": found.certificate,
    }
    return Answer(
        verdict=found.verdict,
        fields=fields,
        table=_with_related(found.transactions, found.edges),
        summary=certificate_lines(found.certificate),
        notes=[*missing, f"{count(found.transactions.height, 'transaction')}, {count(found.edges.height, 'link')}"],
        texts={"dot": found.to_dot() + "\n", "mermaid": found.to_mermaid() + "\n"},
    )


def _graph(run: Run, transaction: str, *, source: str, archive: str | None) -> Graph:
    if source == "archive":
        from replay.archive.answers import graph_from_archive

        return graph_from_archive(archive_to_ask(run, archive), transaction)
    from replay import graph as ask

    with run.ledger_with_events() as store, run.progress("replaying") as progress:
        return ask(store, transaction, progress=progress)


def _with_related(transactions: pl.DataFrame, edges: pl.DataFrame) -> pl.DataFrame:
    """One row a transaction, with the ids it names as related."""
    import polars as pl

    related = edges.group_by("transaction_id").agg(pl.col("related_transaction_id").sort().str.join(" "))
    return transactions.join(related, on="transaction_id", how="left", maintain_order="left")
