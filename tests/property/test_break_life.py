"""The life of a break against rules in plain Python: any looks, sweeps and decisions leave the same of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from break_rows_made import at, found, mismatch, of
from hypothesis import given, settings
from hypothesis import strategies as st
from sizes import FULL
from sqlalchemy import delete

from ledger import Store, breaks, orders
from ledger.order_tables import BREAK_HISTORY, BREAKS, RECONCILIATION
from schemas.errors import RefusedError

ORDERS = ("o1", "o2", "o3")
CODES = ("amount_mismatch", "wrong_account")
KEYS = [(order, code) for order in ORDERS for code in CODES]


@dataclass
class Known:
    """One break as the rules have it."""

    state: str
    how: str | None
    is_found: bool
    #: Points, and the deadline that these facts give; `due` is the one that is stored.
    facts: tuple[int, int]
    due: int
    noticed: int
    was_open: bool = False
    has_changed: bool = False
    told: list[tuple[str | None, str, str | None]] = field(default_factory=list)

    def turn(self, state: str, how: str | None = None) -> None:
        """Change the state, which stands in the history."""
        self.told.append((self.state or None, state, how))
        self.state, self.how = state, how
        self.was_open = self.was_open or state in ("open", "reopened")

    def date(self, of_facts: int, judged_at: int, *, is_other: bool) -> None:
        """Have the deadline of facts that are found, others or the same."""
        if not is_other:
            self.due = min(self.due, max(of_facts, self.noticed))
            return
        self.due = max(of_facts, judged_at)
        if self.state == "pending" or self.how == "late":
            self.noticed = judged_at


class Rules:
    """The life of all breaks, one at a time."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Known] = {}

    def judge(self, among: set[str], facts: dict[tuple[str, str], tuple[int, int]], until: int, judged_at: int) -> None:
        """Look at some orders; facts are points and deadline."""
        for key in KEYS:
            if key[0] in among:
                self._look(key, facts.get(key), until, judged_at)

    def _look(self, key: tuple[str, str], facts: tuple[int, int] | None, until: int, judged_at: int) -> None:
        one = self.known.get(key)
        due = 0 if facts is None else max(facts[1], judged_at)
        if one is None:
            if facts is not None:
                self.known[key] = fresh = Known("", None, is_found=True, facts=facts, due=due, noticed=judged_at)
                fresh.turn("open" if due <= until else "pending")
            return
        is_other = one.is_found != (facts is not None) or (facts is not None and facts[0] != one.facts[0])
        if facts is not None:
            one.date(facts[1], judged_at, is_other=is_other or facts[1] > one.due)
        one.is_found, one.facts = facts is not None, facts or one.facts
        if one.state == "pending" and facts is None and len(one.told) == 1:
            del self.known[key]
        elif one.state == "pending" and facts is None:
            one.turn("resolved", "late")
        elif one.state == "pending" and one.due <= until:
            one.turn("open")
        elif one.state in ("open", "reopened") and facts is None:
            one.turn("resolved", "late")
        elif one.how == "late" and facts is not None and one.due <= until:
            one.turn("reopened")
        elif is_other and (one.state in ("open", "reopened") or one.how in ("manual", "accepted")):
            one.told.append((one.state, one.state, one.how))
            one.has_changed = one.state == "resolved"

    def sweep(self, until: int) -> None:
        """Open what is due."""
        for one in self.known.values():
            if one.state == "pending" and one.due <= until:
                one.turn("open")
            elif one.how == "late" and one.is_found and one.due <= until:
                one.turn("reopened")

    def resolve(self, key: tuple[str, str], how: str) -> bool:
        """Decide, unless it is not there, or resolved and not changed since."""
        one = self.known.get(key)
        if one is None or (one.state == "resolved" and not one.has_changed):
            return False
        one.turn("resolved", how)
        one.has_changed = False
        return True

    def reopen(self, key: tuple[str, str], until: int) -> bool:
        """Take back, if it is resolved and still found."""
        one = self.known.get(key)
        if one is None or one.state != "resolved" or not one.is_found:
            return False
        one.turn("pending" if one.due > until and not one.was_open else "reopened")
        one.has_changed = False
        return True

    def withhold(self, order: str) -> None:
        """Forget what waits and nobody ever decided about."""
        waiting = [key for key, one in self.known.items() if key[0] == order and one.state == "pending"]
        for key in waiting:
            if len(self.known[key].told) == 1:
                del self.known[key]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """One store, emptied for each example."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Store.at(folder)
        yield opened
        opened.close()


facts_ = st.dictionaries(st.sampled_from(KEYS), st.tuples(st.integers(1, 2), st.integers(0, 6)), max_size=4)
steps = st.one_of(
    st.tuples(st.just("judge"), st.sets(st.sampled_from(ORDERS), min_size=1), facts_),
    st.tuples(st.just("sweep"), st.none(), st.none()),
    st.tuples(st.just("resolve"), st.sampled_from(KEYS), st.sampled_from(["manual", "accepted"])),
    st.tuples(st.just("reopen"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("withhold"), st.sampled_from(ORDERS), st.none()),
)


@settings(max_examples=600 if FULL else 60)
@given(st.lists(st.tuples(steps, st.integers(0, 2)), min_size=1, max_size=15))
def test_life_follows_the_rules(store: Store, given_steps: list) -> None:
    """Whatever is judged, swept, decided and withheld in any order, states and histories are those of the rules."""
    with store.writing() as connection:
        connection.execute(delete(BREAK_HISTORY))
        connection.execute(delete(BREAKS))
        connection.execute(delete(RECONCILIATION))
    rules, until = Rules(), 0
    for now, ((what, first, second), further) in enumerate(given_steps):
        until += further
        with store.writing() as connection:
            orders.lock(connection)
            for side in ("orders", "ledger"):
                orders.set_read_until(connection, side, at(until))
            if what == "judge":
                facts = {key: value for key, value in second.items() if key[0] in first}
                rules.judge(first, facts, until, now)
                rows = [mismatch(*key, points=points, deadline=deadline) for key, (points, deadline) in facts.items()]
                among = None if first == set(ORDERS) else of(*first)
                breaks.apply(connection, found(*rows), among, until=at(until), now=at(now), grace_seconds=1e7)
            elif what == "sweep":
                rules.sweep(until)
                breaks.sweep(connection, until=at(until), now=at(now))
            elif what == "withhold":
                rules.withhold(first)
                breaks.withhold(connection, [first])
            else:
                decide(connection, rules, (what, first, second), now, until)
        assert_same(store, rules)


def decide(connection, rules: Rules, step: tuple, now: int, until: int) -> None:
    """Resolve or reopen the same in both, which must allow or refuse the same."""
    what, key, how = step
    ids = breaks.listed(connection, breaks.Selection(order_id=key[0], code=key[1]))["id"].to_list()
    is_allowed = rules.resolve(key, how or "") if what == "resolve" else rules.reopen(key, until)
    if not ids:
        assert not is_allowed
        return
    values = {"by": "eve", "why": "so", "now": at(now)}
    try:
        if what == "resolve":
            breaks.resolve(connection, ids, how, **values)
        else:
            breaks.reopen(connection, ids, **values)
    except RefusedError:
        assert not is_allowed
    else:
        assert is_allowed


def assert_same(store: Store, rules: Rules) -> None:
    """The tables say what the rules say."""
    with store.snapshot() as connection:
        listed = breaks.listed(connection)
        histories = {row["id"]: breaks.history(connection, row["id"]) for row in listed.iter_rows(named=True)}
    rows = {(row["order_id"], row["code"]): row for row in listed.iter_rows(named=True)}
    assert set(rows) == set(rules.known)
    for key, one in rules.known.items():
        row = rows[key]
        assert (row["state"], row["resolution"], row["is_found"]) == (one.state, one.how, one.is_found), key
        assert (row["points_at_risk"], row["deadline_at"]) == (one.facts[0], at(one.due)), key
        assert (row["resolved_at"] is not None) == (one.state == "resolved")
        told = histories[row["id"]].select("from_state", "to_state", "resolution").rows()
        assert told == one.told, key
        assert histories[row["id"]]["number"].to_list() == list(range(1, len(told) + 1))
