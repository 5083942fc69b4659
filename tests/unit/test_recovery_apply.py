"""What applying a plan comes to: live rows, events, the audit trail, the fence, and how the run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from copies import ListCopy, stream_of
from ledgers import change_event, change_row, lose_event, lose_head, positions
from live_tables import Live
from recoveries import (
    NOW,
    account_entries,
    approved,
    audit_is_whole,
    contents,
    damage,
    history,
    live_of,
    planned,
    truth,
    work_on,
)

from consumers import project
from ledger import Ledger, Store, audit, fence
from ledger.importing import FileSource, import_accounts
from ledger.recovery_runs import Runs
from replay import drift
from replay.comparison.live_table import LiveTable
from replay.recovery.applying import Applied, abort, apply, dry_run, plan_of, resume
from replay.recovery.decide import decide
from replay.recovery.failpoints import set_failpoints
from replay.recovery.healed import Healing
from replay.recovery.own_target import OwnReadModel
from replay.recovery.plan import Plan, run_of
from replay.recovery.table_target import TableTarget
from replay.recovery.work import Surroundings, Work
from schemas.errors import LedgerFenced, RefusedError, StoreError

ACCOUNTS = 120


class Made:
    """A ledger with a damaged live table in a file."""

    def __init__(self, store: Store, live: Live, data: Path) -> None:
        self.store, self.live, self.data = store, live, data
        self.table = live_of(live)
        self.target = TableTarget(self.table)

    def plan(self, **options: Any) -> Plan:
        """The plan, approved."""
        return approved(self.store, planned(self.store, self.table, **options))

    def work(self, plan: Plan, **options: Any) -> Work:
        """Work on it."""
        return work_on(self.store, plan, self.target, self.data, **options)

    def outcomes(self, plan: Plan) -> dict[str, str]:
        """What became of each account."""
        found = account_entries(self.store, run_of(plan))
        return {entry[1]: entry[0].removeprefix("account.") for entry in found if entry[0].startswith("account.")}


@pytest.fixture
def made(store: Store, tmp_path: Path) -> Iterator[Made]:
    """A ledger with a damaged live table."""
    history(store, ACCOUNTS)
    with closing(Live(f"sqlite:///{tmp_path}/live.db")) as live:
        damage(store, live)
        made = Made(store, live, tmp_path / "data")
        yield made
        made.target.close()


def _of(plan: Plan, **fields: Any) -> str:
    """The first account that has a change like that."""
    return next(
        each.account_id for each in plan.changes if all(getattr(each, name) == value for name, value in fields.items())
    )


def _fail_at(point: str) -> Callable[[str], None]:
    def look(name: str) -> None:
        if name == point:
            raise OSError("no more")

    return look


def _accepted(made: Made) -> Plan:
    plan = planned(made.store, made.table)
    ids = sorted({each.account_id for each in plan.undecided()})
    settled = decide(plan, account_ids=ids, action="accept", by="ann", reason="counted", now=NOW)
    return approved(made.store, settled)


def test_live_is_what_the_log_says_after_every_decision_is_made(made):
    """With all that waited accepted, live equals the log, the run is completed, and every change is in the trail."""
    plan = _accepted(made)
    done = apply(made.work(plan))
    assert (done.status, done.results["verdict"], done.results["success_rate"]) == ("completed", "EQUAL", 1.0)
    assert contents(made.live) == truth(made.store)
    assert set(made.outcomes(plan)) >= {each.account_id for each in plan.changes}
    told = [
        msgspec.json.decode(entry[2])["changes"]
        for entry in account_entries(made.store, done.run)
        if b"changes" in entry[2]
    ]
    assert sum(map(len, told)) == len(plan.changes)
    assert audit_is_whole(made.store)


def test_what_nobody_decided_waits_and_live_keeps_it(made):
    """Accounts that hold more than the log explains stay, a person is needed, and somebody is told."""
    plan = made.plan()
    alerts: list[str] = []

    def alert(kind: str, content: Mapping[str, Any]) -> str | None:
        alerts.append(f"{kind} {content['outcomes']['waiting']}")
        return "no answer"

    before = contents(made.live)
    done = apply(made.work(plan, around=Surroundings(alert=alert)))
    waiting = {each.account_id for each in plan.undecided()}
    assert waiting
    assert done.status == "manual_intervention_required"
    assert alerts == [f"manual_intervention_required {len(waiting)}"]
    assert done.notes == ["the alert manual_intervention_required reached nobody: no answer"]
    assert [row for row in contents(made.live) if row[0] in waiting] == [row for row in before if row[0] in waiting]
    assert {name for name, outcome in made.outcomes(plan).items() if outcome == "waiting"} == waiting


def test_the_totals_add_up_to_the_entries(made):
    """Points before, added and taken away give the points after, account by account from the audit trail."""
    done = apply(made.work(made.plan()))
    for points in (done.results["balance"], done.results["frozen"]):
        assert points["before"] + points["added"] - points["taken"] == points["after"]
    assert done.results["balance"]["added"] > 0
    assert sum(done.results["outcomes"].values()) == done.results["accounts"]


def test_a_dry_run_writes_nothing(made):
    """It says what is no more as it was planned, and leaves neither a run nor a row changed."""
    plan = made.plan()
    theirs = _of(plan, field="balance", basis="log")
    made.live.change(theirs, balance=1)
    before = contents(made.live)
    found = dry_run(made.work(plan))
    assert (found.fingerprints.changed_since, found.fingerprints.moved_since) == (1, 0)
    assert contents(made.live) == before
    assert Runs(made.store).get(found.run).status == "approved"
    assert not made.data.joinpath("recovery").exists()


def test_a_live_row_that_was_changed_since_is_left_and_told(made):
    """What somebody wrote between the plan and the run is not written over; neither is a row that is gone."""
    plan = made.plan()
    theirs = _of(plan, field="balance", basis="log")
    gone = _of(plan, field="frozen", basis="log")
    made.live.change(theirs, balance=1)
    made.live.remove(gone)
    done = apply(made.work(plan))
    outcomes = made.outcomes(plan)
    assert (outcomes[theirs], outcomes[gone]) == ("changed_since", "changed_since")
    rows = {row[0]: row for row in contents(made.live)}
    assert rows[theirs][1] == 1
    assert gone not in rows
    assert done.results["verdict"] == "DRIFT"
    assert {each["account_id"] for each in done.steps["correct"]["left"]} >= {theirs, gone}


def test_a_row_that_is_right_already_is_told_as_that(made):
    """Where somebody mended live as the plan would, nothing is written, and it counts as done."""
    plan = made.plan()
    change = next(each for each in plan.changes if each.field == "balance" and each.basis == "log")
    made.live.change(change.account_id, balance=change.to)
    apply(made.work(plan))
    assert made.outcomes(plan)[change.account_id] == "already"


def test_an_account_that_went_on_in_the_log_is_left(made):
    """A new event after the plan means that the plan knows less than the log, so the row stays for the next plan."""
    plan = made.plan()
    moved = _of(plan, field="balance", basis="log")
    Ledger(made.store, clock=lambda: NOW).credit(moved, "new", 5)
    before = {row[0]: row for row in contents(made.live)}[moved]
    apply(made.work(plan))
    assert made.outcomes(plan)[moved] == "moved_since"
    assert before in contents(made.live)


def test_writers_are_fenced_and_go_on_after_it(made):
    """While it runs nobody else appends, the foreign system is told to pause, and both go on when it has ended."""
    plan, seen = made.plan(), []

    def pause() -> None:
        seen.append("paused")
        with pytest.raises(LedgerFenced):
            Ledger(made.store).credit("a00001", "while", 5)

    done = apply(made.work(plan, around=Surroundings(pause=pause, go_on=lambda: seen.append("on"))))
    assert seen == ["paused", "on"]
    Ledger(made.store).credit("a00001", "after", 5)
    with made.store.snapshot() as connection:
        assert fence.state(connection) is None
        actions = [each.action for each in audit.entries(connection, run=done.run)]
    assert actions.index("fence.raised") < actions.index("correcting") < actions.index("fence.lifted")
    assert plan_of(made.data, done.run) == plan


def test_stale_transactions_are_settled_and_stuck_locks_are_opened(made):
    """As the plan says, as events, in the log and in live; with the steps' counts."""
    plan = _accepted(made)
    assert plan.settle
    assert plan.unlock
    done = apply(made.work(plan))
    assert (done.results["settled"], done.results["unlocked"]) == (len(plan.settle), len(plan.unlock))
    ledger = Ledger(made.store)
    for each in plan.settle:
        assert ledger.account(each.account_id).transactions[each.transaction_id].status == "cancelled"
    for each in plan.unlock:
        assert ledger.account(each.account_id).status == "active"
    assert contents(made.live) == truth(made.store)


def test_no_account_is_unlocked_that_is_not_equal(made):
    """A lock stays where live differs from the log after the corrections."""
    plan = made.plan()
    locked = plan.unlock[0].account_id
    made.live.change(locked, balance=3)
    done = apply(made.work(plan))
    assert locked in done.steps["verify"]["drifted"]
    assert [name for name, _ in done.steps["unlock"]["not_unlocked"]] == [locked]
    assert Ledger(made.store).account(locked).status == "locked"


def test_what_a_person_decided_is_booked_once(made):
    """An adjustment is a transaction with a code of its own, and log and live have what was decided."""
    plan = planned(made.store, made.table)
    name = next(each.account_id for each in plan.undecided() if each.cause == "foreign_write")
    decided = decide(plan, account_ids=[name], action="adjust", balance=4_321, by="ann", reason="seen", now=NOW)
    done = apply(made.work(approved(made.store, decided)))
    account = Ledger(made.store).account(name)
    assert account.balance == 4_321
    booked = account.transactions[f"{done.run}:{name}"]
    assert booked.content.business_code == "recovery.adjustment"
    assert {row[0]: row[1] for row in contents(made.live)}[name] == 4_321
    assert done.results["adjusted"] == 1
    resume(made.work(decided))
    assert Ledger(made.store).account(name).version == account.version


def test_what_a_person_decided_is_booked_once_where_the_step_is_done_again(made):
    """A run that failed after the booking books nothing more, and says it once."""
    plan = planned(made.store, made.table)
    name = next(each.account_id for each in plan.undecided() if each.cause == "foreign_write")
    decided = decide(plan, account_ids=[name], action="adjust", balance=4_321, by="ann", reason="seen", now=NOW)
    work, done = made.work(approved(made.store, decided)), Work.done

    def fail(self: Work, step: str, *rest: Any) -> None:
        if step == "settle":
            raise OSError("no more")
        done(self, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "done", fail)
        with pytest.raises(StoreError, match="no more"):
            apply(work)
    version = Ledger(made.store).account(name).version
    finished = resume(made.work(decided))
    assert Ledger(made.store).account(name).version == version
    with made.store.snapshot() as connection:
        booked = audit.entries(connection, run=finished.run, actions=["account.adjusted"])
    assert [each.account_id for each in booked] == [name]
    assert booked[0].details["before"] + booked[0].details["points"] == 4_321
    assert finished.results["adjusted"] == 1


def test_an_account_that_the_log_cannot_vouch_for_waits_or_is_accepted(made):
    """Parked, its row stays as it is whatever happens; accepted by a person, it is no hindrance to the end."""
    lost = _of(planned(made.store, made.table), field="balance", basis="log")
    lose_event(made.store, lost, 3)
    before = {row[0]: row for row in contents(made.live)}[lost]
    done = apply(made.work(_accepted(made)))
    assert done.results["outcomes"]["accepted"] == 1
    assert done.status == "completed"
    assert before in contents(made.live)


def test_an_unbroken_run_aborted_after_it_needs_a_person_puts_everything_back(made):
    """Live is what it was; the events that were appended stay and are listed."""
    plan, before = made.plan(), contents(made.live)
    assert apply(made.work(plan)).status == "manual_intervention_required"
    assert contents(made.live) != before
    given_up = abort(made.work(plan), reason="not now")
    assert contents(made.live) == before
    assert given_up.not_restored == []
    assert given_up.events["transaction.settled"] == len(plan.settle)
    assert {each.account_id for each in given_up.stay} >= {each.account_id for each in plan.unlock}
    with pytest.raises(RefusedError):
        resume(made.work(plan))


def test_our_own_read_model_is_rebuilt_and_made_live(store, tmp_path):
    """All rows are right at once in a new generation; the one before stays, and abort makes it live again."""
    history(store, 40)
    project(store)
    change_row(store, "a00001", balance=1)
    change_row(store, "a00002", frozen=0)
    target = OwnReadModel(store)
    before = target.generation()
    plan = approved(store, planned(store, None))
    done = apply(work_on(store, plan, target, tmp_path))
    assert done.status == "completed"
    assert drift(store, live="read_model").verdict == "EQUAL"
    assert target.generation() != before
    assert done.results["outcomes"]["corrected"] == len({each.account_id for each in plan.changes}) >= 2


def test_an_own_read_model_that_cannot_go_live_changes_nothing(store, tmp_path):
    """Where the log is damaged the rebuild is INCOMPLETE: the live generation stays, and a person is needed."""
    history(store, 40)
    project(store)
    change_row(store, "a00001", balance=1)
    lose_head(store, "a00003")
    target = OwnReadModel(store)
    before = target.generation()
    plan = approved(store, planned(store, None))
    done = apply(work_on(store, plan, target, tmp_path))
    assert done.status == "manual_intervention_required"
    assert target.generation() == before
    assert done.results["outcomes"]["failed"]
    assert not done.results["outcomes"]["corrected"]
    assert abort(work_on(store, plan, target, tmp_path), reason="later").generation is None


def test_our_own_read_model_waits_whole_where_one_account_waits(store, tmp_path):
    """All rows go live at once: none does while one holds more than the log explains, or is not in the plan."""
    history(store, 40)
    project(store)
    change_row(store, "a00001", balance=1)
    change_row(store, "a00002", frozen=99)
    target = OwnReadModel(store)
    before = target.generation()
    whole, part = planned(store, None), planned(store, None, accounts=["a00001"])
    for plan in (whole, part):
        done = apply(work_on(store, approved(store, plan), target, tmp_path))
        assert done.status == "manual_intervention_required"
        assert done.results["outcomes"]["failed"]
        assert not done.results["outcomes"]["corrected"]
        assert target.generation() == before


@pytest.mark.parametrize("point", ["correct:begun", "batch:noted", "batch:written", "batch:done", "unlock:begun"])
def test_a_rebuild_that_failed_anywhere_is_resumed_to_the_same_end(store, tmp_path, point):
    """Before it goes live, after it, and with every account told already: each account is told once, and is right."""
    history(store, 40)
    project(store)
    change_row(store, "a00001", balance=1)
    target = OwnReadModel(store)
    plan = approved(store, planned(store, None))
    set_failpoints(_fail_at(point))
    try:
        with pytest.raises(StoreError):
            apply(work_on(store, plan, target, tmp_path))
    finally:
        set_failpoints(None)
    done = resume(work_on(store, plan, target, tmp_path))
    assert done.status == "completed"
    assert drift(store, live="read_model").verdict == "EQUAL"
    told = [entry[1] for entry in account_entries(store, done.run) if entry[0] == "account.corrected"]
    assert told == sorted({each.account_id for each in plan.changes})


def test_an_aborted_rebuild_leaves_the_generation_before_live(store, tmp_path):
    """What was live before is live again, as it was."""
    history(store, 40)
    project(store)
    change_row(store, "a00001", balance=1)
    target = OwnReadModel(store)
    before = target.generation()
    plan = approved(store, planned(store, None))
    set_failpoints(_fail_at("verify:begun"))
    try:
        with pytest.raises(StoreError, match="no more"):
            apply(work_on(store, plan, target, tmp_path))
    finally:
        set_failpoints(None)
    assert target.generation() != before
    assert abort(work_on(store, plan, target, tmp_path), reason="later").generation == before
    assert target.generation() == before


def test_imported_rows_are_corrected_in_the_ledgers_own_database(store, tmp_path):
    """The copy of a live table is a table like any other, and locks are opened in it, too."""
    history(store, 120)
    lines = ["account_id,balance,frozen_amount,status,locked_at"]
    for name, balance, frozen, status, locked_at in truth(store):
        lines.append(f"{name},{balance + 5 if name == 'a00020' else balance - 9},{frozen},{status},{locked_at or ''}")
    file = tmp_path / "accounts.csv"
    file.write_text("\n".join(lines))
    import_accounts(store, FileSource(file), now=NOW, rejects=tmp_path / "rejects.csv")
    table = LiveTable(url=store.url.render_as_string(False), table="imported_accounts", settle_seconds=0, looks_min=1)
    with closing(TableTarget(table)) as target:
        plan = approved(store, planned(store, table))
        assert plan.target.kind == "imported"
        done: Applied = apply(work_on(store, plan, target, tmp_path / "data"))
    assert done.results["outcomes"]["corrected"] == 119
    assert done.results["unlocked"] == len(plan.unlock) > 0
    found = drift(store, live="imported")
    assert {each.account_id for each in found.accounts} == {"a00020"}


def test_lost_events_come_back_from_the_copy_and_live_follows(made):
    """What the plan names comes back and nothing else; then its account is corrected like any other."""
    lost = _of(planned(made.store, made.table), field="balance", basis="log")
    copy = Healing("file events.jsonl", ListCopy(stream_of(made.store)))
    lose_event(made.store, lost, 3)
    lose_event(made.store, "a00003", 2)
    plan = approved(made.store, planned(made.store, made.table, heal=copy, accounts=[lost]))
    assert [(each.account_id, each.version) for each in plan.heal] == [(lost, 3)]
    with pytest.raises(RefusedError, match="not given"):
        apply(made.work(plan))
    done = apply(made.work(plan, around=Surroundings(healing=lambda: copy)))
    assert (done.status, done.results["healed"]) == ("completed", 1)
    assert made.outcomes(plan)[lost] == "corrected"
    rows = {row[0]: row for row in contents(made.live)}
    assert rows[lost] == truth(made.store, {lost})[0]
    assert positions(made.store, "a00003").keys() == {1, 3, 4, 5}


def test_an_account_whose_events_do_not_come_back_is_left(made):
    """The copy has lost them too by now: they are named, also one that is damaged, and the rows stay as they are."""
    lost = _of(planned(made.store, made.table), field="balance", basis="log")
    copy = Healing("file events.jsonl", ListCopy(stream_of(made.store)))
    lose_event(made.store, lost, 3)
    change_event(made.store, "a00003", 2, state=b"{}")
    plan = approved(made.store, planned(made.store, made.table, heal=copy))
    empty = Healing("file events.jsonl", ListCopy([]))
    before = {row[0]: row for row in contents(made.live)}[lost]
    done = apply(made.work(plan, around=Surroundings(healing=lambda: empty)))
    assert {each["account_id"] for each in done.steps["heal"]["missing"]} == {lost, "a00003"}
    assert done.results["healed"] == 0
    assert made.outcomes(plan)[lost] == "other_than_log"
    assert before in contents(made.live)
