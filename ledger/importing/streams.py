"""Whether the streams of some accounts are whole: versions without a hole, and a hash chain that every event keeps.

An import appends to a stream only where every event of it is the one that was appended: whatever goes on after a
damaged event would make the damage harder to see and to repair.
"""

from __future__ import annotations

import polars as pl

from ledger.store import GENESIS, chains
from schemas.columns import RAW_SCHEMA

__all__ = ["LAST_SCHEMA", "PROBLEM_SCHEMA", "Streams"]

#: How far a stream has been followed: its last version in a row, and the chain there.
LAST_SCHEMA = pl.Schema({name: RAW_SCHEMA[name] for name in ("account_id", "version", "chain")})
PROBLEM_SCHEMA = pl.Schema({"account_id": pl.String(), "problem": pl.String()})


class Streams:
    """Follows streams over batches in any order of versions; memory grows with accounts and with what waits."""

    def __init__(self) -> None:
        self._last = pl.DataFrame(schema=LAST_SCHEMA)
        # Events behind a hole: one that was put back stands after them in the store.
        self._waiting = pl.DataFrame(schema=RAW_SCHEMA)
        self._broken = pl.DataFrame(schema=PROBLEM_SCHEMA)

    def add(self, raw: pl.DataFrame) -> None:
        """Take a batch (`RAW_SCHEMA`)."""
        if raw.is_empty():
            return
        rows = self._placed(self._with_waiting(raw))
        self._waiting = pl.concat([self._waiting, rows.filter(~pl.col("is_next")).select(RAW_SCHEMA.names())])
        followed = rows.filter("is_next")
        self._check(followed)
        newest = followed.group_by("account_id", maintain_order=True).agg(pl.col("version", "chain").last())
        self._last = pl.concat([self._last.join(newest, on="account_id", how="anti"), newest])

    def problems(self, heads: pl.DataFrame, among: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return what is wrong with which account, once each; `heads` are those of the same accounts.

        With `among` (`account_id`) only these accounts are looked at, and `heads` are theirs.
        """
        last, waiting, broken = (
            frame if among is None else frame.join(among, on="account_id", how="semi")
            for frame in (self._last, self._waiting, self._broken)
        )
        found = waiting.group_by("account_id").agg(found=pl.col("version").min())
        both = last.join(heads, on="account_id", how="full", coalesce=True, suffix="_head").join(
            found, on="account_id", how="full", coalesce=True
        )
        next_version = pl.col("version").fill_null(0) + 1
        problem = (
            pl.when(pl.col("version_head").is_null())
            .then(pl.lit("it has events but no head"))
            .when(pl.col("found").is_not_null())
            .then(pl.format("version {} is missing, but there is a version {}", next_version, "found"))
            .when(pl.col("version").is_null())
            .then(pl.lit("it has a head but no events"))
            .when(pl.col("version") != pl.col("version_head"))
            .then(pl.format("its last event has version {}, its head says {}", "version", "version_head"))
            .when(pl.col("chain") != pl.col("chain_head"))
            .then(pl.lit("the hash chain of its last event is not its head's"))
        )
        ends = both.select("account_id", problem=problem).filter(pl.col("problem").is_not_null())
        return pl.concat([broken, ends]).unique("account_id", keep="first", maintain_order=True)

    def _with_waiting(self, raw: pl.DataFrame) -> pl.DataFrame:
        if self._waiting.is_empty():
            return raw
        accounts = raw.select("account_id").unique()
        back = self._waiting.join(accounts, on="account_id", how="semi")
        self._waiting = self._waiting.join(accounts, on="account_id", how="anti")
        return pl.concat([back, raw])

    def _placed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows in account and version order, with what was before and whether each goes on from there."""
        place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(pl.col("account_id").rle_id())
        return (
            rows.sort("account_id", "version")
            .join(self._last, on="account_id", how="left", suffix="_last", maintain_order="left")
            .with_columns(is_next=pl.col("version") == pl.col("version_last").fill_null(0) + place)
        )

    def _check(self, followed: pl.DataFrame) -> None:
        if followed.is_empty():
            return
        is_same = pl.col("account_id") == pl.col("account_id").shift()
        before = followed.select(
            pl.when(is_same).then(pl.col("chain").shift()).otherwise(pl.col("chain_last").fill_null(GENESIS))
        ).to_series()
        actual = pl.Series(chains(before.to_list(), followed["state"].to_list()), dtype=pl.Binary())
        wrong = followed.filter(followed["chain"] != actual)
        if wrong.is_empty():
            return
        reason = pl.format("the event at position {} is not the one that was appended (hash chain)", "position")
        found = wrong.select("account_id", problem=reason)
        self._broken = pl.concat([self._broken, found]).unique("account_id", keep="first", maintain_order=True)
