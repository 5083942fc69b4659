"""A topic that is a list, and a sender to it that can be stopped between any two events, as no broker can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consumers.delivery import Span

__all__ = ["Crash", "Log"]


class Crash(Exception):
    """The relay's process ends here."""


class Log:
    """A topic of one partition, and a sender to it that may end its relay, or let another run, between two events."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.crash_after: int | None = None
        self.meanwhile: Callable[[], object] | None = None
        self.meanwhile_at = 0

    def deliver(self, account_ids: Sequence[str], states: Sequence[bytes]) -> dict[int, Span]:
        """Append to the list."""
        first = len(self.records)
        for number, record in enumerate(zip(account_ids, states, strict=True)):
            self._between(number)
            self.records.append(record)
        self._between(len(states))
        return {0: Span(first, len(self.records))}

    def _between(self, number: int) -> None:
        if self.meanwhile is not None and number >= self.meanwhile_at:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if self.crash_after is not None:
            if self.crash_after == 0:
                raise Crash
            self.crash_after -= 1
