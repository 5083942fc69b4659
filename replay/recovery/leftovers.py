"""What a plan leaves for a person, so that nothing goes away in silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec
import polars as pl

from replay.comparison.live_table import LiveTable
from replay.locks import REASON, Lock, Locks
from replay.recovery.basis import sentence
from replay.recovery.plan import Left, Unlock
from schemas import format_time

__all__ = ["Unreadable", "locks_left", "parked_left", "stale_left", "uncompared_left"]

_SETTLED_REASON = "locked for more than a day, and what was pending is settled by this plan"


class Unreadable:
    """Gathers the live rows that cannot be read, and hands them on."""

    def __init__(self, live: LiveTable | None, rejects: Callable[[pl.DataFrame], None] | None) -> None:
        self._key = None if live is None else live.mapping().source_name("account_id")
        self._rejects = rejects
        self._found: list[tuple[str, str]] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Take in rows (`REJECT_SCHEMA`)."""
        for reason, row in rows.select("reason", "row").iter_rows():
            account_id = msgspec.json.decode(row, type=dict).get(self._key)
            self._found.append(("" if account_id is None else str(account_id), f"{reason}: {row}"))
        if self._rejects is not None:
            self._rejects(rows)

    def left(self, unread: Iterable[str], *, is_narrowed: bool) -> list[Left]:
        """Return what is left of the accounts whose row is unread, and unless narrowed of rows of no known account."""
        named = dict(reversed(self._found))
        wanted = set(unread)
        left = [_left("unreadable", each, named.get(each, "its live row cannot be read")) for each in sorted(wanted)]
        rest = [] if is_narrowed else [each for each in self._found if each[0] not in wanted]
        return left + [_left("unreadable", account_id, reason) for account_id, reason in rest]


def parked_left(parked: Mapping[str, str]) -> list[Left]:
    """Return the accounts that the log cannot vouch for, given why."""
    return [_left("parked", each, f"the log cannot vouch for it: {reason}") for each, reason in parked.items()]


def uncompared_left(account_id: str, reason: str) -> Left:
    """Return what is left of an account whose live row could not be compared for certain."""
    return _left("uncompared", account_id, reason)


def stale_left(account_id: str, transaction_id: str, reason: str) -> Left:
    """Return what is left of a stale pending transaction that is not settled."""
    return _left("stale_pending", account_id, reason, [transaction_id])


def locks_left(
    locks: Locks, settled: Collection[tuple[str, str]], is_wanted: Callable[[str], bool]
) -> tuple[list[Unlock], list[Left]]:
    """Return the stuck locks to be undone once all is EQUAL, and those that a person has to look at.

    `settled` are the transactions (account and id) that the plan settles: what waited for these alone waits no more.
    """
    unlock, left = [], []
    for lock in (each for each in locks.found if is_wanted(each.account_id)):
        waits = any((lock.account_id, each) not in settled for each in lock.pending_transactions)
        if lock.action == "unlocked":
            unlock.append(_unlock(lock, REASON))
        elif lock.action == "manual_intervention_required" and not waits:
            unlock.append(_unlock(lock, _SETTLED_REASON))
        else:
            left.append(_left("locked", lock.account_id, lock.words, lock.pending_transactions))
    without = [each for each in locks.without_time if is_wanted(each)]
    return unlock, left + [
        _left("locked", each, "its live row is locked, and does not say since when") for each in without
    ]


def _unlock(lock: Lock, reason: str) -> Unlock:
    return Unlock(account_id=lock.account_id, locked_at=format_time(lock.locked_at), reason=reason)


def _left(kind: str, account_id: str, reason: str, transactions: Iterable[str] = ()) -> Left:
    return Left(kind=kind, account_id=account_id, reason=sentence(reason), transactions=list(transactions))
