"""The commands of breaks: list what is wrong between orders and ledger, show one, and decide about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.consent import Yes, need_yes
from console.persons import By, Reason, reason_of, who
from console.reports.writing import ReportFiles, need_report_files
from console.run import Run, command, without_subcommand
from schemas.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from ledger.break_rows import Resolution, Selection
    from ledger.store import Store

__all__ = ["register"]

#: What --status takes beside the states: how something was resolved, and everything.
_RESOLUTIONS: tuple[Resolution, ...] = ("late", "manual", "accepted")
_ALL = "all"

Ids = Annotated[list[int], typer.Argument(metavar="ID...", help="The breaks, as `breaks` lists them.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    group = typer.Typer(help="List what is wrong between orders and ledger, and decide about it.")
    without_subcommand(group)(list_breaks)
    command(group, "list")(list_breaks)
    command(group, "show")(show)
    command(group, "resolve")(resolve)
    command(group, "reopen")(reopen)
    app.add_typer(group, name="breaks")


def list_breaks(
    run: Run,
    *,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="pending, open, reopened, resolved, late, manual, accepted or all (default: all that is not "
            "resolved).",
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="Orders placed at this moment or later.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="Orders placed at this moment or before.")
    ] = None,
    code: Annotated[str | None, typer.Option("--code", metavar="CODE", help="Only this code.")] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="ACCOUNT", help="Only this account.")] = None,
    order: Annotated[str | None, typer.Option("--order", metavar="ORDER", help="Only this order.")] = None,
    report: ReportFiles = None,
) -> Answer:
    """List the breaks that `reconcile` has found, and what came of them.

    One is pending until both sides were read past its deadline, and open from then on, until
    what is missing comes or somebody resolves it.
    """
    from console.break_answers import breaks_answer
    from console.reports.break_sums import MEANINGS

    need_report_files(report or [], output=run.options.output)
    if code is not None and code not in MEANINGS:
        raise UsageError(f"no break has the code {code!r}", next_step=f"use one of {', '.join(MEANINGS)}")
    selection = _selection(status)._replace(
        start=_moment(run, start, "--start"),
        end=_moment(run, end, "--end"),
        code=code,
        account_id=account,
        order_id=order,
    )
    if selection.start is not None and selection.end is not None and selection.start > selection.end:
        raise UsageError("--start is after --end", next_step="exchange them")
    with run.ledger() as store:
        return breaks_answer(store, selection, now=run.now, reports=report or [])


def show(run: Run, id: Annotated[int, typer.Argument(metavar="ID", help="The break, as `breaks` lists it.")]) -> Answer:
    """Show one break: what it says, and everything that happened to it."""
    from console.break_answers import shown_answer

    with run.ledger() as store:
        return shown_answer(store, id, now=run.now)


def resolve(
    run: Run,
    ids: Ids,
    *,
    reason: Reason,
    accept: Annotated[bool, typer.Option("--accept", help="It stays as it is: nothing is put right.")] = False,
    manual: Annotated[bool, typer.Option("--manual", help="It was put right by hand, outside.")] = False,
    yes: Yes = False,
    by: By = None,
) -> Answer:
    """Resolve breaks by hand. No later run undoes it; where the facts change, that is noted.

    Resolved again, such a break is resolved as its facts are now.
    """
    from console.break_answers import decided_answer
    from ledger import breaks

    if accept == manual:
        raise UsageError("a break is either accepted or put right by hand", next_step="say --accept or --manual")
    resolution: Resolution = "accepted" if accept else "manual"
    why, person = reason_of(reason), who(by)
    with run.ledger() as store:
        _need_yes(store, ids, f"resolve {{}}: {resolution}", is_sure=yes)
        with store.writing() as connection:
            found = breaks.resolve(connection, ids, resolution, by=person, why=why, now=run.now)
        return decided_answer(found, f"resolved: {resolution}", now=run.now)


def reopen(run: Run, ids: Ids, *, reason: Reason, yes: Yes = False, by: By = None) -> Answer:
    """Take back what was decided: breaks that are still wrong stand again, or wait for their deadline again."""
    from console.break_answers import decided_answer
    from ledger import breaks

    why, person = reason_of(reason), who(by)
    with run.ledger() as store:
        _need_yes(store, ids, "reopen {}", is_sure=yes)
        with store.writing() as connection:
            found = breaks.reopen(connection, ids, by=person, why=why, now=run.now)
        return decided_answer(found, "reopened", now=run.now)


def _need_yes(store: Store, ids: list[int], what: str, *, is_sure: bool) -> None:
    """Name the breaks that are about to be decided, and ask; ids that there are no breaks of are for the refusal."""
    from console.words import count, first_few
    from ledger import break_rows

    with store.snapshot() as connection:
        found = break_rows.listed(connection, ids=ids)
    if found.height < len(set(ids)):
        return
    rows = found.select("id", "code", "order_id", "state").iter_rows()
    named = [f"{number}: {code} of order {order_id}, {state}" for number, code, order_id, state in rows]
    need_yes(what.format(count(found.height, "break")), first_few(named, "breaks"), is_sure=is_sure)


def _selection(status: str | None) -> Selection:
    from ledger.break_rows import NOT_RESOLVED, Selection

    if status is None:
        return Selection(states=NOT_RESOLVED)
    if status == _ALL:
        return Selection()
    if status == "resolved":
        return Selection(states=("resolved",))
    for state in NOT_RESOLVED:
        if status == state:
            return Selection(states=(state,))
    for resolution in _RESOLUTIONS:
        if status == resolution:
            return Selection(states=("resolved",), resolution=resolution)
    known = ", ".join((*NOT_RESOLVED, "resolved", *_RESOLUTIONS))
    raise UsageError(f"no break has the status {status!r}", next_step=f"use {known} or {_ALL}")


def _moment(run: Run, words: str | None, option: str) -> datetime | None:
    return None if words is None else run.moment(words, option)
