"""The report of a recovery: its numbers add up, everything that needs a person is in it, and no id breaks a page."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from planned import change, whole_plan

from console.reports.page import page
from console.reports.plain import plain
from console.reports.recovery import Reported, numbers_of, recovery_report
from console.reports.recovery_sections import ACCOUNTS_SHOWN_MAX, PERSON_SHOWN_MAX, by_class
from console.reports.writing import write_report
from ledger.audit import Head, Recorded
from ledger.recovery_run import STEPS, RecoveryRun
from replay.recovery.plan import Left, Plan, run_of
from replay.recovery.targets import row_text

AT = datetime(2024, 3, 1, 12, tzinfo=UTC)
HOSTILE = "</td></style></title><script>alert('1')</script>{{ 7*7 }}\u202e\x1b[2J\n"


class Words(HTMLParser):
    """The words of a page, and whether it has a tag that a report never has."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(html.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def entry(action: str, account_id: str | None = None, **details: Any) -> Recorded:
    """An entry of the audit trail."""
    return Recorded(
        number=1, at=AT, by="op", action=action, run="r", account_id=account_id, details=details, previous="", hash=""
    )


def outcome(name: str, account_id: str, *changes: dict[str, Any], **details: Any) -> Recorded:
    """The entry of an account that a run is done with."""
    return entry(f"account.{name}", account_id, changes=list(changes), **details)


def run_of_plan(plan: Plan, **steps: dict[str, Any]) -> RecoveryRun:
    """A run of a plan that has done some steps."""
    recovery = RecoveryRun.planned(run_of(plan))
    recovery.approve(plan_hash=plan.hash, by="eve", reason="seen", at=AT, expires_at=AT + timedelta(days=1))
    recovery.start(by="op", at=AT)
    for name in STEPS[: STEPS.index("report")]:
        recovery.complete_step(name, steps.get(name, {}), AT)
    return recovery


def reported(plan: Plan, *entries: Recorded, status: str = "completed", reason: str = "", **steps: Any) -> Reported:
    """What a report of a run is made of."""
    return Reported(
        plan=plan,
        recovery=run_of_plan(plan, **steps),
        status=status,
        reason=reason,
        made_at=AT,
        entries=entries,
        head=Head(7, "ab"),
        versions={"ledger-replay": "1"},
    )


def document(done: Reported, folder: Path) -> dict[str, Any]:
    """The report in JSON, as it is written."""
    write_report(recovery_report(done), [folder / "report.json"])
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_numbers_are_what_the_entries_add_up_to() -> None:
    """Outcomes, points with rows that were made and taken away, and each kind of event are counted."""
    made = row_text({"balance": 40, "frozen": 5, "status": "active", "locked_at": None})
    found = numbers_of(
        [
            outcome("corrected", "a", {"field": "balance", "from": 10, "to": 25}),
            outcome(
                "corrected", "b", {"field": "balance", "from": 30, "to": 26}, {"field": "frozen", "from": 1, "to": 0}
            ),
            outcome("corrected", "c", {"field": "row", "from": None, "to": made}),
            outcome("waiting", "d", {"field": "balance", "from": 1, "to": None}, reason="who knows"),
            entry("event.healed", "a"),
            entry("event.healed", "a"),
            entry("transaction.settled", "a"),
            entry("account.unlocked", "b"),
            entry("correcting", None, accounts=["a"]),
        ]
    )
    assert found["balance"] == {"before": 40, "after": 91, "added": 55, "taken": 4}
    assert found["frozen"] == {"before": 1, "after": 5, "added": 5, "taken": 1}
    assert (found["accounts"], found["success_rate"]) == (4, 0.75)
    assert (found["outcomes"]["corrected"], found["outcomes"]["waiting"]) == (3, 1)
    assert (found["healed"], found["settled"], found["unlocked"], found["restored"]) == (2, 1, 1, 0)


def test_classes_count_accounts_and_points() -> None:
    """Of what waits for a person the points are those that the log says, of a damaged log nobody knows any."""
    plan = whole_plan(
        changes=[
            change(account_id="a", from_=10, to=25, log=25),
            change(account_id="a", field="frozen", from_=1, to=0, log=0),
            change(account_id="b", from_=30, to=None, log=26, basis="unknown", cause="foreign_write"),
            change(account_id="c", from_=9, to=None, log=None, basis="unknown", cause="log_damaged"),
        ]
    )
    assert by_class(plan) == [
        {"class": "foreign_write", "accounts": 1, "changes": 1, "points_up": 0, "points_down": 4},
        {"class": "log_damaged", "accounts": 1, "changes": 1, "points_up": 0, "points_down": 0},
        {"class": "missed_event", "accounts": 1, "changes": 2, "points_up": 15, "points_down": 0},
    ]


def test_everything_that_needs_a_person_is_told(tmp_path: Path) -> None:
    """Accounts that are not done, what was refused, what did not come back, what still differs, what the plan left."""
    plan = whole_plan(
        changes=[change(account_id=name) for name in "abc"],
        left=[Left(kind="parked", account_id="b", reason="gap"), Left(kind="locked", account_id="l", reason="when?")],
    )
    done = reported(
        plan,
        outcome("corrected", "a"),
        outcome("waiting", "b", reason="it waits"),
        outcome("failed", "c", reason="the table says no"),
        entry("transaction.not_settled", "d", transaction_id="t-1", reason="illegal"),
        entry("account.not_unlocked", "e", reason="not equal"),
        entry("account.unlocked", "g"),
        entry("row.not_unlocked", "g", reason="the table does not take it"),
        heal={"missing": [{"account_id": "f", "version": 3, "why": "hole"}]},
        verify={"drifted": ["a", "c"]},
        status="manual_intervention_required",
        reason="2 accounts",
    )
    found = document(done, tmp_path)["needs_person"]
    assert [(each["kind"], each["account_id"]) for each in found] == [
        ("waiting", "b"),
        ("failed", "c"),
        ("not_settled", "d"),
        ("not_unlocked", "e"),
        ("not_unlocked", "g"),
        ("not_healed", "f"),
        ("differs", "a"),
        ("locked", "l"),
    ]
    text = plain(recovery_report(done)).decode()
    for words in ("the table says no", "transaction_id: t-1", "when?", "left for a person:     8"):
        assert words in text


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("completed", "COMPLETE"),
        ("manual_intervention_required", "FINDINGS"),
        ("aborted", "FINDINGS"),
        ("running", "INCOMPLETE"),
        ("failed", "INCOMPLETE"),
    ],
)
def test_the_verdict_is_that_of_the_run(status: str, verdict: str) -> None:
    """A run that is not over has a report that says so."""
    found = recovery_report(reported(whole_plan(changes=[change()]), outcome("corrected", "a"), status=status))
    assert (found.verdict, found.headline.startswith(status.replace("_", " "))) == (verdict, True)
    assert any("how far" in note for note in found.notes) == (verdict == "INCOMPLETE")


def test_a_run_that_never_began_has_a_report_too() -> None:
    """Without a step, an entry or an approval every section says so, in each form."""
    plan = whole_plan(changes=[], heal=[], settle=[], unlock=[], left=[])
    done = reported(plan, status="manual_intervention_required", reason="critical")
    found = recovery_report(replace(done, recovery=RecoveryRun.planned(run_of(plan))))
    text = plain(found).decode()
    for words in ("Live was what the log says.", "No account was dealt with.", "None is done yet.", "Nothing."):
        assert words in text
    assert page(found)


def test_a_hostile_id_is_only_words() -> None:
    """What somebody chose as an id or wrote as a reason is shown, and does nothing."""
    plan = whole_plan(changes=[change(account_id=HOSTILE, reason=HOSTILE, cause="foreign_write")])
    report = recovery_report(reported(plan, outcome("failed", HOSTILE, reason=HOSTILE), reason=HOSTILE))
    found = Words(page(report))
    assert "script" not in found.tags
    assert any("<script>alert('1')</script>" in words for words in found.words)
    assert not any("\x1b" in words or "\u202e" in words for words in found.words)
    assert b"\x1b" not in plain(report)


def test_a_long_report_leaves_rows_out_of_the_page_alone(tmp_path: Path) -> None:
    """The page says how many more there are, and the JSON report has all."""
    names = [f"a{number:05}" for number in range(ACCOUNTS_SHOWN_MAX + 30)]
    plan = whole_plan(changes=[change(account_id=name) for name in names], left=[])
    done = reported(plan, *(outcome("failed", name, reason="no") for name in names))
    found = document(done, tmp_path)
    assert (len(found["accounts"]), len(found["needs_person"])) == (len(names), len(names))
    text = plain(recovery_report(done)).decode()
    assert f"... and {len(names) - ACCOUNTS_SHOWN_MAX} more changes: the report in JSON has all" in text
    assert f"... and {len(names) - PERSON_SHOWN_MAX} more entries: the report in JSON has all" in text
    assert names[-1] not in text


def test_charts_have_the_numbers_of_their_tables() -> None:
    """Classes and outcomes are charts, whose numbers stand in the tables too."""
    plan = whole_plan(
        changes=[change(account_id="a"), change(account_id="b", cause="row_missing", field="row", from_=None)]
    )
    report = recovery_report(reported(plan, outcome("corrected", "a"), outcome("waiting", "b")))
    charts = {each.title: each.chart for each in report.sections if each.chart is not None}
    assert {name: list(chart.rows) for name, chart in charts.items()} == {  # type: ignore[union-attr]
        "What was wrong": [("missed_event", 1), ("row_missing", 1)],
        "What was done": [("corrected", 1), ("waiting", 1)],
    }
