"""The archive by the command line: brought up to date, compacted, checked, vacuumed, rebuilt from, and refused."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import NOW, START, Run, damage, ledger_of

FROM = ("--from", "archive")


def files_of(data: Path) -> list[Path]:
    """Return the data files of the data folder's own archive, oldest first."""
    return sorted((data / "archive").glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)


def test_it_goes_on_where_it_stopped(run: Run, data: Path) -> None:
    """Each run appends what is new, once, and says where the archive is."""
    first = run("archive", "--data", data, "--now", NOW, "--json")
    assert first.status == 0
    assert first.document == {
        "verdict": "COMPLETE",
        "appended": 9,
        "position": 9,
        "table_version": 1,
        "events": 9,
        "watermark": "2026-05-01T00:00:00.000000Z",
        "parked": [],
        "poison": [],
        "unread": [],
    }
    assert run("archive", "--data", data, "--now", NOW, "--json").document == first.document | {"appended": 0}
    with ledger_of(data) as ledger:
        ledger.credit("carl", "carl-2", 1, effective_at=START)
    said = run("archive", "--data", data, "--now", NOW)
    assert said.out == "COMPLETE: 1 event appended; the archive holds 10 events, up to position 10 of the store\n"


def test_compact_says_files_before_and_after(run: Run, archived: Path) -> None:
    """Compaction makes one file of two small ones, and a rebuild gives the same digest before and after."""
    before = run("rebuild", "--from", "archive", "--data", archived, "--json").document["certificate"]
    said = run("archive", "--compact", "--data", archived, "--now", NOW, "--json").document
    assert (said["files_before"], said["files_after"], said["appended"]) == (2, 1, 0)
    after = run("rebuild", "--from", "archive", "--data", archived, "--json").document["certificate"]
    assert after["table_version"] == said["table_version"] > before["table_version"]
    assert after["digest"] == before["digest"]
    told = run("archive", "--compact", "--data", archived, "--now", NOW).out
    assert "compacted: 1 data file before, 1 after\n" in told


@pytest.mark.parametrize(
    "words",
    [
        ("balances",),
        ("balances", "alice", "zoe", "--as-of", "2026-04-01"),
        ("balances", "--at", "6", "--recorded-as-of", "2026-04-15"),
        ("balances", "--as-of", "2026-03-31"),
        ("history", "bob"),
        ("graph", "alice-2"),
        ("graph", "zoe-1"),
    ],
)
def test_the_archive_answers_as_the_store(run: Run, archived: Path, words: tuple[str, ...]) -> None:
    """The same document but for whose certificate it is, and the same table, without any ledger too."""
    more = ("--now", NOW, "--json")
    store = run(*words, "--data", archived, *more).document
    found = run(*words, "--from", "archive", "--data", archived, *more)
    assert found.status == 0
    table_id = found.document["certificate"]["table_id"]
    assert table_id
    other = {"source": "archive", "table_id": table_id, "table_version": 2}
    assert found.document == store | {"certificate": store["certificate"] | other}
    place = ("--archive", archived / "archive", "--data", "nowhere")
    assert run(*words, "--from", "archive", *place, *more).document == found.document
    assert run(*words, "--from", "archive", "--data", archived, "--format", "csv").out


def test_a_moment_past_the_watermark_is_incomplete(run: Run, archived: Path) -> None:
    """Status 3, no row, and the line says what brings the watermark further."""
    words = ("balances", "--from", "archive", "--data", archived, "--as-of")
    assert run(*words, NOW).status == 0
    said = run(*words, "2026-05-02")
    assert said.status == 3
    assert said.out.startswith("INCOMPLETE: no balance is given for what happened up to 2026-05-02")
    assert "the archive is known to be whole only up to the watermark 2026-05-01T00:00:00.000000Z: ask" in said.out
    assert said.out.endswith("bring it up to date first with `archive`\n")
    run("archive", "--data", archived, "--now", "2026-05-02")
    assert run(*words, "2026-05-02").status == 0


def test_a_rebuild_from_the_archive_goes_live(run: Run, archived: Path) -> None:
    """Promoted, its rows are those of a rebuild from the store, chains too, and events that came since are in."""
    with ledger_of(archived) as ledger:
        ledger.credit("bob", "bob-3", 7, effective_at=START)
    said = run("rebuild", "--from", "archive", "--promote", "--data", archived, "--json").document
    assert (said["verdict"], said["promoted"], said["certificate"]["source"]) == ("COMPLETE", True, "archive")
    assert (said["certificate"]["position"], said["certificate"]["events"]) == (11, 11)
    assert run("drift", "--data", archived, "--json").document["verdict"] == "EQUAL"
    store = run("rebuild", "--until", "11", "--data", archived, "--json").document["certificate"]
    assert said["certificate"]["digest"] == store["digest"]
    connection = sqlite3.connect(archived / "ledger.db")
    rows = connection.execute(
        "SELECT account_id, ledger_accounts.version, ledger_accounts.chain = ledger_heads.chain FROM ledger_accounts "
        "JOIN ledger_heads USING (account_id) WHERE generation = 1 ORDER BY account_id"
    ).fetchall()
    connection.close()
    assert rows == [("alice", 4, 1), ("bob", 4, 1), ("carl", 2, 1), ("zoe", 2, 1)]


@pytest.mark.parametrize("until", [1, 4, 10])
def test_a_rebuild_until_a_position_is_not_promoted(run: Run, archived: Path, until: int) -> None:
    """Stopped at a position it is what the store gives there, and does not go live: nothing proves what it is of."""
    words = ("rebuild", "--until", until, "--data", archived, "--json")
    said = run(*words, "--from", "archive").document
    store = run(*words).document["certificate"]
    for name in ("digest", "events", "accounts", "position"):
        assert said["certificate"][name] == store[name]
    refused = run(*words, "--from", "archive", "--promote")
    assert (refused.status, refused.document["verdict"]) == (4, "REFUSED")
    assert "a rebuild until a position before the archive's end cannot go live" in refused.err
    kept = run("generations", "--data", archived, "--json").document["generations"]
    assert [each["generation"] for each in kept] == [1, 2]
    later = run("generations", "promote", 1, "--data", archived)
    assert later.status == 4
    assert "without the chain of its events" in later.err


def test_a_rebuild_until_the_end_of_the_archive_goes_live(run: Run, archived: Path) -> None:
    """The position that the archive is at is no earlier one, and one that it does not have is bad usage."""
    words = ("rebuild", "--from", "archive", "--promote", "--data", archived)
    assert run(*words, "--until", 12).status == 2
    assert run(*words, "--until", 11, "--json").document["promoted"] is True


def test_the_archive_alone_is_rebuilt_from(run: Run, archived: Path) -> None:
    """Where there is no ledger any more, all projections are certified, and no generation is kept nor folder made."""
    own = run("rebuild", "--from", "archive", "--projections", "--data", archived, "--json").document["certificate"]
    words = ("rebuild", "--from", "archive", "--archive", archived / "archive", "--projections", "--data", "elsewhere")
    said = run(*words, "--json")
    assert (said.status, said.document["generation"]) == (0, None)
    assert said.document["certificate"] == own
    assert not Path("elsewhere").exists()
    assert "no ledger with events is here to keep it in\n" in run(*words).out


def test_a_store_that_lost_its_tail_does_not_get_the_generation(run: Run, archived: Path) -> None:
    """The archive has more than the store: that is said, and promote refuses, then and later."""
    damage(archived, "DELETE FROM stored_events WHERE id > 9")
    said = run("rebuild", "--from", "archive", "--data", archived, "--json")
    assert (said.status, said.document["verdict"]) == (0, "COMPLETE")
    assert "the archive is at position 11, the store's head is 9: the store has lost events" in said.err
    for words in (("rebuild", "--from", "archive", "--promote"), ("generations", "promote", 1)):
        refused = run(*words, "--data", archived)
        assert refused.status == 4
        assert "at position 11, and the store's head is 9" in refused.err
        assert len(run("generations", "--data", archived, "--json").document["generations"]) == 1
    archive = run("archive", "--data", archived)
    assert archive.status == 4
    assert "the store has lost events" in archive.err


def test_a_store_from_a_backup_does_not_get_the_generation(run: Run, data: Path) -> None:
    """Where heads are older too, the accounts that the archive has more of are counted and named."""
    shutil.copy(data / "ledger.db", "backup.db")
    with ledger_of(data) as ledger:
        ledger.credit("carl", "carl-2", 1, effective_at=START)
    run("archive", "--data", data)
    for ending in ("-wal", "-shm"):
        (data / f"ledger.db{ending}").unlink(missing_ok=True)
    shutil.copy("backup.db", data / "ledger.db")
    # As many events as the archive has, but others: only the heads tell.
    with ledger_of(data) as ledger:
        ledger.credit("bob", "bob-3", 1, effective_at=START)
    said = run("rebuild", "--from", "archive", "--data", data, "--json").document
    assert said["certificate"]["beyond_store"] == 1
    refused = run("rebuild", "--from", "archive", "--promote", "--data", data)
    assert refused.status == 4
    assert "'bob' and 'carl'" in refused.err or "'bob', 'carl'" in refused.err


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def shorten(file: Path) -> None:
    """Cut off the end of a file."""
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("harm", "reason"), [(flip, "(hash)"), (shorten, "bytes, the table's log says"), (Path.unlink, "is missing")]
)
def test_a_damaged_file_is_named_and_the_others_are_served(run: Run, archived: Path, harm, reason: str) -> None:
    """INCOMPLETE, status 3, with the file by name; nothing is said of its accounts, and everything of the others."""
    _, of_zoe = files_of(archived)
    harm(of_zoe)
    checked = run("archive", "--check", "--data", archived, "--json")
    assert (checked.status, checked.document["verdict"], checked.document["checked"]) == (3, "INCOMPLETE", 2)
    (found,) = checked.document["damaged"]
    assert (found["file"], found["events"], found["first_account"]) == (of_zoe.name, 2, "zoe")
    assert reason in found["reason"]
    told = run("archive", "--check", "--data", archived).out
    first = "INCOMPLETE: 2 data files checked, 1 of them damaged; 9 of 11 events in the 1 that are whole\n"
    assert told.startswith(first)
    assert f"damaged: {of_zoe.name}: " in told
    assert "put the damaged files back from a copy" in told
    asked = run("balances", "--from", "archive", "--data", archived, "--json")
    store = run("balances", "alice", "bob", "carl", "--data", archived, "--json").document
    assert (asked.status, asked.document["verdict"]) == (3, "INCOMPLETE")
    assert asked.document["accounts"] == store["accounts"]
    assert asked.document["certificate"]["damaged"] == [found]
    told = run("balances", "--from", "archive", "--data", archived).out
    assert told.startswith("INCOMPLETE: 9 events replayed from the archive up to position 11, of accounts that cannot ")
    assert f"damaged: {of_zoe.name}: " in told
    assert "; 2 events were written to it, of account zoe\n" in told
    assert run("balances", "alice", "--from", "archive", "--data", archived).status == 0
    assert run("history", "zoe", "--from", "archive", "--data", archived).status == 3
    rebuilt = run("rebuild", "--from", "archive", "--promote", "--data", archived, "--json")
    assert (rebuilt.status, rebuilt.document["verdict"], rebuilt.document["promoted"]) == (3, "INCOMPLETE", False)
    assert rebuilt.document["certificate"]["damaged"] == [found]
    refused = run("generations", "promote", rebuilt.document["generation"], "--data", archived)
    assert refused.status == 4
    assert f"withheld are the accounts of damaged files, 'zoe' to 'zoe' ({of_zoe.name}); see" in refused.err
    for more in ((), ("--compact",), ("--vacuum", "--older-than", "0")):
        appended = run("archive", *more, "--data", archived, "--json")
        assert (appended.status, appended.document["verdict"]) == (3, "INCOMPLETE")
        assert of_zoe.name in appended.document["error"]["what"]


def test_a_log_that_lost_its_newest_entry_is_noticed(run: Run, archived: Path) -> None:
    """An older table is no answer: INCOMPLETE, status 3, for every command that reads it or adds to it."""
    log = sorted((archived / "archive" / "_delta_log").glob("*.json"))
    log[-1].unlink()
    for words in (
        ("archive", "--check"),
        ("archive",),
        ("rebuild", *FROM),
        ("balances", *FROM),
        ("history", "bob", *FROM),
    ):
        said = run(*words, "--data", archived)
        assert said.status == 3
        assert "lost its newest entries: its newest version is 1, and it had 2" in said.err


def test_a_lost_archive_is_not_made_again_by_itself(run: Run, archived: Path) -> None:
    """Where an archive was and is gone, that is said; once what remembers it is gone too, it is made anew."""
    shutil.rmtree(archived / "archive")
    said = run("archive", "--data", archived)
    assert said.status == 3
    assert "the archive is gone, and it was there" in said.err
    (archived / "archive.json").unlink()
    assert run("archive", "--data", archived, "--json").document["appended"] == 11


def test_no_archive_is_bad_usage_and_leaves_nothing(run: Run, data: Path) -> None:
    """Reading makes no archive; the answer says how to make one."""
    reading = (("rebuild",), ("balances",), ("history", "alice"), ("graph", "alice-1"))
    for words in (("archive", "--check"), *((*each, "--from", "archive") for each in reading)):
        for more in ((), ("--archive", "nowhere")):
            said = run(*words, *more, "--data", data)
            assert (said.status, said.out) == (2, "")
            assert "there is no archive" in said.err
            assert "`ledger-replay archive`" in said.err
    assert not Path("nowhere").exists()
    assert not (data / "archive").exists()
    said = run("archive", "--data", "empty")
    assert said.status == 2
    assert not Path("empty").exists()


def test_the_archive_of_another_ledger_is_refused(run: Run, archived: Path) -> None:
    """It is neither added to, rebuilt from, asked nor exported: status 4, and nothing is written."""
    other = archived.with_name("other")
    with ledger_of(other) as ledger:
        ledger.open("alice", effective_at=START)
    place = archived / "archive"
    before = sorted(place.rglob("*"))
    asking = (("balances",), ("history", "alice"), ("graph", "alice-1"), ("export", "events", "lines.jsonl"))
    for words in (("archive",), *((*each, *FROM) for each in (("rebuild",), *asking))):
        said = run(*words, "--archive", place, "--data", other, "--json")
        assert (said.status, said.document["verdict"]) == (4, "REFUSED")
        assert "the archive is of another" in said.document["error"]["what"]
        assert "--archive" in said.document["error"]["next_step"]
    assert sorted(place.rglob("*")) == before
    assert run("generations", "--data", other, "--json").document["generations"] == []
    assert not Path("lines.jsonl").exists()


def test_a_hole_is_held_back_and_taken_in_once_mended(run: Run, data: Path) -> None:
    """INCOMPLETE, status 3, with the account by name, from the archive as from the store; then COMPLETE."""
    connection = sqlite3.connect(data / "ledger.db")
    where = "WHERE originator_id = 'alice' AND originator_version = 2"
    lost = connection.execute(f"SELECT * FROM stored_events {where}").fetchone()
    connection.close()
    damage(data, f"DELETE FROM stored_events {where}")
    said = run("archive", "--data", data, "--json")
    assert (said.status, said.document["verdict"], said.document["appended"]) == (3, "INCOMPLETE", 6)
    assert [(each["account_id"], each["reason"]) for each in said.document["parked"]] == [("alice", "version_gap")]
    told = run("archive", "--data", data).out
    assert "held back: alice from version 2, version_gap" in told
    checked = run("archive", "--check", "--data", data, "--json")
    assert (checked.status, checked.document["damaged"], checked.document["miscounted"]) == (3, [], [])
    rebuilt = run("rebuild", "--from", "archive", "--data", data, "--json").document["certificate"]
    store = run("rebuild", "--data", data, "--json").document["certificate"]
    assert (rebuilt["digest"], rebuilt["parked"]) == (store["digest"], store["parked"])
    connection = sqlite3.connect(data / "ledger.db")
    with connection:
        connection.execute(f"INSERT INTO stored_events VALUES ({', '.join('?' * len(lost))})", lost)
    connection.close()
    said = run("archive", "--data", data, "--json").document
    assert (said["verdict"], said["appended"], said["parked"]) == ("COMPLETE", 3, [])


def grown_old(file: Path) -> None:
    """Let a file be of the day before yesterday."""
    time = file.stat().st_mtime - 48 * 3600
    os.utime(file, (time, time))


def test_vacuum_keeps_what_a_certificate_is_about(run: Run, archived: Path) -> None:
    """Of the files that a compaction replaced, those of a kept generation's version stay; an orphan goes."""
    for _ in range(2):
        run("rebuild", "--from", "archive", "--promote", "--data", archived)
    certified = files_of(archived)
    with ledger_of(archived) as ledger:
        ledger.credit("zoe", "zoe-2", 5, effective_at=START)
    run("archive", "--data", archived)
    run("archive", "--compact", "--data", archived)
    orphan = archived / "archive" / f"{'0' * 40}.parquet"
    orphan.write_bytes(b"left by a run that was killed")
    (of_three,) = set(files_of(archived)[:-2]) - set(certified)
    grown_old(orphan)
    young = run("archive", "--vacuum", "--data", archived, "--json").document
    assert (young["deleted"], young["freed_bytes"], young["dry_run"]) == ([], 0, False)
    reasons = {each["file"]: (each["reason"], each["generations"]) for each in young["kept"]}
    by_age = dict.fromkeys([orphan.name, of_three.name], ("retention", []))
    assert reasons == {file.name: ("certificate", [1, 2]) for file in certified} | by_age
    told = run("archive", "--vacuum", "--data", archived).out
    assert re.search(r"\nkept: 2 unused data files \([\d.]+ kB\), not older than 168 hours \(--older-than\)\n", told)
    assert re.search(r"\nkept: 2 unused .*, which the certificate of generations 1, 2 is about\n", told)
    everything = sorted(path.name for path in (archived / "archive").rglob("*"))
    sizes = orphan.stat().st_size + of_three.stat().st_size
    planned = run("archive", "--vacuum", "--older-than", "0", "--dry-run", "--data", archived, "--json").document
    assert sorted(path.name for path in (archived / "archive").rglob("*")) == everything
    assert (planned["verdict"], planned["dry_run"], planned["freed_bytes"]) == ("OK", True, sizes)
    assert "would be deleted" in run("archive", "--vacuum", "--older-than", "0", "--dry-run", "--data", archived).out
    said = run("archive", "--vacuum", "--older-than", "0", "--data", archived, "--json").document
    for name in ("deleted", "freed_bytes", "kept"):
        assert said[name] == planned[name]
    assert sorted(said["deleted"]) == sorted([orphan.name, of_three.name])
    assert set(certified) < set(files_of(archived))
    words = ("archive", "--vacuum", "--older-than", "0", "--now", NOW, "--data", archived, "--json")
    said = run(*words).document
    assert said["deleted"] == []
    assert run(*words).document == said, "a vacuum that finds nothing leaves the table as it is"
    assert run("archive", "--check", "--data", archived, "--json").document["verdict"] == "COMPLETE"
    damage(archived, "DELETE FROM ledger_live")
    damage(archived, "DELETE FROM ledger_generations")
    said = run("archive", "--vacuum", "--older-than", "0", "--data", archived)
    assert re.search(r"\n2 data files \([\d.]+ kB\) deleted that nobody needs any more\n$", said.out)
    assert len(files_of(archived)) == 1


def test_a_certificate_of_a_version_that_is_gone_does_not_stop_a_vacuum(run: Run, archived: Path) -> None:
    """A generation from another archive, with a version that this one never had, keeps nothing."""
    for _ in range(3):
        run("archive", "--data", archived)
    run("rebuild", "--from", "archive", "--data", archived)
    shutil.rmtree(archived / "archive")
    (archived / "archive.json").unlink()
    run("archive", "--data", archived)
    orphan = archived / "archive" / f"{'0' * 40}.parquet"
    orphan.write_bytes(b"left by a run that was killed")
    young = run("archive", "--vacuum", "--older-than", "0", "--data", archived, "--json").document
    kept = {"file": orphan.name, "bytes": orphan.stat().st_size, "reason": "recent", "generations": []}
    assert (young["deleted"], young["kept"]) == ([], [kept])
    told = run("archive", "--vacuum", "--older-than", "0", "--data", archived).out
    assert re.search(r"\nkept: 1 unused data file .*, written in the last 24 hours and not committed", told)
    grown_old(orphan)
    said = run("archive", "--vacuum", "--older-than", "0", "--data", archived, "--json")
    assert (said.status, said.document["deleted"]) == (0, [orphan.name])
