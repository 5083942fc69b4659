"""A live row that somebody changes between the announcement of a batch and its transaction keeps what it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from live_tables import Live
from recoveries import approved, contents, damage, history, live_of, planned, work_on

from ledger import Store, audit
from replay.recovery.applying import apply
from replay.recovery.failpoints import set_failpoints
from replay.recovery.plan import run_of
from replay.recovery.table_target import TableTarget


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A live table in a file."""
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        yield live
    set_failpoints(None)


def test_a_row_that_changes_after_its_batch_was_announced_is_left(store: Store, live: Live, tmp_path: Path) -> None:
    """It is looked at again in the transaction: neither overwritten nor said to be corrected."""
    history(store, 40)
    damage(store, live)
    plan = approved(store, planned(store, live_of(live)))
    theirs = next(each.account_id for each in plan.changes if each.field == "balance" and each.basis == "log")

    def look(name: str) -> None:
        if name == "batch:noted":
            live.change(theirs, balance=424_242)

    set_failpoints(look)
    with closing(TableTarget(live_of(live))) as target:
        assert apply(work_on(store, plan, target, tmp_path)).status == "manual_intervention_required"
    with store.snapshot() as connection:
        (entry,) = audit.entries(connection, run=run_of(plan), actions=["account.changed_since"])
    assert (entry.account_id, "balance is 424242" in entry.details["reason"]) == (theirs, True)
    assert [row[1] for row in contents(live) if row[0] == theirs] == [424_242]
