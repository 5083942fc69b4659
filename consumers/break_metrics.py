"""Metrics of the reconciliation and its breaks, for Prometheus, in the registry of the loop that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from consumers.metrics import PREFIX
from ledger.break_rows import STANDING, Counted
from ledger.orders import Side

__all__ = ["SIDES", "BreakMetrics"]

#: What is reconciled with what.
SIDES: tuple[Side, ...] = ("orders", "ledger")


class BreakMetrics:
    """What is measured of breaks. Ages are those at `now` when they are asked for, and grow whatever stands still."""

    def __init__(self, registry: CollectorRegistry, *, now: Callable[[], datetime]) -> None:
        self._registry = registry
        self._now = now
        self._began_at = now()
        self._read_until: dict[Side, datetime] = {}
        self._oldest_at: datetime | None = None
        self._counted: set[tuple[str, str]] = set()
        self._at_risk: set[str] = set()
        self.breaks = self._gauge("breaks", "Breaks that are not resolved, by state and code.", "state", "code")
        self.points_at_risk = self._gauge(
            "break_points_at_risk",
            "Points at risk in breaks that are open or reopened, by code; several codes may be about the same points.",
            "code",
        )
        oldest_age = self._gauge("oldest_open_break_age_seconds", "For how long the oldest break has been open, or 0.")
        oldest_age.set_function(lambda: 0.0 if self._oldest_at is None else self._age_seconds(self._oldest_at))
        self.withheld_orders = self._gauge("withheld_orders", "Orders that nothing can be said of.")
        self.parked_order_records = self._gauge(
            "parked_order_records", "Records of the topic of orders that are no event, or not the one of their version."
        )
        self.touched_orders = self._gauge("touched_orders", "Orders that wait to be judged again.")
        self.lag_events = self._gauge(
            "reconciliation_lag_events", "Events that the reconciliation has not read yet, by side.", "side"
        )
        read_age = self._gauge(
            "reconciliation_read_until_age_seconds",
            "Time since the moment up to which all of a side was read; since the start before there is one.",
            "side",
        )
        for side in SIDES:
            read_age.labels(side).set_function(lambda side=side: self._read_age_seconds(side))  # type: ignore[misc]
        self.judged_orders = Counter(
            "judged_orders", "Orders that this process has judged.", namespace=PREFIX, registry=registry
        )

    def counted(self, counts: Sequence[Counted], oldest_at: datetime | None) -> None:
        """Take note of the breaks that are not resolved, and since when the oldest stands, None where none does."""
        self._oldest_at = oldest_at
        by_key: dict[tuple[str, str], Counted] = {(each.state, each.code): each for each in counts}
        for state, code in self._counted | set(by_key):
            found = by_key.get((state, code))
            self.breaks.labels(state, code).set(0 if found is None else found.breaks)
        standing = [each for each in counts if each.state in STANDING]
        for code in self._at_risk | {each.code for each in standing}:
            self.points_at_risk.labels(code).set(sum(each.points_at_risk for each in standing if each.code == code))
        # What is gone is 0 from now on, not what it was last.
        self._counted |= set(by_key)
        self._at_risk |= {each.code for each in standing}

    def read_until(self, moments: Mapping[Side, datetime | None]) -> None:
        """Take note of the moments up to which both sides were read."""
        self._read_until = {side: moment for side, moment in moments.items() if moment is not None}

    def _read_age_seconds(self, side: Side) -> float:
        return self._age_seconds(self._read_until.get(side, self._began_at))

    def _age_seconds(self, since: datetime) -> float:
        return max((self._now() - since).total_seconds(), 0.0)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, namespace=PREFIX, registry=self._registry)
