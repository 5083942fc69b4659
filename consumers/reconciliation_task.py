"""The reconciliation as a task of the loop: it steps, counts its rounds, and looks at what stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from consumers.break_metrics import BreakMetrics
from consumers.break_reactions import LOOK_SECONDS, BreakReactions
from consumers.health import Health
from consumers.metrics import PREFIX
from consumers.reactions import Log
from consumers.reconciliation.reconciling import Reconciling, Standing

__all__ = ["AwaitedReconciliation", "ReconciliationTask"]

_NOT_READY = "the reconciliation has not read both sides to their ends yet"
_NO_ORDERS = "no order is known, so nothing is reconciled"


class ReconciliationTask:
    """A task of the loop. A round is whole once all is judged that was there on both sides when it began.

    Rows of files are there when they are imported, so what is followed of such orders is only the ledger.
    """

    name = "reconciliation"

    def __init__(
        self,
        reconciling: Reconciling,
        reactions: BreakReactions,
        *,
        metrics: BreakMetrics,
        log: Log,
        now: Callable[[], datetime],
        rounds_max: int | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._reconciling = reconciling
        self._reactions = reactions
        self._metrics = metrics
        self._log = log
        self._now = now
        self._rounds_max = rounds_max
        self._look_seconds = look_seconds
        self._looked_at: float | None = None
        self._began_at: datetime | None = None
        self._is_read = False
        #: Whole rounds of this run.
        self.rounds = 0

    @property
    def why_not_ready(self) -> str | None:
        """Why nobody should rely on it yet, None once a round was whole."""
        return None if self.rounds else _NOT_READY

    def step(self) -> bool:
        """Do what there is to do on either side, and judge; then look at where that is, if it is time."""
        if self._began_at is None:
            self._began_at = self._now()
        did = self._reconciling.step()
        moment = time.monotonic()
        # Whoever waits for rounds need not wait for the clock, too.
        is_waited_for = self._rounds_max is not None and not did
        if self._looked_at is None or is_waited_for or moment >= self._looked_at + self._look_seconds:
            self._looked_at = moment
            self._look(self._reconciling.standing())
        self._reactions.look()
        return did

    def has_answered(self) -> bool:
        """Say yes: a step asks all that there is."""
        return True

    def is_done(self) -> bool:
        """Say whether its rounds are whole."""
        return self._rounds_max is not None and self.rounds >= self._rounds_max

    def let_go(self) -> None:
        """Do nothing: whatever failed is opened anew by whoever needs it."""

    def _look(self, standing: Standing) -> None:
        self._metrics.touched_orders.set(standing.touched)
        self._metrics.read_until({"orders": standing.orders_until, "ledger": standing.ledger_until})
        for side, step in (("orders", standing.orders), ("ledger", standing.ledger)):
            if step is not None:
                self._metrics.lag_events.labels(side).set(getattr(step, "lag_events", 0))
        if not self._is_whole(standing):
            return
        if self._is_read:
            self._end_round(standing)
        else:
            # What was judged by now opens once both sides were read past that.
            self._is_read, self._began_at = True, self._now()

    def _is_whole(self, standing: Standing) -> bool:
        sides = [standing.ledger_until]
        if self._reconciling.orders_topic is not None:
            sides.append(standing.orders_until)
        began_at = self._began_at
        return standing.touched == 0 and all(
            side is not None and began_at is not None and side >= began_at for side in sides
        )

    def _end_round(self, standing: Standing) -> None:
        self.rounds += 1
        self._began_at, self._is_read = None, False
        if self.rounds == 1 or self._rounds_max is not None:
            self._log.info(
                "reconciled",
                orders_until=standing.orders_until,
                ledger_until=standing.ledger_until,
                withheld=standing.withheld,
                parked_accounts=standing.parked_accounts,
            )


class AwaitedReconciliation:
    """A task of the loop that is the reconciliation once an order is known, and looks for one every `look_seconds`.

    `begin` gives the reconciliation, None where no order is known. What runs beside it can be relied on meanwhile; that
    nothing is reconciled is a log line, a note of /readyz and a metric.
    """

    name = "reconciliation"

    def __init__(
        self,
        begin: Callable[[], ReconciliationTask | None],
        *,
        registry: CollectorRegistry,
        health: Health,
        log: Log,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._begin = begin
        self._health = health
        self._log = log
        self._look_seconds = look_seconds
        self._looked_at: float | None = None
        documentation = "1 while orders are reconciled; 0 before the first order is known."
        self._reconciling = Gauge("reconciling", documentation, namespace=PREFIX, registry=registry)
        #: The reconciliation, None before it has begun.
        self.task: ReconciliationTask | None = None

    @property
    def why_not_ready(self) -> str | None:
        """Why nobody should rely on the reconciliation that has begun yet; None before that, and where they can."""
        return None if self.task is None else self.task.why_not_ready

    def look(self) -> None:
        """Begin if an order is known. Errors are those of `begin`."""
        is_first = self._looked_at is None
        self._looked_at = time.monotonic()
        self.task = self._begin()
        self._reconciling.set(0 if self.task is None else 1)
        self._health.note(_NO_ORDERS if self.task is None else None)
        if self.task is None and is_first:
            self._log.info(_NO_ORDERS)

    def step(self) -> bool:
        """Do a step of the reconciliation, or look whether it can begin, if it is time."""
        if self.task is None and (self._looked_at is None or time.monotonic() >= self._looked_at + self._look_seconds):
            self.look()
        return False if self.task is None else self.task.step()

    def has_answered(self) -> bool:
        """Say yes: a step asks all that there is."""
        return True

    def is_done(self) -> bool:
        """Say whether the reconciliation is done; what has not begun is not."""
        return self.task is not None and self.task.is_done()

    def let_go(self) -> None:
        """Do nothing: whatever failed is opened anew by whoever needs it."""
