"""What a drifted account reads like: a report to work from, made of its differences and its replayed steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from console.words import count
from replay.steps import SUMS
from schemas import format_time

if TYPE_CHECKING:
    from replay.differences import Drifted
    from replay.steps import Steps

__all__ = ["AROUND", "explanation_lines"]

#: Classes whose replayed side is not what the steps of the account come to.
_NOT_REPLAYED = frozenset({"row_extra", "log_damaged", "shadow_wrong"})

#: Events that are shown before and after the one that is blamed.
AROUND = 3

_CLASSES = {
    "missed_event": "live did not apply an event that the log has",
    "applied_twice": "live applied an event of the log twice",
    "foreign_write": "something other than the events of the log wrote this row",
    "row_missing": "live lost the row, or never made it",
    "row_extra": "live has a row that no event made",
    "log_damaged": "the log itself is damaged here",
    "shadow_wrong": "live is right; the rows it was compared with are not",
}
_SURE = {
    "missed_event": "the row is exactly what is left without it; a change by hand of just this would look the same",
    "applied_twice": "the row is exactly what is left by it; a change by hand of just this would look the same",
    "foreign_write": "every event was tried, missed and applied twice, and none gives this row; two faults at once may",
    "row_missing": "certain: the log is whole here, and live has no such row",
    "row_extra": "certain for this log: neither an event nor a head names the account; another ledger may know it",
    "log_damaged": "nothing: until the log is repaired either side may be right",
    "shadow_wrong": "certain: the account was replayed alone, and gives the live row",
}
_NEXT = {
    "missed_event": "see why the writer of live skipped it, and whether it skipped it for others too; then {correct}",
    "applied_twice": "see why the writer of live takes an event again, and what else it took then; then {correct}",
    "foreign_write": "find who wrote to live past the events: a script, a trigger, a restored backup; then {correct}",
    "row_missing": "see whether it was deleted or never written; then {correct}",
    "row_extra": "find where it comes from before anything is removed: the log may be the one that lost an account",
    "log_damaged": "run `verify`, repair the log (`import events` from a topic or an export), then compare again",
    "shadow_wrong": "leave live alone, start the shadow anew, and report it: this is a fault of the product",
}


def explanation_lines(accounts: Sequence[Drifted], found: Steps, *, is_own: bool) -> list[str]:
    """Return a block of lines for each drifted account, as `drift --explain` shows them.

    `accounts` are differences as `drift` or a watch gives them, those of one account together; `found` are the steps of
    these accounts up to the position that they were compared at. So that memory is bounded, ask for the accounts that
    are shown, not for all that drifted:

        shown = [each for each in drifted if each.account_id in first_ids]
        with StoreSource.snapshot(store) as source:
            found = steps(source, first_ids, until=certificate.store_position)
        lines = explanation_lines(shown, found, is_own=live == "read_model")

    `is_own` says that live is our own read model, which decides what to do next.
    """
    lines: list[str] = []
    for account_id, own in groupby(accounts, key=lambda each: each.account_id):
        frame = found.frame.filter(pl.col("account_id") == account_id)
        entries = list(own)
        lines += [*([""] if lines else []), *_block(entries, _up_to_replayed(entries, frame), is_own=is_own)]
    return lines


def _up_to_replayed(own: list[Drifted], frame: pl.DataFrame) -> pl.DataFrame:
    """Return the steps up to the last that left what was replayed then, none where no step did.

    The log may have gone on since, or not be the one that was compared, and other points would contradict the report.
    """
    sums = [each for each in own if each.field in SUMS and isinstance(each.replayed, int)]
    if not sums or own[0].cause in _NOT_REPLAYED:
        return frame
    is_then = pl.all_horizontal(pl.col(f"after_{each.field}") == pl.lit(each.replayed, pl.Int128) for each in sums)
    return frame.filter(pl.col("version") <= pl.col("version").filter(is_then).max())


def _block(own: list[Drifted], frame: pl.DataFrame, *, is_own: bool) -> Iterator[str]:
    first = own[0]
    yield f"{first.account_id}: {first.cause}: {_CLASSES[first.cause]}"
    for each in own:
        yield f"  {each.field:<18}{_difference(each)}"
    at = frame.filter(pl.col("event_id") == first.first_event) if first.first_event is not None else frame.clear()
    if not at.is_empty():
        yield from _first_event(at.row(0, named=True), is_only=first.cause != "row_missing")
    yield f"  {'evidence':<18}{first.evidence}"
    if first.cause in {"missed_event", "applied_twice"} and not at.is_empty():
        yield from _with_and_without(first, own, frame, at)
    if not frame.is_empty():
        place = at["version"][0] if not at.is_empty() else frame["version"][-1]
        yield from _events(frame, place, is_blamed=not at.is_empty())
    yield f"  {'how sure':<18}{_SURE[first.cause]}"
    correct = "`rebuild --promote`" if is_own else "correct the row in live"
    yield f"  {'next':<18}{_NEXT[first.cause].format(correct=correct)}"


def _difference(each: Drifted) -> str:
    if each.field == "row":
        sides = [("live", each.live), ("replayed", each.replayed)]
        return ", ".join(f"{side} has {'no row' if value is None else f'balance {value:,}'}" for side, value in sides)
    told = f"live {_text(each.live)}, replayed {_text(each.replayed)}"
    if each.difference is None or each.field.endswith("version"):
        return told
    return f"{told}: {abs(each.difference):,} too {'many' if each.difference > 0 else 'few'}"


def _text(value: int | str | None) -> str:
    return "nothing" if value is None else f"{value:,}" if isinstance(value, int) else value


def _first_event(event: dict[str, Any], *, is_only: bool) -> Iterator[str]:
    what = "first event" if is_only else "begins with"
    place = f"version {event['version']:,}, position {event['position']:,}, {format_time(event['effective_at'])}"
    yield f"  {what:<18}{event['event_id']} ({place})"
    yield f"  {'':<18}{_what(event)}"


def _what(event: dict[str, Any]) -> str:
    """Return an event as people tell it: `credit of 10, transaction t-1, none -> completed`."""
    if event["told_status"] is not None:
        return f"{event['event']}, the status is {event['told_status']} from here on"
    if event["transaction_id"] is None:
        return str(event["event"])
    change = f"{event['from_status'] or 'none'} -> {event['to_status']}"
    return f"{event['type']} of {event['amount']:,}, transaction {event['transaction_id']}, {change}"


def _with_and_without(first: Drifted, own: list[Drifted], frame: pl.DataFrame, at: pl.DataFrame) -> Iterator[str]:
    """What live would be if it had applied every event once, and what it is with the fault."""
    sums = [each for each in own if each.field in SUMS]
    if not sums:
        return
    end, worth = frame.row(-1, named=True), at.row(0, named=True)
    sign, word = (1, "with it twice") if first.cause == "applied_twice" else (-1, "without it")
    faulty = [end[f"after_{each.field}"] + sign * worth[each.field] for each in sums]
    before = frame.filter(pl.col("version") < worth["version"])
    if faulty != [each.live for each in sums] and first.cause == "missed_event" and not before.is_empty():
        # Not this event alone was missed, but this one and all that came after it.
        word, faulty = "stopped before it", [before[f"after_{each.field}"][-1] for each in sums]
    once = ", ".join(f"{each.field} {end[f'after_{each.field}']:,}" for each in sums)
    yield f"  {'each applied once':<18}{once}"
    if faulty == [each.live for each in sums]:
        yield f"  {word:<18}" + ", ".join(f"{each.field} {value:,}" for each, value in zip(sums, faulty, strict=True))


def _events(frame: pl.DataFrame, place: int, *, is_blamed: bool) -> Iterator[str]:
    """The events around a version with the points after each, the blamed one marked."""
    near = frame.filter(pl.col("version").is_between(place - AROUND, place + AROUND))
    yield f"  {'events':<18}{count(frame.height, 'event')}; " + ("around it:" if is_blamed else "the last ones:")
    for event in near.iter_rows(named=True):
        mark = ">" if is_blamed and event["version"] == place else " "
        after = f"balance {event['after_balance']:,}, frozen {event['after_frozen']:,}"
        yield f"  {mark} {event['version']:>6,}  {format_time(event['effective_at'])}  {_what(event)}: {after}"
