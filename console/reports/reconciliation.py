"""The report of a reconciliation: how much is at risk, since when and where, and what is wrong with which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from console.reports.break_entries import entries
from console.reports.break_sums import accounts, ages, codes, days, states
from console.reports.model import Figure, Report, Section
from console.words import certificate_lines, count
from ledger import break_rows
from ledger.break_rows import BREAK_SCHEMA, HISTORY_SCHEMA, STANDING
from schemas import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replay.certificate import Certificate

__all__ = ["Reported", "reconciliation_report"]

#: Entries and rows that a page has; the JSON report has all.
BREAKS_SHOWN_MAX = 2_000
DOUBTS_SHOWN_MAX = 200
_REST = "the report in JSON has all"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a report is made of.

    `breaks` (`BREAK_SCHEMA`) are those to be told one by one: of one that is not kept, `id` and what only somebody who
    keeps it knows are null. `standing` are the breaks that the sums are over, `history` (`HISTORY_SCHEMA`) is what
    happened to `breaks`. `asked` says which of all breaks are meant, `source` where the two sides come from; `orders`
    and `transactions` count what was compared, None where nothing was now. `notes` say what is not vouched for.
    """

    verdict: str
    made_at: datetime
    ledger_id: str | None
    asked: Mapping[str, object]
    source: str
    read_until_at: datetime | None
    breaks: pl.DataFrame
    standing: pl.DataFrame
    withheld: pl.DataFrame
    parked: pl.DataFrame
    pending: int
    orders: int | None = None
    transactions: int | None = None
    certificate: Certificate | None = None
    history: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=HISTORY_SCHEMA))
    notes: Sequence[str] = ()


class _Sums(NamedTuple):
    """Breaks in the order in which they are told, those that stand with since when they are counted, and all sums."""

    breaks: pl.DataFrame
    standing: pl.DataFrame
    total: break_rows.Risk


def reconciliation_report(done: Reported) -> Report:
    """Return the report of a reconciliation."""
    sums = _Sums(_ordered(done.breaks, done.made_at), _counted_from(done.standing), break_rows.total(done.standing))
    stands = count(sums.total.breaks, "break")
    of_orders = f"{stands} of {count(sums.total.orders, 'order')} {'is' if sums.total.breaks == 1 else 'are'} open"
    headline = f"{of_orders}, {count(sums.total.points_at_risk, 'point')} at risk"
    return Report(
        title="Reconciliation of orders and transactions",
        verdict=done.verdict,
        headline=headline if sums.total.breaks else "no break is open",
        made_at=done.made_at,
        facts=_facts(done),
        figures=_figures(done, sums),
        notes=done.notes,
        sections=_sections(done, sums),
        document=_document(done, sums),
    )


def _facts(done: Reported) -> list[tuple[str, str]]:
    until = "not known" if done.read_until_at is None else format_time(done.read_until_at)
    asked = ", ".join(
        f"{name.replace('_', ' ')} {_words(value)}" for name, value in done.asked.items() if value is not None
    )
    facts = [
        ("ledger", done.ledger_id or "not known"),
        ("what", asked or "everything"),
        ("source", done.source),
        ("both sides read until", until),
    ]
    if done.certificate is not None:
        facts.append(("certificate", "; ".join(certificate_lines(done.certificate)[:2])))
    return facts


def _words(value: object) -> str:
    return format_time(value) if isinstance(value, datetime) else str(value)


def _figures(done: Reported, sums: _Sums) -> list[Figure]:
    compared = [("orders", done.orders), ("transactions", done.transactions)]
    return [
        Figure("points at risk", sums.total.points_at_risk),
        Figure("breaks open", sums.total.breaks),
        Figure("orders with an open break", sums.total.orders),
        Figure("breaks pending", done.pending),
        Figure("orders withheld", done.withheld.height),
        Figure("records parked", done.parked.height),
        *(Figure(f"{name} compared", number) for name, number in compared if number is not None),
    ]


def _sections(done: Reported, sums: _Sums) -> list[Section]:
    of_standing = [
        days(sums.standing),
        ages(sums.standing, done.made_at),
        codes(sums.standing),
        accounts(sums.standing),
    ]
    shown = sums.breaks.head(BREAKS_SHOWN_MAX)
    told = Section(
        title="Each break",
        words=["Most points first, and those that stand before the others."] if shown.height else ["There is none."],
        entries=entries(shown, done.history),
        rest=_rest(sums.breaks, shown.height, "breaks"),
    )
    doubts = [
        _doubt("Orders withheld", "Nothing can be said of them, so none has a break.", done.withheld),
        _doubt("Records of orders that cannot be read", "", done.parked),
    ]
    return [*(of_standing if sums.standing.height else []), states(sums.breaks), told, *filter(None, doubts)]


def _doubt(title: str, words: str, table: pl.DataFrame) -> Section | None:
    if table.is_empty():
        return None
    shown = table.head(DOUBTS_SHOWN_MAX)
    return Section(title=title, words=[words] if words else [], table=shown, rest=_rest(table, shown.height, "rows"))


def _rest(whole: pl.DataFrame, shown: int, what: str) -> str:
    rest = whole.height - shown
    return f"... and {rest:,} more {what}: {_REST}" if rest else ""


def _ordered(breaks: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return breaks with their age, most points first, and those that stand before the others."""
    stands = pl.col("state").is_in(STANDING)
    since = _counted_from(breaks)["opened_at"]
    age = (pl.lit(now, BREAK_SCHEMA["opened_at"]) - since).dt.total_seconds()
    aged = breaks.with_columns(pl.when(stands).then(age).alias("age_seconds"))
    descending = [True, True, False, False]
    return aged.sort(stands, "points_at_risk", "order_id", "code", descending=descending, nulls_last=True)


def _counted_from(breaks: pl.DataFrame) -> pl.DataFrame:
    """Return breaks with a moment that their age counts from: of one that is not kept, when it was due."""
    return breaks.with_columns(opened_at=pl.coalesce("opened_at", "deadline_at", "order_at"))


def _document(done: Reported, sums: _Sums) -> dict[str, Any]:
    standing, total = sums.standing, sums.total
    return {
        "title": "reconciliation",
        "made_at": done.made_at,
        "ledger_id": done.ledger_id,
        "asked": {name: _json(value) for name, value in done.asked.items()},
        "source": done.source,
        "read_until_at": done.read_until_at,
        "certificate": done.certificate,
        "totals": {
            "orders": done.orders,
            "transactions": done.transactions,
            "breaks_listed": sums.breaks.height,
            "breaks_open": total.breaks,
            "orders_with_a_break": total.orders,
            "points_at_risk": total.points_at_risk,
            "pending": done.pending,
            "withheld": done.withheld.height,
            "parked_orders": done.parked.height,
        },
        "by_code": _documents("code", break_rows.by_code(standing)),
        "by_age": _documents("age", break_rows.by_age(standing, done.made_at)),
        "by_day": _documents("day", break_rows.by_day(standing)),
        "by_account": _documents("account_id", break_rows.by_account(standing)),
        "by_state": sums.breaks.group_by("state", "resolution").len("breaks").sort("state", "resolution"),
        "notes": list(done.notes),
        "withheld": done.withheld,
        "parked_orders": done.parked,
        "breaks": _with_history(sums.breaks, done.history),
    }


def _json(value: object) -> object:
    return format_time(value) if isinstance(value, datetime) else value


def _documents(name: str, risks: Sequence[break_rows.Risk]) -> list[dict[str, object]]:
    return [
        {name: each.key, "breaks": each.breaks, "orders": each.orders, "points_at_risk": each.points_at_risk}
        for each in risks
    ]


def _with_history(breaks: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """Return breaks, each with the list of what happened to it."""
    at = pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    lists = (
        history.sort("break_id", "number")
        .with_columns(at)
        .group_by("break_id", maintain_order=True)
        .agg(history=pl.struct(pl.exclude("break_id")))
    )
    joined = breaks.join(lists, left_on="id", right_on="break_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("history").fill_null([]))
