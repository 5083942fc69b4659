"""`recover report`: three forms of one report, each checked against the audit trail, and what gives a forgery away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, damage
from tests.cli.recover_scenes import approved_plan, import_damaged, recover

FORMS = ("html", "json", "txt")


@pytest.fixture
def reports(run: Run, data: Path, tmp_path: Path) -> dict[str, Path]:
    """The reports of a run that left one account for a person, by their ending."""
    import_damaged(run, data, tmp_path)
    plan = approved_plan(run, data, tmp_path)
    said = recover(run, data, "apply", plan, "--execute", "--yes", "--json")
    assert said.status == 1, said.err
    return {Path(file).suffix.removeprefix("."): Path(file) for file in said.document["report"]}


def test_every_form_is_what_the_trail_says(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """The three are CLEAN, and of JSON the numbers are added up again."""
    for form in FORMS:
        said = recover(run, data, "report", "verify", reports[form], "--json")
        assert (said.status, said.document["verdict"], said.document["findings"]) == (0, "CLEAN", [])
        assert said.document["is_recomputed"] == (form == "json")
        assert said.document["run"] == reports[form].stem


def test_what_it_says(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """Numbers, changes with their outcome, what is left, approvals, certificates, versions and the head are there."""
    document = json.loads(reports["json"].read_text())
    assert (document["verdict"], document["status"]) == ("FINDINGS", "manual_intervention_required")
    assert document["numbers"]["outcomes"]["corrected"] == 2
    assert {each["account_id"]: each["outcome"] for each in document["accounts"]} == {
        "alice": "corrected",
        "bob": "waiting",
        "carl": "corrected",
    }
    assert [each["account_id"] for each in document["needs_person"]] == ["bob"]
    assert [(each["by"], each["reason"]) for each in document["approvals"]] == [("eve", "seen")]
    assert document["steps"]["verify"]["certificate"]["accounts"] == 3
    assert {"ledger-replay", "Python", "polars"} < document["versions"].keys()
    entries = run("audit", "show", "--data", data, "--json").document["entries"]
    head = document["audit_head"]
    assert entries[head["number"] - 1]["hash"] == head["hash"]
    text, page = reports["txt"].read_text(), reports["html"].read_text()
    for words in ("What was wrong", "What was done", "What still needs a person", "66.67 %", document["plan"]["hash"]):
        assert words in text
        assert words in page
    shown = recover(run, data, "report")
    assert shown.status == 1
    assert "What still needs a person" in shown.out


@pytest.mark.parametrize("form", FORMS)
def test_an_edited_report_is_found(run: Run, data: Path, reports: dict[str, Path], form: str) -> None:
    """One character is enough in every form; of JSON it is said which number is not the trail's."""
    content = reports[form].read_text()
    before, after = ('"corrected": 2', '"corrected": 3') if form == "json" else ("66.67", "76.67")
    assert before in content
    reports[form].write_text(content.replace(before, after))
    said = recover(run, data, "report", "verify", reports[form], "--json")
    findings = said.document["findings"]
    assert (said.status, said.document["verdict"]) == (1, "FINDINGS")
    assert "no entry of the audit trail names this file" in findings[0]
    assert f"names other digests for {reports[form].stem}" in findings[0]
    if form == "json":
        assert findings[1:] == ["outcomes.corrected: the report says 3, the audit trail says 2"]


def test_a_number_that_never_was_is_found(run: Run, data: Path, reports: dict[str, Path], tmp_path: Path) -> None:
    """Accounts, points and the head are held against the entries, whatever the digest says."""
    document = json.loads(reports["json"].read_text())
    document["accounts"][0]["outcome"] = "already"
    document["numbers"]["balance"]["taken"] = 5
    document["audit_head"]["number"] -= 1
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(document))
    findings = recover(run, data, "report", "verify", forged, "--json").document["findings"]
    assert any("account alice: the report says already" in each for each in findings)
    assert any("balance.taken" in each for each in findings)
    assert any("has the hash" in each for each in findings)


def test_a_changed_trail_is_found(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """A report is worth nothing where the trail was changed, and it is said where."""
    damage(data, "UPDATE ledger_audit SET by = 'nobody' WHERE number = 3")
    said = recover(run, data, "report", "verify", reports["txt"], "--json")
    assert said.status == 1
    assert any("entry 3" in each for each in said.document["findings"])


def test_files_of_a_report_are_noted(run: Run, data: Path, reports: dict[str, Path], tmp_path: Path) -> None:
    """A report that is written later is in the trail too, and the first one stays valid."""
    files = [tmp_path / f"later.{form}" for form in FORMS]
    words = [word for file in files for word in ("--report", file)]
    said = recover(run, data, "report", reports["txt"].stem, "--by", "zoe", "--json", *words)
    assert said.document["report"] == [str(file) for file in files]
    for file in (*files, *reports.values()):
        assert recover(run, data, "report", "verify", file).status == 0
    last = run("audit", "show", "--data", data, "--action", "report.written", "--json").document["entries"][-1]
    assert (last["by"], len(last["details"]["files"])) == ("zoe", 3)


def test_what_is_no_report(run: Run, data: Path, reports: dict[str, Path], tmp_path: Path) -> None:
    """A file of anything is not in the trail; one that is not there is bad usage."""
    for content in (b"{}", b"[1", b"\xff", b'{"format": "ledger-replay recovery report 1", "run": 5}'):
        (tmp_path / "other.json").write_bytes(content)
        said = recover(run, data, "report", "verify", tmp_path / "other.json", "--json")
        assert (said.status, len(said.document["findings"])) == (1, 1)
    document = json.loads(reports["json"].read_text())
    for field in ("numbers", "accounts", "audit_head", "ledger_id"):
        for value in (None, 5, "\u001b[2J", [5], {"number": "x"}, [{"account_id": [], "outcome": {}}]):
            (tmp_path / "other.json").write_text(json.dumps(document | {field: value}))
            said = recover(run, data, "report", "verify", tmp_path / "other.json")
            assert (said.status, said.err, "\x1b" in said.out) == (1, "", False)
    assert recover(run, data, "report", "verify", tmp_path / "none.json").status == 2
