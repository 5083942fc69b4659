"""Commands that check: verify the events' integrity, and compare live rows with a replay."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
import typer

from console.answer import Answer
from console.run import Run, command
from console.settings import FILE_NAME
from schemas.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

    from replay import Drift, Drifted

__all__ = ["register"]

#: Findings whose `actual` is a number of points.
_SUM_CODES = frozenset({"negative_balance", "over_frozen", "overflow"})


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "verify")(verify)
    command(app, "drift")(drift)


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
) -> Answer:
    """Replay the events and name every discrepancy among them."""
    from console.words import certificate_lines, count
    from replay import verify as check

    how = _settlement(fix_stale)
    now = run.now
    with run.ledger_with_events() as store:
        with run.progress("verifying") as progress:
            found = check(store, now=now, account_id=account, progress=progress)
        settled: list[dict[str, str]] = []
        refused: list[dict[str, str]] = []
        if how is not None:
            from replay import settle_stale

            done = settle_stale(store, found, how, now=now)
            settled = [{"account_id": owner, "transaction_id": name, "action": how} for owner, name in done.settled]
            refused = [
                {"account_id": owner, "transaction_id": name, "reason": reason} for owner, name, reason in done.refused
            ]
            with run.progress("verifying again") as progress:
                found = check(store, now=now, account_id=account, progress=progress)
    codes = found.findings.group_by("code").len().sort("code").rows()
    settlements = [f"{count(len(settled), 'stale transaction')} settled: {how}"] if how else []
    return Answer(
        verdict=found.verdict,
        fields={
            "findings_count": found.findings.height,
            **({"settled": settled, "not_settled": refused} if how else {}),
            "certificate": found.certificate,
            "findings": _finding_documents(found.findings),
        },
        table=found.findings,
        summary=[
            *certificate_lines(found.certificate),
            "",
            *settlements,
            *[f"not settled: {each['transaction_id']} of {each['account_id']}: {each['reason']}" for each in refused],
            f"{found.verdict}: {count(found.findings.height, 'finding')}",
            *[f"  {code}: {number:,}" for code, number in codes],
        ],
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


def drift(
    run: Run,
    *,
    against: Annotated[
        str | None, typer.Option("--against", metavar="URL", help="Compare a table of another database.")
    ] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="NAME", help="The live table there.")] = None,
    own: Annotated[
        bool, typer.Option("--own", help="Compare our own read model, even where accounts were imported.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where each difference begins, and the evidence.")
    ] = False,
) -> Answer:
    """Compare live account rows with a replay of the events at one position.

    Live are the rows of `import accounts`, or without those our own read model.
    """
    from console.words import certificate_lines, count, first_few
    from replay import drift as compare

    foreign = _foreign_rows(run, against, table)
    with run.ledger_with_events() as store, run.progress("comparing") as progress:
        live: pl.DataFrame | Literal["read_model"] | None = "read_model" if own else None
        found = compare(store, live=live if foreign is None else foreign.rows, progress=progress)
    uncompared = [f"not compared: {account_id}" for account_id in found.uncompared]
    unread = foreign.rejected if foreign is not None else 0
    rejects = [f"{count(unread, 'live row')} could not be read: see {foreign.rejects}"] if foreign and unread else []
    return Answer(
        # Equal but for rows that nobody could read is not equal.
        verdict="INCOMPARABLE" if unread else found.verdict,
        fields={
            "compared": found.compared,
            "drifted": found.drifted,
            "accounts": found.accounts,
            "suspected": found.suspected,
            "uncompared": found.uncompared,
            "live": found.live,
            **({"rejected": unread, "rejects": str(foreign.rejects)} if foreign and unread else {}),
            "certificate": found.certificate,
        },
        table=_differences(found.accounts, explain=explain),
        summary=[*certificate_lines(found.certificate), "", _headline(found)],
        notes=[*rejects, *first_few(uncompared, "accounts")],
        # What is uncompared or unread hides no difference that was found.
        also=["DRIFT"] if found.drifted else [],
    )


def _headline(found: Drift) -> str:
    from console.words import count

    sides = {"imported": "imported accounts rows", "read_model": "our own read model", "foreign": "the foreign table"}
    return (
        f"{found.verdict}: {count(found.compared, 'account')} compared with {sides[found.live]}, "
        f"{found.drifted:,} differ"
    )


def _differences(entries: list[Drifted], *, explain: bool) -> pl.DataFrame:
    import polars as pl

    columns = ["account_id", "field", "live", "replayed", "difference", "class"]
    if explain:
        columns += ["first_event", "evidence"]
    texts = {name: pl.Int64() if name == "difference" else pl.String() for name in columns}
    rows = [
        {
            "account_id": each.account_id,
            "field": each.field,
            "live": None if each.live is None else str(each.live),
            "replayed": None if each.replayed is None else str(each.replayed),
            "difference": each.difference,
            "class": each.cause,
            "first_event": each.first_event,
            "evidence": each.evidence,
        }
        for each in entries
    ]
    return pl.DataFrame([{name: row[name] for name in columns} for row in rows], schema=texts)


def _foreign_rows(run: Run, url: str | None, table: str | None) -> _Foreign | None:
    """Read a live table of another database with the checks of an import, but into no ledger of ours."""
    if (url is None) != (table is None):
        raise UsageError("--against and --table belong together", next_step="give both, or neither")
    if url is None or table is None:
        return None
    from ledger import read_model
    from ledger.importing import TableSource, import_accounts, mapping_of
    from ledger.store import Store

    mapping = mapping_of(run.settings.imports, where=str(run.options.config or run.data / FILE_NAME))
    rejects = run.reports / f"rejects-{table}.csv"
    # The copy is a ledger for a moment, so that `import accounts` and this read a row in exactly one way.
    with TemporaryDirectory(prefix="ledger-replay-") as folder, closing(Store.at(folder)) as copy:
        found = import_accounts(copy, TableSource(url, table=table), mapping=mapping, now=run.now, rejects=rejects)
        with copy.snapshot() as connection:
            return _Foreign(read_model.imported(connection), found.rejected, found.rejects)


class _Foreign(NamedTuple):
    """Live rows of another database, how many could not be read, and the file that names those."""

    rows: pl.DataFrame
    rejected: int
    rejects: Path | None
