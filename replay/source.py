"""Sources: where events come from, a bounded batch at a time, decoded in bulk.

A source gives batches in its own order and says what the end of every account should be. It never skips: what
it cannot decode is in the batch as poison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from schemas import PoisonEvent

__all__ = ["Batch", "Source"]


@dataclass(frozen=True)
class Batch:
    """Events up to and with `position`: `events` as `decode_batch` gives them, `poison` beside them."""

    events: pl.DataFrame
    poison: list[PoisonEvent]
    position: int


class Source(Protocol):
    """What the engine asks of a source; positions are exclusive in `after`, inclusive in `until`."""

    name: str
    identity: str

    def head(self) -> int:
        """Return the newest position there is."""

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        """Yield the events after `after` until `until`, in order."""

    def ends(self, until: int) -> pl.DataFrame | None:
        """Return what each account's end should be at `until`: `account_id`, `version`, `chain` (null: unknown).

        None where the source cannot know.
        """

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return every copy the source holds of some events (`account_id`, `version`): those and `state`."""
