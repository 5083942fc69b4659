"""The demo finds everything that it planted and nothing else, and fails where it does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from console import demo as story
from console.damage import Damage, Victims
from ledger.store import Store
from tests.cli.conftest import NOW, Run

SMALL = ("demo", "--accounts", "60", "--events", "1500", "--now", NOW)


def test_demo_finds_all_and_tells_it(run: Run, tmp_path: Path) -> None:
    """Planted and found are the same; the report is a file; a second demo takes a folder of its own."""
    said = run(*SMALL, "--json")
    assert said.status == 0
    document = said.document
    assert document["verdict"] == "OK"
    keys = [
        {(each["check"], each["subject"], each["code"]) for each in document[name]} for name in ("planted", "found")
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 18
    assert document["missed"] == document["unexpected"] == document["wrong"] == []
    assert "every one was found" in Path(document["report"]).read_text()
    again = run(*SMALL, "--seed", "2")
    assert again.status == 0
    assert "What this proves" in again.out
    assert "MISSED" not in again.out
    assert sorted(path.name for path in (tmp_path / "demo-data").glob("demo-*")) == ["demo-2"]


def test_demo_fails_where_a_damage_is_not_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that is claimed and never done is missed; done and never claimed is unexpected; both fail, status 5."""
    whole = story.damage_read_model

    def silent(store: Store, victims: Victims) -> list[Damage]:
        done = whole(store, victims)
        return [msgspec.structs.replace(done[0], subject="acct-somebody balance")]

    monkeypatch.setattr(story, "damage_read_model", silent)
    said = run(*SMALL, "--json")
    assert said.status == 5
    assert said.document["verdict"] == "FAILED"
    assert [each["subject"] for each in said.document["missed"]] == ["acct-somebody balance"]
    assert len(said.document["unexpected"]) == 1


def test_demo_needs_enough_accounts(run: Run) -> None:
    """A ledger that is too small for so much bad luck is a usage error."""
    assert run("demo", "--accounts", "5", "--events", "50").status == 2
