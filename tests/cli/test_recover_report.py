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
        assert findings[1:] == [
            "outcomes.corrected: the report says 3, the audit trail says 2",
            "step correct: the report has other results than the audit trail",
        ]


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


def test_a_trail_that_was_cut_with_its_head_is_found_by_the_report(
    run: Run, data: Path, reports: dict[str, Path]
) -> None:
    """Rows and head cut off together, or all gone: the report of the run knows of what is missing."""
    assert run("audit", "verify", "--data", data).status == 0
    number = json.loads(reports["json"].read_text())["audit_head"]["number"]
    damage(data, "DELETE FROM ledger_audit WHERE number > 5")
    set_head = "UPDATE ledger_audit_head SET number = 5, hash = (SELECT hash FROM ledger_audit WHERE number = 5)"
    damage(data, set_head)
    said = run("audit", "verify", "--data", data, "--json")
    reason = f"it is missing: a head kept elsewhere names entry {number}"
    assert (said.status, said.document["first_bad"]) == (1, {"number": 6, "reason": reason})
    assert said.document["reports"] == [{"file": str(reports["json"]), "number": number}]
    damage(data, "DELETE FROM ledger_audit")
    damage(data, "DELETE FROM ledger_audit_head")
    said = run("audit", "verify", "--data", data, "--json")
    assert (said.status, said.document["first_bad"]["number"]) == (1, 1)


def test_a_trail_that_was_cut_is_found_by_its_runs(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """Without any report the run's own log knows of what is missing; what is no report is said, and ends nothing."""
    reports["json"].write_text("{")
    said = run("audit", "verify", "--data", data)
    assert (said.status, "cannot be read as a report" in said.out) == (0, True)
    document = json.loads(run("audit", "show", "--data", data, "--json").out)
    (last,) = [each["number"] for each in document["entries"] if each["action"] == "run.needs_intervention"]
    damage(data, f"DELETE FROM ledger_audit WHERE number >= {last}")
    damage(
        data,
        "UPDATE ledger_audit_head SET (number, hash) = (SELECT number, hash FROM ledger_audit "
        "ORDER BY number DESC LIMIT 1)",
    )
    said = run("audit", "verify", "--data", data, "--json")
    assert (said.status, said.document["verdict"], said.document["first_bad"]) == (1, "FINDINGS", None)
    (found,) = said.document["runs"]
    assert found["run"] == reports["txt"].stem
    assert "has no entry in the trail, run.needs_intervention" in found["reason"]
    damage(data, "DELETE FROM ledger_audit")
    damage(data, "DELETE FROM ledger_audit_head")
    (found,) = run("audit", "verify", "--data", data, "--json").document["runs"]
    assert "its event 1 has no entry in the trail, plan.approved" in found["reason"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("run.approved", '"by":"eve"', '"by":"bob"'), "says another by than entry 1 "),
        (("run.step_completed", '"fingerprints"', '"finger_prints"'), "says another results"),
        (("run.step_completed", '"verdict":"EQUAL"', '"verdict":"DRIFT"'), "says another results"),
        (("run.needs_intervention", '"accounts":3', '"accounts":2'), "says another accounts"),
        (("run.started", '"by":', ""), "cannot be read"),
    ],
)
def test_a_run_that_was_changed_is_found(
    run: Run, data: Path, reports: dict[str, Path], change: tuple[str, str, str], words: str
) -> None:
    """What a run's own log says otherwise than the trail is a finding that names both places."""
    assert reports
    event, old, new = change
    text = f"replace(CAST(state AS TEXT), '{old}', '{new}')"
    damage(data, f"UPDATE ledger_recovery_events SET state = CAST({text} AS BLOB) WHERE topic = '{event}'")
    said = run("audit", "verify", "--data", data, "--json")
    assert (said.status, said.document["first_bad"]) == (1, None)
    (found,) = said.document["runs"]
    assert words in found["reason"]


def test_a_run_that_lost_its_own_log_is_found(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """What the trail says of a run that has no events is a finding too."""
    assert reports
    damage(data, "DELETE FROM ledger_recovery_events")
    (found,) = run("audit", "verify", "--data", data, "--json").document["runs"]
    assert "entry 1 of the trail says plan.approved, and the run's own log has no such event" in found["reason"]


def test_an_abort_writes_a_report_of_its_own(run: Run, data: Path, reports: dict[str, Path], tmp_path: Path) -> None:
    """It says that nothing is done any more, the trail names it, and the report before it is outdated by then."""
    before = {form: tmp_path / f"before.{form}" for form in FORMS}
    for form in FORMS:
        before[form].write_bytes(reports[form].read_bytes())
    said = recover(run, data, "abort", reports["json"].stem, "--reason", "not tonight", "--yes", "--json")
    assert (said.status, said.document["restored"]) == (0, 2), said.err
    document = json.loads(reports["json"].read_text())
    numbers = document["numbers"]
    assert (document["status"], numbers["success_rate"], numbers["restored"]) == ("aborted", 0.0, 2)
    assert (numbers["outcomes"]["corrected"], numbers["outcomes"]["restored"]) == (0, 2)
    assert numbers["balance"] == {"before": 0, "after": 0, "added": 0, "taken": 0}
    assert {each["account_id"]: each["outcome"] for each in document["accounts"]} == {
        "alice": "restored",
        "bob": "waiting",
        "carl": "restored",
    }
    for form in FORMS:
        assert recover(run, data, "report", "verify", reports[form]).status == 0
        (finding,) = recover(run, data, "report", "verify", before[form], "--json").document["findings"]
        assert "says that the run is manual_intervention_required, and it is aborted since entry" in finding
    assert run("audit", "verify", "--data", data).status == 0


def test_what_was_put_back_is_in_the_trail(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """The entry of a row that is back says from what and to what."""
    assert reports
    assert recover(run, data, "abort", reports["json"].stem, "--reason", "not tonight", "--yes").status == 0
    entries = run("audit", "show", "--data", data, "--action", "row.restored", "--json").document["entries"]
    found = {each["account_id"]: each["details"]["changes"] for each in entries}
    assert found["alice"] == [{"field": "balance", "from": 100, "to": 70}]
    (row,) = found["carl"]
    assert (row["field"], json.loads(row["from"])["balance"], row["to"]) == ("row", 100, None)


def test_what_a_run_says_is_taken_from_the_trail(run: Run, data: Path, reports: dict[str, Path]) -> None:
    """An approver who was changed in the run's own log is not the one that a report names."""
    assert reports
    text = 'replace(CAST(state AS TEXT), \'"by":"eve"\', \'"by":"bob"\')'
    damage(data, f"UPDATE ledger_recovery_events SET state = CAST({text} AS BLOB) WHERE topic = 'run.approved'")
    document = recover(run, data, "report", "--json").document
    assert [each["by"] for each in document["approvals"]] == ["eve"]


def test_steps_and_approvals_of_a_report_are_held_against_the_trail(
    run: Run, data: Path, reports: dict[str, Path], tmp_path: Path
) -> None:
    """Results of a step and an approver that the trail does not have are findings of their own."""
    document = json.loads(reports["json"].read_text())
    document["steps"]["verify"]["compared"] = 99
    document["approvals"][0]["by"] = "bob"
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(document))
    findings = recover(run, data, "report", "verify", forged, "--json").document["findings"]
    assert "its approvals are not those of the audit trail" in findings
    assert "step verify: the report has other results than the audit trail" in findings
    assert len(findings) == 3
