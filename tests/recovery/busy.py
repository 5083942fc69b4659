"""Processes that keep a ledger busy: `python -m tests.recovery.busy writer|projector URL SEED EVENTS`.

Both go on where the one before them ended, and end when the ledger has so many events.
"""

from __future__ import annotations

import random
import sys
import time

import polars as pl

from consumers.projector import project
from ledger import GENESIS, Store, chain
from schemas import Event, encode
from schemas.errors import PositionMoved

sys.path.insert(0, "tests")
from samples import opened, recorded

ACCOUNTS = 3_000
BATCHES = (1, 5, 50, 500, 2_000)


def write(store: Store, chance: random.Random, events: int) -> None:
    """Append batches of all sizes at full speed, with a pause now and then, mostly to few accounts."""
    with store.snapshot() as connection:
        heads = {name: (version, link) for name, version, link in store.heads(connection).iter_rows()}
        written = store.head(connection)
    while written < events:
        rows = [_row(chance, heads) for _ in range(chance.choice(BATCHES))]
        with store.appending() as connection:
            frame = pl.DataFrame(rows, schema=["account_id", "version", "topic", "state", "chain"], orient="row")
            store.append_rows(connection, frame)
            written = store.head(connection)
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0, 0.05))


def _row(chance: random.Random, heads: dict[str, tuple[int, bytes]]) -> tuple[str, int, str, bytes, bytes]:
    name = f"account-{int(ACCOUNTS * chance.random() ** 3)}"
    version, link = heads.get(name, (0, GENESIS))
    event = _event(chance, name, version + 1)
    state = encode(event)
    heads[name] = (version + 1, chain(link, state))
    return name, version + 1, str(type(event).__struct_config__.tag), state, heads[name][1]


def _event(chance: random.Random, name: str, version: int) -> Event:
    if version == 1:
        return opened(name)
    status = chance.choice(["completed", "completed", "pending", "frozen"])
    type_ = "debit" if status == "frozen" else chance.choice(["credit", "debit"])
    return recorded(name, version, chance.randrange(1, 1_000), type=type_, to_status=status)


def follow(store: Store, chance: random.Random, events: int) -> None:
    """Keep the live read model at the head, in batches of all sizes, with random delays."""

    def is_done() -> bool:
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0, 0.1))
        return chance.random() < 0.3

    position = 0
    while position < events:
        try:
            size = chance.choice([50, 500, 5_000])
            position = project(store, follow=True, should_stop=is_done, batch_events=size, poll_seconds=0.01).position
        except PositionMoved:
            continue


def main(what: str, url: str, seed: str, events: str) -> None:
    """Open the ledger, do it, and close it."""
    store = Store(url)
    {"writer": write, "projector": follow}[what](store, random.Random(seed), int(events))
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
