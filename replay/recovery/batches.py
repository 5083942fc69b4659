"""How many accounts a batch has, so that it takes about a second, and how long to rest after it."""

from __future__ import annotations

from schemas.errors import UsageError

__all__ = ["FIRST", "Pace"]

FIRST = 100
SMALLEST, LARGEST = 10, 5_000
SECONDS_WANTED = 1.0
#: One slow batch says little of the next, so that the size changes by no more than this at once.
CHANGE_MAX = 2.0


class Pace:
    """The size of the next batch: fixed, or by how long the last one took.

    `throttle` is the largest share of the time that may be busy, above 0 to 1. UsageError for one that is none, or a
    batch of no accounts.
    """

    def __init__(self, *, batch: int | None = None, throttle: float | None = None) -> None:
        if batch is not None and batch < 1:
            raise UsageError(f"not a size of batches: {batch}", next_step="give 1 or more accounts")
        if throttle is not None and not 0 < throttle <= 1:
            raise UsageError(f"not a share of the time: {throttle}", next_step="give more than 0 and at most 1")
        self.size = FIRST if batch is None else batch
        self._is_fixed = batch is not None
        self._throttle = throttle

    def took(self, seconds: float, accounts: int) -> float:
        """Note how long a batch took, and return the seconds to rest after it."""
        if not self._is_fixed and accounts:
            wanted = accounts * SECONDS_WANTED / max(seconds, 0.001)
            wanted = min(max(wanted, self.size / CHANGE_MAX), self.size * CHANGE_MAX)
            self.size = round(min(max(wanted, SMALLEST), LARGEST))
        return 0.0 if self._throttle is None else seconds * (1 / self._throttle - 1)
