"""Ledgers with a damaged live table, the plan that mends it, and runs of that plan, for tests of recovery."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from live_tables import COLUMNS, Live
from samples import opened, recorded, store_rows
from sqlalchemy import select

from console.reports.recovery import numbers_of
from ledger import Ledger, Store, audit
from ledger.importing.file_copy import FileCopy
from ledger.recovery_runs import Runs
from replay import balances
from replay.comparison.live_table import LiveTable
from replay.recovery import outcome
from replay.recovery.check import Places, check_system
from replay.recovery.healed import Healing
from replay.recovery.plan import Plan, run_of
from replay.recovery.planning import Policy, make_plan
from replay.recovery.work import Options, Surroundings, Work

__all__ = [
    "COPY_FILE",
    "NOW",
    "REPORT",
    "account_entries",
    "approved",
    "around_of",
    "audit_is_whole",
    "contents",
    "damage",
    "history",
    "live_of",
    "planned",
    "truth",
    "work_on",
]

#: After every event of a history, so that what is pending is stale and what is locked is stuck.
NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)
#: In the folder of a scene, the copy of the stream that what the store has lost comes back from.
COPY_FILE = "events.jsonl"
POLICY = Policy(settle="cancel")
#: The file of the report in the data folder.
REPORT = "report.json"
#: Every so many accounts has one of each damage.
EVERY = 20


def history(store: Store, accounts: int, *, seed: int = 1) -> None:
    """Write accounts with some events each; some have something pending, and some are locked."""
    chance = random.Random(seed)
    events = []
    for number in range(accounts):
        name = f"a{number:05}"
        events.append(opened(name))
        events += [recorded(name, version, chance.randrange(100, 10_000)) for version in range(2, 5)]
        events.append(recorded(name, 5, chance.randrange(1, 99), type="debit", to_status="frozen"))
        if number % 50 == 7:
            events.append(recorded(name, 6, 40, to_status="pending"))
    with store.appending() as connection:
        store.append_rows(connection, store_rows(events))
    ledger = Ledger(store, clock=lambda: NOW - timedelta(days=5))
    for number in range(11, accounts, 100):
        ledger.lock(f"a{number:05}", reason="suspected")


def live_of(live: Live) -> LiveTable:
    """Return how a live table is described; what differs is not looked at for long."""
    return LiveTable(url=live.url, table=str(live.table.name), settle_seconds=0, looks_min=1)


def truth(store: Store, accounts: set[str] | None = None) -> list[tuple[Any, ...]]:
    """Return the rows that a live table has which is right."""
    rows = balances(store, now=NOW).rows.select("account_id", "balance", "frozen", "status", "locked_at")
    told = pl.col("locked_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    found = rows.with_columns(locked_at=told).sort("account_id").rows()
    return [row for row in found if accounts is None or row[0] in accounts]


def contents(live: Live) -> list[tuple[Any, ...]]:
    """Return what a live table has, by account."""
    with live.engine.connect() as connection:
        statement = select(*(live.table.c[name] for name in COLUMNS))
        return sorted(tuple(row) for row in connection.execute(statement))


def damage(store: Store, live: Live) -> None:
    """Fill a live table with what is right, and damage one account in twenty of it."""
    live.put(truth(store))
    table = live.table
    names = [row[0] for row in truth(store)]
    with live.writing() as connection:
        for place, name in enumerate(names[::EVERY]):
            row = table.update().where(table.c.account_id == name)
            kind = place % 6
            if kind == 0:
                connection.execute(row.values(balance=table.c.balance - 7))
            elif kind == 1:
                connection.execute(row.values(frozen_amount=0))
            elif kind == 2:
                connection.execute(table.delete().where(table.c.account_id == name))
            elif kind == 3:
                # More than the log explains: a person has to look.
                connection.execute(row.values(balance=table.c.balance + 13))
            elif kind == 4:
                connection.execute(row.values(balance=0, frozen_amount=0))
            else:
                connection.execute(
                    table.insert().values(account_id=f"{name}x", balance=5, frozen_amount=0, status="active")
                )


def planned(store: Store, live: LiveTable | None, **options: Any) -> Plan:
    """Return the plan of a recovery."""
    return make_plan(store, live, policy=POLICY, now=NOW, by="planner", **options)


def approved(store: Store, plan: Plan, *, until: datetime = NOW + timedelta(days=3650)) -> Plan:
    """Note that a plan is approved, and return it."""
    with Runs(store).changing(run_of(plan)) as (recovery, _):
        recovery.approve(plan_hash=plan.hash, by="approver", reason="seen", at=NOW, expires_at=until)
    return plan


def work_on(store: Store, plan: Plan, target: Any, data: Path, **options: Any) -> Work:
    """Return work on a run; `around` are the surroundings, the rest are options."""
    around = options.pop("around", Surroundings())
    made = Options(**{"by": "operator", "holder": "one", "now": lambda: NOW, "sleep": lambda _: None} | options)
    return Work(store=store, plan=plan, target=target, data=data, options=made, around=around)


def around_of(store: Store, plan: Plan, data: Path) -> Surroundings:
    """Return surroundings that check the system, heal, count accounts, and write a report, all in one folder."""

    def report(ending: Mapping[str, Any]) -> dict[str, Any]:
        with store.snapshot() as connection:
            numbers = numbers_of(audit.entries(connection, run=run_of(plan)))
        content = msgspec.json.encode({"ending": ending, "numbers": numbers}, order="sorted")
        (data / REPORT).write_bytes(content)
        return {"files": [{"file": REPORT, "sha256": hashlib.sha256(content).hexdigest()}]}

    return Surroundings(
        check=lambda: check_system(store, places=Places(folder=data), now=NOW),
        healing=lambda: Healing(str(plan.heal_source), FileCopy(data / COPY_FILE)),
        reconcile=lambda: {"accounts": len(truth(store))},
        report=report,
    )


def account_entries(store: Store, run: str) -> list[tuple[Any, ...]]:
    """Return the entries of accounts of a run, in order, without what depends on when they were written."""
    kinds = (*outcome.ACTIONS, "account.unlocked", "account.not_unlocked", "transaction.settled", "event.healed")
    with store.snapshot() as connection:
        found = audit.entries(connection, run=run, actions=kinds)
    return [(each.action, each.account_id, msgspec.json.encode(each.details, order="sorted")) for each in found]


def audit_is_whole(store: Store) -> bool:
    """Whether the chain of the audit trail holds."""
    with store.snapshot() as connection:
        return audit.verify(connection, store.ledger_id).first_bad is None
