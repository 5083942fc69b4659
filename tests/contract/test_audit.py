"""The audit trail: what it keeps, that it is one chain whoever writes, and that whatever is done to it is found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from threading import Barrier
from typing import Any

import pytest
from audit_trails import (
    bad_of,
    cut_off,
    edit,
    entry,
    heads_of,
    record,
    remade,
    rows_of,
    set_head,
    set_rows,
    verified,
)
from databases import OnPostgres, OnSqlite
from sqlalchemy import delete, text

from ledger import Store, audit
from ledger.audit import Head
from ledger.audit_chain import COLUMNS, genesis
from ledger.recovery_tables import AUDIT, AUDIT_HEAD
from schemas.errors import RefusedError, UsageError

ENTRIES = [entry(number) for number in range(1, 8)]
LAST = len(ENTRIES)
TEXTS = COLUMNS[1:7]
EDITS: list[dict[str, Any]] = [
    {"at": "2026-05-01T03:00:09.000000Z"},
    {"by": "mallory"},
    {"by": ""},
    {"action": "account.already"},
    {"run": None},
    {"run": ""},
    {"run": "account.corrected"},
    {"account_id": None},
    {"details": '{"from":0, "to":1}'},
    {"details": "{}"},
    {"previous": b"\1" * 32},
    {"previous": b""},
    {"hash": b"\1" * 32},
]


class AuditContract:
    """Subclasses give `store` and `url`."""

    @pytest.fixture
    def trail(self, store: Store) -> Store:
        """A store with a trail of seven entries."""
        record(store, *ENTRIES)
        return store

    def test_an_empty_trail_is_whole(self, store):
        """Before the first entry the head is the genesis, and there is nothing bad."""
        with store.snapshot() as connection:
            start = audit.head(connection, store.ledger_id)
            assert audit.entries(connection) == []
        assert start == Head(0, genesis(store.ledger_id).hex())
        found = verified(store)
        assert (found.entries, found.head, found.first_bad) == (0, None, None)
        assert record(store) == start
        assert verified(store).first_bad is None

    def test_an_entry_is_kept_as_it_was_given(self, trail):
        """What is read is what was recorded, each entry with the hash of the one before it."""
        head = record(trail, entry(8, run=None, account_id=None, by="Zoë", details={"b": [1, None], "a": "é\0"}))
        with trail.snapshot() as connection:
            found = audit.entries(connection)
            assert audit.head(connection, trail.ledger_id) == head
        last = found[-1]
        assert (last.number, last.by, last.run, last.account_id) == (8, "Zoë", None, None)
        assert last.details == {"b": [1, None], "a": "é\0"}
        assert [each.number for each in found] == list(range(1, 9))
        assert [each.at for each in found[:7]] == [each.at for each in ENTRIES]
        hashes = [genesis(trail.ledger_id).hex(), *(each.hash for each in found)]
        assert [each.previous for each in found] == hashes[:-1]
        assert (head, verified(trail).head) == (Head(8, hashes[-1]), head)

    def test_entries_are_asked_for_by_what_they_are_about(self, store):
        """A run, an account, actions, a number to go on after, the first or the last of them narrow what is read."""
        more = [entry(3, run="recovery-2"), entry(4, run=None, account_id="acc-1", action="row.restored")]
        record(store, entry(1), entry(2), *more)

        def numbers(**asked: Any) -> list[int]:
            with store.snapshot() as connection:
                return [each.number for each in audit.entries(connection, **asked)]

        assert numbers(run="recovery-1") == [1, 2]
        assert numbers(account_id="acc-1") == [1, 4]
        assert numbers(actions=["row.restored", "no.such"]) == [4]
        assert numbers(actions=[]) == []
        assert numbers(after=1, first=2) == [2, 3]
        assert numbers(last=3) == [2, 3, 4]
        assert numbers(run="recovery-3") == []

    def test_the_chain_is_the_same_however_it_was_written(self, trail):
        """Entries of one call have the hashes that they have one by one, and their details in any order of keys."""
        before = rows_of(trail)
        with trail.writing() as connection:
            connection.execute(delete(AUDIT))
            connection.execute(delete(AUDIT_HEAD))
        for each in ENTRIES:
            turned = dict(reversed(each.details.items()))
            record(trail, entry(each.details["to"], details=turned))
        assert rows_of(trail) == before

    def test_a_transaction_that_is_undone_leaves_no_entry(self, trail):
        """Entries and head are those of the transaction: rolled back, the trail goes on where it was."""
        with trail.engine.connect() as connection, connection.begin() as transaction:
            audit.append(connection, trail.ledger_id, [entry(8)])
            transaction.rollback()
        assert record(trail, entry(8)).number == 8
        assert (verified(trail).entries, bad_of(trail)) == (8, None)

    def test_writers_at_once_make_one_chain(self, store, url):
        """Whoever appends at once follows one another, from the first entry on."""
        writers, turns = 4, 12
        start = Barrier(writers)

        def write(name: str) -> None:
            with closing(Store(url)) as own:
                start.wait()
                for turn in range(turns):
                    record(own, entry(2 * turn, by=name), entry(2 * turn + 1, by=name))

        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, [f"writer {number}" for number in range(writers)]))
        found = verified(store)
        assert (found.entries, found.first_bad) == (2 * writers * turns, None)
        by = [row.by for row in rows_of(store)]
        assert by[::2] == by[1::2]

    def test_what_no_database_takes_is_refused(self, trail):
        """NUL and bytes that are no UTF-8 are bad usage that names the field, and nothing is written."""
        for field, words in product(("by", "run", "account_id", "action"), ("a\0b", "a\udcffb")):
            with pytest.raises(UsageError, match=f"^{field} of an audit entry is no text"):
                record(trail, entry(8, **{field: words}))
        assert (verified(trail).entries, bad_of(trail)) == (LAST, None)

    def test_an_entry_that_cannot_be_read_is_named(self, trail):
        """Where somebody wrote what is no entry, reading says which one, and others can be read."""
        edit(trail, 3, details="{")
        with trail.snapshot() as connection, pytest.raises(RefusedError, match=r"entry 3.*audit verify"):
            audit.entries(connection)
        with trail.snapshot() as connection:
            assert len(audit.entries(connection, after=3)) == 4
        edit(trail, 4, at="yesterday")
        with trail.snapshot() as connection, pytest.raises(RefusedError, match="entry 4"):
            audit.entries(connection, account_id="acc-4")

    def test_an_edit_is_found(self, trail):
        """Whatever column of whatever entry is changed, that entry is the first bad one."""
        rows = rows_of(trail)
        for number, values in product((1, 4, LAST), EDITS):
            edit(trail, number, **values)
            assert bad_of(trail) == number, values
            was = {name: getattr(rows[number - 1], name) for name in values}
            edit(trail, number, **{name: value.decode() if name in TEXTS else value for name, value in was.items()})
            assert bad_of(trail) is None, values

    def test_a_deletion_is_found(self, trail):
        """The first entry that is missing is named, and how that is seen."""
        for number in (5, 3):
            with trail.writing() as connection:
                connection.execute(delete(AUDIT).where(AUDIT.c.number == number))
            found = verified(trail)
            assert (found.first_bad.number, found.first_bad.reason) == (
                number,
                f"it is missing: entry {number + 1} comes next",
            )
        assert found.entries == LAST - 2

    def test_another_order_is_found(self, trail):
        """Two entries that changed their places: the earlier place is bad, hashes moved with them or not."""
        rows = rows_of(trail)
        rows[2], rows[4] = rows[4]._replace(number=3), rows[2]._replace(number=5)
        set_rows(trail, rows)
        assert bad_of(trail) == 3

    @pytest.mark.parametrize("is_chained", [True, False])
    def test_an_insertion_is_found(self, trail, is_chained):
        """An entry that was put in is named, even where it has the right hash and the others moved up for it."""
        rows = rows_of(trail)
        own = rows[5]._replace(number=3, previous=rows[1].hash if is_chained else rows[5].previous, by=b"mallory")
        own = own._replace(hash=own.digest())
        moved = [row._replace(number=row.number + 1) for row in rows[2:]]
        set_rows(trail, [*rows[:2], own, *moved])
        found = verified(trail).first_bad
        assert found.number == 3
        assert is_chained == (found.reason == "it was put in: what is entry 4 now was entry 3")

    def test_a_row_behind_the_head_is_found(self, trail):
        """An entry that the head knows nothing of is bad, though its hash is right."""
        rows = rows_of(trail)
        set_rows(trail, remade([*rows, rows[0]._replace(number=8)], start=7))
        assert verified(trail).first_bad == audit.Bad(8, "the head knows nothing of it: it ends with entry 7")

    @pytest.mark.parametrize("number", [1, 5, LAST])
    def test_a_cut_tail_is_found(self, trail, number):
        """Where the tail was cut off, the head says how many there were."""
        cut_off(trail, number)
        assert verified(trail).first_bad == audit.Bad(number, f"it is missing: the head says that there are {LAST}")

    def test_a_cut_tail_stays_found(self, trail):
        """Entries that come after a cut tail do not hide it."""
        cut_off(trail, 6)
        record(trail, entry(8))
        assert bad_of(trail) == 6

    def test_a_head_that_was_taken_away_is_found(self, trail):
        """Without the row of the head nothing vouches for an end, so appending is refused until it is back."""
        head = verified(trail).head
        with trail.writing() as connection:
            connection.execute(delete(AUDIT_HEAD))
        found = verified(trail)
        assert (found.head, found.first_bad.number) == (None, LAST + 1)
        with pytest.raises(RefusedError, match=r"ledger_audit_head.*audit verify"):
            record(trail, entry(8))
        assert verified(trail) == found
        set_head(trail, LAST, bytes.fromhex(head.hash))
        record(trail, entry(8))
        assert bad_of(trail) is None

    def test_a_head_that_was_put_back_is_found(self, trail):
        """A head of an earlier entry makes those after it bad, and appending is refused."""
        set_head(trail, 4, rows_of(trail)[3].hash)
        assert bad_of(trail) == 5
        with pytest.raises(RefusedError, match="goes on behind its head, entry 4"):
            record(trail, entry(8))

    @pytest.mark.parametrize("number", [LAST, 3, 0, -1])
    def test_a_head_with_another_hash_is_found(self, trail, number):
        """A head that does not name the hash of its entry makes that entry the last one that is in doubt."""
        set_head(trail, number, b"\1" * 32)
        assert bad_of(trail) == (number if number >= 0 else LAST + 1)

    @pytest.mark.parametrize("number", [1, 4, 6, LAST])
    def test_an_edit_whose_hash_was_made_anew_is_found(self, trail, number):
        """The next entry, or the head, names the hash that the edited one had."""
        rows = rows_of(trail)
        own = rows[number - 1]._replace(by=b"mallory")
        edit(trail, number, by="mallory", hash=own.digest())
        assert bad_of(trail) == number

    @pytest.mark.parametrize("number", [2, 4, 6, LAST])
    def test_an_entry_that_was_made_anew_behind_another_is_found(self, trail, number):
        """One that is right in itself, but follows on nothing, is bad, since the next does not follow on it."""
        own = rows_of(trail)[number - 1]._replace(previous=b"\1" * 32)
        edit(trail, number, previous=own.previous, hash=own.digest())
        assert bad_of(trail) == number

    def test_hashes_made_anew_to_the_end_are_found_by_the_head(self, trail):
        """Where every hash behind an edit was made anew, the head shows that it is not the chain that was written."""
        rows = rows_of(trail)
        rows[3] = rows[3]._replace(by=b"mallory")
        set_rows(trail, remade(rows, start=3))
        assert bad_of(trail) == LAST

    def test_a_chain_and_a_head_made_anew_are_found_by_heads_kept_elsewhere(self, trail):
        """Inside nothing shows it; the first head kept elsewhere that does not fit names its entry."""
        rows = rows_of(trail)
        known = heads_of(rows)
        rows[3] = rows[3]._replace(by=b"mallory")
        rows = remade(rows, start=3)
        set_rows(trail, rows)
        set_head(trail, LAST, rows[-1].hash)
        assert bad_of(trail) is None
        assert bad_of(trail, known[:3]) is None
        assert bad_of(trail, known) == 4
        found = verified(trail, [known[1], known[5]]).first_bad
        assert found.number == 6
        assert "an entry after 2 was changed" in found.reason

    def test_a_tail_cut_off_with_its_head_is_found_by_heads_kept_elsewhere(self, trail):
        """A head kept elsewhere names an entry that is not there; so it does where everything was taken away."""
        rows = rows_of(trail)
        known = heads_of(rows)
        cut_off(trail, 5)
        set_head(trail, 4, rows[3].hash)
        assert bad_of(trail) is None
        assert verified(trail, known[-1:]).first_bad == audit.Bad(
            5, "it is missing: a head kept elsewhere names entry 7"
        )
        cut_off(trail, 1)
        with trail.writing() as connection:
            connection.execute(delete(AUDIT_HEAD))
        assert bad_of(trail) is None
        assert bad_of(trail, known[:1]) == 1

    def test_heads_kept_elsewhere_that_contradict_each_other(self, trail):
        """Of two hashes for one entry at least one is not its own."""
        known = heads_of(rows_of(trail))
        assert bad_of(trail, known) is None
        assert bad_of(trail, [*known, Head(5, "00" * 32)]) == 5

    def test_a_trail_of_another_ledger_is_not_whole(self, trail):
        """The genesis is that of one ledger, so a trail that was copied from another does not begin this one's."""
        with trail.snapshot() as connection:
            found = audit.verify(connection, "another").first_bad
        assert found.number == 1
        assert "is of another ledger" in found.reason

    def test_a_long_trail_is_walked_whole(self, store):
        """The walk goes on over any number of rows that are read at once."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ledger.audit_check._ROWS_PER_QUERY", 3)
            record(store, *(entry(number) for number in range(1, 10)))
            assert (verified(store).entries, bad_of(store)) == (9, None)
            edit(store, 9, by="mallory")
            assert bad_of(store) == 9

    def test_heads_after_an_entry(self, trail):
        """Number and hash of what came later, in order."""
        with trail.snapshot() as connection:
            assert audit.heads_after(connection, 0) == heads_of(rows_of(trail))
            assert [head.number for head in audit.heads_after(connection, 5)] == [6, 7]
            assert audit.heads_after(connection, 7) == []


class TestOnSqlite(AuditContract, OnSqlite):
    """SQLite, which also takes values of other types than the columns have."""

    @pytest.mark.parametrize(
        "change",
        [
            "by = CAST(by AS BLOB)",
            "details = CAST(details AS BLOB)",
            "details = details || CAST(x'ff' AS TEXT)",
            "account_id = x'00'",
            "previous = CAST(previous AS TEXT)",
            "hash = 'abc'",
            "number = 'three'",
            "number = 3.5",
            "number = x'03'",
        ],
    )
    def test_a_value_of_another_type_is_found(self, trail, change):
        """A value that only looks like the one that was written is another one."""
        with trail.writing() as connection:
            connection.execute(text(f"UPDATE ledger_audit SET {change} WHERE number = 3"))
        assert bad_of(trail) == 3
        with trail.snapshot() as connection, pytest.raises(RefusedError, match="an audit entry cannot be read"):
            audit.entries(connection)

    def test_damaged_text_is_not_taken_for_another(self, store):
        """Bytes that are no UTF-8 are not the character that stands for such."""
        record(store, entry(1, by="\ufffd"))
        assert bad_of(store) is None
        with store.writing() as connection:
            connection.execute(text("UPDATE ledger_audit SET by = CAST(x'ff' AS TEXT)"))
        assert bad_of(store) == 1

    @pytest.mark.parametrize("change", ["number = 'seven'", "hash = 'abc'"])
    def test_a_head_of_another_type_is_found(self, trail, change):
        """A head that says nothing is as good as none, and is not written over."""
        with trail.writing() as connection:
            connection.execute(text(f"UPDATE ledger_audit_head SET {change}"))
        assert (verified(trail).head, bad_of(trail)) == (None, LAST + 1)
        with pytest.raises(RefusedError, match="ledger_audit_head"):
            record(trail, entry(8))
        with trail.snapshot() as connection, pytest.raises(RefusedError, match="ledger_audit_head"):
            audit.head(connection, trail.ledger_id)


class TestOnPostgres(AuditContract, OnPostgres):
    """PostgreSQL."""
