"""The rules of the ledger, once, in plain Python: statuses, legal transitions, and what a change is worth.

The write model uses them directly. The columnar projections compute deltas on their own, from the same
definitions of state, so that each implementation is an oracle for the other.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LEGAL_TRANSITIONS", "Delta", "delta", "is_legal"]

#: (from status, to status) pairs that a transaction may go through; None is before it is recorded.
LEGAL_TRANSITIONS: frozenset[tuple[str | None, str]] = frozenset(
    {
        (None, "pending"),
        (None, "frozen"),
        (None, "completed"),
        ("pending", "frozen"),
        ("pending", "completed"),
        ("pending", "cancelled"),
        ("pending", "failed"),
        ("frozen", "completed"),
        ("frozen", "cancelled"),
    }
)


class Delta(NamedTuple):
    """What one event changes, in points."""

    balance: int
    frozen: int
    pending_credit: int
    pending_debit: int


def is_legal(from_status: str | None, to_status: str) -> bool:
    """Say whether a transaction may go from one status to the other."""
    return (from_status, to_status) in LEGAL_TRANSITIONS


def delta(type: str, amount: int, from_status: str | None, to_status: str) -> Delta:
    """Return what a change of status is worth: the state after it less the state before it.

    Balance counts completed credits less completed debits, frozen the amounts whose status is frozen whatever
    their type, pending_credit and pending_debit the amounts that are pending. An illegal change has its delta too.
    """
    before, after = _state(type, amount, from_status), _state(type, amount, to_status)
    return Delta(*(new - old for new, old in zip(after, before, strict=True)))


def _state(type: str, amount: int, status: str | None) -> Delta:
    is_credit = type == "credit"
    return Delta(
        balance=(amount if is_credit else -amount) if status == "completed" else 0,
        frozen=amount if status == "frozen" else 0,
        pending_credit=amount if status == "pending" and is_credit else 0,
        pending_debit=amount if status == "pending" and not is_credit else 0,
    )
