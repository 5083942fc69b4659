"""`recover check`: every part of the system in a table, how bad it is, and what to do next."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec
import polars as pl
from sqlalchemy.exc import SQLAlchemyError

from console.alerting import configured_webhook
from console.answer import Answer
from console.live_tables import live_table
from console.recover_places import Copies, LiveRows, has_copy, has_imported, names_live, system_state
from console.recover_status import fence_lines, half_done, next_lines
from console.words import count
from ledger import fence
from ledger.recovery_runs import Runs
from replay.recovery.parts import Part, guarded
from schemas.errors import ConfigurationError, LedgerReplayError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from console.run import Run
    from ledger.store import Store
    from replay.comparison.live_table import LiveTable
    from replay.recovery.check import SystemState

__all__ = ["check_answer", "checked", "loss_lines", "parts_table"]

NEEDS_PERSON = "manual_intervention_required"

_BESIDE = "these are the imported rows, and --live looks at the table of [live]"

_MEANINGS = {
    "ok": "everything is whole",
    "minor": "the log is whole; something else has to be mended",
    "major": "the store is not whole, or nobody can look at it before there is room; not everything is lost",
    "critical": f"nothing is whole that could be replayed: {NEEDS_PERSON}",
}


def checked(run: Run, rows: LiveRows, copies: Copies) -> Answer:
    """Look at every part, tell the webhook where nothing is left to replay from, and return the answer."""
    # What is wrong with the configuration is no part of the system.
    webhook = configured_webhook(run)
    with ExitStack() as stack:
        store, error = _store(run, stack, copies)
        table, beside = _table(run, store, rows)
        found = system_state(run, store, table, is_own=rows.own, copies=copies, error=error)
        found = _with_recovery(_told(found, beside), store, run.now)
    notes = []
    if found.severity == "critical" and webhook is not None:
        from consumers.alarm import tell

        content = {"severity": found.severity, "parts": found.parts}
        why_not = tell(webhook, NEEDS_PERSON, content)
        notes.append("the webhook was told" if why_not is None else f"the webhook was not told: {why_not}")
    return check_answer(found, notes)


def _table(run: Run, store: Store | None, rows: LiveRows) -> tuple[LiveTable | None, str]:
    """Return the table that is looked at, None for imported rows and our own; and what is beside it, unlooked at."""
    if rows.live or rows.against is not None:
        return live_table(run, rows.against, rows.table), ""
    if rows.own or not names_live(run):
        return None, ""
    if store is None:
        return live_table(run), ""
    try:
        is_imported = has_imported(store)
    except (LedgerReplayError, SQLAlchemyError):
        # What cannot be read of the store is for its own part to say.
        is_imported = False
    return (None, _BESIDE) if is_imported else (live_table(run), "")


def _told(found: SystemState, beside: str) -> SystemState:
    """Return what was found, with what the live rows' part did not look at."""
    live = found.part("live")
    if not beside or live.state == "none":
        return found
    told = msgspec.structs.replace(live, words=f"{live.words}; {beside}")
    return msgspec.structs.replace(found, parts=[told if each.name == "live" else each for each in found.parts])


def _with_recovery(found: SystemState, store: Store | None, now: datetime) -> SystemState:
    """Return what was found, with a part that says whether a recovery is half done: that is never ok."""
    if store is None or found.part("store").state == "lost":
        words = "the store cannot be read, so nobody knows"
        part = Part(name="recovery", state="unknown", words=words)
    else:
        part = guarded("recovery", lambda: _recovery(store, now))
    severity = "minor" if found.severity == "ok" and part.state != "ok" else found.severity
    return msgspec.structs.replace(found, parts=[*found.parts, part], severity=severity)


def _recovery(store: Store, now: datetime) -> Part:
    runs = Runs(store).listed()
    with store.snapshot() as connection:
        state = fence.state(connection)
    names = half_done(runs, state)
    if not names:
        return Part(name="recovery", state="ok", words="no recovery is half done")
    status = {each.id: each.status for each in runs}
    words = [f"run {name} is {status.get(name, 'unknown')}" for name in names]
    return Part(
        name="recovery",
        state="degraded",
        words="; ".join([*words, *fence_lines(state, now)]),
        next_step="; ".join(next_lines(runs, names, state, now)),
        details={
            "runs": [{"run": name, "status": status.get(name)} for name in names],
            "fence": None if state is None else state._asdict(),
        },
    )


def _store(run: Run, stack: ExitStack, copies: Copies) -> tuple[Store | None, Exception | None]:
    """Return the store, or why there is none: that is what the check is there to find out.

    UsageError where no ledger is named, and no copy that one could be brought back from.
    """
    run.settings  # noqa: B018 - reads the configuration, whose errors are the operator's to mend first.
    try:
        return stack.enter_context(run.ledger()), None
    except ConfigurationError:
        raise
    except UsageError as error:
        if not (_is_file(run) or has_copy(run, copies)):
            raise
        return None, error
    except Exception as error:  # noqa: BLE001 - it is what the store's part says.
        return None, error


def _is_file(run: Run) -> bool:
    """Whether the folder has what should be a ledger, in whatever state."""
    return run.options.store is None and run.settings.store is None and (run.data / "ledger.db").exists()


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
        (loss.accounts_missing, "account gone whole", "accounts gone whole"),
        (loss.heads_missing, "account without its head", "accounts without their heads"),
        (loss.drifted, "account that live has wrong", "accounts that live has wrong"),
        (loss.points_wrong, "point too many or too few in live", "points too many or too few in live"),
        (loss.events_healable, "event that a copy would bring back", "events that a copy would bring back"),
    ]
    lines = [count(number, one, many) for number, one, many in told if number]
    if loss.healable_from:
        lines.append(f"still known: {', '.join(loss.healable_from)}")
    return [*lines, *[f"{name} could not be tried: {why}" for name, why in found.untried.items()]]
