"""The demo: a points system, its disaster, and every damage found by the commands that anybody would use.

It takes the commands' own functions through the story, compares what they report with what was planted, and fails
where something was missed or something else was reported. So it is a test as much as a show.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from console import (
    commands_accounts,
    commands_ask,
    commands_check,
    commands_data,
    commands_drift,
    commands_import,
    commands_reconcile,
    commands_replay,
)
from console.answer import Answer
from console.damage import (
    Damage,
    Victims,
    damage_accounts,
    damage_orders,
    damage_read_model,
    damage_store,
    damage_transactions,
)
from console.demo_recovery import recover
from console.demo_stage import Say, Stage
from console.generate import generate

__all__ = ["Demo", "play"]


@dataclass(frozen=True)
class Demo:
    """What the demo planted and found, in which folder, the lines that it told, and the reports of its recovery."""

    folder: Path
    planted: list[Damage]
    found: list[Damage]
    wrong: list[str]
    lines: list[str]
    reports: list[str]

    @property
    def missed(self) -> list[Damage]:
        """What was planted and not found."""
        found = {each.key for each in self.found}
        return [each for each in self.planted if each.key not in found]

    @property
    def unexpected(self) -> list[Damage]:
        """What was reported and never planted."""
        planted = {each.key for each in self.planted}
        return [each for each in self.found if each.key not in planted]


def play(*, folder: Path, accounts: int, events: int, seed: int, now: datetime, say: Say) -> Demo:
    """Play the whole story in an empty folder and return what was planted and what was found."""
    stage = Stage(folder, now, say)
    files = folder / "files"
    victims = _disaster(stage, files, accounts=accounts, events=events, seed=seed)
    _bring_in(stage, files)
    _check_log(stage)
    _check_live(stage)
    _check_locks(stage)
    _check_orders(stage)
    _check_own_rows(stage, victims)
    before = _truth(stage)
    exported = _export(stage)
    _damage_log(stage, victims, before)
    _bring_back(stage, exported, before)
    reports = recover(stage, exported)
    return Demo(folder, stage.planted, stage.found, stage.wrong, stage.lines, reports)


def _disaster(stage: Stage, files: Path, *, accounts: int, events: int, seed: int) -> Victims:
    made = generate(accounts=accounts, events=events, seed=seed, folder=files, now=stage.now)
    stage.tell("# A points system after its disaster")
    stage.tell()
    stage.tell(f"{made.transactions:,} transactions of {made.accounts:,} accounts, seed {seed}. Then it went wrong:")
    rows = pl.read_csv(files / "transactions.csv")
    victims = Victims.among(rows)
    stage.plant(damage_accounts(files / "accounts.csv", rows, victims, stage.now))
    stage.plant(damage_orders(files / "orders.csv", victims))
    stage.plant(damage_transactions(files / "transactions.csv", victims, stage.now))
    stage.tell("some transactions cannot be right, some rows cannot be read, and the live balances are not what the")
    stage.tell("transactions say. What was damaged is written down, and no command gets to see it.")
    return victims


def _bring_in(stage: Stage, files: Path) -> None:
    stage.chapter("Import: good rows become events, bad ones are named")
    stage.command(f"import transactions {files / 'transactions.csv'}")
    answer = commands_import.import_transactions(stage.run(), file=str(files / "transactions.csv"))
    stage.show(answer)
    stage.see("import transactions", _rejected(answer))
    again = commands_import.import_transactions(stage.run(), file=str(files / "transactions.csv"))
    stage.claim(again.fields["imported"] == 0, "importing the same file again changes nothing")
    stage.command(f"import accounts {files / 'accounts.csv'}")
    stage.show(commands_import.import_accounts(stage.run(), file=str(files / "accounts.csv")))
    stage.command(f"import orders {files / 'orders.csv'}")
    stage.show(commands_import.import_orders(stage.run(), file=str(files / "orders.csv")))


def _rejected(answer: Answer) -> list[Damage]:
    if answer.fields["rejects"] is None:
        return []
    rows = pl.read_csv(answer.fields["rejects"], infer_schema=False)
    return [
        Damage("import transactions", f"line {line}", "rejected", reason)
        for line, reason in rows.select("line", "reason").iter_rows()
    ]


def _check_log(stage: Stage) -> None:
    stage.chapter("Verify: which transactions do not add up")
    stage.command("verify")
    answer = commands_check.verify(stage.run())
    stage.show(answer)
    found = [
        Damage("verify", f"{each['account_id']} {each['transaction_id']}", each["code"], _evidence(each))
        for each in answer.fields["findings"]
    ]
    stage.see("verify", found)


def _evidence(finding: dict[str, Any]) -> str:
    if finding["code"] == "negative_balance":
        return f"the balance after it is {finding['actual']:,}"
    details = finding["details"]
    return str(details.get("related_transaction_id") or details.get("created_at") or finding["actual"])


def _check_live(stage: Stage) -> None:
    stage.chapter("Drift: which live rows are wrong, by how much, and why")
    stage.command("drift --explain")
    answer = commands_drift.drift(stage.run(), explain=True)
    stage.show(answer)
    stage.see("drift", _drifted("drift", answer))


def _check_locks(stage: Stage) -> None:
    stage.chapter("Locks: who has been locked for too long, and what keeps it so")
    stage.command("accounts check")
    answer = commands_accounts.check(stage.run())
    stage.show(answer)
    rows = answer.fields["results"].select("account_id", "action", "reason").iter_rows()
    stage.see("accounts check", [Damage("accounts check", *row) for row in rows])


def _check_orders(stage: Stage) -> None:
    stage.chapter("Reconcile: which orders and payments do not agree")
    stage.command("reconcile")
    answer = commands_reconcile.reconcile(stage.run())
    stage.show(answer)
    rows = _rows(answer).select("order_id", "code", "evidence").iter_rows()
    stage.see("reconcile", [Damage("reconcile", *row) for row in rows])


def _check_own_rows(stage: Stage, victims: Victims) -> None:
    stage.chapter("Rebuild: every balance from the first event, as our own read model")
    stage.command("rebuild --promote")
    with stage.unsaid():
        rebuilt = commands_replay.rebuild(stage.run(), promote=True, yes=True)
    stage.show(rebuilt)
    stage.claim(rebuilt.fields["promoted"] is True, "it is COMPLETE, so it was promoted")
    clean = commands_drift.drift(stage.run(), own=True)
    stage.claim(clean.verdict == "EQUAL", "compared with the events again, not one row differs")
    stage.tell("Now somebody changes one of its rows by hand.")
    with stage.run().ledger() as store:
        stage.plant(damage_read_model(store, victims))
    stage.command("drift --own")
    stage.see("drift --own", _drifted("drift --own", commands_drift.drift(stage.run(), own=True)))
    stage.command("rebuild --promote")
    with stage.unsaid():
        commands_replay.rebuild(stage.run(), promote=True, yes=True)
    mended = commands_drift.drift(stage.run(), own=True)
    stage.claim(mended.verdict == "EQUAL", "a rebuild puts it right")


def _drifted(check: str, answer: Answer) -> list[Damage]:
    return [
        Damage(check, f"{each.account_id} {each.field}", each.cause, each.evidence)
        for each in answer.fields["accounts"]
    ]


def _truth(stage: Stage) -> Answer:
    return commands_ask.balances(stage.run())


def _rows(answer: Answer) -> pl.DataFrame:
    return pl.DataFrame() if answer.table is None else answer.table


def _export(stage: Stage) -> Path:
    stage.chapter("Export: the events themselves, as a file")
    file = stage.folder / "files" / "events.jsonl"
    stage.command(f"export events {file}")
    stage.show(commands_data.export_events(stage.run(), file=str(file)))
    return file


def _damage_log(stage: Stage, victims: Victims, before: Answer) -> None:
    stage.chapter("The worst: the event store itself is damaged")
    stage.tell("One event is lost from the middle of a stream, one from the end, one whole stream, and one bit flips.")
    with stage.run().ledger() as store:
        stage.plant(damage_store(store, victims))
    stage.command("rebuild --promote")
    with stage.unsaid():
        answer = commands_replay.rebuild(stage.run(), promote=True, yes=True)
    parked = answer.fields["certificate"].parked
    stage.see("rebuild", [Damage("rebuild", each.account_id, each.reason, each.details) for each in parked])
    stage.claim(answer.verdict == "INCOMPLETE" and not answer.fields["promoted"], "it is INCOMPLETE, so not promoted")
    lost = [each.account_id for each in parked]
    served, known = _rows(_truth(stage)), _rows(before)
    others = known.filter(~pl.col("account_id").is_in(lost))
    stage.claim(served.equals(others), f"the other {served.height:,} accounts are served, each exactly as before")


def _bring_back(stage: Stage, exported: Path, before: Answer) -> None:
    stage.chapter("Back again: a new ledger from the exported events")
    folder = stage.folder / "restored"
    stage.command(f"--data {folder} import events {exported}")
    stage.show(commands_import.import_events(stage.run(folder), file=str(exported)))
    stage.command(f"--data {folder} rebuild --promote")
    with stage.unsaid():
        answer = commands_replay.rebuild(stage.run(folder), promote=True, yes=True)
    stage.show(answer)
    same = answer.fields["certificate"].digest == before.fields["certificate"].digest
    stage.claim(same and answer.verdict == "COMPLETE", "its digest is the one from before the damage")
