"""Reconcile once: orders against the transactions that name them, over everything or over a range of time.

Both sides are judged as they were at one moment, by the rules that a reconciliation which runs for ever has
(`projections.reconciliation`), or to the letter of the scenario. Where the rules are the full ones and both sides are
the ledger's own, what is found are breaks, and `replay.reconcile_breaks` keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

import polars as pl

from ledger import break_rows
from projections.reconciliation import MISMATCH_SCHEMA, Rules, judged, subjects, withheld
from projections.scenario import scenario
from replay.certificate import INCOMPLETE, Certificate
from replay.reconcile_sides import Asked, LedgerSide, OrderSide
from schemas.columns import UTC_MICROSECONDS
from schemas.errors import UsageError

__all__ = ["FOUND_SCHEMA", "Found", "Range", "Unread", "ask_for", "need_orders", "reconcile", "reconcile_as_scenario"]

CLEAN, FINDINGS = "CLEAN", "FINDINGS"

#: What only a break has: its id, its state, how it was resolved, and when its facts changed after a decision.
_OF_BREAKS = {"break": pl.Int64(), "state": pl.String(), "resolution": pl.String(), "changed_at": UTC_MICROSECONDS}

#: A mismatch and, where it is kept, the break that it is.
FOUND_SCHEMA = pl.Schema({**MISMATCH_SCHEMA, **_OF_BREAKS})

#: Decisions of a person: what they are about is no finding any more, while the facts stay what they were.
BY_HAND = ("manual", "accepted")

_IS_DECIDED = pl.col("resolution").is_in(BY_HAND).fill_null(value=False)
_IS_CHANGED = pl.col("changed_at").is_not_null()

_NAMED = pl.col("order_id").is_not_null() & (pl.col("order_id") != "")


class Range(NamedTuple):
    """Which orders are meant, by `order_at`: from `start` to `end`, both inclusive, None for no bound."""

    start: datetime | None = None
    end: datetime | None = None

    @property
    def is_all(self) -> bool:
        """Whether every order is meant."""
        return self.start is None and self.end is None

    def has(self, name: str) -> pl.Expr:
        """Return whether a moment is in the range."""
        after = pl.lit(value=True) if self.start is None else pl.col(name) >= self.start
        return after if self.end is None else after & (pl.col(name) <= self.end)


class Unread(NamedTuple):
    """A side that was read until `until`, None where nobody knows, and had to be until `needed`, a later moment."""

    side: Literal["orders", "ledger"]
    until: datetime | None
    needed: datetime | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reconciliation came to.

    `orders` and `transactions` count what was compared. `mismatches` and `pending` (`FOUND_SCHEMA`, by order and code)
    are those that are certain, and those that may still right themselves: their deadline is after `until`. `withheld`
    (`order_id`, `reason`) are orders that nothing can be said of, `parked` (`ledger.orders.PARKED_SCHEMA`) events of
    orders that cannot be read. `orders_until` and `ledger_until` say up to when each side was read, None where that is
    not known; `now` is the clock, None where there is none to tell what is late, and `needed` is the moment up to
    which both sides have to be read but for `grace_seconds`, None where nobody named one. `is_all` says that every
    order was meant, not those of a range; `named` has the `order_id` of what was judged on either side, `beyond`
    (`FOUND_SCHEMA`) what is wrong with orders whose break is of the range and that are not any more, and `unknown` are
    the accounts that nothing is known of. `facts_count` is as of `OrderSide`.
    """

    orders: int
    transactions: int
    mismatches: pl.DataFrame
    pending: pl.DataFrame
    withheld: pl.DataFrame
    parked: pl.DataFrame
    orders_until: datetime | None
    ledger_until: datetime | None
    now: datetime | None = None
    needed: datetime | None = None
    grace_seconds: float = Rules().grace_seconds
    certificate: Certificate | None = None
    is_all: bool = False
    named: tuple[pl.DataFrame, ...] = ()
    beyond: pl.DataFrame = field(default_factory=FOUND_SCHEMA.to_frame)
    unknown: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.String()))
    facts_count: tuple[int, ...] | None = None

    @property
    def until(self) -> datetime | None:
        """The moment up to which both sides were read, None where that is not known."""
        return _earlier(self.ledger_until, self.orders_until)

    @property
    def standing(self) -> pl.DataFrame:
        """The mismatches that no person has decided about as they are now."""
        return self.mismatches.filter(~_IS_DECIDED | _IS_CHANGED)

    @property
    def changed(self) -> pl.DataFrame:
        """The mismatches that somebody decided about when their facts were others."""
        return self.mismatches.filter(_IS_DECIDED & _IS_CHANGED)

    @property
    def overdue(self) -> pl.DataFrame:
        """What is pending and would be certain by the clock, had both sides been read until now."""
        return self.pending.filter(pl.lit(value=False) if self.now is None else pl.col("deadline_at") <= self.now)

    @property
    def ahead(self) -> pl.DataFrame:
        """What is pending because a fact of it is dated later than it is."""
        return self.pending.filter(pl.lit(value=False) if self.now is None else pl.col("latest_at") > self.now)

    @property
    def unread(self) -> list[Unread]:
        """The sides that were not read as far as this answer needs."""
        due = self.overdue["deadline_at"].to_list()
        sides: tuple[tuple[Literal["orders", "ledger"], datetime | None], ...]
        sides = (("orders", self.orders_until), ("ledger", self.ledger_until))
        found = []
        for side, until in sides:
            if until is None:
                found.append(Unread(side, None, None))
                continue
            late = [at for at in due if at > until]
            if self.needed is not None and (self.needed - until).total_seconds() > self.grace_seconds:
                late.append(self.needed)
            if late:
                found.append(Unread(side, until, max(late)))
        return found

    @property
    def points_at_risk(self) -> int:
        """The points at risk in what stands, each order counted once."""
        return break_rows.total(self.standing).points_at_risk

    @property
    def verdicts(self) -> list[str]:
        """Every verdict that holds, the gravest first."""
        is_whole = self.withheld.is_empty() and self.parked.is_empty() and not self.unread
        is_whole &= self.overdue.is_empty() and self.ahead.is_empty()
        is_whole &= self.certificate is None or self.certificate.verdict != INCOMPLETE
        found = [] if is_whole else [INCOMPLETE]
        return [*found, *([FINDINGS] if self.standing.height else [])] or [CLEAN]


def ask_for(*, business_code: str | None = None, span: Range = Range()) -> Asked:
    """Return which transactions a reconciliation needs: those that name an order, and with a code those of the code."""
    if business_code is None:
        return Asked(_NAMED)
    of_code = (pl.col("business_code") == business_code) & span.has("created_at")
    return Asked(_NAMED | of_code, by_first_event=True)


def reconcile(
    ledger: LedgerSide,
    orders: OrderSide,
    *,
    rules: Rules = Rules(),
    span: Range = Range(),
    now: datetime | None = None,
) -> Found:
    """Return what the full rules find in the orders of a range, judged over all their facts, in the range or not.

    `now` is the clock that tells whether both sides were read far enough; without one nobody asks. UsageError where no
    order is known at all.
    """
    need_orders(orders)
    both = _Both(orders.orders, _named(ledger.transactions), _conflicts(ledger, orders))
    compared = _of_range(both, span)
    moved, beyond = _moved_out(both, compared, orders.broken, span)
    accounts = [compared.orders["account_id"], beyond.orders["account_id"], orders.broken["account_id"]]
    unknown = ledger.unknown.among(pl.concat(accounts))
    found, held = _judged(compared, unknown, rules)
    found_beyond, held_beyond = _judged(beyond, unknown, rules) if moved.height else (found.clear(), held.clear())
    until = _earlier(ledger.until, orders.until)
    is_due = pl.lit(value=False) if until is None else pl.col("deadline_at") <= until
    return Found(
        orders=compared.orders.height,
        transactions=compared.linked.height,
        mismatches=found.filter(is_due),
        pending=found.filter(~is_due),
        withheld=pl.concat([held, held_beyond]).sort("order_id"),
        parked=orders.parked,
        orders_until=orders.until,
        ledger_until=ledger.until,
        now=now,
        needed=None if now is None or span.end is None else min(span.end, now),
        grace_seconds=rules.grace_seconds,
        certificate=ledger.certificate,
        is_all=span.is_all,
        named=(compared.orders.select("order_id"), compared.linked.select("order_id"), moved),
        beyond=found_beyond,
        unknown=unknown,
        facts_count=orders.facts_count,
    )


def reconcile_as_scenario(
    ledger: LedgerSide,
    orders: OrderSide,
    *,
    business_code: str,
    start: datetime,
    end: datetime,
    rules: Rules = Rules(),
    now: datetime | None = None,
) -> Found:
    """Return what the scenario finds in a range of time, both ends included, with one business code.

    It waits for nothing, so nothing is pending; of `rules` only the grace counts, by which both sides may have been
    read less far than the range goes, `now` being as of `reconcile`. UsageError where no order is known at all.
    """
    need_orders(orders)
    span = Range(start, end)
    of_range = orders.orders.filter(span.has("placed_at"))
    is_of_code = span.has("created_at") & (pl.col("business_code") == business_code)
    of_code = ledger.transactions.filter(is_of_code)
    # Told apart by the order that they name: another order's code or moment says nothing of this one's account.
    others = orders.orders.select("order_id").join(of_range, on="order_id", how="anti")
    # Nor is it part of any sum, of which the scenario's have no signs.
    amount = pl.when(is_of_code).then("amount").otherwise(0)
    named = _named(ledger.transactions).join(of_range, on="order_id", how="semi")
    unsigned = of_range.with_columns(direction=pl.lit("spend")), named.with_columns(amount=amount, type=pl.lit("debit"))
    both = _Both(*unsigned, _without(_conflicts(ledger, orders), others))
    held = _withheld(both, ledger.unknown.among(of_range["account_id"])).collect()
    judged_orders = of_range.join(held, on="order_id", how="anti")
    compared = scenario(judged_orders.lazy(), of_code.lazy(), start=start, end=end, business_code=business_code)
    found = _ordered(compared.mismatches.collect())
    return Found(
        orders=of_range.height,
        transactions=of_code.height,
        mismatches=found,
        pending=found.clear(),
        withheld=held.sort("order_id"),
        parked=orders.parked,
        orders_until=orders.until,
        ledger_until=ledger.until,
        now=now,
        needed=None if now is None else min(end, now),
        grace_seconds=rules.grace_seconds,
        certificate=ledger.certificate,
    )


class _Both(NamedTuple):
    """Orders (`ORDER_STATE`), the transactions that name one (`LINKED_SCHEMA`), and orders that cannot be judged."""

    orders: pl.DataFrame
    linked: pl.DataFrame
    conflicts: pl.DataFrame


def need_orders(orders: OrderSide) -> None:
    """Let orders pass, those too that cannot be read; UsageError where none is known at all."""
    if orders.rejected:
        return
    if orders.orders.is_empty() and orders.conflicts.is_empty() and orders.parked.is_empty():
        raise UsageError(
            "no order is known, so there is nothing to reconcile",
            next_step="bring orders in with `import orders`, or name a file with --orders",
        )


def _named(transactions: pl.DataFrame) -> pl.DataFrame:
    """Return the transactions that name an order, without a copy where all do."""
    is_named = transactions.select(_NAMED).to_series()
    return transactions if is_named.all() else transactions.filter(is_named)


def _of_range(both: _Both, span: Range) -> _Both:
    """Return the orders of a range with all their facts, as `subjects` says when each was.

    Nearly always a range is all there is, or what is not in it is told by the orders alone, so transactions are joined
    with nothing that need not be.
    """
    if span.is_all:
        return both
    placed = both.orders.select("order_id", "placed_at")
    others = placed.filter(~span.has("placed_at")).select("order_id")
    orders, linked = (_without(side, others) for side in (both.orders, both.linked))
    # Only of these is it not the order itself that says when it was.
    strays = linked.select("order_id", "created_at").filter(~span.has("created_at")).select("order_id")
    strays = _without(strays, placed.drop_nulls().select("order_id"))
    unsure = pl.concat([strays, placed.filter(pl.col("placed_at").is_null()).select("order_id")]).unique()
    if unsure.height:
        known = subjects(*(side.join(unsure, on="order_id", how="semi").lazy() for side in (orders, linked))).collect()
        gone = known.filter(~span.has("order_at")).select("order_id")
        orders, linked, others = _without(orders, gone), _without(linked, gone), pl.concat([others, gone])
    # An order of which nothing can be read has no moment, so it may be of any range.
    return _Both(orders, linked, _without(both.conflicts, others))


def _moved_out(both: _Both, compared: _Both, broken: pl.DataFrame, span: Range) -> tuple[pl.DataFrame, _Both]:
    """Return the orders (`order_id`) that a break of the range is about and that are not in it any more, with facts.

    Nobody else may judge them for long, and what came since may be what they lacked.
    """
    ids = broken.filter(pl.lit(value=not span.is_all) & span.has("order_at")).select("order_id").unique()
    for side in compared:
        ids = _without(ids, side)
    if ids.is_empty():
        return ids, _Both(*(side.clear() for side in both))
    return ids, _Both(*(side.join(ids, on="order_id", how="semi") for side in both))


def _conflicts(ledger: LedgerSide, orders: OrderSide) -> pl.DataFrame:
    return orders.conflicts if ledger.conflicts.is_empty() else pl.concat([orders.conflicts, ledger.conflicts])


def _without(side: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    if side.is_empty() or others.is_empty():
        # The column engine would put all of the other into a table to ask nothing of it.
        return side
    return side.join(others, on="order_id", how="anti", maintain_order="left")


def _withheld(both: _Both, unknown: pl.Series) -> pl.LazyFrame:
    orders, linked = both.orders.lazy(), both.linked.lazy()
    return withheld(orders, linked, conflicts=both.conflicts.lazy(), parked_accounts=unknown)


def _judged(both: _Both, unknown: pl.Series, rules: Rules) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what is wrong, and the orders that nothing can be said of."""
    # Hardly ever is anything withheld, and to find nothing takes this engine half the time of the other.
    held = _withheld(both, unknown).collect(engine="in-memory").sort("order_id")
    orders, linked = (_without(side, held).lazy() for side in (both.orders, both.linked))
    return _ordered(judged(orders, linked, rules).collect()), held


def _ordered(found: pl.DataFrame) -> pl.DataFrame:
    unknown = [pl.lit(None, dtype).alias(name) for name, dtype in FOUND_SCHEMA.items() if name not in MISMATCH_SCHEMA]
    return found.with_columns(unknown).select(FOUND_SCHEMA.names()).sort("order_id", "code")


def _earlier(left: datetime | None, right: datetime | None) -> datetime | None:
    return None if left is None or right is None else min(left, right)
