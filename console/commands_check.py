"""The command that checks the events themselves: verify their integrity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from console.answer import Answer
from console.consent import Yes, need_unfenced, need_with
from console.persons import By, who
from console.run import Run, command
from schemas.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["register"]

#: Findings whose `actual` is a number of points.
_SUM_CODES = frozenset({"negative_balance", "over_frozen", "overflow"})


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "verify")(verify)


def verify(
    run: Run,
    *,
    account: Annotated[str | None, typer.Option("--account", metavar="ACCOUNT", help="Only this account.")] = None,
    fix_stale: Annotated[
        str | None,
        typer.Option(
            "--fix-stale",
            metavar="complete|cancel",
            help="Settle stale pending transactions as events effective now, then look again.",
        ),
    ] = None,
    yes: Yes = False,
    by: By = None,
) -> Answer:
    """Replay the events and name every discrepancy among them."""
    from console.words import certificate_lines, count
    from replay import verify as check

    how = _settlement(fix_stale)
    need_with("--fix-stale", how is not None, {"--yes": yes, "--by": by is not None})
    person = None if how is None else who(by)
    now, done = run.now, None
    with run.ledger_with_events() as store:
        if how is not None:
            need_unfenced(store)
        with run.progress("verifying") as progress:
            found = check(store, now=now, account_id=account, progress=progress)
        if how is not None and person is not None:
            from console.stale_answers import settled

            done = settled(run, store, found, how, by=person, is_sure=yes)
        if done is not None and done.settled:
            with run.progress("verifying again") as progress:
                found = check(store, now=now, account_id=account, progress=progress)
    codes = found.findings.group_by("code").len().sort("code").rows()
    return Answer(
        verdict=found.verdict,
        fields={
            "findings_count": found.findings.height,
            **(done.fields if done is not None else {}),
            "certificate": found.certificate,
            "findings": _finding_documents(found.findings),
        },
        table=found.findings,
        summary=[
            *certificate_lines(found.certificate),
            "",
            *(done.lines if done is not None else []),
            f"{found.verdict}: {count(found.findings.height, 'finding')}",
            *[f"  {code}: {number:,}" for code, number in codes],
        ],
        notes=done.notes if done is not None else [],
        # An account that could not be checked hides no finding of the others.
        also=["FINDINGS"] if found.findings.height else [],
    )


def _settlement(words: str | None) -> Literal["complete", "cancel"] | None:
    if words is None:
        return None
    known: dict[str, Literal["complete", "cancel"]] = {"complete": "complete", "cancel": "cancel"}
    if words in known:
        return known[words]
    raise UsageError(f"--fix-stale takes complete or cancel, not {words!r}", next_step="choose one")


def _finding_documents(findings: pl.DataFrame) -> list[dict[str, object]]:
    """Findings as JSON: `details` is an object, and a sum is a number, which may be past int64."""
    rows = findings.to_dicts()
    for row in rows:
        row["details"] = msgspec.json.decode(row["details"])
        if row["code"] in _SUM_CODES:
            row["actual"] = int(row["actual"])
    return rows
