"""Random orders with the transactions that name them: what was meant, or everything that can be wrong with it.

Amounts, accounts and moments are few, so that sums meet, repeat and miss each other often.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import polars as pl
from hypothesis import strategies as st

from projections.reconciliation import LINKED_SCHEMA
from schemas.orders import ORDER_SCHEMA

START = datetime(2024, 3, 1, tzinfo=UTC)
ORDERS = ("o1", "o2", "заказ ß", "o3", "o4")
ACCOUNTS = ("a", "b", "ключ")
TAGS = ("order.placed", "order.completed", "order.cancelled", "order.refunded")
POINTS = (0, 30, 50, 100, 100, 200)
AMOUNTS = (20, 30, 50, 100, 100)
HUGE = (2**62, 2**63 - 1)
STATUSES = ("completed", "completed", "completed", "frozen", "pending", "cancelled", "failed")
#: A week and a microsecond around it are the edge of a timing difference; equal moments try how ties are told apart.
MOMENTS = tuple(
    START + timedelta(days=day, microseconds=micro) for day in (0, 1, 7, 8, 15) for micro in (0, 1) if day or not micro
)

Row = dict[str, Any]


class World(NamedTuple):
    """Order events and transactions that name an order, as rows; unreadable orders and parked accounts."""

    events: list[Row]
    linked: list[Row]
    conflicts: list[tuple[str, str]]
    parked_accounts: list[str]

    def event_frame(self) -> pl.DataFrame:
        """Return the events with `ORDER_SCHEMA`."""
        return pl.DataFrame(self.events, schema=ORDER_SCHEMA, orient="row")

    def linked_frame(self) -> pl.DataFrame:
        """Return the transactions with `LINKED_SCHEMA`."""
        return pl.DataFrame(self.linked, schema=LINKED_SCHEMA, orient="row")

    def conflict_frame(self) -> pl.DataFrame:
        """Return the orders that cannot be read, with the columns of `WITHHELD_SCHEMA`."""
        return pl.DataFrame(self.conflicts, schema={"order_id": pl.String, "reason": pl.String}, orient="row")


class _Event(NamedTuple):
    tag: str
    account_id: str | None
    points: int | None
    direction: str | None
    refunded_points: int
    moment: datetime


@st.composite
def worlds(draw: st.DrawFn, *, is_sound: bool = False, is_huge: bool = False) -> World:
    """Draw a world; a sound one has no holes, conflicts and parked accounts, and only a huge one is near int64."""
    world = World([], [], [], [])
    # Positions of several partitions are sometimes the same, and a topic that does not tell partitions has none.
    positions = draw(st.sampled_from([st.integers(0, 20), st.integers(0, 2), st.none()]))
    for order_id in ORDERS[: draw(st.integers(1, len(ORDERS)))]:
        events = draw(_events(order_id, is_sound=is_sound, is_huge=is_huge))
        world.events.extend(events)
        rows = draw(_meant(order_id, events) if draw(st.booleans()) else _transactions(order_id, is_huge=is_huge))
        for row in rows:
            number = len(world.linked)
            # Ids sort otherwise than they were made, and versions and positions repeat: ties are wanted.
            name = f"t{(number * 7) % 100:02}"
            world.linked.append({**row, "transaction_id": name, "position": draw(positions)})
    if not is_sound:
        world.parked_accounts.extend(draw(st.lists(st.sampled_from([*ACCOUNTS, "z"]), max_size=1)))
        reasons = st.sampled_from(["not an event", "two events of version 2"])
        world.conflicts.extend(draw(st.lists(st.tuples(st.sampled_from([*ORDERS, "o9"]), reasons), max_size=1)))
    return world


def pieces(frame: pl.DataFrame, places: list[int]) -> list[pl.DataFrame]:
    """Return a frame cut at the given places."""
    edges = [0, *sorted(place % (frame.height + 1) for place in places), frame.height]
    return [frame.slice(start, end - start) for start, end in pairwise(edges)]


def _events(order_id: str, *, is_sound: bool, is_huge: bool) -> st.SearchStrategy[list[Row]]:
    points = st.sampled_from((*POINTS, *HUGE) if is_huge else POINTS)
    first = st.builds(
        _Event,
        st.just("order.placed"),
        st.sampled_from([None, *ACCOUNTS]),
        points,
        st.sampled_from(["spend", "spend", "earn"]),
        st.just(0),
        st.sampled_from(MOMENTS),
    )
    later = st.builds(
        _Event,
        st.sampled_from([TAGS[1], *TAGS[1:]]),
        st.sampled_from([None, None, None, *ACCOUNTS]),
        st.one_of(st.none(), st.none(), points),
        st.sampled_from([None, None, None, "spend", "earn"]),
        st.sampled_from((20, 50, 100, HUGE[1]) if is_huge else (20, 50, 100)),
        st.sampled_from(MOMENTS),
    )
    whole = st.tuples(first, st.lists(later, max_size=3)).map(lambda drawn: [drawn[0], *drawn[1]])
    lists = st.integers(0, 9).flatmap(lambda number: whole if number else st.just([]))
    # Of four orders one lacks an event, where it has that many; the last event is never known to be lacking.
    lost = st.none() if is_sound else st.sampled_from([None, None, None, 0, 1])
    return st.builds(lambda events, place: _rows(order_id, events, place), lists, lost)


def _rows(order_id: str, events: list[_Event], lost: int | None) -> list[Row]:
    rows = []
    for index, event in enumerate(events):
        refunded = event.refunded_points if event.tag == "order.refunded" else None
        told = {
            "order_id": order_id,
            "version": index + 1,
            "event": event.tag,
            "refunded_points": refunded,
            "effective_at": event.moment,
            # Neither goes up with the version.
            "partition": (sum(order_id.encode()) + index) % 3,
            "position": (7 * index + 3) % 10,
        }
        rows.append({**told, **{name: getattr(event, name) for name in ("account_id", "points", "direction")}})
    return rows if lost is None else [row for index, row in enumerate(rows) if index != lost]


def _meant(order_id: str, events: list[Row]) -> st.SearchStrategy[list[Row]]:
    """What an order asks for, whole or in two parts, and then at most one thing that is wrong with it."""
    told: Row = {"account_id": None, "points": None, "direction": None}
    for event in events:
        told |= {name: event[name] for name in told if event[name] is not None}
    points, payment = told["points"] or 0, "credit" if told["direction"] == "earn" else "debit"
    is_cancelled = "order.cancelled" in {event["event"] for event in events[-1:]}
    back = points if is_cancelled else sum(event["refunded_points"] or 0 for event in events)
    plain: Row = {
        "order_id": order_id,
        "account_id": told["account_id"] or "a",
        "status": "completed",
        "business_code": "order.payment",
        "partition": None,
    }

    def rows(is_split: bool, moment: datetime, version: int) -> list[Row]:
        paid = [points // 2, points - points // 2] if is_split else [points]
        refund = {
            "type": "debit" if payment == "credit" else "credit",
            "amount": min(back, HUGE[1]),
            "related_transaction_id": "t00",
        }
        parts = [{"type": payment, "amount": amount, "related_transaction_id": None} for amount in paid]
        times = {"created_at": moment, "updated_at": moment, "version": version}
        return [plain | part | times for part in [*parts, refund] if part["amount"]]

    changes: list[Row] = [{"account_id": "b"}, {"type": "credit"}, {"status": "frozen"}, {"status": "failed"}]
    wrong = st.sampled_from([None, None, "lose", "lose", "twice", "twice", {"amount": 20}, *changes])
    meant = st.builds(rows, st.booleans(), st.sampled_from(MOMENTS), st.integers(1, 4))
    return st.builds(_with_fault, meant, wrong, st.integers(0, 2))


def _with_fault(rows: list[Row], wrong: Any, place: int) -> list[Row]:
    chosen = rows[place : place + 1]
    if wrong is None or not chosen:
        return rows
    others = rows[:place] + rows[place + 1 :]
    put = {"lose": [], "twice": chosen * 2}.get(wrong) if isinstance(wrong, str) else [chosen[0] | wrong]
    return others + (put or [])


def _transactions(order_id: str, *, is_huge: bool) -> st.SearchStrategy[list[Row]]:
    rows = st.fixed_dictionaries(
        {
            "order_id": st.just(order_id),
            "account_id": st.sampled_from(["a", "a", "a", "b", "ключ"]),
            "type": st.sampled_from(["debit", "debit", "credit"]),
            "amount": st.sampled_from((*AMOUNTS, *HUGE) if is_huge else AMOUNTS),
            "status": st.sampled_from(STATUSES),
            "business_code": st.sampled_from(["order.payment", "order.payment", "gift", None]),
            "related_transaction_id": st.sampled_from([None, "t00"]),
            "created_at": st.sampled_from(MOMENTS),
            "updated_at": st.sampled_from(MOMENTS),
            "version": st.integers(1, 4),
            "partition": st.sampled_from([None, 0, 1]),
        }
    )
    return st.integers(0, 5).flatmap(lambda count: st.lists(rows, min_size=count, max_size=count))
