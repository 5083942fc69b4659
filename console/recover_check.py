"""`recover check`: every part of the system in a table, how bad it is, and what to do next."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import polars as pl

from console.alerting import configured_webhook
from console.answer import Answer
from console.live_tables import live_table
from console.recover_places import Copies, LiveRows, system_state
from console.words import count

if TYPE_CHECKING:
    from console.run import Run
    from ledger.store import Store
    from replay.recovery.check import SystemState

__all__ = ["check_answer", "checked", "loss_lines", "parts_table"]

NEEDS_PERSON = "manual_intervention_required"

_MEANINGS = {
    "ok": "everything is whole",
    "minor": "the log is whole; something else has to be mended",
    "major": "the store is not whole, but partly, or there is a whole copy to replay from",
    "critical": f"nothing is whole that could be replayed: {NEEDS_PERSON}",
}


def checked(run: Run, rows: LiveRows, copies: Copies) -> Answer:
    """Look at every part, tell the webhook where nothing is left to replay from, and return the answer."""
    # What is wrong with the configuration is no part of the system.
    webhook = configured_webhook(run)
    with ExitStack() as stack:
        store, error = _store(run, stack)
        table = live_table(run, rows.against, rows.table) if rows.live or rows.against is not None else None
        found = system_state(run, store, table, is_own=rows.own, copies=copies, error=error)
    notes = []
    if found.severity == "critical" and webhook is not None:
        from consumers.alarm import tell

        content = {"severity": found.severity, "parts": found.parts}
        why_not = tell(webhook, NEEDS_PERSON, content)
        notes.append("the webhook was told" if why_not is None else f"the webhook was not told: {why_not}")
    return check_answer(found, notes)


def _store(run: Run, stack: ExitStack) -> tuple[Store | None, Exception | None]:
    """Return the store, or why there is none: that is what the check is there to find out."""
    run.settings  # noqa: B018 - reads the configuration, whose errors are the operator's to mend first.
    try:
        return stack.enter_context(run.ledger()), None
    except Exception as error:  # noqa: BLE001 - it is what the store's part says.
        return None, error


def check_answer(found: SystemState, notes: list[str]) -> Answer:
    """Return the answer that says what was found."""
    verdicts = {"ok": "CLEAN", "critical": "REFUSED"}
    table = parts_table(found)
    return Answer(
        verdict=verdicts.get(found.severity, "FINDINGS"),
        fields={
            "severity": found.severity,
            NEEDS_PERSON: found.severity == "critical",
            "checked_at": found.checked_at,
            "parts": found.parts,
            "loss": found.loss,
            "untried": found.untried,
            "certificate": found.certificate,
        },
        table=table,
        summary=[f"{found.severity}: {_MEANINGS[found.severity]}", *loss_lines(found)],
        notes=[*[f"{each.name}: {each.next_step}" for each in found.parts if each.next_step], *notes],
    )


def parts_table(found: SystemState) -> pl.DataFrame:
    """Return a row a part."""
    rows = [(each.name, each.state, each.words) for each in found.parts]
    return pl.DataFrame(rows, schema=dict.fromkeys(("part", "state", "what"), pl.String), orient="row")


def loss_lines(found: SystemState) -> list[str]:
    """Return what seems to be lost, and where it is still known."""
    loss = found.loss
    told = [
        (loss.parked, "account that the log cannot vouch for", "accounts that the log cannot vouch for"),
        (loss.events_missing, "event missing", "events missing"),
        (loss.events_damaged, "event that cannot be read", "events that cannot be read"),
        (loss.heads_missing, "account without its head", "accounts without their heads"),
        (loss.drifted, "account that live has wrong", "accounts that live has wrong"),
        (loss.points_wrong, "point too many or too few in live", "points too many or too few in live"),
        (loss.events_healable, "event that a copy would bring back", "events that a copy would bring back"),
    ]
    lines = [count(number, one, many) for number, one, many in told if number]
    if loss.healable_from:
        lines.append(f"still known: {', '.join(loss.healable_from)}")
    return [*lines, *[f"{name} could not be tried: {why}" for name, why in found.untried.items()]]
