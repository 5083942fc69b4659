"""`reconcile` without --watch: both sides from where the options say, judged once, kept where that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from console.archive_place import archive_to_ask
from console.import_options import mapping_from, name_of
from console.reconcile_answers import Reconciled, reconciled_answer
from console.reconcile_report import Sides, report_of
from console.reports.writing import write_report
from ledger.importing import FileSource, Mapping
from projections.reconciliation import Rules
from replay.reconcile import Found, Range, ask_for, need_orders, reconcile, reconcile_as_scenario
from replay.reconcile_breaks import keep
from replay.reconcile_files import FromFile, ledger_of_file, orders_of_file
from replay.reconcile_sides import (
    Asked,
    LedgerSide,
    OrderSide,
    ledger_of_archive,
    ledger_of_store,
    ledger_of_topic,
    orders_of_ledger,
)
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.answer import Answer
    from console.run import Run
    from ledger.store import Store

__all__ = ["Options", "reconcile_once"]

#: How far the scenario looks back where nothing says since when.
SCENARIO_RANGE = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the options of the command say; moments are words as they were given."""

    start: str | None
    end: str | None
    business_code: str | None
    orders: str | None
    transactions: str | None
    input_format: str | None
    map: Path | None
    source: str
    topic: str | None
    workers: int | None
    archive: str | None
    reports: Sequence[Path] = ()


class _FileReader(NamedTuple):
    """Reads files, and gathers what is said of rows that are not good; `format` is that of standard input."""

    run: Run
    mapping: Mapping
    now: datetime
    format: str | None
    said: dict[str, FromFile]

    def ledger(self, file: str) -> LedgerSide:
        side, self.said["transactions"] = ledger_of_file(
            self._input(file), mapping=self.mapping, rejects=self._rejects("transactions", file), now=self.now
        )
        return side

    def orders(self, file: str) -> OrderSide:
        side, self.said["orders"] = orders_of_file(
            self._input(file), mapping=self.mapping, rejects=self._rejects("orders", file), now=self.now
        )
        return side

    def _input(self, file: str) -> FileSource:
        return FileSource(file, self.format if file == "-" else None)

    def _rejects(self, kind: str, file: str) -> Path:
        # Neither the other side's nor an import's, which may read a file of the same name.
        return self.run.reports / f"rejects-reconcile-{kind}-{name_of(file)}.csv"


def reconcile_once(run: Run, options: Options) -> Answer:
    """Reconcile as the options say, and return the answer; UsageError where no order is known."""
    # Before anything is read: what happens later is not vouched for.
    now = run.now
    span = _span(run, options, now)
    asked = ask_for(business_code=options.business_code, span=span)
    files = _FileReader(run, mapping_from(run, options.map), now, options.input_format, {})
    with ExitStack() as stack:
        store = _store(run, options, stack)
        orders = files.orders(options.orders) if options.orders is not None else orders_of_ledger(_needed(store))
        need_orders(orders)
        if options.transactions is not None:
            ledger = files.ledger(options.transactions)
        else:
            ledger = _ledger(run, options, store, asked, now)
        found, why_not = _judged(run, options, ledger, orders, span, now=now), None
        is_kept = options.business_code is None and not files.said
        if is_kept:
            found, why_not = keep(_needed(store), found, now=now)
        done = Reconciled(
            found,
            span,
            options.business_code,
            is_default_start=options.business_code is not None and options.start is None,
            files=files.said,
            why_not_kept=why_not,
        )
        answer = reconciled_answer(done)
        if options.reports:
            write_report(report_of(done, answer, store, sides=_sides(run, options), now=now), options.reports)
    for name, said in files.said.items():
        if said.naive_times:
            run.warn(f"times of {name} without a zone are taken in {files.mapping.timezone}")
    return answer


def _sides(run: Run, options: Options) -> Sides:
    """Return where the two sides came from, as a report says it."""
    names = {"store": "the store", "archive": "the archive", "topic": f"topic {run.topic(options.topic)}"}
    of_ledger = names[options.source] if options.transactions is None else f"file {options.transactions}"
    is_own = options.orders is None or of_ledger == names["store"]
    of_orders = "the ledger" if options.orders is None else f"file {options.orders}"
    return Sides(f"transactions of {of_ledger}, orders of {of_orders}", is_own=is_own)


def _span(run: Run, options: Options, now: datetime) -> Range:
    start = None if options.start is None else run.moment(options.start, "--start")
    end = None if options.end is None else run.moment(options.end, "--end")
    if options.business_code is not None:
        end = end or now
        if start is None and end < now - SCENARIO_RANGE:
            raise UsageError(
                "--end is before the 24 hours that the scenario looks back from now", next_step="give --start too"
            )
        start = start or now - SCENARIO_RANGE
    if start is not None and end is not None and start > end:
        raise UsageError("--start is after --end, so no order is meant", next_step="exchange the two")
    return Range(start, end)


def _store(run: Run, options: Options, stack: ExitStack) -> Store | None:
    """Return the ledger, None where nothing is asked of one."""
    if options.transactions is None and options.source == "store":
        return stack.enter_context(run.ledger_with_events())
    if options.orders is None:
        return stack.enter_context(run.ledger())
    if options.transactions is None and options.source == "topic":
        # Where there is no ledger the topic alone answers, and an empty one that goes away stands in.
        return stack.enter_context(run.ledger_to_fill(dry_run=True))
    return None


def _needed(store: Store | None) -> Store:
    assert store is not None, "a ledger was opened for whatever is asked of one"  # noqa: S101 - tells mypy so.
    return store


def _ledger(run: Run, options: Options, store: Store | None, asked: Asked, now: datetime) -> LedgerSide:
    if options.source == "archive":
        # The archive knows of itself up to when it is whole, so only a clock that was given says anything more.
        archive = archive_to_ask(run, options.archive)
        return ledger_of_archive(archive, asked, now=now if run.options.now else None)
    if options.source == "topic":
        workers = options.workers or run.settings.kafka.workers
        with run.watch() as watch:
            return ledger_of_topic(
                _needed(store), run.kafka(), run.topic(options.topic), asked, now=now, workers=workers, watch=watch
            )
    with run.progress("replaying") as progress:
        return ledger_of_store(_needed(store), asked, now=now, progress=progress)


def _judged(run: Run, options: Options, ledger: LedgerSide, orders: OrderSide, span: Range, *, now: datetime) -> Found:
    settings = run.settings.reconcile
    rules = Rules(grace_seconds=settings.grace_seconds, timing_seconds=settings.timing_seconds)
    if options.business_code is not None and span.start is not None and span.end is not None:
        return reconcile_as_scenario(
            ledger, orders, business_code=options.business_code, start=span.start, end=span.end, rules=rules, now=now
        )
    return reconcile(ledger, orders, rules=rules, span=span, now=now)
