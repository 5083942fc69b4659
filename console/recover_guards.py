"""What keeps a plan from being approved, applied or written over where that would be a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ledger.recovery_runs import Runs
from replay.recovery.plan import read_plan, run_of
from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from console.run import Run
    from ledger.recovery_run import RecoveryRun
    from ledger.store import Store
    from replay.recovery.plan import Plan

__all__ = ["need_folder", "need_free", "need_other_approver", "need_own_ledger", "refuse_author", "refuse_done"]


def need_own_ledger(plan: Plan, store: Store, file: Path) -> None:
    """Refuse a plan of another ledger, before anything else is said of it."""
    if plan.ledger_id != store.ledger_id:
        raise RefusedError(
            "the plan is of another ledger", where=str(file), next_step="approve and apply it where it was made"
        )


def refuse_author(run: Run, plan: Plan, by: str) -> None:
    """Refuse somebody who made a plan, or decided in it, as its approver, where approver_differs says so."""
    if run.settings.recover.approver_differs and _is_author(plan, by):
        raise _refused(f"{by} made the plan, or decided in it")


def need_other_approver(run: Run, plan: Plan, recovery: RecoveryRun, now: datetime) -> None:
    """Refuse a plan that only those approved who made it, where approver_differs says so by now."""
    holding = [each.by for each in recovery.approvals if each.expires_at > now]
    if run.settings.recover.approver_differs and holding and all(_is_author(plan, each) for each in holding):
        raise _refused(f"{holding[-1]} approved the plan, and made it or decided in it")


def refuse_done(recovery: RecoveryRun) -> None:
    """Refuse the approval of a plan whose run did what it could, and leaves the rest to a person."""
    if recovery.status == "manual_intervention_required" and "backup" in recovery.steps:
        raise RefusedError(
            "the run has done what it could, and waits for a person: an approval changes nothing of it",
            where=f"run {recovery.id!r}",
            next_step="plan again for what is left; this run stays as it is",
        )


def need_folder(file: Path) -> None:
    """Let a file pass whose folder is there; UsageError for any other: a folder by a slip of the pen helps nobody."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder), next_step="make it first, or name another")


def need_free(file: Path, store: Store) -> None:
    """Let a file pass that no plan would be lost by; UsageError for one that somebody decided in or approved.

    Of a run that has begun the plan is kept with the run, so that the file is free again.
    """
    if not file.exists():
        return
    try:
        plan = read_plan(file)
    except (RefusedError, UsageError):
        # Nothing that could be applied any more is lost.
        return
    recovery = Runs(store).get(run_of(plan))
    if recovery is not None and recovery.started_at is not None:
        return
    is_decided = any(each.decision is not None for each in plan.changes)
    if is_decided or recovery is not None:
        raise UsageError(
            f"the file is a plan that somebody {'decided in' if is_decided else 'approved'}",
            where=str(file),
            next_step="name another file, or say --overwrite",
        )


def _is_author(plan: Plan, by: str) -> bool:
    authors = {plan.by, *(each.decision.by for each in plan.changes if each.decision is not None)}
    return _plain(by) in {_plain(each) for each in authors}


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _refused(why: str) -> RefusedError:
    return RefusedError(
        f"{why}, and approver_differs says that somebody else approves it",
        where="[recover] approver_differs",
        next_step="have another person approve it, with --by",
    )
