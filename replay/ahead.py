"""Reading ahead: an iterator run by a thread, so that reading, decoding and folding overlap.

The database driver and the column library let go of the interpreter while they work, so threads are enough.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")

#: Items made ahead of the consumer: one being made and one ready keep both sides busy.
AHEAD_ITEMS = 1


class _End:
    """Says that the reading thread has stopped, and why."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator yields, in order, made by a thread of its own a few items ahead.

    An error of the iterator, of whatever kind, is raised here in its place. When the consumer stops early, the
    thread is stopped before this returns.
    """
    queue: Queue[T | _End] = Queue(maxsize=AHEAD_ITEMS)
    stopped = threading.Event()

    def read() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                queue.put(item)
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
