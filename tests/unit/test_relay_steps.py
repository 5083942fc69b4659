"""What becomes of accounts that wait, step by step; on a real broker the relay is tested under `integration`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from ledgers import append, change_event, lose_event, lose_head, put_back, take_event
from relays import Log
from samples import account_stream, opened, recorded, store_rows
from sqlalchemy import insert

from consumers.relay import Published, Relay
from ledger import Store, topics
from ledger.tables import EVENTS
from schemas import encode
from schemas.errors import PositionMoved

NAME = "topic"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store that knows the topic."""
    store = Store.at(tmp_path)
    with store.writing() as connection:
        topics.vouch(connection, NAME, "id", 1, {})
    yield store
    store.close()


@pytest.fixture
def log() -> Log:
    """An empty topic."""
    return Log()


def published(store: Store, log: Log, batch_events: int = 4) -> Published:
    """Run a relay to the head."""
    relay = Relay.at(store, NAME, log, batch_events)
    relay.run()
    return relay.published("id")


def parked(found: Published) -> dict[str, tuple[int, str]]:
    """Return version and reason of the accounts that wait."""
    return {each.account_id: (each.version, each.reason) for each in found.parked}


def go_on(store: Store, account_id: str, *versions: int) -> None:
    """Append further events of an account."""
    events = [opened(account_id), *(recorded(account_id, version) for version in range(2, max(versions) + 1))]
    with store.appending() as connection:
        store.append_rows(connection, store_rows(events).filter(pl.col("version").is_in(versions)))


def test_a_first_event_put_back_is_sent_before_its_followers(store, log):
    """Where a whole account is in one batch with its first event at the end, it is sent by version."""
    append(store, *account_stream("a", 3))
    put_back(store, take_event(store, "a", 1))
    assert published(store, log).verdict == "COMPLETE"
    assert [state for _, state in log.records] == [encode(event) for event in account_stream("a", 3)]


def test_what_another_relay_let_go_meanwhile_is_not_lost(store, log):
    """A relay that held an account back while another one let it go at the same position is told."""
    append(store, *account_stream("a", 3), *account_stream("b", 1))
    change_event(store, "a", 2, state=b"{}")
    assert parked(published(store, log)) == {"a": (2, "poison_event")}
    go_on(store, "a", 4)
    append(store, *account_stream("c", 1))

    def repair_and_let_go() -> None:
        change_event(store, "a", 2, state=encode(recorded("a", 2)))
        Relay.at(store, NAME, log, 4).retry_parked()

    log.meanwhile = repair_and_let_go
    with pytest.raises(PositionMoved, match="which accounts wait"):
        published(store, log)
    assert published(store, log).verdict == "COMPLETE"
    assert [state for name, state in log.records if name == "a"] == [encode(event) for event in account_stream("a", 4)]


def test_a_long_account_that_waited_follows_page_by_page(store, log):
    """An account with more events than a batch is sent in several, and where it stops again it waits from there."""
    append(store, *account_stream("a", 30))
    change_event(store, "a", 2, state=b"{}")
    change_event(store, "a", 20, state=b"{}")
    assert parked(published(store, log)) == {"a": (2, "poison_event")}
    change_event(store, "a", 2, state=encode(recorded("a", 2)))
    assert parked(published(store, log)) == {"a": (20, "poison_event")}
    change_event(store, "a", 20, state=encode(recorded("a", 20)))
    assert published(store, log).verdict == "COMPLETE"
    assert [state for _, state in log.records] == [encode(event) for event in account_stream("a", 30)]


def test_an_event_that_no_append_made_is_not_published(store, log):
    """An event that the account's head does not know waits, and is forgotten once it is taken out again."""
    append(store, *account_stream("a", 2), *account_stream("b", 2))
    rows = store_rows(account_stream("a", 3)).filter(version=3).to_dicts()
    rows[0] |= {"originator_id": rows[0].pop("account_id"), "originator_version": rows[0].pop("version")}
    with store.writing() as connection:
        connection.execute(insert(EVENTS), rows)
    lose_head(store, "b")
    assert parked(published(store, log)) == {"a": (3, "poison_event"), "b": (1, "poison_event")}
    assert [name for name, _ in log.records] == ["a", "a"]
    lose_event(store, "a", 3)
    lose_event(store, "b")
    append(store, *account_stream("c", 2))
    assert parked(published(store, log)) == {}


def test_an_event_behind_one_that_was_published_and_lost_waits(store, log):
    """What a lost event proves no more is not published, and is once it is back."""
    append(store, *account_stream("a", 3), *account_stream("b", 1))
    assert published(store, log).verdict == "COMPLETE"
    row = take_event(store, "a", 3)
    go_on(store, "a", 4)
    assert parked(published(store, log)) == {"a": (3, "version_gap")}
    put_back(store, row)
    assert published(store, log).verdict == "COMPLETE"
    assert {state for name, state in log.records if name == "a"} == {encode(event) for event in account_stream("a", 4)}


def test_an_account_that_waited_and_followed_goes_on_in_the_same_run(store, log):
    """A follower that let an account go publishes what comes after it once, and nothing again."""
    append(store, *account_stream("a", 3), *account_stream("b", 1))
    change_event(store, "a", 2, state=b"{}")
    relay = Relay.at(store, NAME, log, 4)
    relay.run()
    assert parked(relay.published("id")) == {"a": (2, "poison_event")}
    change_event(store, "a", 2, state=encode(recorded("a", 2)))
    relay.run()
    go_on(store, "a", 4, 5)
    relay.run()
    assert relay.published("id").verdict == "COMPLETE"
    assert [state for name, state in log.records if name == "a"] == [encode(event) for event in account_stream("a", 5)]
