"""Commands that change data say first what they will do, and ask on a terminal unless --yes."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from break_rows_made import at, found, mismatch

from ledger import Store, breaks, fence, orders
from ledger.recovery_runs import Runs
from replay.recovery.plan import read_plan, run_of, write_plan
from replay.recovery.work import run_folder
from schemas import format_time
from schemas.errors import StoreError
from tests.cli.conftest import NOW, START, Run, Said, ledger_of
from tests.cli.recover_scenes import approved_plan, bytes_of, import_damaged, recover

LONG_AGO = START + timedelta(days=1)


class Terminal(io.StringIO):
    """A standard input at which a person sits."""

    def isatty(self) -> bool:
        """Say that it is a terminal."""
        return True


def stale(run: Run, data: Path) -> None:
    """Leave a transaction pending for too long."""
    with ledger_of(data) as ledger:
        ledger.credit("carl", "carl-2", 5, status="pending", effective_at=START)


def stuck(run: Run, data: Path) -> None:
    """Lock alice, with nothing pending, and bob, with an old pending transaction."""
    with ledger_of(data) as ledger:
        ledger.credit("bob", "bob-3", 5, status="pending", effective_at=LONG_AGO)
        for name in ("alice", "bob"):
            ledger.lock(name, effective_at=LONG_AGO)


def generation(run: Run, data: Path) -> None:
    """Make a generation that is not live."""
    assert run("rebuild", "--data", data).status == 0


def broken(run: Run, data: Path) -> None:
    """Make a break that is open."""
    store = Store.at(data)
    with store.writing() as connection:
        orders.lock(connection)
        breaks.apply(connection, found(mismatch("o1")), None, until=at(3), now=at(3), grace_seconds=1e7)
        orders.set_read_until(connection, "orders", at(4))
        orders.set_read_until(connection, "ledger", at(3))
    store.close()


def decided(run: Run, data: Path) -> None:
    """Make a break that somebody has resolved."""
    broken(run, data)
    words = ("--manual", "--reason", "moved", "--by", "eve", "--yes")
    assert run("breaks", "resolve", 1, *words, "--data", data).status == 0


def watched(run: Run, data: Path) -> None:
    """Leave a shadow."""
    assert run("project", "--data", data).status == 0
    assert run("drift", "--watch", "--rounds", 1, "--data", data).status == 0


Scene = Callable[[Run, Path], None]
#: The scene, the command, and what it says that it is about to do.
COMMANDS: dict[str, tuple[Scene, tuple[str, ...], str]] = {
    "verify --fix-stale": (stale, ("verify", "--fix-stale", "cancel"), "cancel 1 stale pending transaction"),
    "accounts check --fix": (stuck, ("accounts", "check", "--fix"), "unlock 1 account"),
    "rebuild --promote": (
        stale,
        ("rebuild", "--promote"),
        "make a new generation of the read model and let it go live",
    ),
    "generations promote": (generation, ("generations", "promote", "1"), "let generation 1 go live"),
    "breaks resolve": (broken, ("breaks", "resolve", "1", "--accept", "--reason", "r"), "resolve 1 break: accepted"),
    "breaks reopen": (decided, ("breaks", "reopen", "1", "--reason", "r"), "reopen 1 break"),
}


@pytest.fixture(params=COMMANDS.values(), ids=COMMANDS)
def scene(request: pytest.FixtureRequest, run: Run, data: Path) -> tuple[tuple[str, ...], str]:
    """A command with something to do, and what it says of it."""
    made, words, said = request.param
    made(run, data)
    return (*words, "--data", str(data), "--now", NOW), said


def test_off_a_terminal_it_is_said_and_done(run: Run, data: Path, scene: tuple[tuple[str, ...], str]) -> None:
    """A script goes on, and its log says what was about to happen; stdout is the answer alone."""
    words, what = scene
    before = bytes_of(data)
    said = run(*words, "--json")
    assert f"about to {what}" in said.err
    assert said.document["verdict"] in ("OK", "CLEAN", "FINDINGS", "COMPLETE"), said.err
    assert bytes_of(data) != before


def test_on_a_terminal_a_person_is_asked(
    run: Run, data: Path, scene: tuple[tuple[str, ...], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No leaves everything as it is; yes does it."""
    words, what = scene
    before = bytes_of(data)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = run(*words)
    assert (refused.status, "nothing was changed" in refused.err) == (4, True)
    assert refused.err.index(f"about to {what}") < refused.err.index(f"{what[0].upper()}{what[1:]}")
    assert bytes_of(data) == before
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run(*words).status in (0, 1)
    assert bytes_of(data) != before


def test_whoever_says_yes_is_not_asked(
    run: Run, data: Path, scene: tuple[tuple[str, ...], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--yes on a terminal reads nothing from it."""
    words, what = scene
    before = bytes_of(data)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    said = run(*words, "--yes")
    assert (said.status in (0, 1), f"about to {what}" in said.err) == (True, True)
    assert bytes_of(data) != before


@pytest.mark.parametrize("words", [("verify",), ("rebuild",), ("accounts", "check"), ("drift",)], ids=" ".join)
def test_yes_where_nothing_is_asked_is_bad_usage(run: Run, data: Path, words: tuple[str, ...]) -> None:
    """--yes belongs to what changes something."""
    said = run(*words, "--yes", "--data", data)
    assert (said.status, "--yes is about" in said.err) == (2, True)


@pytest.mark.parametrize("words", [("verify", "--fix-stale", "cancel"), ("accounts", "check", "--fix")], ids=" ".join)
def test_nothing_to_do_is_not_asked_about(
    run: Run, data: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is nothing to put right there is no question."""
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    before = bytes_of(data)
    said = run(*words, "--data", data, "--now", NOW)
    assert (said.status, "about to" in said.err) == (0, False)
    assert bytes_of(data) == before


def test_a_generation_or_a_break_that_is_not_there_is_not_asked_about(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes instead of the question."""
    monkeypatch.setattr("sys.stdin", Terminal(""))
    for words in (("generations", "promote", 9), ("breaks", "resolve", 9, "--accept", "--reason", "r")):
        said = run(*words, "--data", data)
        assert (said.status, "about to" in said.err) == (2, False)


def test_an_alert_that_may_be_sent_is_said(run: Run, data: Path) -> None:
    """With --fix it is said that the webhook is told, where there is one."""
    stuck(run, data)
    assert "webhook" not in run("accounts", "check", "--fix", "--data", data, "--now", NOW).err
    toml = '[alerts]\nwebhook = "http://127.0.0.1:1/"\ntimeout_seconds = 0.2\n'
    (data / "ledger-replay.toml").write_text(toml, encoding="utf-8")
    said = run("accounts", "check", "--fix", "--data", data, "--now", NOW)
    assert "tell the webhook of 1 account that needs a person" in said.err


def test_a_decision_and_an_approval_say_what_they_write(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked by their own names, with a reason, so there is no question."""
    import_damaged(run, data, tmp_path)
    plan = tmp_path / "plan.json"
    assert recover(run, data, "plan", "--output", plan).status == 1
    monkeypatch.setattr("sys.stdin", Terminal(""))
    said = recover(run, data, "decide", plan, "--all", "--accept", "--reason", "r")
    assert (said.status, f"about to write {plan} anew: 1 account decided, accept" in said.err) == (0, True), said.err
    said = recover(run, data, "approve", plan, "--reason", "r", "--by", "eve")
    assert (said.status, "about to approve plan " in said.err) == (0, True)


# What is left in the audit trail, and what keeps a command from its work.


def trail(run: Run, data: Path) -> list[tuple[str, str, str | None, dict[str, object]]]:
    """The entries of the audit trail, which is whole."""
    assert run("audit", "verify", "--data", data).status == 0
    entries = run("audit", "show", "--data", data, "--json").document["entries"]
    return [(each["action"], each["by"], each["account_id"], each["details"]) for each in entries]


def test_unlocks_are_in_the_audit_trail(run: Run, data: Path, tmp_path: Path) -> None:
    """Who unlocked whom, why and after how long; who was not, with what is pending; heads are kept outside."""
    stuck(run, data)
    heads = tmp_path / "heads.jsonl"
    (data / "ledger-replay.toml").write_text(f'[audit]\nfile = "{heads}"\n', encoding="utf-8")
    said = run("accounts", "check", "--fix", "--by", "ada", "--data", data, "--now", NOW)
    assert said.status == 1
    locked = {
        "locked_at": format_time(LONG_AGO),
        "locked_seconds": int((datetime.fromisoformat(NOW) - LONG_AGO).total_seconds()),
    }
    unlocked, waits = trail(run, data)
    assert unlocked[:3] == ("account.unlocked", "ada", "alice")
    assert unlocked[3] == {
        **locked,
        "reason": "recovered by itself: locked for more than a day, and nothing is pending",
    }
    assert waits[:3] == ("account.not_unlocked", "ada", "bob")
    assert waits[3] == {
        **locked,
        "reason": "transactions have been pending for more than an hour",
        "pending_transactions": ["bob-3"],
    }
    assert len(heads.read_text().splitlines()) == 2


def test_settled_transactions_are_in_the_audit_trail(run: Run, data: Path, tmp_path: Path) -> None:
    """Who settled what and how; heads are kept outside."""
    stale(run, data)
    heads = tmp_path / "heads.jsonl"
    (data / "ledger-replay.toml").write_text(f'[audit]\nfile = "{heads}"\n', encoding="utf-8")
    assert run("verify", "--fix-stale", "cancel", "--by", "ada", "--data", data, "--now", NOW).status == 0
    assert trail(run, data) == [
        ("transaction.settled", "ada", "carl", {"transaction_id": "carl-2", "to": "cancelled", "version": 4})
    ]
    assert len(heads.read_text().splitlines()) == 1


def test_heads_that_cannot_be_kept_are_said(run: Run, data: Path, tmp_path: Path) -> None:
    """What was done is done, and the answer says that the heads are nowhere else."""
    stuck(run, data)
    stale(run, data)
    (tmp_path / "other.txt").write_text("something else\n")
    (data / "ledger-replay.toml").write_text(f'[audit]\nfile = "{tmp_path / "other.txt"}"\n', encoding="utf-8")
    for words in (("accounts", "check", "--fix"), ("verify", "--fix-stale", "cancel")):
        assert "were not kept outside" in run(*words, "--data", data, "--now", NOW).out


@pytest.mark.parametrize("words", [("accounts", "check"), ("verify",)], ids=" ".join)
def test_by_is_about_what_is_written(run: Run, data: Path, words: tuple[str, ...]) -> None:
    """--by without anything to write is bad usage."""
    assert run(*words, "--by", "ada", "--data", data).status == 2


@pytest.mark.parametrize("words", [("accounts", "check", "--fix"), ("verify", "--fix-stale", "cancel")], ids=" ".join)
def test_a_fenced_ledger_refuses_at_once(
    run: Run, data: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a recovery is under way nothing is asked and nothing is tried account by account."""
    stuck(run, data)
    stale(run, data)
    moment = datetime.fromisoformat(NOW)
    store = Store.at(data)
    with store.writing() as connection:
        fence.take(connection, "recovery-1", "ada on a host", now=moment, lease=timedelta(minutes=1))
        fence.raise_fence(connection, "recovery-1", "ada", moment)
    store.close()
    before = bytes_of(data)
    said: Said = run(*words, "--data", data, "--now", NOW, "--json")
    assert (said.status, said.document["verdict"], said.document["error"]["kind"]) == (4, "REFUSED", "LedgerFenced")
    assert "about to" not in said.err
    assert bytes_of(data) == before


def test_the_second_operator_hears_who_is_at_work(run: Run, data: Path, tmp_path: Path) -> None:
    """While the first one is alive neither apply, resume nor abort says anything of going on: they name the lease."""
    import_damaged(run, data, tmp_path)
    plan = approved_plan(run, data, tmp_path)
    made, moment = read_plan(plan), datetime.fromisoformat(NOW)
    name = run_of(made)
    store = Store.at(data)
    with Runs(store).changing(name) as (recovery, connection):
        fence.take(connection, name, "ada on a host", now=moment, lease=timedelta(minutes=1))
        recovery.start(by="ada", at=moment)
    store.close()
    run_folder(data, name).mkdir(parents=True)
    write_plan(made, run_folder(data, name) / "plan.json")
    for words in (("apply", plan, "--execute"), ("resume",), ("abort", "--reason", "r")):
        said = recover(run, data, *words, "--json")
        assert (said.status, said.document["verdict"]) == (4, "REFUSED"), words
        assert "ada on a host has the lease until 2026-05-01T00:01:00.000000Z" in said.document["error"]["what"], words
        assert "about to" not in said.err
    said = recover(run, data, "apply", plan, "--json")
    assert "ada on a host has the lease until" in said.document["refused"]


def test_another_database_is_refused_before_the_question(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run and its plan of another ledger are neither applied nor given up here, and nobody is asked about it."""
    import_damaged(run, data, tmp_path)
    plan = approved_plan(run, data, tmp_path)
    made = read_plan(plan)
    name = run_of(made)
    other = tmp_path / "other"
    other.mkdir()
    source, target = sqlite3.connect(data / "ledger.db"), sqlite3.connect(other / "ledger.db")
    with target:
        source.backup(target)
        target.execute("UPDATE ledger_identity SET ledger_id = 'another'")
    source.close()
    target.close()
    monkeypatch.setattr("sys.stdin", Terminal(""))
    for words in (("apply", plan, "--execute"), ("abort", "--reason", "r"), ("resume",)):
        said = recover(run, other, *words, "--json")
        assert (said.status, "another ledger" in said.document["error"]["what"]) == (4, True), words
        assert "about to" not in said.err
        if words[0] == "apply":
            store = Store.at(other)
            with Runs(store).changing(name) as (recovery, _):
                recovery.start(by="ada", at=datetime.fromisoformat(NOW))
            store.close()
            run_folder(other, name).mkdir(parents=True)
            write_plan(made, run_folder(other, name) / "plan.json")


def test_a_note_of_an_error_is_one_line(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library adds, its statement and an address, is left away."""
    import_damaged(run, data, tmp_path)
    plan = approved_plan(run, data, tmp_path)

    def fails(_: object) -> None:
        error = StoreError("the database says: database or disk is full")
        error.add_note("the run could not be noted: database or disk is full\n(Background on this error at: https://x)")
        raise error

    monkeypatch.setattr("replay.recovery.applying.apply", fails)
    said = recover(run, data, "apply", plan, "--execute")
    assert said.status == 5
    assert "note: the run could not be noted: database or disk is full\n" in said.err
    assert "Background" not in said.err


def test_lines_of_breaks_are_not_endless(run: Run, data: Path) -> None:
    """Of many breaks a few are named before, and how many more there are."""
    store = Store.at(data)
    with store.writing() as connection:
        orders.lock(connection)
        facts = pl.concat([found(mismatch(f"o{number}")) for number in range(20)])
        breaks.apply(connection, facts, None, until=at(3), now=at(3), grace_seconds=1e7)
    store.close()
    said = run("breaks", "resolve", *range(1, 21), "--accept", "--reason", "r", "--data", data)
    assert (said.status, said.err.count("amount_mismatch")) == (0, 10)
    assert "and 10 more breaks" in said.err
