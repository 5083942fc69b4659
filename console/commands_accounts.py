"""The commands of accounts: check for locks that are stuck, and unlock what may be unlocked."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from console.answer import Answer
from console.consent import Yes, need_unfenced, need_with
from console.persons import By, who
from console.run import Run, command

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
    yes: Yes = False,
    by: By = None,
) -> Answer:
    """Name every account that has been locked for more than a day.

    One without a pending transaction may be unlocked. One with a transaction that has been
    pending for more than an hour needs a person; otherwise it waits.
    """
    from console.lock_answers import check_answer, fixed_answer
    from replay.locks import stuck_locks

    need_with("--fix", fix, {"--yes": yes, "--by": by is not None})
    person, now = who(by) if fix else "", run.now
    with run.ledger_with_events() as store:
        if fix:
            need_unfenced(store)
        with run.progress("replaying") as progress:
            found = stuck_locks(store, now=now, progress=progress)
        if not fix:
            return _with_live(run, check_answer(found))
        return fixed_answer(run, store, found, by=person, is_sure=yes, now=now)


def _with_live(run: Run, answer: Answer) -> Answer:
    """Return an answer with what it did not look at, where the TOML file names a live table."""
    from console.recover_places import names_live

    if not names_live(run):
        return answer
    return replace(answer, notes=[*answer.notes, _NOT_LOOKED_AT])


_NOT_LOOKED_AT = (
    "only the log and imported rows were looked at, not the table of [live]: "
    "`recover plan --live --output FILE` plans unlocks there"
)
