"""What `accounts check` answers: the locks that are stuck, what --fix would do with each, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from console.alerting import configured_webhook
from console.answer import Answer
from console.consent import EVENTS_STAY, need_yes
from console.recover_audit import kept_outside, outsides_of
from console.words import certificate_lines, count, first_few
from ledger import Ledger
from replay.certificate import INCOMPLETE
from replay.locks import Fixed, fix_locks
from schemas import format_time

if TYPE_CHECKING:
    from datetime import datetime

    from console.run import Run
    from consumers.alerts import Webhook
    from ledger.store import Store
    from replay.locks import Lock, Locks

__all__ = ["check_answer", "fixed_answer"]

RESULT_SCHEMA = pl.Schema(
    {
        "account_id": pl.String(),
        "action": pl.String(),
        "success": pl.Boolean(),
        "locked_at": pl.Datetime("us", "UTC"),
        "locked_seconds": pl.Int64(),
        "pending_transactions": pl.List(pl.String()),
        "reason": pl.String(),
        "error": pl.String(),
    }
)

#: Accounts that an alert names; `accounts check` names all.
ALERTED_MAX = 100

#: What --fix does with a lock, in words.
_WOULD = {
    "unlocked": "--fix unlocks it",
    "waiting": "it waits, whatever --fix does",
    "manual_intervention_required": "--fix sends an alert: settle them or cancel them, then check again",
    "failed": "--fix cannot unlock it: a person has to look",
}


def check_answer(found: Locks) -> Answer:
    """Return what is stuck, with nothing done about it."""
    done = [
        Fixed(
            lock=lock,
            action=lock.action,
            success=False if lock.action in ("failed", "manual_intervention_required") else None,
            words=f"{lock.words}; {_WOULD[lock.action]}",
        )
        for lock in found.found
    ]
    return _answer(found, done, is_fixed=False)


def fixed_answer(run: Run, store: Store, found: Locks, *, by: str, is_sure: bool, now: datetime) -> Answer:
    """Say what is about to be done, do it where it is wanted, alert about what needs a person, and say what became.

    Every account that was unlocked, or needs a person, is in the audit trail, by whom. RefusedError where a person at
    the terminal says no.
    """
    # What is wrong with the configuration must not be found out after accounts were unlocked.
    webhook, outsides = configured_webhook(run), outsides_of(run, store)
    _announce(found, is_sure=is_sure, has_webhook=webhook is not None)
    done = fix_locks(Ledger(store, clock=lambda: now), found.found, by=by)
    by_hand = [each.lock for each in done if each.action == "manual_intervention_required"]
    unsent = [] if webhook is None or not by_hand else _alert(webhook, by_hand)
    return _answer(found, done, is_fixed=True, notes=[*unsent, *kept_outside(store, outsides, now)])


def _announce(found: Locks, *, is_sure: bool, has_webhook: bool) -> None:
    """Say what --fix is about to do, and ask; nothing where it has nothing to do."""
    to_unlock = [lock for lock in found.found if lock.action == "unlocked"]
    by_hand = [lock for lock in found.found if lock.action in ("manual_intervention_required", "failed")]
    alerted = [lock for lock in by_hand if lock.action != "failed"]
    of_live = sum(not lock.in_log for lock in to_unlock)
    known = f" ({of_live:,} of them with the lock itself, which only live rows know)" if of_live else ""
    unlock = f"unlock {count(len(to_unlock), 'account')}, as events{known}"
    note = f"note in the audit trail that {count(len(by_hand), 'account needs', 'accounts need')} a person"
    alert = f"tell the webhook of {count(len(alerted), 'account that needs', 'accounts that need')} a person"
    ahead = [
        *([unlock] if to_unlock else []),
        *([note] if by_hand else []),
        *([alert] if alerted and has_webhook else []),
    ]
    if ahead:
        need_yes(ahead[0], [*ahead[1:], *([EVENTS_STAY] if to_unlock else [])], is_sure=is_sure)


def _alert(webhook: Webhook, locks: Sequence[Lock]) -> list[str]:
    """Tell the webhook of the accounts that need a person; return why it was not told."""
    from consumers.alarm import tell

    content = {
        "accounts": len(locks),
        "locks": [
            {
                "account_id": lock.account_id,
                "locked_at": format_time(lock.locked_at),
                "locked_seconds": lock.locked_seconds,
                "pending_transactions": lock.pending_transactions,
            }
            for lock in locks[:ALERTED_MAX]
        ],
    }
    why_not = tell(webhook, "account_locks_stuck", content)
    return [] if why_not is None else [f"the webhook was not told: {why_not}"]


def _answer(found: Locks, done: Sequence[Fixed], *, is_fixed: bool, notes: Sequence[str] = ()) -> Answer:
    fixed = sum(each.success is True for each in done)
    failed = sum(each.success is False for each in done)
    is_open = fixed < len(done) or bool(found.without_time)
    is_incomplete = found.certificate.verdict == INCOMPLETE
    verdict = "INCOMPLETE" if is_incomplete else "FINDINGS" if is_open else "CLEAN"
    unknown = [f"locked since nobody knows when: {account_id}" for account_id in found.without_time]
    unfixed = [] if is_fixed or not done else ["nothing was changed: --fix does what is said beside each"]
    return Answer(
        verdict=verdict,
        fields={
            "checked": len(done),
            "fixed": fixed,
            "failed": failed,
            "results": _rows(done),
            "locked_without_time": found.without_time,
            "certificate": found.certificate,
        },
        table=_rows(done),
        summary=[
            *certificate_lines(found.certificate),
            "",
            f"{verdict}: {count(len(done), 'account')} locked for more than a day, {fixed:,} unlocked, "
            f"{failed:,} for a person",
        ],
        notes=[*first_few(unknown, "accounts"), *notes, *unfixed],
        # An account that could not be checked hides no finding of the others.
        also=["FINDINGS"] if is_open else [],
    )


def _rows(done: Sequence[Fixed]) -> pl.DataFrame:
    rows = [
        (
            each.lock.account_id,
            each.action,
            each.success,
            each.lock.locked_at,
            each.lock.locked_seconds,
            each.lock.pending_transactions,
            each.words,
            each.words if each.action == "failed" else None,
        )
        for each in done
    ]
    return pl.DataFrame(rows, schema=RESULT_SCHEMA, orient="row")
