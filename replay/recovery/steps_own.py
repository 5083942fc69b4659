"""The step that corrects our own read model: a new generation, judged by the plan, and made live, all rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ledger import audit
from replay.differences import Value
from replay.drift import drift
from replay.recovery.failpoints import failpoint
from replay.recovery.outcome import by_account, is_gap, is_waiting, outcomes, told
from replay.recovery.own_target import OwnReadModel
from replay.recovery.plan import Change
from replay.recovery.rows import side
from replay.recovery.steps_correct import Corrected, finish
from replay.recovery.targets import ROW
from replay.recovery.work import Work
from schemas.errors import RefusedError

__all__ = ["correct_own", "promoted"]


def correct_own(work: Work, target: OwnReadModel) -> None:
    """Rebuild, announce the generation, make it live, and record what became of each account.

    Where the rebuild is INCOMPLETE, or may not go live, nothing is changed and every account has failed, with the
    reason.
    """
    failpoint("correct:begun")
    began = work.options.clock()
    groups = by_account(work.plan)
    with work.store.snapshot() as connection:
        done = outcomes(connection, work.run)
        announced = promoted(connection, work.run)
    todo = {account_id: changes for account_id, changes in groups.items() if account_id not in done}
    # A healed event stands behind the rows' position, so the rows of its account are made anew though none is planned.
    is_due = bool(todo) or (announced is None and bool(work.plan.heal))
    if is_due:
        _correct(work, target, todo, announced)
    finish(work, Corrected(batches=int(is_due), seconds=work.options.clock() - began))


def promoted(connection: Any, run: str) -> int | None:
    """Return the generation that a run last announced to make live, None where it never did."""
    found = audit.entries(connection, run=run, actions=["correcting"])
    numbers = [each.details["generation"] for each in found if each.details.get("generation") is not None]
    return numbers[-1] if numbers else None


def _correct(work: Work, target: OwnReadModel, todo: Mapping[str, Sequence[Change]], announced: int | None) -> None:
    generation, reason = announced, ""
    if announced is None or target.generation() != announced:
        generation, reason = _made_live(work, target, list(todo))
    values = {} if generation is None or reason else target.values(generation, list(todo))
    entries = [
        _entry(work, account_id, changes, values.get(account_id), reason) for account_id, changes in todo.items()
    ]
    with work.changing() as (recovery, connection):
        recovery.note_progress(len(entries), len(entries), work.now)
        work.record(connection, entries)
    failpoint("batch:done")


def _made_live(work: Work, target: OwnReadModel, account_ids: Sequence[str]) -> tuple[int | None, str]:
    """Return the generation that is live now; or why none could be made so."""
    hindrance = _hindrance(work)
    if hindrance:
        return None, hindrance
    made = target.rebuilt(work.store, now=work.now, progress=work.events("correct"))
    if made.generation is None:
        return None, "nothing could be rebuilt"
    with work.changing() as (_, connection):
        work.record(
            connection, [work.entry("correcting", step="correct", accounts=account_ids, generation=made.generation)]
        )
    failpoint("batch:noted")
    try:
        target.promote(work.store, made.generation)
    except RefusedError as error:
        return None, str(error)
    failpoint("batch:written")
    return made.generation, ""


def _hindrance(work: Work) -> str:
    """Return why nothing may go live: all rows do at once, so none may differ that nobody has decided on."""
    waiting = len({each.account_id for each in work.plan.undecided()})
    if waiting:
        return f"{waiting:,} accounts wait for a person to decide, and all rows go live at once"
    planned = {(each.account_id, each.field): each.from_ for each in work.plan.changes}
    healed = {each.account_id for each in work.plan.heal}
    drifted = drift(work.store, live="read_model", progress=work.events("correct")).accounts
    found = [each for each in drifted if each.account_id not in healed]
    other = [
        each.account_id
        for each in found
        if planned.get((each.account_id, each.field), _NOT_PLANNED) != each.live and each.field != ROW
    ]
    other += [each.account_id for each in found if each.field == ROW and (each.account_id, ROW) not in planned]
    if other:
        more = f" and {len(set(other)) - 1:,} more" if len(set(other)) > 1 else ""
        return f"other rows than the plan has differ by now: that of {other[0]!r}{more}; plan again, for all accounts"
    return ""


_NOT_PLANNED = object()


def _entry(
    work: Work, account_id: str, changes: Sequence[Change], values: Mapping[str, Value] | None, reason: str
) -> audit.Entry:
    details: dict[str, Any] = {"changes": told(changes)}
    if is_waiting(changes):
        return work.entry("account.waiting", account_id, **details, reason=changes[0].reason)
    if is_gap(changes):
        return work.entry("account.accepted", account_id, **details)
    if reason:
        return work.entry("account.failed", account_id, **details, reason=reason)
    wanted = side(changes, "to")
    differs = [name for name, value in (wanted or {}).items() if (values or {}).get(name) != value]
    if (wanted is None) != (values is None) or differs:
        # The rows are those of the log all the same: it went on, or is not what it was.
        details["reason"] = f"the log has other than the plan by now: {', '.join(differs) or 'its row'}"
        return work.entry("account.other_than_log", account_id, **details, live=dict(values or {}))
    return work.entry("account.corrected", account_id, **details)
