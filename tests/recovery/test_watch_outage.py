"""A watch on a database whose connections break: it waits, says so, goes on, and neither loses nor invents anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from ledgers import append
from samples import account_stream
from sqlalchemy import Engine, create_engine, text

from consumers import project
from consumers.health import Health
from consumers.metrics import Metrics
from consumers.reactions import Reactions
from consumers.shadow import StoreShadow
from consumers.watching import Limits, Watched, Watching
from ledger import Store, incidents
from replay.comparison.own import OwnPair
from replay.comparison.rounds import Rounds

pytestmark = pytest.mark.postgres

QUICK = Limits(
    poll_seconds=0.001, rounds_apart_seconds=0.0, unsaid_seconds_max=0.0, pause_seconds=0.01, pause_seconds_max=0.02
)
BREAK = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
WRONG = "UPDATE ledger_accounts SET balance = balance + 1 WHERE account_id = 'a3' AND generation > 0"


class Lines:
    """A log that keeps what was said."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **values: object) -> None:
        del values
        self.events.append(event)

    warning = error = info


@pytest.fixture
def other(postgres_url: str) -> Iterator[Engine]:
    """Another client of the database, which breaks the connections of the rest."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("seed", range(3))
def test_broken_connections_are_waited_for(postgres_url: str, other: Engine, seed: int) -> None:
    """Connections that break at random moments end nothing; drift that came meanwhile is found, once."""
    random_ = random.Random(seed)
    store = Store(postgres_url)
    append(store, *(event for number in range(6) for event in account_stream(f"a{number}", 5)))
    project(store)
    log, metrics, breaks = Lines(), Metrics(), 0

    def should_stop() -> bool:
        nonlocal breaks
        # Once more after the last break, so that the loop and not the test finds out.
        position = metrics.registry.get_sample_value("ledger_replay_shadow_position", {"partition": "0"})
        is_over = breaks == 10 and position == 30 and log.events[-1] == "round finished" and "drift found" in log.events
        if breaks < 10 and random_.random() < 0.3:
            breaks += 1
            with other.connect() as connection:
                connection.execute(text(BREAK))
                if breaks == 5:
                    connection.execute(text(WRONG))
        return is_over

    watched = _watch(store, log, metrics, should_stop)
    with store.snapshot() as connection:
        found = incidents.listed(connection)
    store.close()
    assert (watched.events, watched.position) == (30, 30), seed
    assert "does not answer" in log.events, seed
    assert "goes on" in log.events, seed
    assert log.events.count("drift found") == 1, seed
    assert [each.drifted for each in found] == [1], seed


def _watch(store: Store, log: Lines, metrics: Metrics, should_stop: Callable[[], bool]) -> Watched:
    pair = OwnPair(store)
    following = StoreShadow(store, batch_events=7)
    rounds = Rounds(store, pair, load_max=1.0)
    reactions = Reactions(store, pair.name, metrics=metrics, log=log, now=lambda: datetime.now(UTC))
    health = Health(healthy_seconds=60)
    try:
        return Watching(following, rounds, reactions, metrics=metrics, health=health, log=log, limits=QUICK).run(
            should_stop
        )
    finally:
        following.close()
