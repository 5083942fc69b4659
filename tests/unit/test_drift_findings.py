"""The life of findings and incidents: from suspicion to drift to healed, each noted exactly once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from databases import OnPostgres, OnSqlite
from sqlalchemy import event

from ledger import Store, findings, incidents
from ledger.findings import Changes, Counts, Difference, Finding, Keys, Look

ALL = Keys(None, None)


def difference(account_id: str, field: str = "balance", *, live: str = "1", replayed: str = "2") -> Difference:
    """A difference of an account."""
    return Difference(account_id, field, "foreign_write", live, replayed, "-1", None, "something else wrote it")


def look(
    store: Store,
    *differences: Difference,
    suspected: Sequence[str] = (),
    uncompared: Sequence[str] = (),
    among: Keys | Sequence[str] = ALL,
    now: str = "t1",
    comparison: str = "own",
) -> Changes:
    """Note one look."""
    seen = Look(differences, suspected, dict.fromkeys(uncompared, "a gap"), "7")
    with store.writing() as connection:
        return findings.found(connection, comparison, seen, among=among, now=now)


def rows(store: Store, *, healed: bool = True) -> list[Finding]:
    """All findings, the healed too."""
    with store.snapshot() as connection:
        states: tuple[findings.State, ...] = ("suspected", "drift", "uncompared")
        return findings.listed(connection, states=(*states, "healed") if healed else states)


def life(store: Store) -> list[tuple[str, str, str, str, str | None]]:
    """Account, field, state, opened and healed of every finding."""
    return [(row.account_id, row.field, row.state, row.opened_at, row.healed_at) for row in rows(store)]


def ids(found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Account and field of findings."""
    return [(each.account_id, each.field) for each in found]


class _Findings:
    def test_a_suspicion_becomes_drift_and_heals(self, store: Store) -> None:
        """What was suspected, then certain, then equal is one row, opened when it was first suspected."""
        assert ids(look(store, suspected=["a"], now="t1").suspected) == [("a", "")]
        changes = look(store, difference("a"), now="t2")
        assert ids(changes.drifted) == [("a", "balance")]
        assert life(store) == [("a", "balance", "drift", "t1", None)]
        assert ids(look(store, now="t3").healed) == [("a", "balance")]
        assert life(store) == [("a", "balance", "healed", "t1", "t3")]

    def test_what_is_seen_again_is_not_new(self, store: Store) -> None:
        """A difference that lasts is noted once, with the values and the moment of the last look."""
        look(store, difference("a", live="1"), now="t1")
        assert look(store, difference("a", live="5"), now="t2") == Changes([], [], [], [])
        (row,) = rows(store)
        assert (row.live, row.opened_at, row.seen_at, row.cause, row.position) == (
            "5",
            "t1",
            "t2",
            "foreign_write",
            "7",
        )

    def test_a_row_that_says_nothing_new_is_not_written(self, store: Store) -> None:
        """What is seen again just as it was keeps the position and moment of the first look that saw it so."""
        look(store, difference("a"), uncompared=["b"], now="t1")
        look(store, difference("a"), uncompared=["b"], now="t2")
        assert [row.seen_at for row in rows(store)] == ["t1", "t1"]
        look(store, difference("a", replayed="3"), uncompared=["b"], now="t3")
        assert [row.seen_at for row in rows(store)] == ["t3", "t1"]

    def test_what_drifts_again_at_once_is_the_old_row(self, store: Store) -> None:
        """Where drift heals and comes back at one and the same moment, the row is open again and nothing fails."""
        for _ in range(3):
            assert ids(look(store, difference("a"), uncompared=["b"]).drifted) == [("a", "balance")]
            assert len(look(store).healed) == 2
        look(store, difference("a", live="9"))
        assert life(store) == [("a", "balance", "drift", "t1", None), ("b", "", "healed", "t1", "t1")]

    def test_many_findings_are_few_statements(self, store: Store) -> None:
        """Thousands of accounts that are suspected, drift, change and heal at once take no statement each."""
        names = [f"a{number:04}" for number in range(3_000)]
        said: list[str] = []
        event.listen(store.engine, "before_cursor_execute", lambda *seen: said.append(seen[2]))
        look(store, suspected=names, now="t1")
        look(store, *map(difference, names), now="t2")
        look(store, *(difference(name, live="5") for name in names), now="t3")
        look(store, *(difference(name, live="5") for name in names), now="t4")
        look(store, now="t5")
        assert {(row.state, row.opened_at, row.seen_at, row.live) for row in rows(store)} == {
            ("healed", "t1", "t5", "5")
        }
        assert len(rows(store)) == 3_000
        assert len(said) < 60, len(said)

    def test_what_drifts_again_is_a_new_row(self, store: Store) -> None:
        """A difference after it was healed stands beside the old one."""
        look(store, difference("a"), now="t1")
        look(store, now="t2")
        assert ids(look(store, difference("a"), now="t3").drifted) == [("a", "balance")]
        assert life(store) == [("a", "balance", "healed", "t1", "t2"), ("a", "balance", "drift", "t3", None)]

    def test_a_suspicion_that_came_to_nothing_leaves_nothing(self, store: Store) -> None:
        """A suspected account that is equal in a later look leaves no row, and nothing healed."""
        look(store, suspected=["a", "b"], now="t1")
        assert look(store, among=["a"], now="t2") == Changes([], [], [], [])
        assert life(store) == [("b", "", "suspected", "t1", None)]

    def test_known_drift_is_not_suspected_again(self, store: Store) -> None:
        """An account that drifts and is suspected in a later round stays drift until it is seen equal."""
        look(store, difference("a"), now="t1")
        assert look(store, suspected=["a"], now="t2") == Changes([], [], [], [])
        assert life(store) == [("a", "balance", "drift", "t1", None)]

    def test_drift_that_cannot_be_compared_is_not_healed(self, store: Store) -> None:
        """An account that drifts and then cannot be compared has both findings, and neither is taken back."""
        look(store, difference("a"), now="t1")
        assert ids(look(store, uncompared=["a"], now="t2").uncompared) == [("a", "")]
        assert life(store) == [("a", "", "uncompared", "t2", None), ("a", "balance", "drift", "t1", None)]
        assert ids(look(store, now="t3").healed) == [("a", "balance"), ("a", "")]

    def test_a_suspicion_that_never_settles_is_uncompared(self, store: Store) -> None:
        """What was suspected and did not settle is the same row as uncompared, told once, and heals."""
        look(store, suspected=["a"], now="t1")
        assert ids(look(store, uncompared=["a"], among=["a"], now="t2").uncompared) == [("a", "")]
        assert look(store, uncompared=["a"], among=["a"], now="t3") == Changes([], [], [], [])
        assert look(store, suspected=["a"], now="t4") == Changes([], [], [], [])
        (row,) = rows(store)
        assert (row.state, row.opened_at, row.evidence) == ("uncompared", "t1", "a gap")
        look(store, now="t5")
        assert life(store) == [("a", "", "healed", "t1", "t5")]

    def test_columns_heal_one_by_one(self, store: Store) -> None:
        """Of an account that still drifts, the columns that are equal again are healed."""
        look(store, difference("a"), difference("a", "frozen"), now="t1")
        assert ids(look(store, difference("a", "frozen"), now="t2").healed) == [("a", "balance")]
        assert [row.field for row in rows(store, healed=False)] == ["frozen"]

    def test_only_who_was_looked_at_is_healed(self, store: Store) -> None:
        """A chunk heals accounts behind its first key until its last, and no others, nor those of other comparisons."""
        look(store, *map(difference, ("a", "b", "c", "d")), now="t1")
        look(store, difference("b"), now="t1", comparison="other")
        assert ids(look(store, among=Keys("a", "c"), now="t2").healed) == [("b", "balance"), ("c", "balance")]
        assert ids(look(store, among=Keys("c", None), now="t3").healed) == [("d", "balance")]
        assert ids(look(store, among=Keys(None, "a"), now="t4").healed) == [("a", "balance")]
        assert [(row.comparison, row.account_id) for row in rows(store, healed=False)] == [("other", "b")]

    def test_keys_are_compared_by_code_point(self, store: Store) -> None:
        """A chunk's keys are ordered as the accounts are, by code point and not as people sort."""
        look(store, *map(difference, ("Z", "a", "é", "\U0001f600")), now="t1")
        assert ids(look(store, among=Keys("Z", "é"), now="t2").healed) == [("a", "balance"), ("é", "balance")]

    def test_counts_are_of_accounts(self, store: Store) -> None:
        """An account with two columns that differ counts once, and what is healed does not count."""
        look(store, difference("a"), difference("a", "frozen"), suspected=["b"], uncompared=["c", "d"], now="t1")
        with store.snapshot() as connection:
            assert findings.counts(connection, "own") == Counts(1, 1, 2)
            assert findings.counts(connection, "other") == Counts(0, 0, 0)
        look(store, now="t2")
        with store.snapshot() as connection:
            assert findings.counts(connection, "own") == Counts(0, 0, 0)

    def test_incident_lives_until_a_round_found_none(self, store: Store) -> None:
        """An incident begins once, keeps the most accounts that differed at once, and is over when none differs."""
        with store.writing() as connection:
            assert incidents.begun(connection, "own", 0, now="t0") is None
            begun = incidents.begun(connection, "own", 2, now="t1")
            assert begun is not None
            assert incidents.begun(connection, "own", 5, now="t2") is None
            assert incidents.begun(connection, "own", 3, now="t3") is None
            assert incidents.begun(connection, "other", 1, now="t3") is not None
        with store.writing() as connection:
            healed = incidents.healed(connection, "own", now="t4")
            assert incidents.healed(connection, "own", now="t5") is None
            again = incidents.begun(connection, "own", 1, now="t6")
        assert healed is not None
        assert again is not None
        assert (healed.id, healed.drifted, healed.healed_at) == (begun.id, 5, "t4")
        assert again.id != begun.id

    def test_incident_is_not_over_while_drift_is_open(self, store: Store) -> None:
        """A round that found nothing does not end an incident while a finding of it is open."""
        look(store, difference("a"))
        with store.writing() as connection:
            assert incidents.begun(connection, "own", 1, now="t1") is not None
            assert incidents.healed(connection, "own", now="t2") is None
        look(store)
        with store.writing() as connection:
            assert incidents.healed(connection, "own", now="t3") is not None

    def test_an_attempt_is_claimed_once(self, store: Store) -> None:
        """Of two that saw the same incident due, one takes the attempt to tell of it."""
        with store.writing() as connection:
            begun = incidents.begun(connection, "own", 1, now="t1")
            assert begun is not None
            assert incidents.claim(connection, begun, until="t9")
            assert not incidents.claim(connection, begun, until="t9")
            (now,) = incidents.listed(connection)
            assert (now.attempts, now.next_attempt_at) == (1, "t9")

    @pytest.mark.parametrize("number", range(5))
    def test_two_processes_begin_one_incident(self, store: Store, number: int) -> None:
        """Of processes that find the same drift at the same time, one makes the row and the incident."""
        del number
        barrier = threading.Barrier(4)
        found: list[tuple[int, bool]] = []

        def find() -> None:
            barrier.wait()
            with store.writing() as connection:
                seen = Look([difference("a")], [], {}, "7")
                changes = findings.found(connection, "own", seen, among=ALL, now=f"t{threading.get_ident()}")
                begun = incidents.begun(connection, "own", 1, now="t1")
            found.append((len(changes.drifted), begun is not None))

        threads = [threading.Thread(target=find) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [(0, False), (0, False), (0, False), (1, True)]
        assert len(rows(store)) == 1


class TestOnSqlite(_Findings, OnSqlite):
    def test_healed_findings_are_not_scanned(self, store: Store) -> None:
        """What a chunk asks about open findings is answered from an index that has no healed ones."""
        said: list[tuple[str, object]] = []
        event.listen(store.engine, "before_cursor_execute", lambda *seen: said.append((seen[2], seen[3])))
        with store.snapshot() as connection:
            findings.counts(connection, "own")
        look(store, among=Keys("a", "b"))
        selects = [each for each in said if each[0].startswith("SELECT")]
        assert len(selects) == 2
        with store.snapshot() as connection:
            for statement, parameters in selects:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                assert "ledger_drift_findings_open" in str(plan), plan


class TestOnPostgres(_Findings, OnPostgres):
    pass
