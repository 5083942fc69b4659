"""Our own read model as what a recovery corrects: rebuilt beside the live generation, then made live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from ledger.store import Store
from replay.differences import Value
from replay.engine import Progress
from replay.generation import bring_forward
from replay.rebuild import Rebuild, promote_generation, rebuild
from schemas import format_time

__all__ = ["OwnReadModel"]


class OwnReadModel:
    """The live generation of a store's read model; all of its rows are corrected at once."""

    live = None

    def __init__(self, store: Store) -> None:
        self.store = store

    def generation(self) -> int | None:
        """Return the number of the live generation, None where there is none."""
        with self.store.snapshot() as connection:
            found = read_model.live(connection)
        return None if found is None else found.generation

    def rebuilt(self, store: Store, *, now: datetime, progress: Progress | None) -> Rebuild:
        """Rebuild into a new generation; the live one stays."""
        return rebuild(store, now=now, progress=progress)

    def promote(self, store: Store, generation: int) -> None:
        """Make a generation live, at the head; raises as `promote_generation`."""
        promote_generation(store, generation)

    def follow(self, store: Store) -> None:
        """Bring the live generation to the head, if there is one, as the projector does."""
        with store.appending() as connection:
            found = read_model.live(connection)
            if found is not None:
                bring_forward(store, connection, found, until=store.head(connection))

    def put_back(self, connection: Connection, *, live: int, before: int) -> bool:
        """Make the generation live that was so before, if the one that replaced it still is; else return False.

        It is as it was, with its faults; the projector brings it forward from there.
        """
        found = read_model.live(connection)
        if found is None or found.generation != live:
            return False
        read_model.go_live(connection, before)
        return True

    def values(self, generation: int, account_ids: Sequence[str]) -> dict[str, dict[str, Value]]:
        """Return the rows of some accounts in a generation, by account, as a plan tells their columns."""
        with self.store.snapshot() as connection:
            rows = read_model.rows(connection, generation, account_ids)
        return {str(row["account_id"]): _told(row) for row in rows.iter_rows(named=True)}

    def parked(self, generation: int) -> pl.DataFrame:
        """Return what a generation cannot vouch for: `account_id`, `version`, `reason`."""
        with self.store.snapshot() as connection:
            return read_model.parked(connection, generation)

    def close(self) -> None:
        """Do nothing: the store is somebody else's to close."""


def _told(row: dict[str, object]) -> dict[str, Value]:
    told: dict[str, Value] = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            told[name] = value.hex()
        elif isinstance(value, datetime):
            told[name] = format_time(value)
        elif name != "account_id" and (value is None or isinstance(value, int | str)):
            told[name] = value
    return told
