"""What is done about breaks as they come and go: log lines, metrics, incidents, alerts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl

from consumers.alerts import Attempt
from consumers.break_alerts import COMPARISON
from consumers.break_metrics import BreakMetrics
from consumers.metrics import LoopMetrics
from consumers.reactions import LOGGED_MAX, Log, log_attempt
from consumers.reconciliation.judging import Judged
from ledger import break_rows, incidents
from ledger.incidents import Incident
from ledger.store import Store
from schemas import format_time

__all__ = ["LOOK_SECONDS", "BreakReactions"]

#: How often the table of breaks is looked at: persons decide, and what is open grows older.
LOOK_SECONDS = 1.0


class BreakReactions:
    """Tells what judging comes to, and of breaks that stay open for longer than `alert_after_seconds`."""

    def __init__(
        self,
        store: Store,
        *,
        alert_after_seconds: float,
        loop_metrics: LoopMetrics,
        metrics: BreakMetrics,
        log: Log,
        now: Callable[[], datetime],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self._alert_after = timedelta(seconds=alert_after_seconds)
        self._loop_metrics = loop_metrics
        self._metrics = metrics
        self._log = log
        self._now = now
        self._look_seconds = look_seconds
        self._looked_at: float | None = None
        self._alert: Callable[[], None] = lambda: None

    def alert_by(self, alert: Callable[[], None]) -> None:
        """Call `alert` from now on when something may be due for the webhook."""
        self._alert = alert

    def judged(self, judged: Judged) -> None:
        """Say what a judgement came to; it is committed by now."""
        self._metrics.judged_orders.inc(judged.orders)
        for changes in judged.changes:
            self._each(self._log.warning, "break opened", changes.opened, "points_at_risk", "evidence")
            self._each(self._log.warning, "break reopened", changes.reopened, "points_at_risk", "evidence")
            self._each(self._log.info, "break resolved", changes.resolved, "resolution", "opened_at")
            self._each(self._log.warning, "a resolved break changed", changes.changed, "resolution", "evidence")
        # What has changed is counted at the next look, however lately the last one was.
        self._looked_at = None

    def look(self) -> None:
        """Count what stands, if it is time, and begin or end the incident of breaks that stay open for too long."""
        moment = time.monotonic()
        if self._looked_at is not None and moment < self._looked_at + self._look_seconds:
            return
        now = self._now()
        with self._store.snapshot() as connection:
            counts = break_rows.counts(connection)
            oldest_at = break_rows.oldest_opened_at(connection)
            too_long = break_rows.standing_since(connection, self._before(now))
            withheld, parked = break_rows.doubts(connection)
            open_ = incidents.current(connection, COMPARISON)
        self._metrics.counted(counts, None if oldest_at is None else datetime.fromisoformat(oldest_at))
        self._metrics.withheld_orders.set(withheld)
        self._metrics.parked_order_records.set(parked)
        if too_long and (open_ is None or too_long > open_.drifted):
            self._begin(now)
        elif open_ is not None and not too_long:
            self._end(now, open_)
        self._looked_at = moment

    def told(self, attempt: Attempt) -> None:
        """Take note of an attempt to tell the webhook; called by the thread that sends."""
        self._loop_metrics.alerts.labels(attempt.kind, attempt.result).inc()
        log_attempt(self._log, attempt)

    def _begin(self, now: datetime) -> None:
        """Note how many have been open for too long, and tell it if that is new."""
        with self._store.writing() as connection:
            too_long = break_rows.standing_since(connection, self._before(now))
            begun = incidents.begun(connection, COMPARISON, too_long, now=format_time(now))
        if begun is not None:
            self._log.warning("breaks stay open", incident=begun.id, breaks=begun.drifted)
            self._alert()

    def _end(self, now: datetime, told: Incident) -> None:
        """End an incident, unless what it told of may still stand: the limit, or the clock, may have been set anew."""
        told_until = datetime.fromisoformat(told.opened_at)
        with self._store.writing() as connection:
            if break_rows.standing_since(connection, max(self._before(now), told_until)):
                return
            healed = incidents.healed(connection, COMPARISON, now=format_time(now))
        if healed is not None:
            opened_at, most = healed.opened_at, healed.drifted
            self._log.info("no break stays open any more", incident=healed.id, opened_at=opened_at, breaks=most)
            self._alert()

    def _before(self, now: datetime) -> datetime:
        """Return the moment since when what stands has stood for too long."""
        # A clock may be set to any moment that there is.
        since_first = now - datetime.min.replace(tzinfo=UTC)
        return now - min(self._alert_after, since_first)

    def _each(self, say: Callable[..., object], event: str, found: pl.DataFrame, *names: str) -> None:
        shown = ("id", "order_id", "code", "account_id", *names)
        for row in found.head(LOGGED_MAX).select(shown).iter_rows(named=True):
            values = {name: format_time(value) if isinstance(value, datetime) else value for name, value in row.items()}
            say(event, **{"break": values.pop("id")}, **values)
        if found.height > LOGGED_MAX:
            say(f"{event}: more", breaks=found.height - LOGGED_MAX)
