"""The reconciliation that never stops comes to what somebody says who sees everything at once, however it comes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from histories import examples
from hypothesis import given, note
from hypothesis import strategies as st
from order_oracle import mismatches, withheld
from order_streams import ACCOUNTS, RULES, START, Appender, Facts, Followers, orders_in_memory, record
from samples import recorded
from topic_groups import MemoryTopic, in_memory

from ledger import Store, break_rows, breaks, order_transactions, orders, shadows
from ledger.order_transactions import FOLLOWER
from schemas import Event, encode
from schemas.orders import OrderEvent, order_rows

#: What a break says of an order, less its sentence and its places, which depend on what is followed, and its deadline,
#: which depends on when it was judged.
_SAID = ("order_id", "code", "account_id", "points_at_risk", "order_points", "credit_points", "order_status")
_SAID += ("credit_status", "transactions", "order_at")


class World:
    """Two streams, who follows them, and what somebody knows who sees all of it."""

    def __init__(self, store: Store, ledger: MemoryTopic | None, orders_topic: MemoryTopic, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store, self.ledger, self.orders_topic = store, ledger, orders_topic
        self.facts = Facts(self.chance)
        self.appender = Appender(store)
        self.followers = Followers(store, orders_topic, ledger, self.chance, instances=self.chance.choice([1, 1, 2]))
        self.events: list[OrderEvent] = []
        self.parked: list[str] = []
        self.conflicts: list[tuple[str, str]] = []
        #: When each record came: by side, partition and offset.
        self.came: dict[tuple[str, int, int], datetime] = {}
        self._held: list[tuple[bytes, bytes]] = []
        self._ticks = 0
        for event in self.facts.opening():
            self._send_ledger(event, self.tick())

    def tick(self) -> datetime:
        """Let some time pass, and return a moment that no other is equal to."""
        self._ticks += 1
        self.followers.clock += timedelta(seconds=self.chance.choice([0, 1, 30, 90]), microseconds=1)
        return self.followers.clock

    def come(self) -> None:
        """Let the next fact come, or one that waits on its way."""
        now = self.tick()
        back = self.chance.choice([0, 0, 20, 200])
        # No two moments are equal: which of two transactions of one moment is first depends on what is followed.
        fact = self.facts.waiting.pop(0)(now - timedelta(seconds=back))
        if isinstance(fact, OrderEvent):
            self.events.append(fact)
            for _ in range(self.chance.choice([1, 1, 2])):
                self._send(self.orders_topic, "orders", record(fact), now)
        else:
            self._send_ledger(fact, now)

    def damage(self) -> None:
        """Let something come that cannot be read."""
        now = self.tick()
        if self.chance.random() < 0.5:
            name = f"o{self.chance.randrange(5)}"
            self._send(self.orders_topic, "orders", (name.encode(), b"{"), now)
            self.conflicts.append((name, "it is none"))
        elif self.ledger is not None and not self.parked:
            account_id = self.chance.choice(ACCOUNTS)
            self._send(self.ledger, "ledger", (account_id.encode(), b"{"), now)
            self.parked.append(account_id)

    def _send_ledger(self, event: Event, now: datetime) -> None:
        if self.ledger is None:
            self.appender.append(event)
            with self.store.snapshot() as connection:
                self.came["ledger", 0, self.store.head(connection)] = now
            return
        # Of a topic, nothing is in order: what is missing comes later, and some of it twice.
        self._held.append((event.account_id.encode(), encode(event)))
        self.chance.shuffle(self._held)
        while self._held and self.chance.random() < 0.7:
            self._send(self.ledger, "ledger", self._held.pop(), now)

    def _send_poison(self, account_id: str, now: datetime) -> None:
        self.facts.versions[account_id] += 1
        self.appender.append(recorded(account_id, self.facts.versions[account_id]), b"{}")
        self.parked.append(account_id)
        with self.store.snapshot() as connection:
            self.came["ledger", 0, self.store.head(connection)] = now

    def _send(self, topic: MemoryTopic, side: str, sent: tuple[bytes, bytes], now: datetime) -> None:
        log = topic.logs[partition := self.chance.choice(list(topic.logs))]
        log.append(sent)
        self.came[side, partition, len(log)] = now

    def all_came(self) -> bool:
        """Whether nothing is to come."""
        return not self.facts.waiting

    def release(self) -> None:
        """Let all come that was held back on its way."""
        while self._held:
            assert self.ledger is not None
            self._send(self.ledger, "ledger", self._held.pop(), self.tick())

    def disturb(self) -> None:
        """Do something to an instance, or have brokers open or end a transaction."""
        what = self.chance.choice(["again", "restart", "rebalance", "hold back"])
        place = self.chance.randrange(len(self.followers.instances))
        if what in ("again", "restart"):
            self.followers.begin_again(place, restart=what == "restart")
        elif what == "rebalance":
            for member in self.orders_topic.members:
                member.give(*(at for at in self.orders_topic.logs if self.chance.random() < 0.5))
        else:
            at = self.chance.choice(list(self.orders_topic.logs))
            if self.orders_topic.open_from.pop(at, None) is None:
                self.orders_topic.open_from[at] = len(self.orders_topic.logs[at])

    def follow(self) -> None:
        """Step some instances; what one opened may be righted by the next, so each is checked by itself."""
        for _ in range(4):
            self.followers.step()
            self.check_honest()

    def settle(self) -> None:
        """Let everything come, be read and be judged, and all deadlines pass."""
        self.release()
        if self.ledger is None and self.chance.random() < 0.2:
            # At the end, since nobody knows what else an account has behind what cannot be read.
            self._send_poison(self.chance.choice(ACCOUNTS), self.tick())
        self.orders_topic.open_from.clear()
        for topic in filter(None, [self.orders_topic, self.ledger]):
            for member in topic.members:
                member.give(*topic.logs)
        self.followers.clock += timedelta(days=1)
        for each in self.followers.instances:
            for _ in range(200):
                did = each.step()
                self.check_honest()
                if not did and each.standing().until == self.followers.clock:
                    break
            assert each.standing().touched == 0
            each.step()

    def check_honest(self) -> None:
        """What a side is said to have been read until was read, and what opened was past its deadline."""
        with self.store.snapshot() as connection:
            until = orders.read_until(connection)
            shadow = shadows.find(connection, FOLLOWER)
            assert shadow is not None
            read = {"orders": orders.positions(connection), "ledger": shadows.positions(connection, shadow)}
        reached = {"orders": until.orders_at, "ledger": until.ledger_at}
        for (side, partition, offset), came in self.came.items():
            if reached[side] is not None and came <= reached[side]:
                assert read[side][partition] >= offset
        for judged in self.followers.told:
            for changes in judged.changes:
                for row in (*changes.opened.iter_rows(named=True), *changes.reopened.iter_rows(named=True)):
                    assert until.both_at is not None
                    assert row["deadline_at"] <= until.both_at
                    self._check_open(row)
        self.followers.told.clear()

    def _check_open(self, row: dict[str, Any]) -> None:
        """What opened is a mismatch of all that is read of its order."""
        with self.store.snapshot() as connection:
            shadow = shadows.find(connection, FOLLOWER)
            assert shadow is not None
            events = orders.events(connection, [row["order_id"]]).to_dicts()
            linked = order_transactions.linked(connection, shadow.number, [row["order_id"]]).to_dicts()
        found = mismatches(events, linked, grace_seconds=RULES.grace_seconds, timing_seconds=RULES.timing_seconds)
        assert row["code"] in {each.code for each in found}

    def check_whole(self) -> None:
        """All breaks that there are, and all orders that are withheld, are what an oracle says of all facts."""
        places = [(0, index) for index in range(len(self.events))]
        events, linked = order_rows(self.events, places).to_dicts(), self.facts.linked()
        unsaid = withheld(events, linked, self.conflicts, self.parked)
        rules = {"grace_seconds": RULES.grace_seconds, "timing_seconds": RULES.timing_seconds}
        wrong = mismatches(
            [row for row in events if row["order_id"] not in unsaid],
            [row for row in linked if row["order_id"] not in unsaid],
            **rules,
        )
        expected = {tuple(getattr(each, name) for name in _SAID) for each in wrong}
        with self.store.snapshot() as connection:
            listed = breaks.listed(connection).to_dicts()
            held = break_rows.withheld(connection)["order_id"].to_list()
        assert held == sorted(unsaid)
        said = [{**row, "transactions": tuple(row["transactions"])} for row in listed if row["order_id"] not in unsaid]
        assert {row["state"] for row in said if row["is_found"]} <= {"open", "reopened"}
        assert {(row["state"], row["resolution"]) for row in said if not row["is_found"]} <= {("resolved", "late")}
        found = [tuple(row[name] for name in _SAID) for row in said if row["is_found"]]
        assert set(found) == expected
        assert len(found) == len(expected)


@contextmanager
def worlds(folder: Path, source: str, seed: int) -> Iterator[World]:
    """Open a world whose ledger is followed by its store, or by a topic."""
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store.at(folder)))
        ledger = stack.enter_context(in_memory(MemoryTopic(2))) if source == "topic" else None
        orders_topic = stack.enter_context(orders_in_memory(MemoryTopic(2)))
        world = World(store, ledger, orders_topic, seed)
        stack.callback(world.followers.close)
        yield world


@pytest.mark.parametrize("source", ["store", "topic"])
@examples(8)
@given(seed=st.integers(0, 2**32))
def test_however_it_comes_the_breaks_are_those_of_everything_at_once(source: str, seed: int) -> None:
    """Any interleaving, repeats, restarts, instances and sizes give an oracle's breaks, and none opens that is none."""
    note(f"seed {seed}")
    with TemporaryDirectory() as folder, worlds(Path(folder), source, seed) as world:
        chance = world.chance
        while not world.all_came():
            act = chance.choice([world.come] * 5 + [world.follow] * 5 + [world.disturb])
            act()
            if chance.random() < 0.02:
                world.damage()
            world.check_honest()
        world.settle()
        world.check_honest()
        world.check_whole()
        assert world.followers.clock > START
