"""What a run of a recovery has around it: the system's check, the webhook, the hooks, copies, orders and reports."""

from __future__ import annotations

import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from console.alerting import configured_webhook
from console.recover_audit import HeadKeeper, outsides_of
from console.recover_places import Copies, LiveRows, healing_from, opened_target, system_state, table_of_plan
from replay.recovery.work import At, Options, Surroundings, Work

if TYPE_CHECKING:
    from console.run import Progress, Run
    from consumers.hooks import Hook, What
    from ledger.store import Store
    from replay.comparison.live_table import LiveTable
    from replay.recovery.plan import Plan

__all__ = ["Applying", "go_on_hook", "holder_of", "opened_work"]

_DOING = {
    "check": "checking",
    "settle": "settling",
    "correct": "correcting",
    "verify": "verifying",
    "unlock": "unlocking",
    "abort": "putting back",
}


@dataclass(frozen=True, kw_only=True)
class Applying:
    """What the options say of how a run is applied, resumed or aborted."""

    by: str
    rows: LiveRows
    copies: Copies
    batch: int | None = None
    throttle: float | None = None
    is_sure: bool = False


@contextmanager
def opened_work(run: Run, store: Store, plan: Plan, options: Applying) -> Iterator[tuple[Work, HeadKeeper]]:
    """Yield the work on a plan, its progress shown on a terminal, and what keeps the heads of its audit trail outside.

    Whatever of the configuration is wrong is found before anything is done.
    """
    table = table_of_plan(run, store, plan, options.rows)
    keeper = HeadKeeper(store, outsides_of(run, store), lambda: run.now, run.warn)
    with opened_target(store, table) as target, ExitStack() as stack:
        shown = stack.enter_context(_shown(run))

        def told(at: At) -> None:
            shown(at)
            keeper.keep()

        work = Work(
            store=store,
            plan=plan,
            target=target,
            data=run.data,
            options=Options(
                by=options.by,
                holder=holder_of(options.by),
                batch=options.batch,
                throttle=options.throttle,
                now=lambda: run.now,
            ),
            around=Surroundings(),
            told=told,
        )
        work.around = _around(run, store, table, work, options.copies)
        yield work, keeper


def holder_of(by: str) -> str:
    """Return what this process holds a lease as."""
    return f"{by} on {socket.gethostname()}, {uuid.uuid4().hex[:8]}"


def go_on_hook(run: Run, name: str) -> Callable[[], None] | None:
    """Return what lets the foreign system go on after a run, None where nothing is configured."""
    return _hook(run.settings.recover.hooks()[1], name, "go_on")


def _around(run: Run, store: Store, table: LiveTable | None, work: Work, copies: Copies) -> Surroundings:
    from console.recover_report import write_reports

    webhook = configured_webhook(run)
    pause, go_on = run.settings.recover.hooks()

    def alert(kind: str, content: Mapping[str, Any]) -> str | None:
        from consumers.alarm import tell

        return None if webhook is None else tell(webhook, kind, content)

    return Surroundings(
        check=lambda: system_state(run, store, table, is_own=table is None, copies=copies),
        alert=None if webhook is None else alert,
        pause=_hook(pause, work.run, "pause"),
        go_on=_hook(go_on, work.run, "go_on"),
        healing=_healing(run, work.plan),
        reconcile=lambda: _reconciled(run, store),
        report=lambda ending: write_reports(run, store, work, ending),
    )


def _hook(hook: Hook | None, name: str, what: What) -> Callable[[], None] | None:
    if hook is None:
        return None
    from consumers.hooks import run_hook

    return lambda: run_hook(hook, run=name, what=what)


def _healing(run: Run, plan: Plan) -> Callable[[], Any] | None:
    source = plan.heal_source
    return None if source is None else lambda: healing_from(run, source)


def _reconciled(run: Run, store: Store) -> dict[str, Any]:
    """Reconcile all orders with the ledger and keep what is wrong as breaks; say so where no order is known."""
    from ledger import break_rows
    from projections.reconciliation import Rules
    from replay.reconcile import Range, ask_for, need_orders, reconcile
    from replay.reconcile_breaks import keep
    from replay.reconcile_sides import ledger_of_store, orders_of_ledger
    from schemas.errors import UsageError

    orders, span, now = orders_of_ledger(store), Range(None, None), run.now
    try:
        need_orders(orders)
    except UsageError as error:
        return {"skipped": True, "reason": error.what}
    said = run.settings.reconcile
    rules = Rules(grace_seconds=said.grace_seconds, timing_seconds=said.timing_seconds)
    ledger = ledger_of_store(store, ask_for(business_code=None, span=span), now=now)
    found, why_not = keep(store, reconcile(ledger, orders, rules=rules, span=span, now=now), now=now)
    risk = break_rows.total(found.standing)
    return {
        "orders": found.orders,
        "transactions": found.transactions,
        "breaks": risk.breaks,
        "orders_with_a_break": risk.orders,
        "points_at_risk": risk.points_at_risk,
        "pending": found.pending.height,
        "withheld": found.withheld.height,
        "not_kept": why_not,
    }


@contextmanager
def _shown(run: Run) -> Iterator[Callable[[At], None]]:
    """Yield what draws how far each step is, a bar a step; off a terminal it does nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with ExitStack() as stack:
        step, advance = "", None

        def show(at: At) -> None:
            nonlocal step, advance
            if at.step != step:
                stack.close()
                step, advance = at.step, _bar(run, stack, at)
            if advance is not None:
                advance(at.done, at.total)

        yield show


def _bar(run: Run, stack: ExitStack, at: At) -> Progress | None:
    return stack.enter_context(run.progress(_DOING.get(at.step, at.step), unit=at.of))
