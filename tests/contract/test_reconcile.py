"""A reconciliation that runs once: what it finds, what becomes of it, and what it does not know."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import polars as pl
import pytest
from archives import archive_at
from databases import OnPostgres, OnSqlite
from ledgers import put_back, take_event
from reconcile_rows import DAY, LATER, bring, codes, in_files, kept, order, payment, refund, told

from consumers.archiver import archive_store
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.shadow import StoreShadow
from ledger import break_rows, breaks, order_transactions, orders, shadows, withheld_orders
from ledger.order_transactions import FOLLOWER
from replay.reconcile import Range, ask_for
from replay.reconcile_breaks import keep
from replay.reconcile_sides import ledger_of_archive, ledger_of_store
from schemas.errors import UsageError

#: Two that are right, one never paid, one paid twice, one that nobody knows, one cancelled before payment.
ORDERS = [
    order("o1"),
    order("o2", 60, status="pending"),
    order("o3", 70),
    order("o4"),
    order("o6", status="cancelled"),
]
TRANSACTIONS = [
    payment("t1", "o1"),
    payment("t2", "o2", 60, status="frozen"),
    payment("t3", "o4"),
    payment("t4", "o4"),
    payment("t5", "o5", 30),
    payment("t6", None, 5),
]
WRONG = [
    ("o3", "missing_credit_transaction"),
    ("o4", "amount_mismatch"),
    ("o4", "duplicate_credit"),
    ("o5", "orphan_credit_transaction"),
]


def states(store) -> dict[tuple[str, str], tuple[str, str | None]]:
    """Return the state and the resolution of every break, by order and code."""
    with store.snapshot() as connection:
        found = break_rows.listed(connection)
    return {(row["order_id"], row["code"]): (row["state"], row["resolution"]) for row in found.iter_rows(named=True)}


def follow(store) -> None:
    """Begin to follow the store as a reconciliation does that runs for ever."""
    with store.writing() as connection:
        shadows.create(
            connection,
            name=FOLLOWER,
            source="store",
            source_id=store.ledger_id,
            topic=None,
            started_from="zero",
            positions={0: 0},
            created_at="2026-03-01T00:00:00.000000Z",
        )


class ReconcileContract:
    """Subclasses give `store`."""

    def test_what_is_wrong_is_found_and_kept(self, store):
        """Every mismatch is told with its break; a second run finds the same breaks and makes none."""
        bring(store, ORDERS, TRANSACTIONS)
        found, why_not = kept(store)
        assert (codes(found.mismatches), why_not) == (WRONG, None)
        assert (found.orders, found.transactions, found.points_at_risk) == (5, 5, 70 + 100 + 30)
        assert found.verdicts == ["FINDINGS"]
        assert found.mismatches["state"].to_list() == ["open"] * 4
        again = kept(store, now=LATER + timedelta(hours=1)).found
        assert again.mismatches.equals(found.mismatches)
        assert set(states(store).values()) == {("open", None)}

    def test_what_may_right_itself_is_pending(self, store):
        """Before the deadline of an order nothing of it is certain: CLEAN, and its break is pending."""
        now = DAY + timedelta(minutes=5)
        bring(store, ORDERS, TRANSACTIONS, now=now)
        found = kept(store, now=now).found
        assert (codes(found.pending), found.mismatches.height, found.verdicts) == (WRONG, 0, ["CLEAN"])
        assert found.pending["state"].to_list() == ["pending"] * 4
        bring(store, transactions=[payment("t9", "o3", 70)], now=now)
        assert ("o3", "missing_credit_transaction") not in codes(kept(store, now=now).found.pending)
        assert not [order_id for order_id, _ in states(store) if order_id == "o3"]

    def test_orders_are_known_no_further_than_their_last_import(self, store):
        """However late it is, an order side that was read before the deadlines leaves everything pending."""
        bring(store, ORDERS, TRANSACTIONS, now=DAY + timedelta(minutes=5))
        found = kept(store, now=LATER).found
        assert (codes(found.pending), found.until) == (WRONG, DAY + timedelta(minutes=5))
        assert found.verdicts == ["INCOMPLETE"]

    def test_what_comes_late_resolves_its_break(self, store):
        """A payment that comes after the break opened resolves it as late; a refund too much opens another."""
        bring(store, ORDERS, TRANSACTIONS)
        kept(store)
        later = LATER + timedelta(days=1)
        paid = [payment("t9", "o3", 70), refund("t10", "o4", 150, related_transaction_id="t4")]
        bring(store, [order("o7", status="cancelled")], paid, now=later)
        found = kept(store, now=later + timedelta(hours=1)).found
        assert codes(found.mismatches) == [WRONG[1], ("o4", "orphan_reversal"), WRONG[3]]
        known = states(store)
        assert known["o3", "missing_credit_transaction"] == ("resolved", "late")
        assert known["o4", "duplicate_credit"] == ("resolved", "late")
        assert known["o4", "orphan_reversal"] == ("open", None)

    def test_what_somebody_decided_is_no_finding(self, store):
        """Mismatches that are accepted or resolved by hand are told with that, and do not make FINDINGS."""
        bring(store, ORDERS, TRANSACTIONS)
        ids = kept(store).found.mismatches["break"].to_list()
        with store.writing() as connection:
            orders.lock(connection)
            breaks.resolve(connection, ids[:1], "manual", by="ann", why="paid in cash", now=LATER)
            breaks.resolve(connection, ids[1:], "accepted", by="ann", why="known", now=LATER)
        found = kept(store).found
        assert (codes(found.mismatches), found.standing.height, found.verdicts) == (WRONG, 0, ["CLEAN"])
        assert found.mismatches["resolution"].to_list() == ["manual", "accepted", "accepted", "accepted"]
        assert found.points_at_risk == 0

    def test_where_a_reconciliation_runs_for_ever_nothing_is_written(self, store):
        """With a follower of the ledger a single look only tells, whatever it finds."""
        bring(store, ORDERS, TRANSACTIONS)
        follow(store)
        found, why_not = kept(store)
        assert (codes(found.mismatches), states(store)) == (WRONG, {})
        assert why_not is not None
        assert found.mismatches["break"].null_count() == 4

    def test_one_that_begins_to_run_for_ever_has_read_nothing_yet(self, store):
        """Up to when a single look knew the ledger does not count for a follower, which is at the beginning of it."""
        bring(store, ORDERS, TRANSACTIONS)
        kept(store)
        with store.snapshot() as connection:
            assert orders.read_until(connection).ledger_at == LATER
        follow(store)
        with store.snapshot() as connection:
            assert orders.read_until(connection).ledger_at is None
            assert orders.touched(connection, 9) == ["o1", "o2", "o3", "o4", "o5", "o6"]

    def test_orders_of_an_account_that_is_parked_are_withheld(self, store):
        """What nobody can read may be the missing payment: INCOMPLETE, the breaks stay, and all others are judged."""
        bob = {"account_id": "bob"}
        bring(store, [*ORDERS, order("b1", **bob)], TRANSACTIONS)
        bring(store, [order("u1", account_id=None)], [payment("b2", "b2", **bob), payment("b3", "b3", **bob)])
        before = len(codes(kept(store).found.mismatches))
        lost = take_event(store, "bob", 3)
        found = kept(store).found
        assert codes(found.mismatches) == WRONG
        assert found.withheld["order_id"].to_list() == ["b1", "b2", "u1"]
        assert found.verdicts == ["INCOMPLETE", "FINDINGS"]
        with store.snapshot() as connection:
            assert withheld_orders.known(connection) == ["b1", "b2", "u1"]
        # That of b3 too, whose only transaction cannot be read any more.
        assert list(states(store).values()) == [("open", None)] * before
        assert before == len(WRONG) + 4
        assert kept(store).found.withheld.equals(found.withheld)
        put_back(store, lost)
        again = kept(store).found
        assert (again.withheld.height, len(codes(again.mismatches)), again.verdicts) == (0, before, ["FINDINGS"])
        with store.snapshot() as connection:
            assert withheld_orders.known(connection) == []

    def test_a_sum_past_int64_withholds_its_order_alone(self, store):
        """An order whose transactions cannot be added up is named; the others are judged."""
        huge = 2**63 - 1
        accounts = [{"account_id": f"a{number}", "amount": huge} for number in (1, 2)]
        bring(store, [*ORDERS, order("big")], TRANSACTIONS)
        bring(store, transactions=[payment(f"h{n}", "big", **fields) for n, fields in enumerate(accounts)])
        found = told(store)
        assert (codes(found.mismatches), found.withheld["order_id"].to_list()) == (WRONG, ["big"])

    def test_a_range_is_the_part_of_everything_that_is_in_it(self, store):
        """Orders placed in the range are judged over all their facts; breaks of other orders are left as they are."""
        days = [DAY + timedelta(days=day) for day in range(3)]
        placed = [order(f"r{n}", created_at=at) for n, at in enumerate(days)]
        paid = [payment(f"p{n}", f"x{n}", created_at=at) for n, at in enumerate(days)]
        late = payment("late", "r1", created_at=days[2])
        now = DAY + timedelta(days=9)
        bring(store, [*placed, order("r4", created_at=days[1])], [*paid, late], now=now)
        span = Range(days[1], days[1])
        everything = told(store, now=now)
        part = kept(store, now=now, span=span).found
        assert codes(part.mismatches) == codes(everything.mismatches.filter(pl.col("order_at") == days[1]))
        assert codes(part.mismatches) == [("r4", "missing_credit_transaction"), ("x1", "orphan_credit_transaction")]
        assert (part.orders, part.transactions) == (2, 2)
        assert set(states(store)) == set(codes(part.mismatches))
        kept(store, now=now)
        bring(store, transactions=[payment("p8", "r0"), payment("p9", "r4")], now=now)
        kept(store, now=now, span=span)
        known = states(store)
        assert known["r4", "missing_credit_transaction"] == ("resolved", "late")
        assert known["r0", "missing_credit_transaction"] == ("open", None)

    def test_no_order_is_no_reconciliation(self, store):
        """A ledger without a single order is a mistake of whoever asks, not a clean one."""
        bring(store, transactions=TRANSACTIONS)
        with pytest.raises(UsageError, match="no order is known"):
            told(store)

    @pytest.mark.parametrize("ending", ["parquet", "csv"])
    def test_files_give_what_their_import_gives(self, store, ending):
        """Two files reconcile like the ledger that they are imported into."""
        bring(store, ORDERS, TRANSACTIONS)
        expected, found = told(store), in_files(ORDERS, TRANSACTIONS, ending=ending)
        places = ["ledger_partition", "ledger_position"]
        assert found.mismatches.drop(places).equals(expected.mismatches.drop(places))
        assert (found.orders, found.transactions, found.verdicts) == (5, 5, ["FINDINGS"])

    def test_of_one_moment_the_place_tells_what_came_last(self, store):
        """Versions of two accounts say nothing of each other: store, follower and file agree which was last."""
        tried = [payment("t0", None), payment("t1", "o1", status="failed")]
        tried.append(payment("t2", "o1", account_id="bob", status="cancelled"))
        bring(store, [order("o1")], tried)
        with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions())) as shadow:
            while shadow.step().events:
                pass
        with store.snapshot() as connection:
            kept_rows = order_transactions.linked(connection, shadows.find(connection, FOLLOWER).number)
        side = ledger_of_store(store, ask_for(), now=LATER)
        followed = side._replace(transactions=kept_rows.select(side.transactions.columns))
        found = [told(store), told(store, ledger=followed), in_files([order("o1")], tried, ending="csv")]
        for each in found:
            rows = each.mismatches.select("code", "transactions", "credit_status").rows()
            assert rows == [(code, ["t1", "t2"], "cancelled") for code in ("amount_mismatch", "status_mismatch")]

    def test_an_archive_gives_what_the_store_gives(self, store, tmp_path):
        """The same mismatches at the same places, as far as the archive is known to be whole."""
        bring(store, ORDERS, TRANSACTIONS)
        archive_store(archive_at(tmp_path), store, now=lambda: LATER)
        side = ledger_of_archive(archive_at(tmp_path), ask_for())
        assert side.until == LATER
        assert told(store, ledger=side).mismatches.equals(told(store).mismatches)

    def test_an_older_archive_writes_nothing(self, store, tmp_path):
        """What an archive does not have yet must not undo what the store has shown since."""
        bring(store, ORDERS, TRANSACTIONS)
        archive_store(archive_at(tmp_path), store, now=lambda: LATER)
        later = LATER + timedelta(days=1)
        bring(store, [order("o7")], [payment("t9", "o3", 70), payment("t10", "o7")], now=later)
        kept(store, now=later)
        before = states(store)
        side = ledger_of_archive(archive_at(tmp_path), ask_for())
        found, why_not = kept(store, now=later, ledger=side)
        assert why_not is not None
        assert ("o3", "missing_credit_transaction") in codes(found.mismatches)
        assert states(store) == before

    def test_a_damaged_archive_withholds_whoever_it_may_have(self, store, tmp_path):
        """Accounts that a damaged file may have are unknown, those too that it alone had; the others are judged."""
        bring(store, [*ORDERS, order("z1", account_id="zoe"), order("u1", account_id=None)], TRANSACTIONS)
        bring(store, [order("y1", account_id="yves")])
        archive_store(archive_at(tmp_path), store, now=lambda: LATER)
        bring(store, transactions=[payment("z1", "z1", account_id="zoe")], now=LATER)
        archive_store(archive_at(tmp_path), store, now=lambda: LATER)
        files = archive_at(tmp_path).snapshot().files
        (damaged,) = [file for file in files if file.first_account == "zoe"]
        (tmp_path / "archive" / damaged.name).write_bytes(b"PAR1")
        found = told(store, ledger=ledger_of_archive(archive_at(tmp_path), ask_for()))
        # Nobody has ever heard of yves, and the file could not have had him.
        assert codes(found.mismatches) == [*WRONG, ("y1", "missing_credit_transaction")]
        assert found.withheld["order_id"].to_list() == ["u1", "z1"]
        assert found.verdicts == ["INCOMPLETE", "FINDINGS"]

    def test_without_a_moment_nothing_is_certain(self, store):
        """Where nobody knows up to when the ledger is whole, all is pending and nothing is kept: INCOMPLETE."""
        bring(store, ORDERS, TRANSACTIONS)
        side = ledger_of_store(store, ask_for(), now=LATER)._replace(until=None)
        found = told(store, ledger=side)
        assert (codes(found.pending), found.mismatches.height, found.verdicts) == (WRONG, 0, ["INCOMPLETE"])
        assert keep(store, found, now=LATER).why_not is not None
        assert states(store) == {}


class TestSqlite(OnSqlite, ReconcileContract):
    """On SQLite."""


class TestPostgres(OnPostgres, ReconcileContract):
    """On PostgreSQL."""
