"""Damage of every kind in random accounts of our own read model: all of it found in one round, and nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from samples import opened, recorded, store_rows
from sqlalchemy import delete, update

from consumers.projector import project
from consumers.shadow import StoreShadow
from ledger import Store, read_model
from ledger.tables import ACCOUNTS
from replay.comparison.own import OwnPair
from replay.comparison.rounds import RoundResult, Rounds
from replay.differences import Drifted
from schemas import Event, TransactionRecorded

FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
ACCOUNTS_ALL, ACCOUNTS_DAMAGED = (200_000, 1_000) if FULL else (4_000, 120)
EVENTS = 5
LIVE = 1
SUMS = ("balance", "frozen", "pending_credit", "pending_debit")
#: What each column is written over with; a sum is changed by points that no event has.
OTHER: dict[str, Any] = {
    "status": "closed",
    "locked_at": "2023-01-01T00:00:00.000000Z",
    "status_version": 77,
    "closed_version": 77,
    "version": 77,
    "chain": b"other",
    "last_effective_at": "2023-01-01T00:00:00.000000Z",
}
KINDS = (*SUMS, *OTHER, "row_missing", "row_extra", "missed_event", "applied_twice")


class Planted(NamedTuple):
    """One damage: the class that it is, the columns that differ, and the event that is to blame."""

    cause: str
    fields: set[str]
    first_event: str | None


def stream(account_id: str, chance: random.Random) -> list[Event]:
    """An account of transactions whose amounts are of no other event, nor a sum or difference of such."""
    events: list[Event] = [opened(account_id)]
    for version in range(2, EVENTS + 1):
        status = chance.choice(["completed", "completed", "frozen", "pending"])
        type_ = "debit" if status == "frozen" else chance.choice(["credit", "debit"])
        amount = chance.randrange(1, 9) * 10**version
        events.append(recorded(account_id, version, amount, type=type_, to_status=status))
    return events


def folded(events: Iterable[Event]) -> dict[str, int]:
    """The sums of some events, by hand."""
    sums = dict.fromkeys(SUMS, 0)
    for event in events:
        if not isinstance(event, TransactionRecorded):
            continue
        if event.to_status == "completed":
            sums["balance"] += event.amount if event.type == "credit" else -event.amount
        elif event.to_status == "frozen":
            sums["frozen"] += event.amount
        else:
            sums[f"pending_{event.type}"] += event.amount
    return sums


def plant(store: Store, kind: str, account_id: str, events: list[Event], chance: random.Random) -> Planted:
    """Damage one live row and return what is to be found."""
    row = (ACCOUNTS.c.generation == LIVE) & (ACCOUNTS.c.account_id == account_id)
    with store.writing() as connection:
        if kind == "row_missing":
            connection.execute(delete(ACCOUNTS).where(row))
            return Planted(kind, {"row"}, events[0].event_id)
        if kind == "row_extra":
            copied = read_model.rows(connection, LIVE, [account_id]).with_columns(account_id=pl.lit(f"{account_id}+"))
            read_model.write_rows(connection, LIVE, copied)
            return Planted(kind, {"row"}, None)
        before, blamed = folded(events), None
        if kind in OTHER:
            values = {kind: OTHER[kind]}
        elif kind in SUMS:
            values = {kind: before[kind] + 13}
        else:
            blamed = chance.choice(events[1:])
            rest = [event for event in events if event is not blamed]
            after = folded(rest if kind == "missed_event" else [*events, blamed])
            values = {name: value for name, value in after.items() if value != before[name]}
        connection.execute(update(ACCOUNTS).where(row).values(values))
    return Planted(kind if blamed else "foreign_write", set(values), blamed and blamed.event_id)


def whole_round(store: Store) -> tuple[RoundResult, list[Drifted]]:
    """Compare one whole round."""
    rounds = Rounds(store, OwnPair(store))
    drifted: list[Drifted] = []
    while rounds.result is None:
        drifted += rounds.step().drifted
    rounds.release()
    return rounds.result, drifted


class NoMissContract:
    """What holds on every database."""

    @pytest.mark.slow
    def test_all_damage_is_found_and_nothing_else(self, store):
        """Each damaged account has exactly its columns, its class and its event, and all others are equal."""
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        streams = {f"account-{number:06d}": [] for number in range(ACCOUNTS_ALL)}
        for some in range(0, ACCOUNTS_ALL, 20_000):
            names = list(streams)[some : some + 20_000]
            streams |= {name: stream(name, chance) for name in names}
            with store.appending() as connection:
                store.append_rows(connection, store_rows(event for name in names for event in streams[name]))
        project(store)
        shadow = StoreShadow(store)
        while shadow.step().lag_events:
            pass
        shadow.close()
        assert whole_round(store)[0].verdict == "EQUAL"
        planted = {}
        for number, name in enumerate(chance.sample(sorted(streams), ACCOUNTS_DAMAGED)):
            kind = KINDS[number % len(KINDS)]
            planted[f"{name}+" if kind == "row_extra" else name] = plant(store, kind, name, streams[name], chance)
        result, drifted = whole_round(store)
        found: dict[str, list[Drifted]] = {}
        for each in drifted:
            found.setdefault(each.account_id, []).append(each)
        assert found.keys() == planted.keys()
        for name, damage in planted.items():
            told = found[name]
            assert {each.field for each in told} == damage.fields, name
            assert {(each.cause, each.first_event) for each in told} == {(damage.cause, damage.first_event)}, name
        assert sorted(result.drifted) == sorted(planted)
        assert (result.verdict, result.uncompared, result.suspected) == ("DRIFT", [], [])


class TestSqlite(NoMissContract, OnSqlite):
    """On SQLite."""


class TestPostgres(NoMissContract, OnPostgres):
    """On PostgreSQL."""
