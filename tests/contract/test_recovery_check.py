"""The system's check on every database: each part's state, the severity, the loss, and never an exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from archives import archive_at
from databases import OnPostgres, OnSqlite
from ledgers import NOW, change_event, change_row, lose_event, lose_head, put_back, take_event, write_history
from sqlalchemy import Table, delete, select, text, update

from consumers.archiver import archive_store
from ledger import Ledger, Store
from ledger.importing.healing import Healed, Record
from ledger.tables import ACCOUNTS, EVENTS, GENERATIONS, HEADS
from replay import rebuild
from replay.certificate import Certificate, Unread
from replay.gate import Parked
from replay.recovery.check import Places, SystemState, check_system
from replay.recovery.copy_parts import archive_check, own_live
from replay.recovery.parts import PartName
from schemas.errors import BrokerError, RefusedError, StoreError

ASKED: tuple[PartName, ...] = ("topic", "archive", "live")
#: More than any test needs.
ROOM = 10**9


def state_of(store: Store | None, folder: Path, **places: Any) -> SystemState:
    """Check a system whose live rows are our own, with room on every disk unless `places` say otherwise."""
    given = {"live": own_live, "free": lambda _: ROOM} | places
    found = check_system(store, places=Places(folder=folder, **given), now=NOW)
    # It goes into the audit trail and into reports, so it has to be JSON; words are never missing.
    assert msgspec.json.decode(msgspec.json.encode(found))["severity"] == found.severity
    assert [part.name for part in found.parts] == ["store", "heads", "accounts", "topic", "archive", "live", "disk"]
    assert all(part.words for part in found.parts)
    return found


def states(found: SystemState, *names: str) -> list[str]:
    """The states of some parts."""
    return [part.state for part in found.parts if part.name in names]


def certificate_of(store: Store, **changes: Any) -> Certificate:
    """What a replay of a topic with everything in it would certify, with some fields other than so."""
    whole = rebuild(store).certificate
    return msgspec.structs.replace(whole, source="topic", topic="events", position={0: 9}, **changes)


class RecoveryCheckContract:
    """What holds on every database."""

    @pytest.fixture
    def whole(self, store: Store) -> list[str]:
        """A store with four accounts and a live read model with a certificate; returns the accounts."""
        accounts = write_history(store)
        rebuild(store, promote=True)
        return accounts

    def test_a_whole_system_is_ok(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Everything is ok or not there, nothing is lost, and nothing was written."""
        before = everything(store)
        found = state_of(store, tmp_path)
        assert found.severity == "ok"
        assert states(found, "store", "heads", "accounts", "live") == ["ok"] * 4
        assert states(found, "topic", "archive") == ["none", "none"]
        loss = found.loss
        assert (loss.accounts, loss.parked, loss.events_missing, loss.events_damaged) == (len(whole), 0, 0, 0)
        assert (loss.heads_missing, loss.drifted, loss.points_wrong, loss.healable_from) == (0, 0, 0, [])
        assert found.certificate is not None
        assert everything(store) == before

    def test_what_came_after_the_certificate_is_no_damage(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """A store that went on is held against what was certified, up to there."""
        Ledger(store).credit(whole[1], "new", 5)
        found = state_of(store, tmp_path)
        assert states(found, "store", "heads") == ["ok", "ok"]
        assert found.part("heads").details["position"] < found.part("heads").details["head"]

    def test_without_a_certificate_that_is_said(self, store: Store, tmp_path: Path) -> None:
        """A ledger that was never rebuilt has nothing that vouches for accounts which are gone whole."""
        write_history(store)
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "heads", "live")) == ("ok", ["none", "none"])
        assert "rebuild" in found.part("heads").next_step

    def test_a_hole_is_major(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """A lost event parks its account, and the rest of the store is whole: partly."""
        lose_event(store, whole[1], 3)
        found = state_of(store, tmp_path)
        assert found.severity == "major"
        assert states(found, "store", "heads", "accounts") == ["degraded", "ok", "degraded"]
        assert (found.loss.parked, found.loss.events_missing, found.loss.heads_missing) == (1, 1, 0)
        assert whole[1] in found.part("accounts").words

    def test_a_lost_tail_and_a_lost_account_are_counted(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Heads know how many events there were."""
        lose_event(store, whole[1], 7, 8)
        lose_event(store, whole[2])
        found = state_of(store, tmp_path)
        assert (found.severity, found.loss.parked, found.loss.events_missing) == ("major", 2, 2 + 8)
        assert states(found, "heads") == ["ok"]

    def test_an_event_that_cannot_be_read_is_damaged(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Bytes that are not those that were appended are damage, not a missing event."""
        change_event(store, whole[1], 3, state=b"[]")
        found = state_of(store, tmp_path)
        assert (found.severity, found.loss.events_missing, found.loss.events_damaged) == ("major", 0, 1)

    def test_a_lost_head_is_named(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """The events are there, and nothing vouches for their end; without any head nothing is whole."""
        lose_head(store, whole[1])
        found = state_of(store, tmp_path)
        assert (found.severity, found.loss.heads_missing, found.loss.events_missing) == ("major", 1, 0)
        lose_event(store, whole[1], 3)
        assert state_of(store, tmp_path).loss.events_missing == 1
        lose_head(store)
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "store", "accounts")) == ("critical", ["lost", "lost"])
        assert found.loss.heads_missing == len(whole)

    def test_an_account_that_is_gone_with_its_head_is_known(
        self, store: Store, whole: list[str], tmp_path: Path
    ) -> None:
        """The store alone is COMPLETE then: only the earlier certificate tells, and its rows name the account."""
        lose_event(store, whole[1])
        lose_head(store, whole[1])
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "store", "heads")) == ("major", ["ok", "degraded"])
        assert found.part("heads").details["named"] == [whole[1]]
        assert found.loss.events_missing == 8

    def test_what_is_gone_with_its_rows_is_counted(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Where nothing names the account any more, the certificate's counts still tell how much is gone."""
        lose_event(store, whole[1])
        lose_head(store, whole[1])
        with store.writing() as connection:
            connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.account_id == whole[1]))
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "store", "heads")) == ("major", ["ok", "degraded"])
        assert (found.loss.accounts_missing, found.loss.events_missing) == (1, 8)
        assert "8 events and 1 account fewer" in found.part("heads").words

    def test_a_lost_end_whose_head_is_gone_is_counted(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """A parked account without a head may lack events behind its last one, which only the certificate knows."""
        lose_event(store, whole[1], 7, 8)
        lose_head(store, whole[1])
        found = state_of(store, tmp_path)
        assert (found.loss.heads_missing, found.loss.events_missing, found.loss.accounts_missing) == (1, 2, 0)

    def test_a_store_from_an_older_backup_is_known(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """A head that is before what was certified is said, though nothing is missing up to there."""
        with store.snapshot() as connection:
            head = store.head(connection)
        certificate = rebuild(store).certificate
        newer = msgspec.structs.replace(certificate, position=head + 7)
        with store.writing() as connection:
            last = connection.execute(select(GENERATIONS.c.generation).order_by(GENERATIONS.c.generation.desc()))
            told = msgspec.json.encode(newer).decode()
            connection.execute(
                update(GENERATIONS).where(GENERATIONS.c.generation == last.scalars().first()).values(certificate=told)
            )
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "heads")) == ("major", ["degraded"])
        assert f"the store ends at {head:,}" in found.part("heads").words

    def test_what_was_healed_is_no_damage(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """An event that came back stands at another position; the streams are what was certified all the same."""
        put_back(store, take_event(store, whole[1], 8))
        found = state_of(store, tmp_path, live=None)
        assert (found.severity, states(found, "store", "heads")) == ("ok", ["ok", "ok"])

    def test_a_live_row_that_lies_about_its_version_is_no_loss(
        self, store: Store, whole: list[str], tmp_path: Path
    ) -> None:
        """Where the digest comes out, the log is what was certified, whatever hands wrote into live rows."""
        change_row(store, whole[1], version=99)
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "heads", "live")) == ("minor", ["ok", "degraded"])

    def test_a_certificate_that_cannot_be_read_is_said(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """It is unknown then, and no store that has lost anything: the log is whole by itself."""
        with store.writing() as connection:
            connection.execute(update(GENERATIONS).values(certificate="[]"))
        found = state_of(store, tmp_path)
        assert states(found, "store", "heads") == ["ok", "unknown"]
        assert found.severity != "ok"

    def test_wrong_live_rows_are_minor(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Points wrong are summed without signs over balance and frozen; a missing row counts with its balance."""
        change_row(store, whole[1], balance=990, frozen=31)
        change_row(store, whole[2], balance=1005)
        with store.writing() as connection:
            connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.account_id == whole[3]))
        found = state_of(store, tmp_path)
        assert (found.severity, found.loss.drifted) == ("minor", 3)
        assert found.loss.points_wrong == (3 + 10) + 12 + 993

    def test_live_past_the_head_is_minor(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Rows that are what the log says are not ok while live has events that the store lost; wrong ones are told."""
        with store.writing() as connection:
            connection.execute(update(GENERATIONS).values(position=9_000))
        found = state_of(store, tmp_path)
        live = found.part("live")
        assert (found.severity, live.state, found.loss.drifted) == ("minor", "degraded", 0)
        assert live.words.startswith("live is at position 9,000 of the store, whose head is 33: the store has lost")
        change_row(store, whole[1], balance=990)
        lose_event(store, whole[2], 3)
        words = state_of(store, tmp_path).part("live").words
        assert words.startswith(
            "1 of 3 accounts are not what the log says; 1 account cannot be compared, "
            "the first since: acc-3 has version_gap at version 3; live is at position 9,000"
        )

    def test_without_events_it_is_critical(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Nothing whole is left to replay: neither where all events are lost, nor where heads went with them."""
        with store.writing() as connection:
            connection.execute(delete(EVENTS))
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "store", "accounts")) == ("critical", ["lost", "lost"])
        assert found.loss.events_missing == 8 * len(whole) + 1
        with store.writing() as connection:
            connection.execute(delete(HEADS))
        found = state_of(store, tmp_path)
        assert (found.severity, states(found, "store")) == ("critical", ["lost"])

    @pytest.mark.parametrize("table", [EVENTS, HEADS, GENERATIONS])
    def test_a_table_that_goes_in_the_middle_is_said(
        self, store: Store, whole: list[str], tmp_path: Path, table: Table
    ) -> None:
        """What the open store cannot read any more is a part that says so, and no exception."""
        with store.writing() as connection:
            connection.execute(text(f"DROP TABLE {table.name}"))
        found = state_of(store, tmp_path)
        assert found.part("heads" if table is GENERATIONS else "store").state == "lost"
        assert found.severity == ("major" if table is GENERATIONS else "critical")

    def test_a_whole_archive_makes_it_major(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """What is lost in the store can still be replayed from there, and it is named."""
        archive = archive_at(tmp_path / "archive")
        archive_store(archive, store)
        check = archive_check(archive)
        assert states(state_of(store, tmp_path, archive=check), "archive") == ["ok"]
        with store.writing() as connection:
            connection.execute(delete(EVENTS))
        found = state_of(store, tmp_path, archive=check)
        assert (found.severity, states(found, "store", "archive")) == ("major", ["lost", "ok"])
        assert found.loss.healable_from == ["the archive"]
        assert found.part("archive").details["beyond_store"] > 0

    def test_a_damaged_archive_is_no_copy(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """A file that is not what was written is named, and a store without events is critical then."""
        archive = archive_at(tmp_path / "archive")
        archive_store(archive, store)
        (file,) = (tmp_path / "archive").glob("**/*.parquet")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        check = archive_check(archive_at(tmp_path / "archive"))
        found = state_of(store, tmp_path, archive=check)
        assert (found.severity, states(found, "archive")) == ("minor", ["lost"])
        assert file.name in found.part("archive").words
        with store.writing() as connection:
            connection.execute(delete(EVENTS))
        assert state_of(store, tmp_path, archive=check).severity == "critical"

    def test_an_archive_that_is_behind_says_so(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """It is whole up to where it is; one of another ledger is no copy of this one."""
        archive = archive_at(tmp_path / "archive")
        archive_store(archive, store)
        Ledger(store).credit(whole[1], "new", 5)
        found = state_of(store, tmp_path, archive=archive_check(archive))
        assert (found.severity, found.part("archive").details["behind_store"]) == ("ok", 1)
        other = Store.at(tmp_path / "other")
        write_history(other)
        found = state_of(other, tmp_path, archive=archive_check(archive), live=None)
        other.close()
        assert states(found, "archive") == ["degraded"]
        assert "of another ledger" in found.part("archive").words

    def test_an_archive_that_was_never_made_is_none(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """An empty folder is no archive, and nothing is wrong with that."""
        found = state_of(store, tmp_path, archive=archive_check(archive_at(tmp_path / "nothing")))
        assert (found.severity, states(found, "archive")) == ("ok", ["none"])

    def test_the_topic_is_held_against_the_store(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Behind is said, beyond means that the store has lost something; unread partitions make it no copy."""
        certificate = certificate_of(store)
        behind = msgspec.structs.replace(certificate, events=certificate.events - 3)
        found = state_of(store, tmp_path, topic=lambda _: behind)
        assert (found.severity, found.part("topic").details["behind_store"]) == ("ok", 3)
        beyond = msgspec.structs.replace(certificate, beyond_store=2)
        found = state_of(store, tmp_path, topic=lambda _: beyond)
        assert (found.severity, states(found, "topic")) == ("major", ["ok"])
        hole = Unread(partition=1, offset=5, until=9, reason="corrupt", details="a bad batch")
        found = state_of(store, tmp_path, topic=lambda _: msgspec.structs.replace(certificate, unread=[hole]))
        assert (found.severity, states(found, "topic")) == ("minor", ["degraded"])
        assert "a bad batch" in found.part("topic").words
        parked = Parked(account_id=whole[0], version=2, reason="version_gap")
        found = state_of(store, tmp_path, topic=lambda _: msgspec.structs.replace(certificate, parked=[parked]))
        assert states(found, "topic") == ["degraded"]
        empty = msgspec.structs.replace(certificate, events=0, accounts=0)
        assert states(state_of(store, tmp_path, topic=lambda _: empty), "topic") == ["none"]
        assert states(state_of(store, tmp_path, topic=lambda _: None), "topic") == ["none"]

    def test_a_whole_topic_makes_a_lost_store_major(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """It can be replayed from there, whether the store can be asked or not."""
        certificate = certificate_of(store)
        found = state_of(None, tmp_path, topic=lambda _: certificate, store_error=StoreError("gone"))
        assert (found.severity, states(found, "store", "live")) == ("major", ["unknown", "unknown"])
        assert found.loss.healable_from == ["the topic"]
        assert found.loss.accounts is None

    @pytest.mark.parametrize(
        ("error", "state"),
        [
            (BrokerError("no broker", next_step="wait"), "unknown"),
            (RefusedError("the topic was made again"), "degraded"),
            (PermissionError(13, "Permission denied", "/x"), "unknown"),
            (RuntimeError("what is this"), "unknown"),
        ],
    )
    def test_what_fails_is_a_part_that_says_so(
        self, store: Store, whole: list[str], tmp_path: Path, error: Exception, state: str
    ) -> None:
        """A broker that is down, a refusal and a bug end neither the check nor the other parts."""
        raising = raises(error)
        found = state_of(store, tmp_path, topic=raising, archive=raising, live=raising)
        assert states(found, "topic", "archive", "live") == [state] * 3
        assert all(str(error.args[1 if isinstance(error, OSError) else 0]) in found.part(name).words for name in ASKED)
        assert (found.severity, states(found, "store", "disk")[0]) == ("minor", "ok")
        assert found.loss.drifted is None

    def test_copies_say_what_they_would_bring_back(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Each copy is tried; the best of them counts, and one that cannot be asked is named with its reason."""
        lose_event(store, whole[1], 3, 4)
        conflict = Record(whole[2], 1, 0, 0, "another ledger's")
        copies: dict[str, Callable[[Store], Healed]] = {
            "topic events": lambda _: Healed(restored=2),
            "file old.jsonl": lambda _: Healed(restored=1, conflicts=[conflict], conflicts_count=1),
            "file empty.jsonl": lambda _: Healed(),
            "topic gone": raises(BrokerError("no broker")),
        }
        found = state_of(store, tmp_path, copies=copies)
        assert (found.loss.events_healable, found.loss.events_missing) == (2, 2)
        assert found.loss.healable_from == ["topic events", "file old.jsonl"]
        assert "no broker" in found.untried["topic gone"]

    def test_copies_of_a_whole_store_are_not_asked(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """Reading a whole topic takes its time, and a store that lacks nothing needs none of it."""
        found = state_of(store, tmp_path, copies={"topic": raises(BrokerError("no broker"))})
        assert (found.severity, found.untried, found.loss.events_healable) == ("ok", {}, None)

    def test_a_full_disk_is_said_before(self, store: Store, whole: list[str], tmp_path: Path) -> None:
        """A disk with too little room, or of which nobody knows, leaves nothing ok; a folder need not be there yet."""
        found = state_of(store, tmp_path / "not" / "there", free=lambda _: 1_000)
        assert (found.severity, states(found, "disk")) == ("minor", ["degraded"])
        assert "1,000 bytes free" in found.part("disk").words
        found = state_of(store, tmp_path, free=raises(OSError(5, "Input/output error")))
        assert states(found, "disk") == ["unknown"]
        assert "Input/output error" in found.part("disk").words

    @pytest.mark.parametrize("error", [StoreError("cannot open the store: disk I/O error"), OSError(28, "No space")])
    def test_a_store_that_a_full_disk_keeps_from_us_is_not_lost(self, tmp_path: Path, error: Exception) -> None:
        """The first thing is room, not a backup, since nobody can say that nothing is left; with room it is damage."""
        places = {"store_error": error, "store_folder": tmp_path}
        found = state_of(None, tmp_path, free=lambda _: 0, **places)
        assert (found.severity, states(found, "store", "disk")) == ("major", ["unknown", "degraded"])
        assert {found.part(name).next_step for name in ("store", "disk")} == {"make room first, then check again"}
        assert "0 bytes free" in found.part("disk").words
        if isinstance(error, StoreError):
            found = state_of(None, tmp_path, **places)
            assert (found.severity, states(found, "store")) == ("critical", ["lost"])
            assert "backup" in found.part("store").next_step

    def test_a_full_disk_excuses_no_damage(self, tmp_path: Path) -> None:
        """What says that it is malformed is lost, full or not; a server elsewhere is not kept by our disk."""
        error = StoreError("the database disk image is malformed")
        found = state_of(None, tmp_path, free=lambda _: 0, store_error=error, store_folder=tmp_path)
        assert (found.severity, states(found, "store", "disk")) == ("critical", ["lost", "degraded"])
        found = state_of(None, tmp_path, free=lambda _: 0, store_error=StoreError("connection refused"))
        assert (found.severity, states(found, "store", "disk")) == ("critical", ["unknown", "degraded"])
        assert "room" not in found.part("store").next_step


def raises(error: Exception) -> Callable[..., Any]:
    """Return what raises an error, whatever it is asked."""

    def ask(*_: object) -> Any:
        raise error

    return ask


def everything(store: Store) -> list[Any]:
    """The rows of every table that a check could change."""
    with store.snapshot() as connection:
        return [connection.execute(select(table)).all() for table in (EVENTS, HEADS, GENERATIONS, ACCOUNTS)]


class TestRecoveryCheckOnSqlite(RecoveryCheckContract, OnSqlite):
    """On SQLite."""


class TestRecoveryCheckOnPostgres(RecoveryCheckContract, OnPostgres):
    """On PostgreSQL."""
