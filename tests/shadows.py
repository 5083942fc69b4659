"""What a shadow has stored, and what a fresh replay says that it should have."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from consumers.shadow import Following, Step
from ledger import Store, read_model, shadows
from replay.full_replay import replayed
from replay.rows import stored_rows
from replay.store_source import StoreSource

__all__ = ["Stored", "fresh", "is_fresh", "stored", "to_head"]


class Stored(NamedTuple):
    """Positions, rows in account order, and what is parked: the version and the reason by account."""

    positions: dict[int, int]
    rows: pl.DataFrame
    parked: dict[str, tuple[int, str]]


def stored(store: Store, name: str = "shadow") -> Stored:
    """Return what is stored of a shadow, rows of parked accounts left out: nobody vouches for them."""
    with store.snapshot() as connection:
        shadow = shadows.find(connection, name)
        assert shadow is not None
        rows = read_model.rows(connection, shadow.number).sort("account_id")
        parked = read_model.parked(connection, shadow.number)
        positions = shadows.positions(connection, shadow)
    noted = {account_id: (version, reason) for account_id, version, reason in parked.iter_rows()}
    return Stored(positions, rows.filter(~pl.col("account_id").is_in(list(noted))), noted)


def fresh(store: Store, position: int) -> Stored:
    """Return what a replay from zero says at a position of the store; heads are not looked at, as in following."""
    with StoreSource.snapshot(store) as source, replayed(source, until=position) as replay:
        parked = replay.certificate.parked
        assert not [found for found in parked if found.reason == "head_mismatch"]
        rows = stored_rows(replay.rows, replay.gate).sort("account_id")
    return Stored({0: position}, rows, {found.account_id: (found.version, found.reason) for found in parked})


def is_fresh(store: Store, name: str = "shadow") -> bool:
    """Whether a shadow of the store has what a fresh replay says at its position, account by account."""
    found = stored(store, name)
    expected = fresh(store, found.positions[0])
    return found.rows.equals(expected.rows) and found.parked == expected.parked


def to_head(following: Following, steps_max: int = 10_000) -> tuple[Step, int]:
    """Step until there is nothing more; return the last step and how many events were applied."""
    events = 0
    for _ in range(steps_max):
        step = following.step()
        events += step.events
        if step.position == step.head and not step.events:
            return step, events
    raise AssertionError(f"not at the head after {steps_max} steps: {step}")
