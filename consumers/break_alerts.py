"""What a webhook is told of breaks that stay open: how many, what is at risk, and the first of them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from consumers.alerts import NAMED_MAX, About
from ledger import break_rows
from ledger.break_rows import NOT_RESOLVED, STANDING, Selection
from ledger.incidents import Incident
from schemas import format_time

__all__ = ["BREAKS", "COMPARISON"]

#: What incidents of breaks are under in the table of incidents, where others have the name of a comparison.
COMPARISON = "reconciliation"

#: What is told of each break.
_NAMED = ("id", "order_id", "code", "account_id", "state", "points_at_risk", "evidence")


def _breaks(connection: Connection, incident: Incident) -> Mapping[str, object]:
    """Return what stands now by state and code, and the breaks that have stood longest."""
    del incident
    counts = break_rows.counts(connection)
    standing = break_rows.listed(connection, Selection(states=STANDING))
    first = standing.sort("opened_at", "id").head(NAMED_MAX).iter_rows(named=True)
    return {
        "open": {state: sum(each.breaks for each in counts if each.state == state) for state in NOT_RESOLVED},
        "points_at_risk": break_rows.total(standing).points_at_risk,
        "first": [
            {**{name: row[name] for name in _NAMED}, "opened_at": format_time(row["opened_at"])} for row in first
        ],
    }


#: Alerts of breaks that have been open for too long.
BREAKS = About({"drift": "breaks_open", "healed": "breaks_resolved"}, "breaks", _breaks)
