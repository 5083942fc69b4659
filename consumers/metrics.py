"""Metrics of a shadow and its comparison, for Prometheus, in a registry of their own."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from consumers.shadow import Step
from ledger.findings import Counts

__all__ = ["Metrics"]

PREFIX = "ledger_replay"


class Metrics:
    """What is measured. Events a second are the rate of `..._events_total`; moments and lengths are in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.up = self._gauge("up", "1 while the process follows and compares.")
        self.ready = self._gauge("ready", "1 once the shadow has caught up, while its source and database answer.")
        self.shadow_lag_events = self._gauge("shadow_lag_events", "Events that the shadow has not applied yet.")
        self.shadow_lag_seconds = self._gauge(
            "shadow_lag_seconds", "Age of the newest event that the shadow has applied, 0 where it has all."
        )
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
        self.oldest_uncompared_chunk_age_seconds = self._gauge(
            "oldest_uncompared_chunk_age_seconds", "Time since the chunk was compared that has waited longest."
        )
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
        self.alerts = Counter(
            "alerts", "Attempts to tell the webhook.", ["kind", "result"], namespace=PREFIX, registry=self.registry
        )
        self.errors = Counter(
            "errors", "Times that a source or the database did not answer.", namespace=PREFIX, registry=self.registry
        )

    def stepped(self, step: Step, *, newest_at: datetime | None, now: datetime) -> None:
        """Take note of a step; `newest_at` is when the newest event that was ever applied was recorded."""
        self.shadow_events.inc(step.events)
        self.shadow_lag_events.set(step.lag_events)
        is_behind = step.lag_events > 0 and newest_at is not None
        age = (now - newest_at).total_seconds() if is_behind and newest_at is not None else 0.0
        self.shadow_lag_seconds.set(max(age, 0.0))
        positions = {0: step.position} if isinstance(step.position, int) else step.position
        for partition, position in positions.items():
            self.shadow_position.labels(str(partition)).set(position)

    def counted(self, counts: Counts) -> None:
        """Take note of how many accounts have open findings."""
        self.drifted_accounts.set(counts.drifted)
        self.suspected_accounts.set(counts.suspected)
        self.uncompared_accounts.set(counts.uncompared)

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(name, documentation, namespace=PREFIX, registry=self.registry)
