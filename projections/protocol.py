"""What a projection is: an associative fold over event batches.

    fold(events)        -> partial state of these events alone, one row a key
    merge(left, right)  -> state of left's events followed by right's
    finish(state, ...)  -> the answer, where it is not the state itself

Laws, for every cut of a gated stream (each account's events in version order, each once):

    merge(fold(a), fold(b)) == fold(a ++ b)
    merge(merge(x, y), z)   == merge(x, merge(y, z))

No projection does I/O, reads a clock, or calls random. Row order of a state means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

__all__ = ["Projection"]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """One projection: its name, the version of its meaning, the key of its state, and the fold.

    `version` goes up when the meaning of the state changes, so that a certificate or checkpoint of another
    meaning is never mistaken for this one. `details` are the `DETAIL_COLUMNS` that `fold` reads beside the
    columns that every event batch has. `finish` takes the state and whatever else its own docstring asks for
    (other states, the moment to judge at); it is None where the state is the answer. Where `takes_codes`, `fold` also
    takes events whose few-valued columns (`event`, `type`, the statuses) are categories and whose `amount` is Int32
    (then all of them together are within int64), and gives the same state: it neither adds up amounts without widening
    them, nor does to categories what only texts can.
    """

    name: str
    version: int
    key: tuple[str, ...]
    schema: pl.Schema
    fold: Callable[[pl.LazyFrame], pl.LazyFrame]
    merge: Callable[[pl.LazyFrame, pl.LazyFrame], pl.LazyFrame]
    finish: Callable[..., pl.LazyFrame] | None = None
    details: tuple[str, ...] = ()
    takes_codes: bool = False

    def empty(self) -> pl.DataFrame:
        """Return the state of no events."""
        return pl.DataFrame(schema=self.schema)
