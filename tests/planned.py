"""Plans of recoveries, made of a store and a live table without waiting for anything to settle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from live_tables import Live, live_rows

from ledger import Ledger, Store
from replay.comparison.live_table import LiveTable
from replay.recovery.plan import Change, Decision, Heal, Left, Plan, Settlement, Target, Unlock, sealed
from replay.recovery.planning import Policy, make_plan

__all__ = ["NOW", "START", "by_field", "change", "left_of", "plan_of", "stocked", "table_of", "whole_plan"]

START = datetime(2024, 3, 1, 12, tzinfo=UTC)
#: Long enough after it that what was pending is stale, and what was locked stuck.
NOW = START + timedelta(days=9)


def table_of(live: Live, **fields: Any) -> LiveTable:
    """The live table, whose differences count at the first look."""
    return LiveTable(url=live.url, table=live.table.name, settle_seconds=0, looks_min=1, **fields)


def plan_of(store: Store, live: Live | LiveTable | None, **options: Any) -> Plan:
    """The plan of a recovery at `NOW`."""
    table = table_of(live) if isinstance(live, Live) else live
    wanted = {"policy": Policy(), "now": NOW, "by": "ada", "sleep": lambda _: time.sleep(0.05)} | options
    return make_plan(store, table, **wanted)


def stocked(store: Store, live: Live | None, account_ids: Sequence[str], *, points: int = 100) -> Ledger:
    """Write accounts of so many points, the live rows that are right, and return the ledger at `START`."""
    ledger = Ledger(store, clock=lambda: START)
    for account_id in account_ids:
        ledger.open(account_id)
        ledger.credit(account_id, f"{account_id}-c1", points)
        ledger.debit(account_id, f"{account_id}-d1", 30)
    if live is not None:
        live.put(live_rows(store))
    return ledger


def by_field(plan: Plan) -> dict[tuple[str, str], Change]:
    """The changes of a plan, by account and field."""
    return {(each.account_id, each.field): each for each in plan.changes}


def left_of(plan: Plan, account_id: str) -> list[Left]:
    """What is left of an account."""
    return [each for each in plan.left if each.account_id == account_id]


def change(**fields: Any) -> Change:
    """A change of a balance, unless `fields` say otherwise."""
    content = {"account_id": "a", "field": "balance", "from_": 3, "to": 2, "log": 2, "basis": "log", "version": 4}
    return Change(**content | {"cause": "missed_event", "reason": "Why."} | fields)


def whole_plan(**fields: Any) -> Plan:
    """A plan with something in every list."""
    said = Decision(action="adjust", by="eve", at="2024-03-01T00:00:00.000000Z", reason="counted", balance=5)
    content = {
        "made_at": "2024-03-01T00:00:00.000000Z",
        "by": "ada",
        "ledger_id": "1f",
        "target": Target(kind="foreign", table="accounts", database="sqlite:///live.db"),
        "position": 17,
        "log_digest": "00",
        "live_digest": "11",
        "accounts": ["a", "ключ\n'"],
        "compared": 9,
        "drifted": 2,
        "changes": [change(), change(account_id="ключ\n'", basis="unknown", from_="x", to=5, decision=said)],
        "heal_source": "topic events",
        "heal": [Heal(account_id="a", version=3, why="hole")],
        "settle": [
            Settlement(
                account_id="a",
                transaction_id="t",
                action="complete",
                type="credit",
                amount=2**63 - 1,
                business_code=None,
                created_at="2024-03-01T00:00:00.000000Z",
            )
        ],
        "unlock": [Unlock(account_id="a", locked_at="2024-03-01T00:00:00.000000Z", reason="idle")],
        "left": [Left(kind="parked", account_id="b", reason="gap", transactions=["t"])],
    }
    return sealed(Plan(**content | fields))
