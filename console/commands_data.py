"""Commands that move data: generate files, import them, export the event stream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from console.answer import Answer
from console.run import Run, command
from schemas.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "generate", is_rendered=False)(generate)


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
