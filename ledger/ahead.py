"""Work done ahead in one thread, while the caller is busy: the database and the column engine leave Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["mapped_ahead", "read_ahead"]

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator, the next one being made while the last one is used.

    Every step of `items` runs in one and the same thread, its closing too, as database drivers ask for.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as worker:
        try:
            future = worker.submit(_next, items)
            while (found := future.result()) is not None:
                future = worker.submit(_next, items)
                yield found[0]
        finally:
            if isinstance(items, Generator):
                worker.submit(items.close).result()


def mapped_ahead(work: Callable[[T], R], items: Iterable[T]) -> Generator[tuple[T, R]]:
    """Yield each item with what `work` made of it, the next one being made while the last one is used."""
    made = read_ahead((item, work(item)) for item in items)
    yield from made


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
