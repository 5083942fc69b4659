"""What is measured on an archive, and the peers on the same rows: DuckDB, PostgreSQL, and a plain loop in Python.

`python -m benchmarks.archives FOLDER EVENTS ACCOUNTS` makes one.

The events are made in columns, straight into an archive: accounts of skewed sizes, holds that are settled, reversals
that name what they reverse. A folder holds `archive/`, sorted by account, as `archive --compact` leaves it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

__all__ = ["TASKS", "made"]

Measured = dict[str, Any]

PART_EVENTS = 1_000_000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
#: How skewed accounts are: the exponent of a power law. The busiest thousandth has a sixteenth of the events.
SKEW = 2.5
#: Of so many events of an account the first is held, and the second settles it.
HOLD_EVERY = 10
POINT_QUERIES = 300

_WORTH = "CASE WHEN type = 'credit' THEN amount WHEN type = 'debit' THEN -amount ELSE 0 END"
#: The balance alone: nothing that was completed changes again, so one status is enough.
_BALANCE = f"sum(CASE WHEN to_status = 'completed' THEN {_WORTH} ELSE 0 END)"


def made(folder: Path, events: int, accounts: int) -> Path:
    """Make an archive of so many events and sort it; return the folder."""
    from replay.archive.compaction import compact
    from replay.archive.state import State
    from replay.archive.vacuuming import cleaned

    shutil.rmtree(folder, ignore_errors=True)
    archive = _archive(folder)
    base, position = None, 0
    for rows in _parts(events, accounts):
        position += rows.height
        state = State(
            commits=0,
            source="store",
            source_id="bench",
            ledger_id="bench",
            position=position,
            reread=position,
            events=0,
            accounts=accounts,
            watermark=NOW,
        )
        base = archive.commit(base, state, added=[archive.files.put(rows)])
    compact(archive)
    cleaned(archive, keep_versions=[], retention_hours=0)
    return folder


def _parts(events: int, accounts: int) -> Iterator[pl.DataFrame]:
    random = np.random.default_rng(1)
    numbers = np.minimum((accounts * random.random(events) ** SKEW).astype(np.int64), accounts - 1)
    numbers[:accounts] = np.arange(accounts)
    reached = np.zeros(accounts, np.int64)
    for start in range(0, events, PART_EVENTS):
        part = numbers[start : start + PART_EVENTS]
        yield _rows(part, reached[part], start)
        reached += np.bincount(part, minlength=accounts)


def _rows(numbers: np.ndarray[Any, Any], reached: np.ndarray[Any, Any], start: int) -> pl.DataFrame:
    """Return events of some accounts, by number, that have `reached` a version before; positions follow `start`."""
    from replay.archive.schema import ARCHIVE_SCHEMA

    version = pl.col("version")
    place = (version - 2) % HOLD_EVERY
    is_opening, settles, holds = version == 1, place == 1, place == 0
    of_transaction = pl.when(~is_opening)
    # What settles a hold is about the event before it.
    number = version - settles.cast(pl.Int64)
    account_id = pl.format("acct-{}", pl.col("number").cast(pl.String).str.zfill(8))
    moment = pl.lit(BEGIN).cast(pl.Datetime("us", "UTC"))
    base = pl.DataFrame({"number": numbers, "reached": reached}).with_columns(
        version=pl.col("reached") + pl.int_range(1, pl.len() + 1).over("number"),
        position=pl.int_range(start + 1, start + 1 + pl.len()),
        account_id=account_id,
    )
    held = pl.when(number % 2 == 0).then(pl.lit("frozen")).otherwise(pl.lit("pending"))
    transaction_id = pl.format("tx-{}-{}", "number", number)
    columns = {
        "event": pl.when(is_opening)
        .then(pl.lit("account.opened"))
        .when(settles)
        .then(pl.lit("transaction.status_changed"))
        .otherwise(pl.lit("transaction.recorded")),
        "effective_at": moment + pl.duration(microseconds=pl.col("position") * 997_001 % (300 * 86_400 * 10**6)),
        "recorded_at": moment + pl.duration(microseconds=pl.col("position") * 600_000),
        "transaction_id": of_transaction.then(transaction_id),
        "type": of_transaction.then(pl.when(place == 5).then(pl.lit("debit")).otherwise(pl.lit("credit"))),
        "amount": of_transaction.then(number * 7_919 % 997 + 1),
        "from_status": of_transaction.then(pl.when(settles).then(held)),
        "to_status": of_transaction.then(pl.when(holds).then(held).otherwise(pl.lit("completed"))),
        "event_id": pl.format("{}:{}", account_id, version),
        "related_transaction_id": pl.when(~is_opening & (place == 5)).then(
            pl.format("tx-{}-{}", "number", version - 1)
        ),
        "business_code": of_transaction.then(pl.lit("order.payment")),
        "order_id": of_transaction.then(pl.format("o-{}-{}", "number", number)),
    }
    whole = base.with_columns(**columns).with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in ARCHIVE_SCHEMA.items()
        if name not in {*base.columns, *columns}
    )
    return whole.select(ARCHIVE_SCHEMA.names()).cast(dict(ARCHIVE_SCHEMA)).sort("account_id", "version")


def _archive(folder: Path) -> Any:
    from replay.archive.files import Location
    from replay.archive.table import Archive

    return Archive(Location(str(folder / "archive")))


def _files(folder: Path) -> list[str]:
    return [str(path) for path in sorted((folder / "archive").glob("*.parquet"))]


def balances(folder: Path) -> Measured:
    """Scan and fold to the final state in memory; hashes before it and the digest after it are timed apart."""
    from projections import ACCOUNT_STATUS, BALANCES, account_rows
    from replay.archive.reading import scan
    from replay.digest import digest
    from replay.full_replay import CORE
    from replay.states import States

    archive = _archive(folder)
    snapshot = archive.snapshot()
    start = perf_counter()
    assert archive.files.check(snapshot.files) == {}
    checked = perf_counter()
    states = States(CORE)
    coded = scan(archive, snapshot.files, is_coded=True)
    states.fold(coded, coded=coded)
    state, status = states.value(BALANCES), states.value(ACCOUNT_STATUS)
    rows = account_rows(state.lazy(), status.lazy()).collect()
    folded = perf_counter()
    # Of the rows in whatever order they are.
    digest(rows)
    return {
        "seconds": folded - checked,
        "events": snapshot.state.events,
        "check": rows.height,
        "balance": int(rows["balance"].sum()),
        "settings": {},
        "hash_seconds": checked - start,
        "digest_seconds": perf_counter() - folded,
        "accounts": rows.height,
    }


def everything(folder: Path) -> Measured:
    """All projections and every integrity finding; hashes and digest are apart, as for balances."""
    from projections import INTEGRITY, RELATIONS
    from replay.archive.full_replay import replayed_archive
    from replay.digest import digest
    from replay.verify import integrity_findings

    archive = _whole(folder)
    start = perf_counter()
    with replayed_archive(archive, [RELATIONS, INTEGRITY]) as replay:
        # The state of the transactions, from which the findings are made, is a projection's too.
        found = integrity_findings(replay, NOW)
        edges = sum(part.height for part in replay.states.buckets(RELATIONS))
        seconds = perf_counter() - start
    # The replay made its digest on the way; made again, it is known what that took.
    start = perf_counter()
    assert digest(replay.rows) == replay.certificate.digest
    digest_seconds = perf_counter() - start
    return {
        "seconds": seconds - digest_seconds,
        "digest_seconds": digest_seconds,
        "events": replay.certificate.events,
        "check": replay.rows.height,
        "balance": int(replay.rows["balance"].sum()),
        "settings": {},
        "findings": found.height,
        "edges": edges,
    }


def _whole(folder: Path) -> Any:
    """Return an archive whose data files were just hashed and found whole, which it remembers."""
    archive = _archive(folder)
    assert archive.files.check(archive.snapshot().files) == {}
    return archive


def rebuilt(folder: Path, *, effective: datetime | None = None) -> Measured:
    """A whole replay up to its certificate, of everything or of one moment."""
    from replay.archive.full_replay import replayed_archive
    from replay.moment import Moment

    moment = None if effective is None else Moment(effective=effective)
    archive = _whole(folder)
    start = perf_counter()
    with replayed_archive(archive, moment=moment):
        seconds = perf_counter() - start
    return {"seconds": seconds, "events": _events(folder), "check": None, "settings": {}}


def one_account(folder: Path) -> Measured:
    """One account at one moment, again and again, from one process that has seen the files."""
    from replay.archive.answers import balances_from_archive

    archive = _whole(folder)
    random, accounts = Random(1), _accounts(folder)
    seconds = []
    for asked in range(POINT_QUERIES + 20):
        number = min(int(accounts * random.random() ** SKEW), accounts - 1)
        moment = BEGIN + (NOW - BEGIN) * random.random()
        start = perf_counter()
        balances_from_archive(archive, [f"acct-{number:08d}"], as_of=moment)
        if asked >= 20:
            seconds.append(perf_counter() - start)
    seconds.sort()
    p99 = seconds[int(len(seconds) * 0.99) - 1]
    return {"seconds": sum(seconds), "events": len(seconds), "check": True, "settings": {}, "p99_seconds": p99}


def duckdb(folder: Path, *, columns: str) -> Measured:
    """DuckDB over the same files, into a table in memory: a bare `sum(amount)`, the balance, or all our columns."""
    import duckdb as peer

    connection = peer.connect()
    connection.execute("SET threads = 2")
    sums = {"bare": "sum(amount) AS points", "balance": f"{_BALANCE} AS balance", "all": _all_columns()}[columns]
    start = perf_counter()
    files = f"read_parquet({_files(folder)!r})"
    connection.execute(f"CREATE TEMP TABLE found AS SELECT account_id, {sums} FROM {files} GROUP BY account_id")
    seconds = perf_counter() - start
    total = "sum(balance)" if columns != "bare" else "NULL"
    height, balance = connection.execute(f"SELECT count(*), {total} FROM found").fetchone()
    return {"seconds": seconds, "events": _events(folder), "check": height, "settings": {}, "balance": balance}


def _all_columns() -> str:
    def counted(status: str, points: str) -> str:
        to, before = f"to_status = '{status}'", f"from_status = '{status}'"
        return f"sum(CASE WHEN {to} THEN {points} ELSE 0 END - CASE WHEN {before} THEN {points} ELSE 0 END)"

    amount_of = "CASE WHEN type = '{}' THEN amount ELSE 0 END"
    events = "('account.locked', 'account.unlocked', 'account.closed')"
    return ", ".join(
        [
            f"{counted('completed', _WORTH)} AS balance",
            f"{counted('frozen', 'amount')} AS frozen",
            *(f"{counted('pending', amount_of.format(kind))} AS pending_{kind}" for kind in ("credit", "debit")),
            "max(version) AS version",
            "max(effective_at) AS last_effective_at",
            f"arg_max(event, version) FILTER (WHERE event IN {events}) AS status",
        ]
    )


def postgresql(folder: Path) -> Measured:
    """PostgreSQL's sum by account over the same rows, in a table of all their columns with an index on the account.

    The server is as it comes. Loading is not timed; the query is asked three times, the median counts.
    """
    from tests.postgres_server import running

    query = f"SELECT account_id, {_BALANCE} AS balance FROM events GROUP BY account_id"
    with ExitStack() as stack:
        url = stack.enter_context(running()).set(drivername="postgresql")
        connection = _loaded(stack, url.render_as_string(hide_password=False), folder)
        seconds = []
        for _ in range(3):
            connection.execute("DROP TABLE IF EXISTS found")
            start = perf_counter()
            connection.execute(f"CREATE TEMP TABLE found AS {query}")
            seconds.append(perf_counter() - start)
        height, balance = connection.execute("SELECT count(*), sum(balance) FROM found").fetchone() or (0, 0)
    return {
        "seconds": median(seconds),
        "events": _events(folder),
        "check": height,
        "settings": {},
        "balance": int(balance),
    }


def _loaded(stack: ExitStack, url: str, folder: Path) -> Any:
    import psycopg

    from replay.archive.schema import ARCHIVE_SCHEMA

    connection = stack.enter_context(psycopg.connect(url, autocommit=True))
    kinds = {pl.Int64(): "bigint", pl.Datetime("us", "UTC"): "timestamptz", pl.Binary(): "bytea"}
    columns = {name: kinds.get(dtype, "text") for name, dtype in ARCHIVE_SCHEMA.items()}
    described = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE UNLOGGED TABLE events ({described})")
    # Null everywhere but at an account's last event: it is no row's own.
    names = [name for name in columns if name != "chain"]
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY events ({', '.join(names)}) FROM STDIN (FORMAT csv)") as copy,
    ):
        for file in _files(folder):
            copy.write(pl.read_parquet(file, columns=names).write_csv(include_header=False))
    connection.execute("CREATE INDEX ON events (account_id)")
    connection.execute("VACUUM ANALYZE events")
    return connection


def python_loop(folder: Path) -> Measured:
    """A straightforward loop over the same rows, one event at a time."""
    names = ["account_id", "type", "amount", "from_status", "to_status"]
    frames = [pl.read_parquet(file, columns=names) for file in _files(folder)]
    sums: dict[str, list[int]] = {}
    start = perf_counter()
    for frame in frames:
        for account_id, kind, amount, before, after in frame.iter_rows():
            row = sums.setdefault(account_id, [0, 0])
            for status, points in ((before, -(amount or 0)), (after, amount or 0)):
                if status == "completed":
                    row[0] += points if kind == "credit" else -points
                elif status == "frozen":
                    row[1] += points
    seconds = perf_counter() - start
    balance = sum(row[0] for row in sums.values())
    return {"seconds": seconds, "events": _events(folder), "check": len(sums), "settings": {}, "balance": balance}


def _events(folder: Path) -> int:
    snapshot = _archive(folder).snapshot()
    return int(snapshot.state.events)


def _accounts(folder: Path) -> int:
    return int(pl.scan_parquet(_files(folder)).select(pl.col("account_id").n_unique()).collect().item())


TASKS: dict[str, Callable[[Path], Measured]] = {
    "archive balances": balances,
    "archive everything": everything,
    "archive rebuild": rebuilt,
    "archive moment": partial(rebuilt, effective=datetime(2025, 6, 1, tzinfo=UTC)),
    "archive one account": one_account,
    "duckdb bare": partial(duckdb, columns="bare"),
    "duckdb balance": partial(duckdb, columns="balance"),
    "duckdb all": partial(duckdb, columns="all"),
    "postgresql": postgresql,
    "python loop": python_loop,
}


if __name__ == "__main__":
    made(Path(sys.argv[1]), events=int(sys.argv[2]), accounts=int(sys.argv[3]))
