"""Commands that ask the events: balances, history, graph. They only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.run import FORMATS, Run, command
from console.source import Source, TopicName, Workers, need_source, store_position, topic_position
from schemas.errors import RefusedError

if TYPE_CHECKING:
    import polars as pl

    from replay import Balances

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
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="As of a moment by when things happened: not yet.")
    ] = None,
    recorded_as_of: Annotated[
        str | None,
        typer.Option("--recorded-as-of", metavar="TIME", help="As of a moment by when things were recorded: not yet."),
    ] = None,
) -> Answer:
    """Replay the events and show the balances of some accounts or all."""
    need_source(source, topic=topic, workers=workers)
    _refuse_moments({"--as-of": as_of, "--recorded-as-of": recorded_as_of})
    from console.words import certificate_lines

    if source == "topic":
        found = _from_topic(run, topic, accounts or (), topic_position(at, "--at"), workers)
    else:
        from replay import balances as ask

        with run.ledger_with_events() as store, run.progress("replaying") as progress:
            found = ask(store, accounts or (), at=store_position(at, "--at"), progress=progress, now=run.now)
    return Answer(
        verdict=found.verdict,
        fields={"watermark": found.watermark, "certificate": found.certificate},
        table=found.rows.select(_BALANCE_COLUMNS),
        table_name="accounts",
        summary=certificate_lines(found.certificate),
    )


def _from_topic(
    run: Run, topic: str | None, accounts: Sequence[str], at: dict[int, int] | None, workers: int | None
) -> Balances:
    from replay.topic import balances_from_topic

    workers = workers or run.settings.kafka.workers
    kafka, name = run.kafka(), run.topic(topic)
    # Where there is no ledger the topic alone answers, and an empty one that goes away stands in.
    with run.ledger_to_fill(dry_run=True) as store, run.watch() as watch:
        return balances_from_topic(store, kafka, name, accounts, at=at, workers=workers, watch=watch, now=run.now)


def history(
    run: Run,
    *,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
) -> Answer:
    """Show one account's events in stream order, with balance and frozen points after each."""
    from console.words import certificate_lines
    from replay import history as ask

    with run.ledger_with_events() as store:
        found = ask(store, account)
    return Answer(
        verdict=found.verdict,
        fields={"certificate": found.certificate},
        table=found.rows,
        table_name="events",
        summary=certificate_lines(found.certificate),
    )


def graph(
    run: Run,
    *,
    transaction: Annotated[str, typer.Argument(metavar="TRANSACTION", help="The transaction's id.")],
) -> Answer:
    """Show all transactions reachable through related ids, both ways.

    --format dot or --format mermaid draws them.
    """
    from console.words import certificate_lines, count
    from replay import graph as ask

    with run.ledger_with_events() as store, run.progress("replaying") as progress:
        found = ask(store, transaction, progress=progress)
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


def _with_related(transactions: pl.DataFrame, edges: pl.DataFrame) -> pl.DataFrame:
    """One row a transaction, with the ids it names as related."""
    import polars as pl

    related = edges.group_by("transaction_id").agg(pl.col("related_transaction_id").sort().str.join(" "))
    return transactions.join(related, on="transaction_id", how="left", maintain_order="left")


def _refuse_moments(options: dict[str, str | None]) -> None:
    for option, value in options.items():
        if value is not None:
            raise RefusedError(
                f"{option} is not there yet: point in time comes with the archive",
                next_step="use --at with a position of the store",
            )
