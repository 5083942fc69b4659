"""Events of a topic that came more than once, at places of which one says nothing of the other.

The archive has an event with one place. Of two places in one partition the first one stands for both: whoever is asked
about offsets behind it has the event. That is not so in two partitions, nor where the first place was let go and a
later one taken: at offsets between them the topic has the event, and the archive would leave it out. The accounts that
this may happen to are kept in the archive's state, and are parked where such a question is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import polars as pl

from replay.archive.state import State
from replay.gate import Parked

__all__ = ["PLACES", "Elsewhere", "doubtful"]

#: What a place is.
PLACES = pl.Schema({"account_id": pl.String(), "version": pl.Int64(), "partition": pl.Int64(), "position": pl.Int64()})

#: Accounts that are named in the state; where there are more it may be any.
ACCOUNTS_MAX = 10_000

_KEY = ["account_id", "version"]


class Elsewhere:
    """By account the last version that also came elsewhere; None where these are too many."""

    def __init__(self, state: State | None) -> None:
        """Go on from what an archive's state says; an archive of a topic that does not say it may have any."""
        known = {} if state is None else state.elsewhere
        self.versions = None if isinstance(known, msgspec.UnsetType) else known
        self._places: list[pl.DataFrame] = []

    def add(self, places: pl.DataFrame) -> None:
        """Take note of all places (`PLACES`) at which some events were seen."""
        if self.versions is not None and places.height:
            self._places.append(places.select(PLACES.names()))

    @property
    def unsettled(self) -> list[str]:
        """The accounts of which a place is not held against that in the archive yet."""
        ids = [places["account_id"] for places in self._places]
        found: list[str] = pl.concat(ids).unique().to_list() if ids else []
        return found

    def settle(self, kept: pl.DataFrame) -> None:
        """Hold the places that were added against those (`PLACES`) that the archive has."""
        if self.versions is None or not self._places:
            return
        both = pl.concat(self._places).join(kept, on=_KEY, suffix="_kept")
        stands_for = (pl.col("partition") == pl.col("partition_kept")) & (pl.col("position_kept") <= pl.col("position"))
        for account_id, version in both.filter(~stands_for).select(_KEY).iter_rows():
            self.versions[account_id] = max(version, self.versions.get(account_id, 0))
        self._places = []
        if len(self.versions) > ACCOUNTS_MAX:
            self.versions = None


def doubtful(state: State, reached: pl.LazyFrame, held: pl.LazyFrame) -> list[Parked]:
    """Return the accounts that may have more, at offsets of a topic, than the archive can tell.

    `reached` are the events that it tells, `held` all that it has.
    """
    versions = Elsewhere(state).versions
    if versions == {}:
        return []
    if versions is None:
        last = held.group_by("account_id").agg(pl.col("version").max().alias("last"))
    else:
        names = held.filter(pl.col("account_id").is_in(list(versions))).select(pl.col("account_id").unique())
        last = pl.LazyFrame({"account_id": list(versions), "last": list(versions.values())}).join(
            names, on="account_id", how="semi"
        )
    told = reached.group_by("account_id").agg(pl.col("version").max())
    found = last.join(told, on="account_id", how="left").filter(pl.col("version").fill_null(0) < pl.col("last"))
    return [
        Parked(
            account_id=account_id,
            version=(version or 0) + 1,
            reason="place_unknown",
            details="events of it came in two places of the topic, and the archive has only one of each",
        )
        for account_id, version in _rows(found.select("account_id", "version"))
    ]


def _rows(found: pl.LazyFrame) -> Sequence[tuple[str, int | None]]:
    return found.collect().sort("account_id").rows()
