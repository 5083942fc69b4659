"""What the projections say of small histories that can be read at a glance."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from projections import (
    ACCOUNT_STATUS,
    BALANCE_COLUMNS,
    BALANCES,
    FINDINGS_SCHEMA,
    RELATIONS,
    TRANSACTIONS,
    account_rows,
    findings,
    overflowed,
)
from schemas import (
    AMOUNT_MAX,
    AccountClosed,
    AccountLocked,
    AccountOpened,
    AccountUnlocked,
    Event,
    TransactionRecorded,
    TransactionStatusChanged,
    event_id,
    event_rows,
)

START = datetime(2024, 3, 1, tzinfo=UTC)
NOW = START + timedelta(hours=25)


class Stream:
    """Events of one account after another, each an hour after the last unless said otherwise."""

    def __init__(self, account_id: str = "a") -> None:
        self.account_id = account_id
        self.events: list[Event] = []

    def add(self, cls: type[Event], *, hour: float | None = None, **fields: object) -> Stream:
        """Append an event of any kind."""
        version = len(self.events) + 1
        self.events.append(
            cls(
                event_id=event_id(self.account_id, version),
                account_id=self.account_id,
                version=version,
                effective_at=START + timedelta(hours=version - 1 if hour is None else hour),
                recorded_at=NOW,
                **fields,
            )
        )
        return self

    def record(self, transaction_id: str, signed: int, to_status: str = "completed", **fields: object) -> Stream:
        """Record a credit, or a debit where the points are below zero."""
        moved = {"type": "credit" if signed > 0 else "debit", "amount": abs(signed)}
        return self.add(TransactionRecorded, transaction_id=transaction_id, to_status=to_status, **moved, **fields)

    def change(
        self, transaction_id: str, signed: int, from_status: str | None, to_status: str, **fields: object
    ) -> Stream:
        """Take a transaction from one status to another."""
        return self.add(
            TransactionStatusChanged,
            transaction_id=transaction_id,
            type="credit" if signed > 0 else "debit",
            amount=abs(signed),
            from_status=from_status,
            to_status=to_status,
            **fields,
        )


def batch(*streams: Stream) -> pl.LazyFrame:
    """All events of the streams, one stream after another."""
    return event_rows([event for stream in streams for event in stream.events]).lazy()


def found(*streams: Stream, now: datetime = NOW) -> list[dict]:
    """All findings, details decoded."""
    events = batch(*streams)
    rows = findings(*(part.fold(events) for part in (TRANSACTIONS, ACCOUNT_STATUS, BALANCES)), now=now).collect()
    assert rows.schema == FINDINGS_SCHEMA
    return [row | {"details": json.loads(row["details"])} for row in rows.iter_rows(named=True)]


def codes(*streams: Stream, now: datetime = NOW) -> list[tuple[str, str | None, int | None]]:
    """All findings as (code, transaction, position)."""
    return [(row["code"], row["transaction_id"], row["position"]) for row in found(*streams, now=now)]


def test_balances_count_each_status_once() -> None:
    """A hold that completes leaves frozen, and what is pending counts for neither balance nor frozen."""
    stream = Stream().record("t1", 100).record("t2", -30, "frozen").record("t3", 7, "pending")
    stream.record("t4", -5, "pending").change("t2", -30, "frozen", "completed").record("t5", -20, "frozen")
    (row,) = BALANCES.finish(BALANCES.fold(batch(stream))).collect().iter_rows()
    assert row == ("a", 70, 20, 50, 7, 5, 6, START + timedelta(hours=5))


def test_account_rows_have_active_accounts_too() -> None:
    """An account without a status event is active, and the contract's columns come in their order."""
    locked = Stream("b").add(AccountOpened).add(AccountLocked)
    closed = Stream("c").add(AccountLocked).add(AccountUnlocked).add(AccountClosed)
    events = batch(Stream("a").record("t1", 1), locked, closed)
    rows = account_rows(BALANCES.fold(events), ACCOUNT_STATUS.fold(events)).collect().sort("account_id")
    assert rows.columns[:9] == [*BALANCE_COLUMNS[:6], "status", *BALANCE_COLUMNS[6:]]
    assert rows.select("account_id", "status", "locked_at", "status_version", "closed_version").rows() == [
        ("a", "active", None, None, None),
        ("b", "locked", START + timedelta(hours=1), 2, None),
        ("c", "closed", None, 3, 3),
    ]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_sum_that_leaves_int64_and_returns_is_exact(engine: str) -> None:
    """Only the end of a sum is judged: two largest credits and one debit are fine."""
    stream = Stream().record("t1", AMOUNT_MAX).record("t2", AMOUNT_MAX).record("t3", -AMOUNT_MAX)
    state = BALANCES.fold(batch(stream)).collect(engine=engine)
    assert overflowed(state.lazy()).collect().is_empty()
    assert BALANCES.finish(state.lazy()).collect(engine=engine)["balance"].to_list() == [AMOUNT_MAX]


def test_sum_past_int64_is_named_and_never_wraps() -> None:
    """Every column of an account that is past int64 is named with its value, and finishing it raises."""
    over = Stream("a").record("t1", AMOUNT_MAX).record("t2", 1)
    under = Stream("b").record("t1", -AMOUNT_MAX).record("t2", -1)
    held = Stream("c").record("t1", -AMOUNT_MAX).record("t2", 2, "frozen")
    pending = Stream("d").record("t1", AMOUNT_MAX, "pending").record("t2", 1, "pending")
    state = BALANCES.fold(batch(over, under, held, pending)).collect().lazy()
    assert sorted(overflowed(state).collect().rows()) == [
        ("a", "available", "9223372036854775808"),
        ("a", "balance", "9223372036854775808"),
        ("c", "available", "-9223372036854775809"),
        ("d", "pending_credit", "9223372036854775808"),
    ]
    for account_id in ("a", "c", "d"):
        with pytest.raises(pl.exceptions.InvalidOperationError):
            BALANCES.finish(state.filter(pl.col("account_id") == account_id)).collect()
    assert BALANCES.finish(state.filter(pl.col("account_id") == "b")).collect()["balance"].item() == -(2**63)


def test_relations_are_edges_of_any_event_once() -> None:
    """An edge is kept once, whichever event names it, and whether or not the other transaction exists."""
    stream = Stream().record("t1", 5, "pending", related_transaction_id="t9")
    stream.change("t1", 5, "pending", "completed", related_transaction_id="t9").record("t2", 5)
    assert RELATIONS.fold(batch(stream)).collect().rows() == [("a", "t1", "t9")]


def test_transactions_keep_what_was_recorded_and_where_it_is_now() -> None:
    """A transaction's beginning is its first recording, its status the last event's."""
    stream = Stream().record("t1", 5, "pending", order_id="o1").change("t1", 5, "pending", "completed")
    (row,) = TRANSACTIONS.fold(batch(stream)).collect().iter_rows(named=True)
    assert (row["created_at"], row["created_version"], row["created_position"]) == (START, 1, 1)
    assert (row["status"], row["status_version"], row["status_position"]) == ("completed", 2, 2)
    assert (row["updated_at"], row["order_id"]) == (START + timedelta(hours=1), "o1")


def test_clean_history_has_no_findings() -> None:
    """Nothing is found in a ledger whose events follow from each other."""
    stream = Stream().add(AccountOpened).record("t1", 50).record("t2", -20, "frozen")
    stream.change("t2", -20, "frozen", "completed").record("t3", 20, related_transaction_id="t2")
    assert found(stream) == []


def test_no_events_have_no_findings() -> None:
    """Findings of empty states are empty, with their columns."""
    assert found() == []


def test_negative_balance_is_named_at_every_step_in_time_order() -> None:
    """Order is by creation, not by version; the place counts every transaction, whatever its status."""
    stream = Stream().record("late", 50, hour=9).record("held", -3, "frozen", hour=1)
    stream.record("first", -10, hour=2).record("second", -20, hour=3)
    rows = [row for row in found(stream) if row["code"] == "negative_balance"]
    assert [(row["transaction_id"], row["position"], row["actual"]) for row in rows] == [
        ("first", 1, "-10"),
        ("second", 2, "-30"),
    ]


def test_balance_of_nothing_is_not_negative() -> None:
    """A running balance that comes down to zero is no finding."""
    assert found(Stream().record("t1", 5).record("t2", -5)) == []


def test_negative_balance_does_not_wrap() -> None:
    """A running balance beyond int64 is told as it is."""
    stream = Stream().record("t1", -AMOUNT_MAX).record("t2", -AMOUNT_MAX)
    assert [row["actual"] for row in found(stream) if row["code"] == "negative_balance"] == [
        str(-AMOUNT_MAX),
        str(-2 * AMOUNT_MAX),
    ]


def test_missing_related_transaction_and_where_it_is() -> None:
    """A related id that only another account has is missing and found there; a pending one is not asked."""
    stream = Stream("a").record("t1", 5, related_transaction_id="t9").record("t2", 5, related_transaction_id="t1")
    stream.record("t3", 5, "pending", related_transaction_id="gone")
    assert [
        (row["code"], row["transaction_id"], row["details"]) for row in found(stream, Stream("b").record("t9", 1))
    ] == [
        ("missing_related_transaction", "t1", {"related_transaction_id": "t9"}),
        ("related_in_other_account", "t1", {"related_transaction_id": "t9", "other_account_id": "b"}),
    ]


def test_related_transaction_that_a_change_brings_is_asked_for() -> None:
    """A related id that came with the completion is missing where it does not exist, like one from the beginning."""
    stream = Stream().record("t1", 5, "pending", order_id="o1").record("t2", 5, "pending", related_transaction_id="x")
    stream.change("t1", 5, "pending", "completed", related_transaction_id="zz")
    stream.change("t2", 5, "pending", "completed")
    assert [
        (row["code"], row["transaction_id"], row["details"]["related_transaction_id"]) for row in found(stream)
    ] == [
        ("missing_related_transaction", "t1", "zz"),
        ("missing_related_transaction", "t2", "x"),
    ]


def test_what_is_said_last_of_a_transaction_counts_and_recordings_are_still_compared() -> None:
    """Related id, business code and order are of the last event that says them, wherever the stream is cut."""
    stream = Stream().record("t1", 5, "pending", order_id="o1", business_code="b1", hour=0)
    stream.change("t1", 5, "pending", "frozen", related_transaction_id="r1", order_id="o2", hour=0)
    stream.change("t1", 5, "frozen", "completed", related_transaction_id="r2", hour=0)
    stream.record("t1", 5, "pending", order_id="o1", business_code="b1", hour=0)
    events = batch(stream).collect()
    names = ("related_transaction_id", "order_id", "business_code", "is_conflicting")
    for place in range(events.height + 1):
        parts = [TRANSACTIONS.fold(part.lazy()) for part in (events[:place], events[place:])]
        # The last recording says o1 again, and is equal to the first, whatever was said in between.
        assert TRANSACTIONS.merge(*parts).select(names).collect().rows() == [("r2", "o1", "b1", False)]


def test_pending_is_stale_strictly_after_24_hours() -> None:
    """At 24 hours a pending transaction is not stale yet; a microsecond later it is."""
    stream = Stream().record("t1", 5, "pending")
    assert codes(stream, now=START + timedelta(hours=24)) == []
    (row,) = found(stream, now=START + timedelta(hours=24, microseconds=1))
    assert (row["code"], row["position"]) == ("stale_pending_transaction", 1)
    assert row["details"]["created_at"] == "2024-03-01T00:00:00.000000Z"


def test_duplicates_are_equal_or_conflicting_and_not_illegal() -> None:
    """A repeat with equal content is a duplicate, with other content a conflict; neither is an illegal change."""
    stream = Stream().record("t1", 5, hour=0).record("t1", 5, hour=0).record("t2", 5, hour=0).record("t2", 6, hour=0)
    assert codes(stream) == [("conflicting_duplicate", "t2", 4), ("duplicate_transaction", "t1", 2)]


def test_change_that_moves_another_amount_conflicts() -> None:
    """A change that says another amount than the recording did would leave points behind, so it is named."""
    stream = Stream().record("t1", 5, "pending").change("t1", 4, "pending", "completed")
    assert codes(stream) == [("conflicting_duplicate", "t1", 2)]


def test_same_id_in_two_accounts_conflicts_in_both() -> None:
    """An id that two accounts have is named for each of them."""
    rows = found(Stream("a").record("t1", 5), Stream("b").record("t1", 5))
    assert [(row["code"], row["account_id"], row["actual"]) for row in rows] == [
        ("conflicting_duplicate", "a", "2 accounts"),
        ("conflicting_duplicate", "b", "2 accounts"),
    ]


@pytest.mark.parametrize(
    ("from_status", "to_status", "previous"),
    [
        ("completed", "cancelled", "pending"),
        ("completed", "pending", "pending"),
        ("frozen", "completed", "pending"),
        ("pending", "pending", "pending"),
    ],
)
def test_illegal_change_is_told_with_what_the_status_was(from_status: str, to_status: str, previous: str) -> None:
    """A change that no rule allows, or that starts from a status the transaction does not have, is illegal."""
    stream = Stream().record("t1", 5, "pending").change("t1", 5, from_status, to_status)
    (row,) = [row for row in found(stream) if row["code"] == "illegal_transition"]
    assert (row["position"], row["actual"]) == (2, f"{from_status} -> {to_status}")
    assert (row["details"]["previous_status"], row["details"]["count"]) == (previous, 1)


def test_legacy_rows_that_had_ended_are_no_finding() -> None:
    """A transaction that is recorded as cancelled or failed, as an import does, is nothing wrong."""
    assert found(Stream().record("t1", 5, "cancelled").record("t2", -5, "failed")) == []


def test_change_without_a_record_is_an_orphan() -> None:
    """A change of a transaction that was never recorded before it is named, and still counts."""
    stream = Stream().change("t1", 5, "pending", "completed").record("t1", 5, "pending")
    assert ("orphan_status_change", "t1", 1) in codes(stream)
    assert BALANCES.fold(batch(stream)).collect()["balance"].item() == 5


def test_time_that_goes_back_within_a_transaction() -> None:
    """A change that is effective before the recording is named; across transactions time may go back."""
    stream = Stream().record("t1", 5, "pending", hour=5).change("t1", 5, "pending", "completed", hour=4)
    stream.record("t2", 5, hour=1)
    (row,) = found(stream)
    assert (row["code"], row["position"], row["actual"]) == (
        "effective_at_regression",
        2,
        "2024-03-01T04:00:00.000000Z",
    )


def test_frozen_beyond_the_balance() -> None:
    """An account with more frozen than it has is named with both sums; as much as it has is fine."""
    assert found(Stream().record("t1", 5).record("t2", -5, "frozen")) == []
    (row,) = found(Stream().record("t1", 5).record("t2", -6, "frozen"))
    assert (row["code"], row["transaction_id"], row["actual"]) == ("over_frozen", None, "6")


def test_activity_after_closing() -> None:
    """What is recorded or changed after an account was closed is named, what came before is not."""
    stream = Stream().record("t1", 5).record("t2", 5, "pending").add(AccountClosed)
    stream.change("t2", 5, "pending", "completed").record("t3", 5)
    assert codes(stream) == [("closed_account_activity", "t2", 4), ("closed_account_activity", "t3", 5)]


@pytest.mark.parametrize("event", [AccountOpened, AccountLocked, AccountUnlocked, AccountClosed])
def test_events_of_an_account_after_closing(event: type[Event]) -> None:
    """Opening, locking, unlocking or closing an account again is named, and the status is what the event says."""
    for stream in (Stream().add(AccountClosed), Stream().record("t1", 5).record("t2", -5).add(AccountClosed)):
        assert found(stream) == []
        version = len(stream.add(event).events)
        (row,) = found(stream)
        assert (row["code"], row["transaction_id"], row["position"]) == ("closed_account_activity", None, None)
        assert row["details"] == {"closed_version": version - 1, "version": version}


def test_events_of_an_account_before_closing_are_no_activity_after_it() -> None:
    """An account that was locked and unlocked before it was closed, and had transactions, has nothing wrong."""
    stream = Stream().add(AccountOpened).add(AccountLocked).add(AccountUnlocked).record("t1", 5).record("t2", -5)
    assert found(stream.add(AccountClosed)) == []


def test_moments_after_now() -> None:
    """A transaction that is effective after now is named, and so is an event of the account itself."""
    stream = Stream().record("t1", 5, hour=25).record("t2", 5, hour=25.01).add(AccountLocked, hour=30)
    assert codes(stream) == [("future_timestamp", "t2", 2), ("future_timestamp", None, None)]


def test_overflow_is_a_finding_that_names_the_account() -> None:
    """A sum past int64 is found, with the column and the value."""
    rows = found(Stream("x").record("t1", AMOUNT_MAX, "pending").record("t2", 1, "pending"), now=START)
    (row,) = [row for row in rows if row["code"] == "overflow"]
    assert (row["account_id"], row["actual"], row["details"]) == (
        "x",
        "9223372036854775808",
        {"column": "pending_credit"},
    )
