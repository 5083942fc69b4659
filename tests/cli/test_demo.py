"""The demo finds everything that it planted and nothing else, and fails where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from console import demo as story
from console.command_demo import fresh_folder
from console.damage import Damage, Victims
from ledger.store import Store
from tests.cli.conftest import NOW, Run

SMALL = ("demo", "--accounts", "60", "--events", "1500", "--now", NOW)


def test_demo_finds_all_and_tells_it(run: Run, tmp_path: Path) -> None:
    """Planted and found are the same, and the report tells the story in a file."""
    said = run(*SMALL, "--json")
    assert said.status == 0
    document = said.document
    assert document["verdict"] == "OK"
    keys = [
        {(each["check"], each["subject"], each["code"]) for each in document[name]} for name in ("planted", "found")
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 25
    assert document["missed"] == document["unexpected"] == document["wrong"] == []
    assert "every one was found" in Path(document["report"]).read_text()
    assert [Path(file).suffix for file in document["recovery_report"]] == [".html", ".json", ".txt"]
    recovered = json.loads(Path(document["recovery_report"][1]).read_text())
    assert (recovered["verdict"], recovered["numbers"]["success_rate"], recovered["needs_person"]) == (
        "COMPLETE",
        1,
        [],
    )


def test_demo_fails_where_a_damage_is_not_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that is claimed and never done is missed; done and never claimed is unexpected; both fail, status 5."""
    whole = story.damage_read_model

    def silent(store: Store, victims: Victims) -> list[Damage]:
        done = whole(store, victims)
        return [msgspec.structs.replace(done[0], subject="acct-somebody balance")]

    monkeypatch.setattr(story, "damage_read_model", silent)
    said = run(*SMALL)
    assert said.status == 5
    assert "MISSED  acct-somebody balance" in said.out
    assert "NEVER PLANTED" in said.out
    assert "FAILED: 1 of 25 damages were missed, 1 reports were of nothing" in said.out


def test_demo_needs_enough_accounts(run: Run) -> None:
    """A ledger that is too small for so much bad luck is a usage error."""
    assert run("demo", "--accounts", "5", "--events", "50").status == 2


def test_demo_never_works_in_a_folder_that_is_in_use(tmp_path: Path) -> None:
    """An empty folder is taken as it is, any other gets a subfolder that is free."""
    assert fresh_folder(tmp_path / "new") == tmp_path / "new"
    assert fresh_folder(tmp_path) == tmp_path
    (tmp_path / "mine").write_text("")
    assert fresh_folder(tmp_path) == tmp_path / "demo-2"
    (tmp_path / "demo-2").mkdir()
    (tmp_path / "demo-2" / "ledger.db").write_text("")
    assert fresh_folder(tmp_path) == tmp_path / "demo-3"
