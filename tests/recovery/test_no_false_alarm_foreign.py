"""A real live system beside the log: never an alarm while it is right, however late it is, and one when it is wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import polars as pl
import pytest
from live_tables import Live
from samples import opened, recorded
from shadows import to_head
from sizes import FULL
from sqlalchemy import text

from consumers.shadow import StoreShadow
from ledger import GENESIS, Store, chain
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ShadowRows
from replay.differences import Drifted
from schemas import encode

EVENTS = 1_000_000 if FULL else 8_000
ACCOUNTS = 20_000 if FULL else 200
EVENTS_PER_APPEND = 2_000 if FULL else 60
ROOT = Path(__file__).parents[2]
#: Far more than it takes: whoever waits longer waits for ever.
SECONDS_MAX = 7_200 if FULL else 240
AMOUNTS = (1, 5, 10, 10, 10)


class Writer:
    """The process that keeps the live table."""

    def __init__(self, folder: Path, url: str, random: Random) -> None:
        self._command = [sys.executable, str(ROOT / "tests/recovery/live_writer.py"), str(folder), url]
        self._random = random
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it where it stopped."""
        command = [*self._command, str(self._random.randrange(1_000_000))]
        self._process = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""})

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        if self._process is not None:
            assert self._process.poll() is None, "the writer ended by itself"
            self._process.kill()
            self._process.wait()
            self._process = None


class Log:
    """What appends random events; a tenth of the accounts have most of them."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random
        self._heads: dict[str, tuple[int, bytes]] = {}

    def append(self, events: int, among: int = ACCOUNTS) -> None:
        """Append events of some of the accounts."""
        rows = []
        for _ in range(events):
            hot = self._random.random() < 0.7
            account_id = f"a{self._random.randrange(max(1, among // 10) if hot else among):06}"
            version, link = self._heads.get(account_id, (0, GENESIS))
            fields = self._random.choice(({"type": "credit"}, {"type": "debit"}, {"to_status": "frozen"}))
            amount = self._random.choice(AMOUNTS)
            event = recorded(account_id, version + 1, amount, **fields) if version else opened(account_id)
            state = encode(event)
            self._heads[account_id] = version + 1, chain(link, state)
            rows.append((account_id, version + 1, str(type(event).__struct_config__.tag), state, chain(link, state)))
        schema = {
            "account_id": pl.String,
            "version": pl.Int64,
            "topic": pl.String,
            "state": pl.Binary,
            "chain": pl.Binary,
        }
        with self._store.appending() as connection:
            self._store.append_rows(connection, pl.DataFrame(rows, schema=schema, orient="row"))


@contextmanager
def comparing(store: Store, live: Live) -> Iterator[tuple[StoreShadow, ForeignPair]]:
    """Yield a shadow and the pair of it and the live table, which settles fast."""
    options = {"settle_seconds": 0.3, "unsettled_seconds": 3_600.0}
    foreign = ForeignTable(LiveTable(url=live.url, table="accounts", **options))
    with closing(StoreShadow(store)) as shadow, closing(ForeignPair(foreign, ShadowRows(store))) as pair:
        yield shadow, pair


def compare(shadow: StoreShadow, pair: ForeignPair, random: Random) -> tuple[list[Drifted], bool]:
    """Do some steps of everything: what differs for certain, and whether a whole round found nothing to suspect."""
    for _ in range(random.randrange(4)):
        shadow.step()
    chunk = pair.chunk(random.choice((10, 1_000, 100_000)))
    found = pair.settle()
    assert chunk.uncompared == []
    assert found.uncompared == []
    return [*chunk.drifted, *found.drifted], chunk.until is None and not pair.settling.suspects


def never_alarms(store: Store, live: Live, folder: Path, seed: int) -> None:
    """Compare all the while that events come and the live system keeps up, pauses, dies and comes back."""
    random = Random(seed)
    with live.engine.begin() as connection:
        connection.execute(text("CREATE TABLE writer (position BIGINT)"))
        connection.execute(text("INSERT INTO writer VALUES (0)"))
    log, writer = Log(store, random), Writer(folder, live.url, random)
    deadline = time.monotonic() + SECONDS_MAX
    writer.start()
    try:
        with comparing(store, live) as (shadow, pair):
            appended, is_calm = 0, False
            while appended < EVENTS or not is_calm:
                assert time.monotonic() < deadline, f"seed {seed}: {pair.settling.unsettled(now=1e9)}"
                if appended < EVENTS:
                    log.append(EVENTS_PER_APPEND)
                    appended += EVENTS_PER_APPEND
                if random.random() < 0.03:
                    writer.kill()
                    writer.start()
                drifted, is_calm = compare(shadow, pair, random)
                assert drifted == [], f"seed {seed}"
            writer.kill()
            to_head(shadow)
            found_when_wrong(live, log, writer, shadow, pair=pair, random=random, deadline=deadline)
    finally:
        writer.kill()


def found_when_wrong(
    live: Live,
    log: Log,
    writer: Writer,
    shadow: StoreShadow,
    *,
    pair: ForeignPair,
    random: Random,
    deadline: float,
) -> None:
    """Damage some rows and go on with others: these are found, each with its class, and nothing else."""
    quiet = [f"a{number:06}" for number in range(ACCOUNTS - 4, ACCOUNTS)]
    live.change(quiet[0], balance=live.table.c.balance + 1_000_003)
    live.remove(quiet[1])
    live.change(quiet[2], frozen_amount=live.table.c.frozen_amount - 1_000_003)
    live.put([("stranger", 5, 0, "active", None)])
    expected = {
        quiet[0]: "foreign_write",
        quiet[1]: "row_missing",
        quiet[2]: "foreign_write",
        "stranger": "row_extra",
    }
    found: dict[str, str] = {}
    writer.start()
    while found != expected:
        assert time.monotonic() < deadline, found
        log.append(20, among=ACCOUNTS - 4)
        drifted, _ = compare(shadow, pair, random)
        found |= {entry.account_id: entry.cause for entry in drifted}
        assert found.items() <= expected.items()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of our own."""
    with closing(Store.at(tmp_path / "own")) as store:
        yield store


def test_a_live_system_in_sqlite(store: Store, tmp_path: Path) -> None:
    """Beside a live system that writes to SQLite nothing is reported, until something is wrong."""
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        with live.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        never_alarms(store, live, tmp_path / "own", seed=11)


@pytest.mark.mariadb
def test_a_live_system_in_mariadb(store: Store, tmp_path: Path, mariadb_url: str) -> None:
    """Beside a live system that writes to MariaDB nothing is reported, until something is wrong."""
    with closing(Live(mariadb_url)) as live:
        never_alarms(store, live, tmp_path / "own", seed=12)


@pytest.mark.postgres
def test_a_live_system_in_postgresql(store: Store, tmp_path: Path, postgres_url: str) -> None:
    """Beside a live system that writes to PostgreSQL nothing is reported, until something is wrong."""
    with closing(Live(postgres_url)) as live:
        never_alarms(store, live, tmp_path / "own", seed=13)
