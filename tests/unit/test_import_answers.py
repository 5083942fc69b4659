"""What an import from the topic says to people, and what it leaves to machines."""

from __future__ import annotations

import msgspec
import polars as pl

from console.import_answers import healed_answer
from console.render import document, text
from ledger.importing.healing import PLAN_SCHEMA, Healed, Record


def _plan(*rows: tuple[str, int, str]) -> pl.DataFrame:
    events = [
        (account, version, "transaction.recorded", None, 0, at, why) for at, (account, version, why) in enumerate(rows)
    ]
    return pl.DataFrame(events, schema=PLAN_SCHEMA, orient="row")


def test_the_plan_is_shown_by_account():
    """People see a row for each account, however many events it lost; the document has every event."""
    rows = [("b", version, "account") for version in range(1, 5_001)]
    plan = _plan(*rows, ("a", 2, "hole"), ("a", 7, "new"))
    answer = healed_answer(Healed(restored=5_001, imported=1, plan=plan), topic="t", dry_run=True)
    lines = [line.split() for line in text(answer).splitlines()]
    assert ["account_id", "first_version", "last_version", "events", "why"] in lines
    assert lines.index(["a", "2", "7", "2", "hole,", "new"]) + 1 == lines.index(["b", "1", "5000", "5000", "account"])
    assert len(msgspec.json.decode(document(answer))["plan"]) == 5_002
    assert answer.table is plan


def test_each_finding_is_said_once():
    """What is no event says so once, and an account without its head has no place in the topic."""
    poison = Record("a", None, 0, 1_234, "no event: JSON is malformed")
    head = Record("b", 5, None, None, "account 'b' has lost its head")
    found = Healed(poison=[poison], poison_count=1, unproved=[head], unproved_count=1)
    notes = healed_answer(found, topic="t", dry_run=False).notes
    assert "not taken: partition 0, offset 1,234 (a version unknown): no event: JSON is malformed" in notes
    assert "not taken, since nothing proves it: (b version 5): account 'b' has lost its head" in notes
    assert any("a new ledger" in note for note in notes)
