"""When the judge speaks, of which orders, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import Connection

from consumers.reconciliation.judging import Judge, Judged
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.reconciling import Reconciling
from consumers.shadow import StoreShadow
from ledger import Store, break_rows, breaks, order_transactions, orders, read_model, shadows, topics
from ledger.order_transactions import FOLLOWER, ROW_SCHEMA
from ledger.shadows import Shadow
from projections.reconciliation import Rules
from schemas.errors import RefusedError
from schemas.orders import OrderCompleted, OrderPlaced, order_rows

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
RULES = Rules(grace_seconds=60)
MISSING = "missing_credit_transaction"


class World:
    """Both sides of orders as the followers would have written them, and a judge."""

    def __init__(self, store: Store, *, topic: str | None = None) -> None:
        self.store = store
        self.now = NOON
        self.shadow = self._followed(topic)
        self.judge = self.judge_of()

    def judge_of(self, **options: Any) -> Judge:
        """Return another judge."""
        return Judge(self.store, RULES, now=lambda: self.now, **options)

    def _followed(self, topic: str | None) -> Shadow:
        with self.store.writing() as connection:
            source = {"source": "store" if topic is None else "topic", "source_id": "id", "topic": topic}
            told = {"started_from": "zero", "positions": {0: 0}, "created_at": "2024-03-01T12:00:00.000000Z"}
            return shadows.create(connection, name=FOLLOWER, **source, **told)

    def order(self, order_id: str, points: int = 50, account_id: str | None = "a") -> None:
        """Have an order that is completed at noon."""
        key: dict[str, Any] = {"order_id": order_id, "effective_at": NOON}
        placed = OrderPlaced(event_id="1", version=1, points=points, account_id=account_id, **key)
        with self.writing() as connection:
            orders.add_events(connection, order_rows([placed, OrderCompleted(event_id="2", version=2, **key)]))

    def paid(self, order_id: str, account_id: str = "a", amount: int = 50) -> None:
        """Have a payment of an order, at noon."""
        row: dict[str, Any] = dict.fromkeys(ROW_SCHEMA)
        row |= {"order_id": order_id, "account_id": account_id, "transaction_id": f"t-{order_id}", "type": "debit"}
        row |= {"amount": amount, "status": "completed", "created_at": NOON, "updated_at": NOON, "version": 1}
        row |= {"is_recorded": True, "position": 1}
        rows = pl.DataFrame([row], schema=ROW_SCHEMA)
        with self.writing() as connection:
            order_transactions.write(connection, self.shadow.number, rows, settled=rows.clear())
            orders.touch(connection, [order_id])

    def read_until(self, seconds: float) -> None:
        """Have both sides be read until so many seconds after noon."""
        self.now = NOON + timedelta(seconds=seconds)
        with self.writing() as connection:
            for side in ("orders", "ledger"):
                orders.set_read_until(connection, side, self.now)

    def park(self, *account_ids: str) -> None:
        """Have these accounts be parked, and no others."""
        with self.store.writing() as connection:
            before = read_model.parked(connection, self.shadow.number)["account_id"].to_list()
            schema = {"account_id": pl.String, "version": pl.Int64, "reason": pl.String}
            found = pl.DataFrame([(each, 1, "version_gap") for each in account_ids], schema=schema, orient="row")
            read_model.replace_parked(connection, self.shadow.number, before, found)

    def writing(self):
        """Return a write transaction that holds the lock of orders."""
        return _Locked(self.store)

    def states(self) -> dict[str, str]:
        """Return the state of each break by order and code."""
        with self.store.snapshot() as connection:
            found = breaks.listed(connection)
        return {f"{row['order_id']} {row['code']}": row["state"] for row in found.iter_rows(named=True)}

    def withheld(self) -> list[str]:
        """Return the orders that are withheld."""
        with self.store.snapshot() as connection:
            return break_rows.withheld(connection)["order_id"].to_list()

    def touched(self) -> list[str]:
        """Return the orders that wait to be judged."""
        with self.store.snapshot() as connection:
            return orders.touched(connection, 1_000)


class _Locked:
    def __init__(self, store: Store) -> None:
        self._writing = store.writing()

    def __enter__(self) -> Connection:
        connection = self._writing.__enter__()
        orders.lock(connection)
        return connection

    def __exit__(self, *error: Any) -> None:
        self._writing.__exit__(*error)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A ledger that is followed by its store."""
    with closing(Store.at(tmp_path)) as store:
        yield World(store)


def test_nothing_is_judged_before_both_sides_were_read(world):
    """Orders wait until each side has been read to its end once, so that no half of a side is judged."""
    world.order("o")
    assert world.judge.step() == Judged(0, 0, ())
    with world.writing() as connection:
        orders.set_read_until(connection, "orders", NOON)
    assert world.judge.step().orders == 0
    assert world.touched() == ["o"]
    world.read_until(0)
    assert world.judge.step().orders == 1
    assert (world.states(), world.touched()) == ({f"o {MISSING}": "pending"}, [])


def test_nothing_is_judged_where_nobody_follows_the_ledger(world):
    """Without the follower the ledger's side is not known, whatever was read once."""
    world.order("o")
    world.read_until(100)
    with world.store.writing() as connection:
        shadows.drop(connection, world.shadow)
    with world.writing() as connection:
        orders.set_read_until(connection, "ledger", world.now)
    assert world.judge.step() == Judged(0, 0, ())


def test_a_break_opens_once_both_sides_were_read_past_its_deadline(world):
    """It opens by the clock of what was read alone, though nothing is judged again, and not a moment too soon."""
    world.order("o")
    world.read_until(10)
    world.judge.step()
    world.read_until(59.999)
    assert world.judge.step().changes == ()
    assert world.states() == {f"o {MISSING}": "pending"}
    world.read_until(60)
    (opened,) = world.judge.step().changes
    assert opened.opened["order_id"].to_list() == ["o"]
    assert world.states() == {f"o {MISSING}": "open"}
    assert world.judge.step() == Judged(0, 0, ())


def test_what_comes_in_time_never_opens(world):
    """A payment before the deadline leaves no trace."""
    world.order("o")
    world.read_until(10)
    world.judge.step()
    world.paid("o")
    world.read_until(1_000)
    world.judge.step()
    assert world.states() == {}


def test_nothing_opens_while_something_is_still_to_be_judged(world):
    """What waits may be what puts a pending break in order, so those that are due wait for it."""
    for number in range(5):
        world.order(f"o{number}")
    world.read_until(10)
    world.judge.step()
    assert set(world.states().values()) == {"pending"}
    for number in range(5):
        world.paid(f"o{number}")
    world.read_until(1_000)
    judge = world.judge_of(orders_max=2)
    assert [judge.step().orders for _ in range(4)] == [2, 2, 1, 0]
    assert world.states() == {}
    with world.store.snapshot() as connection:
        assert break_rows.is_empty(connection)


def test_one_that_is_killed_leaves_its_orders_touched(world):
    """Before the commit nothing has happened, and the next judge does it all."""
    world.order("o")
    world.read_until(100)

    def killed(place: str) -> None:
        assert place == "judged"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.judge_of(at=killed).step()
    assert (world.touched(), world.states()) == (["o"], {})
    world.judge.step()
    assert world.states() == {f"o {MISSING}": "open"}


def test_an_account_that_is_parked_withholds_its_orders_until_it_is_free(world):
    """Whether an order or a transaction tells the account; what is pending is forgotten, what is open stays."""
    world.order("told")
    world.order("paid", account_id="b", points=70)
    world.paid("paid", account_id="c")
    world.order("other", account_id="d")
    world.read_until(10)
    world.judge.step()
    world.park("a", "c")
    world.read_until(1_000)
    judged = world.judge.step()
    assert (judged.orders, judged.withheld) == (2, 2)
    assert world.withheld() == ["paid", "told"]
    assert world.states() == {f"other {MISSING}": "open"}
    world.park("c")
    world.judge.step()
    assert world.withheld() == ["paid"]
    assert world.states()[f"told {MISSING}"] == "open"
    world.park("told")
    world.judge.step()
    assert world.withheld() == []
    # Parked anew, what is open says so still.
    world.park("a")
    world.judge.step()
    assert world.states()[f"told {MISSING}"] == "open"


def test_while_any_account_is_parked_an_order_of_nobody_is_withheld(world):
    """Its payment may be in an account that cannot be read; one that has a payment is judged."""
    world.order("nobody", account_id=None)
    world.order("paid", account_id=None, points=70)
    world.paid("paid")
    world.read_until(1_000)
    world.park("z")
    world.judge.step()
    assert world.withheld() == ["nobody"]
    assert set(world.states()) == {"paid amount_mismatch"}
    world.park()
    world.judge.step()
    assert world.withheld() == []
    assert f"nobody {MISSING}" in world.states()


def test_a_judge_that_begins_looks_at_all_that_is_withheld(world):
    """An account may have become free, or been parked, while nobody judged."""
    world.order("freed")
    world.order("taken", account_id="b")
    world.read_until(1_000)
    world.park("a")
    world.judge.step()
    assert world.withheld() == ["freed"]
    world.park("b")
    world.judge_of().step()
    assert world.withheld() == ["taken"]
    assert world.states()[f"freed {MISSING}"] == "open"


def test_what_another_judge_saw_and_did_not_live_to_undo_is_seen(world):
    """An account is parked and freed, or freed and parked, between two steps of a judge while another one judged."""
    world.order("o")
    world.read_until(1_000)
    first, second = world.judge_of(), world.judge_of()
    first.step()
    world.park("a")
    second.step()
    assert world.withheld() == ["o"]
    world.park()
    first.step()
    assert world.withheld() == []
    world.park("a")
    first.step()
    third = world.judge_of()
    world.park()
    third.step()
    assert world.withheld() == []
    world.park("a")
    first.step()
    assert world.withheld() == ["o"]


def test_what_is_not_touched_opens_while_others_wait(world):
    """Orders that never cease to be touched hold back no break of others, nor the judgement of later ones."""
    for order_id in ("a1", "a2", "z"):
        world.order(order_id)
    world.read_until(10)
    world.judge.step()
    judge = world.judge_of(orders_max=2)
    world.read_until(1_000)
    with world.writing() as connection:
        orders.touch(connection, ["a1", "a2"])
    world.paid("a2")
    judge.step()
    assert world.states() == {f"a1 {MISSING}": "open", f"z {MISSING}": "open"}
    world.paid("z")
    for _ in range(2):
        with world.writing() as connection:
            orders.touch(connection, ["a1", "a2"])
        judge.step()
    assert world.states()[f"z {MISSING}"] == "resolved"


def test_a_break_whose_order_is_touched_is_not_swept(world):
    """It is judged first: what came may have put it in order."""
    for order_id in ("a", "b", "c"):
        world.order(order_id)
    world.read_until(10)
    world.judge.step()
    for order_id in ("a", "b", "c"):
        world.paid(order_id)
    world.read_until(1_000)
    judge = world.judge_of(orders_max=1)
    for _ in range(3):
        assert all(each.opened.is_empty() for each in judge.step().changes)
        assert "open" not in world.states().values()
    assert world.states() == {}


def test_an_order_that_came_late_waits_until_the_ledger_was_read_past_its_judgement(world):
    """Dated long ago it is past its time of grace at once, but its payment may be among what was not read yet."""
    world.read_until(1_000)
    world.order("o")
    world.now += timedelta(seconds=5)
    world.judge.step()
    assert world.states() == {f"o {MISSING}": "pending"}
    world.read_until(1_004)
    world.judge.step()
    assert world.states() == {f"o {MISSING}": "pending"}
    world.read_until(1_005)
    world.judge.step()
    assert world.states() == {f"o {MISSING}": "open"}


def test_of_files_only_the_ledger_is_read_past_a_judgement(world):
    """Nobody knows when there is another import: what is due at the last one waits for the ledger alone."""
    world.read_until(1_000)
    world.order("o")
    with world.writing() as connection:
        orders.set_source(connection, orders.Source("files"))
    world.now += timedelta(seconds=5)
    world.judge.step()
    assert world.states() == {f"o {MISSING}": "pending"}
    for seconds, state in [(4, "pending"), (5, "open")]:
        with world.writing() as connection:
            orders.set_read_until(connection, "ledger", NOON + timedelta(seconds=1_000 + seconds))
        world.judge.step()
        assert world.states() == {f"o {MISSING}": state}


def test_other_rules_judge_all_orders_again(world):
    """A judge that begins with other rules than orders were judged by last judges all of them, once."""
    for order_id in ("o", "p"):
        world.order(order_id)
    world.read_until(70)
    assert not world.judge.step().is_anew
    assert set(world.states().values()) == {"open"}
    world.order("q")
    world.now = NOON + timedelta(seconds=70)
    patient = Judge(world.store, Rules(grace_seconds=3_600), now=lambda: world.now)
    found = patient.step()
    assert (found.orders, found.is_anew) == (3, True)
    assert world.states() == {f"o {MISSING}": "open", f"p {MISSING}": "open", f"q {MISSING}": "pending"}
    # Of two at once neither undoes what the other one does.
    assert world.judge.step() == Judged(0, 0, ())
    assert patient.step() == Judged(0, 0, ())
    again = world.judge_of().step()
    assert (again.orders, again.is_anew) == (3, True)
    assert world.states()[f"q {MISSING}"] == "open"
    assert not world.judge_of().step().is_anew


def test_an_account_that_our_relay_holds_back_counts_as_parked(tmp_path):
    """Its later events are not on the topic that is followed, so nothing can be said of its orders."""
    with closing(Store.at(tmp_path)) as store:
        world = World(store, topic="events")
        world.order("o")
        world.read_until(1_000)
        held = pl.DataFrame({"account_id": ["a"], "version": [3], "reason": ["version_gap"]})
        with store.writing() as connection:
            topics.replace_parked(connection, "events", [], held)
        # Nobody says yet that this store publishes that topic.
        world.judge.step()
        assert world.withheld() == []
        with store.writing() as connection:
            topics.claim(connection, "events", "id", 1, {0: 0})
        world.judge.step()
        assert world.withheld() == ["o"]
        with store.writing() as connection:
            topics.replace_parked(connection, "events", ["a"], held.clear())
        world.judge.step()
        assert world.withheld() == []


def test_an_order_of_which_something_cannot_be_read_is_withheld(world):
    """A hole in its versions, or a record that is none, and nothing is said of it."""
    key: dict[str, Any] = {"order_id": "hole", "effective_at": NOON}
    with world.writing() as connection:
        orders.add_events(connection, order_rows([OrderCompleted(event_id="2", version=2, points=5, **key)]))
    world.order("whole")
    world.read_until(1_000)
    judged = world.judge.step()
    assert (judged.orders, judged.withheld) == (2, 1)
    assert (world.withheld(), set(world.states())) == (["hole"], {f"whole {MISSING}"})


def test_orders_that_come_from_a_topic_by_now_end_what_does_not_read_it(world):
    """A reconciliation of orders of files would wait for ever for what only the topic says."""
    following = StoreShadow(world.store, FOLLOWER, beside=OrderTransactions(), restart=True)
    with closing(Reconciling(world.store, following, world.judge, readings=())) as reconciling:
        with world.writing() as connection:
            orders.set_source(connection, orders.Source("files"))
        reconciling.step()
        with world.writing() as connection:
            orders.forget(connection)
            orders.set_source(connection, orders.Source("topic", "orders", "id"))
        with pytest.raises(RefusedError, match="come from the topic 'orders' by now"):
            reconciling.step()
