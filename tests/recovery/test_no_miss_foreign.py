"""Damage of every kind in random rows of a foreign live table: all of it is found, as what it is, and nothing else."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from foreign_pairs import ForeignPairs, LiveInMariadb, LiveInPostgres, LiveInSqlite, follow, settled, whole_round
from ledgers import append
from live_tables import Clock, Live, live_rows
from samples import account_stream, opened, recorded, store_rows
from sizes import FULL

from ledger import Store
from replay.differences import Drifted
from schemas import AccountLocked, Event

ACCOUNTS_ALL, ACCOUNTS_DAMAGED = (200_000, 1_000) if FULL else (4_000, 120)
ROWS_PER_CHUNK = 50_000 if FULL else 1_000
#: Each account has this many transactions, and at the end it is locked.
TRANSACTIONS = 4
POINTS = 13
OTHER_TIME = "2023-01-01T00:00:00.000000Z"
KINDS = (
    "balance",
    "frozen",
    "status",
    "locked_at",
    "row_missing",
    "row_extra",
    "missed_event",
    "missed_lock",
    "applied_twice",
)


class Planted(NamedTuple):
    """What is to be found of one damage: its class, the columns that differ, and the event that is to blame."""

    cause: str
    fields: set[str]
    first_event: str | None


def stream(account_id: str, chance: random.Random) -> list[Event]:
    """An account of transactions whose amounts are of no other event, nor a sum or difference of such, then locked."""
    events: list[Event] = [opened(account_id)]
    for version in range(2, TRANSACTIONS + 2):
        fields = chance.choice(({"type": "credit"}, {"type": "debit"}, {"type": "debit", "to_status": "frozen"}))
        events.append(recorded(account_id, version, chance.randrange(1, 9) * 10**version, **fields))
    last = events[-1]
    lock = AccountLocked(
        account_id=account_id,
        version=last.version + 1,
        event_id=f"{account_id}-lock",
        effective_at=last.effective_at,
        recorded_at=last.recorded_at,
    )
    return [*events, lock]


def appended(store: Store, chance: random.Random) -> dict[str, list[Event]]:
    """Fill a store, and return its accounts."""
    streams: dict[str, list[Event]] = {}
    for some in range(0, ACCOUNTS_ALL, 20_000):
        names = [f"account-{number:06d}" for number in range(some, min(some + 20_000, ACCOUNTS_ALL))]
        streams |= {name: stream(name, chance) for name in names}
        with store.appending() as connection:
            store.append_rows(connection, store_rows(event for name in names for event in streams[name]))
    return streams


def plant(live: Live, kind: str, account_id: str, events: list[Event], chance: random.Random) -> Planted:
    """Damage one live row, and return what is to be found."""
    columns = live.table.c
    if kind == "row_missing":
        live.remove(account_id)
        return Planted(kind, {"row"}, events[0].event_id)
    if kind == "row_extra":
        live.put([(f"{account_id}+", POINTS, 0, "active", None)])
        return Planted(kind, {"row"}, None)
    if kind in ("missed_event", "applied_twice"):
        blamed: Any = chance.choice(events[1:-1])
        name = "frozen_amount" if blamed.to_status == "frozen" else "balance"
        worth = blamed.amount if name == "frozen_amount" or blamed.type == "credit" else -blamed.amount
        live.change(account_id, **{name: columns[name] + (worth if kind == "applied_twice" else -worth)})
        return Planted(kind, {name.removesuffix("_amount")}, blamed.event_id)
    if kind == "missed_lock":
        live.change(account_id, status="active", locked_at=None)
        # A time that live does not tell is not compared.
        return Planted("missed_event", {"status"}, events[-1].event_id)
    changes = {
        "balance": {"balance": columns.balance + POINTS},
        "frozen": {"frozen_amount": columns.frozen_amount + POINTS},
        "status": {"status": "closed"},
        "locked_at": {"locked_at": OTHER_TIME},
    }
    live.change(account_id, **changes[kind])
    return Planted("foreign_write", {kind}, None)


class NoMissForeignContract(ForeignPairs):
    """What holds on every database that the live table may be in."""

    @pytest.fixture
    def chance(self) -> random.Random:
        """Chance, whose seed is printed."""
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        return random.Random(seed)

    @pytest.mark.slow
    def test_all_damage_is_found_and_nothing_else(
        self, store: Store, made: Any, pair_of: Any, clock: Clock, chance: random.Random
    ) -> None:
        """Each damaged row settles with exactly its columns, its class and its event, and all others are equal."""
        streams = appended(store, chance)
        live = made()
        live.put(live_rows(store))
        pair = pair_of(live)
        assert whole_round(pair, ROWS_PER_CHUNK)[1:] == ([], set(), {})
        planted = {}
        for number, name in enumerate(chance.sample(sorted(streams), ACCOUNTS_DAMAGED)):
            kind = KINDS[number % len(KINDS)]
            planted[f"{name}+" if kind == "row_extra" else name] = plant(live, kind, name, streams[name], chance)
        # Somebody has to show that live is past all that was damaged.
        append(store, *account_stream("later", 3))
        live.put([("later", 20, 0, "active", None)])
        follow(store)
        chunks, drifted, suspected, uncompared = whole_round(pair, ROWS_PER_CHUNK)
        assert (drifted, suspected, uncompared) == ([], set(planted), {})
        assert sum(chunk.compared for chunk in chunks) == ACCOUNTS_ALL + 1 + len([n for n in planted if n[-1] == "+"])
        assert settled(pair, clock, 30)[1] == {}
        found: dict[str, list[Drifted]] = {}
        for each in whole_round(pair, ROWS_PER_CHUNK)[1]:
            found.setdefault(each.account_id, []).append(each)
        assert found.keys() == planted.keys()
        for name, damage in planted.items():
            told = found[name]
            assert {each.field for each in told} == damage.fields, name
            assert {(each.cause, each.first_event) for each in told} == {(damage.cause, damage.first_event)}, name


class TestNoMissInSqlite(LiveInSqlite, NoMissForeignContract):
    """In SQLite."""


class TestNoMissInPostgres(LiveInPostgres, NoMissForeignContract):
    """In PostgreSQL."""


class TestNoMissInMariadb(LiveInMariadb, NoMissForeignContract):
    """In MariaDB."""
