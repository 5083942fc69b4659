"""Live rows that cannot be read: each of a round counted and told once, however often the round reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import polars as pl

__all__ = ["SEE_REJECTS", "Rejected"]

#: A watch writes no file of them, so it says how to get one.
SEE_REJECTS = "see the rejects that `drift --live` writes"


class Rejected:
    """The rejects of one round; `tell` is given them (`REJECT_SCHEMA`), and `count` says how many there were.

    A round reads some rows again where it opens the table anew. Memory grows with the rejects.
    """

    def __init__(self, tell: Callable[[pl.DataFrame], None] | None) -> None:
        self._tell = tell
        self.begin()

    def begin(self) -> None:
        """Begin a round, or go on with one."""
        self.count = 0
        self._of_round: Counter[int] = Counter()
        self.read_anew()

    def read_anew(self) -> None:
        """Take note that rows come which may have come before."""
        self._since_opened: Counter[int] = Counter()

    def add(self, rejects: pl.DataFrame) -> None:
        """Take in rejects as they come."""
        if rejects.is_empty():
            return
        is_new = [self._is_new(hash(row)) for row in rejects.select("reason", "row").iter_rows()]
        self.count += sum(is_new)
        if self._tell is not None and any(is_new):
            self._tell(rejects.filter(pl.Series(is_new)))

    def _is_new(self, row: int) -> bool:
        # Rows may be the same as each other: those of this reading count, where there are more of them than before.
        self._since_opened[row] += 1
        is_new = self._since_opened[row] > self._of_round[row]
        if is_new:
            self._of_round[row] += 1
        return is_new
