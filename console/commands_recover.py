"""The commands of a recovery: check, plan, decide, approve, apply, status, resume, abort, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from console.answer import Answer
from console.consent import Yes, need_with
from console.persons import By, Reason, reason_of, who
from console.reports.writing import ReportFiles, need_report_files
from console.run import NO_TABLE, Run, command
from console.source import Against, ArchivePlace, LiveTableName, Own, TheirLive, TopicName, need_one_live
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.recover_around import Applying
    from console.recover_places import LiveRows

__all__ = ["register"]

PlanFile = Annotated[Path, typer.Argument(metavar="FILE", help="The plan, as `recover plan` wrote it.")]
RunName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="The run, as `recover status` lists it (default: the only one).")
]
Sql = Annotated[
    Path | None,
    typer.Option("--sql", metavar="FILE", help="Write the corrections as guarded SQL too, to be applied by hand."),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", min=1, help="Accounts a batch (default: 100, then as many as take a second)."),
]
Throttle = Annotated[
    float | None,
    typer.Option(
        "--throttle", metavar="SHARE", min=0.01, max=1.0, help="The largest share of the time that it may be busy."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    group = typer.Typer(
        help="Recover from a disaster: check, plan, decide, approve, apply, report.", no_args_is_help=True
    )
    command(group, "check")(check)
    command(group, "plan", is_rendered=False, formats=NO_TABLE)(plan)
    command(group, "decide")(decide)
    command(group, "approve", formats=NO_TABLE)(approve)
    command(group, "apply")(apply)
    command(group, "status")(status)
    command(group, "resume", formats=NO_TABLE)(resume)
    command(group, "abort", formats=NO_TABLE)(abort)
    command(group, "report", formats=NO_TABLE)(report)
    app.add_typer(group, name="recover")


def check(
    run: Run,
    *,
    own: Own = False,
    live: TheirLive = False,
    against: Against = None,
    table: LiveTableName = None,
    topic: TopicName = None,
    archive: ArchivePlace = None,
) -> Answer:
    """Look at every part of the system: what is whole, what is lost, and what to do next.

    Live rows are those of `import accounts`, without those the live table that the TOML file
    names, and without that our own read model, unless others are named. Where nothing is whole that
    could be replayed the answer is REFUSED, and the webhook of the TOML file is told.
    """
    from console.recover_check import checked
    from console.recover_places import Copies

    return checked(run, _rows(own=own, live=live, against=against, table=table), Copies(topic, archive))


def plan(
    run: Run,
    *,
    accounts: Annotated[
        list[str] | None,
        typer.Option("--accounts", metavar="A,B", help="Only these accounts, by comma; may be given again."),
    ] = None,
    own: Own = False,
    live: TheirLive = False,
    against: Against = None,
    table: LiveTableName = None,
    heal_from: Annotated[
        str | None,
        typer.Option(
            "--heal-from", metavar="topic|FILE", help="Where lost events come back from: the topic, or an export."
        ),
    ] = None,
    sql: Sql = None,
    settle: Annotated[
        str | None,
        typer.Option(
            "--settle",
            metavar="complete|cancel",
            help="What becomes of stale pending transactions (default: as the TOML file says, else a person decides).",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over a plan that somebody decided in, or approved.")
    ] = False,
    by: By = None,
) -> Answer:
    """Write down every change that a recovery would make, and by what right: nothing else is written.

    The plan goes to the file of --output. What the log cannot vouch for is in it as unknown, and
    is never done before a person decided.
    """
    from console.recover_plan import Planned
    from console.recover_plan import plan as made

    if run.options.output is None:
        raise UsageError("a plan needs a file", next_step="name one with --output")
    if settle not in (None, "complete", "cancel"):
        raise UsageError(f"nothing settles {settle!r}", next_step="say --settle complete or --settle cancel")
    how: Literal["complete", "cancel"] | None = None if settle is None else _settlement(settle)
    named = [name for each in accounts or [] for name in each.split(",") if name]
    if accounts and not named:
        raise UsageError("--accounts names nobody", next_step="name accounts, or leave it away for all")
    options = Planned(
        output=run.options.output,
        rows=_rows(own=own, live=live, against=against, table=table),
        accounts=named or None,
        heal_from=heal_from,
        sql=sql,
        settle=how,
        by=who(by),
        is_overwritten=overwrite,
    )
    return made(run, options)


def decide(
    run: Run,
    file: PlanFile,
    accounts: Annotated[
        list[str] | None, typer.Argument(metavar="ACCOUNT", help="The accounts that are decided.")
    ] = None,
    *,
    reason: Reason,
    class_: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="All that are undecided and of this class.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that are undecided.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="The log is right; where it is damaged, live stays as it is.")
    ] = False,
    adjust: Annotated[
        bool, typer.Option("--adjust", help="Live is right, or --to: an event makes the log say so.")
    ] = False,
    to: Annotated[
        int | None, typer.Option("--to", metavar="N", min=0, help="With --adjust: the balance (default: live's).")
    ] = None,
    sql: Sql = None,
    own: Own = False,
    live: TheirLive = False,
    against: Against = None,
    table: LiveTableName = None,
    by: By = None,
) -> Answer:
    """Decide about accounts of a plan that the log cannot vouch for, and write the plan anew.

    It is another plan by that, so it has to be approved as it is then.
    """
    from console.recover_plan import Decided
    from console.recover_plan import decide as decided

    if accept == adjust:
        raise UsageError("the log is accepted, or the account is adjusted", next_step="say --accept or --adjust")
    if sum((bool(accounts), class_ is not None, all_)) != 1:
        raise UsageError("it must be clear who is decided about", next_step="name accounts, or --class, or --all")
    options = Decided(
        file=file,
        accounts=accounts or None,
        cause=class_,
        action="accept" if accept else "adjust",
        balance=to,
        reason=reason_of(reason),
        by=who(by),
        sql=sql,
        rows=_rows(own=own, live=live, against=against, table=table),
    )
    return decided(run, options)


def approve(run: Run, file: PlanFile, *, reason: Reason, by: By = None) -> Answer:
    """Approve a plan as it is now: its hash, who, why, and until when go into the audit trail."""
    from console.recover_plan import approve as approved

    return approved(run, file, reason=reason_of(reason), by=who(by))


def apply(
    run: Run,
    file: PlanFile,
    *,
    execute: Annotated[bool, typer.Option("--execute", help="Do it. Without it nothing is written.")] = False,
    batch: Batch = None,
    throttle: Throttle = None,
    own: Own = False,
    live: TheirLive = False,
    against: Against = None,
    table: LiveTableName = None,
    topic: TopicName = None,
    archive: ArchivePlace = None,
    yes: Yes = False,
    by: By = None,
) -> Answer:
    """Say what an approved plan would do now, or with --execute do it.

    Writers are fenced meanwhile. What was changed since the plan was made, by whomever, is left
    as it is and named. Killed anywhere, `recover resume` goes on and `recover abort` puts back.
    """
    from console import recover_apply

    options = _applying(own=own, live=live, against=against, table=table, topic=topic, archive=archive, by=by)
    need_with("--execute", execute, {"--yes": yes, "--batch": batch is not None, "--throttle": throttle is not None})
    if not execute:
        return recover_apply.dry_run(run, file, options)
    return recover_apply.apply(run, file, _how(options, batch, throttle, is_sure=yes))


def status(run: Run, name: RunName = None) -> Answer:
    """Show all runs, or the steps of one, who has the lease, and whether writers are fenced."""
    from console.recover_status import status as shown

    return shown(run, name)


def resume(
    run: Run,
    name: RunName = None,
    *,
    batch: Batch = None,
    throttle: Throttle = None,
    own: Own = False,
    live: TheirLive = False,
    against: Against = None,
    table: LiveTableName = None,
    topic: TopicName = None,
    archive: ArchivePlace = None,
    yes: Yes = False,
    by: By = None,
) -> Answer:
    """Go on with a run that was killed, failed, or needed a person."""
    from console import recover_apply

    options = _applying(own=own, live=live, against=against, table=table, topic=topic, archive=archive, by=by)
    return recover_apply.resume(run, name, _how(options, batch, throttle, is_sure=yes))


def abort(
    run: Run,
    name: RunName = None,
    *,
    reason: Reason,
    own: Own = False,
    live: TheirLive = False,
    against: Against = None,
    table: LiveTableName = None,
    leave_live: Annotated[
        bool,
        typer.Option(
            "--leave-live",
            help="Put nothing back: the live table, the plan's file or the backup is gone for good.",
        ),
    ] = False,
    yes: Yes = False,
    by: By = None,
) -> Answer:
    """Give a run up: its live rows go back to what they were, where nobody changed them since.

    Events stay, and are listed. With --leave-live the fence is lifted without a look at the live
    rows, and every row that the run may have written is listed as not put back.
    """
    from console import recover_apply

    if leave_live:
        for word, is_given in {"--own": own, "--live": live, "--against": against, "--table": table}.items():
            if is_given:
                raise UsageError(f"{word} names live rows, and --leave-live leaves them", next_step="leave one away")
        return recover_apply.leave_live(run, name, reason=reason_of(reason), by=who(by), is_sure=yes)
    options = _applying(own=own, live=live, against=against, table=table, topic=None, archive=None, by=by)
    return recover_apply.abort(run, name, _how(options, None, None, is_sure=yes), reason=reason_of(reason))


def report(
    run: Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN | verify FILE", help="The run (default: the newest), or verify and a report."),
    ] = None,
    *,
    files: ReportFiles = None,
    by: By = None,
) -> Answer:
    """Show the report of a run, or write it; `verify FILE` checks a written one against the audit trail.

    Whatever form it has, its SHA-256 is in the audit trail, and the trail must be whole. The
    numbers of a report in JSON are added up again from the trail.
    """
    from console import recover_report

    if words and words[0] == "verify":
        if len(words) != 2 or files:
            raise UsageError("verify checks one report", next_step="`recover report verify FILE`")
        return recover_report.verify_report(run, Path(words[1]))
    if words and len(words) > 1:
        raise UsageError(f"{words[1]!r} is one word too many", next_step="name one run, or `verify FILE`")
    need_report_files(files or [], output=run.options.output)
    return recover_report.report(run, words[0] if words else None, files or [], by=who(by))


def _rows(*, own: bool, live: bool, against: str | None, table: str | None) -> LiveRows:
    from console.recover_places import LiveRows

    need_one_live(own=own, live=live, against=against, table=table)
    return LiveRows(own, live, against, table)


def _settlement(words: str) -> Literal["complete", "cancel"]:
    return "complete" if words == "complete" else "cancel"


def _applying(
    *,
    own: bool,
    live: bool,
    against: str | None,
    table: str | None,
    topic: str | None,
    archive: str | None,
    by: str | None,
) -> Applying:
    from console.recover_around import Applying
    from console.recover_places import Copies

    rows = _rows(own=own, live=live, against=against, table=table)
    return Applying(by=who(by), rows=rows, copies=Copies(topic, archive))


def _how(options: Applying, batch: int | None, throttle: float | None, *, is_sure: bool) -> Applying:
    from dataclasses import replace

    return replace(options, batch=batch, throttle=throttle, is_sure=is_sure)
