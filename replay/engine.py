"""The one engine loop: batches of a source, in order, into a target.

Following live is this loop over a source's new events into the read model; a rebuild is this loop from zero into
memory with `until` fixed to the head when it started. What a batch means is the target's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from replay.source import Batch, Source

__all__ = ["Progress", "Target", "run"]

#: Called after each batch with events done and events in all (None where the source cannot say).
Progress = Callable[[int, int | None], None]


class Target(Protocol):
    """Where batches go."""

    details: tuple[str, ...]

    def apply(self, batch: Batch) -> None:
        """Take in one batch, all of it or, by raising, nothing."""


def run(source: Source, target: Target, *, after: int, until: int, progress: Progress | None = None) -> None:
    """Drive the events after `after` until `until` from the source into the target."""
    for batch in source.read(after=after, until=until, details=target.details):
        target.apply(batch)
        if progress is not None:
            progress(batch.position - after, until - after)
