"""The commands of accounts: check for locks that are stuck, and unlock what may be unlocked."""

from __future__ import annotations

from typing import Annotated

import typer

from console.answer import Answer
from console.run import Run, command
from schemas.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    group = typer.Typer(help="Check accounts for locks that are stuck.", no_args_is_help=True)
    command(group, "check")(check)
    app.add_typer(group, name="accounts")


def check(
    run: Run,
    *,
    fix: Annotated[
        bool, typer.Option("--fix", help="Unlock what may be unlocked, as events, and alert about the rest.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: do not ask.")] = False,
) -> Answer:
    """Name every account that has been locked for more than a day.

    One without a pending transaction may be unlocked. One with a transaction that has been
    pending for more than an hour needs a person; otherwise it waits.
    """
    from console.lock_answers import announce, check_answer, fixed_answer
    from replay.locks import stuck_locks

    if yes and not fix:
        raise UsageError("--yes is about --fix", next_step="leave it away, or say --fix too")
    now = run.now
    with run.ledger_with_events() as store:
        with run.progress("replaying") as progress:
            found = stuck_locks(store, now=now, progress=progress)
        if not fix:
            return check_answer(found)
        announce(run, found, is_sure=yes)
        return fixed_answer(run, store, found, now=now)
