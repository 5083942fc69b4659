"""What `breaks` answers: what stands between orders and ledger, one break with its history, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from console.answer import Answer
from console.reports.reconciliation import Reported, reconciliation_report
from console.reports.writing import write_report
from console.words import count, first_few, parked_order_lines
from ledger import break_rows, orders, shadows
from ledger.break_rows import BREAK_SCHEMA, BY_HAND, NOT_RESOLVED, STANDING, Selection
from ledger.order_transactions import FOLLOWER
from schemas import format_time
from schemas.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ledger.break_rows import Risk
    from ledger.orders import ReadUntil
    from ledger.store import Store

__all__ = ["breaks_answer", "decided_answer", "shown_answer", "with_age"]

#: Keys of a sum that words show; --json has all.
_SUMS_SHOWN = 5

_SHOWN = ("id", "state", "code", "order_id", "account_id", "points_at_risk", "age", "evidence")


class _Whole(NamedTuple):
    """What decides whether a list vouches for anything."""

    read_until: ReadUntil
    #: Orders that wait to be judged, and what judges them.
    waiting: int
    next_step: str
    withheld: pl.DataFrame
    parked: pl.DataFrame
    #: Which of the orders and accounts that are asked for no break is kept of.
    unknown: Sequence[str]

    @property
    def is_never_whole(self) -> bool:
        """Whether all orders were never judged at once: only ranges were reconciled, or nothing was."""
        return self.read_until.both_at is None

    @property
    def is_incomplete(self) -> bool:
        """Whether something is not known of an order; what was never judged as a whole is for the caller to tell."""
        return bool(self.waiting) or bool(self.withheld.height) or bool(self.parked.height)


def breaks_answer(store: Store, selection: Selection, *, now: datetime, reports: Sequence[Path] = ()) -> Answer:
    """Return the breaks that are asked for; its verdict is of all that stand, whatever states are asked for.

    What it says is written to `reports` too.
    """
    with store.snapshot() as connection:
        found = break_rows.listed(connection, selection)
        every = selection._replace(states=NOT_RESOLVED, resolution=None)
        unresolved = found if selection.states == NOT_RESOLVED else break_rows.listed(connection, every)
        whole = _whole(connection, selection)
        changed = break_rows.changed_since_decided(connection, every._replace(states=None))
        history = break_rows.histories(connection, found["id"].to_list() if reports else [])
    standing = unresolved.filter(pl.col("state").is_in(STANDING))
    table = with_age(found, now)
    has_findings = bool(standing.height or changed)
    # Breaks that a range found stand, but where it found none nothing is known of all the others.
    is_incomplete = whole.is_incomplete or (whole.is_never_whole and not has_findings)
    verdict = "INCOMPLETE" if is_incomplete else "FINDINGS" if has_findings else "CLEAN"
    notes = [*_doubts(whole), *_changed(changed), *whole.unknown]
    if reports:
        reported = Reported(
            verdict=verdict,
            made_at=now,
            ledger_id=store.ledger_id,
            asked=_asked(selection),
            source="the breaks that this ledger keeps",
            read_until_at=whole.read_until.both_at,
            breaks=found,
            standing=standing,
            withheld=whole.withheld,
            parked=whole.parked,
            pending=unresolved.height - standing.height,
            history=history,
            notes=notes,
        )
        write_report(reconciliation_report(reported), reports)
    return Answer(
        verdict=verdict,
        fields={
            "breaks_count": found.height,
            "counts": {state: unresolved.filter(pl.col("state") == state).height for state in NOT_RESOLVED},
            **_sums(standing, now),
            "withheld": whole.withheld,
            "parked_orders": whole.parked,
            "read_until_at": whole.read_until.both_at,
        },
        table=table,
        table_name="breaks",
        shown=_in_words(table),
        summary=_summary(verdict, unresolved, whole, now),
        notes=notes,
        also=["FINDINGS"] if has_findings else [],
    )


def _asked(selection: Selection) -> dict[str, object]:
    """Return what of a selection says which breaks are meant, as a report says it."""
    return {
        "from": selection.start,
        "until": selection.end,
        "code": selection.code,
        "account": selection.account_id,
        "order": selection.order_id,
        "states": None if selection.states is None else ", ".join(selection.states),
        "resolution": selection.resolution,
    }


def shown_answer(store: Store, break_id: int, *, now: datetime) -> Answer:
    """Return one break and everything that happened to it; UsageError where there is none of this id."""
    with store.snapshot() as connection:
        found = break_rows.listed(connection, ids=[break_id])
        history = break_rows.history(connection, break_id)
    if found.is_empty():
        raise UsageError(f"there is no break {break_id}", next_step="`breaks` lists those that there are")
    row = with_age(found, now).row(0, named=True)
    told = {name: format_time(value) if isinstance(value, datetime) else value for name, value in row.items()}
    has_changed = row["resolution"] in BY_HAND and row["changed_at"] is not None and row["is_found"]
    return Answer(
        verdict="FINDINGS" if row["state"] in STANDING or has_changed else "CLEAN",
        fields={"break": told},
        table=history.drop("break_id"),
        table_name="history",
        summary=_lines_of(row),
    )


def decided_answer(found: pl.DataFrame, what: str, *, now: datetime) -> Answer:
    """Return what became of breaks that somebody decided about."""
    table = with_age(found, now)
    return Answer(
        verdict="OK",
        fields={"breaks_count": found.height},
        table=table,
        table_name="breaks",
        shown=_in_words(table),
        summary=[f"OK: {count(found.height, 'break')} {what}"],
    )


def with_age(found: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return breaks with `age_seconds` beside: for how long each has stood, null for one that does not."""
    age = (pl.lit(now, BREAK_SCHEMA["opened_at"]) - pl.col("opened_at")).dt.total_seconds()
    return found.with_columns(pl.when(pl.col("state").is_in(STANDING)).then(age).alias("age_seconds"))


def _whole(connection: Connection, selection: Selection) -> _Whole:
    read_until = orders.read_until(connection)
    withheld, parked = break_rows.withheld(connection), orders.parked(connection)
    if selection.order_id is not None:
        # What cannot be said of another order, or of a record that is known to be another's, is no doubt here.
        is_it = pl.col("order_id") == selection.order_id
        withheld, parked = withheld.filter(is_it), parked.filter(is_it | pl.col("order_id").is_null())
    is_followed = shadows.find(connection, FOLLOWER) is not None
    # A single look judges all orders and leaves them touched: what it did not see was imported after it.
    is_behind = is_followed or _is_later(read_until.orders_at, read_until.ledger_at)
    waiting = break_rows.waiting(connection, selection.order_id) if is_behind else 0
    next_step = "`reconcile --watch`" if is_followed else "`reconcile`"
    return _Whole(read_until, waiting, next_step, withheld, parked, _unknown(connection, selection))


def _is_later(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one > other


def _unknown(connection: Connection, selection: Selection) -> list[str]:
    asked = {
        "order": (selection.order_id, Selection(order_id=selection.order_id)),
        "account": (selection.account_id, Selection(account_id=selection.account_id)),
    }
    return [
        f"no break of {what} {name} is kept"
        for what, (name, of_it) in asked.items()
        if name is not None and break_rows.is_empty(connection, of_it)
    ]


def _sums(standing: pl.DataFrame, now: datetime) -> dict[str, object]:
    """Return how much is at risk by what stands, each order counted once."""
    return {
        "points_at_risk": break_rows.total(standing).points_at_risk,
        "by_code": _documents("code", break_rows.by_code(standing)),
        "by_day": _documents("day", break_rows.by_day(standing)),
        "by_account": _documents("account_id", break_rows.by_account(standing)),
        "by_age": _documents("age", break_rows.by_age(standing, now)),
    }


def _documents(name: str, risks: Sequence[Risk]) -> list[dict[str, object]]:
    return [
        {name: each.key, "breaks": each.breaks, "orders": each.orders, "points_at_risk": each.points_at_risk}
        for each in risks
    ]


def _summary(verdict: str, unresolved: pl.DataFrame, whole: _Whole, now: datetime) -> list[str]:
    standing = unresolved.filter(pl.col("state").is_in(STANDING))
    risk = break_rows.total(standing)
    until = whole.read_until.both_at
    lines = [
        f"{verdict}: {count(risk.breaks, 'break')} of {count(risk.orders, 'order')} open, "
        f"{count(risk.points_at_risk, 'point')} at risk; {count(unresolved.height - standing.height, 'break')} pending",
        "both sides were never read whole yet" if until is None else f"both sides were read until {format_time(until)}",
    ]
    lines += _sum_lines("by code", break_rows.by_code(standing))
    lines += _sum_lines("by age", [each for each in break_rows.by_age(standing, now) if each.breaks])
    return lines + _sum_lines("by account", break_rows.by_account(standing))


def _sum_lines(title: str, risks: Sequence[Risk]) -> list[str]:
    if not risks:
        return []
    shown = "; ".join(
        f"{'no account' if each.key is None else each.key} {each.breaks:,} ({count(each.points_at_risk, 'point')})"
        for each in risks[:_SUMS_SHOWN]
    )
    rest = len(risks) - _SUMS_SHOWN
    return [f"  {title}: {shown}" + (f"; and {rest:,} more" if rest > 0 else "")]


def _doubts(whole: _Whole) -> list[str]:
    withheld = [f"nothing can be said of order {order_id}: {reason}" for order_id, reason in whole.withheld.rows()]
    parked = parked_order_lines(whole.parked)
    unjudged = []
    if whole.read_until.both_at is None:
        sides = {"orders": whole.read_until.orders_at, "ledger": whole.read_until.ledger_at}
        unread = " and ".join(name for name, at in sides.items() if at is None)
        words = f"nothing was reconciled as a whole yet ({unread} not read)"
        unjudged.append(f"{words}: run `reconcile` without --start and --end, or `reconcile --watch`")
    elif whole.waiting:
        unjudged.append(f"{count(whole.waiting, 'order')} not judged since something came: run {whole.next_step}")
    return [*unjudged, *first_few(withheld, "orders"), *first_few(parked, "records")]


def _changed(ids: Sequence[int]) -> list[str]:
    if not ids:
        return []
    named = ", ".join(map(str, ids[:_SUMS_SHOWN])) + (", ..." if len(ids) > _SUMS_SHOWN else "")
    words = f"{count(len(ids), 'break')} changed after somebody had resolved it by hand, and still found: {named}"
    return [f"{words}; `breaks show ID` tells how, `breaks resolve ID` accepts that, too"]


def _lines_of(row: dict[str, object]) -> list[str]:
    """Return what one break says, a line a value."""
    hidden = ("id", "code", "order_id", "state", "resolution", "is_found")
    state = " ".join(filter(None, (str(row["state"]), str(row["resolution"] or ""))))
    is_over = row["state"] == "resolved" and not row["is_found"]
    lines = [
        f"break {row['id']}: {row['code']} of order {row['order_id']}",
        f"  {state}" + (", and in order by now" if is_over else ""),
    ]
    for name, value in row.items():
        if name not in hidden and value is not None:
            words = format_time(value) if isinstance(value, datetime) else value
            lines.append(f"  {name}: {', '.join(words) if isinstance(words, list) else words}")
    return lines


def _in_words(table: pl.DataFrame) -> pl.DataFrame:
    """Return what fits into lines: how a break was resolved stands beside its state, an age is in its largest unit."""
    state = pl.concat_str("state", "resolution", separator=" ", ignore_nulls=True)
    return table.with_columns(state.alias("state"), _age_words(pl.col("age_seconds")).alias("age")).select(_SHOWN)


def _age_words(seconds: pl.Expr) -> pl.Expr:
    return (
        pl.when(seconds < 60)
        .then(pl.format("{} s", seconds))
        .when(seconds < 3_600)
        .then(pl.format("{} min", seconds // 60))
        .when(seconds < 86_400)
        .then(pl.format("{} h", seconds // 3_600))
        .otherwise(pl.format("{} d", seconds // 86_400))
    )
