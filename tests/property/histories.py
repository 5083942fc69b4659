"""Random histories of a few accounts, legal or with every kind of contradiction, as event structs in stream order.

Versions of each account are whole and in order, since that is what the sequence gate lets through.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from ledger.rules import is_legal
from schemas import (
    AMOUNT_MAX,
    AccountClosed,
    AccountLocked,
    AccountOpened,
    AccountUnlocked,
    Event,
    TransactionRecorded,
    TransactionStatusChanged,
    event_id,
)

START = datetime(2024, 3, 1, tzinfo=UTC)
NOW = START + timedelta(days=3)
STATUSES = ("pending", "frozen", "completed", "cancelled", "failed")
ACCOUNTS = ("a", "b", "ключ ä")
ACCOUNT_EVENTS: dict[str, type[Event]] = {
    "open": AccountOpened,
    "lock": AccountLocked,
    "unlock": AccountUnlocked,
    "close": AccountClosed,
}
#: Few small amounts, so that sums come to nothing now and then, and amounts of which two are past int64.
AMOUNTS = st.one_of(st.integers(1, 3), st.integers(1, 100), st.sampled_from([AMOUNT_MAX, AMOUNT_MAX - 1, 2**62]))

STEPS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([*["record", "change"] * 4, "repeat", *ACCOUNT_EVENTS]),
        "account": st.sampled_from(ACCOUNTS),
        "transaction": st.integers(0, 5),
        "type": st.sampled_from(["credit", "debit"]),
        "amount": AMOUNTS,
        "to_status": st.sampled_from(STATUSES),
        "from_status": st.sampled_from([None, *STATUSES]),
        "is_honest": st.booleans(),
        "minutes": st.integers(0, 5 * 24 * 60),
        "related": st.one_of(st.none(), st.tuples(st.sampled_from(ACCOUNTS), st.integers(0, 6))),
        "order_id": st.sampled_from([None, "o1", ""]),
    }
)


def examples(count: int) -> settings:
    """Settings for about `count` examples in the sampled profile, and as many times more as the full one has."""
    return settings(max_examples=max(1, count * settings().max_examples // 100), deadline=None)


def legal_histories(steps_max: int = 30) -> st.SearchStrategy[list[Event]]:
    """Histories in which every event follows from the ones before it."""
    return _steps(steps_max).map(lambda steps: History(is_legal=True).take(steps))


def wild_histories(steps_max: int = 30) -> st.SearchStrategy[list[Event]]:
    """Histories that may hold duplicates, orphans, impossible changes and times that go back."""
    return _steps(steps_max).map(lambda steps: History(is_legal=False).take(steps))


def histories(steps_max: int = 30) -> st.SearchStrategy[list[Event]]:
    """Legal or wild ones."""
    return st.one_of(legal_histories(steps_max), wild_histories(steps_max))


def _steps(steps_max: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    # The number is drawn first, since a list left to itself is mostly short, and contradictions need some length.
    return st.integers(0, steps_max).flatmap(lambda count: st.lists(STEPS, min_size=count, max_size=count))


class History:
    """Turns drawn steps into events; a legal one leaves out steps that would break a rule."""

    def __init__(self, *, is_legal: bool) -> None:
        self.is_legal = is_legal
        self.versions: dict[str, int] = {}
        self.transactions: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[Event] = []

    def take(self, steps: list[dict[str, Any]]) -> list[Event]:
        """Return the events of all steps that this history can take."""
        for step in steps:
            if step["kind"] in ACCOUNT_EVENTS:
                self._append(ACCOUNT_EVENTS[step["kind"]], step["account"], self._moment(step), {})
            else:
                self._transaction(step)
        return self.events

    def _transaction(self, step: dict[str, Any]) -> None:
        name = self._name(step["account"], step["transaction"])
        key = (step["account"], name)
        known = self.transactions.get(key)
        if step["kind"] == "repeat":
            if known and known["recorded"] and not self.is_legal:
                self._append(TransactionRecorded, step["account"], *known["recorded"])
                known["to_status"] = known["recorded"][1]["to_status"]
            return
        is_record = step["kind"] == "record"
        actual = known["to_status"] if known else None
        from_status = None if is_record else actual if step["is_honest"] else step["from_status"]
        moment = self._moment(step)
        if self.is_legal:
            from_status = actual
            if is_record is (known is not None) or not is_legal(from_status, step["to_status"]):
                return
            moment = max(moment, known["effective_at"]) if known else moment
        content = known["content"] if known and step["is_honest"] | self.is_legal else self._content(step)
        fields = {**content, "transaction_id": name, "from_status": from_status, "to_status": step["to_status"]}
        recorded = (moment, fields) if is_record else known and known["recorded"]
        self.transactions[key] = {
            "to_status": step["to_status"],
            "content": content,
            "effective_at": moment,
            "recorded": recorded,
        }
        self._append(TransactionRecorded if is_record else TransactionStatusChanged, step["account"], moment, fields)

    def _content(self, step: dict[str, Any]) -> dict[str, Any]:
        related = self._name(*step["related"]) if step["related"] else None
        content = {name: step[name] for name in ("type", "amount", "order_id")}
        return {**content, "related_transaction_id": related}

    def _name(self, account_id: str, number: int) -> str:
        # Accounts of a wild history share some ids, so that one id is found in two accounts.
        return f"t{number}" if number < 2 and not self.is_legal else f"{account_id}-t{number}"

    def _moment(self, step: dict[str, Any]) -> datetime:
        return START + timedelta(minutes=step["minutes"])

    def _append(self, cls: type[Event], account_id: str, moment: datetime, fields: dict[str, Any]) -> None:
        version = self.versions[account_id] = self.versions.get(account_id, 0) + 1
        key = {"event_id": event_id(account_id, version), "account_id": account_id, "version": version}
        self.events.append(cls(**key, effective_at=moment, recorded_at=NOW, **fields))
