"""What replay, generations, projector and drift do on every database, and that every database says the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from databases import OnPostgres, OnSqlite
from ledgers import (
    NOW,
    account_rows,
    append,
    change_event,
    change_row,
    lose_event,
    lose_head,
    put_back,
    replayed_rows,
    take_event,
    write_history,
)
from samples import account_stream, recorded
from sqlalchemy import delete, insert, select

from consumers import project
from ledger import Ledger, Store, read_model
from ledger.tables import ACCOUNTS, IMPORTED_ACCOUNTS
from replay import balances, drift, generations, graph, history, promote_generation, rebuild, verify
from schemas import AMOUNT_MAX
from schemas.errors import PointsOverflow, PositionMoved, RefusedError, StoreError, UsageError

#: The digest of what `write_history` writes, on every database and in every version.
DIGEST = "d430d94a891aa7304eb9f92a4dc0d172ba7dcd1b6a4384be8a55d4c9795c0e26"


def live_is_a_fresh_replay(store: Store) -> bool:
    """Whether the live rows are what a replay says, row by row and in no more rows."""
    live = account_rows(store)
    fresh = balances(store, now=NOW).rows
    names = [name for name in live.columns if name in fresh.columns]
    return live.select(names).equals(fresh.select(names)) and live.height > 0


def account_rows_ids(store: Store) -> set[str]:
    """The accounts that have a head, which damage to the events does not change."""
    with store.snapshot() as connection:
        return set(store.heads(connection)["account_id"])


def numbers(store: Store) -> list[int]:
    """Numbers of the generations that there are."""
    return [found.generation for found in generations(store)]


def live_number(store: Store) -> int:
    """The number of the live generation."""
    (live,) = [found.generation for found in generations(store) if found.is_live]
    return live


class ReplayContract:
    def test_a_history_has_the_digest_it_always_had(self, store):
        """The certificate of a fixed history is the same on every database and in every version."""
        write_history(store)
        certificate = balances(store, now=NOW).certificate
        assert (certificate.digest, certificate.events, certificate.accounts) == (DIGEST, 33, 4)
        assert (certificate.verdict, certificate.repeats, certificate.parked) == ("COMPLETE", 0, [])

    def test_an_empty_ledger_is_complete(self, store):
        """Nothing at all replays, rebuilds, projects and verifies to nothing."""
        assert balances(store, now=NOW).verdict == "COMPLETE"
        built = rebuild(store, promote=True, now=NOW)
        assert (built.verdict, built.promoted, built.certificate.position) == ("COMPLETE", True, 0)
        assert project(store).verdict == "COMPLETE"
        assert verify(store, now=NOW).verdict == "CLEAN"
        assert drift(store).verdict == "EQUAL"

    def test_a_promoted_rebuild_is_live_and_what_a_replay_says(self, store):
        """Rebuild writes a generation; promoted, its rows are live at the head."""
        write_history(store)
        built = rebuild(store, promote=True, now=NOW)
        assert (built.verdict, built.promoted, built.generation) == ("COMPLETE", True, 1)
        assert built.certificate.digest == DIGEST
        assert live_is_a_fresh_replay(store)
        assert drift(store).verdict == "EQUAL"
        with store.snapshot() as connection:
            assert len(connection.exec_driver_sql("SELECT * FROM live_accounts").all()) == 4

    def test_a_rebuild_that_is_not_promoted_changes_nothing_live(self, store):
        """Without promote the new generation is beside the live one, which stays as it is."""
        write_history(store)
        project(store)
        change_row(store, "acc-1", balance=1)
        built = rebuild(store, now=NOW)
        assert not built.promoted
        assert live_number(store) == 1
        assert account_rows(store).filter(pl.col("account_id") == "acc-1")["balance"].to_list() == [1]
        assert promote_generation(store, built.generation) > 0
        assert live_is_a_fresh_replay(store)

    def test_an_incomplete_rebuild_is_not_promoted_and_cannot_be(self, store):
        """A generation with an account parked is written and named, but never made live."""
        write_history(store)
        project(store)
        lose_event(store, "acc-2", 3)
        built = rebuild(store, promote=True, now=NOW)
        assert (built.verdict, built.promoted) == ("INCOMPLETE", False)
        with pytest.raises(RefusedError, match="INCOMPLETE"):
            promote_generation(store, built.generation)
        assert live_number(store) == 1
        with store.snapshot() as connection:
            parked = read_model.parked(connection, built.generation)
        assert parked.rows() == [("acc-2", 3, "version_gap")]
        assert account_rows(store, built.generation)["account_id"].to_list() == ["acc-1", "acc-3", "acc-4"]

    def test_promoting_what_is_not_there_is_refused(self, store):
        """A number without a generation is an error that changes nothing."""
        write_history(store)
        project(store)
        with pytest.raises(UsageError, match="no generation 7"):
            promote_generation(store, 7)
        assert live_number(store) == 1

    def test_promote_folds_what_came_since_the_rebuild(self, store):
        """A generation rebuilt at an earlier position is at the head when it becomes live."""
        write_history(store)
        built = rebuild(store, until=20, now=NOW)
        assert built.certificate.position == 20
        append(store, *account_stream("new", 3))
        Ledger(store).credit("acc-2", "later", 5)
        assert promote_generation(store, built.generation) == generations(store)[0].position
        assert live_is_a_fresh_replay(store)
        assert drift(store).verdict == "EQUAL"

    @pytest.mark.parametrize("lost", [6, 7])
    def test_promote_refuses_a_log_that_was_damaged_since_the_rebuild(self, store, lost):
        """An event lost after the rebuild, in the middle or at the end, keeps the generation from going live."""
        ledger = Ledger(store)
        ledger.open("late")
        built = rebuild(store, now=NOW)
        for number in range(2, 8):
            ledger.credit("late", f"t-{number}", 1)
        lose_event(store, "late", lost)
        with pytest.raises(RefusedError, match="late"):
            promote_generation(store, built.generation)
        assert not any(found.is_live for found in generations(store))

    def test_going_back_catches_up_with_the_head(self, store):
        """An older generation made live again is brought to the head, and equals a fresh replay."""
        ledger = Ledger(store)
        write_history(store)
        first = rebuild(store, promote=True, now=NOW).generation
        ledger.credit("acc-2", "between", 5)
        second = rebuild(store, promote=True, now=NOW).generation
        ledger.debit("acc-3", "after", 2)
        project(store)
        assert live_number(store) == second
        promote_generation(store, first)
        assert live_number(store) == first
        assert live_is_a_fresh_replay(store)
        promote_generation(store, second)
        assert live_is_a_fresh_replay(store)

    def test_old_generations_go_but_never_the_live_one_or_the_one_before_it(self, store):
        """However many rebuilds follow, the live generation and the one to go back to stay, and few others."""
        write_history(store)
        first = rebuild(store, promote=True, now=NOW).generation
        second = rebuild(store, promote=True, now=NOW).generation
        for _ in range(5):
            newest = rebuild(store, now=NOW).generation
            assert {first, second, newest} <= set(numbers(store))
        assert len(numbers(store)) <= 4
        assert live_number(store) == second
        with store.snapshot() as connection:
            kept = set(connection.execute(select(ACCOUNTS.c.generation).distinct()).scalars())
        assert kept == set(numbers(store))
        promote_generation(store, first)
        assert live_is_a_fresh_replay(store)

    def test_a_rebuild_that_does_not_read_back_is_an_error_and_leaves_nothing(self, store):
        """Rows that the database changes as they are written are seen before anybody can see the generation."""
        write_history(store)
        project(store)
        self.plant_trigger(store)
        with pytest.raises(StoreError, match="reads back"):
            rebuild(store, promote=True, now=NOW)
        assert numbers(store) == [1]
        assert live_is_a_fresh_replay(store)

    @pytest.mark.parametrize("batch_events", [1, 4, 100_000])
    def test_projecting_in_batches_is_a_rebuild(self, store, batch_events):
        """The projector reaches, in batches of any size, the very rows that a rebuild writes."""
        write_history(store, accounts=2)
        told: list[tuple[int, int | None]] = []
        found = project(store, batch_events=batch_events, progress=lambda done, total: told.append((done, total)))
        assert (found.verdict, found.parked, found.position) == ("COMPLETE", [], told[-1][1])
        assert told[-1][0] == told[-1][1]
        built = rebuild(store, now=NOW)
        assert account_rows(store).equals(account_rows(store, built.generation))
        assert project(store).position == found.position

    def test_following_goes_on_until_told_to_stop(self, store):
        """A projector that follows takes in what comes while it runs."""
        write_history(store, accounts=1)
        rounds = iter(range(3))

        def should_stop() -> bool:
            number = next(rounds)
            Ledger(store).credit("acc-1", f"round-{number}", 1) if number == 0 else None
            return number == 2

        Ledger(store).unlock("acc-1")
        project(store, follow=True, should_stop=should_stop, poll_seconds=0)
        assert live_is_a_fresh_replay(store)

    def test_projectors_at_once_apply_nothing_twice(self, store):
        """Of several projectors each batch is applied by one, from the first on; others are told or find it done."""
        write_history(store)

        def one() -> str:
            try:
                return project(store, batch_events=3).verdict
            except PositionMoved:
                return "moved"

        with ThreadPoolExecutor(3) as pool:
            outcomes = {future.result() for future in [pool.submit(one) for _ in range(3)]}
        assert outcomes <= {"COMPLETE", "moved"}
        assert project(store, batch_events=3).verdict == "COMPLETE"
        assert numbers(store) == [1]
        assert live_is_a_fresh_replay(store)

    def test_a_position_moves_only_from_where_it_was_found(self, store):
        """Who finds the position moved writes nothing, rows included."""
        write_history(store, accounts=1)
        project(store)
        before = account_rows(store)

        def late() -> None:
            with store.writing() as connection:
                read_model.write_rows(connection, 1, before.with_columns(balance=pl.lit(0, pl.Int64)))
                read_model.advance(connection, 1, after=0, until=3)

        with pytest.raises(PositionMoved, match="from position 0"):
            late()
        assert account_rows(store).equals(before)

    def test_rebuilds_at_once_make_a_generation_each(self, store):
        """Two rebuilds at the same time take turns and both are whole."""
        write_history(store, accounts=2)
        with ThreadPoolExecutor(2) as pool:
            built = [future.result() for future in [pool.submit(rebuild, store, promote=True) for _ in range(2)]]
        assert sorted(found.generation for found in built) == [1, 2]
        assert {found.promoted for found in built} == {True}
        assert live_is_a_fresh_replay(store)

    @pytest.mark.parametrize("batch_events", [1, 100_000])
    def test_a_gap_parks_its_account_until_it_is_filled(self, store, batch_events):
        """Others go on, the account is noted, and when the event is put back it catches up whole."""
        write_history(store)
        row = take_event(store, "acc-2", 4)
        found = project(store, batch_events=batch_events)
        assert (found.verdict, found.parked) == ("INCOMPLETE", ["acc-2"])
        assert account_rows(store).filter(pl.col("account_id") == "acc-2")["version"].to_list() == [3]
        others = replayed_rows(store)
        assert {
            r["account_id"]: r["balance"] for r in account_rows(store).to_dicts() if r["account_id"] != "acc-2"
        } == {account_id: row["balance"] for account_id, row in others.items()}
        append(store, *account_stream("new", 2))
        assert project(store, batch_events=batch_events).parked == ["acc-2"]
        put_back(store, row)
        assert project(store, batch_events=batch_events).verdict == "COMPLETE"
        assert live_is_a_fresh_replay(store)
        assert drift(store).verdict == "EQUAL"

    def test_an_event_that_cannot_be_read_parks_its_account_in_the_read_model(self, store):
        """The projector stops the account in front of it, keeps it noted while later events come, and heals with it."""
        write_history(store)
        row = take_event(store, "acc-3", 2)
        put_back(store, row)
        change_event(store, "acc-3", 2, state=b"\xff")
        assert project(store, batch_events=2).parked == ["acc-3"]
        change_event(store, "acc-3", 2, state=row["state"])
        append(store, *account_stream("new", 2))
        assert project(store).parked == ["acc-3"]
        # Nothing of the account comes any more, so only a rebuild looks at it again.
        assert rebuild(store, promote=True, now=NOW).promoted
        assert project(store).verdict == "COMPLETE"
        assert live_is_a_fresh_replay(store)

    @pytest.mark.parametrize("lost", [(4,), (1, 2, 3, 4)], ids=["tail", "whole account"])
    def test_projecting_a_log_that_lost_its_end_is_incomplete(self, store, lost):
        """An account that is not where its head says is named by the projector, and no row of it is served live."""
        ledger = Ledger(store)
        for account_id in ("a", "b"):
            ledger.open(account_id)
            for number in range(2, 5):
                ledger.credit(account_id, f"{account_id}-{number}", 1)
        lose_event(store, "b", *lost)
        # What comes after keeps the head of the store where it is.
        ledger.open("c")
        projected = project(store)
        assert (projected.verdict, projected.parked) == ("INCOMPLETE", ["b"])
        with store.snapshot() as connection:
            seen = {row[0] for row in connection.exec_driver_sql("SELECT account_id FROM live_accounts")}
        assert seen == {"a", "c"}

    def test_an_end_that_comes_back_is_live_again(self, store):
        """An account parked for its lost end is served again once the end is back."""
        ledger = Ledger(store)
        ledger.open("a")
        ledger.credit("a", "a-2", 1)
        ledger.open("b")
        lost = take_event(store, "a", 2)
        assert project(store).parked == ["a"]
        put_back(store, lost)
        projected = project(store)
        assert (projected.verdict, projected.parked) == ("COMPLETE", [])
        assert live_is_a_fresh_replay(store)

    def test_the_live_view_leaves_out_what_is_parked(self, store):
        """Readers of the view see no row of an account with a gap, and every other row."""
        write_history(store)
        first, *_ = sorted(account_rows_ids(store))
        lose_event(store, first, 2)
        project(store)
        with store.snapshot() as connection:
            seen = {row[0] for row in connection.exec_driver_sql("SELECT account_id FROM live_accounts")}
        assert seen == account_rows_ids(store) - {first}

    def test_a_sum_past_int64_parks_its_account_in_the_read_model(self, store):
        """The projector leaves the account where it was, names it, and goes on once the sum is back."""
        append(store, recorded("big", 1, AMOUNT_MAX), recorded("big", 2, 5), *account_stream("small", 3))
        found = project(store, batch_events=1)
        assert (found.verdict, found.parked) == ("INCOMPLETE", ["big"])
        assert replayed_rows(store).keys() == {"small"}
        with pytest.raises(PointsOverflow, match="big"):
            history(store, "big")
        Ledger(store).record([recorded("big", 3, 6, type="debit")])
        assert project(store).verdict == "COMPLETE"
        assert live_is_a_fresh_replay(store)
        assert replayed_rows(store)["big"]["balance"] == AMOUNT_MAX - 1

    def test_a_planted_difference_of_every_column_is_found_and_nothing_else(self, store):
        """A hand-made UPDATE of any column of the read model is found in its row, with both values."""
        write_history(store)
        changes: dict[str, Any] = {
            "balance": 1,
            "frozen": 2,
            "pending_credit": 3,
            "pending_debit": 4,
            "status": "closed",
            "locked_at": "2024-03-10T12:00:00.000000Z",
            "status_version": 2,
            "closed_version": 2,
            "version": 5,
            "chain": "00" * 32,
            "last_effective_at": "2024-03-10T12:00:00.000000Z",
        }
        for column, value in changes.items():
            rebuild(store, promote=True, now=NOW)
            assert drift(store).verdict == "EQUAL"
            change_row(store, "acc-2", **{column: bytes.fromhex(value) if column == "chain" else value})
            found = drift(store)
            assert (found.verdict, found.compared, found.drifted) == ("DRIFT", 4, 1)
            assert [(each.account_id, each.field, each.live) for each in found.accounts] == [("acc-2", column, value)]

    def test_a_row_that_is_missing_or_extra_is_found(self, store):
        """A row that one side does not have is a difference of its own class."""
        write_history(store)
        project(store)
        with store.writing() as connection:
            row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.account_id == "acc-1")).mappings().one()
            connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.account_id == "acc-1"))
            connection.execute(insert(ACCOUNTS).values({**row, "account_id": "zzz"}))
        found = drift(store)
        assert [(each.account_id, each.field, each.cause, each.first_event) for each in found.accounts] == [
            ("acc-1", "row", "row_missing", "acc-1:1"),
            ("zzz", "row", "row_extra", None),
        ]

    def test_imported_rows_are_compared_at_the_head(self, store):
        """Wrong balances with what explains them, missing and extra rows, and the status only where it is known."""
        write_history(store)
        rows = [
            {"account_id": "acc-1", "balance": 993, "frozen_amount": 21, "status": "active", "locked_at": None},
            {"account_id": "acc-2", "balance": -7, "frozen_amount": 21, "status": "locked", "locked_at": None},
            {"account_id": "acc-3", "balance": 993, "frozen_amount": 42, "status": "active", "locked_at": None},
            {"account_id": "stranger", "balance": 3, "frozen_amount": 0, "status": "active", "locked_at": None},
        ]
        with store.writing() as connection:
            connection.execute(insert(IMPORTED_ACCOUNTS), rows)
        found = drift(store)
        assert (found.live, found.verdict, found.compared) == ("imported", "DRIFT", 5)
        assert [(each.account_id, each.field, each.difference, each.cause) for each in found.accounts] == [
            ("acc-1", "status", None, "missed_event"),
            ("acc-2", "balance", -1000, "missed_event"),
            ("acc-3", "frozen", 21, "applied_twice"),
            ("acc-4", "row", None, "row_missing"),
            ("stranger", "row", None, "row_extra"),
        ]
        project(store)
        assert drift(store, live="read_model").verdict == "EQUAL"

    def test_a_parked_account_is_uncompared_and_the_rest_is_still_compared(self, store):
        """With an account that the log cannot vouch for the verdict is INCOMPARABLE, and differences are told."""
        write_history(store)
        project(store)
        change_row(store, "acc-4", balance=0)
        lose_event(store, "acc-2", 3)
        found = drift(store)
        assert (found.verdict, found.uncompared) == ("INCOMPARABLE", ["acc-2"])
        assert [each.account_id for each in found.accounts] == ["acc-4"]

    def test_nothing_to_compare_is_refused(self, store):
        """Without imported rows and without a read model there is no comparison."""
        write_history(store, accounts=1)
        with pytest.raises(UsageError, match="no live rows"):
            drift(store)

    def test_an_account_nobody_knows_is_refused(self, store):
        """Asking for an account, its history or its findings names the id that is not in the ledger."""
        write_history(store, accounts=1)
        for ask in (
            lambda: balances(store, ["acc-1", "nobody"]),
            lambda: history(store, "nobody"),
            lambda: verify(store, account_id="nobody", now=NOW),
        ):
            with pytest.raises(UsageError, match="no account 'nobody'"):
                ask()


class TestSqliteReplay(OnSqlite, ReplayContract):
    def plant_trigger(self, store: Store) -> None:
        """Make the database change what is written to it."""
        with store.writing() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER thief AFTER INSERT ON ledger_accounts BEGIN UPDATE ledger_accounts SET balance = "
                "balance - 1 WHERE generation = NEW.generation AND account_id = NEW.account_id; END"
            )


class TestPostgresReplay(OnPostgres, ReplayContract):
    def plant_trigger(self, store: Store) -> None:
        """Make the database change what is written to it."""
        with store.writing() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION steal() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN NEW.balance := NEW.balance - 1; RETURN NEW; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER thief BEFORE INSERT ON ledger_accounts FOR EACH ROW EXECUTE FUNCTION steal()"
            )


def everything(url: str) -> dict[str, Any]:
    """Write one damaged history and return all that replay says of it, less what names the ledger or the clock."""
    store = Store(url)
    write_history(store)
    append(store, *account_stream("Zoë 😀", 4), *account_stream("a\n|:", 2), *account_stream("zoë", 3))
    append(store, recorded("big", 1, AMOUNT_MAX), recorded("big", 2, 5))
    project(store, batch_events=5)
    lose_event(store, "acc-2", 4)
    change_event(store, "acc-3", 5, state=b"[]")
    lose_head(store, "zoë")
    change_row(store, "acc-4", balance=1)
    answer, verified, compared = balances(store, now=NOW), verify(store, now=NOW), drift(store)
    said = {
        "certificate": answer.certificate.to_builtins() | {"ledger_id": None},
        "rows": answer.rows.to_dicts(),
        "findings": verified.findings.to_dicts(),
        "drift": [compared.verdict, compared.compared, compared.accounts, compared.uncompared],
        "history": [history(store, account_id).rows.to_dicts() for account_id in ("acc-1", "acc-2", "Zoë 😀", "a\n|:")],
        "graph": graph(store, "acc-1-d1").edges.rows(),
        "live": account_rows(store).to_dicts(),
    }
    store.close()
    return said


@pytest.mark.postgres
def test_sqlite_and_postgresql_say_the_same(tmp_path: Path, postgres_url: str):
    """The same events, damaged in the same way, give the same digest, findings, drift and history on both."""
    left, right = everything(f"sqlite:///{tmp_path}/ledger.db"), everything(postgres_url)
    assert left == right
    assert left["certificate"]["digest"] == right["certificate"]["digest"]
    assert [parked["account_id"] for parked in left["certificate"]["parked"]] == ["acc-2", "acc-3", "big", "zoë"]
    assert left["graph"] == [("acc-1-r1", "acc-1-d1")]
    assert left["drift"][0] == "INCOMPARABLE"
    assert left["findings"]
