"""A shadow has the rows of a fresh replay, each event once, whatever it follows and wherever its rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from databases import OnPostgres, OnSqlite
from ledgers import append, change_event, put_back, take_event, write_history
from samples import account_stream
from shadows import is_fresh, stored, to_head
from sqlalchemy import select
from topic_groups import MemoryTopic, in_memory

from consumers.shadow import Following, StoreShadow
from consumers.topic_shadow import TopicShadow
from ledger import Ledger, Store, shadows
from ledger.tables import EVENTS
from replay import generations
from replay.topic import Connection
from schemas.errors import RefusedError

#: Opens a shadow by name and options; it is closed at the end of the test.
Open = Callable[..., Following]


class ShadowContract:
    """Subclasses give `open_shadow`, and `feed`, which brings the store's events to where the shadow reads them."""

    batch_events = 3

    def feed(self, store: Store) -> None:
        """Bring what was appended to what is followed."""

    @pytest.fixture
    def open_shadow(self, store: Store) -> Iterator[Open]:
        with ExitStack() as stack:

            def opened(name: str = "shadow", **options: object) -> Following:
                sizes = {"batch_events": self.batch_events, "catch_up_events": self.batch_events}
                return stack.enter_context(closing(StoreShadow(store, name, **sizes | options)))

            yield opened

    def test_its_rows_are_those_of_a_fresh_replay_at_every_step(self, store, open_shadow):
        """After each batch rows, position and parked accounts are what a replay up to there gives."""
        write_history(store)
        self.feed(store)
        shadow = open_shadow()
        events, steps = 0, 0
        while (step := shadow.step()).events:
            events, steps = events + step.events, steps + 1
            assert is_fresh(store)
        assert (events, steps) == (33, 11)
        assert (step.position, step.lag_events) == (step.head, 0)

    def test_it_follows_what_is_appended(self, store, open_shadow):
        """A shadow at the head has nothing to do, and takes what comes after."""
        ledger = Ledger(store)
        ledger.open("a")
        self.feed(store)
        shadow = open_shadow()
        to_head(shadow)
        assert shadow.step().events == 0
        ledger.credit("a", "t1", 5)
        self.feed(store)
        step = shadow.step()
        assert (step.events, step.lag_events) == (1, 0)
        assert step.recorded_at is not None
        assert is_fresh(store)
        assert stored(store).rows["balance"].to_list() == [5]

    def test_it_is_no_generation(self, store, open_shadow):
        """Its rows are under a number below zero, which is nobody's to promote."""
        write_history(store)
        self.feed(store)
        shadow, other = open_shadow(), open_shadow("other")
        to_head(shadow)
        assert (shadow.shadow.number, other.shadow.number) == (-1, -2)
        assert generations(store) == []
        assert stored(store, "other").rows.is_empty()

    def test_one_that_exists_goes_on_where_it_is(self, store, open_shadow):
        """Opened again, it applies what is left and nothing twice."""
        write_history(store)
        self.feed(store)
        first = open_shadow()
        done = first.step().events + first.step().events
        first.close()
        _, events = to_head(open_shadow())
        assert (done, events) == (6, 27)
        assert is_fresh(store)

    def test_restarted_it_is_made_anew(self, store, open_shadow):
        """With restart the old rows are gone, and the number is another one, so that nobody takes it for the old."""
        write_history(store)
        self.feed(store)
        first = open_shadow()
        to_head(first)
        again = open_shadow(restart=True)
        assert again.shadow.number == -2
        assert stored(store).rows.is_empty()
        # The one that still followed the old shadow goes on with the new one.
        assert first.step().events == 0
        _, events = to_head(first)
        assert events == 33
        assert to_head(again)[1] == 0
        assert is_fresh(store)

    def test_of_two_instances_each_event_is_applied_by_one(self, store, open_shadow):
        """Two that step in turn come to the same rows, and apply every event once between them."""
        write_history(store)
        self.feed(store)
        both = [open_shadow(), open_shadow()]
        events = 0
        for turn in range(100):
            events += both[turn % 2].step().events
            assert is_fresh(store)
        assert events == 33

    @pytest.mark.parametrize("ahead", [1, 2, 50], ids=["one batch", "two batches", "to the head"])
    @pytest.mark.parametrize("zombie", [0, 1], ids=["the first", "the second"])
    def test_one_that_wakes_late_writes_nothing(self, store, open_shadow, zombie, ahead):
        """A step that sleeps between read and commit while another instance moves on is void; the next one is not."""
        write_history(store)
        self.feed(store)
        sleeps, applied = [True], [0]

        def at(point: str) -> None:
            if point == "fold" and sleeps:
                sleeps.clear()
                applied[0] += sum(instances[1 - zombie].step().events for _ in range(ahead))

        instances = [open_shadow(**{"at": at} if number == zombie else {}) for number in range(2)]
        woken = instances[zombie].step()
        assert woken.events == 0
        positions = stored(store).positions
        assert woken.position in (positions, positions[0])
        assert is_fresh(store)
        _, rest = to_head(instances[zombie])
        assert applied[0] + rest == 33
        assert is_fresh(store)

    def test_one_whose_shadow_was_dropped_says_so(self, store, open_shadow):
        """Nothing is written for a shadow that is there no more, and nobody waits for it."""
        write_history(store)
        self.feed(store)
        shadow = open_shadow()
        shadow.step()
        with store.writing() as connection:
            shadows.drop(connection, shadow.shadow)
        with pytest.raises(RefusedError, match="was dropped"):
            shadow.step()

    def test_poison_parks_its_account_and_the_rest_goes_on(self, store, open_shadow):
        """An event that cannot be read stops its account for the reason that a replay gives, and no other one."""
        write_history(store)
        change_event(store, "acc-2", 4, state=b"{}")
        self.feed(store)
        to_head(open_shadow())
        assert is_fresh(store)
        found = stored(store)
        assert found.parked == {"acc-2": (4, "poison_event")}
        assert found.rows["account_id"].to_list() == ["acc-1", "acc-3", "acc-4"]

    def test_what_waits_behind_a_gap_is_applied_once_it_is_filled(self, store, open_shadow):
        """A missing event parks its account until it comes, in whatever batch that is."""
        append(store, *account_stream("a", 5), *account_stream("b", 5))
        taken = take_event(store, "a", 3)
        self.feed(store)
        shadow = open_shadow()
        to_head(shadow)
        assert stored(store).parked == {"a": (3, "version_gap")}
        assert is_fresh(store)
        put_back(store, taken)
        self.feed(store)
        assert to_head(shadow)[1] == 1
        assert stored(store).parked == {}
        assert stored(store).rows["version"].to_list() == [5, 5]
        assert is_fresh(store)


class OfTopic(ShadowContract):
    """A topic of one partition that gets the store's events in position order: an offset is a position less one."""

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
                    # An offset without a record stands for a position without an event.
                    self.memory.logs[0] += [None] * (position - 1 - len(self.memory.logs[0]))
                    self.memory.logs[0].append((account_id.encode(), bytes(state)))

    @pytest.fixture
    def open_shadow(self, store: Store) -> Iterator[Open]:
        with ExitStack() as stack:

            def opened(name: str = "shadow", **options: object) -> Following:
                sizes = {"batch_events": self.batch_events, "poll_seconds": 0.0}
                connection = Connection(bootstrap_servers="nowhere:1")
                shadow = TopicShadow(store, connection, "events", name=name, **sizes | options)
                return stack.enter_context(closing(shadow))

            yield opened


class TestSqliteShadow(OnSqlite, ShadowContract):
    pass


class TestSqliteShadowOfTopic(OnSqlite, OfTopic):
    pass


@pytest.mark.postgres
class TestPostgresShadow(OnPostgres, ShadowContract):
    pass


@pytest.mark.postgres
class TestPostgresShadowOfTopic(OnPostgres, OfTopic):
    pass
