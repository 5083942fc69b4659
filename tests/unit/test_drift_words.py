"""What `drift --explain` says of a drifted account: all that somebody needs who has to find out what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW, change_row, lose_event, positions, write_history
from sqlalchemy import delete, update

from console.drift_words import AROUND, explanation_lines, explanations
from consumers import project
from ledger import Ledger, Store
from ledger.tables import ACCOUNTS
from replay import StoreSource, drift
from replay.differences import Drifted
from replay.steps import steps
from schemas import format_time

HURT = "acc-2"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with four accounts and a read model that is as it should be."""
    store = Store.at(tmp_path)
    write_history(store)
    project(store)
    yield store
    store.close()


def report(store: Store, *, is_own: bool = True) -> list[str]:
    """The lines about everything that differs."""
    found = drift(store)
    with StoreSource.snapshot(store) as source:
        replayed = steps(source, [each.account_id for each in found.accounts], until=found.certificate.store_position)
    return explanation_lines(found.accounts, explanations(found.accounts, replayed, is_own=is_own))


def hurt(store: Store, **columns: Any) -> list[str]:
    """The lines about one account, some columns of which are changed."""
    change_row(store, HURT, **columns)
    return report(store)


def line_of(lines: list[str], label: str) -> str:
    """What stands behind a label, once."""
    (found,) = [line.removeprefix(f"  {label}").strip() for line in lines if line.startswith(f"  {label} ")]
    return found


def blamed(lines: list[str]) -> str:
    """The event that is marked."""
    (found,) = [line for line in lines if line.startswith("  >")]
    return found


def test_nothing_that_differs_is_no_line(store):
    """Equal sides have no report."""
    assert report(store) == []


def test_a_missed_event_is_told_whole(store):
    """What differs, the class in words, the event with its place, what the row is with and without it, what to do."""
    lines = hurt(store, balance=-7)
    assert lines[0] == f"{HURT}: missed_event: live did not apply an event that the log has"
    assert line_of(lines, "balance") == "live -7, replayed 993: 1,000 too few"
    place = f"version 2, position {positions(store, HURT)[2]}, {format_time(NOW + timedelta(minutes=3))}"
    assert line_of(lines, "first event") == f"{HURT}:2 ({place})"
    assert lines[3].strip() == f"credit of 1,000, transaction {HURT}-c1, none -> completed"
    assert line_of(lines, "each applied once") == "balance 993"
    assert line_of(lines, "without it") == "balance -7"
    assert f"{HURT}:2" in line_of(lines, "evidence")
    assert "by hand" in line_of(lines, "how sure")
    assert "rebuild --promote" in line_of(lines, "next")


def test_the_same_is_told_by_names(store):
    """What the lines say of an account is there by the names of their words, for programs."""
    change_row(store, HURT, balance=-7)
    found = drift(store)
    with StoreSource.snapshot(store) as source:
        replayed = steps(source, [HURT], until=found.certificate.store_position)
    (told,) = explanations(found.accounts, replayed, is_own=True)
    assert (told.account_id, told.cause, told.events_count) == (HURT, "missed_event", 8)
    assert told.first_event is not None
    assert (told.first_event.event_id, told.first_event.version) == (f"{HURT}:2", 2)
    assert told.first_event.what == f"credit of 1,000, transaction {HURT}-c1, none -> completed"
    assert (told.each_applied_once, told.without_it) == ({"balance": 993}, {"balance": -7})
    assert (told.with_it_twice, told.stopped_before_it) == (None, None)
    assert [(each.version, each.balance, each.is_first_event) for each in told.events[:3]] == [
        (1, 0, False),
        (2, 1000, True),
        (3, 980, False),
    ]


def test_the_events_around_the_first_one_have_their_running_points(store):
    """A few before and after the blamed event, with what each of them left, and the blamed one is marked."""
    lines = hurt(store, frozen=42)
    assert line_of(lines, "frozen") == "live 42, replayed 21: 21 too many"
    assert lines[0].startswith(f"{HURT}: applied_twice:")
    assert (line_of(lines, "each applied once"), line_of(lines, "with it twice")) == ("frozen 21", "frozen 42")
    assert line_of(lines, "events") == "8 events; around it:"
    begin = lines.index(next(line for line in lines if line.startswith("  events"))) + 1
    shown = lines[begin : begin + AROUND + 3]
    assert [line[1:].replace(">", " ").split()[0] for line in shown] == ["3", "4", "5", "6", "7", "8"]
    assert blamed(lines).endswith(f"debit of 21, transaction {HURT}-f2, none -> frozen: balance 980, frozen 28")
    assert shown[0].endswith(f"debit of 20, transaction {HURT}-d1, none -> completed: balance 980, frozen 0")


def test_a_row_that_stopped_says_what_it_was_then(store):
    """Where all later events were missed the points are those before the first of them."""
    lines = hurt(store, balance=980, frozen=7, pending_credit=0)
    assert lines[0].startswith(f"{HURT}: missed_event:")
    assert line_of(lines, "stopped before it") == "balance 980, frozen 7, pending_credit 0"
    assert line_of(lines, "each applied once") == "balance 993, frozen 21, pending_credit 302"
    assert line_of(lines, "first event").startswith(f"{HURT}:5 (version 5,")
    assert f"transaction {HURT}-p1, none -> pending" in blamed(lines)


def test_a_missed_lock_says_what_the_event_does(store):
    """An event that changes no points is told by the status that it gives."""
    Ledger(store, clock=lambda: NOW).lock(HURT)
    project(store)
    lines = hurt(store, status="active", locked_at=None, status_version=None)
    assert line_of(lines, "status") == "live active, replayed locked"
    assert line_of(lines, "locked_at") == f"live nothing, replayed {format_time(NOW)}"
    assert blamed(lines).endswith("account.locked, the status is locked from here on: balance 993, frozen 21")
    assert not [line for line in lines if "applied once" in line]


def test_a_foreign_write_shows_the_last_events(store):
    """Where no event is to blame the end of the account is shown, and none of it is marked."""
    lines = hurt(store, balance=5)
    assert lines[0].startswith(f"{HURT}: foreign_write:")
    assert line_of(lines, "evidence").endswith("balance by -988")
    assert line_of(lines, "events") == "8 events; the last ones:"
    assert not [line for line in lines if line.startswith(("  >", "  first event"))]
    assert any("    8  " in line for line in lines)


def test_rows_of_one_side_only_are_told(store):
    """A missing row says where its account begins, an extra one that no event knows it, and blocks stand apart."""
    with store.writing() as connection:
        connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.account_id == "acc-1"))
        connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.account_id == "acc-4").values(account_id="zz"))
    lines = report(store, is_own=False)
    blocks = "\n".join(lines).split("\n\n")
    assert [block.split(":")[:2] for block in blocks] == [
        ["acc-1", " row_missing"],
        ["acc-4", " row_missing"],
        ["zz", " row_extra"],
    ]
    missing, extra = blocks[0].splitlines(), blocks[2].splitlines()
    assert line_of(missing, "row") == "live has no row, replayed has balance 993"
    assert line_of(missing, "begins with").startswith("acc-1:1 (version 1,")
    assert line_of(missing, "next").endswith("correct the row in live")
    assert line_of(extra, "row") == "live has balance 993, replayed has no row"
    assert not [line for line in extra if line.startswith("  events")]


@pytest.mark.parametrize(("cause", "advice"), [("log_damaged", "repair the log"), ("shadow_wrong", "leave live alone")])
def test_damage_that_is_not_in_live_says_so(store, cause, advice):
    """For a damaged log, and for a wrong shadow, nobody is sent to correct live."""
    lose_event(store, HURT, 5)
    entry = Drifted(
        account_id=HURT,
        field="balance",
        live=993,
        replayed=5,
        difference=988,
        cause=cause,
        first_event=None,
        evidence="what is known",
    )
    with StoreSource.snapshot(store) as source:
        found = steps(source, [HURT], until=source.head())
    lines = explanation_lines([entry], explanations([entry], found, is_own=True))
    assert advice in line_of(lines, "next")
    assert line_of(lines, "evidence") == "what is known"
    assert line_of(lines, "events") == "4 events; the last ones:"
