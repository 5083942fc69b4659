"""Steps are the replay, step by step; every fault planted in a live row is explained as plain Python explains it."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from faults import FAULTS, REACHED, Row, chains, compared, explanations, fits_int64, row_after
from histories import ACCOUNT_EVENTS, START, STEPS, History, examples, histories
from hypothesis import given, note
from hypothesis import strategies as st
from memory_source import MemorySource

from ledger.read_model import ROW_SCHEMA
from replay import replayed
from replay.differences import FOREIGN_FIELDS, OWN_FIELDS
from replay.explain import explained
from replay.rows import stored_rows
from replay.steps import steps
from schemas import Event

FIELDS = {"own": OWN_FIELDS, "foreign": FOREIGN_FIELDS, "points": FOREIGN_FIELDS[:2]}
COLUMNS = tuple(name for name in ROW_SCHEMA if name != "account_id")

#: What is done to each account in turn: a fault at a place, how its projector says how far it is, or columns by hand.
PLANS = st.lists(
    st.fixed_dictionaries(
        {
            "fault": st.sampled_from([*FAULTS, "by hand", "by hand"]),
            "place": st.integers(0, 30),
            "says": st.sampled_from(["own", "end", "count"]),
            "columns": st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=2, unique=True),
            "by": st.integers(-3, 3),
            "like": st.integers(0, 30),
        }
    ),
    min_size=3,
    max_size=3,
)


def status_histories(steps_max: int = 30) -> st.SearchStrategy[list[Event]]:
    """Wild histories in which every other event is about the account itself, opened twice and closed twice included."""
    kinds = st.sampled_from(["record", "change", "record", *ACCOUNT_EVENTS])
    step = st.tuples(STEPS, kinds).map(lambda drawn: drawn[0] | {"kind": drawn[1]})
    drawn = st.integers(0, steps_max).flatmap(lambda count: st.lists(step, min_size=count, max_size=count))
    return drawn.map(lambda taken: History(is_legal=False).take(taken))


ALL = st.one_of(histories(), status_histories())


def streams_of(events: list[Event]) -> dict[str, list[Event]]:
    """Each account's events."""
    streams: dict[str, list[Event]] = {}
    for event in events:
        streams.setdefault(event.account_id, []).append(event)
    return streams


def live_row(events: list[Event], plan: dict[str, Any]) -> Row:
    """The row of an account after a plan was carried out on it."""
    links = chains(events)
    end = row_after(events, links)
    place = plan["place"] % len(events)
    if plan["fault"] == "by hand":
        return end | by_hand(events, end, plan)
    applied = FAULTS[plan["fault"]](events, place)
    if not applied:
        return end
    left = row_after(applied, links)
    if plan["says"] == "end":
        left |= {name: end[name] for name in REACHED}
    elif plan["says"] == "count":
        left["version"] = len(applied)
    return left


def by_hand(events: list[Event], end: Row, plan: dict[str, Any]) -> Row:
    """Some columns written over: a number by a little, anything by what it was or will never be."""
    then = row_after(events[: plan["like"] % len(events) + 1], chains(events))
    never = {"status": "locked", "locked_at": START, "chain": bytes(32), "last_effective_at": START}
    written: Row = {}
    for name in plan["columns"]:
        is_known_number = isinstance(end[name], int) and plan["by"]
        written[name] = end[name] + plan["by"] if is_known_number else never.get(name) if plan["by"] else then[name]
    return {name: value for name, value in written.items() if value is not None or name == "locked_at"}


def frame_of(rows: list[Row]) -> pl.DataFrame:
    """Rows as live gives them."""
    return pl.DataFrame(rows, schema=ROW_SCHEMA, orient="row")


def blamed(stream: list[Event], plan: dict[str, Any]) -> tuple[str, str] | None:
    """The class and event of a plan that is a single fault."""
    place = plan["place"] % len(stream)
    match plan["fault"]:
        case "missed":
            return "missed_event", stream[place].event_id
        case "twice at once" | "twice at the end":
            return "applied_twice", stream[place].event_id
        case "stopped" if place + 1 < len(stream):
            return "missed_event", stream[place + 1].event_id
    return None


def is_seen(stream: list[Event], live: Row, fields: tuple[str, ...]) -> bool:
    """Whether the points or the status of a live row are wrong, and it is not as every account is at first."""
    end, first = row_after(stream, chains(stream)), row_after(stream[:1], chains(stream))
    points = [name for name in compared(live, end, fields) if name not in REACHED]
    return any(live[name] != end[name] for name in points) and any(live[name] != first[name] for name in points)


@examples(100)
@given(events=ALL, plans=PLANS, which=st.sampled_from(sorted(FIELDS)))
def test_a_planted_fault_has_the_class_and_the_first_event_that_go_first(events, plans, which):
    """Whatever is done to live rows is explained, and the explanation is the one that plain Python puts first."""
    fields = FIELDS[which]
    streams = streams_of(events)
    found = steps(MemorySource(events), list(streams), until=len(events))
    rows, expected = [], {}
    for plan, (account_id, stream) in zip(plans, streams.items(), strict=False):
        live = live_row(stream, plan)
        if not fits_int64(live):
            continue
        rows.append(live)
        note(f"{account_id}: {plan['fault']} at {plan['place']}, live {live}")
        if not fits_int64(row_after(stream, chains(stream))):
            expected[account_id] = ("log_damaged", None)
            continue
        known = list(explanations(stream, live, fields))
        expected[account_id] = known[0]
        if is_seen(stream, live, fields):
            assert blamed(stream, plan) in [None, *known]
    causes = explained(found, frame_of(rows).select("account_id", *fields), fields=fields)
    assert {account_id: tuple(cause[:2]) for account_id, cause in causes.items()} == expected


@pytest.mark.parametrize("is_chained", [True, False], ids=["chained", "chains made"])
@examples(20)
@given(events=ALL, data=st.data())
def test_the_last_step_is_the_row_of_a_full_replay(is_chained, events, data):
    """At any position the last steps are the rows that a replay of everything up to there gives, and nothing more."""
    until = data.draw(st.integers(0, len(events)))
    source = MemorySource(events, is_chained=is_chained)
    found = steps(source, [*streams_of(events), "nobody"], until=until)
    with replayed(MemorySource(events), until=until) as replay:
        rows = stored_rows(replay.rows, replay.gate).sort("account_id")
        assert sorted(found.parked) == replay.parked_ids
    assert found.rows().filter(~pl.col("account_id").is_in(list(found.parked))).equals(rows)
    whole = steps(source, list(streams_of(events)), until=len(events))
    assert whole.rows(pl.col("position") <= until).equals(found.rows())


@examples(20)
@given(events=ALL)
def test_every_step_is_what_was_applied_up_to_it(events):
    """After any version an account is what plain Python makes of its events up to there, unless a sum is past int64."""
    found = steps(MemorySource(events), list(streams_of(events)), until=len(events))
    assert found.frame.height == len(events)
    for stream in streams_of(events).values():
        links = chains(stream)
        for version in range(1, len(stream) + 1):
            of_account = pl.col("account_id") == stream[0].account_id
            expected = row_after(stream[:version], links)
            rows = found.rows(of_account & (pl.col("version") <= version)).to_dicts()
            assert rows == ([expected] if fits_int64(expected) else [])
