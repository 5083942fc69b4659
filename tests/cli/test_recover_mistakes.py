"""Mistakes that somebody makes in a first recovery: what is said before harm is done, and where the way goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planned import change, whole_plan

from console.recover_plan import more_changes, plan_lines, shown_changes
from ledger.store import Store
from replay.recovery.failpoints import set_failpoints
from schemas.errors import StoreError
from tests.cli.conftest import NOW, Run, damage
from tests.cli.recover_scenes import DAMAGED, approved_plan, foreign_table, import_damaged, recover, rows_of

LIVE = """
[live]
url = "{url}"
table = "{table}"
columns = {{ account_id = "owner", balance = "coins", frozen_amount = "held", status = "state" }}
settle_seconds = 0
looks_min = 1
"""
OPEN = '[live.statuses]\nOPEN = "active"\n'
LATER = "2026-05-01T01:00:00Z"


@pytest.fixture
def theirs(data: Path, tmp_path: Path) -> str:
    """A damaged live table of another system, which [live] names."""
    url = f"sqlite:///{tmp_path}/theirs.db"
    foreign_table(url).dispose()
    (data / "ledger-replay.toml").write_text(LIVE.format(url=url, table="wallets") + OPEN)
    return url


@pytest.fixture
def damaged(run: Run, data: Path, tmp_path: Path) -> Path:
    """A ledger whose imported live rows are damaged."""
    import_damaged(run, data, tmp_path)
    return data


def part_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """One part of a check."""
    return next(each for each in document["parts"] if each["name"] == name)


def fail_at(point: str) -> None:
    """Let the next run fail at a point; whoever calls it clears that."""

    def reached(name: str) -> None:
        if name == point:
            raise StoreError("the database went away", next_step="bring it back")

    set_failpoints(reached)


def waiting_run(run: Run, data: Path, folder: Path) -> tuple[Path, str]:
    """A run that did what it could and waits for a person, with its plan."""
    plan = approved_plan(run, data, folder)
    said = recover(run, data, "apply", plan, "--execute", "--json")
    assert said.document["status"] == "manual_intervention_required"
    return plan, said.document["run"]


def test_the_table_of_live_is_looked_at_unasked(run: Run, data: Path, theirs: str, tmp_path: Path) -> None:
    """Where [live] is configured and nothing was imported, check and plan are of it, though our own rows are right."""
    assert run("rebuild", "--promote", "--data", data).status == 0
    check = recover(run, data, "check", "--json")
    assert (check.status, check.document["loss"]["drifted"]) == (1, 3)
    said = recover(run, data, "plan", "--output", tmp_path / "p.json", "--json").document
    assert (said["plan"]["target"]["kind"], said["plan"]["target"]["table"]) == ("foreign", "wallets")
    assert recover(run, data, "check", "--own").status == 0
    (data / "ledger-replay.toml").write_text(LIVE.format(url=theirs, table="gone"))
    broken = recover(run, data, "check", "--json")
    live = part_of(broken.document, "live")
    assert (broken.status, broken.document["severity"]) == (1, "minor")
    assert "no such table" in live["words"]
    assert "[live] table" in live["next_step"]
    assert "backup" not in live["next_step"]


def test_imported_rows_and_a_live_table(run: Run, damaged: Path, theirs: str, tmp_path: Path) -> None:
    """Where there are both, each command says which it took and how the other is named."""
    live = part_of(recover(run, damaged, "check", "--json").document, "live")
    assert live["words"].endswith("these are the imported rows, and --live looks at the table of [live]")
    assert "--live plans for the table" in recover(run, damaged, "plan", "--output", tmp_path / "p.json").out
    assert "recover plan --live" in run("accounts", "check", "--data", damaged, "--now", NOW).out
    assert theirs.startswith("sqlite")


def test_rows_that_cannot_be_read_are_not_corrected(run: Run, data: Path, theirs: str) -> None:
    """A status without its mapping is the reason that is given, and no plan is promised to correct it."""
    (data / "ledger-replay.toml").write_text(LIVE.format(url=theirs, table="wallets"))
    live = part_of(recover(run, data, "check", "--json").document, "live")
    assert "OPEN" in live["words"]
    assert "statuses" in live["next_step"]


def test_an_old_run_is_not_given_up_unnamed(run: Run, damaged: Path, tmp_path: Path) -> None:
    """What a run did stands once it waits for a person; without its name nothing of it is put back."""
    _, name = waiting_run(run, damaged, tmp_path)
    after = rows_of(damaged / "ledger.db")
    said = recover(run, damaged, "abort", "--reason", "r")
    assert (said.status, "half done" in said.err) == (2, True)
    assert rows_of(damaged / "ledger.db") == after
    status = recover(run, damaged, "status").out
    assert "next: plan again for what is left; this run stays as it is" in status
    assert "resume" not in status
    again = tmp_path / "again.json"
    assert recover(run, damaged, "plan", "--output", again).status == 1
    assert recover(run, damaged, "decide", again, "--all", "--accept", "--reason", "r").status == 0
    assert recover(run, damaged, "approve", again, "--reason", "seen", now=LATER).status == 0
    assert recover(run, damaged, "apply", again, "--execute", now=LATER).status == 0
    assert recover(run, damaged, "resume", now=LATER).status == 2
    named = recover(run, damaged, "abort", name, "--reason", "r", now=LATER)
    assert "put back 2 live rows" in named.err


def test_a_half_done_recovery_is_never_ok(run: Run, damaged: Path, tmp_path: Path) -> None:
    """The check has a part that names the run, the fence and who raised it, and what ends it."""
    assert part_of(recover(run, damaged, "check", "--json").document, "recovery")["state"] == "ok"
    plan = approved_plan(run, damaged, tmp_path)
    fail_at("correct:begun")
    try:
        said = recover(run, damaged, "apply", plan, "--execute", "--by", "olga")
    finally:
        set_failpoints(None)
    assert said.status == 5
    found = recover(run, damaged, "check", "--own", "--json").document
    part = part_of(found, "recovery")
    assert (part["state"], part["details"]["runs"][0]["status"]) == ("degraded", "failed")
    assert "writers are fenced since" in part["words"]
    assert "by olga" in part["words"]
    assert "recover resume" in part["next_step"]
    assert found["severity"] != "ok"


def test_a_folder_without_a_ledger_is_bad_usage(run: Run, data: Path, tmp_path: Path) -> None:
    """A slip of the pen is no disaster; where an archive could bring the ledger back it is one."""
    nowhere = tmp_path / "nope"
    said = recover(run, nowhere, "check")
    assert (said.status, "there is no ledger" in said.err) == (2, True)
    assert not nowhere.exists()
    assert run("archive", "--data", data, "--now", NOW).status == 0
    (data / "ledger.db").unlink()
    assert recover(run, data, "check", "--json").document["parts"][0]["state"] == "lost"


def test_an_approver_is_another_person_also_later(run: Run, damaged: Path, tmp_path: Path) -> None:
    """approver_differs holds for what was approved before it stood there, however the name is written."""
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan, "--by", "Ada Lee").status == 1
    assert recover(run, damaged, "approve", plan, "--reason", "seen", "--by", " ada  lee ").status == 0
    (damaged / "ledger-replay.toml").write_text("[recover]\napprover_differs = true\n")
    assert recover(run, damaged, "approve", plan, "--reason", "seen", "--by", "ADA LEE ").status == 4
    assert "approver_differs" in recover(run, damaged, "apply", plan, "--json").document["refused"]
    said = recover(run, damaged, "apply", plan, "--execute")
    assert (said.status, "approver_differs" in said.err) == (4, True)
    assert rows_of(damaged / "ledger.db") == DAMAGED
    assert recover(run, damaged, "approve", plan, "--reason", "seen", "--by", "eve").status == 0
    assert recover(run, damaged, "apply", plan, "--json").document["refused"] is None


def test_a_plan_with_decisions_is_not_written_over(run: Run, damaged: Path, tmp_path: Path) -> None:
    """What somebody decided or approved stays, unless --overwrite says otherwise."""
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    assert recover(run, damaged, "decide", plan, "--all", "--accept", "--reason", "r").status == 0
    decided = plan.read_bytes()
    said = recover(run, damaged, "plan", "--output", plan)
    assert (said.status, "--overwrite" in said.err, plan.read_bytes()) == (2, True, decided)
    assert recover(run, damaged, "plan", "--output", plan, "--overwrite").status == 1
    assert plan.read_bytes() != decided
    assert recover(run, damaged, "approve", plan, "--reason", "seen").status == 0
    assert recover(run, damaged, "plan", "--output", plan).status == 2


def test_what_is_no_export_heals_nothing(run: Run, damaged: Path, tmp_path: Path) -> None:
    """The file is refused by name, and no plan is left behind."""
    plan, other = tmp_path / "plan.json", tmp_path / "other.csv"
    other.write_text("account_id,version\nalice,1\n")
    said = recover(run, damaged, "plan", "--output", plan, "--heal-from", other)
    assert (said.status, "no export of events" in said.err, plan.exists()) == (2, True, False)


def test_a_lost_store_comes_back_by_an_import(run: Run, damaged: Path, tmp_path: Path) -> None:
    """A plan that heals everything is refused while nothing is whole, with the command that brings it back."""
    export, plan = tmp_path / "events.jsonl", tmp_path / "plan.json"
    assert run("export", "events", export, "--data", damaged).status == 0
    damage(damaged, "DELETE FROM stored_events WHERE originator_version = 1")
    recover(run, damaged, "plan", "--output", plan, "--heal-from", export)
    assert recover(run, damaged, "approve", plan, "--reason", "seen").status == 0
    assert f"import events {export}" in recover(run, damaged, "apply", plan).out
    said = recover(run, damaged, "apply", plan, "--execute")
    assert (said.status, f"import events {export}" in said.err) == (4, True)


def test_a_run_that_waits_is_not_approved_again(run: Run, damaged: Path, tmp_path: Path) -> None:
    """An approval would change nothing of it, so it is refused with the way on."""
    plan, _ = waiting_run(run, damaged, tmp_path)
    said = recover(run, damaged, "approve", plan, "--reason", "again")
    assert (said.status, "plan again" in said.err) == (4, True)


def test_another_ledger_is_said_first(run: Run, damaged: Path, tmp_path: Path) -> None:
    """A plan that nobody approved is of another ledger above all."""
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    Store.at(tmp_path / "other").close()
    for words in ([], ["--execute"], ["--own"]):
        assert "another ledger" in recover(run, tmp_path / "other", "apply", plan, *words).err


def test_an_adjustment_says_what_it_appends(run: Run, damaged: Path, tmp_path: Path) -> None:
    """The points and the account stand in what the decision and the approval say."""
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    words = "an event of +13 points is appended to bob, which has 113 then"
    assert words in recover(run, damaged, "decide", plan, "bob", "--adjust", "--reason", "counted").out
    assert words in recover(run, damaged, "approve", plan, "--reason", "seen").out


def test_many_changes_are_not_all_shown() -> None:
    """People see the first twenty and how many there are; the table of the answer has all."""
    changes = [change(account_id=f"a{number:02}") for number in range(25)]
    made = whole_plan(changes=changes)
    frames = shown_changes(made)
    assert (frames["table"].height, frames["shown"].height) == (25, 20)  # type: ignore[union-attr]
    assert more_changes(made) == ["... and 5 more changes: they are in the file"]
    assert len(plan_lines(made)) < 25
    few = whole_plan(changes=changes[:20])
    assert (shown_changes(few)["shown"], more_changes(few)) == (None, [])
