"""A reconciliation that runs once vouches for no more than it has read, and undoes nothing that is known better."""

from __future__ import annotations

from datetime import timedelta

import pytest
from databases import OnPostgres, OnSqlite
from reconcile_rows import DAY, LATER, bring, codes, kept, order, payment, refund, told

from ledger import break_rows, breaks, orders
from projections.reconciliation import Rules
from replay.reconcile import Range, Unread, ask_for, reconcile_as_scenario
from replay.reconcile_breaks import keep
from replay.reconcile_sides import ledger_of_store, orders_of_ledger

HOUR = timedelta(hours=1)
GRACE = timedelta(seconds=Rules().grace_seconds)


def states(store) -> dict[tuple[str, str], tuple[str, str | None]]:
    """Return the state and the resolution of every break, by order and code."""
    with store.snapshot() as connection:
        rows = break_rows.listed(connection).iter_rows(named=True)
        return {(row["order_id"], row["code"]): (row["state"], row["resolution"]) for row in rows}


def scenario(store, *, now, end):
    """Return what the scenario finds in the day before a moment."""
    ledger = ledger_of_store(store, ask_for(business_code="order.payment"), now=now)
    span = {"start": end - timedelta(days=1), "end": end}
    return reconcile_as_scenario(ledger, orders_of_ledger(store), business_code="order.payment", now=now, **span)


class UnreadContract:
    """Subclasses give `store`."""

    def test_what_would_be_a_break_had_orders_been_read_is_not_clean(self, store):
        """A payment long after the last import of orders names one that nobody knows: INCOMPLETE, and by whom."""
        bring(store, [order("o1")], [payment("t1", "o1")])
        assert told(store, now=LATER + HOUR).verdicts == ["CLEAN"]
        later = LATER + timedelta(days=9)
        bring(store, transactions=[payment("t2", "o2", created_at=later)], now=later)
        soon = told(store, now=later + GRACE - timedelta(microseconds=1))
        assert (codes(soon.pending), soon.verdicts) == ([("o2", "orphan_credit_transaction")], ["CLEAN"])
        found = told(store, now=later + GRACE)
        assert (codes(found.pending), found.verdicts) == ([("o2", "orphan_credit_transaction")], ["INCOMPLETE"])
        assert found.unread == [Unread("orders", LATER, later + GRACE)]
        assert kept(store, now=later + GRACE).found.verdicts == ["INCOMPLETE"]

    @pytest.mark.parametrize("rules", ["full", "scenario"])
    def test_a_range_that_ends_after_what_was_read_is_not_clean(self, store, rules):
        """Whoever names an end is told that nobody has read so far, or until now where the end is later than that."""
        bring(store, [order("o1")], [payment("t1", "o1")])

        def found(now, end):
            if rules == "scenario":
                return scenario(store, now=now, end=end)
            return told(store, now=now, span=Range(None, end))

        edge = LATER + GRACE
        for now, end in ((LATER + 9 * HOUR, edge), (edge, LATER + 9 * HOUR)):
            assert found(now, end).verdicts == ["CLEAN"]
        late = edge + timedelta(microseconds=1)
        for now, end in ((LATER + 9 * HOUR, late), (late, LATER + 9 * HOUR)):
            again = found(now, end)
            assert (again.verdicts, again.unread) == (["INCOMPLETE"], [Unread("orders", LATER, late)])
        bring(store, [order("o1")], now=late)
        assert found(late, late).verdicts == ["CLEAN"]

    def test_what_is_wrong_is_told_beside(self, store):
        """Findings stand beside INCOMPLETE, which comes first."""
        bring(store, [order("o1"), order("o2")], [payment("t1", "o1")])
        found = told(store, now=LATER + HOUR, span=Range(None, LATER + HOUR))
        assert (codes(found.mismatches), found.verdicts) == (
            [("o2", "missing_credit_transaction")],
            ["INCOMPLETE", "FINDINGS"],
        )

    def test_a_fact_that_is_dated_in_the_future_is_not_clean(self, store):
        """What waits for a moment that may be a slip of the pen is INCOMPLETE, at once."""
        bring(store, [order("o1", created_at=LATER + timedelta(microseconds=1))], [payment("t1", None)])
        found = told(store)
        assert (codes(found.ahead), found.verdicts) == ([("o1", "missing_credit_transaction")], ["INCOMPLETE"])
        bring(store, [order("o1", created_at=LATER + timedelta(microseconds=1))], now=LATER + timedelta(microseconds=1))
        again = told(store, now=LATER + timedelta(microseconds=1))
        assert (codes(again.pending), again.ahead.height, again.verdicts) == (codes(found.ahead), 0, ["CLEAN"])

    def test_a_slow_look_does_not_undo_a_later_one(self, store):
        """What has begun earlier and ends later writes nothing, and says why; the breaks stay as they are."""
        bring(store, [order("o1")], [payment("t0", None)], now=DAY + HOUR)
        slow = told(store, now=DAY + HOUR)
        bring(store, [order("o1")], [payment("t1", "o1")], now=DAY + 2 * HOUR)
        assert kept(store, now=DAY + 2 * HOUR).why_not is None
        found, why_not = keep(store, slow, now=DAY + 2 * HOUR)
        assert why_not is not None
        assert "2026-03-01T02:00:00.000000Z" in why_not
        assert (codes(found.mismatches), states(store)) == ([("o1", "missing_credit_transaction")], {})

    def test_orders_that_come_in_meanwhile_stop_a_look(self, store):
        """What looked at orders before others came in writes nothing; the same ones again do not count."""
        bring(store, [order("o1")], [payment("t1", "o2")])
        look = told(store)
        bring(store, [order("o1")], now=LATER + HOUR)
        assert keep(store, look, now=LATER).why_not is None
        bring(store, [order("o2")], now=LATER + HOUR)
        assert keep(store, look, now=LATER).why_not == "orders came in while this looked at them: run `reconcile` again"
        assert kept(store, now=LATER).why_not is None

    def test_what_moves_out_of_a_range_is_resolved_by_it(self, store):
        """An orphan whose order comes, placed before the range, is over; what else is wrong then is kept, not told."""
        day = DAY + timedelta(days=1)
        span = Range(day, day + timedelta(days=1))
        late = {"created_at": day + HOUR}
        bring(store, [order("o0", 0)], [payment("t1", "o1", **late), payment("t2", "o2", 30, **late)])
        now = LATER + HOUR
        bring(store, [order("o0", 0)], now=now)
        assert len(codes(kept(store, now=now, span=span).found.mismatches)) == 2
        now += HOUR
        before = {"created_at": day - HOUR, "updated_at": day}
        bring(store, [order("o1", **before), order("o2", 20, **before)], now=now)
        found = kept(store, now=now, span=span).found
        assert (found.orders, found.transactions, found.mismatches.height, found.verdicts) == (0, 0, 0, ["CLEAN"])
        orphan = "orphan_credit_transaction"
        assert states(store) == {
            ("o1", orphan): ("resolved", "late"),
            ("o2", orphan): ("resolved", "late"),
            ("o2", "amount_mismatch"): ("open", None),
        }

    def test_what_somebody_decided_and_changed_since_is_a_finding(self, store):
        """An accepted difference of a point that became one of millions is no longer what was accepted."""
        bring(store, [order("o1")], [payment("t1", "o1", 99)])
        ids = kept(store).found.mismatches["break"].to_list()
        with store.writing() as connection:
            orders.lock(connection)
            breaks.resolve(connection, ids, "accepted", by="ann", why="one point", now=LATER)
        assert kept(store).found.verdicts == ["CLEAN"]
        bring(store, [order("o1")], [payment("t2", "o1", 5_000_000)], now=LATER + HOUR)
        found = kept(store, now=LATER + HOUR).found
        assert (codes(found.changed), found.verdicts) == ([("o1", "amount_mismatch")], ["FINDINGS"])
        assert (found.mismatches["resolution"].to_list(), found.points_at_risk) == (["accepted"], 4_999_999)
        with store.writing() as connection:
            orders.lock(connection)
            breaks.resolve(connection, ids, "accepted", by="ann", why="that too", now=LATER + HOUR)
        assert kept(store, now=LATER + HOUR).found.verdicts == ["CLEAN"]

    def test_the_scenario_adds_up_its_own_code_only(self, store):
        """Transactions of another code that cannot be added up say nothing of an order by the scenario's rules."""
        huge = [payment(f"h{n}", "o1", 2**63 - 1, account_id=f"a{n}", business_code="gift") for n in range(2)]
        bring(store, [order("o1")], [payment("t1", "o1"), *huge])
        found = scenario(store, now=LATER, end=DAY + HOUR)
        assert (found.orders, found.transactions) == (1, 1)
        assert (found.withheld.height, found.verdicts) == (0, ["CLEAN"])
        assert told(store).withheld["order_id"].to_list() == ["o1"]

    def test_a_sum_of_the_scenario_past_int64_withholds_its_order_alone(self, store):
        """It adds up without signs, so what was paid and given back may be too much; the others are judged."""
        huge, code = 2**63 - 1, {"business_code": "order.payment"}
        rows = [payment("h1", "big", huge, account_id="a1"), refund("h2", "big", huge, account_id="a1", **code)]
        earned = refund("h3", "earned", huge, account_id="a2", **code)
        bring(
            store,
            [order("o1"), order("big"), order("earned", huge, direction="earn", account_id="a2")],
            [*rows, earned],
        )
        found = scenario(store, now=LATER, end=DAY + HOUR)
        assert codes(found.mismatches) == [("o1", "missing_credit_transaction")]
        assert found.withheld.rows() == [("big", f"its sums are past int64: {2 * huge}")]
        assert told(store).withheld.is_empty()


class TestSqlite(OnSqlite, UnreadContract):
    """On SQLite."""


class TestPostgres(OnPostgres, UnreadContract):
    """On PostgreSQL."""
