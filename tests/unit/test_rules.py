"""The rules as a table, written out by hand: every type, every pair of statuses."""

from __future__ import annotations

from itertools import product

import pytest

from ledger.rules import LEGAL_TRANSITIONS, delta, is_legal

STATUSES = ["pending", "frozen", "completed", "cancelled", "failed"]

#: From (row) to (column), in the order of STATUSES: + where the design allows the change.
TABLE = {
    None: "+++--",
    "pending": "-++++",
    "frozen": "--++-",
    "completed": "-----",
    "cancelled": "-----",
    "failed": "-----",
}

#: balance, frozen, pending_credit, pending_debit that 7 points of a status stand for.
WORTH = {
    ("credit", "pending"): (0, 0, 7, 0),
    ("credit", "frozen"): (0, 7, 0, 0),
    ("credit", "completed"): (7, 0, 0, 0),
    ("debit", "pending"): (0, 0, 0, 7),
    ("debit", "frozen"): (0, 7, 0, 0),
    ("debit", "completed"): (-7, 0, 0, 0),
}


@pytest.mark.parametrize(("from_status", "to_status"), [*product(TABLE, STATUSES)])
def test_a_change_is_legal_where_the_table_says(from_status, to_status):
    """Each of the thirty pairs of statuses is legal or not as the design has it."""
    assert is_legal(from_status, to_status) is (TABLE[from_status][STATUSES.index(to_status)] == "+")


def test_there_are_nine_legal_changes():
    """No pair beyond the table is legal, not even with a status that is none."""
    assert len(LEGAL_TRANSITIONS) == 9
    assert not is_legal("pending", "open")


@pytest.mark.parametrize(("type", "from_status", "to_status"), [*product(["credit", "debit"], TABLE, STATUSES)])
def test_a_change_is_worth_what_the_statuses_stand_for(type, from_status, to_status):
    """Each change, legal or not, moves the sums from what the old status stands for to what the new one does."""
    nothing = (0, 0, 0, 0)
    before, after = WORTH.get((type, from_status), nothing), WORTH.get((type, to_status), nothing)
    assert delta(type, 7, from_status, to_status) == tuple(new - old for new, old in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("credit", 5, None, "completed"), (5, 0, 0, 0)),
        (("debit", 5, None, "completed"), (-5, 0, 0, 0)),
        (("debit", 5, None, "frozen"), (0, 5, 0, 0)),
        (("debit", 5, "frozen", "completed"), (-5, -5, 0, 0)),
        (("debit", 5, "frozen", "cancelled"), (0, -5, 0, 0)),
        (("credit", 5, "pending", "completed"), (5, 0, -5, 0)),
        (("debit", 5, "pending", "frozen"), (0, 5, 0, -5)),
        (("credit", 5, "completed", "cancelled"), (-5, 0, 0, 0)),
        (("debit", 5, "completed", "completed"), (0, 0, 0, 0)),
        (("credit", 2**63 - 1, None, "completed"), (2**63 - 1, 0, 0, 0)),
    ],
)
def test_known_changes_have_their_known_worth(change, expected):
    """A few changes, written out, so that the table above is itself held to something."""
    assert delta(*change) == expected
