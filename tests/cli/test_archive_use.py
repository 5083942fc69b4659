"""The archive in use: what it says it holds, bringing lost events back from it, and answers beside a broken ledger."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.cli.conftest import NOW, START, Run, damage, ledger_of

FROM = ("--from", "archive")


def test_status_says_what_the_archive_holds(run: Run, archived: Path) -> None:
    """Files, bytes, events, accounts, position, watermark, how far the store is, and which generations need it."""
    for words in ((), ("--promote",)):
        run("rebuild", *FROM, *words, "--data", archived)
    with ledger_of(archived) as ledger:
        ledger.credit("zoe", "zoe-2", 5, effective_at=START)
    said = run("archive", "--status", "--data", archived, "--json")
    files = list((archived / "archive").glob("*.parquet"))
    assert said.status == 0
    expected = {
        "verdict": "COMPLETE",
        "files": 2,
        "bytes": sum(file.stat().st_size for file in files),
        "events": 11,
        "accounts": 4,
        "source": "store",
        "topic": None,
        "position": 11,
        "store_position": 12,
        "table_version": 2,
        "watermark": "2026-05-01T00:00:00.000000Z",
        "generations": [
            {"generation": 1, "table_version": 2, "is_live": False},
            {"generation": 2, "table_version": 2, "is_live": True},
        ],
        "parked": [],
        "poison": [],
        "unread": [],
    }
    assert {name: value for name, value in said.document.items() if name != "ledger_id"} == expected
    told = run("archive", "--status", "--data", archived).out.splitlines()
    assert told[0].startswith("COMPLETE: the archive holds 11 events of 4 accounts in 2 data files (")
    assert told[1:] == [
        "it is at position 11 of the store; the watermark is 2026-05-01T00:00:00.000000Z",
        "the store's head is 12, 1 position further: `archive` brings them in",
        "needed by the certificate of generations 1 (table version 2), 2 (table version 2)",
    ]
    checked = run("archive", "--check", "--data", archived, "--json").document
    assert checked.items() >= expected.items()
    assert "the store's head is 12" in run("archive", "--check", "--data", archived).out


def test_status_needs_no_ledger_and_reads_no_data_file(run: Run, archived: Path) -> None:
    """Beside no ledger the archive speaks of itself alone, whatever became of its files; where none is, status 2."""
    for file in (archived / "archive").glob("*.parquet"):
        file.unlink()
    words = ("archive", "--status", "--archive", archived / "archive", "--data", "nowhere", "--json")
    said = run(*words)
    assert (said.status, said.document["events"], said.document["store_position"]) == (0, 11, None)
    assert said.document["generations"] == []
    assert not Path("nowhere").exists()
    none = run("archive", "--status", "--archive", "no-archive", "--data", archived)
    assert none.status == 2
    assert "there is no archive" in none.err


def test_status_beside_another_ledger_does_not_compare(run: Run, archived: Path) -> None:
    """What is not the archive's own ledger says nothing of how far it lags."""
    with ledger_of(archived.with_name("other")) as ledger:
        ledger.open("alice", effective_at=START)
    words = ("archive", "--status", "--archive", archived / "archive", "--data", archived.with_name("other"))
    said = run(*words, "--json")
    assert (said.status, said.document["store_position"]) == (0, None)
    assert "the ledger here is another than the archive's" in said.err


def test_a_lost_tail_comes_back_from_the_archive(run: Run, archived: Path) -> None:
    """What the store has lost is exported from the archive, imported where the chain proves it, and all is whole."""
    whole = run("balances", "--data", archived, "--json").document["certificate"]["digest"]
    damage(archived, "DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version > 2")
    damage(archived, "DELETE FROM stored_events WHERE originator_id = 'bob' AND originator_version = 2")
    assert run("verify", "--data", archived, "--now", NOW).status == 3
    said = run("export", "events", "lines.jsonl", *FROM, "--data", archived, "--json")
    assert (said.status, said.document["verdict"], said.document["events"]) == (0, "OK", 11)
    back = run("import", "events", "lines.jsonl", "--data", archived, "--json")
    assert (back.status, back.document["restored"], back.document["rejected"]) == (0, 3, 0)
    found = run("balances", "--data", archived, "--json")
    assert (found.status, found.document["certificate"]["digest"]) == (0, whole)
    run("import", "events", "lines.jsonl", "--data", "anew")
    assert run("balances", "--data", "anew", "--json").document["certificate"]["digest"] == whole


def test_an_export_of_the_archive_is_the_bytes_of_the_store(run: Run, archived: Path) -> None:
    """Line by line they are those that an export of the store has, but in the order of the accounts."""
    with ledger_of(archived) as ledger:
        ledger.credit("zoe", "zoe-2", 5, metadata={"b": 1.5, "a": ["ü", None]}, effective_at=START)
        ledger.lock("zoe", reason="why", effective_at=START)
    run("archive", "--compact", "--data", archived)
    run("export", "events", "store.jsonl", "--data", archived)
    run("export", "events", "archive.jsonl", *FROM, "--data", archived)
    lines = Path("archive.jsonl").read_bytes().splitlines()
    assert sorted(lines) == sorted(Path("store.jsonl").read_bytes().splitlines())
    keys = [(each["account_id"], each["version"]) for each in map(msgspec.json.decode, lines)]
    assert keys == sorted(keys)


def test_an_export_leaves_out_what_is_damaged_or_not_proved(run: Run, archived: Path) -> None:
    """Accounts of a damaged file, and those whose bytes do not come out as they were, are named, with status 3."""
    with ledger_of(archived) as ledger:
        ledger.open("ida", effective_at=START)
    line = run("export", "events", "-", "--data", archived).out.splitlines()[-1]
    other = msgspec.json.decode(line) | {"account_id": "ned", "event_id": "ned:1", "new_field": 1}
    Path("new.jsonl").write_bytes(msgspec.json.encode(other) + b"\n")
    assert run("import", "events", "new.jsonl", "--data", archived, "--json").document["imported"] == 1
    run("archive", "--data", archived)
    (of_zoe,) = [path for path in (archived / "archive").glob("*.parquet") if b"zoe" in path.read_bytes()]
    of_zoe.unlink()
    said = run("export", "events", "lines.jsonl", *FROM, "--data", archived, "--json")
    assert (said.status, said.document["verdict"], said.document["unproved"]) == (3, "INCOMPLETE", ["ned"])
    assert [each["file"] for each in said.document["damaged"]] == [of_zoe.name]
    ids = {msgspec.json.decode(line)["account_id"] for line in Path("lines.jsonl").read_bytes().splitlines()}
    assert ids == {"alice", "bob", "carl", "ida"}
    piped = run("export", "events", "-", *FROM, "--data", archived)
    assert piped.status == 3
    assert "left out: ned, since its events do not come out as they were appended" in piped.err
    assert f"damaged: {of_zoe.name}" in piped.err


def test_an_export_leaves_out_an_account_that_is_held_back(run: Run, data: Path) -> None:
    """The archive has the first events of an account that is parked, and they are not exported as if they were all."""
    damage(data, "DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version = 4")
    assert run("archive", "--data", data, "--json").document["events"] == 8
    said = run("export", "events", "lines.jsonl", *FROM, "--data", data, "--json")
    assert (said.status, said.document["events"]) == (3, 5)
    assert [each["account_id"] for each in said.document["parked"]] == ["alice"]
    assert said.document["unproved"] == []


@pytest.mark.parametrize("words", [("balances",), ("history", "alice"), ("graph", "alice-2"), ("archive", "--status")])
def test_the_archive_answers_beside_a_ledger_that_is_no_database(
    run: Run, archived: Path, words: tuple[str, ...]
) -> None:
    """That the ledger cannot be read is said, and is no reason for the archive to be silent."""
    for file in archived.glob("ledger.db*"):
        file.write_bytes(b"no database any more " * 1000)
    said = run(*words, *(FROM if words[0] != "archive" else ()), "--data", archived)
    assert said.status == 0
    assert said.err.startswith("note: the ledger here cannot be read, so the archive is held against nothing: ")
    assert said.err.count("\n") == 1


ROWS_ALONE = [("balances", "--format", "csv"), ("history", "alice", "--format", "csv")]


@pytest.mark.parametrize("words", [*ROWS_ALONE, ("graph", "alice-2", "--format", "dot")])
@pytest.mark.parametrize("to_file", [False, True])
def test_rows_alone_do_not_hide_who_is_withheld(run: Run, data: Path, words: tuple[str, ...], to_file: bool) -> None:
    """Where an answer goes as rows, what they leave out and why is on standard error, and the status is 3."""
    damage(data, "DELETE FROM stored_events WHERE originator_id = 'alice' AND originator_version = 4")
    said = run(*words, *(("--output", "rows") if to_file else ()), "--data", data, "--now", NOW)
    assert said.status == 3
    assert "verdict INCOMPLETE\n" in said.err
    assert "not certified: alice from version 4, head_mismatch: the stream ends at version 3" in said.err
    assert "not certified" not in said.out


def test_rows_alone_of_a_whole_answer_stay_quiet(run: Run, data: Path) -> None:
    """A CSV has the one line of its verdict beside it, a file only where it was written."""
    assert run("balances", "--format", "csv", "--data", data).err == "verdict COMPLETE\n"
    assert run("balances", "--output", "rows.csv", "--data", data).err == "written to rows.csv\n"
    assert run("graph", "alice-2", "--format", "dot", "--data", data).err == ""


def test_a_moment_past_the_watermark_says_so_beside_the_rows(run: Run, archived: Path) -> None:
    """A table without rows does not look like a ledger without accounts."""
    said = run("balances", *FROM, "--as-of", "2026-06-01", "--format", "csv", "--data", archived)
    assert (said.status, said.out.count("\n")) == (3, 1)
    assert "INCOMPLETE: no balance is given for what happened up to 2026-06-01" in said.err
