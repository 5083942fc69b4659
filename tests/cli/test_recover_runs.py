"""Runs of a recovery: what refuses them, what fails, and how they go on, are given up, and shown."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from webhooks import webhook

from ledger import fence
from ledger.store import Store
from replay.recovery.failpoints import set_failpoints
from schemas.errors import LedgerFenced, StoreError
from tests.cli.conftest import NOW, Run, Said, damage, ledger_of
from tests.cli.recover_scenes import (
    DAMAGED,
    RIGHT,
    approved_plan,
    bytes_of,
    import_damaged,
    recover,
    rows_of,
)

TWO_DAYS_LATER = "2026-05-03T00:00:00Z"


@pytest.fixture
def damaged(run: Run, data: Path, tmp_path: Path) -> Path:
    """A ledger whose imported live rows are damaged."""
    import_damaged(run, data, tmp_path)
    return data


@pytest.fixture
def failing() -> Iterator[list[str]]:
    """The points of a run at which it fails."""
    points: list[str] = []

    def reached(name: str) -> None:
        if name in points:
            points.clear()
            raise StoreError("the database went away", where="live", next_step="bring it back")

    set_failpoints(reached)
    yield points
    set_failpoints(None)


def execute(run: Run, data: Path, plan: Path, *words: object) -> Said:
    """Apply a plan."""
    return recover(run, data, "apply", plan, "--execute", "--json", *words)


def refused(said: Said) -> str:
    """Why a command was refused."""
    assert (said.status, said.document["verdict"]) == (4, "REFUSED"), said.out + said.err
    return str(said.document["error"]["what"])


def test_a_plan_that_nobody_approved(run: Run, damaged: Path, tmp_path: Path) -> None:
    """It is refused before anything is written, and the dry run says so beforehand."""
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    before = bytes_of(tmp_path)
    assert "--execute would be refused: the run is planned" in recover(run, damaged, "apply", plan).out
    said = execute(run, damaged, plan)
    assert "planned" in refused(said)
    assert "about to" not in said.err
    assert bytes_of(tmp_path) == before


def test_a_plan_that_was_edited(run: Run, damaged: Path, tmp_path: Path) -> None:
    """One digit more for alice after the approval, and no command takes it any more."""
    plan = approved_plan(run, damaged, tmp_path)
    plan.write_text(plan.read_text().replace('"to": 100', '"to": 1000'))
    for command in (["apply", plan], ["apply", plan, "--execute"], ["approve", plan, "--reason", "seen"]):
        assert "edited" in refused(recover(run, damaged, *command, "--json"))
    assert rows_of(damaged / "ledger.db") == DAMAGED


def test_an_approval_runs_out(run: Run, damaged: Path, tmp_path: Path) -> None:
    """After approval_hours it does not hold any more, until somebody approves the plan again."""
    plan = approved_plan(run, damaged, tmp_path)
    late = recover(run, damaged, "apply", plan, "--execute", "--json", now=TWO_DAYS_LATER)
    assert "expired" in refused(late)
    assert recover(run, damaged, "approve", plan, "--reason", "still", now=TWO_DAYS_LATER).status == 0
    assert recover(run, damaged, "apply", plan, "--execute", "--json", now=TWO_DAYS_LATER).status == 1
    again = recover(run, damaged, "apply", plan, "--json", now=TWO_DAYS_LATER).document
    assert (again["refused"], again["fingerprints"]["already"]) == (
        "the run is manual_intervention_required; see `recover status`, then `recover resume` or `recover abort`",
        2,
    )


def test_the_approver_is_somebody_else(run: Run, damaged: Path, tmp_path: Path) -> None:
    """With approver_differs neither who made a plan nor who decided in it approves it; a third person does."""
    (damaged / "ledger-replay.toml").write_text("[recover]\napprover_differs = true\napproval_hours = 2\n")
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan, "--by", "ada").status == 1
    assert recover(run, damaged, "decide", plan, "--all", "--accept", "--reason", "r", "--by", "bea").status == 0
    for name in ("ada", "bea"):
        said = recover(run, damaged, "approve", plan, "--reason", "seen", "--by", name, "--json")
        assert f"{name} made the plan" in refused(said)
    said = recover(run, damaged, "approve", plan, "--reason", "seen", "--by", "eve", "--json")
    assert (said.status, said.document["expires_at"]) == (0, "2026-05-01T02:00:00.000000Z")
    entries = run("audit", "show", "--data", damaged, "--json").document["entries"]
    assert [(each["action"], each["by"], each["details"]["reason"]) for each in entries] == [
        ("plan.approved", "eve", "seen")
    ]


def test_a_plan_of_another_ledger(run: Run, damaged: Path, tmp_path: Path) -> None:
    """It is neither approved nor applied here."""
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    Store.at(tmp_path / "other").close()
    for command in (["approve", plan, "--reason", "seen"], ["apply", plan]):
        assert "another ledger" in refused(recover(run, tmp_path / "other", *command, "--json"))


def test_the_options_name_other_rows(run: Run, damaged: Path, tmp_path: Path) -> None:
    """A plan of imported rows is not applied to our own read model."""
    plan = approved_plan(run, damaged, tmp_path)
    assert "other live rows" in refused(recover(run, damaged, "apply", plan, "--own", "--json"))


def test_a_row_that_was_changed_since_is_left(run: Run, damaged: Path, tmp_path: Path) -> None:
    """What somebody wrote after the plan is not overwritten: it is reported."""
    plan = approved_plan(run, damaged, tmp_path)
    damage(damaged, "UPDATE imported_accounts SET balance = 71 WHERE account_id = 'alice'")
    assert recover(run, damaged, "apply", plan, "--json").document["fingerprints"]["changed_since"] == 1
    said = execute(run, damaged, plan)
    assert (said.status, said.document["outcomes"]["changed_since"]) == (1, 1)
    assert rows_of(damaged / "ledger.db")["alice"] == (71, 0)


def test_a_failed_run_fences_writers_until_it_goes_on(
    run: Run, damaged: Path, tmp_path: Path, failing: list[str]
) -> None:
    """The error is named, status shows run, fence and steps; writers are refused; resume does the rest."""
    plan = approved_plan(run, damaged, tmp_path)
    failing.append("batch:noted")
    with webhook() as server:
        (damaged / "ledger-replay.toml").write_text(f'[alerts]\nwebhook = "{server.url}"\n')
        failed = execute(run, damaged, plan)
        assert (failed.status, failed.document["verdict"]) == (5, "FAILED")
        assert server.kinds == ["recovery_failed"]
        status = recover(run, damaged, "status", "--json")
        (listed,) = status.document["runs"]
        assert (status.status, listed["status"], listed["reason"][:26]) == (1, "failed", "the database went away (li")
        assert listed["steps_done"][-1] == "settle"
        assert status.document["fence"]["fenced_at"] is not None
        with ledger_of(damaged) as ledger, pytest.raises(LedgerFenced):
            ledger.credit("alice", "alice-9", 1)
        words = recover(run, damaged, "status").out
        assert "writers are fenced since" in words
        assert f"recover resume {listed['run']}" in words
        done = recover(run, damaged, "resume", "--json")
        assert server.kinds == ["recovery_failed", "manual_intervention_required"]
    assert (done.status, done.document["outcomes"]["corrected"]) == (1, 2)
    assert rows_of(damaged / "ledger.db") == {**RIGHT, "bob": DAMAGED["bob"]}
    one = recover(run, damaged, "status", listed["run"], "--json").document
    assert (one["fence"], list(one["steps"])[-1]) == (None, "report")
    with ledger_of(damaged) as ledger:
        ledger.credit("alice", "alice-9", 1)


def test_an_alert_that_reached_nobody_is_said(run: Run, damaged: Path, tmp_path: Path, failing: list[str]) -> None:
    """A webhook that says no changes nothing of a run, whether it failed or needs a person, and is named."""
    plan = approved_plan(run, damaged, tmp_path)
    failing.append("correct:begun")
    with webhook(410, 410) as server:
        (damaged / "ledger-replay.toml").write_text(f'[alerts]\nwebhook = "{server.url}"\n')
        said = recover(run, damaged, "apply", plan, "--execute")
        assert (said.status, "the alert recovery_failed reached nobody" in said.err) == (5, True), said.err
        said = recover(run, damaged, "resume")
        assert (said.status, "the alert manual_intervention_required reached nobody" in said.out) == (1, True)


def test_abort_puts_live_rows_back(run: Run, damaged: Path, tmp_path: Path, failing: list[str]) -> None:
    """The rows are as before, the fence is lifted, and what somebody else changed since is listed."""
    plan = approved_plan(run, damaged, tmp_path)
    failing.append("verify:begun")
    assert execute(run, damaged, plan).status == 5
    assert rows_of(damaged / "ledger.db")["alice"] == RIGHT["alice"]
    damage(damaged, "UPDATE imported_accounts SET balance = 1 WHERE account_id = 'carl'")
    said = recover(run, damaged, "abort", "--reason", "not tonight", "--json")
    document = said.document
    assert (said.status, document["verdict"], document["restored"]) == (1, "FINDINGS", 1)
    assert [each["account_id"] for each in document["not_restored"]] == ["carl"]
    assert rows_of(damaged / "ledger.db") == {**DAMAGED, "carl": (1, 0)}
    assert recover(run, damaged, "status", "--json").document["fence"] is None
    report = recover(run, damaged, "report", "--json")
    assert (report.status, report.document["status"], report.document["numbers"]["restored"]) == (1, "aborted", 1)
    assert recover(run, damaged, "resume").status == 2


def test_abort_without_the_live_rows(run: Run, damaged: Path, tmp_path: Path, failing: list[str]) -> None:
    """With the run's files gone it still ends: the fence falls, the hook is called, and all rows are listed."""
    log = tmp_path / "hooks.log"
    (damaged / "ledger-replay.toml").write_text(
        f"""[recover]\ngo_on = {{ command = ["sh", "-c", "echo $LEDGER_REPLAY_HOOK >> {log}; exit 3"] }}\n"""
    )
    plan = approved_plan(run, damaged, tmp_path)
    failing.append("verify:begun")
    assert execute(run, damaged, plan).status == 5
    rows = rows_of(damaged / "ledger.db")
    for file in (damaged / "recovery").glob("*/*"):
        file.unlink()
    assert recover(run, damaged, "abort", "--reason", "r").status == 2
    said = recover(run, damaged, "abort", "--leave-live", "--live", "--reason", "r")
    assert (said.status, "--live names live rows" in said.err) == (2, True)
    said = recover(run, damaged, "abort", "--leave-live", "--reason", "the disk is gone", "--json")
    document = said.document
    assert (said.status, document["verdict"], document["restored"]) == (1, "FINDINGS", 0)
    assert [each["account_id"] for each in document["not_restored"]] == ["alice", "carl"]
    assert (log.read_text(), "was not told to go on" in str(document["notes"])) == ("go_on\n", True)
    assert rows_of(damaged / "ledger.db") == rows
    status = recover(run, damaged, "status", "--json").document
    assert (status["fence"], status["runs"][0]["status"]) == (None, "aborted")
    assert recover(run, damaged, "abort", "--leave-live", "--reason", "r").status == 2
    assert run("audit", "verify", "--data", damaged).status == 0


def test_an_abort_that_failed_is_gone_on_with(run: Run, damaged: Path, tmp_path: Path, failing: list[str]) -> None:
    """Once it has begun the run is not resumed any more, and status says what ends it."""
    plan = approved_plan(run, damaged, tmp_path)
    failing.append("verify:begun")
    assert execute(run, damaged, plan).status == 5
    failing.append("abort:done")
    assert recover(run, damaged, "abort", "--reason", "r").status == 5
    assert "an abort of it has begun" in refused(recover(run, damaged, "resume", "--json"))
    said = recover(run, damaged, "status")
    assert "--reason R` ends the abort that was begun" in said.out
    assert "recover resume" not in said.out
    assert recover(run, damaged, "abort", "--reason", "r", "--json").document["restored"] == 2
    assert recover(run, damaged, "status").status == 0


def test_a_terminal_is_asked(run: Run, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal nothing is begun before a person says yes, and it was said before what it does."""
    plan = approved_plan(run, damaged, tmp_path)
    before = bytes_of(tmp_path)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    said = recover(run, damaged, "apply", plan, "--execute")
    assert (said.status, bytes_of(tmp_path) == before) == (4, True)
    assert said.err.index("correct: correct 2 accounts") < said.err.index("Apply plan")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert recover(run, damaged, "apply", plan, "--execute").status == 1
    assert bytes_of(tmp_path) != before


class Terminal(io.StringIO):
    """A standard input at which a person sits."""

    def isatty(self) -> bool:
        """Say that it is a terminal."""
        return True


def test_a_process_that_is_gone_leaves_its_fence(run: Run, damaged: Path, tmp_path: Path) -> None:
    """Status says whose lease ran out, that writers stay fenced, and what to do; a lease that holds is somebody's."""
    begun = datetime.fromisoformat(NOW) - timedelta(hours=1)
    with closing(Store.at(damaged)) as store, store.writing() as connection:
        fence.take(connection, "recovery-1", "ada on a host", now=begun, lease=timedelta(minutes=1))
        fence.raise_fence(connection, "recovery-1", "ada", begun)
    said = recover(run, damaged, "status")
    assert said.status == 1
    assert "writers are fenced since 2026-04-30T23:00:00.000000Z by ada for recovery-1" in said.out
    assert "the lease of ada on a host ran out at 2026-04-30T23:01:00.000000Z: that process is gone" in said.out
    assert "next: `recover resume recovery-1`" in said.out
    plan = approved_plan(run, damaged, tmp_path)
    assert "its fence stands since" in refused(execute(run, damaged, plan))
    held = recover(run, damaged, "status", now="2026-04-30T23:00:30Z").out
    assert "the lease has ada on a host until" in held
    assert "next:" not in held
    assert "can take over after 2026-04-30T23:01:00.000000Z" in held


def test_batches_as_they_are_wanted(run: Run, damaged: Path, tmp_path: Path) -> None:
    """--batch fixes the accounts of a batch, and --throttle lets it rest between them."""
    plan = approved_plan(run, damaged, tmp_path)
    said = execute(run, damaged, plan, "--batch", "1", "--throttle", "0.9")
    assert said.document["steps"]["correct"]["batches"] == 3


def test_hooks_and_outside_heads(run: Run, damaged: Path, tmp_path: Path) -> None:
    """The foreign system pauses and goes on, and every head of the audit trail is kept in the file."""
    heads, log = tmp_path / "heads.jsonl", tmp_path / "hooks.log"
    hook = f"""["sh", "-c", "echo $LEDGER_REPLAY_HOOK >> {log}"]"""
    (damaged / "ledger-replay.toml").write_text(
        f'[audit]\nfile = "{heads}"\n[recover]\npause = {{ command = {hook} }}\ngo_on = {{ command = {hook} }}\n'
    )
    plan = approved_plan(run, damaged, tmp_path)
    assert len(heads.read_text().splitlines()) == 1
    assert "let the foreign system pause" in recover(run, damaged, "apply", plan).out
    assert execute(run, damaged, plan).status == 1
    assert log.read_text() == "pause\ngo_on\n"
    assert run("audit", "verify", "--data", damaged, "--json").document["outside"][0]["behind"] == 0


def test_heads_that_cannot_be_kept_are_said(run: Run, damaged: Path, tmp_path: Path) -> None:
    """A file that is something else leaves the approval as it is, and is named."""
    other = tmp_path / "other.txt"
    other.write_text("something else\n")
    (damaged / "ledger-replay.toml").write_text(f'[audit]\nfile = "{other}"\n')
    plan = tmp_path / "plan.json"
    assert recover(run, damaged, "plan", "--output", plan).status == 1
    said = recover(run, damaged, "approve", plan, "--reason", "seen")
    assert said.status == 0
    assert "were not kept outside" in said.out
    said = recover(run, damaged, "apply", plan, "--execute")
    assert (said.status, said.err.count("were not kept outside")) == (1, 1)
    assert other.read_text() == "something else\n"


@pytest.mark.parametrize(
    "words",
    [
        ("plan",),
        ("plan", "--output", "p.json", "--settle", "burn"),
        ("plan", "--output", "p.json", "--own", "--live"),
        ("plan", "--output", "p.json", "--against", "sqlite:///x"),
        ("plan", "--output", "p.json", "--sql", "p.json"),
        ("plan", "--output", "p.json", "--accounts", ","),
        ("decide", "p.json", "a", "--accept", "--adjust", "--reason", "r"),
        ("decide", "p.json", "a", "--all", "--accept", "--reason", "r"),
        ("decide", "p.json", "--accept", "--reason", "r"),
        ("decide", "p.json", "a", "--accept", "--reason", " "),
        ("apply", "p.json"),
        ("apply", "p.json", "--yes"),
        ("status", "nobody"),
        ("resume",),
        ("resume", "nobody"),
        ("abort", "--reason", "r"),
        ("report",),
        ("report", "verify"),
        ("report", "a", "b"),
        ("report", "--report", "report.pdf"),
        ("check", "--topic", "events"),
    ],
)
def test_bad_usage(run: Run, data: Path, words: tuple[str, ...]) -> None:
    """Words that make no sense end with status 2 and say what to do, before anything is written."""
    before = bytes_of(data)
    said = recover(run, data, *words)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert bytes_of(data) == before
