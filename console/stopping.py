"""How a command that goes on for ever is ended: with its answer, after what it has in hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stopped_by_signals"]


@contextmanager
def stopped_by_signals(stop: threading.Event, *, only_if: bool) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a follower after the batch in hand, with its answer."""
    if not only_if:
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
