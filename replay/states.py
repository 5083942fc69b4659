"""Folded states while a replay runs: in memory for what is bounded by accounts, spilled for what is not.

Accepted events are gathered to `FOLD_EVENTS`, folded at once, and merged in the order of the stream. A state
with one row an account is kept merged. A state with one row a transaction grows with the events, so its parts
go to disk in account buckets once there are many, and are merged bucket by bucket when asked for. Where the source
can be read again at once and in columns, such a state is not kept at all: it is folded when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from projections import Projection

__all__ = ["FOLD_EVENTS", "Refold", "States"]

#: Folds a projection over all events anew, or over those that an expression of the state's key lets through. Each
#: frame has every row of its accounts.
Refold = Callable[[Projection, pl.Expr | None], Iterator[pl.DataFrame]]

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
        spill: Path | None = None,
        fold_events: int = FOLD_EVENTS,
        refold: Refold | None = None,
    ) -> None:
        """Begin with nothing; with `refold` the states that grow with the events are made by it and nothing spills."""
        self.projections = tuple(projections)
        self.details = tuple(sorted({name for projection in projections for name in projection.details}))
        self._fold_events = fold_events
        self._pending: list[pl.DataFrame] = []
        self._pending_events = 0
        self._parts = {
            each.name: _Parts(each, spill) for each in self.projections if refold is None or _is_bounded(each)
        }
        self._refold = refold

    def add(self, events: pl.DataFrame) -> None:
        """Take in the next accepted events; they are folded when enough are there."""
        if events.is_empty():
            return
        self._pending.append(events.drop("state", "chain", strict=False))
        self._pending_events += events.height
        if self._pending_events >= self._fold_events:
            self._fold()

    def fold(self, events: pl.LazyFrame, *, coded: pl.LazyFrame | None = None) -> None:
        """Take in the next accepted events at once, however many: the column engine streams them.

        `coded` are the same events as those projections take them that `takes_codes`.
        """
        # One after the other: asked for together, a scan hands every fold the columns and rows that any of them needs.
        for projection in self.projections:
            if projection.name in self._parts:
                its = coded if coded is not None and projection.takes_codes else events
                self._parts[projection.name].add(projection.fold(its).collect())

    def value(self, projection: Projection) -> pl.DataFrame:
        """Return the whole state of one projection."""
        return pl.concat([projection.empty(), *self.buckets(projection)])

    def buckets(self, projection: Projection, where: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
        """Yield the state of one projection, every account's rows together in one of the frames.

        `where` is an expression of columns of the state's key, and picks rows: where the state is folded anew, only
        their events are.
        """
        self._fold()
        if projection.name in self._parts:
            found = self._parts[projection.name].buckets()
            yield from found if where is None else (bucket.filter(where) for bucket in found)
        elif self._refold is not None and projection in self.projections:
            yield from self._refold(projection, where)
        else:
            raise KeyError(projection.name)

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


def _is_bounded(projection: Projection) -> bool:
    """Whether a state has a row an account, so that it does not grow with the events."""
    return projection.key == ("account_id",)


class _Parts:
    """The parts of one state, in the order of the stream; one that is bounded needs no folder to spill to."""

    def __init__(self, projection: Projection, spill: Path | None) -> None:
        self._projection = projection
        self._is_bounded = _is_bounded(projection)
        self._memory: list[pl.DataFrame] = []
        self._folder = (spill or Path()) / projection.name
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


def _merged(projection: Projection, parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Merge neighbours pairwise, so that every row is merged log2(parts) times and the order is kept."""
    while len(parts) > 1:
        pairs = [parts[start : start + 2] for start in range(0, len(parts), 2)]
        merged = pl.collect_all([projection.merge(pair[0].lazy(), pair[1].lazy()) for pair in pairs if len(pair) == 2])
        parts = [*merged, *(pair[0] for pair in pairs if len(pair) == 1)]
    return parts[0]
