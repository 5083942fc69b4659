"""`recover plan`, `decide` and `approve`: the file that says what would change, and whose word it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import polars as pl

from console.answer import Answer
from console.consent import say_first
from console.recover_audit import kept_outside, outsides_of
from console.recover_guards import need_folder, need_free, need_own_ledger, refuse_author, refuse_done
from console.recover_places import LiveRows, healing_from, names_live, table_of_plan, wanted_table
from console.render import need_place, printable, write_file
from console.words import count, first_few, live_rows
from ledger import audit
from ledger.importing.file_copy import FileCopy
from ledger.recovery_runs import Runs
from replay.recovery.decide import decide as decided
from replay.recovery.outcome import by_account, is_gap
from replay.recovery.plan import Change, Plan, read_plan, run_of, write_plan
from replay.recovery.planning import Policy, make_plan
from replay.recovery.sql import guarded_sql
from replay.recovery.targets import ROW, values_of_text
from schemas import format_time
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.run import Run
    from replay.certificate import Certificate
    from replay.comparison.live_table import LiveTable
    from replay.differences import Value

__all__ = [
    "Decided",
    "Planned",
    "approve",
    "changes_table",
    "decide",
    "more_changes",
    "plan",
    "plan_lines",
    "points",
    "shown_changes",
]

#: How many changes people are shown; the file has all.
SHOWN_MAX = 20
#: What is left of an account that nobody can judge.
UNJUDGED = ("parked", "unreadable", "uncompared")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the options of `recover plan` say."""

    output: Path
    rows: LiveRows
    accounts: Sequence[str] | None
    heal_from: str | None
    sql: Path | None
    settle: Literal["complete", "cancel"] | None
    by: str
    is_overwritten: bool = False


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What the options of `recover decide` say; without accounts it is on all that are undecided."""

    file: Path
    accounts: Sequence[str] | None
    cause: str | None
    action: Literal["accept", "adjust"]
    balance: int | None
    reason: str
    by: str
    sql: Path | None
    rows: LiveRows


class Frames(TypedDict):
    """The tables of an answer."""

    table: pl.DataFrame
    shown: pl.DataFrame | None


def plan(run: Run, options: Planned) -> Answer:
    """Make a plan and write it, with its SQL where that is wanted."""
    files = [options.output, *([options.sql] if options.sql is not None else [])]
    if len({file.absolute() for file in files}) < len(files):
        raise UsageError("two things would be written to one file", where=str(files[0]), next_step="name another")
    for file in files:
        need_place(file)
        need_folder(file)
    said = run.settings.recover
    policy = Policy(
        lowering=said.lowering,
        settle=options.settle or said.settle,
        # What is said with the command is said of all.
        settle_codes={} if options.settle else said.settle_codes,
    )
    with run.ledger_with_events() as store:
        if not options.is_overwritten:
            need_free(options.output, store)
        table = wanted_table(run, store, options.rows)
        if options.sql is not None and table is None:
            raise UsageError("our own read model is made anew, so there is no SQL", next_step="leave --sql away")
        heal = None if options.heal_from is None else healing_from(run, options.heal_from)
        if heal is not None and isinstance(heal.copy, FileCopy):
            heal.copy.check()
        certificates: list[Certificate] = []
        with run.progress("planning") as progress:
            made = make_plan(
                store,
                table,
                policy=policy,
                accounts=options.accounts,
                heal=heal,
                now=run.now,
                by=options.by,
                progress=progress,
                certified=certificates.append,
            )
    _save(made, options.output)
    if options.sql is not None and table is not None:
        _write_sql(made, table, options.sql)
    answer = _plan_answer(made, options.output, options.sql)
    if made.target.kind == "imported" and names_live(run):
        answer = replace(
            answer, notes=[*answer.notes, "these are the imported rows: --live plans for the table of [live]"]
        )
    return replace(answer, fields={**answer.fields, "certificate": certificates[-1]})


def decide(run: Run, options: Decided) -> Answer:
    """Write the plan anew with a person's decision, and its SQL where that is wanted."""
    before = read_plan(options.file)
    made = decided(
        before,
        account_ids=options.accounts,
        cause=options.cause,
        action=options.action,
        balance=options.balance,
        by=options.by,
        reason=options.reason,
        now=run.now,
    )
    table = None
    if options.sql is not None:
        need_place(options.sql)
        need_folder(options.sql)
        with run.ledger() as store:
            table = table_of_plan(run, store, made, options.rows)
        if table is None:
            raise UsageError("our own read model is made anew, so there is no SQL", next_step="leave --sql away")
    number = sum(_decisions(before).get(name) != said for name, said in _decisions(made).items())
    say_first(f"write {options.file} anew: {count(number, 'account')} decided, {options.action}")
    _save(made, options.file)
    if options.sql is not None and table is not None:
        _write_sql(made, table, options.sql)
    found = _plan_answer(made, options.file, options.sql)
    return Answer(
        verdict="OK",
        fields={**found.fields, "decided": number},
        table=found.table,
        shown=found.shown,
        summary=[f"{count(number, 'account')} decided: {options.action}", *found.summary],
        notes=["the plan is another one by that: approve it as it is now", *found.notes],
    )


def approve(run: Run, file: Path, *, reason: str, by: str) -> Answer:
    """Note in the ledger that somebody approves a plan; RefusedError where that person may not, or it is of another."""
    made = read_plan(file)
    refuse_author(run, made, by)
    now, name = run.now, run_of(made)
    until = now + timedelta(hours=run.settings.recover.approval_hours)
    with run.ledger() as store:
        need_own_ledger(made, store, file)
        outsides = outsides_of(run, store)
        details = {"plan": made.hash, "reason": reason, "expires_at": format_time(until)}
        say_first(f"approve plan {made.hash[:16]} until {format_time(until)}, in the ledger and its audit trail")
        with Runs(store).changing(name) as (recovery, connection):
            refuse_done(recovery)
            recovery.approve(plan_hash=made.hash, by=by, reason=reason, at=now, expires_at=until)
            entry = audit.Entry(action="plan.approved", by=by, at=now, run=name, details=details)
            audit.append(connection, store.ledger_id, [entry])
        notes = kept_outside(store, outsides, now)
    return Answer(
        verdict="OK",
        fields={"run": name, "plan": _plan_document(made, file), "approved_by": by, "expires_at": until},
        summary=[
            f"approved by {by} until {format_time(until)}: plan {made.hash}",
            f"run {name}",
            *plan_lines(made),
        ],
        notes=[f"next: `recover apply {file}` says what it would do; with --execute it does it", *notes],
    )


def _save(made: Plan, file: Path) -> None:
    """Write a plan beside its name and rename it, so that nobody reads half of one."""
    draft = file.with_name(f".{file.name}.draft")
    try:
        write_plan(made, draft)
        draft.replace(file)
    except OSError as error:
        raise UsageError(f"cannot write the plan: {error.strerror}", where=str(file)) from error
    finally:
        draft.unlink(missing_ok=True)


def _write_sql(made: Plan, table: LiveTable, file: Path) -> None:
    from replay.comparison.foreign import ForeignTable
    from replay.recovery.table_target import TableTarget

    with closing(ForeignTable(table)) as foreign, closing(TableTarget(table)) as target:
        text = guarded_sql(made, target.dialect, foreign.described(), table.mapping())
    write_file(file, lambda opened: opened.write(text.encode()))  # type: ignore[arg-type]


def _plan_answer(made: Plan, file: Path, sql: Path | None) -> Answer:
    waiting = len({each.account_id for each in made.undecided()})
    is_whole = not any(each.kind in UNJUDGED for each in made.left)
    is_clean = not (made.changes or made.heal or made.settle or made.unlock or made.left)
    next_steps = []
    if waiting:
        next_steps.append(
            f"{count(waiting, 'account')} {'waits' if waiting == 1 else 'wait'} for a person: "
            f"`recover decide {file} ACCOUNT... --accept --reason R` (or --adjust), or they stay as they are"
        )
    if not is_clean:
        next_steps.append(f"next: `recover approve {file} --reason R`, then `recover apply {file}`")
    left = [f"left, {each.kind} {each.account_id or 'of no known account'}: {each.reason}" for each in made.left]
    return Answer(
        verdict="CLEAN" if is_clean else "FINDINGS" if is_whole else "INCOMPLETE",
        fields={
            "run": run_of(made),
            "plan": _plan_document(made, file),
            "sql": None if sql is None else str(sql),
            "accounts": len(by_account(made)),
            "undecided": waiting,
            "changes": made.changes,
            "heal": made.heal,
            "settle": made.settle,
            "unlock": made.unlock,
            "left": made.left,
        },
        **shown_changes(made),
        summary=[*plan_lines(made), f"written: {file}", *([f"written: {sql}"] if sql is not None else [])],
        notes=[*more_changes(made), *first_few([printable(line) for line in left], "that are left"), *next_steps],
        also=["FINDINGS"] if not is_clean else [],
    )


def _plan_document(made: Plan, file: Path) -> dict[str, object]:
    return {
        "file": str(file),
        "hash": made.hash,
        "made_at": made.made_at,
        "by": made.by,
        "target": made.target,
        "position": made.position,
        "compared": made.compared,
        "drifted": made.drifted,
    }


def plan_lines(made: Plan) -> list[str]:
    """Return what a plan is of, and what it would do, in a few lines."""
    groups = by_account(made)
    classes = Counter((changes[0].cause, _basis(changes)) for changes in groups.values())
    up, down = points(made)
    head = live_rows(made.target.kind, made.target.table)
    lines = [
        printable(f"plan {made.hash}, made by {made.by} at position {made.position:,}"),
        f"{head}: {made.drifted:,} of {count(made.compared, 'account')} drifted, "
        f"{count(len(groups), 'account')} with {count(len(made.changes), 'change')}",
        *[f"  {number:,} {cause}, {basis}" for (cause, basis), number in sorted(classes.items())],
    ]
    if made.changes:
        lines.append(f"balances would rise by {count(up, 'point')} and sink by {count(down, 'point')}")
    lines += _adjusting(made)
    if made.heal:
        accounts = len({each.account_id for each in made.heal})
        lines.append(f"{count(len(made.heal), 'event')} of {count(accounts, 'account')} back from {made.heal_source}")
    if made.settle:
        actions = Counter(each.action for each in made.settle)
        told = ", ".join(f"{number:,} to {action}" for action, number in sorted(actions.items()))
        lines.append(f"{count(len(made.settle), 'stale transaction')} to settle: {told}")
    if made.unlock:
        lines.append(f"{count(len(made.unlock), 'account')} to unlock, once equal to the log")
    if not (made.changes or made.heal or made.settle or made.unlock):
        lines.append("nothing is to be done")
    return lines


def points(made: Plan) -> tuple[int, int]:
    """Return by how many points balances would rise and sink, of what is decided."""
    up = down = 0
    for each in made.changes:
        if each.basis == "unknown" and each.decision is None:
            continue
        if each.field in ("balance", ROW):
            rise = _balance(each.to) - _balance(each.from_)
            up, down = up + max(rise, 0), down + max(-rise, 0)
    return up, down


def changes_table(made: Plan) -> pl.DataFrame:
    """Return a row a change, values as text."""
    rows = [
        (
            each.account_id,
            each.field,
            _text(each.from_),
            "?" if each.basis == "unknown" and each.decision is None else _text(each.to),
            _text(each.log),
            each.basis,
            each.cause,
            each.decision.action if each.decision is not None else None,
            each.reason,
        )
        for each in made.changes
    ]
    names = ("account_id", "field", "from", "to", "log", "basis", "class", "decision", "reason")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def shown_changes(made: Plan) -> Frames:
    """Return the table of an answer with all changes, and the one that people are shown."""
    table = changes_table(made)
    return {"table": table, "shown": table.head(SHOWN_MAX) if table.height > SHOWN_MAX else None}


def more_changes(made: Plan) -> list[str]:
    """Return how many changes people are not shown."""
    rest = len(made.changes) - SHOWN_MAX
    return [f"... and {count(rest, 'more change')}: they are in the file"] if rest > 0 else []


def _adjusting(made: Plan) -> list[str]:
    """Return what a decision to adjust appends to the log: how many points, and to whom."""
    lines = []
    for account_id, changes in by_account(made).items():
        decision = changes[0].decision
        log = next((each.log for each in changes if each.field == "balance"), None)
        if decision is None or decision.balance is None or is_gap(changes) or not isinstance(log, int):
            continue
        points = f"{decision.balance - log:+,} {'point' if abs(decision.balance - log) == 1 else 'points'}"
        lines.append(
            printable(f"an event of {points} is appended to {account_id}, which has {decision.balance:,} then")
        )
    rest = len(lines) - SHOWN_MAX
    return [*lines[:SHOWN_MAX], *([f"... and {count(rest, 'more event')}: they are in the file"] if rest > 0 else [])]


def _basis(changes: Sequence[Change]) -> str:
    first = changes[0]
    if first.basis == "log":
        return "by the log"
    decision = first.decision
    return "waits for a person" if decision is None else f"a person decided: {decision.action}"


def _decisions(made: Plan) -> dict[str, object]:
    return {each.account_id: each.decision for each in made.changes if each.decision is not None}


def _balance(value: Value) -> int:
    found = values_of_text(value)["balance"] if isinstance(value, str) else value
    return int(found or 0)


def _text(value: Value) -> str | None:
    return None if value is None else str(value)
