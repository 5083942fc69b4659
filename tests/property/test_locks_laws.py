"""Stuck locks are those of the scenario's own loop, told account by account in plain Python; fixing twice is once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from histories import ACCOUNTS, NOW, START, examples, histories
from hypothesis import given
from hypothesis import strategies as st
from samples import store_rows
from sqlalchemy import delete, insert

from ledger import Ledger, Store
from ledger.tables import EVENTS, HEADS, IMPORTED_ACCOUNTS
from replay.locks import fix_locks, stuck_locks
from schemas import Event, TransactionRecorded, format_time

STATUS_AFTER = {"AccountLocked": "locked", "AccountUnlocked": "active", "AccountClosed": "closed"}

#: The live row of each account: its status, and for how many minutes it has been locked; nobody knows with None.
LIVE = st.fixed_dictionaries(
    {},
    optional={
        name: st.tuples(st.sampled_from(["locked", "active"]), st.one_of(st.none(), st.integers(1_430, 1_450)))
        for name in ACCOUNTS
    },
)
Live = dict[str, tuple[str, int | None]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples: making its tables takes longer than what is asked of it."""
    store = Store.at(tmp_path_factory.mktemp("locks"))
    yield store
    store.close()


def fill(store: Store, events: list[Event], live: Live) -> None:
    """Leave nothing in a store but these events and imported rows."""
    with store.appending() as connection:
        for table in (EVENTS, HEADS, IMPORTED_ACCOUNTS):
            connection.execute(delete(table))
        store.append_rows(connection, store_rows(events))
        for account_id, (status, minutes) in live.items():
            since = None if minutes is None else format_time(NOW - timedelta(minutes=minutes))
            row = {"account_id": account_id, "balance": 0, "frozen_amount": 0}
            connection.execute(insert(IMPORTED_ACCOUNTS).values(**row, status=status, locked_at=since))


def status_of(own: list[Event], live: tuple[str, int | None]) -> tuple[str, datetime | None]:
    """Whether an account is locked, and since when: as the log says, or its live row where the log says nothing."""
    told = [event for event in own if type(event).__name__ in STATUS_AFTER]
    if told:
        return STATUS_AFTER[type(told[-1]).__name__], told[-1].effective_at
    status, minutes = live
    return status, None if minutes is None else NOW - timedelta(minutes=minutes)


def pending_of(own: list[Event]) -> list[tuple[datetime, int, str]]:
    """The pending transactions of an account: when and at which version each was recorded, and its id."""
    by_id: dict[str, list[Any]] = {}
    for event in own:
        if hasattr(event, "transaction_id"):
            by_id.setdefault(event.transaction_id, []).append(event)
    found = []
    for name, its in by_id.items():
        first = next((event for event in its if isinstance(event, TransactionRecorded)), its[0])
        if its[-1].to_status == "pending":
            found.append((first.effective_at, first.version, name))
    return sorted(found)


def scenario(events: list[Event], live: Live, now: datetime) -> dict[str, tuple[str, list[str]]]:
    """The scenario's loop over accounts that have been locked for more than a day."""
    results: dict[str, tuple[str, list[str]]] = {}
    for account_id in ACCOUNTS:
        own = [event for event in events if event.account_id == account_id]
        status, locked_at = status_of(own, live.get(account_id, ("active", None)))
        if status != "locked" or locked_at is None or not locked_at < now - timedelta(days=1):
            continue
        pending = pending_of(own)
        too_long = [name for created_at, _, name in pending if (now - created_at).total_seconds() > 3_600]
        if not own or any(type(event).__name__ == "AccountClosed" for event in own):
            results[account_id] = ("failed", [])
        elif not pending:
            results[account_id] = ("unlocked", [])
        elif too_long:
            results[account_id] = ("manual_intervention_required", too_long)
        else:
            results[account_id] = ("waiting", [name for _, _, name in pending])
    return results


@given(histories(), LIVE, st.sampled_from([NOW, START + timedelta(days=2)]))
@examples(60)
def test_stuck_locks_are_those_of_the_scenario(kept: Store, events: list[Event], live: Live, now: datetime) -> None:
    """Of any history the accounts, actions and transactions are the same, and once fixed only the rest is found."""
    fill(kept, events, live)
    found = stuck_locks(kept, now=now)
    # Of sums past int64, which park an account here, the scenario knows nothing.
    parked = {each.account_id for each in found.certificate.parked}
    actions = {lock.account_id: (lock.action, lock.pending_transactions) for lock in found.found}
    expected = scenario(events, live, now)
    assert actions == {name: ("failed", []) if name in parked else each for name, each in expected.items()}

    ledger, before = Ledger(kept, clock=lambda: now), head(kept)
    done = [each.lock for each in fix_locks(ledger, found.found, by="ada") if each.success]
    assert done == [lock for lock in found.found if lock.action == "unlocked"]
    after = head(kept)
    assert after - before == sum(1 if lock.in_log else 2 for lock in done)
    rest = stuck_locks(kept, now=now).found
    assert rest == [lock for lock in found.found if lock.action != "unlocked"]
    fix_locks(ledger, rest, by="ada")
    assert head(kept) == after


def head(store: Store) -> int:
    """The position of the newest event ever."""
    with store.snapshot() as connection:
        return store.head(connection)
