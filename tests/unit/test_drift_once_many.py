"""A live table of which very many rows are wrong, compared once: all of them are told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from live_tables import Live
from planned import stocked, table_of

from ledger import Store
from replay.comparison import merged
from replay.comparison.chunk import Settled, Uncompared
from replay.comparison.merged import ForeignPair
from replay.comparison.once import drift_once


def test_more_suspects_than_one_look_takes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows differ, each is looked at as often as it needs, and none stays suspected for the others."""
    monkeypatch.setattr(merged, "SUSPECTS_PER_LOOK", 3)
    live = Live(f"sqlite:///{tmp_path}/other.db")
    try:
        account_ids = [f"a{number:02}" for number in range(20)]
        stocked(store, live, account_ids)
        with live.writing() as connection:
            connection.exec_driver_sql("UPDATE accounts SET balance = balance + 1")
        found = drift_once(store, table_of(live), sleep=lambda _: time.sleep(0.01))
        assert (found.verdict, found.drifted, found.suspected) == ("DRIFT", 20, [])
        assert [each.account_id for each in found.accounts] == account_ids
    finally:
        live.close()


def test_what_is_given_up_was_not_compared(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that turns out not to be comparable only in a later look is not counted as compared, but once."""
    given_up = Settled([], [], [Uncompared(account_id="a1", reason="it changes again and again")])
    monkeypatch.setattr(ForeignPair, "settle_all", lambda _: given_up)
    live = Live(f"sqlite:///{tmp_path}/other.db")
    try:
        stocked(store, live, ["a1", "a2", "a3"])
        with live.writing() as connection:
            connection.exec_driver_sql("UPDATE accounts SET balance = balance + 1 WHERE balance IS NOT NULL")
        found = drift_once(store, table_of(live), sleep=lambda _: None)
        assert (found.compared, found.uncompared) == (2, ["a1"])
    finally:
        live.close()
