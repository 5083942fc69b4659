"""A run given up without its live rows: what is left where the table, the plan's file or the backup is gone for good.

Nothing of live is read or written. The fence falls, and every account that the run may have written is named.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import Connection

from ledger import audit, fence
from ledger.audit_runs import told_results
from ledger.recovery_runs import Runs
from ledger.store import Store
from replay.recovery.abort import Aborted, with_events
from replay.recovery.outcome import noted_accounts
from replay.recovery.work import Options
from schemas.errors import HookFailed

__all__ = ["leave_live"]

_LEFT = "live was left as it is: nobody looked whether the run wrote this row"


def leave_live(
    store: Store, run: str, *, options: Options, reason: str, go_on: Callable[[], None] | None = None
) -> Aborted:
    """Give a run up, lift its fence, and list every account that it announced as not restored.

    `go_on` tells the foreign system; that it could not is a note, since nothing may keep this fence up.

    Raises:
        RefusedError: the run is over or was never approved; somebody else has the lease of recovery.
    """
    own = store.for_run(run)
    runs = Runs(own)

    def entry(action: str, account_id: str | None = None, **details: object) -> audit.Entry:
        return audit.Entry(
            action=action, by=options.by, at=options.now(), run=run, account_id=account_id, details=details
        )

    with runs.changing(run) as (recovery, connection):
        fence.take(connection, run, options.holder, now=options.now(), lease=options.lease)
        recovery.begin_abort(by=options.by, reason=reason, at=options.now())
        begun = entry("run.abort_begun", plan=recovery.plan_hash, leave_live=True)
        audit.append(connection, store.ledger_id, [begun])
    notes = []
    if go_on is not None:
        try:
            go_on()
        except HookFailed as error:
            notes.append(f"the foreign system was not told to go on: {error}")
    with runs.changing(run) as (recovery, connection):
        fence.renew(connection, run, options.holder, now=options.now(), lease=options.lease)
        left = _left(connection, run)
        found = with_events(Aborted(not_restored=[(name, _LEFT) for name in left], notes=notes), connection, run)
        recovery.abort(by=options.by, reason=reason, results=msgspec.to_builtins(found), at=options.now())
        lifted = [entry("fence.lifted")] if fence.lift(connection, run) else []
        rows = [entry("row.not_restored", name, reason=_LEFT) for name in left]
        told = told_results(recovery.results)
        ended = entry("run.aborted", reason=reason, restored=0, leave_live=True, **told)
        audit.append(connection, store.ledger_id, [*rows, *lifted, ended])
        fence.release(connection, run, options.holder)
    return found


def _left(connection: Connection, run: str) -> list[str]:
    """Return the accounts that the run announced, and that no abort before this one put back."""
    noted = noted_accounts(connection, run, "correct") | noted_accounts(connection, run, "unlock")
    told = audit.entries(connection, run=run, actions=["row.restored", "row.not_restored"])
    return sorted(noted - {each.account_id for each in told if each.action == "row.restored"})
