"""`audit`: what is shown of the trail and in which form, what verifying says, and what the exit status stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_trails import AT, cut_off, edit, entry, record, rows_of, set_head

from ledger import Store
from ledger.audit_heads import HeadFile, keep
from tests.cli.conftest import Run

HEADS = "heads.jsonl"


@pytest.fixture
def trail(data: Path) -> Path:
    """A ledger whose trail has three entries of one run and one of nobody's."""
    store = Store.at(data)
    record(store, entry(1), entry(2), entry(3), entry(4, run=None, account_id=None, action="plan.approved"))
    store.close()
    return data


@pytest.fixture
def kept(trail: Path) -> Path:
    """The ledger with a file outside that has all heads but the last."""
    (trail / "ledger-replay.toml").write_text(f'[audit]\nfile = "../{HEADS}"\n')
    store = Store.at(trail)
    keep(store, [HeadFile(trail.parent / HEADS, store.ledger_id)], AT)
    record(store, entry(5))
    store.close()
    return trail


def test_entries_are_shown_to_people(run: Run, trail: Path) -> None:
    """The table says who did what when; the end of long details is left away, and so are the hashes."""
    store = Store.at(trail)
    record(store, entry(5, details={"accounts": ["a" * 200]}))
    store.close()
    said = run("audit", "show", "--data", trail)
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "5 entries of 5 in the audit trail"
    assert lines[2].split() == ["number", "at", "action", "account_id", "by", "run", "details"]
    assert lines[3].split() == [
        "1",
        "2026-05-01T03:00:01.000000Z",
        "account.corrected",
        "acc-1",
        "eve",
        "recovery-1",
        '{"from":0,"to":1}',
    ]
    assert lines[7].endswith("aaa...")
    assert len(lines[7]) < 220


def test_entries_are_shown_whole_as_json(run: Run, trail: Path) -> None:
    """The JSON document has every field of every entry, the details as they are, and the head."""
    document = run("audit", "show", "--data", trail, "--json").document
    assert document["verdict"] == "OK"
    assert [each["number"] for each in document["entries"]] == [1, 2, 3, 4]
    first, last = document["entries"][0], document["entries"][-1]
    assert first["details"] == {"from": 0, "to": 1}
    assert first["at"] == "2026-05-01T03:00:01.000000Z"
    assert document["entries"][1]["previous"] == first["hash"]
    assert document["head"] == {"number": 4, "hash": last["hash"]}


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--run", "recovery-1"), [1, 2, 3]),
        (("--account", "acc-2"), [2]),
        (("--action", "plan.approved", "--action", "run.started"), [4]),
        (("--last", "2"), [3, 4]),
        (("--run", "recovery-1", "--last", "1"), [3]),
        (("--run", "no-such"), []),
    ],
)
def test_a_part_is_shown(run: Run, trail: Path, words: tuple[str, ...], numbers: list[int]) -> None:
    """Run, account, action and a number of last entries narrow what is shown."""
    said = run("audit", "show", "--data", trail, "--json", *words)
    assert said.status == 0
    assert [each["number"] for each in said.document["entries"]] == numbers


def test_entries_are_written_as_a_table(run: Run, trail: Path, tmp_path: Path) -> None:
    """CSV has a line an entry, with the hashes."""
    file = tmp_path / "trail.csv"
    assert run("audit", "show", "--data", trail, "--output", file).status == 0
    lines = file.read_text().splitlines()
    assert lines[0] == "number,at,by,action,run,account_id,details,previous,hash"
    assert len(lines) == 5


def test_a_trail_without_an_entry_is_clean(run: Run, data: Path) -> None:
    """Nothing was done yet, so there is nothing that could be bad."""
    said = run("audit", "verify", "--data", data, "--json")
    assert said.status == 0
    document = said.document
    assert (document["verdict"], document["entries"], document["head"], document["first_bad"]) == (
        "CLEAN",
        0,
        None,
        None,
    )
    assert run("audit", "show", "--data", data).out == "0 entries of 0 in the audit trail\n"


def test_a_whole_trail_is_clean(run: Run, trail: Path) -> None:
    """The head is told, and that nothing outside could show a tail that was cut off with it."""
    document = run("audit", "verify", "--data", trail, "--json").document
    assert (document["verdict"], document["entries"], document["first_bad"]) == ("CLEAN", 4, None)
    assert document["outside"] == []
    said = run("audit", "verify", "--data", trail)
    assert said.status == 0
    assert f"the audit trail is whole: 4 entries; the last is {document['head']['hash']}" in said.out
    assert "no heads are kept outside the database" in said.out


def test_a_changed_trail_has_a_first_bad_entry(run: Run, trail: Path) -> None:
    """FINDINGS names the entry and how it is known."""
    store = Store.at(trail)
    edit(store, 3, by="mallory")
    store.close()
    said = run("audit", "verify", "--data", trail, "--json")
    assert said.status == 1
    document = said.document
    assert (document["verdict"], document["entries"], document["head"]["number"]) == ("FINDINGS", 4, 4)
    assert document["first_bad"] == {"number": 3, "reason": "it was changed: what it says does not give its hash"}
    said = run("audit", "verify", "--data", trail)
    assert said.status == 1
    assert "entry 3 is the first that is bad, of 4 entries\nentry 3: it was changed" in said.out


def test_an_entry_that_cannot_be_read_is_refused(run: Run, trail: Path) -> None:
    """Damage is told without a traceback, by both commands, and what is not damaged can still be shown."""
    store = Store.at(trail)
    edit(store, 2, details="{")
    store.close()
    said = run("audit", "show", "--data", trail)
    assert said.status == 4
    assert "entry 2" in said.err
    assert run("audit", "show", "--data", trail, "--last", 2).status == 0
    assert run("audit", "verify", "--data", trail).status == 1


def test_a_file_outside_that_is_behind_is_no_damage(run: Run, kept: Path) -> None:
    """It is said how far the file is, and the verdict is CLEAN."""
    said = run("audit", "verify", "--data", kept, "--json")
    assert said.status == 0
    document = said.document
    (outside,) = document["outside"]
    assert (outside["heads"], outside["last"], outside["behind"]) == (4, 4, 1)
    assert outside["place"].endswith(HEADS)
    assert "the last of entry 4: 1 behind, which is no damage" in run("audit", "verify", "--data", kept).out


def test_a_file_outside_shows_a_cut_tail(run: Run, kept: Path) -> None:
    """A tail that was cut off with its head is a finding only because the file knows of it."""
    store = Store.at(kept)
    cut_off(store, 3)
    set_head(store, 2, rows_of(store)[1].hash)
    store.close()
    said = run("audit", "verify", "--data", kept, "--json")
    assert said.status == 1
    assert said.document["first_bad"] == {"number": 3, "reason": "it is missing: a head kept elsewhere names entry 4"}
    assert said.document["outside"][0]["behind"] == 0


def test_a_file_outside_that_is_not_there_yet(run: Run, kept: Path) -> None:
    """Before the first head was kept there is nothing to compare with, which is said."""
    (kept.parent / HEADS).unlink()
    said = run("audit", "verify", "--data", kept)
    assert said.status == 0
    assert "it keeps no head of this ledger yet" in said.out


def test_a_file_outside_that_is_none(run: Run, kept: Path) -> None:
    """What is no file of heads is bad usage that names the line."""
    with (kept.parent / HEADS).open("ab") as file:
        file.write(b"hello\n")
    said = run("audit", "verify", "--data", kept)
    assert said.status == 2
    assert f"{HEADS}:5" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", ["show", "verify"])
def test_without_a_ledger_there_is_nothing_to_answer(run: Run, tmp_path: Path, name: str) -> None:
    """A question does not make a ledger, and its folder stays as it was."""
    said = run("audit", name, "--data", tmp_path / "none")
    assert said.status == 2
    assert "there is no ledger" in said.err
    assert not (tmp_path / "none").exists()


def test_a_number_that_is_none(run: Run, trail: Path) -> None:
    """The last no entries are bad usage."""
    assert run("audit", "show", "--data", trail, "--last", 0).status == 2
