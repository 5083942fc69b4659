"""What `reconcile` answers: what is wrong between orders and transactions, what may right itself, what nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from console.answer import Answer
from console.words import certificate_lines, count, first_few, parked_order_lines
from schemas import format_time

if TYPE_CHECKING:
    from replay.reconcile import Found, Range
    from replay.reconcile_files import FromFile

__all__ = ["Reconciled", "reconciled_answer"]

#: The columns of a mismatch as it is told, and how many of them there are without a break.
_COLUMNS = (
    "code",
    "order_id",
    "order_points",
    "credit_points",
    "order_status",
    "credit_status",
    "transactions",
    "account_id",
    "points_at_risk",
    "evidence",
    "order_at",
    "latest_at",
    "order_partition",
    "order_position",
    "ledger_partition",
    "ledger_position",
)
_OF_FULL_RULES = ("deadline_at",)
_OF_BREAKS = ("break", "state", "resolution", "changed_at")

#: What fits into lines, by the full rules and by the scenario's.
_SHOWN = ("code", "order_id", "account_id", "points_at_risk", "evidence")
_SHOWN_OF_SCENARIO = ("code", "order_id", "order_points", "credit_points", "order_status", "credit_status")


class Reconciled(NamedTuple):
    """What was found, and what of it the answer has to say: which orders were meant, by which rules, and from where.

    `files` says of each file that stood in for a side how many rows were not good; `why_not_kept` why no break was
    written, None where they were, or none is ever.
    """

    found: Found
    span: Range
    business_code: str | None
    is_default_start: bool
    files: Mapping[str, FromFile]
    why_not_kept: str | None

    @property
    def verdicts(self) -> list[str]:
        """Every verdict that holds, the gravest first."""
        is_whole = not any(said.rejected for said in self.files.values())
        return list(dict.fromkeys([*([] if is_whole else ["INCOMPLETE"]), *self.found.verdicts]))


def reconciled_answer(done: Reconciled) -> Answer:
    """Return the answer of one reconciliation."""
    found, verdicts = done.found, [each for each in done.verdicts if each != "CLEAN"] or ["CLEAN"]
    is_full = done.business_code is None
    columns = _columns(done)
    fields: dict[str, Any] = {
        "orders": found.orders,
        "transactions": found.transactions,
        "mismatches_count": found.mismatches.height,
        **({"pending_count": found.pending.height} if is_full else {"business_code": done.business_code}),
        "points_at_risk": found.points_at_risk,
        "start": done.span.start,
        "end": done.span.end,
        **({"read_until_at": found.until} if is_full else {}),
        "withheld": found.withheld,
        "parked_orders": found.parked.select("partition", "position", "order_id", "reason"),
        "rejected": {
            name: {"rows": said.rejected, "file": str(said.rejects) if said.rejects else None}
            for name, said in done.files.items()
        },
        "certificate": found.certificate,
        **({"pending": found.pending.select(columns)} if is_full else {}),
    }
    return Answer(
        verdict=verdicts[0],
        fields=fields,
        table=found.mismatches.select(columns),
        table_name="mismatches",
        shown=found.mismatches.select(_shown(done)),
        summary=[*_replayed(found), *_summary(done, verdicts[0])],
        notes=_doubts(done),
        also=verdicts[1:],
    )


def _columns(done: Reconciled) -> list[str]:
    if done.business_code is not None:
        return list(_COLUMNS)
    has_breaks = bool(done.found.mismatches["break"].count() or done.found.pending["break"].count())
    return [*_COLUMNS, *_OF_FULL_RULES, *(_OF_BREAKS if has_breaks else ())]


def _shown(done: Reconciled) -> list[str | pl.Expr]:
    """Return what fits into lines: the break and what became of it first, where there are breaks."""
    if done.business_code is not None:
        return list(_SHOWN_OF_SCENARIO)
    if not done.found.mismatches["break"].count():
        return list(_SHOWN)
    state = pl.concat_str("state", "resolution", separator=" ", ignore_nulls=True)
    return ["break", state.alias("state"), *_SHOWN]


def _replayed(found: Found) -> list[str]:
    return [] if found.certificate is None else [*certificate_lines(found.certificate), ""]


def _summary(done: Reconciled, verdict: str) -> list[str]:
    found, standing = done.found, done.found.standing
    compared = f"{count(found.orders, 'order')} and {count(found.transactions, 'transaction')}"
    mismatches = count(found.mismatches.height, "mismatch", "mismatches")
    decided = found.mismatches.height - standing.height
    by_hand = f", of which {decided:,} somebody has decided about" if decided else ""
    at_risk = f", {count(found.points_at_risk, 'point')} at risk" if standing.height else ""
    by_code = standing.group_by("code").len().sort("code").rows()
    return [
        f"{verdict}: {mismatches} in {compared}{by_hand}{at_risk}",
        *(f"  {code}: {number:,}" for code, number in by_code),
        *_waiting(done),
        *_meant(done),
    ]


def _waiting(done: Reconciled) -> list[str]:
    """Return what may still right itself, and up to when both sides are known."""
    found = done.found
    if done.business_code is not None:
        return []
    if found.until is None:
        return ["up to when both sides are whole is not known, so whatever is wrong may still right itself"]
    pending = count(found.pending.height, "mismatch", "mismatches")
    until = f"both sides were read until {format_time(found.until)}"
    return [f"{until}; {pending} may still right {'itself' if found.pending.height == 1 else 'themselves'}"]


def _meant(done: Reconciled) -> list[str]:
    """Return which orders were meant, where not all were."""
    start, end = (None if at is None else format_time(at) for at in done.span)
    between = [*([f"from {start}"] if start else []), *([f"until {end}"] if end else [])]
    if done.business_code is None:
        return [f"orders {' '.join(between)}, judged over all their transactions"] if between else []
    default = " (24 hours before now, since --start does not say)" if done.is_default_start else ""
    code = f"transactions of code {done.business_code!r}"
    return [f"the scenario's rules: orders and {code} {' '.join(between)}{default}"]


def _doubts(done: Reconciled) -> list[str]:
    """Return by name what nothing can be said of, and why no break was written."""
    found = done.found
    withheld = [f"nothing can be said of order {order_id}: {reason}" for order_id, reason in found.withheld.rows()]
    parked = parked_order_lines(found.parked)
    rejected = [
        f"{count(said.rejected, 'row')} of {name} could not be read: see {said.rejects}"
        for name, said in done.files.items()
        if said.rejected
    ]
    unkept = [] if done.why_not_kept is None else [f"no break was written: {done.why_not_kept}"]
    named = [*first_few(withheld, "orders"), *first_few(parked, "records"), *first_few(_changed(found), "breaks")]
    return [*_unread(found), *rejected, *named, *unkept]


#: What brings a side up to date, by where it was read.
_NEXT_STEPS = {"archive": "run `archive`", "topic": "run `publish`"}


def _unread(found: Found) -> list[str]:
    """Return which side was not read far enough, what that leaves open, and what only the future can tell."""
    lines = []
    for side, until, needed in found.unread:
        source = found.certificate.source if found.certificate is not None else ""
        next_step = "bring orders in again (`import orders`)"
        if side == "ledger":
            next_step = _NEXT_STEPS.get(source, "read it again")
        how_far = "nobody knows until when" if until is None else f"only until {format_time(until)}"
        wanted = "" if needed is None else f", and this needs it until {format_time(needed)}"
        name = "the order side" if side == "orders" else f"the ledger's side ({source or 'a file'})"
        lines.append(f"{name} was read {how_far}{wanted}: {next_step}, then `reconcile` again")
    if overdue := found.overdue.height:
        are = "mismatch is" if overdue == 1 else "mismatches are"
        lines.append(
            f"{overdue:,} pending {are} past the deadline by the clock, but not by what was read of both sides"
        )
    if found.ahead.height:
        mismatches = count(found.ahead.height, "pending mismatch", "pending mismatches")
        latest = format_time(max(found.ahead["latest_at"].to_list()))
        lines.append(f"{mismatches} of orders with facts that are dated in the future, the last at {latest}")
    return lines


def _changed(found: Found) -> list[str]:
    """Return the breaks that somebody decided about when they were about something else."""
    return [
        f"the facts of break {row['break']} changed after somebody decided ({row['resolution']}): {row['order_id']},"
        f" {row['code']}; `breaks resolve` decides again"
        for row in found.changed.iter_rows(named=True)
    ]
