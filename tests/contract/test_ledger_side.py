"""The transactions that name an order are those of a fresh replay, at every position of the shadow that keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from ledgers import append, change_event, put_back, take_event, write_history
from order_streams import Appender
from reconciled import PLACE, check_links, links
from samples import account_stream, opened, recorded
from shadows import is_fresh, stored, to_head
from sqlalchemy import select
from topic_groups import NOWHERE, MemoryTopic, in_memory

from consumers.reconciliation.ledger_side import OrderTransactions, follower
from consumers.shadow import Following, Start, StoreShadow
from consumers.topic_shadow import TopicShadow
from ledger import Ledger, Store, order_transactions, orders, shadows
from ledger.order_transactions import FOLLOWER
from ledger.tables import EVENTS
from schemas import TransactionStatusChanged
from schemas.errors import RefusedError, UsageError

AT = datetime(2024, 5, 1, tzinfo=UTC)

#: Opens the follower by options; it is closed at the end of the test.
Open = Callable[..., Following]


def touched(store: Store) -> list[str]:
    """Return the orders that have to be judged, and forget them."""
    with store.writing() as connection:
        orders.lock(connection)
        found = orders.touched(connection, 1_000)
        orders.untouch(connection, found)
    return found


def check(store: Store) -> None:
    """Compare what is kept with a fresh replay; rows and positions of the shadow are its, too."""
    check_links(store, stored(store, FOLLOWER).positions[0])
    assert is_fresh(store, FOLLOWER)


class LedgerSideContract:
    """Subclasses give `open_follower`, and `feed`, which brings the store's events to where the follower reads them."""

    def feed(self, store: Store) -> None:
        """Bring what was appended to what is followed."""

    @pytest.fixture
    def open_follower(self, store: Store) -> Iterator[Open]:
        with ExitStack() as stack:

            def opened_one(**options: object) -> Following:
                sizes = {"batch_events": 3, "catch_up_events": 3, "beside": OrderTransactions()}
                return stack.enter_context(closing(StoreShadow(store, FOLLOWER, **sizes | options)))

            yield opened_one

    def test_at_every_step_they_are_those_of_a_fresh_replay(self, store, open_follower):
        """After each batch what is kept is what a replay up to there says, and its orders are touched."""
        write_history(store)
        self.feed(store)
        shadow = open_follower()
        steps, seen = 0, set()
        while shadow.step().events:
            steps += 1
            check(store)
            seen.update(touched(store))
        assert (steps, links(store).height) == (11, 8)
        assert seen == {"o1", "o2", "o3", "o4"}
        assert touched(store) == []

    def test_the_place_is_that_of_the_last_event(self, store, open_follower):
        """A row says where its last event is, so that a break can name it."""
        append(store, opened("a"), recorded("a", 2, order_id="o1"), recorded("a", 3, order_id="o2"))
        self.feed(store)
        to_head(open_follower())
        assert links(store).select("order_id", *PLACE).rows() == list(self.places)

    places: Sequence[tuple[str, int | None, int]] = (("o1", None, 2), ("o2", None, 3))

    def test_an_order_that_is_told_late_is_kept_with_what_came_before(self, store, open_follower):
        """A transaction that is not settled may name its order later, and began when it was recorded."""
        held = {"transaction_id": "t", "type": "debit", "to_status": "frozen", "business_code": "order.payment"}
        appender = Appender(store)
        for event in (opened("a"), recorded("a", 2, **held), *account_stream("b", 4)):
            appender.append(event)
        self.feed(store)
        shadow = open_follower()
        to_head(shadow)
        assert links(store).is_empty()
        assert touched(store) == []
        late = {**held, "to_status": "completed", "from_status": "frozen", "order_id": "o1", "amount": 10}
        key = {"event_id": "a:3", "account_id": "a", "version": 3, "effective_at": AT, "recorded_at": AT}
        appender.append(TransactionStatusChanged(**key, **late))
        self.feed(store)
        to_head(shadow)
        assert touched(store) == ["o1"]
        row = links(store).row(0, named=True)
        assert (row["created_at"], row["updated_at"]) == (recorded("a", 2).effective_at, AT)
        assert (row["business_code"], row["status"]) == ("order.payment", "completed")

    def test_what_is_settled_without_an_order_is_forgotten(self, store, open_follower):
        """Of a ledger whose transactions name no orders nothing is kept but what is not settled."""
        ledger = Ledger(store, clock=lambda: AT)
        ledger.open("a")
        ledger.credit("a", "t0", 100)
        ledger.freeze("a", "t1", 7)
        ledger.freeze("a", "t2", 8)
        self.feed(store)
        shadow = open_follower()
        to_head(shadow)
        assert self.kept(store) == ["t1", "t2"]
        ledger.complete("a", "t1")
        self.feed(store)
        to_head(shadow)
        assert self.kept(store) == ["t2"]
        assert touched(store) == []

    def test_what_waits_behind_a_gap_is_kept_once_it_is_filled(self, store, open_follower):
        """Transactions behind a missing event are not known before it comes."""
        append(store, opened("a"), *(recorded("a", version, order_id=f"o{version}") for version in range(2, 6)))
        missing = take_event(store, "a", 3)
        self.feed(store)
        shadow = open_follower()
        to_head(shadow)
        assert links(store)["order_id"].to_list() == ["o2"]
        put_back(store, missing)
        self.feed(store)
        to_head(shadow)
        assert links(store)["order_id"].to_list() == ["o2", "o3", "o4", "o5"]
        assert touched(store) == ["o2", "o3", "o4", "o5"]
        check(store)

    def test_poison_parks_its_account_and_the_rest_goes_on(self, store, open_follower):
        """What comes before an event that cannot be read is kept, and nothing of its account after it."""
        write_history(store)
        change_event(store, "acc-2", 8, state=b"{}")
        self.feed(store)
        to_head(open_follower())
        check(store)
        assert links(store)["order_id"].to_list() == ["o1", "o1", "o2", "o3", "o3", "o4", "o4"]

    def test_begun_anew_it_forgets_and_all_orders_are_judged_again(self, store, open_follower):
        """At a restart nothing has been read of the ledger, and every order is touched."""
        write_history(store)
        self.feed(store)
        first = open_follower()
        to_head(first)
        with store.writing() as connection:
            orders.lock(connection)
            orders.set_read_until(connection, "ledger", AT)
        touched(store)
        again = open_follower(restart=True)
        assert links(store).is_empty()
        assert touched(store) == ["o1", "o2", "o3", "o4"]
        with store.snapshot() as connection:
            assert orders.read_until(connection).ledger_at is None
        to_head(again)
        check(store)

    @pytest.mark.parametrize("zombie", [0, 1], ids=["the first", "the second"])
    def test_one_that_wakes_late_writes_nothing(self, store, open_follower, zombie):
        """A step that sleeps between read and commit while another instance moves on leaves no transaction behind."""
        write_history(store)
        self.feed(store)
        sleeps = [True]

        def at(point: str) -> None:
            if point == "fold" and sleeps:
                sleeps.clear()
                instances[1 - zombie].step()
                instances[1 - zombie].step()

        instances = [open_follower(**{"at": at} if number == zombie else {}) for number in range(2)]
        assert instances[zombie].step().events == 0
        check(store)
        to_head(instances[zombie])
        check(store)

    def test_an_order_id_that_no_database_keeps_does_not_stop_it(self, store, open_follower):
        """A NUL, or an id too long for any order, is a transaction of an order that there is not."""
        append(store, opened("a"), recorded("a", 2, order_id="o\0"), recorded("a", 3, order_id="x" * 9_000))
        self.feed(store)
        to_head(open_follower())
        assert links(store)["order_id"].to_list() == ["o\ufffd", "x" * 255]

    def test_its_name_is_for_it_alone(self, store, open_follower):
        """No other shadow has its name, and it starts from nothing but zero."""
        with pytest.raises(UsageError, match="reconcile --watch"):
            open_follower(beside=None)
        with pytest.raises(RefusedError, match="zero only"):
            open_follower(start=Start(generation=1))

    def test_dropped_it_is_gone_with_what_is_beside_it(self, store, open_follower):
        """Dropping the shadow drops its transactions."""
        write_history(store)
        self.feed(store)
        shadow = open_follower()
        to_head(shadow)
        with store.writing() as connection:
            shadows.drop(connection, shadow.shadow)
        with store.snapshot() as connection:
            assert order_transactions.linked(connection, shadow.shadow.number).is_empty()
        assert touched(store) == ["o1", "o2", "o3", "o4"]

    def kept(self, store: Store) -> list[str]:
        """Return the ids of all transactions that are kept, whether they name an order or not."""
        with store.snapshot() as connection:
            shadow = follower(connection)
            assert shadow is not None
            keys = pl.DataFrame({"account_id": ["a"] * 3, "transaction_id": ["t0", "t1", "t2"]})
            return order_transactions.known(connection, shadow.number, keys)["transaction_id"].sort().to_list()


class OfTopic(LedgerSideContract):
    """A topic of one partition that gets the store's events in position order: an offset is a position less one."""

    places = (("o1", 0, 1), ("o2", 0, 2))

    @pytest.fixture(autouse=True)
    def topic(self) -> Iterator[MemoryTopic]:
        with in_memory(MemoryTopic()) as self.memory:
            self.sent: set[int] = set()
            yield self.memory

    def feed(self, store: Store) -> None:
        """Send what was not sent yet, whatever its place in the store is."""
        rows = select(EVENTS.c.id, EVENTS.c.originator_id, EVENTS.c.state).order_by(EVENTS.c.id)
        with store.snapshot() as connection:
            for position, account_id, state in connection.execute(rows):
                if position not in self.sent:
                    self.sent.add(position)
                    self.memory.logs[0] += [None] * (position - 1 - len(self.memory.logs[0]))
                    self.memory.logs[0].append((account_id.encode(), bytes(state)))

    @pytest.fixture
    def open_follower(self, store: Store) -> Iterator[Open]:
        with ExitStack() as stack:

            def opened_one(**options: object) -> Following:
                sizes = {"batch_events": 3, "poll_seconds": 0.0, "beside": OrderTransactions()}
                shadow = TopicShadow(store, NOWHERE, "events", name=FOLLOWER, **sizes | options)
                return stack.enter_context(closing(shadow))

            yield opened_one


class TestSqliteLedgerSide(OnSqlite, LedgerSideContract):
    pass


class TestSqliteLedgerSideOfTopic(OnSqlite, OfTopic):
    pass


@pytest.mark.postgres
class TestPostgresLedgerSide(OnPostgres, LedgerSideContract):
    pass


@pytest.mark.postgres
class TestPostgresLedgerSideOfTopic(OnPostgres, OfTopic):
    pass
