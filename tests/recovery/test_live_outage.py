"""A watch beside a live database that dies and comes back: it waits, goes on where it was, and ends for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledgers import append
from live_tables import Live
from samples import opened
from shadows import to_head
from sqlalchemy import create_engine, text

from consumers.health import Health
from consumers.metrics import Metrics
from consumers.reactions import Reactions
from consumers.shadow import StoreShadow
from consumers.watching import Limits, Watched, Watching
from ledger import Store
from replay.comparison.chunk import Chunk
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ShadowRows
from replay.comparison.rounds import Rounds
from schemas.errors import StoreError
from tests.mariadb_server import MariadbUnavailableError, Server, resolve_programs, serving

pytestmark = pytest.mark.mariadb

#: More rows than the driver and the server have under way, so that a round is in the middle of its answer.
ACCOUNTS = 60_000
ROUNDS = 5
QUICK = Limits(
    poll_seconds=0.01, rounds_apart_seconds=0.0, unsaid_seconds_max=0.0, pause_seconds=0.1, pause_seconds_max=0.5
)


class Outages:
    """A live database that dies when a comparison has done some chunks, and is started again once that was said.

    It is the log of the watch as well, and the row of an account is changed while nobody can compare it.
    """

    def __init__(self, server: Server, live: Live, pair: ForeignPair) -> None:
        self.events: list[str] = []
        self.deaths = 0
        self._server = server
        self._live = live
        self._chunk, self._said = pair.chunk, 0
        pair.chunk = self.chunk  # type: ignore[method-assign]

    def chunk(self, rows: int) -> Chunk:
        """Compare a chunk; the server dies before the third one, and at the end of a later round."""
        if self.deaths == 0 and self.events.count("chunk") == 2:
            self._die()
        found = self._chunk(rows)
        self.events.append("chunk")
        if self.deaths == 1 and found.until is None and self.events.count("round finished") == 2:
            self._die()
        return found

    def info(self, event: str, **values: object) -> None:
        """Take in what the watch says, and start the server once it has said twice that nobody answers."""
        del values
        self.events.append(event)
        if event == "does not answer":
            self._said += 1
            if self._said == 2:
                self._server.start()
                self._live.change("a000003", balance=7)

    warning = error = info

    def _die(self) -> None:
        self._server.kill()
        self.deaths += 1
        self._said = 0


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test's own, which it may kill."""
    try:
        programs = resolve_programs()
    except MariadbUnavailableError as unavailable:
        pytest.skip(str(unavailable))
    with serving(programs) as server:
        engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE live CHARACTER SET utf8mb4"))
        engine.dispose()
        yield server


def test_a_live_database_that_dies_is_waited_for(server: Server, tmp_path: Path) -> None:
    """Killed in the middle of a round and between two, and started again: the watch finds what drifted meanwhile."""
    names = [f"a{number:06}" for number in range(ACCOUNTS)]
    url = server.url.set(database="live").render_as_string(hide_password=False)
    with closing(Store.at(tmp_path)) as store, closing(Live(url)) as live:
        append(store, *(opened(name) for name in names))
        live.put([(name, 0, 0, "active", None) for name in names])
        watched, said = watch(server, store, live)
    assert (said.deaths, watched.rounds, watched.compared) == (2, ROUNDS, ACCOUNTS)
    assert said.events.count("does not answer") >= 4
    assert said.events.count("goes on") == 2
    assert said.events.count("drift found") == 1


def test_what_is_dead_can_be_let_go_of(server: Server, tmp_path: Path) -> None:
    """A round that is left in the middle lets go of both sides while nobody answers, and goes on once somebody does."""
    names = [f"a{number:06}" for number in range(ACCOUNTS)]
    url = server.url.set(database="live").render_as_string(hide_password=False)
    with closing(Store.at(tmp_path)) as store, closing(Live(url)) as live, closing(StoreShadow(store)) as shadow:
        append(store, *(opened(name) for name in names))
        live.put([(name, 0, 0, "active", None) for name in names])
        to_head(shadow)
        pair = ForeignPair(ForeignTable(LiveTable(url=url, table="accounts")), ShadowRows(store))
        pair.begin(None)
        first = pair.chunk(1_000)
        server.kill()
        pair.close()
        with pytest.raises(StoreError, match="the database says"):
            pair.chunk(1_000)
        server.start()
        rest = pair.chunk(ACCOUNTS)
        pair.close()
    assert first.compared + rest.compared == ACCOUNTS


def watch(server: Server, store: Store, live: Live) -> tuple[Watched, Outages]:
    """Run the loop of the service for some rounds."""
    table = LiveTable(url=live.url, table="accounts", settle_seconds=0.1)
    metrics = Metrics()
    with closing(StoreShadow(store)) as shadow, closing(ForeignPair(ForeignTable(table), ShadowRows(store))) as pair:
        said = Outages(server, live, pair)
        rounds = Rounds(store, pair, load_max=1.0)
        watching = Watching(
            shadow,
            rounds,
            Reactions(store, pair.name, metrics=metrics, log=said, now=lambda: datetime.now(UTC)),
            metrics=metrics,
            health=Health(healthy_seconds=60),
            log=said,
            rounds_max=ROUNDS,
            limits=QUICK,
        )
        watched = watching.run(lambda: False)
        rounds.release()
    return watched, said
