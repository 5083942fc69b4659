"""Folded states while a replay runs: in memory for what is bounded by accounts, spilled for what is not.

Accepted events are gathered to `FOLD_EVENTS`, folded at once, and merged in the order of the stream. A state
with one row an account is kept merged. A state with one row a transaction grows with the events, so its parts
go to disk in account buckets once there are many, and are merged bucket by bucket when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from projections import Projection

__all__ = ["FOLD_EVENTS", "States"]

#: Events folded at once: the merge that follows costs as much as the state has rows, so it should be rare.
FOLD_EVENTS = 500_000

#: Rows of a state that are kept in memory before they go to disk.
MEMORY_ROWS_MAX = 2_000_000

BUCKETS = 16


class States:
    """The states of some projections over one gated stream."""

    def __init__(
        self,
        projections: Sequence[Projection],
        *,
        spill: Path,
        fold_events: int = FOLD_EVENTS,
        is_sliced: bool = False,
    ) -> None:
        """Begin with nothing; `is_sliced` where whatever is folded at once holds all events of its accounts."""
        self.projections = tuple(projections)
        self.details = tuple(sorted({name for projection in projections for name in projection.details}))
        self._fold_events = fold_events
        self._pending: list[pl.DataFrame] = []
        self._pending_events = 0
        kind = _Slices if is_sliced else _Parts
        self._parts: dict[str, _Parts | _Slices] = {each.name: kind(each, spill) for each in projections}

    def add(self, events: pl.DataFrame) -> None:
        """Take in the next accepted events; they are folded when enough are there."""
        if events.is_empty():
            return
        self._pending.append(events.drop("state", "chain", strict=False))
        self._pending_events += events.height
        if self._pending_events >= self._fold_events:
            self._fold()

    def fold(self, events: pl.LazyFrame) -> None:
        """Take in the next accepted events at once, however many: the column engine streams them."""
        folded = pl.collect_all([projection.fold(events) for projection in self.projections])
        for projection, part in zip(self.projections, folded, strict=True):
            self._parts[projection.name].add(part)

    def value(self, projection: Projection) -> pl.DataFrame:
        """Return the whole state of one projection."""
        self._fold()
        return pl.concat([projection.empty(), *self._parts[projection.name].buckets()])

    def buckets(self, projection: Projection) -> Iterator[pl.DataFrame]:
        """Yield the state of one projection, every account's rows together in one of the frames."""
        self._fold()
        yield from self._parts[projection.name].buckets()

    def dump(self) -> dict[str, list[pl.DataFrame]]:
        """Return every state as parts to be restored in order, for a checkpoint."""
        self._fold()
        return {name: list(parts.buckets()) for name, parts in self._parts.items()}

    def restore(self, dumped: dict[str, list[pl.DataFrame]]) -> None:
        """Take in the parts that `dump` gave, before any event."""
        for name, parts in dumped.items():
            for part in parts:
                self._parts[name].add(part)

    def _fold(self) -> None:
        if not self._pending:
            return
        events = pl.concat(self._pending).lazy()
        self._pending, self._pending_events = [], 0
        self.fold(events)


class _Parts:
    """The parts of one state, in the order of the stream."""

    def __init__(self, projection: Projection, spill: Path) -> None:
        self._projection = projection
        self._is_bounded = projection.key == ("account_id",)
        self._memory: list[pl.DataFrame] = []
        self._folder = spill / projection.name
        self._spilled = 0

    def add(self, part: pl.DataFrame) -> None:
        self._memory.append(part)
        if self._is_bounded:
            self._memory = [_merged(self._projection, self._memory)]
        elif sum(frame.height for frame in self._memory) > MEMORY_ROWS_MAX:
            self._spill()

    def buckets(self) -> Iterator[pl.DataFrame]:
        if not self._spilled:
            if self._memory:
                self._memory = [_merged(self._projection, self._memory)]
                yield self._memory[0]
            return
        self._spill()
        for bucket in range(BUCKETS):
            files = [self._folder / f"{part}-{bucket}.parquet" for part in range(self._spilled)]
            yield _merged(self._projection, [pl.read_parquet(file) for file in files])

    def _spill(self) -> None:
        if not self._memory:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # The hash is of this process only, which is as long as a spilled part lives.
        bucket = pl.col("account_id").hash(seed=0) % BUCKETS
        merged = _merged(self._projection, self._memory).with_columns(bucket.alias("bucket"))
        for number in range(BUCKETS):
            rows = merged.filter(pl.col("bucket") == number).drop("bucket")
            rows.write_parquet(self._folder / f"{self._spilled}-{number}.parquet", compression="lz4", statistics=False)
        self._memory = []
        self._spilled += 1


class _Slices:
    """The parts of one state of which no two have an account in common, so that nothing is to be merged."""

    def __init__(self, projection: Projection, spill: Path) -> None:
        self._memory: list[pl.DataFrame] = []
        self._folder = spill / projection.name
        self._spilled = 0

    def add(self, part: pl.DataFrame) -> None:
        self._memory.append(part)
        if sum(frame.height for frame in self._memory) > MEMORY_ROWS_MAX:
            self._folder.mkdir(parents=True, exist_ok=True)
            for frame in self._memory:
                frame.write_parquet(self._folder / f"{self._spilled}.parquet", compression="lz4", statistics=False)
                self._spilled += 1
            self._memory = []

    def buckets(self) -> Iterator[pl.DataFrame]:
        for number in range(self._spilled):
            yield pl.read_parquet(self._folder / f"{number}.parquet")
        yield from self._memory


def _merged(projection: Projection, parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Merge neighbours pairwise, so that every row is merged log2(parts) times and the order is kept."""
    while len(parts) > 1:
        pairs = [parts[start : start + 2] for start in range(0, len(parts), 2)]
        merged = pl.collect_all([projection.merge(pair[0].lazy(), pair[1].lazy()) for pair in pairs if len(pair) == 2])
        parts = [*merged, *(pair[0] for pair in pairs if len(pair) == 1)]
    return parts[0]
