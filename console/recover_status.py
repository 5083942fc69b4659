"""`recover status`: every run and how far it is, who has the lease, and whether writers are fenced."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl

from console.answer import Answer
from console.render import printable
from console.words import count
from ledger import fence
from ledger.recovery_run import STEPS
from ledger.recovery_runs import Runs
from schemas import format_time
from schemas.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from console.run import Run
    from ledger.fence import Fence
    from ledger.recovery_run import RecoveryRun

__all__ = ["fence_lines", "half_done", "newest", "next_lines", "status"]

#: A run that needs a person stands until a later one was begun.
_IS_OPEN = ("running", "failed")


def status(run: Run, name: str | None) -> Answer:
    """Return how all runs are, or one of them with its steps."""
    now = run.now
    with run.ledger() as store:
        runs = Runs(store)
        found = runs.listed() if name is None else [each for each in [runs.get(name)] if each is not None]
        with store.snapshot() as connection:
            state = fence.state(connection)
    if name is not None and not found:
        raise UsageError(f"there is no run {name!r}", next_step="see `recover status`")
    is_fenced = state is not None and state.is_up
    is_open = is_fenced or bool(_open(found))
    one = found[0] if name is not None else None
    return Answer(
        verdict="FINDINGS" if is_open else "CLEAN",
        fields={
            "run": name,
            "runs": [_document(each) for each in found],
            "fence": None if state is None else state._asdict(),
            **({} if one is None else {"steps": one.steps}),
        },
        table=_steps(one) if one is not None else _table(found),
        summary=[*([_line(one)] if one is not None else [count(len(found), "run")]), *fence_lines(state, now)],
        notes=_next(found, state, now),
    )


def half_done(runs: list[RecoveryRun], state: Fence | None) -> list[str]:
    """Return the runs that were begun, or given up, and did not come to their end; also one that only has the fence."""
    names = [each.id for each in runs if each.status in _IS_OPEN or (each.is_aborting and not each.is_over)]
    return [*names, *([state.run] if state is not None and state.is_up and state.run not in names else [])]


def newest(runs: list[RecoveryRun]) -> RecoveryRun | None:
    """Return the run that was started last, None where none was."""
    begun = [(each.started_at, place, each) for place, each in enumerate(runs) if each.started_at is not None]
    return max(begun, key=itemgetter(0, 1))[2] if begun else None


def _open(runs: list[RecoveryRun]) -> list[str]:
    last = newest(runs)
    needs = [last.id] if last is not None and last.status == "manual_intervention_required" else []
    names = half_done(runs, None)
    return [*names, *(each for each in needs if each not in names)]


def _document(run: RecoveryRun) -> dict[str, Any]:
    return {
        "run": run.id,
        "status": run.status,
        "reason": run.reason,
        "plan_hash": run.plan_hash,
        "approvals": [each._asdict() for each in run.approvals],
        "started_by": run.started_by,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "steps_done": list(run.steps),
        "progress": None if run.progress is None else run.progress._asdict(),
    }


def _line(run: RecoveryRun) -> str:
    return printable(f"{run.id}: {run.status}" + (f": {run.reason}" if run.reason else ""))


def _steps(run: RecoveryRun) -> pl.DataFrame:
    rows = []
    for name in STEPS:
        state = "done" if name in run.steps else ""
        if name == "correct" and name not in run.steps and run.progress is not None:
            state = f"{run.progress.done:,} of {run.progress.total:,} accounts"
        rows.append((name, state, _results(run.steps.get(name, {}))))
    return pl.DataFrame(rows, schema=dict.fromkeys(("step", "state", "results"), pl.String), orient="row")


def _results(results: dict[str, Any]) -> str:
    """Return the results that are numbers or words; the JSON document has all."""
    plain = {name: value for name, value in results.items() if isinstance(value, int | str) and value != ""}
    return ", ".join(f"{name} {value}" for name, value in plain.items())


def _table(runs: list[RecoveryRun]) -> pl.DataFrame:
    rows = [
        (
            each.id,
            each.status,
            each.started_by or "",
            "" if each.started_at is None else format_time(each.started_at),
            "" if each.ended_at is None else format_time(each.ended_at),
            next((name for name in reversed(STEPS) if name in each.steps), ""),
            "" if each.progress is None else f"{each.progress.done:,} of {each.progress.total:,}",
            each.reason or "",
        )
        for each in runs
    ]
    names = ("run", "status", "by", "started_at", "ended_at", "last_step", "accounts", "reason")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def fence_lines(state: Fence | None, now: datetime) -> list[str]:
    """Return whether writers are fenced, since when and by whom, and who has the lease."""
    if state is None:
        return ["writers are not fenced, and nobody has the lease"]
    lines = []
    if state.is_up:
        lines.append(f"writers are fenced since {state.fenced_at} by {state.fenced_by} for {state.run}")
    else:
        lines.append("writers are not fenced")
    if _is_held(state, now):
        lines.append(f"the lease has {state.holder} until {state.held_until} for {state.run}")
    elif state.holder is not None:
        lines.append(f"the lease of {state.holder} ran out at {state.held_until}: that process is gone")
    return lines


def _is_held(state: Fence | None, now: datetime) -> bool:
    return state is not None and state.holder is not None and (state.held_until or "") >= format_time(now)


def _next(runs: list[RecoveryRun], state: Fence | None, now: datetime) -> list[str]:
    names = _open(runs)
    if state is not None and state.is_up and state.run not in names:
        names.append(state.run)
    return next_lines(runs, names, state, now)


def next_lines(runs: list[RecoveryRun], names: list[str], state: Fence | None, now: datetime) -> list[str]:
    """Return what to do next about some runs."""
    if state is not None and _is_held(state, now):
        return [f"if that process is gone, `recover resume {state.run}` can take over after {state.held_until}"]
    by_name = {each.id: each for each in runs}
    return [_next_of(name, by_name.get(name)) for name in names]


def _next_of(name: str, run: RecoveryRun | None) -> str:
    if run is not None and run.is_aborting:
        return f"next: `recover abort {name} --reason R` ends the abort that was begun"
    if run is not None and run.status == "manual_intervention_required" and "report" in run.steps:
        if run.steps["verify"].get("verdict") == "EQUAL":
            return "next: plan again for what is left; this run stays as it is"
        return f"next: mend what differs, then `recover resume {name}`; or plan again, and this run stays as it is"
    return f"next: `recover resume {name}`, or `recover abort {name} --reason R`"
