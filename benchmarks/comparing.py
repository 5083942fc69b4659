"""Our own read model compared with a shadow in one database, and the bare join of the same two sets of rows.

    fill(url, accounts)   a ledger of so many accounts: live rows, a shadow's, heads, one event each
    compare(url)          seconds of one whole round by `Rounds` and `OwnPair`, unthrottled
    join(url)             seconds of `SELECT count(*)` over the full join, where any column differs

`python -m benchmarks.comparing URL [ACCOUNTS]` fills an empty database and prints both, in turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from statistics import median

import polars as pl
from sqlalchemy import text

from ledger import Store, bulk, read_model, shadows
from ledger.tables import ACCOUNTS, EVENTS, HEADS
from replay.comparison.own import OwnPair
from replay.comparison.rounds import Rounds

__all__ = ["compare", "fill", "join"]

ROWS_PER_INSERT = 50_000
AT = "2026-01-01T00:00:00.000000Z"
SHADOW = -1


def fill(url: str, accounts: int = 1_000_000) -> None:
    """Fill an empty database with equal live and shadow rows; the events are only keys, since none is read."""
    store = Store(url)
    with store.writing() as connection:
        live = read_model.create(connection, position=accounts, created_at=AT)
        read_model.go_live(connection, live.generation)
        created = {"source": "store", "source_id": store.ledger_id, "topic": None, "started_from": "zero"}
        shadows.create(connection, name="shadow", positions={0: accounts}, created_at=AT, **created)
        for number in (live.generation, SHADOW):
            for rows in _rows(accounts):
                numbered = rows.select(pl.lit(number).alias("generation"), pl.all())
                bulk.insert_rows(connection, read_model.table_of(number), numbered)
                if number != SHADOW:
                    bulk.insert_rows(connection, HEADS, rows.select("account_id", "version", "chain"))
                    bulk.insert_rows(connection, EVENTS, _events(rows))
    if not store.is_sqlite:
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    store.close()


def _rows(accounts: int) -> Iterator[pl.DataFrame]:
    for start in range(0, accounts, ROWS_PER_INSERT):
        numbers = range(start, min(start + ROWS_PER_INSERT, accounts))
        names = [f"account-{number:09d}" for number in numbers]
        yield pl.DataFrame({"account_id": names}).with_columns(
            balance=pl.Series(numbers),
            frozen=pl.Series(numbers) % 7,
            pending_credit=pl.lit(0),
            pending_debit=pl.lit(0),
            status=pl.lit("active"),
            locked_at=pl.lit(None, pl.String()),
            status_version=pl.lit(None, pl.Int64()),
            closed_version=pl.lit(None, pl.Int64()),
            version=pl.lit(1),
            chain=pl.Series([blake2b(name.encode(), digest_size=32).digest() for name in names]),
            last_effective_at=pl.lit(AT),
        )


def _events(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        originator_id="account_id",
        originator_version="version",
        topic=pl.lit("account.opened"),
        state=pl.lit(bytes(300)),
        chain="chain",
    )


def compare(url: str) -> float:
    """Return the seconds of a whole round, chunks sized as it goes."""
    store = Store(url)
    pair = OwnPair(store)
    rounds = Rounds(store, pair)
    # The chunks' size is known after one.
    for _ in range(2):
        seconds = _round(rounds)
    assert rounds.result is not None
    assert rounds.result.verdict == "EQUAL"
    rounds.release()
    store.close()
    return seconds


def _round(rounds: Rounds) -> float:
    began = time.perf_counter()
    while (chunk := rounds.step()) is None or chunk.until is not None:
        pass
    return time.perf_counter() - began


def join(url: str) -> float:
    """Return the seconds of a bare full join of all rows of both sides."""
    store = Store(url)
    differs = " OR ".join(
        f"live.{column.name} IS {'NOT' if store.is_sqlite else 'DISTINCT FROM'} shadow.{column.name}"
        for column in ACCOUNTS.columns
        if column.name not in {"generation", "account_id"}
    )
    # One generation and one shadow are all there is, so that no condition stands in the way of the join.
    joined = "ledger_accounts AS live FULL JOIN ledger_shadow_accounts AS shadow"
    joined += f" ON live.account_id = shadow.account_id AND live.generation = 1 AND shadow.generation = {SHADOW}"
    with store.snapshot() as connection:
        began = time.perf_counter()
        found = connection.execute(text(f"SELECT count(*) FROM {joined} WHERE {differs}")).scalar_one()
        seconds = time.perf_counter() - began
    assert found == 0
    store.close()
    return seconds


def main(url: str, accounts: str = "1000000") -> None:
    """Fill a database and print both, three times in turn."""
    fill(url, int(accounts))
    found = [(join(url), compare(url)) for _ in range(3)]
    bare, ours = (median(each) for each in zip(*found, strict=True))
    sys.stdout.write(f"bare {bare:.2f} s, ours {ours:.2f} s ({ours / bare:.2f} times)\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
