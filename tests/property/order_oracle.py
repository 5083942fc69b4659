"""Orders against transactions, order by order in plain Python, by somebody who sees everything at once.

Nothing here uses the projections or polars; what both say is compared. Rows are those of `order_worlds`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any, NamedTuple

Row = dict[str, Any]

INT64_MAX = 2**63 - 1
EFFECTIVE = ("completed", "frozen", "pending")


class Order:
    """An order as its events leave it."""

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        self.account_id: str | None = None
        self.points: int | None = None
        self.direction = "spend"
        self.status: str | None = None
        self.refunded = 0
        self.placed_at: datetime | None = None
        self.completed_at: datetime | None = None
        self.moments: list[datetime] = []
        self.versions: list[int] = []
        self.place: tuple[Any, Any] = (None, None)

    def take(self, event: Row) -> None:
        """Take the next event, in version order."""
        moment = event["effective_at"]
        self.moments.append(moment)
        self.versions.append(event["version"])
        self.place = (event["partition"], event["position"])
        self.account_id = event["account_id"] if event["account_id"] is not None else self.account_id
        self.points = event["points"] if event["points"] is not None else self.points
        self.direction = event["direction"] or self.direction
        self.refunded += event["refunded_points"] or 0
        if event["event"] == "order.placed":
            self.status = "pending"
            self.placed_at = moment
        elif event["event"] == "order.completed":
            self.status = "completed"
            self.completed_at = max(moment, self.completed_at or moment)
        elif event["event"] == "order.cancelled":
            self.status = "cancelled"


class Found(NamedTuple):
    """A mismatch, with every column but its sentence."""

    order_id: str
    code: str
    account_id: str | None
    order_points: int | None
    credit_points: int
    order_status: str | None
    credit_status: str | None
    points_at_risk: int
    transactions: tuple[str, ...]
    order_place: tuple[Any, Any]
    ledger_place: tuple[Any, Any]
    order_at: datetime
    latest_at: datetime
    deadline_at: datetime | None


class Sides(NamedTuple):
    """Both sides of an order."""

    order: Order | None
    transactions: list[Row]

    @property
    def order_at(self) -> datetime:
        """When the order was placed, or its first transaction created."""
        known = [self.order.placed_at] if self.order and self.order.placed_at else []
        return min(known or [row["created_at"] for row in self.transactions] or [self.latest_at])

    @property
    def latest_at(self) -> datetime:
        """The latest moment of any fact."""
        own = self.order.moments if self.order else []
        return max([*own, *(row[name] for row in self.transactions for name in ("created_at", "updated_at"))])


def sides_of(events: list[Row], linked: list[Row]) -> dict[str, Sides]:
    """Return both sides of every order id."""
    orders: dict[str, Order] = {}
    for event in sorted(events, key=lambda event: event["version"]):
        orders.setdefault(event["order_id"], Order(event["order_id"])).take(event)
    transactions: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(linked, key=_place):
        transactions[row["order_id"]].append(row)
    return {name: Sides(orders.get(name), transactions.get(name, [])) for name in orders.keys() | transactions.keys()}


def mismatches(events: list[Row], linked: list[Row], *, grace_seconds: float, timing_seconds: float) -> set[Found]:
    """Return every mismatch of orders that are not withheld, under the full rules."""
    found: set[Found] = set()
    for order_id, sides in sides_of(events, linked).items():
        codes, net, status = _orphan(sides) if sides.order is None else _codes(sides.order, sides, timing_seconds)
        order, rows = sides.order, sides.transactions
        last = max(rows, key=lambda row: (row["updated_at"], _place(row))) if rows else None
        account_id = order.account_id if order else None
        for code, risk in codes.items():
            found.add(
                Found(
                    order_id=order_id,
                    code=code,
                    account_id=account_id if account_id is not None else rows[0]["account_id"] if rows else None,
                    order_points=order.points if order else None,
                    credit_points=net,
                    order_status=order.status if order else None,
                    credit_status=status,
                    points_at_risk=risk,
                    transactions=tuple(row["transaction_id"] for row in rows),
                    order_place=order.place if order else (None, None),
                    ledger_place=(last["partition"], last["position"]) if last else (None, None),
                    order_at=sides.order_at,
                    latest_at=sides.latest_at,
                    deadline_at=sides.latest_at + timedelta(seconds=grace_seconds),
                )
            )
    return found


def withheld(
    events: list[Row], linked: list[Row], conflicts: list[tuple[str, str]], parked_accounts: list[str]
) -> dict[str, str]:
    """Return the orders that nothing is said about, with the kind of the first reason."""
    kinds = dict.fromkeys((order_id for order_id, _ in conflicts), "conflict")
    for order_id, sides in sides_of(events, linked).items():
        order = sides.order
        if order_id in kinds:
            continue
        if order and sorted(order.versions) != list(range(1, len(order.versions) + 1)):
            kinds[order_id] = "hole"
        elif _is_past_int64(sides):
            kinds[order_id] = "sums"
        elif _is_parked(sides, parked_accounts):
            kinds[order_id] = "parked"
    return kinds


def scenario(
    events: list[Row], linked: list[Row], *, start: datetime, end: datetime, business_code: str
) -> tuple[int, int, list[tuple[Any, ...]]]:
    """Return how many orders and transactions there are, and (order_id, code, points, credit, statuses, ids)."""
    taken = [row for row in linked if start <= row["created_at"] <= end and row["business_code"] == business_code]
    order_map: dict[str, list[Row]] = {}
    for row in sorted(taken, key=_place):
        if row["order_id"] is not None:
            order_map.setdefault(row["order_id"], []).append(row)
    found: list[tuple[Any, ...]] = []
    count = 0
    for order_id, sides in sides_of(events, []).items():
        order = sides.order
        if order is None or order.placed_at is None or not start <= order.placed_at <= end:
            continue
        count += 1
        if order_id not in order_map:
            found.append((order_id, "missing_credit_transaction", order.points, None, order.status, None, ()))
            continue
        rows = order_map[order_id]
        total = sum(row["amount"] for row in rows if row["status"] == "completed")
        status = rows[0]["status"]
        ids = tuple(row["transaction_id"] for row in rows)
        if total != order.points:
            found.append((order_id, "amount_mismatch", order.points, total, order.status, status, ids))
        if (order.status == "completed" and status != "completed") or (
            order.status == "cancelled" and status != "cancelled"
        ):
            found.append((order_id, "status_mismatch", order.points, total, order.status, status, ids))
    return count, len(taken), found


def _place(row: Row) -> tuple[Any, ...]:
    # A row without a position comes before those that have one.
    position = -1 if row["position"] is None else row["position"]
    return row["created_at"], position, row["version"], row["account_id"], row["transaction_id"]


class _Sums:
    """What transactions come to, with payments of one type."""

    def __init__(self, rows: list[Row], payment: str) -> None:
        def total(status: str, *types: str) -> int:
            return sum(row["amount"] for row in rows if row["status"] == status and row["type"] in types)

        back = "credit" if payment == "debit" else "debit"
        self.paid, self.given_back = total("completed", payment), total("completed", back)
        self.frozen = total("frozen", payment, back)
        self.pending = total("pending", payment, back)
        self.held = self.frozen + self.pending
        self.payments_pending = total("pending", payment)
        self.payments_to_come = self.payments_pending + total("frozen", payment)
        self.net = self.paid - self.given_back


def _credit_status(sums: _Sums, net: int, rows: list[Row]) -> str | None:
    if net > 0:
        return "completed"
    if sums.frozen:
        return "frozen"
    if sums.pending:
        return "pending"
    if sums.given_back:
        return "reversed"
    return rows[-1]["status"] if rows else None


def _orphan(sides: Sides) -> tuple[dict[str, int], int, str | None]:
    sums = _Sums(sides.transactions, "debit")
    net = abs(sums.net)
    codes = {}
    if any(row["status"] in EFFECTIVE for row in sides.transactions):
        codes["orphan_credit_transaction"] = net + sums.held
    return codes, net, _credit_status(sums, net, sides.transactions)


def _expected(order: Order, net: int) -> int:
    assert order.points is not None
    if order.status == "cancelled":
        return 0
    if order.status == "completed":
        return max(order.points - order.refunded, 0)
    return min(max(net, 0), order.points)


def _excess(order: Order, sums: _Sums) -> int:
    """How much a pending order would be paid too much if everything that is held or pending were paid."""
    assert order.points is not None
    return max(sums.net + sums.payments_to_come - order.points, 0) if order.status == "pending" else 0


def _elsewhere(order: Order, rows: list[Row], payment: str) -> int:
    total = 0
    for account_id in {row["account_id"] for row in rows}:
        if order.account_id is not None and account_id != order.account_id:
            sums = _Sums([row for row in rows if row["account_id"] == account_id], payment)
            total += abs(sums.net) + sums.held
    return total


def _is_duplicate(order: Order, rows: list[Row], payment: str, sums: _Sums) -> bool:
    assert order.points is not None
    overpaid = sums.paid - order.points
    amounts = Counter(row["amount"] for row in rows if row["status"] == "completed" and row["type"] == payment)
    return overpaid > 0 and any(
        overpaid == times * amount for amount, count in amounts.items() for times in range(1, count)
    )


def _codes(order: Order, sides: Sides, timing_seconds: float) -> tuple[dict[str, int], int, str | None]:
    rows = sides.transactions
    payment = "credit" if order.direction == "earn" else "debit"
    sums = _Sums(rows, payment)
    net, expected = sums.net, _expected(order, sums.net)
    status = _credit_status(sums, net, rows)
    off = abs(net - expected)
    is_completed, is_cancelled = order.status == "completed", order.status == "cancelled"
    if not rows:
        return ({"missing_credit_transaction": expected} if is_completed and expected > 0 else {}), net, status
    codes: dict[str, int] = {}
    if worst := max(off, _excess(order, sums)):
        codes["amount_mismatch"] = worst
    if is_completed and expected > 0 and status != "completed":
        codes["status_mismatch"] = max(off, sums.held)
    if is_completed and net == expected > 0 and sums.payments_pending:
        codes["status_mismatch"] = sums.payments_pending
    if is_cancelled and status in EFFECTIVE:
        codes["status_mismatch"] = max(off, sums.held)
    if net > expected and _is_duplicate(order, rows, payment, sums):
        codes["duplicate_credit"] = off
    if elsewhere := _elsewhere(order, rows, payment):
        codes["wrong_account"] = elsewhere
    codes |= dict.fromkeys(_reversals(order, rows, payment, sums, expected), off)
    if (is_completed or is_cancelled) and sums.frozen:
        codes["frozen_leak"] = sums.frozen
    if not codes and is_completed and _is_far(order, rows, payment, timing_seconds):
        codes["timing_difference"] = 0
    return codes, net, status


def _reversals(order: Order, rows: list[Row], payment: str, sums: _Sums, expected: int) -> list[str]:
    is_cancelled = order.status == "cancelled"
    unrelated = any(
        row["status"] == "completed" and row["type"] != payment and row["related_transaction_id"] is None
        for row in rows
    )
    if not is_cancelled and sums.paid == 0 and unrelated:
        return ["sign_mismatch"]
    found = []
    owed_back = sums.paid if is_cancelled else order.refunded if order.status == "completed" else 0
    if sums.net > expected and sums.given_back < owed_back:
        found.append("missing_reversal")
    if sums.net < expected and sums.given_back:
        if sums.paid == 0 or (order.refunded == 0 and not is_cancelled):
            found.append("orphan_reversal")
        beyond_refund = not is_cancelled and 0 < order.refunded < sums.given_back
        if sums.paid and (sums.given_back > sums.paid or beyond_refund):
            found.append("over_reversal")
    return found


def _is_far(order: Order, rows: list[Row], payment: str, timing_seconds: float) -> bool:
    paid_at = [row["updated_at"] for row in rows if row["status"] == "completed" and row["type"] == payment]
    if not paid_at or order.completed_at is None or order.completed_at == order.placed_at:
        return False
    return abs(order.completed_at - max(paid_at)) > timedelta(seconds=timing_seconds)


def _is_past_int64(sides: Sides) -> bool:
    order, rows = sides.order, sides.transactions
    if order is None:
        sums = _Sums(rows, "debit")
        return max(sums.paid, sums.given_back, sums.held, abs(sums.net) + sums.held) > INT64_MAX
    payment = "credit" if order.direction == "earn" else "debit"
    sums = _Sums(rows, payment)
    off = abs(sums.net - _expected(order, sums.net))
    elsewhere = _elsewhere(order, rows, payment)
    excess = _excess(order, sums)
    return max(sums.paid, sums.given_back, sums.held, off, excess, elsewhere, order.refunded) > INT64_MAX


def _is_parked(sides: Sides, parked_accounts: list[str]) -> bool:
    named = {row["account_id"] for row in sides.transactions}
    if sides.order and sides.order.account_id is not None:
        named.add(sides.order.account_id)
    return not named.isdisjoint(parked_accounts) or (bool(parked_accounts) and not named)
