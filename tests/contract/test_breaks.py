"""The life of a break: when it opens, what resolves it, who may decide, and what its history keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from break_rows_made import at, found, mismatch, of
from databases import OnPostgres, OnSqlite
from sqlalchemy import insert

from ledger import Store, break_rows, breaks, orders
from ledger.break_rows import Counted, Risk, Selection
from ledger.breaks import Changes
from ledger.order_tables import ORDERS_WITHHELD
from projections.reconciliation import MISMATCH_SCHEMA
from schemas.errors import RefusedError, UsageError


class BreaksContract:
    """Subclasses give `store`."""

    def test_one_that_is_found_waits_for_its_deadline(self, store):
        """A mismatch is pending until both sides were read past its deadline, and open from the sweep after that."""
        assert judge(store, found(mismatch("o1")), until=0.5, now=0.5).pending == 1
        assert states(store) == {("o1", "amount_mismatch"): "pending"}
        assert sweep(store, until=0.99, now=3).opened.is_empty()
        opened = sweep(store, until=1, now=4).opened
        assert opened["opened_at"].to_list() == [at(4)]
        assert opened["noticed_at"].to_list() == [at(0.5)]
        assert [(row[3], row[4], row[5]) for row in rows(store, 1)] == [
            ("reconciliation", None, "pending"),
            ("reconciliation", "pending", "open"),
        ]
        assert sweep(store, until=9, now=9).opened.is_empty()

    def test_what_was_dated_long_ago_waits_until_both_sides_were_read_past_the_judgement(self, store):
        """Facts that came late are no break before the other side was read up to when they were found."""
        facts = found(mismatch("o1", deadline=-500))
        assert judge(store, facts, until=2, now=3, judged_at=None).pending == 1
        assert listed(store)["deadline_at"].to_list() == [at(3)]
        assert judge(store, facts, until=2.9, now=4, judged_at=None).opened.is_empty()
        assert listed(store)["deadline_at"].to_list() == [at(3)]
        assert sweep(store, until=3, now=5).opened.height == 1

    def test_other_facts_wait_anew(self, store):
        """Facts that differ from those of an earlier judgement, or are later, have a deadline of their own."""
        for hour, facts in [
            (3, mismatch("o1", deadline=-500)),
            (4, mismatch("o1", points=8, deadline=-500)),
            (6, mismatch("o1", points=8, deadline=5)),
        ]:
            judge(store, found(facts), until=2, now=hour, judged_at=None)
            assert listed(store).select("deadline_at", "noticed_at").rows() == [(at(hour), at(hour))]

    def test_facts_of_the_future_wait_no_longer_than_others(self, store):
        """However late facts are dated, what they give is due once the time of grace after its judgement is over."""
        far = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
        later = pl.col("order_at") + pl.duration(days=30)
        facts = found(mismatch("o1", order_at=far)).with_columns(deadline_at=later, order_at=later)
        for hour in (3, 4):
            assert judge(store, facts, until=2, now=hour, judged_at=None, grace_seconds=3_600).opened.is_empty()
        (row,) = listed(store).to_dicts()
        assert (row["deadline_at"], row["order_at"].year) == (at(4), 9999)
        with store.snapshot() as connection:
            selected = break_rows.listed(connection, Selection(start=datetime(2027, 1, 1, tzinfo=UTC)))
            assert selected["order_id"].to_list() == ["o1"]
        assert sweep(store, until=4, now=5).opened["order_id"].to_list() == ["o1"]

    def test_a_clock_at_the_end_of_time(self, store):
        """The time of grace after the last moment that there is, is that moment."""
        last = datetime.max.replace(tzinfo=UTC)
        judge(store, found(mismatch("o1", deadline=1)), until=0, now=0, judged_at=last)
        with store.writing() as connection:
            breaks.apply(connection, found(mismatch("o2")), of("o2"), until=None, now=last, grace_seconds=900)
        assert listed(store)["deadline_at"].to_list()[1] == last

    def test_what_was_noticed_later_waits_whatever_its_deadline(self, store):
        """Who says until when what was noticed may open lets the rest wait, at a judgement and at a sweep."""
        facts = found(mismatch("o1", deadline=-5))
        judge(store, facts, until=2, now=3, noticed_until=at(2))
        assert listed(store).select("state", "deadline_at").rows() == [("pending", at(2))]
        assert sweep(store, until=2, now=4, noticed_until=at(2.9)).opened.is_empty()
        assert judge(store, facts, until=2, now=4, noticed_until=at(2.9)).opened.is_empty()
        assert sweep(store, until=2, now=4, noticed_until=at(3)).opened.height == 1

    def test_what_is_in_order_before_its_deadline_never_was(self, store):
        """A pending one that is not found any more leaves neither a row nor a history, nor its number to the next."""
        judge(store, found(mismatch("o1")), until=0, now=0)
        changes = judge(store, found(), of("o1"), until=0, now=0)
        assert (changes.gone, changes.resolved.height) == (1, 0)
        assert rows(store, 1) == []
        judge(store, found(mismatch("o2")), until=0, now=0)
        assert listed(store)["id"].to_list() == [2]

    def test_one_that_is_found_after_its_deadline_opens_at_once(self, store):
        """Where both sides were read past the deadline already, nothing waits."""
        changes = judge(store, found(mismatch("o1", deadline=1)), until=1, now=2)
        assert (changes.opened.height, changes.pending) == (1, 0)
        assert [(row[4], row[5]) for row in rows(store, 1)] == [(None, "open")]

    def test_nothing_opens_before_both_sides_were_read(self, store):
        """Without a moment up to which both sides were read, whatever is found waits."""
        assert judge(store, found(mismatch("o1", deadline=-100)), until=None, now=2).pending == 1
        assert sweep(store, until=None, now=200).opened.is_empty()
        assert set(states(store).values()) == {"pending"}

    def test_what_comes_late_resolves_it_and_its_history_keeps_both(self, store):
        """An open one that is in order by now is resolved late; found again it is reopened after its deadline."""
        judge(store, found(mismatch("o1")), until=2, now=2)
        assert judge(store, found(), of("o1"), until=3, now=3).resolved["resolution"].to_list() == ["late"]
        later = judge(store, found(mismatch("o1", points=6, deadline=9)), of("o1"), until=4, now=4)
        assert (later.reopened.height, states(store)) == (0, {("o1", "amount_mismatch"): "resolved late"})
        again = sweep(store, until=9, now=9).reopened
        assert again.select("opened_at", "resolved_at", "points_at_risk").rows() == [(at(9), None, 6)]
        assert judge(store, found(), of("o1"), until=10, now=10).resolved["resolved_at"].to_list() == [at(10)]
        assert [(row[4], row[5], row[6], row[2]) for row in rows(store, 1)] == [
            (None, "open", None, at(2)),
            ("open", "resolved", "late", at(3)),
            ("resolved", "reopened", None, at(9)),
            ("reopened", "resolved", "late", at(10)),
        ]

    def test_a_late_one_that_is_found_once_more_and_lost_again_says_nothing(self, store):
        """What was found and lost again within its deadline stays resolved, without a row of history."""
        judge(store, found(mismatch("o1")), until=2, now=2)
        judge(store, found(), of("o1"), until=3, now=3)
        judge(store, found(mismatch("o1", deadline=9)), of("o1"), until=4, now=4)
        judge(store, found(), of("o1"), until=4, now=4)
        assert sweep(store, until=99, now=99).reopened.is_empty()
        assert len(rows(store, 1)) == 2

    def test_orders_that_were_not_judged_are_left_alone(self, store):
        """What a look does not judge stays as it is; a look at all of them resolves whatever it does not find."""
        judge(store, found(mismatch("o1"), mismatch("o2")), until=2, now=2)
        judge(store, found(), of("o2", "o3"), until=2, now=2)
        assert states(store) == {("o1", "amount_mismatch"): "open", ("o2", "amount_mismatch"): "resolved late"}
        judge(store, found(), None, until=2, now=2)
        assert set(states(store).values()) == {"resolved late"}

    def test_an_open_one_keeps_up_with_its_facts(self, store):
        """Other facts and a later deadline of an open one are noted; it stays open since then."""
        judge(store, found(mismatch("o1")), until=2, now=2)
        changes = judge(
            store, found(mismatch("o1", points=9, deadline=9, transactions=["t1", "t2"])), of("o1"), until=3, now=3
        )
        assert [each.height for each in changes[:4]] == [0, 0, 0, 0]
        (row,) = listed(store).to_dicts()
        assert (row["state"], row["points_at_risk"], row["opened_at"], row["deadline_at"]) == ("open", 9, at(2), at(9))
        assert row["transactions"] == ["t1", "t2"]

    @pytest.mark.parametrize("resolution", ["manual", "accepted"])
    def test_the_machine_never_undoes_a_decision(self, store, resolution):
        """Whatever the facts do, a decided one stays decided; that they changed, and came back, is noted."""
        judge(store, found(mismatch("o1")), until=2, now=2)
        resolve(store, 1, resolution, now=3)
        steps = [
            (found(mismatch("o1")), 0),
            (found(mismatch("o1", ledger_position=99, deadline=5)), 0),
            (found(mismatch("o1", points=8)), 1),
            (found(), 1),
            (found(), 0),
            (found(mismatch("o1", points=8)), 1),
        ]
        for hour, (facts, changed) in enumerate(steps, start=4):
            assert judge(store, facts, of("o1"), until=99, now=hour).changed.height == changed
            assert states(store) == {("o1", "amount_mismatch"): f"resolved {resolution}"}
        assert sweep(store, until=99, now=99).reopened.is_empty()
        assert [(row[3], row[5], row[6], row[7], row[8]) for row in rows(store, 1)][1:] == [
            ("eve", "resolved", resolution, "so it is", 5),
            ("reconciliation", "resolved", resolution, "the facts changed; the decision stands", 8),
            ("reconciliation", "resolved", resolution, "what came since puts it in order; the decision stands", 8),
            ("reconciliation", "resolved", resolution, "found again; the decision stands", 8),
        ]
        assert listed(store).select("changed_at", "resolved_at").rows() == [(at(9), at(3))]
        with store.snapshot() as connection:
            assert break_rows.changed_since_decided(connection) == [1]

    def test_a_person_reopens_what_is_still_wrong(self, store):
        """A decision can be taken back while the facts still give the break, which then stands from that moment."""
        judge(store, found(mismatch("o1")), until=2, now=2)
        resolve(store, 1, "accepted", now=3)
        with store.writing() as connection:
            (row,) = breaks.reopen(connection, [1], by="adam", why="not so", now=at(4)).to_dicts()
        assert (row["state"], row["resolution"], row["opened_at"], row["resolved_at"]) == (
            "reopened",
            None,
            at(4),
            None,
        )
        assert rows(store, 1)[-1][3:8] == ("adam", "resolved", "reopened", None, "not so")
        assert judge(store, found(), of("o1"), until=5, now=5).resolved.height == 1
        with store.writing() as connection, pytest.raises(RefusedError, match="its facts are in order now"):
            breaks.reopen(connection, [1], by="adam", why="still", now=at(6))

    def test_resolved_again_it_is_as_its_facts_are_now(self, store):
        """What changed after a decision can be decided about once more; what did not cannot."""
        judge(store, found(mismatch("o1")), until=2, now=2)
        resolve(store, 1, "accepted", now=3)
        judge(store, found(mismatch("o1", points=8)), of("o1"), until=4, now=4)
        with store.snapshot() as connection:
            assert break_rows.changed_since_decided(connection, Selection(order_id="o1")) == [1]
            assert break_rows.changed_since_decided(connection, Selection(order_id="o2")) == []
        resolve(store, 1, "manual", now=5)
        assert listed(store).select("resolution", "resolved_at", "changed_at").rows() == [("manual", at(5), None)]
        assert rows(store, 1)[-1][3:9] == ("eve", "resolved", "resolved", "manual", "so it is", 8)
        with store.snapshot() as connection:
            assert break_rows.changed_since_decided(connection) == []
        with pytest.raises(RefusedError, match="break 1 is resolved already: manual"):
            resolve(store, 1, "accepted", now=6)

    def test_what_is_decided_before_its_deadline_waits_again_when_that_is_taken_back(self, store):
        """It is pending again while its deadline is ahead; found no more, it is resolved, and its reason stays."""
        judge(store, found(mismatch("o1", deadline=9), mismatch("o2", deadline=9)), until=2, now=2)
        resolve(store, 1, "accepted", now=3)
        resolve(store, 2, "accepted", now=3)
        assert reopen(store, 1, now=4)["state"].to_list() == ["pending"]
        assert listed(store).select("resolution", "resolved_at", "opened_at").row(0) == (None, None, None)
        with store.writing() as connection:
            assert breaks.withhold(connection, ["o1"]) == 0
            orders.lock(connection)
            for side in ("orders", "ledger"):
                orders.set_read_until(connection, side, at(9))
        changes = judge(store, found(), of("o1"), until=9, now=9)
        assert (changes.gone, changes.resolved["resolution"].to_list()) == (0, ["late"])
        assert [row[5] for row in rows(store, 1)] == ["pending", "resolved", "pending", "resolved"]
        assert reopen(store, 2, now=9).select("state", "opened_at").rows() == [("reopened", at(9))]

    def test_decisions_are_all_or_none(self, store):
        """One id that is unknown, resolved already or not resolved lets nothing of its decision be written."""
        judge(store, found(mismatch("o1"), mismatch("o2"), mismatch("o3")), until=2, now=2)
        resolve(store, 2, "manual", now=3)
        before = listed(store)
        with store.writing() as connection, pytest.raises(UsageError, match="there is no break 9"):
            breaks.resolve(connection, [1, 9], "accepted", by="eve", why="so", now=at(4))
        with store.writing() as connection, pytest.raises(RefusedError, match="break 2 is resolved already: manual"):
            breaks.resolve(connection, [1, 2], "accepted", by="eve", why="so", now=at(4))
        with store.writing() as connection, pytest.raises(RefusedError, match="break 3 cannot be reopened: it is open"):
            breaks.reopen(connection, [2, 3], by="eve", why="so", now=at(4))
        assert listed(store).equals(before)
        with store.writing() as connection:
            assert breaks.resolve(connection, [3, 1, 3], "manual", by="eve", why="so", now=at(4))["id"].to_list() == [
                1,
                3,
            ]

    def test_withheld_orders_wait(self, store):
        """What is pending of a withheld order is forgotten, what is open of it stays, and nothing of it opens."""
        judge(store, found(mismatch("o1"), mismatch("o2", deadline=0)), until=0, now=0)
        judge(store, found(mismatch("o3")), of("o3"), until=0, now=0)
        with store.writing() as connection:
            connection.execute(insert(ORDERS_WITHHELD).values(order_id="o3", reason="version 2 is missing"))
            assert breaks.withhold(connection, ["o1", "o2"]) == 1
        assert sweep(store, until=9, now=9).opened.is_empty()
        assert states(store) == {("o2", "amount_mismatch"): "open", ("o3", "amount_mismatch"): "pending"}
        assert rows(store, 1) == []
        with store.snapshot() as connection:
            assert break_rows.withheld(connection).rows() == [("o3", "version 2 is missing")]

    def test_a_look_that_sees_the_same_writes_nothing(self, store):
        """Judged twice with the same result, there is the same break with the same history."""
        facts = found(mismatch("o1"), mismatch("o1", "wrong_account", transactions=[]), mismatch("o2", account_id=None))
        judge(store, facts, until=2, now=2)
        before = listed(store)
        changes = judge(store, facts, until=3, now=3)
        assert ([each.height for each in changes[:4]], changes.pending, changes.gone) == ([0, 0, 0, 0], 0, 0)
        assert listed(store).equals(before)
        assert [len(rows(store, number)) for number in (1, 2, 3)] == [1, 1, 1]

    def test_many_at_once(self, store):
        """More orders than one query takes are judged at once, and again."""
        ids = [f"o{number:05}" for number in range(12_001)]
        facts = (
            pl.concat([found(mismatch(each)) for each in ids[:1]])
            .select(pl.exclude("order_id"), pl.Series("order_id", [ids], dtype=pl.List(pl.String)))
            .explode("order_id")
            .select(breaks.FOUND_SCHEMA.names())
        )
        assert judge(store, facts, of(*ids), until=2, now=2).opened.height == 12_001
        assert judge(store, facts.head(1), of(*ids), until=3, now=3).resolved.height == 12_000
        with store.snapshot() as connection:
            assert break_rows.counts(connection) == [Counted("open", "amount_mismatch", 1, 5)]

    def test_selections(self, store):
        """Breaks are picked by state, resolution, moment of the order, code, account and order."""
        judge(
            store,
            found(
                mismatch("o1", order_at=at(1)),
                mismatch("o1", "wrong_account", order_at=at(1)),
                mismatch("o2", order_at=at(2), account_id="bob"),
                mismatch("o3", order_at=at(3), deadline=50),
            ),
            until=2,
            now=2,
        )
        resolve(store, 1, "accepted", now=3)
        wanted = {
            Selection(): [1, 2, 3, 4],
            Selection(states=("open",)): [2, 3],
            Selection(states=("pending", "resolved")): [1, 4],
            Selection(resolution="accepted"): [1],
            Selection(resolution="manual"): [],
            Selection(start=at(2)): [3, 4],
            Selection(start=at(2), end=at(2)): [3],
            Selection(end=at(2) - timedelta(microseconds=1)): [1, 2],
            Selection(code="wrong_account"): [2],
            Selection(account_id="bob"): [3],
            Selection(order_id="o1", code="amount_mismatch"): [1],
        }
        with store.snapshot() as connection:
            for selection, ids in wanted.items():
                assert break_rows.listed(connection, selection)["id"].to_list() == ids, selection
            assert break_rows.listed(connection, ids=[4, 1, 9])["id"].to_list() == [1, 4]
            assert break_rows.listed(connection, order_ids=["o2", "o3"])["id"].to_list() == [3, 4]

    def test_sums_past_int64(self, store):
        """Counts and points at risk are exact however many points there are, and count an order once."""
        most = 2**63 - 1
        judge(
            store,
            found(
                mismatch("o1", points=most),
                mismatch("o1", "wrong_account", points=most - 1),
                mismatch("o2", points=most, order_at=at(30), account_id=None),
            ),
            until=2,
            now=2,
        )
        with store.snapshot() as connection:
            assert break_rows.counts(connection) == [
                Counted("open", "amount_mismatch", 2, 2 * most),
                Counted("open", "wrong_account", 1, most - 1),
            ]
            every = break_rows.listed(connection)
        assert break_rows.total(every) == Risk(None, 3, 2, 2 * most)
        assert break_rows.by_code(every) == [
            Risk("amount_mismatch", 2, 2, 2 * most),
            Risk("wrong_account", 1, 1, most - 1),
        ]
        assert break_rows.by_account(every) == [Risk(None, 1, 1, most), Risk("alice", 2, 1, most)]
        assert break_rows.by_day(every) == [Risk("2026-05-01", 2, 1, most), Risk("2026-05-02", 1, 1, most)]
        assert break_rows.by_day(every, of="opened_at") == [Risk("2026-05-01", 3, 2, 2 * most)]

    def test_ages(self, store):
        """What stands is in one bucket by how long it has; pending and resolved ones have no age."""
        for hour, name in [(0, "o1"), (100, "o2"), (690, "o3"), (719, "o4"), (719.5, "o5"), (719.5, "o6")]:
            judge(store, found(mismatch(name, deadline=hour)), of(name), until=hour, now=hour)
        judge(store, found(mismatch("o7", deadline=900)), of("o7"), until=720, now=720)
        resolve(store, 6, "manual", now=720)
        with store.snapshot() as connection:
            ages = break_rows.by_age(break_rows.listed(connection), at(720))
            assert break_rows.oldest_opened_at(connection) == "2026-05-01T00:00:00.000000Z"
        assert [(each.key, each.breaks) for each in ages] == [
            ("under 1 hour", 1),
            ("under 1 day", 1),
            ("under 7 days", 1),
            ("under 30 days", 1),
            ("older", 1),
        ]

    def test_nothing_there(self, store):
        """Without breaks there is nothing to sum up, and nobody ever judged."""
        with store.snapshot() as connection:
            assert (break_rows.is_empty(connection), break_rows.counts(connection)) == (True, [])
            assert break_rows.oldest_opened_at(connection) is None
            every = break_rows.listed(connection)
        assert (break_rows.total(every), break_rows.by_account(every)) == (Risk(None, 0, 0, 0), [])
        assert {each.breaks for each in break_rows.by_age(every, at(0))} == {0}


class TestOnSqlite(BreaksContract, OnSqlite):
    """SQLite in a file."""


class TestOnPostgres(BreaksContract, OnPostgres):
    """PostgreSQL."""


def test_what_is_found_is_what_judging_gives() -> None:
    """The columns of a mismatch that a break keeps have the names and types that the rules give."""
    assert {name: MISMATCH_SCHEMA[name] for name in breaks.FOUND_SCHEMA} == dict(breaks.FOUND_SCHEMA)


def judge(
    store: Store, facts: pl.DataFrame, among: pl.Series | None = None, *, until: float | None, now: float, **more: Any
) -> Changes:
    """Look at some orders, or without any named at all of them, once; `more` makes it another look."""
    with store.writing() as connection:
        orders.lock(connection)
        moments = {"until": moment(until), "now": at(now), "judged_at": moment(until), "grace_seconds": 1e7}
        return breaks.apply(connection, facts, among, **moments | more)


def sweep(store: Store, *, until: float | None, now: float, **more: Any) -> Changes:
    """Open whatever is due."""
    with store.writing() as connection:
        orders.lock(connection)
        return breaks.sweep(connection, until=moment(until), now=at(now), **more)


def resolve(store: Store, number: int, resolution: breaks.Resolution, *, now: float) -> None:
    """Decide about one."""
    with store.writing() as connection:
        breaks.resolve(connection, [number], resolution, by="eve", why="so it is", now=at(now))


def reopen(store: Store, number: int, *, now: float) -> pl.DataFrame:
    """Take a decision back."""
    with store.writing() as connection:
        return breaks.reopen(connection, [number], by="adam", why="not so", now=at(now))


def moment(hours: float | None) -> datetime | None:
    """A moment, or none."""
    return None if hours is None else at(hours)


def listed(store: Store) -> pl.DataFrame:
    """Every break."""
    with store.snapshot() as connection:
        return breaks.listed(connection)


def rows(store: Store, number: int) -> list[tuple[object, ...]]:
    """The history of one."""
    with store.snapshot() as connection:
        return breaks.history(connection, number).rows()


def states(store: Store) -> dict[tuple[str, str], str]:
    """State and resolution of every break, by order and code."""
    found_ = listed(store).select("order_id", "code", "state", "resolution").rows()
    return {(order, code): " ".join(filter(None, (state, how))) for order, code, state, how in found_}
