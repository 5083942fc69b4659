"""Accounts of a batch replayed alone: may what was planned of them be written, and if not, what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from replay.differences import FOREIGN_FIELDS
from replay.recovery.outcome import is_gap, is_waiting
from replay.recovery.plan import Change, Plan, run_of
from replay.recovery.rows import is_side, side
from replay.recovery.targets import Values
from replay.recovery.work import Work
from replay.steps import Steps, steps
from replay.store_source import StoreSource
from schemas import format_time

__all__ = ["Judged", "OwnEvents", "adjustment_of", "judge"]


class Judged(NamedTuple):
    """What became of an account, and why where it is not done."""

    outcome: str
    reason: str


def adjustment_of(run: str, account_id: str) -> str:
    """Return the id of the transaction that gives an account what a person decided."""
    return f"{run}:{account_id}"


class OwnEvents:
    """The events by which a plan's own accounts move on: those that it heals, settles and adjusts."""

    def __init__(self, plan: Plan) -> None:
        self._run = run_of(plan)
        self._healed = {(each.account_id, each.version) for each in plan.heal}
        self._settled = {(each.account_id, each.transaction_id) for each in plan.settle}

    def __contains__(self, event: tuple[str, int, str | None]) -> bool:
        """Whether an event (account, version, transaction) is one of them."""
        account_id, version, transaction_id = event
        return (
            (account_id, version) in self._healed
            or (account_id, transaction_id) in self._settled
            or transaction_id == adjustment_of(self._run, account_id)
        )


def judge(work: Work, groups: Mapping[str, Sequence[Change]]) -> dict[str, Judged]:
    """Return the accounts that are not to be written, and what became of them; of the others the log says the plan."""
    found: dict[str, Judged] = {}
    for account_id, changes in groups.items():
        if is_waiting(changes):
            found[account_id] = Judged("waiting", changes[0].reason)
        elif is_gap(changes) and not _is_adjusted(changes):
            found[account_id] = Judged("accepted", "")
    asked = [account_id for account_id in groups if account_id not in found]
    if not asked:
        return found
    with StoreSource.snapshot(work.store) as source:
        alone = steps(source, asked, until=source.head())
    rows = {str(row["account_id"]): row for row in alone.rows().iter_rows(named=True)}
    moved = _moved(alone, groups, OwnEvents(work.plan))
    for account_id in asked:
        changes = groups[account_id]
        if account_id in moved:
            found[account_id] = Judged("moved_since", f"event {moved[account_id]:,} came after the plan was made")
        elif is_gap(changes):
            # A person said what it has; the log cannot say another thing.
            continue
        elif account_id in alone.parked:
            parked = alone.parked[account_id]
            found[account_id] = Judged(
                "other_than_log", f"the log cannot vouch for it: {parked.reason} at version {parked.version}"
            )
        elif not is_side(side(changes, "to"), _values(rows.get(account_id))):
            found[account_id] = Judged("other_than_log", "replayed alone, it has not what the plan says")
    return found


def _is_adjusted(changes: Sequence[Change]) -> bool:
    return any(each.decision is not None and each.decision.action == "adjust" for each in changes)


def _moved(alone: Steps, groups: Mapping[str, Sequence[Change]], own: OwnEvents) -> dict[str, int]:
    """Return the accounts that have an event after their version in the plan that is none of its own, and which."""
    known = pl.DataFrame(
        [(account_id, changes[0].version or 0) for account_id, changes in groups.items()],
        schema={"account_id": pl.String(), "planned": pl.Int64()},
        orient="row",
    )
    later = alone.frame.join(known, on="account_id").filter(pl.col("version") > pl.col("planned"))
    moved: dict[str, int] = {}
    for event in later.select("account_id", "version", "transaction_id").iter_rows():
        if event not in own:
            moved.setdefault(event[0], event[1])
    return moved


def _values(row: Mapping[str, Any] | None) -> Values | None:
    if row is None:
        return None
    return {name: format_time(row[name]) if isinstance(row[name], datetime) else row[name] for name in FOREIGN_FIELDS}
