"""Metrics of what runs for ever, and of a shadow and its comparison, for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from consumers.shadow import Step
from ledger.findings import Counts

__all__ = ["PREFIX", "LoopMetrics", "Metrics"]

PREFIX = "ledger_replay"


class LoopMetrics:
    """What is measured of whatever runs for ever; other metrics of the process are in the same registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.up = self._gauge("up", "1 while the process follows and compares.")
        self.ready = self._gauge(
            "ready", "1 once everything that is followed has caught up, while sources and database answer."
        )
        self.alerts = Counter(
            "alerts", "Attempts to tell the webhook.", ["kind", "result"], namespace=PREFIX, registry=self.registry
        )
        self.errors = Counter(
            "errors", "Times that a source or the database did not answer.", namespace=PREFIX, registry=self.registry
        )

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(name, documentation, namespace=PREFIX, registry=self.registry)


class Metrics(LoopMetrics):
    """The same of a shadow and its comparison too.

    Events a second are the rate of `..._events_total`; moments and lengths are in seconds.
    Ages are those at `now` when they are asked for: whatever keeps the loop from going on, they grow.
    """

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self._now = now
        self._began_at = now()
        self._was_at_head_at: datetime | None = None
        self._behind_since: datetime | None = None
        self._oldest_at = self._began_at
        self.shadow_lag_events = self._gauge("shadow_lag_events", "Events that the shadow has not applied yet.")
        self.held_back_events = self._gauge(
            "held_back_events", "Events of the topic that a transaction left open there holds back from all readers."
        )
        lag_seconds = self._gauge(
            "shadow_lag_seconds",
            "For how long the shadow has not had all events: since the newest that it has, or since it had all.",
        )
        lag_seconds.set_function(lambda: 0.0 if self._behind_since is None else self._age_seconds(self._behind_since))
        self.shadow_position = Gauge(
            "shadow_position",
            "Where the shadow is, by partition: of a store the position (partition 0), of a topic the next offset.",
            ["partition"],
            namespace=PREFIX,
            registry=self.registry,
        )
        self.shadow_events = Counter(
            "shadow_events", "Events that this process has applied.", namespace=PREFIX, registry=self.registry
        )
        self.drifted_accounts = self._gauge("drifted_accounts", "Accounts that differ from the replay, for certain.")
        self.suspected_accounts = self._gauge("suspected_accounts", "Accounts that differ and may still settle.")
        self.uncompared_accounts = self._gauge("uncompared_accounts", "Accounts that cannot be compared.")
        self.parked_accounts = self._gauge("parked_accounts", "Accounts that the shadow cannot vouch for.")
        oldest_age = self._gauge(
            "oldest_uncompared_chunk_age_seconds", "Time since the chunk was compared that has waited longest."
        )
        oldest_age.set_function(lambda: self._age_seconds(self._oldest_at))
        self.rounds = Counter(
            "rounds",
            "Whole rounds of the comparison, by verdict.",
            ["verdict"],
            namespace=PREFIX,
            registry=self.registry,
        )
        self.round_seconds = Summary(
            "round_seconds", "How long whole rounds took.", namespace=PREFIX, registry=self.registry
        )

    def stepped(self, step: Step, *, newest_at: datetime | None, now: datetime) -> None:
        """Take note of a step; `newest_at` is when the newest event that was ever applied was recorded."""
        self.shadow_events.inc(step.events)
        self.shadow_lag_events.set(step.lag_events)
        self.held_back_events.set(step.held_back_events)
        if step.lag_events == 0:
            self._was_at_head_at, self._behind_since = now, None
        else:
            known = [moment for moment in (newest_at, self._was_at_head_at) if moment is not None]
            self._behind_since = max(known, default=self._began_at)
        positions = {0: step.position} if isinstance(step.position, int) else step.position
        for partition, position in positions.items():
            self.shadow_position.labels(str(partition)).set(position)

    def counted(self, counts: Counts) -> None:
        """Take note of how many accounts have open findings."""
        self.drifted_accounts.set(counts.drifted)
        self.suspected_accounts.set(counts.suspected)
        self.uncompared_accounts.set(counts.uncompared)

    def compared(self, oldest_at: datetime) -> None:
        """Take note of when the chunk was compared that has waited longest; until then it is since the start."""
        self._oldest_at = oldest_at

    def _age_seconds(self, since: datetime) -> float:
        return max((self._now() - since).total_seconds(), 0.0)
