"""What a live row may be after each single fault, worked out one event at a time in plain Python.

Nothing here uses the projections, the steps or polars' arithmetic; what both say of a row is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ledger import GENESIS, chain
from ledger.rules import delta
from schemas import AccountClosed, AccountLocked, AccountOpened, AccountUnlocked, Event, TransactionEvent, encode

Row = dict[str, Any]

SUMS = ("balance", "frozen", "pending_credit", "pending_debit")
REACHED = ("version", "chain", "last_effective_at")
STATUS_AFTER: dict[type[Event], str] = {
    AccountLocked: "locked",
    AccountUnlocked: "active",
    AccountClosed: "closed",
}


def chains(events: list[Event]) -> dict[int, bytes]:
    """The chain of each version of one account's events."""
    found, link = {}, GENESIS
    for event in events:
        link = found[event.version] = chain(link, encode(event))
    return found


def row_after(events: list[Event], links: dict[int, bytes]) -> Row:
    """The row that someone has who applied these events of one account, in this order and whatever is missing."""
    row: Row = {"account_id": events[0].account_id, **dict.fromkeys(SUMS, 0)}
    row |= {"status": "active", "locked_at": None, "status_version": None, "closed_version": None}
    for event in events:
        if isinstance(event, TransactionEvent):
            worth = delta(event.type, event.amount, event.from_status, event.to_status)
            for name in SUMS:
                row[name] += getattr(worth, name)
        elif type(event) in STATUS_AFTER:
            row["status"], row["status_version"] = STATUS_AFTER[type(event)], event.version
            row["locked_at"] = event.effective_at if isinstance(event, AccountLocked) else None
        if isinstance(event, AccountClosed):
            row["closed_version"] = min(event.version, row["closed_version"] or event.version)
        row["last_effective_at"] = max(event.effective_at, row.get("last_effective_at", event.effective_at))
    return row | {"version": events[-1].version, "chain": links[events[-1].version]}


def fits_int64(row: Row) -> bool:
    """Whether all sums of a row, and what is available, can be in a database."""
    sums = [*(row[name] for name in SUMS), row["balance"] - row["frozen"]]
    return all(-(2**63) <= value < 2**63 for value in sums)


def compared(live: Row, end: Row, fields: tuple[str, ...]) -> list[str]:
    """The columns that count: of the status of a foreign row only what the log and the row both know."""
    if "status_version" in fields:
        return list(fields)
    known = [name for name in fields if name not in ("status", "locked_at") or end["status_version"] is not None]
    return [name for name in known if name != "locked_at" or live["locked_at"] is not None]


def explanations(events: list[Event], live: Row, fields: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """Every (class, first event) that explains one account's live row, the one that goes first first."""
    links = chains(events)
    end = row_after(events, links)
    names = compared(live, end, fields)
    points = [name for name in names if name not in REACHED]
    if all(live[name] == end[name] for name in names):
        yield "shadow_wrong", None
        return
    is_core = any(live[name] != end[name] for name in points)

    def is_left_by(core: Row, reached: dict[str, set[Any]]) -> bool:
        same = all(live[name] == core[name] for name in points)
        return is_core and same and all(live[name] in reached[name] for name in names if name in REACHED)

    for name, fault in (("missed_event", _missed), ("applied_twice", _twice)):
        for place, event in enumerate(events):
            if any(is_left_by(core, reached) for core, reached in fault(events, place, end, links)):
                yield name, event.event_id
    for place in range(len(events) - 1, 0, -1):
        then = row_after(events[:place], links)
        either = {name: {then[name], end[name]} for name in REACHED}
        is_there = any(name in REACHED for name in names) and all(live[name] == then[name] for name in names)
        has_begun = any(not isinstance(event, AccountOpened) for event in events[:place])
        if is_there or (has_begun and is_left_by(then, either)):
            yield "missed_event", events[place].event_id
    yield "foreign_write", None


Left = tuple[Row, dict[str, set[Any]]]


def _missed(events: list[Event], place: int, end: Row, links: dict[int, bytes]) -> Iterator[Left]:
    others = events[:place] + events[place + 1 :]
    if others:
        left = row_after(others, links)
        reached = {name: {left[name], end[name]} for name in REACHED}
        # Whoever counts the events that it applies is at one less.
        reached["version"].add(len(others))
        yield left, reached


def _twice(events: list[Event], place: int, end: Row, links: dict[int, bytes]) -> Iterator[Left]:
    again = events[place]
    counted: dict[str, set[Any]] = {name: {end[name]} for name in REACHED}
    counted["version"].add(len(events) + 1)
    yield row_after([*events[: place + 1], again, *events[place + 1 :]], links), counted
    at_the_end = row_after([*events, again], links)
    last = {"version": again.version, "chain": links[again.version], "last_effective_at": again.effective_at}
    yield at_the_end, {name: counted[name] | {last[name]} for name in REACHED}


#: The events that a faulty projector applies, given those of an account and a place among them.
FAULTS: dict[str, Callable[[list[Event], int], list[Event]]] = {
    "missed": lambda events, place: events[:place] + events[place + 1 :],
    "twice at once": lambda events, place: [*events[: place + 1], *events[place:]],
    "twice at the end": lambda events, place: [*events, events[place]],
    "stopped": lambda events, place: events[: place + 1],
    "two missed": lambda events, place: events[:place] + events[place + 2 :],
}
