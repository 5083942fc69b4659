"""`accounts check`: what it names, what --fix does and says before, and what the exit status stands for."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from webhooks import webhook

from tests.cli.conftest import NOW, START, Run, Said, damage, ledger_of

LONG_AGO = START + timedelta(days=1)
#: alice is locked with nothing pending, bob with an old pending transaction, carl with a young one.
ACTIONS = [("alice", "unlocked"), ("bob", "manual_intervention_required"), ("carl", "waiting")]


@pytest.fixture
def stuck(data: Path) -> Path:
    """A ledger with three stuck locks, each of which comes to something else."""
    young = datetime.fromisoformat(NOW) - timedelta(minutes=5)
    with ledger_of(data) as ledger:
        ledger.credit("bob", "bob-3", 5, status="pending", effective_at=LONG_AGO)
        ledger.credit("bob", "bob-4", 5, status="pending", effective_at=young)
        ledger.credit("carl", "carl-2", 5, status="pending", effective_at=young)
        for name in ("alice", "bob", "carl"):
            ledger.lock(name, effective_at=LONG_AGO)
    return data


def check(run: Run, data: Path, *words: str) -> Said:
    """Run `accounts check`."""
    return run("accounts", "check", "--data", data, "--now", NOW, "--json", *words)


def test_nothing_stuck_is_clean(run: Run, data: Path) -> None:
    """A ledger without a lock is CLEAN, and says so."""
    said = check(run, data)
    document = said.document
    assert (said.status, document["verdict"]) == (0, "CLEAN")
    assert (document["checked"], document["fixed"], document["failed"], document["results"]) == (0, 0, 0, [])
    assert document["certificate"]["accounts"] == 3


def test_without_fix_nothing_is_written(run: Run, stuck: Path) -> None:
    """The rows say what --fix would do, and a second run finds just the same."""
    said = check(run, stuck)
    document = said.document
    assert (said.status, document["verdict"]) == (1, "FINDINGS")
    assert (document["checked"], document["fixed"], document["failed"]) == (3, 0, 1)
    assert [(row["account_id"], row["action"]) for row in document["results"]] == ACTIONS
    assert [row["success"] for row in document["results"]] == [None, False, None]
    assert [row["pending_transactions"] for row in document["results"]] == [[], ["bob-3"], ["carl-2"]]
    assert all("--fix" in row["reason"] for row in document["results"])
    assert check(run, stuck).document == document


def test_fix_unlocks_what_may_be_unlocked(run: Run, stuck: Path) -> None:
    """The rows are the same, one of them done; a second --fix changes nothing, and what is left is a finding."""
    said = check(run, stuck, "--fix", "--yes")
    document = said.document
    assert (said.status, document["verdict"]) == (1, "FINDINGS")
    assert (document["checked"], document["fixed"], document["failed"]) == (3, 1, 1)
    assert [(row["account_id"], row["action"]) for row in document["results"]] == ACTIONS
    assert [row["success"] for row in document["results"]] == [True, False, None]
    assert "about to unlock 1 account" in said.err
    events = run("history", "alice", "--data", stuck, "--json").document["events"]
    assert (events[-1]["event"], events[-1]["effective_at"]) == ("account.unlocked", "2026-05-01T00:00:00.000000Z")
    again = check(run, stuck, "--fix", "--yes").document
    assert (again["checked"], again["fixed"], again["failed"]) == (2, 0, 1)
    assert run("history", "alice", "--data", stuck, "--json").document["events"] == events


def test_once_all_are_unlocked_it_is_clean(run: Run, data: Path) -> None:
    """A --fix that leaves nothing is CLEAN, without a question where there is nobody to ask."""
    with ledger_of(data) as ledger:
        ledger.lock("alice", effective_at=LONG_AGO)
    said = check(run, data, "--fix")
    assert (said.status, said.document["verdict"], said.document["fixed"]) == (0, "CLEAN", 1)
    assert "about to unlock 1 account" in said.err


@pytest.mark.parametrize(("answer", "status"), [("n\n", 4), ("y\n", 1)])
def test_a_terminal_is_asked(run: Run, stuck: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int) -> None:
    """On a terminal nothing is unlocked before a person says yes."""
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    said = check(run, stuck, "--fix")
    assert said.status == status
    assert said.err.index("events are never taken back") < said.err.index("Unlock 1 account, as events? [y/N]")
    assert said.out.startswith("{")
    assert check(run, stuck).document["checked"] == (3 if answer == "n\n" else 2)


class Terminal(io.StringIO):
    """A standard input at which a person sits."""

    def isatty(self) -> bool:
        """Say that it is a terminal."""
        return True


def test_a_lock_that_only_live_rows_know_is_unlocked_in_both(run: Run, data: Path, tmp_path: Path) -> None:
    """The imported row and the log are active after it, so that they do not drift; what comes in is said before."""
    rows = "account_id,balance,frozen_amount,status,locked_at\nalice,100,0,locked,2026-04-02T00:00:00Z\n"
    (tmp_path / "accounts.csv").write_text(rows, encoding="utf-8")
    assert run("import", "accounts", "accounts.csv", "--data", data, "--now", NOW).status == 0
    said = check(run, data, "--fix", "--yes")
    assert (said.status, said.document["fixed"]) == (0, 1)
    assert "1 of them with the lock itself" in said.err
    events = run("history", "alice", "--data", data, "--json").document["events"]
    assert [event["event"] for event in events[-2:]] == ["account.locked", "account.unlocked"]
    assert [event["effective_at"][:10] for event in events[-2:]] == ["2026-04-02", "2026-05-01"]
    drift = run("drift", "--data", data, "--now", NOW, "--json").document["accounts"]
    assert [each["account_id"] for each in drift if each["account_id"] == "alice"] == []


def test_parked_accounts_make_it_incomplete(run: Run, stuck: Path) -> None:
    """An account whose stream is not whole is never unlocked, and the others are."""
    damage(stuck, "DELETE FROM stored_events WHERE originator_id = 'bob' AND originator_version = 2")
    said = check(run, stuck, "--fix", "--yes")
    document = said.document
    assert (said.status, document["verdict"]) == (3, "INCOMPLETE")
    assert (document["fixed"], document["failed"]) == (1, 1)
    assert [(row["account_id"], row["action"]) for row in document["results"]] == [
        ACTIONS[0],
        ("bob", "failed"),
        ACTIONS[2],
    ]
    assert "its stream is not whole" in document["results"][1]["error"]


def test_a_lock_without_a_time_is_a_finding(run: Run, data: Path, tmp_path: Path) -> None:
    """A live row that is locked since nobody knows when is named, and leaves nothing CLEAN."""
    rows = "account_id,balance,frozen_amount,status\nalice,100,0,locked\n"
    (tmp_path / "accounts.csv").write_text(rows, encoding="utf-8")
    assert run("import", "accounts", "accounts.csv", "--data", data, "--now", NOW).status == 0
    said = check(run, data)
    assert (said.status, said.document["verdict"], said.document["checked"]) == (1, "FINDINGS", 0)
    assert said.document["locked_without_time"] == ["alice"]
    words = run("accounts", "check", "--data", data, "--now", NOW)
    assert "locked since nobody knows when: alice" in words.out


def test_the_webhook_is_told_of_what_needs_a_person(run: Run, stuck: Path) -> None:
    """One alert names the accounts with exactly their old transactions, on --fix alone."""
    with webhook() as server:
        (stuck / "ledger-replay.toml").write_text(f'[alerts]\nwebhook = "{server.url}"\n', encoding="utf-8")
        check(run, stuck)
        assert server.requests == []
        said = check(run, stuck, "--fix", "--yes")
        assert said.status == 1
        (took,) = server.requests
    assert took.document["kind"] == "account_locks_stuck"
    assert "bob-3" in str(took.document)
    assert "bob-4" not in str(took.document)


def test_a_webhook_that_is_down_is_said(run: Run, stuck: Path) -> None:
    """What may be unlocked is unlocked all the same, and the answer says that nobody was told."""
    toml = '[alerts]\nwebhook = "http://127.0.0.1:1/"\ntimeout_seconds = 0.2\n'
    (stuck / "ledger-replay.toml").write_text(toml, encoding="utf-8")
    said = run("accounts", "check", "--data", stuck, "--now", NOW, "--fix", "--yes")
    assert said.status == 1
    assert "the webhook was not told" in said.out
    assert check(run, stuck).document["checked"] == 2


def test_a_wrong_webhook_is_found_out_before(run: Run, stuck: Path) -> None:
    """A configuration that cannot work ends it before anything is unlocked."""
    (stuck / "ledger-replay.toml").write_text('[alerts]\nwebhook = "no url"\n', encoding="utf-8")
    assert check(run, stuck, "--fix", "--yes").status == 2
    (stuck / "ledger-replay.toml").unlink()
    assert check(run, stuck).document["checked"] == 3


def test_yes_is_about_fix(run: Run, data: Path) -> None:
    """--yes without --fix is bad usage."""
    assert check(run, data, "--yes").status == 2
