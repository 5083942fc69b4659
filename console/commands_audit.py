"""The commands of the audit trail: show what was done and by whom, and verify that nobody changed it since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.render import printable
from console.run import NO_TABLE, Run, command
from schemas import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from console.audit_reports import ReportHead
    from ledger.audit import Head, Recorded, Verified

__all__ = ["register"]

#: Characters of the details that words show.
_DETAILS_SHOWN = 100


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    group = typer.Typer(help="Show the audit trail, and verify that nobody changed it.", no_args_is_help=True)
    command(group, "show")(show)
    command(group, "verify", formats=NO_TABLE)(verify)
    app.add_typer(group, name="audit")


def show(
    run: Run,
    *,
    of_run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only this recovery run.")] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="ACCOUNT", help="Only this account.")] = None,
    action: Annotated[
        list[str] | None, typer.Option("--action", metavar="ACTION", help="Only this action; may be repeated.")
    ] = None,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the last so many.")] = None,
) -> Answer:
    """Show who did what and when, as the audit trail has it. What it says is not verified: see `audit verify`."""
    from console.words import count
    from ledger import audit

    with run.ledger() as store, store.snapshot() as connection:
        found = audit.entries(connection, run=of_run, account_id=account, actions=action or None, last=last)
        head = audit.head(connection, store.ledger_id)
    table = _table(found)
    return Answer(
        verdict="OK",
        fields={"entries": [_document(each) for each in found], "head": _head(head)},
        table=table,
        shown=_shown(table),
        summary=[f"{count(len(found), 'entry', 'entries')} of {head.number:,} in the audit trail"],
    )


def verify(run: Run) -> Answer:
    """Walk along the whole audit trail and name the first entry that was changed, or is missing.

    Heads that are kept outside (file and topic of the table audit in the TOML file), or named by
    reports of recoveries, are compared too: only they show a tail that was cut off together with
    the row of the head, or a chain that was made anew. And each recovery run's own log must say
    what the trail says.
    """
    from console.audit_places import outside_heads
    from console.audit_reports import report_heads
    from ledger import audit
    from ledger.audit_runs import differing_runs

    with run.ledger() as store:
        # Before the snapshot: a head is kept outside after its entry is there.
        kept = {outside.name: outside.heads() for outside in outside_heads(run, store.ledger_id)}
        reports, why_not = report_heads(run.reports, store.ledger_id)
        known = [*(head for heads in kept.values() for head in heads), *(each.head for each in reports)]
        with store.snapshot() as connection:
            found = audit.verify(connection, store.ledger_id, known)
            # Of a trail that was changed nothing follows for the runs.
            runs = [] if found.first_bad is not None else differing_runs(connection)
    outside = [_outside(name, heads, found) for name, heads in kept.items()]
    bad = found.first_bad
    return Answer(
        verdict="CLEAN" if bad is None and not runs else "FINDINGS",
        fields={
            "entries": found.entries,
            "head": None if found.head is None else _head(found.head),
            "first_bad": None if bad is None else {"number": bad.number, "reason": bad.reason},
            "outside": outside,
            "reports": [{"file": str(each.file), "number": each.head.number} for each in reports],
            "runs": runs,
        },
        summary=[*_summary(found), *[printable(f"run {each.run} differs: {each.reason}") for each in runs]],
        notes=[*_notes(outside), *_of_reports(reports), *[printable(each) for each in why_not]],
    )


def _document(recorded: Recorded) -> dict[str, object]:
    import msgspec

    return msgspec.structs.asdict(recorded) | {"at": format_time(recorded.at)}


def _head(head: Head) -> dict[str, object]:
    return {"number": head.number, "hash": head.hash}


def _table(found: Sequence[Recorded]) -> pl.DataFrame:
    """Return entries as a frame, the details as JSON text."""
    import msgspec
    import polars as pl

    texts = ("by", "action", "run", "account_id", "details", "previous", "hash")
    schema = pl.Schema({"number": pl.Int64(), "at": pl.Datetime("us", "UTC")} | dict.fromkeys(texts, pl.String()))
    rows = [
        {name: getattr(each, name) for name in schema.names()} | {"details": msgspec.json.encode(each.details).decode()}
        for each in found
    ]
    return pl.DataFrame(rows, schema=schema)


def _shown(table: pl.DataFrame) -> pl.DataFrame:
    """Return what words show of entries: no hashes, and the beginning of the details."""
    import polars as pl

    details = pl.col("details")
    is_long = details.str.len_chars() > _DETAILS_SHOWN
    short = pl.when(is_long).then(details.str.head(_DETAILS_SHOWN) + "...").otherwise(details)
    return table.select("number", "at", "action", "account_id", "by", "run", short)


def _outside(name: str, heads: Sequence[Head], found: Verified) -> dict[str, object]:
    """Return what a place has: how many heads, the last entry of one, and how many entries came after that."""
    last = max((head.number for head in heads), default=0)
    behind = None if found.head is None else max(0, found.head.number - last)
    return {"place": name, "heads": len(heads), "last": last, "behind": behind}


def _summary(found: Verified) -> list[str]:
    from console.words import count

    entries = count(found.entries, "entry", "entries")
    if found.first_bad is None:
        head = f"; the last is {found.head.hash}" if found.head is not None and found.entries else ""
        return [f"the audit trail is whole: {entries}{head}"]
    bad = found.first_bad
    return [
        f"the audit trail was changed: entry {bad.number} is the first that is bad, of {entries}",
        f"entry {bad.number}: {bad.reason}",
    ]


def _notes(outside: Sequence[Mapping[str, object]]) -> list[str]:
    if not outside:
        return [
            "no heads are kept outside the database ([audit] file or topic): a tail that was cut off together with "
            "the head would not be seen"
        ]
    return [_of_place(**place) for place in outside]  # type: ignore[arg-type]


def _of_place(place: str, heads: int, last: int, behind: int | None) -> str:
    from console.words import count

    if not heads:
        return f"{place}: it keeps no head of this ledger yet"
    words = f"{place}: {count(heads, 'head')}, the last of entry {last:,}"
    if behind:
        return f"{words}: {behind:,} behind, which is no damage: the next command that adds to the trail writes them"
    return words


def _of_reports(reports: Sequence[ReportHead]) -> list[str]:
    from console.words import count

    if not reports:
        return []
    last = max(each.head.number for each in reports)
    return [f"{count(len(reports), 'report')} of recoveries: the trail up to entry {last:,} was held against them"]
