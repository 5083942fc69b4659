"""Worker processes give the same events as reading here, and what they fail at is read here."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import replay.store_source
import replay.workers
from ledger import Ledger, Store
from replay import StoreSource, balances
from replay.source import Batch
from schemas.columns import DETAIL_COLUMNS

EVENTS = 61


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A ledger with some accounts whose events are not in account order."""
    store = Store.at(tmp_path / "ledger")
    ledger = Ledger(store)
    for account_id in ("b", "ä\n", "a"):
        ledger.open(account_id)
    for number in range(EVENTS - 3):
        ledger.credit(["a", "ä\n", "b"][number % 3], f"t-{number}", number + 1, metadata={"n": [number, "\n"]})
    return store


@pytest.fixture
def with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of seven positions, read by workers."""
    monkeypatch.setattr(replay.store_source, "WORKERS_EVENTS_MIN", 1)
    monkeypatch.setattr(replay.store_source, "RANGE_EVENTS", 7)


def read(store: Store, *, until: int = EVENTS) -> list[Batch]:
    """Every batch, with every column."""
    with StoreSource.snapshot(store) as source:
        return list(source.read(after=0, until=until, details=DETAIL_COLUMNS))


def whole(batches: list[Batch]) -> pl.DataFrame:
    """The events of all batches in the order given."""
    return pl.concat([batch.events for batch in batches])


def test_workers_give_the_same_events_in_the_same_order(
    store: Store, with_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that workers read are those that this process reads, in ranges up to the end asked for."""
    received = []
    monkeypatch.setattr(
        replay.workers, "_received", lambda asked, take=replay.workers._received: _noted(asked, take, received)
    )
    batches = read(store, until=EVENTS - 2)
    monkeypatch.setattr(replay.store_source, "WORKERS_EVENTS_MIN", 10**9)
    here = whole(read(store, until=EVENTS - 2))
    assert_frame_equal(whole(batches).drop("state"), here.drop("state"))
    # Bytes travel only where the worker has not checked them against the chain.
    sent = whole(batches)["state"]
    assert sent.drop_nulls().to_list() == here["state"].filter(sent.is_not_null()).to_list()
    assert 0 < sent.null_count() < sent.len()
    assert [batch.position for batch in batches][-1] == EVENTS - 2
    assert received
    assert all(decoded is not None for decoded in received)


def test_poison_that_a_worker_finds_has_its_place(store: Store, with_workers: None) -> None:
    """An event that a worker cannot read comes back as poison with its position."""
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE stored_events SET state = x'00ff' WHERE id = 20")
    poison = [found for batch in read(store) for found in batch.poison]
    assert [found.position for found in poison] == [20]


@pytest.mark.parametrize("position", range(8, EVENTS + 1, 6))
def test_a_changed_digit_is_found_wherever_it_is(store: Store, with_workers: None, position: int) -> None:
    """Bytes that are not those of the chain are found, by the check of the worker or by that of the gate."""
    with store.writing() as connection:
        row = connection.exec_driver_sql("SELECT originator_version FROM stored_events WHERE id = ?", (position,))
        version = row.scalar_one()
        connection.exec_driver_sql(
            "UPDATE stored_events SET state = CAST(replace(state, '\"amount\":', '\"amount\":1') AS BLOB) WHERE id = ?",
            (position,),
        )
    (parked,) = balances(store).certificate.parked
    assert (parked.reason, parked.version, parked.position) == ("poison_event", version, position)


def test_a_range_that_a_worker_cannot_read_is_read_here(store: Store, with_workers: None) -> None:
    """A value of a type that columns cannot hold ends in a parked account, as without workers."""
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE stored_events SET originator_id = CAST(x'ff41' AS TEXT) WHERE id = 30")
    answer = balances(store)
    assert [parked.version for parked in answer.certificate.parked if parked.account_id in ("a", "b", "ä\n")]
    assert answer.rows.height == 2


def test_workers_that_die_cost_no_event(store: Store, with_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any worker that answers, every range is read here."""
    monkeypatch.setattr(replay.workers.sys, "executable", "/bin/false")
    assert whole(read(store)).height == EVENTS


def test_a_consumer_that_stops_leaves_no_worker(
    store: Store, with_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the consumer goes away in the middle, the workers end and their files are removed."""
    started = []
    start = replay.workers._start
    monkeypatch.setattr(replay.workers, "_start", lambda *args: started.append(start(*args)) or started[-1])
    with StoreSource.snapshot(store) as source:
        batches = source.read(after=0, until=EVENTS, details=())
        next(batches)
        next(batches)
        batches.close()
    assert len(started) >= 2
    assert all(worker.poll() is not None for worker in started)


def _noted(asked: object, take: object, received: list[object]) -> object:
    answer = take(asked)
    received.append(answer[1])
    return answer
