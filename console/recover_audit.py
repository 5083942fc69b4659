"""The heads of the audit trail outside the database: written after what added to it, or it is said why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from console.audit_places import outside_heads
from ledger.audit_heads import keep
from schemas.errors import LedgerReplayError

if TYPE_CHECKING:
    from console.run import Run
    from ledger.audit_heads import Outside
    from ledger.store import Store

__all__ = ["HeadKeeper", "kept_outside", "outsides_of"]

#: While a run is at work, heads are written outside at most this often: a place is read to its end each time.
SECONDS_BETWEEN = 5.0


def outsides_of(run: Run, store: Store) -> list[Outside]:
    """Return the places, before anything is done that is to be kept there; ConfigurationError where one is wrong."""
    return outside_heads(run, store.ledger_id)


def kept_outside(store: Store, outsides: Sequence[Outside], now: datetime) -> list[str]:
    """Write the heads that a place lacks; return why not, since what they vouch for is done by then."""
    try:
        keep(store, outsides, now)
    except LedgerReplayError as error:
        return [f"heads of the audit trail were not kept outside: {error}"]
    return []


class HeadKeeper:
    """Keeps heads outside while a run is at work, now and then, and at its end.

    A place that failed once is left until the end: a broker that does not answer must not hold a run up.
    """

    def __init__(
        self, store: Store, outsides: Sequence[Outside], now: Callable[[], datetime], warn: Callable[[str], None]
    ) -> None:
        self._store, self._outsides, self._now, self._warn = store, outsides, now, warn
        self._kept_at = time.monotonic()
        self._has_failed = False

    def keep(self, *, is_end: bool = False) -> None:
        """Write what is missing, unless that was done a moment ago."""
        is_soon = self._has_failed or time.monotonic() - self._kept_at < SECONDS_BETWEEN
        if not self._outsides or (is_soon and not is_end):
            return
        for words in kept_outside(self._store, self._outsides, self._now()):
            self._has_failed = True
            self._warn(words)
        self._kept_at = time.monotonic()
