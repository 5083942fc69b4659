"""Live against the log once more, all of it; what of the plan's accounts still differs is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ledger import audit
from replay.certificate import Certificate
from replay.comparison.once import drift_once
from replay.differences import Drifted
from replay.drift import drift
from replay.recovery.failpoints import failpoint
from replay.recovery.outcome import UNLOCKING, by_account, is_gap, is_waiting, last_tries
from replay.recovery.plan import Change
from replay.recovery.table_target import TableTarget
from replay.recovery.work import Work

__all__ = ["Verified", "unequal", "verify"]

#: Differences that are listed in the results; all are counted.
LISTED_MAX = 1_000


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison after the corrections.

    `verdict` is of the accounts of the plan, without those that a person vouched for or has still to look at: EQUAL,
    or DRIFT with the accounts that differ, or INCOMPARABLE with those that cannot be compared. `others` are the
    accounts outside of the plan that differ, `compared` all that were compared.
    """

    verdict: str
    compared: int
    drifted: list[str]
    uncompared: list[str]
    others: int
    others_uncompared: int
    differences: list[Drifted]
    certificate: Certificate


def verify(work: Work) -> None:
    """Compare all live rows with a replay to the head."""
    failpoint("verify:begun")
    target = work.target
    work.keep()
    if isinstance(target, TableTarget):
        found = drift_once(work.store, target.live, progress=work.events("verify"), sleep=work.options.sleep)
    else:
        found = drift(work.store, live="read_model", progress=work.events("verify"))
    groups = by_account(work.plan)
    wanted = {each.account_id for each in work.plan.heal} | {each.account_id for each in work.plan.settle}
    wanted -= {account_id for account_id, changes in groups.items() if not _is_promised(changes)}
    wanted |= {account_id for account_id, changes in groups.items() if _is_promised(changes)}
    wanted |= {each.account_id for each in work.plan.unlock}
    unlocked = _unlocked(work)
    wrong = {each.account_id for each in found.accounts if (each.account_id, each.field) not in unlocked}
    wrong |= set(found.suspected)
    known = wanted | set(groups)
    drifted, uncompared = sorted(wrong & wanted), sorted(set(found.uncompared) & wanted)
    results = Verified(
        verdict="DRIFT" if drifted else "INCOMPARABLE" if uncompared else "EQUAL",
        compared=found.compared,
        drifted=drifted,
        uncompared=uncompared,
        others=len(wrong - known),
        others_uncompared=len(set(found.uncompared) - known),
        differences=found.accounts[:LISTED_MAX],
        certificate=found.certificate,
    )
    work.done("verify", results)
    failpoint("verify:done")


def _unlocked(work: Work) -> set[tuple[str, str]]:
    """Return the columns that the run has yet to write in live, of accounts that it has unlocked in the log."""
    with work.store.snapshot() as connection:
        entries = last_tries(audit.entries(connection, run=work.run, actions=UNLOCKING))
    done = {each.account_id for each in entries if each.action == "row.unlocked"}
    ours = {str(each.account_id) for each in entries if each.action == "account.unlocked"} - done
    return {(account_id, field) for account_id in ours for field in ("status", "locked_at")}


def unequal(results: dict[str, Any]) -> set[str]:
    """Return the accounts of the plan that the step did not find EQUAL."""
    return {*results["drifted"], *results["uncompared"]}


def _is_promised(changes: Iterable[Change]) -> bool:
    """Whether an account should be equal: the log can vouch for it, and nothing of it waits."""
    listed = list(changes)
    return not is_waiting(listed) and not is_gap(listed)
