"""Damage of every kind at once: what a recovery makes of live is the truth, and its report adds up to what it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from copies import ListCopy, stream_of
from ledgers import lose_event
from live_tables import Live
from recoveries import NOW, approved, audit_is_whole, contents, live_of, planned, truth, work_on
from samples import opened, recorded, store_rows
from sizes import FULL

from console.reports.recovery import numbers_of
from ledger import Ledger, Store, audit
from replay.recovery.applying import apply
from replay.recovery.decide import decide
from replay.recovery.healed import Healing
from replay.recovery.plan import Plan, run_of
from replay.recovery.table_target import TableTarget
from replay.recovery.targets import values_of_text
from replay.recovery.work import Surroundings

ACCOUNTS = 50_000 if FULL else 400
#: One account in twenty is damaged, each in the next way.
EVERY = 20
KINDS = (
    "balance_lower",
    "balance_higher",
    "frozen_lower",
    "frozen_higher",
    "row_missing",
    "row_extra",
    "missed",
    "applied_twice",
    "event_lost_in_log",
    "credit_lost_in_log",
    "equal_credit_lost_in_log",
    "closed_by_hand",
    "unlocked_by_hand",
)
#: What nobody but a person may decide; of the last two the truth is what live has.
UNKNOWN = {"balance_higher", "frozen_higher", "row_extra", "applied_twice", "closed_by_hand"}
LEFT = {"credit_lost_in_log", "equal_credit_lost_in_log"}

Row = tuple[Any, ...]


class Planted:
    """A ledger and a damaged live table: `truth` is what was so, `kinds` the damage of each account, `copy` the stream.

    Besides, every 50th account has a stale pending transaction, and every 100th is stuck in a lock.
    """

    def __init__(self, store: Store, live: Live) -> None:
        self.store, self.live = store, live
        self.names = [f"a{number:05}" for number in range(ACCOUNTS)]
        self.kinds = {name: KINDS[place % len(KINDS)] for place, name in enumerate(self.names[::EVERY])}
        self._write_log()
        self.copy = Healing("a list", ListCopy(stream_of(store), size=10_000))
        live.put(truth(store))
        # A stale transaction that is cancelled changes no points, and whoever was stuck is free again.
        stuck = set(self.stuck)
        rows = [(*row[:3], "active", None) if row[0] in stuck else row for row in truth(store)]
        self.truth: dict[str, Row] = {row[0]: row for row in rows}
        for name, kind in self.kinds.items():
            self._damage(name, kind)
        self.before: dict[str, Row] = {row[0]: row for row in contents(live)}

    @property
    def stale(self) -> list[str]:
        """Accounts with a stale pending transaction."""
        return self.names[7::50]

    @property
    def stuck(self) -> list[str]:
        """Accounts that have been locked for too long."""
        return self.names[11::100]

    def of(self, *kinds: str) -> list[str]:
        """The accounts of some kinds of damage; an extra row is one of an account that never was."""
        return [f"{name}x" if kind == "row_extra" else name for name, kind in self.kinds.items() if kind in kinds]

    def _write_log(self) -> None:
        stale, events = set(self.stale), []
        for number, name in enumerate(self.names):
            events.append(opened(name))
            events += [recorded(name, version, _credit(number, version)) for version in (2, 3, 4)]
            events.append(recorded(name, 5, 30 + number % 17, type="debit", to_status="frozen"))
            if name in stale:
                events.append(recorded(name, 6, 40, to_status="pending"))
        with self.store.appending() as connection:
            self.store.append_rows(connection, store_rows(events))
        for names, ago in ((self.stuck, timedelta(days=5)), (self.of("unlocked_by_hand"), timedelta(hours=1))):
            ledger = Ledger(self.store, clock=lambda moment=NOW - ago: moment)
            for name in names:
                ledger.lock(name, reason="suspected")
        ledger = Ledger(self.store, clock=lambda: NOW - timedelta(days=3))
        for name in self.of("closed_by_hand"):
            # The log says nothing of the status of an account that has no event of it.
            ledger.lock(name, reason="suspected")
            ledger.unlock(name, reason="cleared")

    def _damage(self, name: str, kind: str) -> None:
        _, balance, frozen, *_ = self.truth[name]
        credit = _credit(self.names.index(name), 3)
        changes = {
            "balance_lower": {"balance": balance - 7},
            "balance_higher": {"balance": balance + 13},
            "frozen_lower": {"frozen_amount": 0},
            "frozen_higher": {"frozen_amount": frozen + 9},
            "missed": {"balance": balance - credit},
            "applied_twice": {"balance": balance + credit},
            "credit_lost_in_log": {"balance": balance + 777},
            "equal_credit_lost_in_log": {"balance": balance + credit},
            "closed_by_hand": {"status": "closed"},
            "unlocked_by_hand": {"status": "active", "locked_at": None},
        }
        if kind in LEFT:
            # The log never heard of it, and no copy has it: only live knows.
            self.truth[name] = (name, changes[kind]["balance"], *self.truth[name][2:])
        if kind == "event_lost_in_log":
            lose_event(self.store, name, 3)
        elif kind == "row_missing":
            self.live.remove(name)
        elif kind == "row_extra":
            self.live.put([(f"{name}x", 5, 0, "active", None)])
        else:
            self.live.change(name, **changes[kind])


def _credit(number: int, version: int) -> int:
    return 500 + 11 * (number % 83) + 100 * version


@pytest.fixture
def planted(store: Store, tmp_path: Path) -> Iterator[Planted]:
    """A damaged ledger."""
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        yield Planted(store, live)


def _decided(planted: Planted, plan: Plan) -> Plan:
    """Accept what the log is right in; what live alone knows is left to wait."""
    names = planted.of(*UNKNOWN)
    words = {"by": "eve", "reason": "the log has all of it", "now": NOW}
    return approved(planted.store, decide(plan, account_ids=names, action="accept", **words))


@pytest.mark.slow
def test_live_is_the_truth_after_a_recovery_of_every_damage(planted, tmp_path):
    """Nothing waits but what must, nothing else is lowered, and trail and report have every change that was made."""
    plan = planned(planted.store, live_of(planted.live), heal=planted.copy)
    assert {each.account_id for each in plan.undecided()} == set(planted.of(*UNKNOWN, *LEFT))
    plan = _decided(planted, plan)
    with closing(TableTarget(live_of(planted.live))) as target:
        around = Surroundings(healing=lambda: planted.copy)
        done = apply(work_on(planted.store, plan, target, tmp_path / "data", around=around))
    assert (done.status, done.results["verdict"]) == ("manual_intervention_required", "EQUAL"), done.reason
    after = {row[0]: row for row in contents(planted.live)}
    assert after == planted.truth
    # Only what waits has another balance in the log.
    said = {row[0]: row for row in truth(planted.store)}
    assert {name for name, row in said.items() if row != after[name]} == set(planted.of(*LEFT))
    with planted.store.snapshot() as connection:
        entries = audit.entries(connection, run=run_of(plan))
    assert audit_is_whole(planted.store)
    _check_trail(planted, entries, after)
    _check_numbers(planted, numbers_of(entries), after)


def _check_trail(planted: Planted, entries: list[audit.Recorded], after: dict[str, Row]) -> None:
    """Every row that is other than before has entries that say from what to what, and no others have."""
    told: dict[str, dict[str, Row]] = {}
    for entry in entries:
        if entry.action == "account.corrected":
            changes = {each["field"]: (each["from"], each["to"]) for each in entry.details["changes"]}
            told[str(entry.account_id)] = changes
        elif entry.action == "account.unlocked":
            told[str(entry.account_id)] = {
                "status": ("locked", "active"),
                "locked_at": (entry.details["locked_at"], None),
            }
    made = {}
    for name in {*planted.before, *after}:
        old, new = planted.before.get(name), after.get(name)
        if old != new:
            made[name] = _difference(old, new)
    assert {name: _with_rows_read(changes) for name, changes in told.items()} == made


def _difference(old: Row | None, new: Row | None) -> dict[str, Row]:
    if old is None or new is None:
        return {"row": (None if old is None else old[1:], None if new is None else new[1:])}
    fields = ("balance", "frozen", "status", "locked_at")
    return {field: (before, now) for field, before, now in zip(fields, old[1:], new[1:], strict=True) if before != now}


def _with_rows_read(changes: dict[str, Row]) -> dict[str, Row]:
    if "row" not in changes:
        return changes
    old, new = (None if text is None else tuple(values_of_text(text).values()) for text in changes["row"])
    return {"row": (old, new)}


def _check_numbers(planted: Planted, numbers: dict[str, Any], after: dict[str, Row]) -> None:
    """The numbers of the report are those of what was planted, and of live before and after."""
    kinds = set(KINDS) - LEFT - {"event_lost_in_log"}
    corrected, waiting = len(planted.of(*kinds)), len(planted.of(*LEFT))
    found = {name: number for name, number in numbers["outcomes"].items() if number}
    assert found == {"corrected": corrected, "waiting": waiting}
    assert (numbers["accounts"], numbers["success_rate"]) == (corrected + waiting, corrected / (corrected + waiting))
    healed = len(planted.of("event_lost_in_log"))
    assert (numbers["healed"], numbers["settled"], numbers["unlocked"]) == (
        healed,
        len(planted.stale),
        len(planted.stuck),
    )
    for place, field in ((1, "balance"), (2, "frozen")):
        rises = [
            (after[name][place] if name in after else 0)
            - (planted.before[name][place] if name in planted.before else 0)
            for name in {*planted.before, *after}
        ]
        sums = (sum(rise for rise in rises if rise > 0), -sum(rise for rise in rises if rise < 0))
        assert (numbers[field]["added"], numbers[field]["taken"]) == sums
