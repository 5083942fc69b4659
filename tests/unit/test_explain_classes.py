"""Each class of damage by itself, and which goes first where the evidence fits two: rows of one account, by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from memory_source import MemorySource
from msgspec.structs import replace
from samples import START, opened, recorded

from ledger.read_model import ROW_SCHEMA
from replay.differences import FOREIGN_FIELDS, OWN_FIELDS, Drifted
from replay.explain import Cause, entries, explain_accounts, explained
from replay.steps import Steps, steps
from schemas import AccountClosed, AccountLocked, AccountUnlocked, Event, event_id


def of_account(cls: type[Event], version: int) -> Event:
    """A status event of account `a`."""
    moment = START + timedelta(minutes=version)
    key = {"event_id": event_id("a", version), "account_id": "a", "version": version}
    return cls(**key, effective_at=moment, recorded_at=moment)


#: Two locks, and points that are worth different things, but for two events of 40.
EVENTS: list[Event] = [
    opened("a"),
    recorded("a", 2, 100),
    of_account(AccountLocked, 3),
    recorded("a", 4, 7, to_status="frozen", type="debit"),
    of_account(AccountUnlocked, 5),
    recorded("a", 6, 40),
    recorded("a", 7, 40),
    of_account(AccountLocked, 8),
    recorded("a", 9, 3, to_status="pending"),
]
FOUND = steps(MemorySource(EVENTS), ["a", "nobody"], until=len(EVENTS))
END = FOUND.rows().row(0, named=True)
LAST = len(EVENTS)


def row_at(version: int) -> dict[str, Any]:
    """The row as it was after a version."""
    return FOUND.rows(pl.col("version") <= version).row(0, named=True)


def status_at(version: int) -> dict[str, Any]:
    """What a row says of the status, as it was after a version."""
    return {name: row_at(version)[name] for name in ("status", "locked_at", "status_version", "closed_version")}


def cause_of(fields: tuple[str, ...] = OWN_FIELDS, **columns: Any) -> Cause:
    """Why a row differs that is as it should be, but for some columns."""
    live = pl.DataFrame([END | columns], schema=ROW_SCHEMA)
    return explained(FOUND, live, fields=fields)["a"]


def short(cause: Cause) -> tuple[str, int | None]:
    """The class and the version that is blamed."""
    return cause.code, None if cause.first_event is None else int(cause.first_event.removeprefix("a:"))


@pytest.mark.parametrize("fields", [OWN_FIELDS, FOREIGN_FIELDS], ids=["own", "foreign"])
def test_a_lock_that_was_missed_is_named_though_no_sum_changed(fields):
    """Without the last lock the account is as the unlock left it."""
    assert short(cause_of(fields, **status_at(5))) == ("missed_event", 8)


@pytest.mark.parametrize("fields", [OWN_FIELDS, FOREIGN_FIELDS], ids=["own", "foreign"])
def test_a_lock_that_came_again_after_all_others_was_applied_twice(fields):
    """Where the first lock counts once more, at the end, its lock time is there again."""
    assert short(cause_of(fields, **status_at(3))) == ("applied_twice", 3)


@pytest.mark.parametrize("missed", [5, 6])
def test_an_unlock_and_a_close_that_were_missed_are_named(missed):
    """An account that is still locked missed its unlock, and one that is not closed its close."""
    events = [opened("a"), recorded("a", 2), of_account(AccountLocked, 3), recorded("a", 4)]
    events += [of_account(AccountUnlocked, 5), of_account(AccountClosed, 6)]
    found = steps(MemorySource(events[:missed]), ["a"], until=missed)
    before, end = found.rows(pl.col("version") < missed), found.rows()
    assert (before["status"].item(), end["status"].item()) == {5: ("locked", "active"), 6: ("active", "closed")}[missed]
    live = end.with_columns(before[name] for name in ("status", "locked_at", "status_version", "closed_version"))
    assert short(explained(found, live, fields=OWN_FIELDS)["a"]) == ("missed_event", missed)


def test_of_two_closes_the_first_may_be_missed():
    """An account that was closed twice, and says so since the second time only, missed the first."""
    events = [opened("a"), recorded("a", 2), of_account(AccountClosed, 3), recorded("a", 4)]
    events += [of_account(AccountClosed, 5), recorded("a", 6)]
    found = steps(MemorySource(events), ["a"], until=6)
    live = found.rows().with_columns(closed_version=pl.lit(5, pl.Int64))
    assert short(explained(found, live, fields=OWN_FIELDS)["a"]) == ("missed_event", 3)
    live = found.rows().with_columns(status_version=pl.lit(3, pl.Int64))
    assert short(explained(found, live, fields=OWN_FIELDS)["a"]) == ("missed_event", 5)


@pytest.mark.parametrize("version", range(2, LAST))
def test_a_row_of_an_earlier_version_stopped_there(version):
    """A row that is all of it as it was names the event that came next, and how many were missed."""
    cause = cause_of(**row_at(version))
    assert short(cause) == ("missed_event", version + 1)
    if version < LAST - 1:
        assert f"version {version}" in cause.evidence
        assert f"{LAST - version - 1} later" in cause.evidence


def test_points_of_an_earlier_version_in_a_row_that_says_another_are_told_so():
    """Points that are as they were may have been written back, so that the row claims more is in the evidence."""
    sums = {name: row_at(4)[name] for name in ("balance", "frozen", "pending_credit", "pending_debit")}
    cause = cause_of(**sums, **status_at(4))
    assert short(cause) == ("missed_event", 5)
    assert f"itself says that it is at version {LAST}" in cause.evidence
    assert "itself" not in cause_of(**row_at(4)).evidence


def test_a_row_of_the_very_beginning_stopped_there_if_it_says_so():
    """A row of zeros is the beginning of every stream, so only one that says its version too has stopped."""
    assert short(cause_of(**row_at(1))) == ("missed_event", 2)
    zeros = dict.fromkeys(("balance", "frozen", "pending_credit", "pending_debit"), 0)
    assert short(cause_of(**zeros, **status_at(1))) == ("foreign_write", None)
    assert short(cause_of(FOREIGN_FIELDS, **row_at(1))) == ("foreign_write", None)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "active"),
        ("locked_at", START),
        ("locked_at", None),
        ("status_version", 5),
        ("status_version", None),
        ("closed_version", 9),
        ("version", LAST - 1),
        ("version", LAST + 1),
        ("chain", bytes(32)),
        ("chain", FOUND.frame["after_chain"][LAST - 2]),
        ("chain", None),
        ("last_effective_at", FOUND.frame["after_last_effective_at"][LAST - 2]),
    ],
)
def test_a_single_column_beside_the_points_was_written_by_hand(column, value):
    """No event changes only this, whatever it says now."""
    cause = cause_of(**{column: value})
    assert short(cause) == ("foreign_write", None)
    assert column in cause.evidence


@pytest.mark.parametrize("reached", [{}, {"version": LAST - 1}, {"last_effective_at": END["last_effective_at"]}])
def test_a_projector_that_counts_and_one_that_does_not_missed_the_same_event(reached):
    """A row that lacks an event in the middle may be at the last version or at one less."""
    assert short(cause_of(balance=END["balance"] - 100, **reached)) == ("missed_event", 2)


@pytest.mark.parametrize("reached", [{}, {"version": LAST + 1}, {"version": 2, "chain": row_at(2)["chain"]}])
def test_an_event_that_came_again_may_leave_its_own_version(reached):
    """A row that has an event twice may be at the last version, at one more, or where the event itself is."""
    assert short(cause_of(balance=END["balance"] + 100, **reached)) == ("applied_twice", 2)


def test_an_event_of_long_ago_that_came_again_may_leave_its_own_time():
    """A projector that keeps the time of the last event that it applied has that of the repeated one."""
    cause = cause_of(balance=END["balance"] + 100, last_effective_at=row_at(2)["last_effective_at"])
    assert short(cause) == ("applied_twice", 2)
    cause = cause_of(balance=END["balance"] + 100, last_effective_at=row_at(4)["last_effective_at"])
    assert short(cause) == ("foreign_write", None)


def test_points_of_one_event_and_the_version_of_no_fault_were_written_by_hand():
    """Where the points would fit, but no projector says that it is there, no event is blamed."""
    assert short(cause_of(balance=END["balance"] - 100, version=4)) == ("foreign_write", None)
    assert short(cause_of(balance=END["balance"] - 100, chain=bytes(32))) == ("foreign_write", None)


def test_events_of_the_same_worth_are_counted():
    """Of two events that explain a row equally the first is named, and the evidence says that there are two."""
    cause = cause_of(balance=END["balance"] - 40)
    assert short(cause) == ("missed_event", 6)
    assert "2 events" in cause.evidence


def test_two_faults_at_once_are_told_as_what_is_known():
    """Neither event alone explains the row, so the evidence says what is wrong and by how much."""
    cause = cause_of(balance=END["balance"] - 100 - 40, frozen=END["frozen"] + 7)
    assert short(cause) == ("foreign_write", None)
    assert "balance by -140" in cause.evidence
    assert "frozen by +7" in cause.evidence


def test_a_missed_event_goes_before_one_that_was_applied_twice():
    """Where missing one event and having its opposite twice give the same row, the missed one is named."""
    events = [opened("a"), recorded("a", 2, 50), recorded("a", 3, 50, type="debit"), recorded("a", 4, 1)]
    found = steps(MemorySource(events), ["a"], until=4)
    live = found.rows().with_columns(pl.col("balance") + 50)
    assert short(explained(found, live, fields=FOREIGN_FIELDS)["a"]) == ("missed_event", 3)


def test_a_row_that_lacks_the_last_event_may_be_where_it_was_before():
    """A row whose version and chain are the last but one missed the last event, though the one before it twice fits."""
    events = [opened("a"), recorded("a", 2, 99), recorded("a", 3, 50, type="debit"), recorded("a", 4, 50)]
    found = steps(MemorySource(events), ["a"], until=4)
    live = found.rows(pl.col("version") <= 3)
    assert short(explained(found, live, fields=OWN_FIELDS)["a"]) == ("missed_event", 4)


def test_a_lock_that_is_the_first_event_may_be_missed():
    """An account without its only status event is active, and says nothing of any."""
    events = [of_account(AccountLocked, 1), recorded("a", 2)]
    found = steps(MemorySource(events), ["a"], until=2)
    live = found.rows().with_columns(pl.lit("active").alias("status"), locked_at=None, status_version=None)
    assert short(explained(found, live, fields=OWN_FIELDS)["a"]) == ("missed_event", 1)


def test_one_event_twice_goes_before_a_row_that_stopped():
    """Where a row is as it was at an earlier version, and one event twice gives it too, one fault is the simpler."""
    events = [opened("a"), recorded("a", 2, 50), recorded("a", 3, 8, type="debit"), recorded("a", 4, 8, type="debit")]
    events += [recorded("a", 5, 24)]
    found = steps(MemorySource(events), ["a"], until=5)
    live = found.rows().with_columns(balance=pl.lit(50, pl.Int64))
    assert short(explained(found, live, fields=FOREIGN_FIELDS)["a"]) == ("applied_twice", 3)


def test_a_row_that_stopped_did_so_at_the_last_version_that_it_agrees_with():
    """Where an account was the same twice, live is taken to have come as far as it can have."""
    events = [opened("a"), recorded("a", 2, 50), recorded("a", 3, 8), recorded("a", 4, 8, type="debit")]
    events += [recorded("a", 5, 30), recorded("a", 6, 9)]
    found = steps(MemorySource(events), ["a"], until=6)
    live = found.rows().with_columns(balance=pl.lit(50, pl.Int64))
    assert short(explained(found, live, fields=FOREIGN_FIELDS)["a"]) == ("missed_event", 5)


def test_the_only_event_cannot_be_missed_by_a_row_that_is_there():
    """An account of one event has no row before it."""
    events = [recorded("a", 1, 10)]
    found = steps(MemorySource(events), ["a"], until=1)
    live = found.rows().with_columns(balance=pl.lit(0, pl.Int64))
    assert short(explained(found, live, fields=OWN_FIELDS)["a"]) == ("foreign_write", None)


def test_rows_of_one_side_only():
    """A row that live lacks is missing since its first event, and one that no event made is extra."""
    nothing = dict.fromkeys(ROW_SCHEMA.names())
    live = pl.DataFrame([nothing | {"account_id": "a"}, END | {"account_id": "nobody"}], schema=ROW_SCHEMA)
    found = explained(FOUND, live, fields=OWN_FIELDS)
    assert {name: cause[:2] for name, cause in found.items()} == {
        "a": ("row_missing", "a:1"),
        "nobody": ("row_extra", None),
    }


def test_a_row_that_is_what_the_log_says_was_compared_with_wrong_rows():
    """Where the account replayed alone gives the live row, the other side is wrong."""
    wrong = pl.DataFrame([END], schema=ROW_SCHEMA).with_columns(
        replayed_balance=pl.lit(1, pl.Int64),
        **{f"replayed_{name}": pl.lit(END[name], dtype) for name, dtype in ROW_SCHEMA.items() if name != "balance"},
    )
    causes = explained(FOUND, wrong, fields=OWN_FIELDS)
    assert causes["a"][:2] == ("shadow_wrong", None)
    (found,) = entries(wrong, causes, fields=OWN_FIELDS)
    assert isinstance(found, Drifted)
    assert (found.field, found.live, found.replayed, found.cause) == ("balance", END["balance"], 1, "shadow_wrong")


@pytest.mark.parametrize("is_there", [True, False])
def test_damage_to_the_log_goes_before_everything(is_there):
    """Of an account behind a hole nothing is said but that, whether live has the row or not."""
    found = steps(MemorySource([*EVENTS[:4], *EVENTS[5:]]), ["a"], until=LAST)
    values = END if is_there else dict.fromkeys(ROW_SCHEMA.names()) | {"account_id": "a"}
    cause = explained(found, pl.DataFrame([values], schema=ROW_SCHEMA), fields=OWN_FIELDS)["a"]
    assert (cause.code, cause.first_event) == ("log_damaged", None)
    assert "version_gap at version 5" in cause.evidence


def test_a_foreign_status_counts_only_where_both_sides_know_it():
    """Without a lock time the status still counts, and without status events neither does."""
    assert short(cause_of(FOREIGN_FIELDS, status="active", locked_at=None)) == ("missed_event", 8)
    assert short(cause_of(FOREIGN_FIELDS, status="active")) == ("foreign_write", None)
    assert short(cause_of(FOREIGN_FIELDS, balance=END["balance"] - 100, locked_at=None)) == ("missed_event", 2)
    events = [opened("a"), recorded("a", 2, 50)]
    found = steps(MemorySource(events), ["a"], until=2)
    live = found.rows().with_columns(status=pl.lit("locked"), balance=pl.lit(100, pl.Int64))
    assert short(explained(found, live, fields=FOREIGN_FIELDS)["a"]) == ("applied_twice", 2)


def test_the_steps_up_to_a_moment_explain_a_row_of_that_moment():
    """Where the two sides were compared at an earlier version, later events are not missed."""
    then = Steps(FOUND.frame.filter(pl.col("version") <= 4), FOUND.parked)
    live = pl.DataFrame([row_at(4)], schema=ROW_SCHEMA).with_columns(pl.col("balance") - 100)
    assert short(explained(then, live, fields=FOREIGN_FIELDS)["a"]) == ("missed_event", 2)


def test_accounts_are_explained_some_at_a_time(monkeypatch):
    """However few events are replayed at once, every account has its cause, and no more are replayed at once."""
    names = [f"a{number:02}" for number in range(9)]
    events = [replace(event, account_id=name) for name in names for event in EVENTS]
    source = MemorySource(events, batch_events=1000)
    rows = steps(source, names, until=len(events)).rows()
    wrong = rows.with_columns(pl.col("balance") - 100, replayed_version="version")
    sizes: list[int] = []
    narrowed = source.of_accounts
    monkeypatch.setattr(source, "of_accounts", lambda ids: sizes.append(len(ids)) or narrowed(ids))
    for most, at_once in ((1, [1] * 9), (20, [2, 2, 2, 2, 1]), (10_000, [9])):
        monkeypatch.setattr("replay.explain.EXPLAINED_EVENTS", most)
        sizes.clear()
        causes = explain_accounts(source, wrong, until=len(events), fields=OWN_FIELDS)
        assert sorted(causes) == names
        assert sizes == at_once
        assert {cause[:2] for cause in causes.values()} == {("missed_event", "a:2")}
    assert explain_accounts(source, wrong.clear(), until=len(events), fields=OWN_FIELDS) == {}
