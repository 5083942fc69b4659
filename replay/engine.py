"""The one engine loop: batches of a source, in order, into a target.

Following live is this loop over a source's new events into the read model; a rebuild is this loop from zero into
memory with `until` fixed to the head when it started. What a batch means is the target's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Protocol

from replay.source import Batch, Source

__all__ = ["Progress", "Target", "run"]

#: Called after each batch with events done and events in all (None where the source cannot say).
Progress = Callable[[int, int | None], None]

#: Batches read and decoded ahead of the fold: one is enough to keep two cores busy.
AHEAD_BATCHES = 2


class Target(Protocol):
    """Where batches go."""

    details: tuple[str, ...]

    def apply(self, batch: Batch) -> None:
        """Take in one batch, all of it or, by raising, nothing."""


def run(
    source: Source,
    target: Target,
    *,
    after: int,
    until: int,
    progress: Progress | None = None,
    read_ahead: bool = True,
) -> None:
    """Drive the events after `after` until `until` from the source into the target.

    With `read_ahead` a thread reads and decodes the next batches while this one is folded; a target that uses
    the source's own connection must turn it off.
    """
    batches = source.read(after=after, until=until, details=target.details)
    for batch in _ahead(batches) if read_ahead else batches:
        target.apply(batch)
        if progress is not None:
            progress(batch.position - after, until - after)


class _End:
    """Says that the reading thread has stopped, and why."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    queue: Queue[Batch | _End] = Queue(maxsize=AHEAD_BATCHES)
    stopped = threading.Event()

    def read() -> None:
        error: BaseException | None = None
        try:
            for batch in batches:
                queue.put(batch)
                if stopped.is_set():
                    return
        except BaseException as caught:  # noqa: BLE001 - polars panics are BaseExceptions; raised again by the reader.
            error = caught
        queue.put(_End(error))

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        # A consumer that stops early must not leave the thread on a connection that is about to close.
        stopped.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(timeout=0.01)
