"""Named points of a run, at which a test can end the process or let something happen.

lease:taken, <step>:begun, <step>:done, fence:raised, fence:lifted, heal:written, batch:noted, batch:written,
batch:done, unlock:written
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["failpoint", "set_failpoints"]

_reached: list[Callable[[str], None]] = []


def failpoint(name: str) -> None:
    """Say that a run is at a point; nothing happens unless a test asked for it."""
    for reached in _reached:
        reached(name)


def set_failpoints(reached: Callable[[str], None] | None) -> None:
    """Call this at every point from now on, or nothing."""
    _reached[:] = [] if reached is None else [reached]
