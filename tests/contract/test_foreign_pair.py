"""What a comparison with a foreign live table keeps to, on every database that the table may be in."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from foreign_pairs import IDS, ForeignPairs, LiveInMariadb, LiveInPostgres, LiveInSqlite, follow, settled, whole_round
from ledgers import append
from live_tables import NOW, Clock, Live, damaged, live_rows
from samples import account_stream, opened, recorded
from sqlalchemy import BigInteger, Column, DateTime, MetaData, Numeric, String, Table, select

from ledger import Ledger, Store
from replay import balances
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable, Mark
from replay.comparison.merged import ForeignPair
from replay.comparison.replayed import ReplayedNow
from schemas.errors import UsageError


class ForeignPairContract(ForeignPairs):
    def test_a_right_table_is_equal(self, store: Store, made: Any, pair_of: Any) -> None:
        """Every account is in one chunk, in the order of code points, and none differs, however ids are collated."""
        for account_id in IDS:
            append(store, *account_stream(account_id, 3))
        live = made(key=self.key, is_keyed=False)
        live.put(live_rows(store))
        pair = pair_of(live)
        for rows in (1, 3, len(IDS), 100):
            chunks, drifted, suspected, uncompared = whole_round(pair, rows)
            assert (drifted, suspected, uncompared) == ([], set(), {})
            assert sum(chunk.compared for chunk in chunks) == len(IDS)
            ends = [chunk.until for chunk in chunks[:-1]]
            assert ends == sorted(set(ends))
            assert len(chunks) >= len(IDS) // rows

    def test_a_round_goes_on_behind_a_key(self, store: Store, made: Any, pair_of: Any) -> None:
        """A round that begins behind a key has all accounts after it and no others."""
        for account_id in IDS:
            append(store, *account_stream(account_id, 2))
        live = made(key=self.key, is_keyed=False)
        live.put(live_rows(store))
        pair = pair_of(live)
        for place, after in enumerate(sorted(IDS)):
            pair.begin(after)
            assert pair.chunk(100).compared == len(IDS) - place - 1

    def test_every_damage_has_its_class(self, store: Store, made: Any, pair_of: Any, clock: Clock) -> None:
        """Each planted damage is found with its class after it settled, and nothing else is."""
        live, expected = damaged(store, made())
        pair = pair_of(live)
        _, drifted, suspected, uncompared = whole_round(pair)
        assert (drifted, suspected, uncompared) == ([], set(expected), {})
        append(store, *account_stream("zz-later", 2))
        live.put([("zz-later", 10, 0, "active", None)])
        follow(store)
        found, uncompared = settled(pair, clock)
        assert {account_id: (entry.cause, entry.field) for account_id, entry in found.items()} == expected
        assert uncompared == {}
        # As long as nothing changes it is known.
        _, drifted, suspected, _ = whole_round(pair)
        assert ({entry.account_id for entry in drifted}, suspected) == (set(expected), set())

    def test_compared_once_nothing_more_has_to_come(self, store: Store, made: Any, live_url: str, clock: Clock) -> None:
        """Where rows were replayed for one comparison, and the log stands still, lag explains no damage."""
        _, expected = damaged(store, made())
        rows = balances(store, now=NOW)
        replayed = ReplayedNow(store, rows.rows, {}, position=rows.certificate.store_position)
        foreign = ForeignTable(LiveTable(url=live_url, table="accounts"))
        with closing(ForeignPair(foreign, replayed, clock=clock)) as pair:
            whole_round(pair)
            found, uncompared = settled(pair, clock)
        assert {account_id: entry.cause for account_id, entry in found.items()} == {
            account_id: cause for account_id, (cause, _) in expected.items()
        }
        assert uncompared == {}

    def test_a_paused_live_table_is_not_drift(self, store: Store, made: Any, pair_of: Any, clock: Clock) -> None:
        """A table that stands still while the log goes on is suspected, then uncompared, and equal once it comes."""
        for account_id in IDS:
            append(store, *account_stream(account_id, 2))
        live = made(key=self.key, is_keyed=False)
        live.put(live_rows(store))
        ledger = Ledger(store)
        for account_id in IDS[:5]:
            ledger.credit(account_id, f"{account_id}-more", 5)
        pair = pair_of(live)
        _, drifted, suspected, _ = whole_round(pair)
        assert (drifted, suspected) == ([], set(IDS[:5]))
        found, uncompared = settled(pair, clock, 400)
        assert (found, set(uncompared)) == ({}, set(IDS[:5]))
        assert all("live may be behind" in reason for reason in uncompared.values())
        for account_id in IDS[:5]:
            live.change(account_id, balance=15)
        clock.sleep(10)
        assert set(pair.settle().same) == set(IDS[:5])

    def test_nothing_can_be_written(self, store: Store, made: Any, pair_of: Any) -> None:
        """Not even the operator's own query of a mark can change the live database."""
        live = made()
        live.put([("a", 1, 0, "active", None)])
        for query in ("DELETE FROM accounts", "UPDATE accounts SET balance = 7", "DROP TABLE accounts"):
            pair = pair_of(live, mark=Mark(of="position", query=query))
            with pytest.raises(UsageError, match="the database says"):
                pair.begin(None)
        with live.writing() as connection:
            assert connection.execute(select(live.table.c.account_id, live.table.c.balance)).all() == [("a", 1)]

    def test_a_snapshot_sees_one_moment(self, made: Any) -> None:
        """What others write after a snapshot was begun is not in it, and is in the next."""
        live = made()
        live.put([(f"a{number:03}", number, 0, "active", None) for number in range(100)])
        self.let_write_beside_reading(live)
        with closing(ForeignTable(LiveTable(url=live.url, table="accounts"))) as foreign:
            with closing(foreign.open()) as snapshot:
                live.change("a050", balance=-1)
                live.remove("a099")
                rows = pl.concat([read.rows for read in snapshot.batches()])
                assert rows["balance"].to_list() == list(range(100))
            # Of the second one the table is known, so that nothing has read anything before.
            with closing(foreign.open()) as snapshot:
                live.change("a050", balance=-2)
                assert snapshot.of_accounts(["a050", "a099"]).rows["balance"].to_list() == [-1]

    def test_a_round_may_be_left(self, made: Any, store: Store, pair_of: Any) -> None:
        """A stream that is not read to its end is let go of, and the table can be read again at once."""
        live = made()
        live.put([(f"a{number:06}", number, 0, "active", None) for number in range(20_000)])
        pair = pair_of(live)
        pair.begin(None)
        assert pair.chunk(10).compared >= 10
        pair.close()
        assert sum(chunk.compared for chunk in whole_round(pair, 5_000)[0]) == 20_000

    def test_rows_that_cannot_be_read_are_named(self, store: Store, made: Any, pair_of: Any) -> None:
        """A row that is none of ours is a reject with the reason, and its account is uncompared, not drifted."""
        for account_id in ("a", "b", "c", "d"):
            append(store, *account_stream(account_id, 2))
        live = made(is_keyed=False)
        live.put(
            [
                ("a", 10, 0, "asleep", None),
                ("b", None, 0, "active", None),
                ("c", 10, 0, "active", "yesterday"),
                ("d", 10, 0, "active", None),
                ("", 1, 0, "active", None),
                (None, 1, 0, "active", None),
            ]
        )
        pair = pair_of(live)
        for _ in range(2):
            self.rejects.clear()
            chunks, drifted, suspected, uncompared = whole_round(pair)
            assert (drifted, suspected, set(uncompared)) == ([], set(), {"a", "b", "c"})
            assert sum(chunk.compared for chunk in chunks) == 1
            reasons = pl.concat(self.rejects)
            assert pair.rejected == reasons.height == 5
            # What a reason points to is where this table is described.
            assert "[live.statuses]" in " ".join(reasons["reason"])
            assert "[import" not in " ".join(reasons["reason"])
            assert sorted(reasons["column"].to_list()) == ["account_id", "account_id", "balance", "locked_at", "status"]
        pair.begin("b")
        pair.chunk(10)
        # Rows of no account are said again, those before the key are not.
        assert sorted(pl.concat(self.rejects[-1:])["column"].to_list())[:1] == ["account_id"]

    def test_two_rows_of_an_account_are_never_silent(self, store: Store, made: Any, pair_of: Any, clock: Clock) -> None:
        """An account with several rows in a table without a key is uncompared, even where they are right."""
        for account_id in ("a", "b", "c"):
            append(store, *account_stream(account_id, 2))
        live = made(is_keyed=False)
        right = [(account_id, 10, 0, "active", None) for account_id in ("a", "b", "c")]
        live.put([*right, right[0], ("c", 11, 0, "active", None), *[right[2]] * 30])
        pair = pair_of(live)
        for rows in (1, 2, 100):
            chunks, drifted, suspected, uncompared = whole_round(pair, rows)
            assert (drifted, suspected, set(uncompared)) == ([], set(), {"a", "c"})
            assert sum(chunk.compared for chunk in chunks) == 1
        live.remove("b")
        assert whole_round(pair)[2] == {"b"}
        live.put([right[1], right[1]])
        clock.sleep(10)
        assert [each.account_id for each in pair.settle().uncompared] == ["b"]

    def test_whole_numbers_as_keys(self, store: Store, made: Any, pair_of: Any, clock: Clock) -> None:
        """Ids that are integers there are texts here, in the order of texts."""
        for number in (1, 2, 9, 10, 11, 100, 2**53 + 1):
            append(store, *account_stream(str(number), 3))
        append(store, *account_stream("x", 2))
        live = made(key=BigInteger())
        live.put([(int(row[0]), *row[1:]) for row in live_rows(store) if row[0] != "x"])
        live.change(10, balance=3)
        pair = pair_of(live)
        assert whole_round(pair, 2)[1:3] == ([], {"10", "x"})
        found, _ = settled(pair, clock)
        assert {account_id: entry.cause for account_id, entry in found.items()} == {"10": "foreign_write"}

    def test_other_types_of_columns(self, store: Store, live_url: str, pair_of: Any) -> None:
        """Decimals, mapped names and statuses, and times of the database's own type are read as imports read them."""
        for account_id in ("a", "b"):
            append(store, opened(account_id), recorded(account_id, 2, 1050))
        Ledger(store, clock=lambda: NOW).lock("a")
        columns = [
            Column("user_id", String(40), primary_key=True),
            Column("points", Numeric(20, 2)),
            Column("held", self.unsigned),
            Column("state", String(10)),
            Column("since", DateTime()),
        ]
        live = Live(live_url, Table("wallets", MetaData(), *columns))
        names = [column.name for column in columns]
        live.put(
            [("a", Decimal("10.50"), 0, "LOCKED", NOW.replace(tzinfo=None)), ("b", Decimal("10.50"), 0, "OK", None)],
            names,
        )
        ours = ("account_id", "balance", "frozen_amount", "status", "locked_at")
        pair = pair_of(
            live,
            columns=dict(zip(ours, names, strict=True)),
            statuses={"OK": "active", "LOCKED": "locked"},
            amount_scale=2,
        )
        chunks, drifted, suspected, uncompared = whole_round(pair)
        assert (chunks[0].compared, drifted, suspected, uncompared) == (2, [], set(), {})
        live.table.drop(live.engine)
        live.close()

    def test_parked_accounts_are_uncompared(self, store: Store, made: Any, pair_of: Any) -> None:
        """What the log cannot vouch for is named with the reason, whether live has it or not."""
        append(store, *account_stream("a", 2), *account_stream("c", 2))
        with store.appending() as connection:
            gap = store_rows_with_gap("b")
            store.append_rows(connection, gap)
        live = made()
        live.put([("a", 10, 0, "active", None), ("c", 10, 0, "active", None)])
        for _ in range(2):
            _, drifted, suspected, uncompared = whole_round(pair_of(live), 1)
            assert (drifted, suspected, set(uncompared)) == ([], set(), {"b"})
            assert "version_gap" in uncompared["b"]
            if not _:
                live.put([("b", 77, 0, "active", None)])

    def test_a_version_as_mark_is_exact(self, store: Store, made: Any, pair_of: Any, clock: Clock) -> None:
        """A row is compared at the version that it says: a wrong one is drift at once, one left behind soon."""
        for account_id in ("a", "b", "c", "d"):
            append(store, *account_stream(account_id, 5))
        live = made(Column("version", BigInteger()))
        rows = [("a", 40, 5), ("b", 20, 3), ("c", 30, 3), ("d", 40, 3)]
        live.put([(each, points, 0, "active", None, at) for each, points, at in rows], (*COLUMNS, "version"))
        pair = pair_of(live, mark=Mark(of="version", column="version"))
        _, drifted, suspected, _ = whole_round(pair)
        assert {entry.account_id: (entry.live, entry.replayed) for entry in drifted} == {"c": (30, 20), "d": (40, 20)}
        assert suspected == {"b"}
        live.change("a", version=6, balance=50)
        assert whole_round(pair)[2] == {"a", "b"}
        found, uncompared = settled(pair, clock, 400)
        # Another row shows that live is past what came of it.
        assert {account_id: entry.cause for account_id, entry in found.items()} == {"b": "missed_event"}
        assert set(uncompared) == {"a"}
        assert "does not know" in uncompared["a"]
        Ledger(store).credit("a", "a-t6", 10)
        follow(store)
        clock.sleep(10)
        assert pair.settle().same == ["a"]

    def test_a_transaction_as_mark_is_exact(self, store: Store, made: Any, pair_of: Any) -> None:
        """A row is compared after its last transaction; one that something came after is on its way."""
        for account_id in ("a", "b", "c"):
            append(store, *account_stream(account_id, 4))
        Ledger(store, clock=lambda: NOW).lock("a")
        live = made(Column("last_transaction", String(80)))
        rows = [("a", 30, "active", "a-t4"), ("b", 10, "active", "b-t2"), ("c", 20, "active", "c-t2")]
        live.put(
            [(each, points, 0, status, None, at) for each, points, status, at in rows], (*COLUMNS, "last_transaction")
        )
        pair = pair_of(live, mark=Mark(of="transaction", column="last_transaction"))
        _, drifted, suspected, _ = whole_round(pair)
        assert [(entry.account_id, entry.live, entry.replayed) for entry in drifted] == [("c", 20, 10)]
        assert suspected == {"a", "b"}

    @pytest.mark.parametrize("of", ["position", "transaction"])
    def test_a_mark_of_the_table_is_exact(self, store: Store, made: Any, pair_of: Any, of: str) -> None:
        """Rows are compared with the log at the place of the whole table, also those that are as the shadow now is."""
        for account_id in ("a", "b", "c"):
            append(store, *account_stream(account_id, 2))
        ledger = Ledger(store)
        for account_id in ("a", "b"):
            ledger.credit(account_id, f"{account_id}-later", 5)
        append(store, *account_stream("d", 2))
        live = made()
        live.put([("a", 10, 0, "active", None), ("b", 15, 0, "active", None), ("c", 10, 0, "active", None)])
        query = {"position": "SELECT 6", "transaction": "SELECT 'c-t2'"}[of]
        _, drifted, suspected, _ = whole_round(pair_of(live, mark=Mark(of=of, query=query)))
        assert [(entry.account_id, entry.live, entry.replayed) for entry in drifted] == [("b", 15, 10)]
        assert suspected == set()
        beyond = {"position": "SELECT 1000", "transaction": "SELECT 'unheard of'"}[of]
        _, drifted, suspected, _ = whole_round(pair_of(live, mark=Mark(of=of, query=beyond)))
        assert (drifted, suspected) == ([], {"a", "d"})

    def test_what_is_wrong_with_the_table_is_said(self, store: Store, made: Any, pair_of: Any) -> None:
        """A table or a column that is not there is a usage error that names it, without the password."""
        live = made()
        for options, said in (
            ({"table": "nowhere"}, "no such table"),
            ({"columns": {"balance": "points"}}, r"'points' is missing.*\[live.columns\]"),
            ({"timezone": "Mars"}, r"\[live\] timezone: 'Mars' is unknown"),
            ({"mark": Mark(of="version", column="seen")}, "'seen'"),
        ):
            table = LiveTable(**{"url": live.url, "table": "accounts"} | options)
            with pytest.raises(UsageError, match=said), closing(ForeignTable(table)) as foreign:
                foreign.open()


COLUMNS = ("account_id", "balance", "frozen_amount", "status", "locked_at")


def store_rows_with_gap(account_id: str) -> pl.DataFrame:
    """Stored rows of an account whose second event is missing."""
    from samples import store_rows

    return store_rows(account_stream(account_id, 4)).filter(pl.col("version") != 2)


class TestOnSqlite(LiveInSqlite, ForeignPairContract):
    def test_a_writer_never_waits_long(self, store: Store, made: Any, pair_of: Any) -> None:
        """Without a WAL an open snapshot would stop the other system, so none is open between two chunks."""
        live = made()
        live.put([(f"a{number}", number, 0, "active", None) for number in range(50)])
        pair = pair_of(live)
        pair.begin(None)
        pair.chunk(5)
        with live.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            connection.execute(live.table.delete().where(live.table.c.account_id == "a1"))
            connection.commit()

    def test_a_wrong_order_is_an_error(self, made: Any, pair_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A database that orders ids in another way than by code points is an error, in a batch and between two."""
        live = made()
        live.put([(f"a{number:05}", number, 0, "active", None) for number in range(50_000)])
        pair = pair_of(live)
        for order in (live.table.c.balance.desc(), live.table.c.balance / 25_000 * -1):
            monkeypatch.setattr("replay.comparison.foreign.ordered", lambda *_, order=order: order)
            with pytest.raises(UsageError, match="order of code points"):
                whole_round(pair, 100_000)

    def test_text_that_is_none_is_named(self, store: Store, made: Any, pair_of: Any) -> None:
        """Bytes that are no UTF-8 in a text column are a reject, and the rest is compared."""
        append(store, *account_stream("a", 2))
        live = made()
        live.put([("a", 10, 0, "active", None)])
        with live.writing() as connection:
            connection.exec_driver_sql("INSERT INTO accounts VALUES (CAST(x'ff61' AS TEXT), 1, 0, 'active', NULL)")
        pair = pair_of(live)
        chunks, drifted, suspected, _ = whole_round(pair)
        assert (chunks[0].compared, drifted, suspected, pair.rejected) == (1, [], set(), 1)


class TestOnPostgres(LiveInPostgres, ForeignPairContract):
    pass


class TestOnMariadb(LiveInMariadb, ForeignPairContract):
    def test_a_number_past_ours_is_named(self, store: Store, made: Any, pair_of: Any) -> None:
        """An unsigned number that no account of ours can hold is a reject."""
        append(store, *account_stream("a", 2))
        live = made()
        with live.writing() as connection:
            connection.exec_driver_sql("ALTER TABLE accounts MODIFY balance BIGINT UNSIGNED")
        live.put([("a", 2**64 - 1, 0, "active", None)])
        pair = pair_of(live)
        assert set(whole_round(pair)[3]) == {"a"}
        assert pair.rejected == 1
