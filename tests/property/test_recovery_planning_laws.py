"""Random ledgers with random damage in live and in the log: what a plan changes makes live true, and only that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from faults import FAULTS, Row, chains, compared, explanations, fits_int64, row_after
from histories import ACCOUNTS, NOW, START, examples, histories, legal_histories
from hypothesis import given, note
from hypothesis import strategies as st
from ledgers import append, lose_event
from live_tables import COLUMNS, Live

from ledger import Ledger, Store
from replay import balances
from replay.comparison.live_table import LiveTable
from replay.differences import FOREIGN_FIELDS
from replay.recovery.basis import Policy
from replay.recovery.plan import Change, Plan
from replay.recovery.planning import make_plan
from schemas import Event, format_time
from schemas.errors import PointsOverflow

HAND = ("up", "down", "frozen up", "frozen down", "status", "missing", "nothing")
#: What is done to the live row of each account in turn, and which of its events the log loses.
DAMAGE = st.lists(
    st.fixed_dictionaries(
        {
            "fault": st.sampled_from([*FAULTS, *HAND, *HAND]),
            "place": st.integers(0, 30),
            "by": st.integers(1, 120),
            "lost": st.one_of(st.none(), st.none(), st.integers(0, 30)),
        }
    ),
    min_size=len(ACCOUNTS),
    max_size=len(ACCOUNTS),
)
LATER = NOW + timedelta(days=30)


@contextmanager
def world() -> Iterator[tuple[Store, Live]]:
    """A store and a live table, gone after it."""
    with TemporaryDirectory() as folder:
        store = Store.at(Path(folder) / "own")
        live = Live(f"sqlite:///{folder}/other.db")
        try:
            yield store, live
        finally:
            live.close()
            store.close()


def planned(store: Store, live: Live, policy: Policy) -> Plan:
    """The plan for the live table."""
    table = LiveTable(url=live.url, table="accounts", settle_seconds=0, looks_min=1)
    return make_plan(store, table, policy=policy, now=LATER, by="ada", sleep=lambda _: time.sleep(0.02))


def damaged(stream: list[Event], damage: dict[str, Any]) -> Row | None:
    """The live row of an account after what was done to it, null where it has none."""
    links = chains(stream)
    row = row_after(stream, links)
    if damage["fault"] in FAULTS:
        applied = FAULTS[damage["fault"]](stream, damage["place"] % len(stream))
        return row_after(applied, links) if applied else row
    by = damage["by"]
    match damage["fault"]:
        case "up" | "down":
            row["balance"] += by if damage["fault"] == "up" else -by
        case "frozen up" | "frozen down":
            row["frozen"] += by if damage["fault"] == "frozen up" else -by
        case "status":
            row |= {"status": "closed" if row["status"] == "active" else "active", "locked_at": None}
        case "missing":
            return None
    return row


def streams_of(events: list[Event]) -> dict[str, list[Event]]:
    """Each account's events."""
    streams: dict[str, list[Event]] = {}
    for event in events:
        streams.setdefault(event.account_id, []).append(event)
    return streams


def values_of(row: Row) -> dict[str, Any]:
    """What counts of a row, as a plan says it."""
    found = {name: row[name] for name in FOREIGN_FIELDS}
    return found | {"locked_at": None if row["locked_at"] is None else format_time(row["locked_at"])}


def as_live(row: Row) -> tuple[Any, ...]:
    """A row as the live table has it."""
    return (row["account_id"], *values_of(row).values())


def applied(plan: Plan, live: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The live rows after the plan's changes whose basis is the log, in plain Python."""
    after = {account_id: dict(row) for account_id, row in live.items()}
    for change in plan.changes:
        if change.basis != "log":
            continue
        if change.field == "row":
            assert change.account_id not in after
            after[change.account_id] = json.loads(str(change.to))
        else:
            assert after[change.account_id][change.field] == change.from_
            after[change.account_id][change.field] = change.to
    return after


def is_true(row: dict[str, Any] | None, truth: Row) -> bool:
    """Whether a live row is what the events say, in every column that can be compared."""
    if row is None:
        return False
    mine = truth | row
    return all(row[name] == values_of(truth)[name] for name in compared(mine, truth, FOREIGN_FIELDS))


def rows_damaged(streams: dict[str, list[Event]], damages: list[dict[str, Any]]) -> dict[str, Row]:
    """The live rows after the damage, as far as a table can have them."""
    rows: dict[str, Row] = {}
    for damage, (account_id, stream) in zip(damages, streams.items(), strict=False):
        row = damaged(stream, damage)
        note(f"{account_id}: {damage}, live {row}")
        if row is not None and fits_int64(row):
            rows[account_id] = row
    return rows


@examples(40)
@given(events=histories(18), damages=DAMAGE, has_extra=st.booleans(), lowering=st.sampled_from(["explained", "never"]))
def test_what_goes_by_the_log_makes_live_true(events, damages, has_extra, lowering):
    """Log-based changes give the truth and lower nothing, or what an event explains; what is in no plan is equal."""
    streams = streams_of(events)
    rows = rows_damaged(streams, damages)
    live_values = {account_id: values_of(row) for account_id, row in rows.items()}
    if has_extra:
        live_values["extra"] = {"balance": 5, "frozen": 0, "status": "active", "locked_at": None}
    lost = set()
    with world() as (store, live):
        append(store, *events)
        live.put([(account_id, *values.values()) for account_id, values in live_values.items()], COLUMNS)
        for damage, (account_id, stream) in zip(damages, streams.items(), strict=False):
            if damage["lost"] is not None:
                lose_event(store, account_id, damage["lost"] % len(stream) + 1)
                lost.add(account_id)
        plan = planned(store, live, Policy(lowering=lowering))
    after = applied(plan, live_values)
    changes: dict[str, list[Change]] = {}
    for change in plan.changes:
        changes.setdefault(change.account_id, []).append(change)
    assert [each.basis for each in changes.pop("extra", [])] == ["unknown"] * has_extra
    assert set(changes) <= set(streams)
    for account_id, stream in streams.items():
        own, truth = changes.get(account_id, []), row_after(stream, chains(stream))
        if account_id in lost or not fits_int64(truth):
            assert [(each.basis, each.to, each.log) for each in own] == [("unknown", None, None)]
            continue
        assert len({each.basis for each in own}) <= 1
        assert is_true(after.get(account_id), truth) or own[0].basis == "unknown"
        for each in own:
            assert each.field not in ("balance", "frozen") or each.log == truth[each.field]
            if sinks(each):
                assert lowering == "explained"
                known = {name for name, _ in explanations(stream, rows[account_id], FOREIGN_FIELDS)}
                assert known & {"missed_event", "applied_twice"}

            if each.field == "status" and each.basis == "log" and STRICTNESS[each.to] < STRICTNESS[each.from_]:
                assert each.cause != "foreign_write"


STRICTNESS = {"active": 0, "locked": 1, "closed": 2}


def sinks(change: Change) -> bool:
    """Whether a change lowers points by the log."""
    return change.field in ("balance", "frozen") and change.basis == "log" and change.to < change.from_


@examples(25)
@given(
    events=legal_histories(20),
    damages=DAMAGE,
    settle=st.sampled_from([None, "complete", "cancel"]),
    codes=st.dictionaries(st.sampled_from(["gift", "order"]), st.sampled_from(["complete", "cancel"])),
    pending=st.lists(
        st.tuples(
            st.sampled_from(ACCOUNTS),
            st.sampled_from(["credit", "debit"]),
            st.integers(1, 40),
            st.sampled_from([None, "gift", "order"]),
        ),
        max_size=6,
    ),
)
def test_planned_settlements_are_what_a_replay_says_once_they_are_made(events, damages, settle, codes, pending):
    """After the settlements, in the plan's order and none of them refused, the log says what the plan says it will."""
    streams = streams_of(events)
    with world() as (store, live):
        append(store, *events)
        ledger = Ledger(store, clock=lambda: START, allow_overdraft=True)
        for number, (account_id, kind, amount, code) in enumerate(pending):
            if account_id in streams and ledger.account(account_id).status == "active":
                command = ledger.credit if kind == "credit" else ledger.debit
                # The account may have as much pending already as a number can say.
                with suppress(PointsOverflow):
                    command(account_id, f"pending-{number}", amount, status="pending", business_code=code)
        rows = balances(store, now=LATER).rows
        whole = {row["account_id"]: row for row in rows.iter_rows(named=True)}
        for damage, account_id in zip(damages, whole, strict=False):
            if damage["fault"] in ("up", "down"):
                whole[account_id]["balance"] += damage["by"] if damage["fault"] == "up" else -damage["by"]
        live.put([as_live(row) for row in whole.values() if fits_int64(row)], COLUMNS)
        plan = planned(store, live, Policy(settle=settle, settle_codes=codes))
        later = Ledger(store, clock=lambda: LATER)
        for each in plan.settle:
            assert each.action == codes.get(each.business_code or "", settle)
            command = later.complete if each.action == "complete" else later.cancel
            before = later.account(each.account_id).version
            assert command(each.account_id, each.transaction_id) == before + 1
        after = {row["account_id"]: row for row in balances(store, now=LATER).rows.iter_rows(named=True)}
    for change in plan.changes:
        if change.field in ("balance", "frozen"):
            assert change.log == after.get(change.account_id, {}).get(change.field)
    changed = {each.account_id for each in plan.changes} | {each.account_id for each in plan.left}
    for account_id in set(whole) - changed:
        assert whole[account_id]["balance"] == after[account_id]["balance"]
