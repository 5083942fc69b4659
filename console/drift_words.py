"""What a drifted account reads like: a report to work from, made of its differences and its replayed steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from console.words import count
from replay.steps import SUMS
from schemas import format_time

if TYPE_CHECKING:
    from replay.differences import Drifted
    from replay.steps import Steps

__all__ = ["AROUND", "Event", "Explanation", "FirstEvent", "explanation_lines", "explanations"]

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


class FirstEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event that a difference begins with: its id, its place, and what it is in words."""

    event_id: str
    version: int
    position: int
    effective_at: str
    what: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the account, what it is in words, and the points after it."""

    version: int
    effective_at: str
    what: str
    balance: int
    frozen: int
    is_first_event: bool


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a drifted account reads like, by the words of the text form; its differences are told elsewhere.

    `first_event` is None where no event can say. `each_applied_once` has each column of points that differs, beside it
    the one of the next three that is what live has, if one is. `events` are those around the first event, or the last
    ones, of `events_count`.
    """

    account_id: str
    cause: str = msgspec.field(name="class")
    meaning: str
    first_event: FirstEvent | None = None
    evidence: str
    each_applied_once: dict[str, int] | None = None
    with_it_twice: dict[str, int] | None = None
    without_it: dict[str, int] | None = None
    stopped_before_it: dict[str, int] | None = None
    events_count: int
    events: list[Event]
    how_sure: str
    next: str


def explanations(accounts: Sequence[Drifted], found: Steps, *, is_own: bool) -> list[Explanation]:
    """Return what each drifted account reads like.

    `accounts` are differences as `drift` or a watch gives them, those of one account together; `found` are the steps of
    these accounts up to the position that they were compared at. So that memory is bounded, ask for the accounts that
    are shown, not for all that drifted:

        shown = [each for each in drifted if each.account_id in first_ids]
        with StoreSource.snapshot(store) as source:
            found = steps(source, first_ids, until=certificate.store_position)
        told = explanations(shown, found, is_own=live == "read_model")

    `is_own` says that live is our own read model, which decides what to do next.
    """
    told = []
    for account_id, own in groupby(accounts, key=lambda each: each.account_id):
        entries = list(own)
        frame = _up_to_replayed(entries, found.frame.filter(pl.col("account_id") == account_id))
        told.append(_explanation(entries, frame, is_own=is_own))
    return told


def explanation_lines(accounts: Sequence[Drifted], told: Sequence[Explanation]) -> list[str]:
    """Return a block of lines for each explained account, with its differences, as `drift --explain` shows them."""
    lines: list[str] = []
    for each in told:
        own = [entry for entry in accounts if entry.account_id == each.account_id]
        lines += [*([""] if lines else []), *_block(own, each)]
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


def _explanation(own: list[Drifted], frame: pl.DataFrame, *, is_own: bool) -> Explanation:
    first = own[0]
    at = frame.filter(pl.col("event_id") == first.first_event) if first.first_event is not None else frame.clear()
    is_blamed = not at.is_empty()
    is_one_event = first.cause in {"missed_event", "applied_twice"} and is_blamed
    place = None if frame.is_empty() else at["version"][0] if is_blamed else frame["version"][-1]
    correct = "`rebuild --promote`" if is_own else "correct the row in live"
    return Explanation(
        account_id=first.account_id,
        cause=first.cause,
        meaning=_CLASSES[first.cause],
        first_event=_first_event(at.row(0, named=True)) if is_blamed else None,
        evidence=first.evidence,
        **(_with_and_without(first, own, frame, at) if is_one_event else {}),
        events_count=frame.height,
        events=[] if place is None else _events(frame, place, is_blamed=is_blamed),
        how_sure=_SURE[first.cause],
        next=_NEXT[first.cause].format(correct=correct),
    )


def _block(own: list[Drifted], told: Explanation) -> Iterator[str]:
    yield f"{told.account_id}: {told.cause}: {told.meaning}"
    for each in own:
        yield f"  {each.field:<18}{_difference(each)}"
    if (event := told.first_event) is not None:
        what = "begins with" if told.cause == "row_missing" else "first event"
        yield (
            f"  {what:<18}{event.event_id} (version {event.version:,}, position {event.position:,}, "
            f"{event.effective_at})"
        )
        yield f"  {'':<18}{event.what}"
    yield f"  {'evidence':<18}{told.evidence}"
    for name in ("each_applied_once", "with_it_twice", "without_it", "stopped_before_it"):
        if (values := getattr(told, name)) is not None:
            points = ", ".join(f"{field} {value:,}" for field, value in values.items())
            yield f"  {name.replace('_', ' '):<18}{points}"
    if told.events:
        where = "the last ones" if told.first_event is None else "around it"
        yield f"  {'events':<18}{count(told.events_count, 'event')}; {where}:"
    for near in told.events:
        after = f"balance {near.balance:,}, frozen {near.frozen:,}"
        yield f"  {'>' if near.is_first_event else ' '} {near.version:>6,}  {near.effective_at}  {near.what}: {after}"
    yield f"  {'how sure':<18}{told.how_sure}"
    yield f"  {'next':<18}{told.next}"


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


def _first_event(event: dict[str, Any]) -> FirstEvent:
    return FirstEvent(
        event_id=event["event_id"],
        version=event["version"],
        position=event["position"],
        effective_at=format_time(event["effective_at"]),
        what=_what(event),
    )


def _what(event: dict[str, Any]) -> str:
    """Return an event as people tell it: `credit of 10, transaction t-1, none -> completed`."""
    if event["told_status"] is not None:
        return f"{event['event']}, the status is {event['told_status']} from here on"
    if event["transaction_id"] is None:
        return str(event["event"])
    change = f"{event['from_status'] or 'none'} -> {event['to_status']}"
    return f"{event['type']} of {event['amount']:,}, transaction {event['transaction_id']}, {change}"


def _with_and_without(
    first: Drifted, own: list[Drifted], frame: pl.DataFrame, at: pl.DataFrame
) -> dict[str, dict[str, int]]:
    """What live would be if it had applied every event once, and what it is with the fault."""
    sums = [each for each in own if each.field in SUMS]
    if not sums:
        return {}
    end, worth = frame.row(-1, named=True), at.row(0, named=True)
    sign, word = (1, "with_it_twice") if first.cause == "applied_twice" else (-1, "without_it")
    live = {each.field: each.live for each in sums}
    faulty = {field: end[f"after_{field}"] + sign * worth[field] for field in live}
    before = frame.filter(pl.col("version") < worth["version"])
    if faulty != live and first.cause == "missed_event" and not before.is_empty():
        # Not this event alone was missed, but this one and all that came after it.
        word, faulty = "stopped_before_it", {field: before[f"after_{field}"][-1] for field in live}
    once = {"each_applied_once": {field: end[f"after_{field}"] for field in live}}
    return once | ({word: faulty} if faulty == live else {})


def _events(frame: pl.DataFrame, place: int, *, is_blamed: bool) -> list[Event]:
    """The events around a version with the points after each, the blamed one marked."""
    near = frame.filter(pl.col("version").is_between(place - AROUND, place + AROUND))
    return [
        Event(
            version=event["version"],
            effective_at=format_time(event["effective_at"]),
            what=_what(event),
            balance=event["after_balance"],
            frozen=event["after_frozen"],
            is_first_event=is_blamed and event["version"] == place,
        )
        for event in near.iter_rows(named=True)
    ]
