"""What `drift --watch` and `watch` run: a shadow, its comparison, and with `watch` the reconciliation beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from console.alerting import alerting, configured_webhook
from console.answer import Answer
from console.drift_answers import watched_answer
from console.live_tables import UnreadRows
from console.log_lines import log_to_stderr
from console.reconciling import (
    Around,
    Ledger,
    break_metrics,
    orders_source,
    reconciled_for_ever,
    reconciliation,
    waiting,
)
from console.run import Run
from console.stopping import stopped_by_signals
from consumers.health import Health, application, serving
from consumers.loop import Loop
from consumers.metrics import Metrics
from consumers.reactions import Reactions
from consumers.reconciliation_task import AwaitedReconciliation
from consumers.shadow import LIVE_EVENTS, Following, StoreShadow
from consumers.shadow_start import Start
from consumers.watching import Watching
from ledger import read_model, shadows
from ledger.order_transactions import FOLLOWER
from replay.checkpoint import Checkpoints
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.merged import ForeignPair
from replay.comparison.own import OwnPair
from replay.comparison.replayed import ShadowRows
from replay.comparison.rounds import Rounds
from replay.full_replay import CORE
from schemas.errors import StoreError, UsageError

if TYPE_CHECKING:
    from consumers.loop import Task
    from consumers.reactions import Log
    from consumers.reconciliation_task import ReconciliationTask
    from ledger.store import Store
    from replay.comparison.chunk import Pair
    from replay.topic.client import Waiting

__all__ = ["SHADOW", "Watch", "shadow_of", "watch_drift"]

#: The name of the shadow where none is given.
SHADOW = "shadow"


#: What stands before the name of the shadow in that of a comparison.
_OF_SHADOW = ", shadow "


class Watch(NamedTuple):
    """What to watch: from where the shadow follows and begins, what it is compared with (None: our own read model).

    `rounds` ends it after so many whole rounds; `listen` is where its endpoint is, None for as configured; `shadow` is
    the name of the shadow. With `reconciles` the orders that the ledger knows are reconciled beside it.
    """

    source: str
    topic: str | None
    start: str | None
    restart: bool
    live: LiveTable | None
    rounds: int | None
    listen: str | None
    shadow: str = SHADOW
    reconciles: bool = False


def watch_drift(run: Run, watch: Watch, *, explain: bool = False) -> Answer:
    """Follow and compare until Ctrl-C or SIGTERM, or until the rounds are done, and answer what is open then."""
    settings = run.settings.watch
    listen = watch.listen or settings.listen
    if watch.shadow == FOLLOWER:
        raise UsageError(f"the shadow {FOLLOWER!r} is that of the reconciliation", next_step="choose another --shadow")
    # Before anything is made: what is configured wrong must not be found out after an hour of catching up.
    webhook = configured_webhook(run)
    log = log_to_stderr()
    stop = threading.Event()
    health, metrics = Health(healthy_seconds=settings.healthy_seconds), Metrics(now=lambda: run.now)
    with ExitStack() as stack:
        store = stack.enter_context(run.ledger_with_events())
        start = _start(run, store, watch.start)
        if listen is not None:
            address = stack.enter_context(serving(listen, application(metrics.registry, health)))
            log.info("listening", address=address)
        stack.enter_context(stopped_by_signals(stop, only_if=True))
        around = Around(metrics, health, log, webhook)
        pair = stack.enter_context(closing(_pair(run, store, watch, log)))
        watching = stack.enter_context(
            _comparing(run, store, watch, start=start, pair=pair, around=around, metrics=metrics)
        )
        reconciling = _reconciling(run, store, watch, around, stack) if watch.reconciles else None
        tasks: list[Task] = [watching, *([] if reconciling is None else [reconciling])]
        Loop(tasks, metrics=metrics, health=health, log=log).run(stop.is_set)
        live = "foreign" if watch.live else "read_model"
        answer = watched_answer(store, pair.name, watching.end(), live=live, explain=explain)
        if reconciling is None or reconciling.task is None:
            return answer
        return _with_breaks(answer, reconciled_for_ever(run, store, reconciling.task))


@contextmanager
def _comparing(
    run: Run, store: Store, watch: Watch, *, start: Start, pair: Pair, around: Around, metrics: Metrics
) -> Iterator[Watching]:
    """Yield the task that compares live with the shadow, and tells what it finds."""
    settings, log = run.settings.watch, around.log
    with ExitStack() as stack:
        if watch.start is not None and not watch.restart and _is_there(store, watch.shadow):
            log.warning("the shadow is there and goes on where it is: --start is for a new one", shadow=watch.shadow)
        waits = waiting("events", around.health, log)
        following = stack.enter_context(closing(_following(run, store, watch, start, waits)))
        rounds = Rounds(store, pair, chunk_seconds=settings.chunk_seconds, load_max=settings.load_max)
        stack.callback(rounds.release)
        reactions = Reactions(store, pair.name, metrics=metrics, log=log, now=lambda: run.now)
        if around.webhook is not None:
            stack.enter_context(alerting(store, pair.name, around.webhook, reactions, log))
        yield Watching(
            following,
            rounds,
            reactions,
            metrics=metrics,
            health=around.health,
            log=log,
            rounds_max=watch.rounds,
            parked=lambda: _parked(store, following),
            now=lambda: run.now,
        )


def _reconciling(run: Run, store: Store, watch: Watch, around: Around, stack: ExitStack) -> AwaitedReconciliation:
    """Return the task that reconciles as soon as an order is known."""
    metrics = break_metrics(run, around)

    def begin() -> ReconciliationTask | None:
        source = orders_source(run, store)
        if source is None:
            return None
        with store.snapshot() as connection:
            follower = shadows.find(connection, FOLLOWER)
        # A reconciliation that has begun goes on with what it follows, whatever the comparison does.
        ledger = Ledger(watch.source, watch.topic) if follower is None else Ledger(follower.source, follower.topic)
        return stack.enter_context(reconciliation(run, store, ledger, source, around, metrics=metrics))

    awaited = AwaitedReconciliation(begin, registry=around.metrics.registry, health=around.health, log=around.log)
    # What is wrong with it must not be found out only in the loop.
    awaited.look()
    return awaited


def _with_breaks(answer: Answer, found: Answer) -> Answer:
    """Return the answer of a watch together with what stands between orders and ledger."""
    told = ("breaks_count", "points_at_risk", "withheld", "parked_orders", "read_until_at")
    return replace(
        answer,
        fields={
            **answer.fields,
            "reconciliation": found.verdict,
            **{name: found.fields[name] for name in told},
            "breaks": found.table,
        },
        summary=[*answer.summary, "", *found.summary],
        notes=[*answer.notes, *found.notes],
        also=[*answer.also, found.verdict, *found.also],
    )


def _following(run: Run, store: Store, watch: Watch, start: Start, waits: Waiting) -> Following:
    events = run.settings.watch.batch_events or LIVE_EVENTS
    shared: dict[str, Any] = {"name": watch.shadow, "start": start, "restart": watch.restart, "batch_events": events}
    if watch.source == "store":
        return StoreShadow(store, now=lambda: run.now, **shared)
    from consumers.topic_shadow import TopicShadow

    return TopicShadow(store, run.kafka(), run.topic(watch.topic), waiting=waits, now=lambda: run.now, **shared)


def _start(run: Run, store: Store, words: str | None) -> Start:
    """Return what a new shadow begins with, as --start says."""
    if words is None or words == "zero":
        return Start()
    if words == "checkpoint":
        return Start(checkpoints=Checkpoints(run.data / "checkpoints", store.ledger_id, CORE))
    if words.isdecimal():
        return Start(generation=int(words))
    raise UsageError(
        f"a shadow does not start from {words!r}", next_step="use zero, checkpoint or a generation's number"
    )


def _pair(run: Run, store: Store, watch: Watch, log: Log) -> Pair:
    if watch.live is None:
        own = OwnPair(store, watch.shadow)
        own.name = _named(own.name, watch)
        return own
    rows = ShadowRows(store, watch.shadow) if watch.source == "store" else _topic_rows(run, store, watch)
    table = ForeignTable(watch.live)
    try:
        # What is wrong with it must not be found out after an hour of catching up; an outage may be over by then.
        table.open().close()
    except StoreError as error:
        log.warning("the live table does not answer yet", error=error.what)
    except BaseException:
        table.close()
        raise
    pair = ForeignPair(table, rows, rejects=UnreadRows(log).add)
    pair.name = _named(pair.name, watch)
    return pair


def shadow_of(comparison: str) -> str:
    """Return the name of the shadow of a comparison, by its own name."""
    return comparison.partition(_OF_SHADOW)[2] or SHADOW


def _named(name: str, watch: Watch) -> str:
    return name if watch.shadow == SHADOW else f"{name}{_OF_SHADOW}{watch.shadow}"


def _topic_rows(run: Run, store: Store, watch: Watch) -> ShadowRows:
    """Return a shadow's rows whose log is a topic."""
    from replay.topic.accounts import TopicAccounts, accounts_between
    from replay.topic.refusals import topic_named

    kafka, name = run.kafka(), run.topic(watch.topic)
    # In which partition an account is nobody but its events can say: others may have written them.
    homes: dict[str, int | None] = {}

    def head() -> dict[int, int]:
        return {partition: bounds.stable for partition, bounds in topic_named(kafka, name).partitions.items()}

    return ShadowRows(
        store,
        watch.shadow,
        source_of=lambda _: TopicAccounts(kafka, name, until=head(), homes=homes),
        head_of=lambda _: head(),
        log_partition=homes.get,
        since=lambda partition, after, until: accounts_between(kafka, name, partition, after, until),
    )


def _is_there(store: Store, name: str) -> bool:
    with store.snapshot() as connection:
        return shadows.find(connection, name) is not None


def _parked(store: Store, following: Following) -> int:
    with store.snapshot() as connection:
        return read_model.parked(connection, following.shadow.number).height
