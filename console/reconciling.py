"""What `reconcile --watch` runs, and `watch` beside its comparison: the reconciliation that never stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from console.alerting import alerting, configured_webhook
from console.break_answers import breaks_answer
from console.log_lines import log_to_stderr
from console.run import Run
from console.stopping import stopped_by_signals
from console.words import count
from consumers.break_alerts import BREAKS, COMPARISON
from consumers.break_metrics import BreakMetrics
from consumers.break_reactions import BreakReactions
from consumers.health import Health, application, serving
from consumers.loop import Loop
from consumers.metrics import LoopMetrics
from consumers.reconciliation.judging import Judge, Judged
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.reconciliation.read_until import StoreReading, TopicOfLedger, TopicOfOrders, high_ends
from consumers.reconciliation.reconciling import Reconciling
from consumers.reconciliation_task import ReconciliationTask
from consumers.shadow import LIVE_EVENTS, StoreShadow
from ledger import orders
from ledger.break_rows import NOT_RESOLVED, Selection
from ledger.order_transactions import FOLLOWER
from projections.reconciliation import Rules
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.answer import Answer
    from consumers.alerts import Webhook
    from consumers.reactions import Log
    from consumers.reconciliation.read_until import Reading
    from consumers.shadow import Following
    from ledger.orders import Source
    from ledger.shadows import Shadow
    from ledger.store import Store
    from replay.topic.client import Waiting

__all__ = [
    "Around",
    "Ledger",
    "break_metrics",
    "orders_source",
    "reconcile_for_ever",
    "reconciled_for_ever",
    "reconciliation",
    "waiting",
]


class Ledger(NamedTuple):
    """Where the ledger's side comes from: `store` or `topic`, of what name; `restart` reads it anew."""

    source: str = "store"
    topic: str | None = None
    restart: bool = False


class Around(NamedTuple):
    """What the loop shares among its tasks."""

    metrics: LoopMetrics
    health: Health
    log: Log
    webhook: Webhook | None


def reconcile_for_ever(run: Run, ledger: Ledger, *, rounds: int | None, listen: str | None) -> Answer:
    """Reconcile until Ctrl-C or SIGTERM, or until the rounds are whole, and answer what stands then."""
    settings = run.settings.watch
    listen = listen or settings.listen
    # Before anything is made: what is configured wrong must not be found out after an hour of catching up.
    webhook = configured_webhook(run)
    stop = threading.Event()
    around = Around(LoopMetrics(), Health(healthy_seconds=settings.healthy_seconds), log_to_stderr(), webhook)
    with ExitStack() as stack:
        store = stack.enter_context(run.ledger_with_events())
        source = _need_orders(run, store)
        if listen is not None:
            address = stack.enter_context(serving(listen, application(around.metrics.registry, around.health)))
            around.log.info("listening", address=address)
        stack.enter_context(stopped_by_signals(stop, only_if=True))
        metrics = break_metrics(run, around)
        task = stack.enter_context(reconciliation(run, store, ledger, source, around, metrics=metrics, rounds=rounds))
        Loop([task], metrics=around.metrics, health=around.health, log=around.log).run(stop.is_set)
        return reconciled_for_ever(run, store, task)


def orders_source(run: Run, store: Store) -> Source | None:
    """Return where orders come from: as the ledger knows it, else the topic that is configured; None without either.

    UsageError where the ledger has its orders from elsewhere than is configured.
    """
    with store.snapshot() as connection:
        found = orders.source(connection)
    topic = run.settings.reconcile.orders_topic
    if topic is None:
        return found
    if found is not None and found.topic != topic:
        known = "files" if found.topic is None else f"the topic {found.topic!r}"
        raise UsageError(
            f"the orders of this ledger come from {known}, and not from the topic {topic!r} that is configured",
            where="[reconcile] orders_topic",
            next_step=f"leave it away, or `import orders --from-topic {topic} --restart`: that forgets the others",
        )
    return found or orders.Source("topic", topic)


def _need_orders(run: Run, store: Store) -> Source:
    """Return where orders come from; UsageError where none ever came and no topic of them is configured."""
    source = orders_source(run, store)
    if source is None:
        raise UsageError(
            "no order is known, so there is nothing to reconcile",
            next_step="`import orders FILE` or `import orders --from-topic NAME` first, or set orders_topic under "
            "[reconcile]",
        )
    return source


def break_metrics(run: Run, around: Around) -> BreakMetrics:
    """Return the metrics of breaks, which the loop has once."""
    return BreakMetrics(around.metrics.registry, now=lambda: run.now)


@contextmanager
def reconciliation(
    run: Run,
    store: Store,
    ledger: Ledger,
    source: Source,
    around: Around,
    *,
    metrics: BreakMetrics,
    rounds: int | None = None,
) -> Iterator[ReconciliationTask]:
    """Yield the task that reconciles the ledger with the orders of a source, and tells what it finds."""
    settings = run.settings.reconcile
    log, health = around.log, around.health
    reactions = BreakReactions(
        store,
        alert_after_seconds=settings.alert_after_seconds,
        loop_metrics=around.metrics,
        metrics=metrics,
        log=log,
        now=lambda: run.now,
    )
    rules = Rules(grace_seconds=settings.grace_seconds, timing_seconds=settings.timing_seconds)

    def told(judged: Judged) -> None:
        if judged.is_anew:
            log.info("the rules are not those of the last judgement: all orders are judged again", **rules._asdict())
        reactions.judged(judged)

    with ExitStack() as stack:
        following = stack.enter_context(closing(_following(run, store, ledger, waiting("ledger", health, log))))
        topic = None
        if source.topic is not None:
            from consumers.orders_topic import OrdersTopic

            waits = waiting("orders", health, log)
            topic = stack.enter_context(closing(OrdersTopic(store, run.kafka(), source.topic, waiting=waits)))
        if around.webhook is not None:
            stack.enter_context(alerting(store, COMPARISON, around.webhook, reactions, log, about=BREAKS))
        reconciling = Reconciling(
            store,
            following,
            Judge(store, rules, now=lambda: run.now),
            orders_topic=topic,
            readings=_readings(run, store, ledger, source, following),
            told=told,
            now=lambda: run.now,
        )
        log.info("reconciling", orders=source.topic or source.kind, ledger=ledger.source)
        yield ReconciliationTask(
            reconciling, reactions, metrics=metrics, log=log, now=lambda: run.now, rounds_max=rounds
        )


def waiting(source: str, health: Health, log: Log) -> Waiting:
    """Return what hears why brokers keep a source waiting, and of nothing more when they answer again."""

    def waits(words: str) -> None:
        health.waits_for(words or None, source=source)
        if words:
            log.warning("waiting", reason=words)
        else:
            log.info("goes on", source=source)

    return waits


def _following(run: Run, store: Store, ledger: Ledger, waits: Waiting) -> Following:
    events = run.settings.watch.batch_events or LIVE_EVENTS
    shared: dict[str, Any] = {
        "name": FOLLOWER,
        "restart": ledger.restart,
        "batch_events": events,
        "beside": OrderTransactions(),
        "now": lambda: run.now,
    }
    if ledger.source == "store":
        return StoreShadow(store, **shared)
    from consumers.topic_shadow import TopicShadow

    return TopicShadow(store, run.kafka(), run.topic(ledger.topic), waiting=waits, **shared)


def _readings(run: Run, store: Store, ledger: Ledger, source: Source, following: Following) -> tuple[Reading, ...]:
    """Return the sides whose ends are looked at; what came from files is there when it is imported."""
    of_ledger: Reading

    def shadow() -> Shadow:
        # Asked anew each time, since another instance may have begun it anew.
        return following.shadow

    if ledger.source == "store":
        of_ledger = StoreReading(store, shadow)
    else:
        of_ledger = TopicOfLedger(store, shadow, high_ends(run.kafka()))
    if source.topic is None:
        return (of_ledger,)
    return (of_ledger, TopicOfOrders(source.topic, high_ends(run.kafka())))


def reconciled_for_ever(run: Run, store: Store, task: ReconciliationTask) -> Answer:
    """Return what stands at the end of a task; INCOMPLETE without a whole round, since nothing is vouched for then."""
    found = breaks_answer(store, Selection(states=NOT_RESOLVED), now=run.now)
    note = [] if task.rounds else ["not all of both sides was read and judged here, so nothing is vouched for"]
    return replace(
        found,
        verdict=found.verdict if task.rounds else "INCOMPLETE",
        fields={"rounds": task.rounds, **found.fields},
        summary=[*found.summary, f"{count(task.rounds, 'whole round')} here"],
        notes=[*found.notes, *note],
    )
