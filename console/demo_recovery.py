"""The end of the demo: everything that it damaged is recovered, and the report of that is checked like any other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from console import commands_accounts, commands_audit, commands_drift, commands_recover, commands_replay
from console.answer import Answer

if TYPE_CHECKING:
    from console.demo_stage import Stage

__all__ = ["recover"]

PLANNER, APPROVER = "ada (who plans)", "eve (who approves)"


def recover(stage: Stage, exported: Path) -> list[str]:
    """Take the damaged ledger through a recovery, in place, and return the files of its report."""
    stage.chapter("Recovery: check, plan, decide, approve, apply")
    stage.tell("At three in the morning, in the damaged ledger itself. First: how bad is it?")
    stage.command("recover check")
    state = commands_recover.check(stage.run())
    stage.show(state)
    stage.claim(state.fields["severity"] == "major", "the store is not whole, and enough is left to go on with")
    plan = _planned(stage, exported)
    _decided(stage, plan)
    done = _applied(stage, plan)
    _verified(stage)
    return _reported(stage, done)


def _planned(stage: Stage, exported: Path) -> Path:
    plan = stage.folder / "plan.json"
    stage.command(f"recover plan --output {plan} --heal-from {exported} --settle cancel")
    run = stage.run(output=plan)
    answer = commands_recover.plan(run, heal_from=str(exported), settle="cancel", by=PLANNER)
    stage.show(answer)
    waiting = answer.fields["undecided"]
    stage.claim(waiting == 3, f"{waiting} accounts have more than the log explains: nothing lowers them unasked")
    return plan


def _decided(stage: Stage, plan: Path) -> None:
    stage.tell("What takes points from a live row waits: the log may have lost what live still knows.")
    stage.tell("Somebody looked, class by class: two rows were written by hand, and the third account never was.")
    undecided = None
    for class_, reason in (("foreign_write", "written by hand"), ("row_extra", "nobody ever opened it")):
        stage.command(f"recover decide {plan} --class {class_} --accept --reason '{reason}'")
        with stage.unsaid():
            answer = commands_recover.decide(stage.run(), plan, class_=class_, accept=True, reason=reason, by=PLANNER)
        undecided = answer.fields["undecided"]
    stage.claim(undecided == 0, "every decision is in the plan, with a name and a reason")
    stage.command(f"recover approve {plan} --reason 'looked at every change' --by '{APPROVER}'")
    with stage.unsaid():
        commands_recover.approve(stage.run(), plan, reason="looked at every change", by=APPROVER)


def _applied(stage: Stage, plan: Path) -> Answer:
    stage.command(f"recover apply {plan}")
    stage.show(commands_recover.apply(stage.run(), plan, by=PLANNER))
    stage.command(f"recover apply {plan} --execute")
    with stage.unsaid():
        done = commands_recover.apply(stage.run(), plan, execute=True, yes=True, by=PLANNER)
    stage.show(done)
    stage.claim(done.verdict == "COMPLETE", "every account of the plan is done with")
    healed, unlocked = done.fields["healed"], done.fields["unlocked"]
    stage.claim(healed == done.fields["steps"]["heal"]["planned"], f"all {healed:,} lost and damaged events are back")
    stage.claim(unlocked == 2, f"{unlocked} accounts are unlocked, after what kept one of them was settled")
    return done


def _verified(stage: Stage) -> None:
    stage.command("drift")
    stage.claim(commands_drift.drift(stage.run()).verdict == "EQUAL", "not one live row differs from the log")
    stage.command("rebuild --promote")
    with stage.unsaid():
        rebuilt = commands_replay.rebuild(stage.run(), promote=True, yes=True)
    stage.claim(rebuilt.verdict == "COMPLETE", "the log is whole again: every account is certified")
    stage.command("accounts check")
    stage.claim(commands_accounts.check(stage.run()).verdict == "CLEAN", "nobody is locked without a reason")
    stage.command("recover status")
    stage.claim(commands_recover.status(stage.run()).verdict == "CLEAN", "writers are let through again")


def _reported(stage: Stage, done: Answer) -> list[str]:
    files: list[str] = done.fields["report"]
    orders: dict[str, Any] = done.fields["steps"]["reconcile"]
    wrong = orders["orders_with_a_break"]
    stage.tell(
        f"What is left: {wrong} orders that disagree with the ledger. `breaks` has them, for a person to decide."
    )
    stage.claim(wrong == 3, "they are those that were damaged, and no others")
    for file in files:
        stage.command(f"recover report verify {file}")
        answer = commands_recover.report(stage.run(), ["verify", file])
        stage.claim(answer.verdict == "CLEAN", f"{Path(file).suffix} is what the audit trail says it is")
    stage.command("audit verify")
    stage.claim(commands_audit.verify(stage.run()).verdict == "CLEAN", "and nobody has changed the trail")
    return files
