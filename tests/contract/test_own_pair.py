"""What comparing our own read model with a shadow in the same database finds, on every database."""

from __future__ import annotations

import random

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from ledgers import NOW, append, lose_event, lose_head, positions, take_event, write_history
from samples import opened, recorded
from sqlalchemy import delete, insert, select, update
from sqlalchemy.event import listen
from sqlalchemy.event import remove as remove_listener

from consumers.projector import project
from consumers.shadow import StoreShadow
from ledger import Ledger, Store, read_model
from ledger.tables import GENERATIONS, HEADS, PARKED
from replay.comparison import own
from replay.comparison.chunk import Chunk
from replay.comparison.own import OwnPair
from replay.drift import drift
from replay.steps import steps
from replay.store_source import StoreSource
from schemas.errors import UsageError

OTHER = {
    "balance": 12_345,
    "frozen": 12_345,
    "pending_credit": 12_345,
    "pending_debit": 12_345,
    "status": "locked",
    "locked_at": "2024-01-01T00:00:00.000000Z",
    "status_version": 7,
    "closed_version": 7,
    "version": 3,
    "chain": b"other",
    "last_effective_at": "2024-01-01T00:00:00.000000Z",
}
LIVE, SHADOW = 1, -1


def follow(store: Store, name: str = "shadow", **sizes: int) -> None:
    """Bring the shadow to the head, made where there is none."""
    shadow = StoreShadow(store, name, **sizes)
    while shadow.step().lag_events:
        pass
    shadow.close()


def compare(store: Store, rows: int = 3, pair: OwnPair | None = None) -> Chunk:
    """Compare a whole round in chunks of so many rows, and return all of it as one chunk."""
    pair = pair or OwnPair(store)
    pair.begin(None)
    chunks = [pair.chunk(rows)]
    while chunks[-1].until is not None:
        chunks.append(pair.chunk(rows))
    return Chunk(
        None,
        sum(chunk.compared for chunk in chunks),
        [each for chunk in chunks for each in chunk.drifted],
        [each for chunk in chunks for each in chunk.suspected],
        [each for chunk in chunks for each in chunk.uncompared],
        chunks[-1].position,
    )


def told(chunk: Chunk) -> list[tuple[str, str, str]]:
    """Return account, column and class of each difference."""
    return [(each.account_id, each.field, each.cause) for each in chunk.drifted]


def change(store: Store, number: int, account_id: str, **columns: object) -> None:
    """Write columns of one row over."""
    table = read_model.table_of(number)
    is_row = (table.c.generation == number) & (table.c.account_id == account_id)
    with store.writing() as connection:
        assert connection.execute(update(table).where(is_row).values(columns)).rowcount == 1


def remove(store: Store, account_id: str, *numbers: int) -> None:
    """Remove the rows of an account under some numbers."""
    with store.writing() as connection:
        for number in numbers:
            table = read_model.table_of(number)
            is_row = (table.c.generation == number) & (table.c.account_id == account_id)
            assert connection.execute(delete(table).where(is_row)).rowcount == 1


def add(store: Store, number: int, account_id: str) -> None:
    """Add a row of an account that the log does not know: a copy of another's."""
    with store.writing() as connection:
        row = read_model.rows(connection, LIVE, ["acc-2"]).with_columns(account_id=pl.lit(account_id))
        read_model.write_rows(connection, number, row)


def write_as_of(store: Store, number: int, account_id: str, version: int) -> None:
    """Write the row of an account as it was after a version."""
    with store.writing() as connection:
        found = steps(StoreSource(store, connection), [account_id], until=store.head(connection))
        read_model.write_rows(connection, number, found.rows(pl.col("version") <= version))


class OwnPairContract:
    """What holds on every database."""

    @pytest.fixture
    def both(self, store):
        """A store whose live read model and shadow are at its head."""
        write_history(store)
        project(store)
        follow(store)
        return store

    def test_equal_sides_are_equal(self, both):
        """Every account is compared once, and nothing is found."""
        for rows in (1, 2, 3, 4, 5, 100):
            assert compare(both, rows) == Chunk(None, 4, [], [], [], 33)

    def test_chunks_cover_every_account_once(self, both):
        """Accounts of either side, before, between and behind the others, are each in one chunk."""
        for number, name in ((LIVE, "a"), (SHADOW, "acc-11"), (LIVE, "acc-25"), (SHADOW, "é"), (LIVE, "\U0001f600")):
            add(both, number, name)
        for rows in (1, 2, 3, 100):
            found = compare(both, rows)
            assert found.compared == 9
            assert sorted(told(found)) == [
                (name, "row", "row_extra" if name in {"a", "acc-25", "\U0001f600"} else "shadow_wrong")
                for name in ("a", "acc-11", "acc-25", "é", "\U0001f600")
            ]

    @pytest.mark.parametrize("column", OTHER)
    def test_a_change_of_each_column_of_live_is_found(self, both, column):
        """One column of one live row is written over: that column is told, and no other account."""
        change(both, LIVE, "acc-2", **{column: OTHER[column]})
        found = compare(both)
        assert [(each.account_id, each.field) for each in found.drifted] == [("acc-2", column)]
        assert found.drifted[0].cause == "foreign_write"
        assert found.uncompared == []

    def test_an_update_that_forgets_the_generation_is_found(self, both):
        """Whoever writes an account of the read model over by hand does not change the shadow with it."""
        with both.writing() as connection:
            connection.exec_driver_sql("UPDATE ledger_accounts SET balance = 5 WHERE account_id = 'acc-2'")
        assert told(compare(both)) == [("acc-2", "balance", "foreign_write")]

    @pytest.mark.parametrize("column", OTHER)
    def test_a_change_of_each_column_of_the_shadow_is_told_as_that(self, both, column):
        """Live is what the log says, so the difference is the shadow's."""
        change(both, SHADOW, "acc-2", **{column: OTHER[column]})
        assert told(compare(both)) == [("acc-2", column, "shadow_wrong")]

    def test_rows_that_are_wrong_in_the_same_way_are_found(self, both):
        """Both sides lost the row, or are at the same earlier version: heads tell."""
        remove(both, "acc-1", LIVE, SHADOW)
        for number in (LIVE, SHADOW):
            write_as_of(both, number, "acc-3", 5)
            change(both, number, "acc-4", chain=b"other")
        found = told(compare(both))
        assert found[0] == ("acc-1", "row", "row_missing")
        assert {cause for name, _, cause in found if name == "acc-3"} == {"missed_event"}
        assert found[-1] == ("acc-4", "chain", "foreign_write")

    def test_a_row_lost_or_added_on_one_side_is_found(self, both):
        """A missing or an extra row has its class on either side."""
        remove(both, "acc-1", LIVE)
        remove(both, "acc-2", SHADOW)
        add(both, LIVE, "acc-9")
        found = compare(both)
        expected = [("acc-1", "row", "row_missing"), ("acc-2", "row", "shadow_wrong"), ("acc-9", "row", "row_extra")]
        assert sorted(told(found)) == expected
        assert found.compared == 5

    def test_either_side_may_be_ahead(self, both):
        """Accounts that moved between the two positions are equal, and damage among them is found all the same."""
        ledger = Ledger(both, clock=lambda: NOW.replace(day=12))
        for name in ("acc-2", "acc-3", "acc-4"):
            ledger.credit(name, f"{name}-more", 5)
        ledger.open("new")
        assert told(compare(both)) == []
        follow(both)
        # Live, which is what is compared, has no new account yet.
        assert compare(both) == Chunk(None, 4, [], [], [], 33)
        change(both, LIVE, "acc-2", balance=1)
        change(both, SHADOW, "acc-1", balance=1)
        assert told(compare(both)) == [("acc-2", "balance", "foreign_write"), ("acc-1", "balance", "shadow_wrong")]
        with both.snapshot() as connection:
            truth = steps(StoreSource(both, connection), ["acc-2"], until=33).rows()
        with both.writing() as connection:
            read_model.write_rows(connection, LIVE, truth)
        project(both)
        Ledger(both).credit("acc-3", "acc-3-again", 5)
        project(both)
        found = compare(both)
        assert told(found) == [("acc-1", "balance", "shadow_wrong")]
        assert found.position == 38

    def test_what_has_only_moved_is_not_replayed_from_its_beginning(self, both, monkeypatch):
        """Events between the two positions are enough, whichever side has them; a wrong row of these is replayed."""
        replayed: list[list[str]] = []

        def seen(source, account_ids, **options):
            replayed.append(list(account_ids))
            return steps(source, account_ids, **options)

        monkeypatch.setattr("replay.comparison.own_judged.steps", seen)
        ledger = Ledger(both, clock=lambda: NOW.replace(day=12))
        for bring_forward in (follow, project):
            ledger.credit("acc-2", f"acc-2-{bring_forward.__name__}", 5)
            ledger.debit("acc-3", f"acc-3-{bring_forward.__name__}", 5)
            bring_forward(both)
            assert compare(both).drifted == []
        assert replayed == []
        change(both, LIVE, "acc-3", frozen=1)
        assert told(compare(both)) == [("acc-3", "frozen", "foreign_write")]
        assert replayed == [["acc-3"]]

    def test_live_rows_beyond_its_position_are_found(self, both):
        """A row that has events which live's position says it has not, though it is where its head says."""
        with both.writing() as connection:
            connection.execute(update(GENERATIONS).values(position=25))
        assert compare(both).position == 25
        ahead = {name for name in ("acc-1", "acc-2", "acc-3", "acc-4") if max(positions(both, name).values()) > 25}
        assert {name for name, _, _ in told(compare(both))} == ahead

    def test_live_past_the_head_is_compared_with_nothing(self, both):
        """The store lost events that live has: no account is called equal, and what differs is told all the same."""
        with both.writing() as connection:
            connection.execute(update(GENERATIONS).values(position=233))
        for rows in (1, 3, 100):
            found = compare(both, rows)
            assert (found.drifted, found.compared) == ([], 0)
            assert [each.account_id for each in found.uncompared] == ["acc-1", "acc-2", "acc-3", "acc-4"]
            (reason,) = {each.reason for each in found.uncompared}
            assert "live is at position 233 of the store, whose head is 33: the store has lost events" in reason
        lose_event(both, "acc-2", max(positions(both, "acc-2")))
        change(both, LIVE, "acc-3", balance=7)
        found = compare(both)
        assert told(found) == [("acc-3", "balance", "foreign_write")]
        assert ["the last events are" in each.reason for each in found.uncompared] == [False, True, False, False]
        with both.writing() as connection:
            connection.execute(update(GENERATIONS).values(position=33))
        assert [each.account_id for each in compare(both).uncompared] == ["acc-2"]

    def test_a_log_that_lost_an_end_is_damage_of_the_log(self, both):
        """Both sides had the event: nothing differs, and the account is named as uncompared."""
        lose_event(both, "acc-2", max(positions(both, "acc-2")))
        lose_event(both, "acc-3")
        found = compare(both)
        assert found.drifted == []
        assert [each.account_id for each in found.uncompared] == ["acc-2", "acc-3"]
        assert "the last events are lost" in found.uncompared[0].reason
        change(both, LIVE, "acc-2", balance=1)
        found = compare(both)
        assert told(found) == [("acc-2", "balance", "log_damaged")]
        assert [each.account_id for each in found.uncompared] == ["acc-2", "acc-3"]

    def test_an_end_that_is_lost_is_told_in_every_round(self, both):
        """Every round looks up every end, so one that is lost after a round is found by the next."""
        pair = OwnPair(both)
        assert compare(both, pair=pair).uncompared == []
        lose_event(both, "acc-2", max(positions(both, "acc-2")))
        for _ in range(2):
            assert [each.account_id for each in compare(both, pair=pair).uncompared] == ["acc-2"]

    def test_a_head_that_is_lost_is_damage_of_the_log(self, both):
        """Rows without a head are not equal: nobody knows where their account should be."""
        lose_head(both, "acc-2")
        found = compare(both)
        assert [each.account_id for each in found.uncompared] == ["acc-2"]
        assert found.compared == 3

    def test_as_many_are_compared_as_by_a_replay_of_all(self, store):
        """Accounts that are uncompared are not counted; those that are extra, or gone from both sides, are."""
        write_history(store)
        take_event(store, "acc-2", 4)
        take_event(store, "acc-3", 4)
        project(store)
        follow(store)
        remove(store, "acc-3", LIVE, SHADOW)
        remove(store, "acc-1", LIVE, SHADOW)
        add(store, LIVE, "acc-9")
        Ledger(store, clock=lambda: NOW.replace(day=12)).open("new")
        follow(store)
        for rows in (1, 100):
            found = compare(store, rows)
            assert {each.account_id for each in found.uncompared} == {"acc-2", "acc-3"}
            assert {name for name, _, _ in told(found)} == {"acc-1", "acc-9"}
            assert found.compared == drift(store, live="read_model").compared == 3

    def test_a_parked_account_is_uncompared(self, store):
        """Behind a gap both sides wait: the account is named, the rest compared."""
        write_history(store)
        take_event(store, "acc-2", 4)
        project(store)
        follow(store)
        found = compare(store)
        assert found.drifted == []
        assert [(each.account_id, "version_gap" in each.reason) for each in found.uncompared] == [("acc-2", True)]
        change(store, LIVE, "acc-2", balance=77)
        assert {cause for _, _, cause in told(compare(store))} == {"log_damaged"}

    def test_what_only_one_side_parks_is_uncompared(self, both):
        """An account that is parked without a reason in the log is not called equal, and not drift."""
        with both.writing() as connection:
            for number, name in ((LIVE, "acc-1"), (SHADOW, "acc-3")):
                row = {"generation": number, "account_id": name, "version": 9, "reason": "version_gap"}
                connection.execute(insert(PARKED).values(row))
        found = compare(both)
        assert found.drifted == []
        assert [each.account_id for each in found.uncompared] == ["acc-1", "acc-3"]

    def test_what_each_side_reached_before_the_damage_is_no_drift(self, both):
        """Live had more of an account than a replay can have by now: it is uncompared, and nothing else."""
        take_event(both, "acc-2", 4)
        StoreShadow(both, restart=True).close()
        follow(both)
        found = compare(both)
        assert found.drifted == []
        assert [(each.account_id, "version_gap" in each.reason) for each in found.uncompared] == [("acc-2", True)]

    @pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (1, 5), (5, 1)])
    def test_an_account_that_outgrew_its_columns_is_uncompared(self, store, sizes):
        """Where its rows wait depends on how batches were cut; a change of the waiting row is found all the same."""
        amounts = (2**62, 5, 2**62, 2**62)
        append(store, opened("a"), *(recorded("a", at, amount) for at, amount in enumerate(amounts, 2)), opened("b"))
        project(store, batch_events=sizes[0])
        follow(store, batch_events=sizes[1], catch_up_events=sizes[1])
        found = compare(store)
        assert (found.drifted, [each.account_id for each in found.uncompared]) == ([], ["a"])
        assert "overflow" in found.uncompared[0].reason
        with store.snapshot() as connection:
            waits = read_model.rows(connection, LIVE, ["a"])
        if not waits.is_empty():
            change(store, LIVE, "a", frozen=1)
            assert told(compare(store)) == [("a", "frozen", "foreign_write")]

    def test_a_chunk_ends_early_where_much_is_wrong(self, both, monkeypatch):
        """However few accounts a chunk may replay or look at, the round finds the same, each account once."""
        take_event(both, "acc-4", 4)
        Ledger(both, clock=lambda: NOW.replace(day=12)).credit("acc-3", "acc-3-more", 5)
        for number, name in ((LIVE, "a"), (SHADOW, "acc-11"), (LIVE, "acc-25"), (SHADOW, "é"), (LIVE, "\U0001f600")):
            add(both, number, name)
        for name in ("acc-1", "acc-2", "acc-3", "acc-4"):
            change(both, LIVE, name, balance=1)
        expected = compare(both, 100)
        assert len(told(expected)) == 9
        for name, limit in (("SUSPECTS_MAX", 1), ("SUSPECTS_MAX", 3), ("SUSPECT_EVENTS_MAX", 10), ("UNEQUAL_MAX", 2)):
            with monkeypatch.context() as patched:
                patched.setattr(own, name, limit)
                assert sorted(told(compare(both, 100))) == sorted(told(expected))
                assert compare(both, 100)[1] == expected.compared
                pair = OwnPair(both)
                pair.begin(None)
                first = pair.chunk(100)
                assert (first.until is None, len(first.drifted) <= max(limit, 1)) == (False, True)

    def test_rows_without_a_head_are_read_together(self, both):
        """It takes as many statements to read many of them as it takes to read one."""
        counts = []
        for names in (["x0"], [f"x{number}" for number in range(1, 30)]):
            for name in names:
                add(both, LIVE, name)
            statements: list[str] = []

            def said(*arguments, into=statements):
                into.append(arguments[2])

            listen(both.engine, "before_cursor_execute", said)
            assert compare(both, 100).compared == 4 + int(names[-1][1:]) + 1
            remove_listener(both.engine, "before_cursor_execute", said)
            counts.append(len(statements))
        assert counts[0] == counts[1]

    def test_a_promotion_during_a_round_is_gone_on_with(self, both):
        """The next chunk compares the generation that is live by then."""
        pair = OwnPair(both)
        pair.begin(None)
        pair.chunk(2)
        with both.writing() as connection:
            rows = read_model.rows(connection, LIVE)
            new = read_model.create(connection, position=33, created_at="2024-03-10T00:00:00.000000Z")
            read_model.write_rows(connection, new.generation, rows)
            read_model.go_live(connection, new.generation)
        change(both, LIVE, "acc-3", balance=1)
        change(both, new.generation, "acc-4", balance=1)
        assert told(pair.chunk(2)) == [("acc-4", "balance", "foreign_write")]
        assert pair.generations == [LIVE, new.generation]

    def test_without_live_or_shadow_it_says_what_to_do(self, store):
        """Neither is a traceback."""
        with pytest.raises(UsageError, match="project"):
            compare(store)
        project(store)
        with pytest.raises(UsageError, match="no shadow"):
            compare(store)

    @pytest.mark.parametrize("seed", range(5))
    def test_itself_with_itself_is_equal(self, store, seed):
        """Rows compared with a copy of themselves, at any position of either, never differ."""
        print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
        chance = random.Random(seed)
        write_history(store, accounts=chance.randrange(1, 9))
        ledger = Ledger(store, clock=lambda: NOW.replace(day=11))
        for step in range(12):
            # The first account is locked.
            name = f"acc-{chance.randrange(2, 12)}"
            if name not in {row for (row,) in _known(store)}:
                ledger.open(name)
            ledger.credit(name, f"{name}-{step}", chance.randrange(1, 100))
            if step == 0 or chance.random() < 0.4:
                project(store)
            if step == 0 or chance.random() < 0.4:
                follow(store)
            found = compare(store, chance.randrange(1, 6))
            assert (found.drifted, found.suspected, found.uncompared) == ([], [], [])


def _known(store: Store) -> list[tuple[str]]:
    with store.snapshot() as connection:
        return [tuple(row) for row in connection.execute(select(HEADS.c.account_id))]


class TestSqlite(OwnPairContract, OnSqlite):
    """On SQLite."""

    @pytest.mark.parametrize(
        ("column", "value"),
        [("balance", "many"), ("locked_at", "yesterday"), ("chain", "text"), ("version", "last"), ("status", b"x")],
    )
    def test_a_value_of_another_type_is_found(self, both, column, value):
        """SQLite keeps anything in any column, and all of it is told as what it is."""
        with both.writing() as connection:
            statement = f"UPDATE ledger_accounts SET {column} = ? WHERE generation = 1 AND account_id = 'acc-2'"
            connection.exec_driver_sql(statement, (value,))
        assert told(compare(both)) == [("acc-2", column, "foreign_write")]


class TestPostgres(OwnPairContract, OnPostgres):
    """On PostgreSQL."""
