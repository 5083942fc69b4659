"""The engine loop: every batch in order into the target, progress after each, and every error where it belongs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import polars as pl
import pytest
from ledgers import append
from samples import account_stream

from ledger import Store
from ledger.ahead import read_ahead as ahead
from replay import Batch, StoreSource
from replay.engine import run
from schemas import PoisonEvent, decode_batch, event_rows


class Listed:
    """A source of given batches."""

    name = "listed"
    identity = "listed"

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def head(self) -> int:
        return self.batches[-1].position

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        yield from (batch for batch in self.batches if after < batch.position <= until)

    def ends(self, until: int) -> None:
        return None

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        return keys


class Kept:
    """A target that keeps what it is given, and raises at one position if asked to."""

    details = ()

    def __init__(self, fails_at: int | None = None) -> None:
        self.batches: list[Batch] = []
        self.fails_at = fails_at

    def apply(self, batch: Batch) -> None:
        if batch.position == self.fails_at:
            raise KeyError(batch.position)
        self.batches.append(batch)


def reading_threads() -> list[threading.Thread]:
    """Threads that read ahead and are still there."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def batch(position: int, poison: tuple[PoisonEvent, ...] = ()) -> Batch:
    """A batch of no events."""
    return Batch(event_rows([]), list(poison), position)


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    """A store of ten events."""
    store = Store.at(tmp_path)
    append(store, *account_stream("a", 6), *account_stream("b", 4))
    yield store
    store.close()


def test_batches_go_in_order_with_progress_after_each():
    """Each batch within the bounds is applied once, and progress counts from where the run began."""
    target, told = Kept(), []
    source = Listed(*(batch(position) for position in (2, 4, 6, 8)))
    run(source, target, after=2, until=6, progress=lambda done, total: told.append((done, total)))
    assert [found.position for found in target.batches] == [4, 6]
    assert told == [(2, 4), (4, 4)]


def test_a_target_that_raises_ends_the_run_there():
    """What a target raises is raised, and no later batch is applied."""
    target = Kept(fails_at=4)
    with pytest.raises(KeyError):
        run(Listed(batch(2), batch(4), batch(6)), target, after=0, until=6)
    assert [found.position for found in target.batches] == [2]


@pytest.mark.parametrize("batch_events", [1, 3, 100])
def test_a_store_is_read_whole_in_any_batch_size(store, batch_events):
    """The store gives the same events, whatever the size of its batches, with read-ahead or without."""
    with StoreSource.snapshot(store, batch_events=batch_events) as source:
        target = Kept()
        run(source, target, after=0, until=source.head())
        plain = Kept()
        run(StoreSource(store, source.connection, batch_events=batch_events), plain, after=0, until=source.head())
    found = pl.concat(found.events for found in target.batches)
    assert found.height == 10
    assert found.equals(pl.concat(found.events for found in plain.batches))
    assert [found.position for found in target.batches] == [found.position for found in plain.batches]


def test_a_target_that_raises_leaves_no_thread_on_the_store(store):
    """When the consumer stops, what read ahead has stopped too, so the connection can be closed and used again."""
    with StoreSource.snapshot(store, batch_events=1) as source:
        with pytest.raises(KeyError):
            run(source, Kept(fails_at=2), after=0, until=source.head())
        assert reading_threads() == []
        again = Kept()
        run(source, again, after=0, until=source.head())
    assert len(again.batches) == 10


class Panic(BaseException):
    """What is no Exception, as a panic of the column library."""


@pytest.mark.parametrize("kind", [ValueError, Panic, pl.exceptions.PanicException], ids=lambda kind: kind.__name__)
def test_reading_ahead_raises_what_its_source_raises(kind):
    """An error of any kind comes out in its place, after the items before it, and the thread is gone."""

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise kind("here")

    found = []

    def take() -> None:
        for item in ahead(items()):
            found.append(item)  # noqa: PERF402 what came before the error is what is looked at.

    with pytest.raises(kind, match="here"):
        take()
    assert found == [1, 2]
    assert reading_threads() == []


def test_reading_ahead_of_reading_ahead_raises_too():
    """An error passes through two stages as through one."""

    def items() -> Iterator[int]:
        yield 1
        raise Panic

    with pytest.raises(Panic):
        list(ahead(item + 1 for item in ahead(items())))
    assert reading_threads() == []


def test_reading_ahead_yields_everything_in_order():
    """Nothing is lost or turned about between the thread and its consumer, however slow either is."""
    assert list(ahead(iter(range(1_000)))) == list(range(1_000))
    assert list(ahead(iter(()))) == []


def test_a_consumer_that_stops_early_stops_the_thread():
    """Closing the reader ends its thread, which makes at most a few items that nobody takes."""
    made = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            yield number

    reader = ahead(items())
    assert next(reader) == 0
    reader.close()
    assert reading_threads() == []
    count = len(made)
    assert count < 10
    time.sleep(0.05)
    assert len(made) == count


def test_poison_is_in_its_batch():
    """What cannot be decoded is handed on beside the events, never dropped."""
    poison = PoisonEvent(position=4, account_id="a", version=2, reason="unreadable")
    target = Kept()
    run(Listed(batch(4, (poison,))), target, after=0, until=4)
    assert target.batches[0].poison == [poison]
    assert decode_batch(pl.DataFrame(schema=target.batches[0].events.schema)).poison == []
