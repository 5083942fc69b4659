"""The projector: keeps our own live read model at the head of the store.

One batch is one transaction: rows and position together, the position by compare-and-set, so that of two
projectors one applies a batch and the other is told that the position moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from ledger.store import BATCH_EVENTS, Store
from replay.engine import Progress
from replay.generation import bring_forward, off_head
from schemas import format_time
from schemas.errors import RefusedError

__all__ = ["Projected", "project"]

POLL_SECONDS = 0.2

#: Why an account is parked whose stream is whole but ends before its head.
HEAD_MISMATCH = "head_mismatch"


@dataclass(frozen=True)
class Projected:
    """Where the live read model is: COMPLETE at its position, or INCOMPLETE with the accounts that are not.

    `parked` are the accounts with a gap or an unreadable event, and, at the head of the store, those that are not
    where their head says.
    """

    verdict: str
    generation: int
    position: int
    parked: list[str]


def project(
    store: Store,
    *,
    follow: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    batch_events: int = BATCH_EVENTS,
    poll_seconds: float = POLL_SECONDS,
) -> Projected:
    """Bring the live read model to the head, beginning one at position 0 if there is none.

    With `follow` it goes on until `should_stop` says so, asking for new events every `poll_seconds`. PositionMoved
    if another projector was faster; what this one read is then void. RefusedError where the store lost events that the
    live generation has.
    """
    with store.snapshot() as connection:
        found = read_model.live(connection)
    start = found.position if found else 0
    while True:
        live = _step(store, batch_events)
        with store.snapshot() as connection:
            head = store.head(connection)
        if progress is not None:
            progress(live.position - start, head - start)
        if should_stop() or (live.position >= head and not follow):
            return _projected(store, live)
        if live.position >= head:
            time.sleep(poll_seconds)


def _step(store: Store, batch_events: int) -> read_model.Generation:
    """Apply at most one batch and return where the live generation is now."""
    with store.writing() as connection:
        live = read_model.live(connection) or _begun(connection)
        _refuse_past_head(store, connection, live)
        until = store.position_after(connection, live.position, batch_events)
        if until > live.position:
            bring_forward(store, connection, live, until=until)
        return live._replace(position=until)


def _refuse_past_head(store: Store, connection: Connection, live: read_model.Generation) -> None:
    """The store's next events would take the positions of the lost ones, which live has behind it."""
    head = store.head(connection)
    if live.position > head:
        raise RefusedError(
            f"the live generation {live.generation} is at position {live.position:,} of the store, whose head is "
            f"{head:,}: the store has lost events, or was put back from a backup",
            next_step="bring the events back first (`import events`), or `rebuild --promote`",
        )


def _begun(connection: Connection) -> read_model.Generation:
    """Return the live generation, made here unless another projector has just done so."""
    read_model.lock_creation(connection)
    live = read_model.live(connection)
    if live is None:
        live = read_model.create(connection, position=0, created_at=format_time(datetime.now(UTC)))
        read_model.go_live(connection, live.generation)
    return live


def _projected(store: Store, live: read_model.Generation) -> Projected:
    with store.snapshot() as connection:
        parked = read_model.parked(connection, live.generation)
        off = _off_head(store, connection, live)
    if off is not None and set(off) != set(parked["account_id"]):
        with store.writing() as connection:
            parked = _park_off_head(store, connection, live)
    names = parked["account_id"].sort().to_list()
    return Projected("INCOMPLETE" if names else "COMPLETE", live.generation, live.position, names)


def _off_head(store: Store, connection: Connection, live: read_model.Generation) -> list[str] | None:
    """Return the accounts that are not at their head, None where that cannot be said.

    Writers may have gone on, or another generation gone live: heads say where rows should be only while this one is
    at the head of the store.
    """
    now = read_model.live(connection)
    if now is None or (now.generation, now.position) != (live.generation, store.head(connection)):
        return None
    return off_head(store, connection, live.generation)


def _park_off_head(store: Store, connection: Connection, live: read_model.Generation) -> pl.DataFrame:
    """Park the accounts that lost their end, let go of those that have it back, and return all that are parked."""
    parked = read_model.parked(connection, live.generation)
    off = _off_head(store, connection, live)
    if off is None:
        return parked
    is_back = (pl.col("reason") == HEAD_MISMATCH) & ~pl.col("account_id").is_in(off)
    lost = sorted(set(off) - set(parked["account_id"]))
    reached = dict(read_model.rows(connection, live.generation, lost).select("account_id", "version").iter_rows())
    noted = [(account_id, reached.get(account_id, 0) + 1, HEAD_MISMATCH) for account_id in lost]
    back = parked.filter(is_back)["account_id"].to_list()
    found = pl.DataFrame(noted, schema=parked.schema, orient="row")
    read_model.replace_parked(connection, live.generation, back, found)
    return read_model.parked(connection, live.generation)
