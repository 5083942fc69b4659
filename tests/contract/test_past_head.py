"""What the projector and `drift` make of a live read model that has events which the store lost, on every database."""

from __future__ import annotations

from typing import Any

import pytest
from databases import OnPostgres, OnSqlite
from ledgers import NOW, change_row, put_back, write_history
from sqlalchemy import delete, select, update

from consumers import project
from ledger import Store
from ledger.tables import EVENTS, GENERATIONS
from replay import drift, generations, rebuild
from schemas.errors import RefusedError


def take_newest_event(store: Store) -> dict[str, Any]:
    """Take the newest event of the store, and return its row."""
    with store.writing() as connection:
        last = connection.execute(select(EVENTS).order_by(EVENTS.c.id.desc()).limit(1)).mappings().one()
        connection.execute(delete(EVENTS).where(EVENTS.c.id == last["id"]))
    return dict(last)


class PastHeadContract:
    """What holds on every database."""

    def test_a_read_model_past_the_head_is_not_projected(self, store: Store) -> None:
        """Live has events that the store lost: the next ones could take their positions, so it waits for a person."""
        write_history(store)
        rebuild(store, promote=True, now=NOW)
        newest = take_newest_event(store)
        with pytest.raises(
            RefusedError, match=r"live generation 1 is at position 33 .* whose head is 32: .*lost"
        ) as said:
            project(store)
        assert "`import events`" in str(said.value)
        assert [found.position for found in generations(store)] == [33]
        put_back(store, newest)
        assert project(store).verdict == "COMPLETE"

    def test_a_read_model_past_the_head_is_never_equal(self, store: Store) -> None:
        """Though every row is what the log says nobody knows what is lost, and differences are told all the same."""
        write_history(store)
        rebuild(store, promote=True, now=NOW)
        with store.writing() as connection:
            connection.execute(update(GENERATIONS).values(position=233))
        found = drift(store)
        assert (found.verdict, found.compared, found.drifted, found.uncompared) == ("INCOMPARABLE", 4, 0, [])
        assert "live is at position 233 of the store, whose head is 33: the store has lost events" in found.why_not
        change_row(store, "acc-2", balance=1)
        found = drift(store, live="read_model")
        assert (found.verdict, [each.account_id for each in found.accounts]) == ("INCOMPARABLE", ["acc-2"])
        rebuild(store, promote=True, now=NOW)
        assert (drift(store).verdict, drift(store).why_not) == ("EQUAL", "")


class TestPastHeadOnSqlite(OnSqlite, PastHeadContract):
    """On SQLite."""


class TestPastHeadOnPostgres(OnPostgres, PastHeadContract):
    """On PostgreSQL."""
